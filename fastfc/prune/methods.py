"""The pruning functions: scores become masks, masks become layers."""

import math

import numpy as np

from fastfc.layers import Linear, MaskedLinear
from fastfc.layers.arguments import flag
from fastfc.layers.masked import checked_mask
from fastfc.prune.masks import Units, keep_highest, n_of_m
from fastfc.prune.scores import checked, resolve
from fastfc.prune.tree import fraction, module_of, places, whole

__all__ = [
    "blocks", "custom_from_mask", "global_unstructured", "is_pruned", "l1_unstructured", "ln_structured", "n_m",
    "random_structured", "random_unstructured", "remove", "sparsity", "to_sparse",
]


def l1_unstructured(model, sparsity, *, layers=None):
    """Hide the weights of least magnitude of each layer.

    Parameters
    ----------
    model : Module
        Changed in place: each `Linear` in it becomes a `MaskedLinear` with the same parameters. It looks into
        `Sequential` and into modules that are not fastfc's own.
    sparsity : float in [0, 1)
        Share of each layer's weights that is hidden afterwards; what is hidden already stays hidden and counts.
    layers : sequence of str, optional
        Names of the layers to prune, such as ``["0", "2"]``; all by default.

    Returns
    -------
    Module
        `model`, or the `MaskedLinear` if `model` is itself a `Linear`.

    Raises
    ------
    TypeError
        If `model` is no Module or `sparsity` no number.
    ValueError
        If `sparsity` is outside [0, 1), a name is unknown, there is no layer to prune, or a score is NaN. The model is
        then as it was.

    Examples
    --------
    >>> import fastfc
    >>> from fastfc import prune
    >>> model = fastfc.Sequential(fastfc.Linear(64, 128, rng=0), fastfc.ReLU(), fastfc.Linear(128, 10, rng=1))
    >>> prune.l1_unstructured(model, 0.9, layers=["0"])
    Sequential(
      (0): MaskedLinear(in_features=64, out_features=128, bias=True, kept=819)
      (1): ReLU()
      (2): Linear(in_features=128, out_features=10, bias=True)
    )
    """
    return prune_units("l1_unstructured", model, sparsity, layers=layers)


def random_unstructured(model, sparsity, *, layers=None, rng=None):
    """Hide weights drawn at random; parameters, result and errors of `l1_unstructured`.

    Parameters
    ----------
    rng : numpy.random.Generator, int or None

    Examples
    --------
    >>> import fastfc
    >>> fastfc.prune.random_unstructured(fastfc.Linear(10, 10), 0.3, rng=0)
    MaskedLinear(in_features=10, out_features=10, bias=True, kept=70)
    """
    return prune_units("random_unstructured", model, sparsity, layers=layers, scores="random", rng=rng)


def global_unstructured(model, sparsity, *, scores="magnitude", layers=None, rng=None):
    """Hide the weights of lowest score of all layers together, so that some lose more than others.

    Parameters
    ----------
    model, sparsity, layers
        As for `l1_unstructured`; `sparsity` is the share of all weights of these layers.
    scores : {"magnitude", "gradient", "random"} or callable(layer) -> array
        ``|w|``; ``|w g|``, the first-order change of the loss [1]_, from the gradients of the last backward pass; or an
        array of the weight's shape (`Movement` makes such). What is low is hidden.

    Returns
    -------
    Module

    References
    ----------
    .. [1] P. Molchanov et al., ICLR 2017, arXiv:1611.06440

    Examples
    --------
    >>> import fastfc
    >>> model = fastfc.Sequential(fastfc.Linear(64, 128, rng=0), fastfc.ReLU(), fastfc.Linear(128, 10, rng=1))
    >>> round(fastfc.prune.sparsity(fastfc.prune.global_unstructured(model, 0.75)), 3)
    0.75
    """
    return prune_units("global_unstructured", model, sparsity, layers=layers, scores=scores, rng=rng, together=True)


