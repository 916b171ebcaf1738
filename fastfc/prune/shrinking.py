"""Structured pruning's second half: outputs and inputs that are hidden as a whole leave the model."""

import numpy as np

from fastfc.containers import Sequential
from fastfc.functional import linear, pack
from fastfc.layers import Dropout, Identity, LayerNorm, Linear, MaskedLinear, RMSNorm
from fastfc.layers.activation import ELEMENTWISE
from fastfc.module import Parameter
from fastfc.prune.tree import Place

__all__ = ["shrink"]

AFFINE, NORMS = (Linear, MaskedLinear), (LayerNorm, RMSNorm)
# Layers that treat each feature alone.
FOLLOWS = (*ELEMENTWISE, Dropout, Identity)


def shrink(model):
    """Take hidden outputs and inputs out of a model: its layers become smaller dense ones.

    An output goes where its layer's mask hides its whole row, or the next layer's mask its whole column. The layers in
    between, in the `Sequential` and those nested in it, follow: activations, `Dropout`, `LayerNorm` and `RMSNorm`.

    Parameters
    ----------
    model : Sequential
        Changed in place, and still of the same in and out widths: outputs of its last layer and inputs of its first
        that are hidden stay so. Layers that change have new parameters: make an optimiser anew.

    Returns
    -------
    Sequential
        `model`.

    Raises
    ------
    TypeError
        If `model` is no Sequential.
    ValueError
        If outputs are hidden and a layer behind them, up to the next `Linear`, is of a kind that cannot follow. The
        model is then as it was.

    Notes
    -----
    A hidden output is not nothing but the constant ``act(bias)``; what the next layer makes of it is added to its bias,
    so the model computes the same as before but for rounding. With a norm in between it cannot: the norm then is over
    the features that are left, and training should go on.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> from fastfc import prune
    >>> model = fastfc.Sequential(fastfc.Linear(64, 128, rng=0), fastfc.Sigmoid(), fastfc.Linear(128, 10, rng=1))
    >>> x = np.ones((3, 64), np.float32)
    >>> y = prune.ln_structured(model, 0.5)(x)
    >>> prune.shrink(model)
    Sequential(
      (0): Linear(in_features=64, out_features=64, bias=True)
      (1): Sigmoid()
      (2): Linear(in_features=64, out_features=10, bias=True)
    )
    >>> bool(np.allclose(model(x), y, atol=1e-6))
    True
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"shrink(): model must be a Sequential, got {type(model).__name__}")
    flat = list(_flat(model, ""))
    joints = [(before, between, after) for before, between, after in _joints(flat)
              if before.layer.out_features == after.layer.in_features]
    left = {place: _mask(place.layer) for before, _, after in joints for place in (before, after)}
    changes = {}
    for before, between, after, keep in _settled(joints, left):
        for place in between:
            if type(place.layer) not in (*FOLLOWS, *NORMS) or len(getattr(place.layer, "normalized_shape", "1")) != 1:
                raise ValueError(f"shrink(): layer {place.name}, {place.layer!r}, cannot follow the outputs that are "
                                 f"hidden in layer {before.name}")
        changes.setdefault(before, {})["outputs"] = keep
        changes.setdefault(after, {})["inputs"] = keep
        # In order: the bias of `before` has by now what its own inputs that go have left to it.
        changes[after]["bias"] = _bias(before, changes[before].get("bias"), between, after, keep)
        changes.update({place: {"features": keep} for place in between if type(place.layer) in NORMS})
    for place, change in changes.items():
        place.put(_smaller_norm(place.layer, **change) if "features" in change else _smaller(place.layer, **change))
    for place in flat:
        if type(place.layer) is MaskedLinear and place.layer.mask.all():
            place.put(place.layer.to_linear())
    return model


def _flat(sequential, prefix):
    for key, layer in list(sequential.named_children()):
        if type(layer) is Sequential:
            yield from _flat(layer, f"{prefix}{key}.")
        else:
            yield Place(f"{prefix}{key}", sequential, key, layer)


def _joints(flat):
    """Each affine layer, what stands between it and the next one, and that one."""
    before, between = None, []
    for place in flat:
        if type(place.layer) in AFFINE:
            if before is not None:
                yield before, between, place
            before, between = place, []
        else:
            between.append(place)


def _mask(layer):
    return layer.mask.copy() if isinstance(layer, MaskedLinear) else np.ones(layer.weight.shape, bool)


def _settled(joints, left):
    """The joints at which outputs go, each with those that stay. One that goes may have been the last use of others."""
    changed = True
    while changed:
        changed = False
        for before, _, after in joints:
            gone = ~(left[before].any(axis=1) & left[after].any(axis=0))
            changed |= bool(left[before][gone].any() or left[after][:, gone].any())
            left[before][gone], left[after][:, gone] = False, False
    for before, between, after in joints:
        stays = left[before].any(axis=1)
        if not stays.all():
            yield before, between, after, np.flatnonzero(stays)


def _bias(before, bias, between, after, keep):
    """The bias of `after`, to which the constants of the outputs of `before` that go are added; None: none.

    Those are ``act(bias)``: of outputs that no input reaches any more. What only the next layer ignores adds nothing.
    """
    old = None if after.layer.bias is None else after.layer.bias.data
    if any(type(place.layer) in NORMS for place in between):
        return old
    weight = after.layer.weight.data * _mask(after.layer)
    if bias is None:
        bias = np.zeros(len(before.layer.weight.data)) if before.layer.bias is None else before.layer.bias.data
    # A layer without inputs: its outputs are its bias, and its activation of that.
    nothing, no_weight = np.empty((1, 0), weight.dtype), np.empty((len(bias), 0), weight.dtype)
    constants = linear(nothing, no_weight, bias.astype(weight.dtype), activation=before.layer.activation)
    for place in between:
        if type(place.layer) is not Dropout:  # which does nothing in inference
            constants = place.layer(constants)
    gone = np.setdiff1d(np.arange(len(bias)), keep)
    gain = weight[:, gone].astype(np.float64) @ constants[0, gone].astype(np.float64)
    if not gain.any():
        return old
    return (gain if old is None else old + gain).astype(weight.dtype)


def _smaller(layer, outputs=slice(None), inputs=slice(None), bias=None):
    """A layer with those outputs and inputs alone, and another bias if one is given."""
    if bias is None and layer.bias is not None:
        bias = layer.bias.data
    small = Linear.__new__(Linear)
    weight = np.ascontiguousarray(layer.weight.data[outputs][:, inputs])
    small.out_features, small.in_features = weight.shape
    small.activation = layer.activation
    small.weight = Parameter(weight, packer=pack)
    small.bias = None if bias is None else Parameter(np.array(bias[outputs]))
    if isinstance(layer, MaskedLinear):
        return MaskedLinear.from_linear(small, layer.mask[outputs][:, inputs])
    return small


def _smaller_norm(norm, features):
    small = type(norm).__new__(type(norm))
    vars(small).update(vars(norm), normalized_shape=(len(features),), training=True)
    for name in ("weight", "bias"):
        if getattr(norm, name) is not None:
            setattr(small, name, Parameter(getattr(norm, name).data[features]))
    return small
