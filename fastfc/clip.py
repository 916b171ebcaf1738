"""Gradients held within bounds before a step."""

import math

import numpy as np

from fastfc import _core
from fastfc.module import Parameter
from fastfc.sparse_grad import SparseGrad

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


def clip_grad_norm_(parameters, max_norm, norm_type=2.0, *, error_if_nonfinite=False):
    """Scale the gradients, in place, so that their norm is at most `max_norm`; return the norm that they had.

    The norm is that of all gradients as one vector. If it is larger than `max_norm`, each gradient is multiplied by
    ``max_norm / (norm + 1e-6)``.

    Parameters
    ----------
    parameters : Parameter or iterable of Parameters
        Those without a gradient are passed over.
    max_norm : float >= 0
    norm_type : float > 0
        p of the p-norm; ``inf`` is the largest absolute value.
    error_if_nonfinite : bool
        Raise an error if the norm is NaN or infinite, rather than go on.

    Returns
    -------
    norm : float
        NaN or infinite if a gradient holds such values: look at it, or ask for the error. As in torch, the gradients
        are scaled by it all the same, which makes them NaN (for a NaN), or 0 where they were finite and NaN where not.

    Raises
    ------
    TypeError
        If `parameters` are no Parameters, or a gradient is no array of floats.
    ValueError
        If `max_norm` is negative or NaN, `norm_type` is not > 0, a gradient is read-only, or, with
        `error_if_nonfinite`, the norm is not finite. No gradient is then changed.

    Notes
    -----
    For p = 2 the squares are summed in float64, in blocks of fixed length on 16 virtual lanes, blocks in order: the
    same bits for any number of threads and on every target that has FMA, and nothing that fits the dtype overflows or
    vanishes. A `SparseGrad` is coalesced, which replaces ``grad``; its norm is that of the whole.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> p = fastfc.Parameter(np.zeros(2, dtype=np.float32))
    >>> p.grad = np.float32([30, 40])
    >>> fastfc.clip_grad_norm_([p], max_norm=5.0)
    50.0
    >>> p.grad
    array([3., 4.], dtype=float32)
    """
    where = "clip_grad_norm_()"
    parameters = _listed(where, parameters)
    max_norm, p = _number(where, "max_norm", max_norm), _number(where, "norm_type", norm_type)
    if not max_norm >= 0:
        raise ValueError(f"{where}: max_norm must be >= 0, got {max_norm}")
    if not p > 0:
        raise ValueError(f"{where}: norm_type must be > 0, got {norm_type}")
    if not isinstance(error_if_nonfinite, bool | np.bool_ | int):
        raise TypeError(f"{where}: error_if_nonfinite must be a bool, got {type(error_if_nonfinite).__name__}")
    arrays = _gradients(where, parameters)
    norm = _norm([np.require(array, requirements="CA") for array in arrays], p)
    if error_if_nonfinite and not math.isfinite(norm):
        raise ValueError(f"{where}: the norm of the gradients is {norm}; error_if_nonfinite=False goes on")
    if not norm + 1e-6 <= max_norm:
        _change(_core.Rule("scale", shrink=max_norm / (norm + 1e-6)), arrays)
    return norm


def clip_grad_value_(parameters, clip_value):
    """Bring each element of the gradients, in place, into ``[-clip_value, clip_value]``. NaN stays NaN.

    Parameters
    ----------
    parameters : Parameter or iterable of Parameters
        Those without a gradient are passed over. A `SparseGrad` is coalesced first, which replaces ``grad``.
    clip_value : float >= 0

    Raises
    ------
    TypeError
        If `parameters` are no Parameters, or a gradient is no array of floats.
    ValueError
        If `clip_value` is negative or NaN, or a gradient is read-only. No gradient is then changed.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> p = fastfc.Parameter(np.zeros(3, dtype=np.float32))
    >>> p.grad = np.float32([-7, 0.25, 3])
    >>> fastfc.clip_grad_value_(p, 1.0)
    >>> p.grad
    array([-1.  ,  0.25,  1.  ], dtype=float32)
    """
    where = "clip_grad_value_()"
    parameters, clip_value = _listed(where, parameters), _number(where, "clip_value", clip_value)
    if not clip_value >= 0:
        raise ValueError(f"{where}: clip_value must be >= 0, got {clip_value}")
    _change(_core.Rule("clamp", limit=clip_value), _gradients(where, parameters))


def _number(where, name, value):
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{where}: {name} must be a number, got {value!r}") from None


def _listed(where, parameters):
    if isinstance(parameters, Parameter):
        return [parameters]
    try:
        parameters = list(parameters)
    except TypeError:
        raise TypeError(f"{where}: parameters must be a Parameter or an iterable of them, "
                        f"got {type(parameters).__name__}") from None
    for i, parameter in enumerate(parameters):
        if not isinstance(parameter, Parameter):
            raise TypeError(f"{where}: parameters[{i}] must be a Parameter, got {type(parameter).__name__}")
    return parameters


def _gradients(where, parameters):
    """The arrays that hold the gradients, each once; sparse ones coalesced when all have been checked."""
    grads = {}
    for i, parameter in enumerate(parameters):
        grad = parameter.grad
        array = grad.values if isinstance(grad, SparseGrad) else grad
        if grad is None:
            continue
        if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"{where}: parameters[{i}].grad must be a float32 or float64 array or a SparseGrad, "
                            f"got {got}")
        if not array.flags.writeable:
            raise ValueError(f"{where}: parameters[{i}].grad is read-only")
        grads.setdefault(id(array), []).append(parameter)
    arrays = []
    for owners in grads.values():
        grad = owners[0].grad
        if isinstance(grad, SparseGrad):
            grad = grad.coalesce()
            for parameter in owners:
                parameter.grad = grad
            grad = grad.values
        arrays.append(np.asarray(grad))
    return arrays


def _norm(arrays, p):
    if p == 2:
        norm = math.sqrt(_core.square_sum(arrays))
        if 1e-140 < norm < math.inf or math.isnan(norm):
            return norm
        # Squares of float64 may have left its range, up or down: once more with the largest element brought to about 1.
        largest = _norm(arrays, math.inf)
        if not 0 < largest < math.inf:
            return largest
        exponent = min(max(math.frexp(largest)[1], -1022), 1022)
        return math.ldexp(math.sqrt(_core.square_sum(arrays, math.ldexp(1.0, -exponent))), exponent)
    arrays = [array.reshape(-1) for array in arrays if array.size]
    with np.errstate(all="ignore"):
        magnitudes = (np.abs(array, dtype=np.float64) for array in arrays)
        if p == math.inf:
            return float(np.max([m.max() for m in magnitudes], initial=0.0))
        return float(np.float64(sum(float(np.sum(m ** p)) for m in magnitudes)) ** (1 / p))


def _change(rule, arrays):
    """Apply the rule to arrays of any layout: through a copy where it is not contiguous."""
    plain = [np.require(array, requirements="CA") for array in arrays]
    _core.change(rule, plain)
    for array, changed in zip(arrays, plain, strict=True):
        if changed is not array:
            array[...] = changed