def n_m(model, n, m, *, shared=1, scores="magnitude", layers=None, rng=None):
    """Keep the `n` best of each `m` weights that follow each other along the inputs (N:M sparsity).

    Parameters
    ----------
    model, layers
        As for `l1_unstructured`.
    n, m : int, 1 <= n <= m
        `m` divides each layer's in_features.
    shared : int >= 1
        So many outputs in a row make one choice together, by the sum of their scores (16: a panel of a kernel).
    scores
        As for `global_unstructured`.

    Returns
    -------
    Module

    Raises
    ------
    ValueError
        Also if `m` does not divide a layer's in_features, or `n` > `m`.

    Examples
    --------
    >>> import fastfc
    >>> layer = fastfc.prune.n_m(fastfc.Linear(8, 3, rng=0), 2, 4)
    >>> layer.mask.reshape(3, 2, 4).sum(axis=2)
    array([[2, 2],
           [2, 2],
           [2, 2]])
    """
    function = "n_m"
    n, m, shared = whole(function, "n", n), whole(function, "m", m), whole(function, "shared", shared)
    if n > m:
        raise ValueError(f"{function}(): n must be at most m = {m}, got {n}")
    found = places(function, model, layers)
    for place in found:
        if place.layer.in_features % m:
            raise ValueError(f"{function}(): m = {m} does not divide the {place.layer.in_features} in_features of "
                             f"layer {place.name}")
    score = resolve(function, scores, rng)
    masks = []
    for place in found:
        values = checked(function, place.name, place.layer, score(place.layer))
        lowest = np.where(np.isneginf(values), np.finfo(np.float64).min / (4 * shared), values)  # sums stay finite
        masks.append(n_of_m(lowest, n, m, shared))
    return put_masks(model, found, masks)


def blocks(model, sparsity, shape=(16, 1), *, scores="magnitude", together=False, layers=None, rng=None):
    """Hide whole blocks of weights, those whose mean score is lowest.

    Parameters
    ----------
    model, sparsity, layers
        As for `l1_unstructured`; `sparsity` is the share of the blocks.
    shape : (int, int)
        Outputs by inputs of a block, counted from the first of both; blocks at the far edges may be smaller.
    scores
        As for `global_unstructured`.
    together : bool
        Rank the blocks of all layers together instead of each layer's.

    Returns
    -------
    Module

    Examples
    --------
    >>> import fastfc
    >>> layer = fastfc.prune.blocks(fastfc.Linear(4, 32, rng=0), 0.5, (16, 1))
    >>> layer.mask[::16].sum(), layer.mask.sum()
    (np.int64(4), np.int64(64))
    """
    try:
        height, width = shape
    except (TypeError, ValueError):
        raise TypeError(f"blocks(): shape must be two integers, got {shape!r}") from None
    units = Units(whole("blocks", "shape[0]", height), whole("blocks", "shape[1]", width))
    return prune_units("blocks", model, sparsity, layers=layers, scores=scores, rng=rng, units=units, together=together)


def ln_structured(model, sparsity, *, norm=2, axis="outputs", together=False, layers=None):
    """Hide whole outputs (rows of W) or inputs (columns) of least norm; `shrink` then takes them out of the model.

    Parameters
    ----------
    model, layers
        As for `l1_unstructured`. By default all layers but the last one for outputs, all but the first one for inputs:
        those have the widths of the model itself.
    sparsity : float in [0, 1)
        Share of the outputs (inputs) that is hidden.
    norm : float > 0 or inf
        Outputs are compared by ``(Σ|w|ⁿ / number)^(1/n)``.
    axis : {"outputs", "inputs"}
    together : bool
        Rank those of all layers together.

    Returns
    -------
    Module

    Examples
    --------
    >>> import fastfc
    >>> model = fastfc.Sequential(fastfc.Linear(64, 128, rng=0), fastfc.ReLU(), fastfc.Linear(128, 10, rng=1))
    >>> fastfc.prune.shrink(fastfc.prune.ln_structured(model, 0.75))
    Sequential(
      (0): Linear(in_features=64, out_features=32, bias=True)
      (1): ReLU()
      (2): Linear(in_features=32, out_features=10, bias=True)
    )
    """
    if isinstance(norm, bool) or not isinstance(norm, (int, float)):
        raise TypeError(f"ln_structured(): norm must be a number > 0, got {type(norm).__name__}")
    if not norm > 0:
        raise ValueError(f"ln_structured(): norm must be > 0, got {norm}")
    largest = math.isinf(norm)

    def score(layer):
        return np.abs(layer.weight.data.astype(np.float64)) ** (1 if largest else norm)

    units = structured_units("ln_structured", axis, largest)
    layers = inner_layers("ln_structured", model, axis, layers)
    return prune_units("ln_structured", model, sparsity, layers=layers, scores=score, units=units, together=together)


