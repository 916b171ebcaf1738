"""Scores: how much each weight of a layer is worth keeping."""

import numpy as np

from fastfc import init
from fastfc.arrays import array_of
from fastfc.layers import MaskedLinear

__all__ = ["Movement", "checked", "full_gradient", "resolve"]


def magnitude(layer):
    return np.abs(layer.weight.data)


def gradient(layer):
    """|w g|: by how much the loss changes, to first order, when the weight goes."""
    return np.abs(layer.weight.data * full_gradient(layer))


NAMES = {"magnitude": magnitude, "gradient": gradient, "random": None}


def resolve(function, scores, rng=None):
    """A callable from layer to scores, of a name or a callable."""
    if callable(scores):
        return scores
    if not isinstance(scores, str) or scores not in NAMES:
        kind = TypeError if not isinstance(scores, str) else ValueError
        raise kind(f"{function}(): scores must be 'magnitude', 'gradient', 'random' or a callable from layer to array, "
                   f"got {scores!r}")
    if scores == "random":
        rng = init.generator(rng)
        return lambda layer: rng.random(layer.weight.shape)
    return NAMES[scores]


def checked(function, name, layer, scores):
    """Scores as float64, -inf where the layer's mask hides the weight already."""
    array = array_of(f"{function}(): scores of layer {name}", scores)
    if array.shape != layer.weight.shape or array.dtype.kind not in "biuf":
        raise ValueError(f"{function}(): scores of layer {name} must be numbers of the weight's shape "
                         f"{layer.weight.shape}, got {array.dtype} of shape {array.shape}")
    array = array.astype(np.float64)
    if np.isnan(array).any():
        at = [int(i) for i in np.argwhere(np.isnan(array))[0]]
        raise ValueError(f"{function}(): the score of weight{at} of layer {name} is NaN")
    if isinstance(layer, MaskedLinear):
        array[~layer.mask] = -np.inf
    return array


def full_gradient(layer):
    """The gradient of a layer's weight, of what the mask hides too if the layer keeps it."""
    grad = getattr(layer, "full_gradient", None)
    grad = layer.weight.grad if grad is None else grad
    if grad is None:
        raise ValueError("scores by gradient need one: run a backward pass first, or prune within fit (prune.Gradual)")
    return grad


class Movement:
    """Scores by how far weights have moved away from zero: ``-Σ w g`` over the steps of training [1]_.

    Made before `fit`, given to it among the callbacks and to a pruning function as `scores`: ``scores=movement``.

    Attributes
    ----------
    steps : int
        Seen so far.

    Raises
    ------
    ValueError
        Where it is used for a layer of which it has seen no step.

    Notes
    -----
    Costs one array like each weight, and two passes over it a step.

    References
    ----------
    .. [1] V. Sanh, T. Wolf, A. Rush, Movement Pruning, NeurIPS 2020, arXiv:2005.07683

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> from fastfc import prune
    >>> rng = np.random.default_rng(0)
    >>> model = fastfc.Sequential(fastfc.Linear(8, 16, rng=rng), fastfc.ReLU(), fastfc.Linear(16, 2, rng=rng))
    >>> x, y = rng.standard_normal((64, 8), dtype=np.float32), rng.integers(0, 2, 64)
    >>> movement, opt = prune.Movement(), fastfc.optim.SGD(model.parameters(), lr=0.1)
    >>> _ = fastfc.fit(model, x, y, loss=fastfc.CrossEntropyLoss(), optimizer=opt, epochs=2, callbacks=[movement],
    ...                rng=rng, progress=False)
    >>> _ = prune.global_unstructured(model, 0.5, scores=movement)
    >>> prune.sparsity(model)
    0.5
    """

    def __init__(self):
        self.steps, self._sums = 0, {}

    def before_step(self, model):
        """`fit` calls this."""
        self.steps += 1
        for layer in model.modules():
            weight = getattr(layer, "weight", None)
            if type(layer).__name__ in ("Linear", "MaskedLinear") and isinstance(weight.grad, np.ndarray):
                moved = weight.data * full_gradient(layer)
                # By parameter: a layer is replaced when it is masked, its parameters stay.
                if weight in self._sums:
                    self._sums[weight] -= moved
                else:
                    self._sums[weight] = -moved

    def __call__(self, layer, history=None):
        if history is not None:  # as a callback of fit, after an epoch
            return None
        if layer.weight not in self._sums:
            raise ValueError(f"Movement: no step of {layer} was seen; give it to fit among the callbacks")
        return self._sums[layer.weight]