def random_structured(model, sparsity, *, axis="outputs", layers=None, rng=None):
    """Hide whole outputs or inputs drawn at random; parameters, result and errors of `ln_structured`.

    Examples
    --------
    >>> import fastfc
    >>> layer = fastfc.prune.random_structured(fastfc.Linear(6, 4), 0.5, axis="inputs", layers=["Linear"], rng=0)
    >>> sorted(layer.mask.sum(axis=0))
    [np.int64(0), np.int64(0), np.int64(0), np.int64(4), np.int64(4), np.int64(4)]
    """
    units = structured_units("random_structured", axis, False)
    layers = inner_layers("random_structured", model, axis, layers)
    return prune_units("random_structured", model, sparsity, layers=layers, scores="random", rng=rng, units=units)


def custom_from_mask(model, mask):
    """Hide what a mask, or one mask for each of some layers, says.

    Parameters
    ----------
    model : Module
    mask : array_like of bool or of 0 and 1, or mapping from layer name to such
        True where a weight is kept, of the weight's shape. An array is for a `model` that is a single layer. What is
        hidden already stays hidden.

    Returns
    -------
    Module

    Raises
    ------
    TypeError, ValueError
        If a mask has another shape or values, or a name is unknown. The model is then as it was.

    Examples
    --------
    >>> import fastfc
    >>> fastfc.prune.custom_from_mask(fastfc.Linear(3, 2), [[1, 0, 0], [0, 1, 1]])
    MaskedLinear(in_features=3, out_features=2, bias=True, kept=3)
    """
    function = "custom_from_mask"
    if isinstance(model, (Linear, MaskedLinear)) and not hasattr(mask, "items"):
        mask = {type(model).__name__: mask}
    if not hasattr(mask, "items"):
        raise TypeError(f"{function}(): mask must be a mapping from names of layers to masks, "
                        f"got {type(mask).__name__}")
    found = places(function, model, list(mask))
    masks = []
    for place in found:
        try:
            array = checked_mask(place.layer, mask[place.name])
        except (TypeError, ValueError) as error:
            raise type(error)(f"{function}(): layer {place.name}: {error}") from None
        masks.append(array & place.layer.mask if isinstance(place.layer, MaskedLinear) else array)
    return put_masks(model, found, masks)


def is_pruned(model):
    """Whether `model` has a `MaskedLinear` that hides something.

    Examples
    --------
    >>> import fastfc
    >>> fastfc.prune.is_pruned(fastfc.Linear(3, 2)), fastfc.prune.is_pruned(fastfc.MaskedLinear(3, 2, sparsity=0.5))
    (False, True)
    """
    return any(type(module) is MaskedLinear and not module.mask.all()
               for module in module_of("is_pruned", model).modules())


def sparsity(model):
    """Share of the weights of `Linear`, `MaskedLinear` and `SparseLinear` layers that are hidden or not stored.

    Examples
    --------
    >>> import fastfc
    >>> fastfc.prune.sparsity(fastfc.SparseLinear(10, 10, sparsity=0.8))
    0.8
    """
    kept = total = 0
    for layer in module_of("sparsity", model).modules():
        if type(layer).__name__ in ("Linear", "MaskedLinear", "SparseLinear"):
            total += layer.in_features * layer.out_features
            kept += int(layer.mask.sum()) if isinstance(layer, MaskedLinear) else layer.weight.data.size
    return 1 - kept / total if total else 0.0


def remove(model, *, layers=None):
    """Make pruning permanent: each `MaskedLinear` becomes a `Linear` with zeros where the mask hid a weight.

    Parameters stay the same objects; nothing keeps further steps of an optimiser from filling the zeros again.

    Returns
    -------
    Module

    Raises
    ------
    ValueError
        If there is no `MaskedLinear`, or a name is unknown.

    Examples
    --------
    >>> import fastfc
    >>> fastfc.prune.remove(fastfc.prune.l1_unstructured(fastfc.Linear(4, 4), 0.5))
    Linear(in_features=4, out_features=4, bias=True)
    """
    return _replaced("remove", model, layers, MaskedLinear.to_linear)


def to_sparse(model, *, at_least=0.0, layers=None):
    """Turn `MaskedLinear` layers into `SparseLinear` layers, which store and multiply only what is left.

    Parameters
    ----------
    model : Module
        Changed in place. The parameters are new: make an optimiser anew.
    at_least : float in [0, 1)
        Layers with a smaller share of zeros become plain ones instead, see `remove`.
    layers : sequence of str, optional
        As for `l1_unstructured`.

    Returns
    -------
    Module

    Raises
    ------
    ValueError
        If a layer has an activation of its own (put it behind the layer), there is no `MaskedLinear`, or a name is
        unknown. The model is then as it was.

    Examples
    --------
    >>> import fastfc
    >>> model = fastfc.Sequential(fastfc.Linear(64, 128, rng=0), fastfc.ReLU(), fastfc.Linear(128, 10, rng=1))
    >>> fastfc.prune.to_sparse(fastfc.prune.l1_unstructured(model, 0.9))
    Sequential(
      (0): SparseLinear(in_features=64, out_features=128, bias=True, nnz=819)
      (1): ReLU()
      (2): SparseLinear(in_features=128, out_features=10, bias=True, nnz=128)
    )
    """
    at_least = fraction("to_sparse", "at_least", at_least)
    return _replaced("to_sparse", model, layers, MaskedLinear.to_sparse,
                     lambda layer: 1 - layer.mask.mean() >= at_least)


# -- the one way through -----------------------------------------------------------------------------------------------

def prune_units(function, model, sparsity, *, layers=None, scores="magnitude", rng=None, units=None, together=False):
    """Hide a share of the units of each layer, or of all of them together, by their scores."""
    sparsity = fraction(function, "sparsity", sparsity)
    units = Units() if units is None else units
    found = places(function, model, layers)
    score, together = resolve(function, scores, rng), flag(function, "together", together)
    reduced = [units.reduce(checked(function, place.name, place.layer, score(place.layer))) for place in found]
    if together:
        flat = np.concatenate([part.reshape(-1) for part in reduced])
        kept = keep_highest(flat, flat.size - round(sparsity * flat.size))
        ends = np.cumsum([part.size for part in reduced])[:-1]
        masks = [part.reshape(old.shape) for part, old in zip(np.split(kept, ends), reduced, strict=True)]
    else:
        masks = [keep_highest(part, part.size - round(sparsity * part.size)) for part in reduced]
    return put_masks(model, found, [units.expand(mask, place.layer.weight.shape)
                                    for mask, place in zip(masks, found, strict=True)])


def put_masks(model, found, masks):
    """Give each layer its mask, within the one it has; returns the model."""
    for place, mask in zip(found, masks, strict=True):
        if isinstance(place.layer, MaskedLinear):
            place.layer.mask = mask & place.layer.mask
        else:
            place.put(MaskedLinear.from_linear(place.layer, mask))
    return found[0].layer if found[0].parent is None else model


def structured_units(function, axis, largest):
    if not isinstance(axis, str) or axis not in ("outputs", "inputs"):
        raise ValueError(f"{function}(): axis must be 'outputs' or 'inputs', got {axis!r}")
    return Units(1, None, largest) if axis == "outputs" else Units(None, 1, largest)


def inner_layers(function, model, axis, layers):
    """`layers`, or by default those whose outputs (inputs) are not the model's own."""
    if layers is not None:
        return layers
    names = [place.name for place in places(function, model)]
    names = names[:-1] if axis == "outputs" else names[1:]
    if not names:
        raise ValueError(f"{function}(): the model's only layer has the model's own {axis}; name it in layers= to hide "
                         "some all the same")
    return names


def _replaced(function, model, layers, make, fits=lambda layer: True):
    found = places(function, model, layers, (MaskedLinear,))
    fresh = []
    for place in found:
        try:
            fresh.append(make(place.layer) if fits(place.layer) else None)
        except ValueError as error:
            raise ValueError(f"{function}(): layer {place.name}: {error}") from None
    for place, layer in zip(found, fresh, strict=True):
        place.put(place.layer.to_linear() if layer is None else layer)
    return found[0].layer if found[0].parent is None else model
