"""What the boundary sends up: unusual arguments, which are converted here, and mistakes, which are named here.

The functions themselves live in ``fastfc._core``, which take the common case at C speed; everything else comes
through this module and returns to ``_core.forward`` and ``_core.backward`` in the form that C takes.
"""

from __future__ import annotations

import math
import operator

import numpy as np

from fastfc import _core
from fastfc._core import PackedSparse, PackedWeight, linear, linear_backward, pack
from fastfc.arrays import empty
from fastfc.sparse import CSR, PackedCSR, as_csr, is_sparse

__all__ = ["linear", "linear_backward", "pack", "PackedSparse", "PackedWeight"]


# ---- Checks, each naming the argument, what was expected and what came ---------------------------------------------


def _array(function, name, value):
    """`value` as an ndarray of float32 or float64 in native byte order."""
    if not isinstance(value, np.ndarray):
        if not (hasattr(value, "__array__") or hasattr(value, "__array_interface__")) or np.isscalar(value):
            raise TypeError(f"{function}(): {name} must be a numpy array, got {type(value).__name__}")
        value = np.asarray(value)
    if value.dtype not in (np.float32, np.float64) or not value.dtype.isnative:
        raise TypeError(f"{function}(): {name} must be float32 or float64 in native byte order, got {value.dtype}")
    return value if type(value) is np.ndarray else value.view(np.ndarray)


def _same_dtype(function, name, dtype, reference, expected):
    if dtype != expected:
        raise TypeError(f"{function}(): {name} is {dtype}, {reference} is {expected}; mixed dtypes are not converted")


def _shape(function, name, array, expected, why):
    if array.shape != expected:
        raise ValueError(f"{function}(): {name} has shape {array.shape}, expected {expected} {why}")


def _threads(function, threads, name="threads"):
    if threads is None:
        return _core.get_default_threads()
    try:
        if isinstance(threads, (bool, np.bool_)):
            raise TypeError
        n = operator.index(threads)
    except TypeError:
        raise TypeError(f"{function}(): {name} must be an integer, got {type(threads).__name__}") from None
    if n < 1:
        raise ValueError(f"{function}(): {name} must be at least 1, got {n}")
    return min(n, 1024)


# The activations that have a parameter, and its name.
PARAMETERS = {"leaky_relu": "slope", "elu": "alpha", "softplus": "beta"}


def _activation(function, activation):
    """(number in C, parameter) of an activation's name, or of a pair (name, parameter)."""
    known = _core.ACTIVATIONS
    if (activation is None or isinstance(activation, str)) and activation in known:
        return known[activation]
    if isinstance(activation, tuple) and len(activation) == 2 and isinstance(activation[0], str):
        name, value = activation
        if name in PARAMETERS:
            return known[name][0], _parameter(function, f"activation's {PARAMETERS[name]}", name, value)
    names = ", ".join(repr(name) for name in known)
    pairs = ", ".join(f"({name!r}, {parameter})" for name, parameter in PARAMETERS.items())
    expected = f"{function}(): activation must be one of {names}, or a pair {pairs}"
    if not (activation is None or isinstance(activation, (str, tuple))):
        raise TypeError(f"{expected}, got {type(activation).__name__}")
    raise ValueError(f"{expected}, got {activation!r}")


def _parameter(function, label, activation, value):
    """An activation's parameter as a float."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{function}(): {label} must be a number, got {type(value).__name__}")
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{function}(): {label} must be finite, got {value}")
    # Beyond these, x * beta and its inverse leave float32's range.
    if activation == "softplus" and not 1e-30 <= value <= 1e30:
        raise ValueError(f"{function}(): {label} must be positive, from 1e-30 to 1e30, got {value}")
    return value


def check_pack(weight):
    """The array that `pack` may copy."""
    if is_sparse(weight):
        raise TypeError("pack(): weight is sparse; sparse weights are used as they are, pass it to linear() directly")
    weight = _array("pack", "weight", weight)
    if weight.ndim != 2:
        raise ValueError(f"pack(): weight must be 2-D (out_features, in_features), got shape {weight.shape}")
    return weight


def _operands(function, x, weight):
    """x and weight checked against each other: arrays, a PackedWeight, or CSR."""
    packed = isinstance(weight, (PackedWeight, PackedSparse))
    x_sparse, w_sparse = is_sparse(x), not packed and is_sparse(weight)
    if x_sparse and (w_sparse or isinstance(weight, PackedSparse)):
        raise TypeError(f"{function}(): x and weight are both sparse; at most one may be")
    x = as_csr(function, "x", x) if x_sparse else _array(function, "x", x)
    if w_sparse:
        weight = as_csr(function, "weight", weight)
    elif not packed:
        weight = _array(function, "weight", weight)
        if weight.ndim != 2:
            raise ValueError(f"{function}(): weight must be 2-D (out_features, in_features), got shape {weight.shape}")
    if len(x.shape) == 0:
        raise ValueError(f"{function}(): x must have at least one axis (..., in_features), got a 0-D array")
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{function}(): x has {x.shape[-1]} features in its last axis, weight expects {weight.shape[1]} "
            f"(x has shape {x.shape}, weight {tuple(weight.shape)})"
        )
    _same_dtype(function, "weight", weight.dtype, "x", x.dtype)
    return x, weight


def _rows(array):
    """(..., cols) as (rows, cols): a view where one stride can walk the leading axes, else a copy."""
    cols = array.shape[-1]
    rows = 1
    for d in array.shape[:-1]:
        rows *= d
    array = array.reshape(rows, cols)
    return array if array.flags.aligned else array.copy()


def _contiguous_rows(array):
    """The same, with contiguous and aligned rows."""
    array = _rows(array)
    if array.strides[1] == array.itemsize and array.strides[0] % array.itemsize == 0 or array.size == 0:
        return array
    return np.ascontiguousarray(array)


def _check_out(function, name, out, shape, dtype, inputs):
    """Refuses an `out` that can't take the result, before anything is written."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{function}(): {name} must be a numpy array, got {type(out).__name__}")
    _shape(function, name, out, shape, "like the result")
    if out.dtype != dtype or not out.dtype.isnative:
        raise TypeError(f"{function}(): {name} must be {dtype} like the result, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError(f"{function}(): {name} is read-only")
    if _overlaps_itself(out):
        raise ValueError(f"{function}(): {name} overlaps itself (strides {out.strides} for shape {out.shape})")
    for other_name, other in inputs:
        for array in _memory(other):
            if _overlap(out, array):
                raise ValueError(f"{function}(): {name} overlaps {other_name}")


def _overlaps_itself(array):
    """Whether elements may share memory: where some axis steps less than all the finer ones span."""
    span = array.itemsize
    for stride, size in sorted((abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True)):
        if size > 1 and array.size:
            if stride < span:
                return True
            span += stride * (size - 1)
    return False


def _memory(operand):
    if isinstance(operand, np.ndarray):
        return (operand,)
    return (operand.data, operand.indices, operand.indptr) if isinstance(operand, CSR) else ()


def _overlap(a, b):
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except np.exceptions.TooHardError:
        return True


class _Target:
    """Where C writes rows of a result: `out` itself, or an array that is copied into it afterwards."""

    def __init__(self, out, shape, dtype, fill=False):
        self.out = empty(shape, dtype) if out is None else out
        cols = shape[-1] if len(shape) > 1 else 1
        flat = self.out.view(np.ndarray)
        if out is None or (flat.flags.c_contiguous and flat.flags.aligned):
            self.rows = flat.reshape(-1, shape[-1]) if flat.size else flat
            self.copy = False
        else:
            self.rows = np.array(flat, order="C") if fill else empty(shape, dtype)
            self.rows = self.rows.reshape(-1, cols) if flat.size and len(shape) > 1 else self.rows
            self.copy = True
        if self.rows.ndim == 1 or self.rows.size == 0:
            rows = 1
            for d in shape[:-1]:
                rows *= d
            self.rows = self.rows.reshape(rows, shape[-1])

    def done(self):
        if self.copy:
            self.out[...] = self.rows.reshape(self.out.shape)
        return self.out


# ---- Forward -------------------------------------------------------------------------------------------------------


def convert_linear(x, weight, bias, activation, residual, out, threads, return_preactivation):
    """`linear` for every argument that is not the common case."""
    x, weight = _operands("linear", x, weight)
    dtype, n = x.dtype, weight.shape[0]
    shape = (*x.shape[:-1], n)
    if bias is not None:
        bias = _array("linear", "bias", bias)
        _same_dtype("linear", "bias", bias.dtype, "x", dtype)
        _shape("linear", "bias", bias, (n,), "for out_features")
    if residual is not None:
        residual = _array("linear", "residual", residual)
        _same_dtype("linear", "residual", residual.dtype, "x", dtype)
        _shape("linear", "residual", residual, shape, "like the result")
    number, parameter = _activation("linear", activation)
    threads = _threads("linear", threads)
    if not isinstance(return_preactivation, (bool, np.bool_)):
        raise TypeError(f"linear(): return_preactivation must be a bool, got {type(return_preactivation).__name__}")
    if out is not None:
        inputs = [("x", x), ("weight", weight), ("bias", bias), ("residual", residual)]
        _check_out("linear", "out", out, shape, dtype, [pair for pair in inputs if pair[1] is not None])

    if bias is not None and not (bias.flags.c_contiguous and bias.flags.aligned):
        bias = bias.copy()
    if residual is not None:
        residual = _contiguous_rows(residual)
    target = _Target(out, shape, dtype)
    z = empty(shape, dtype) if return_preactivation else None
    z_rows = z.reshape(target.rows.shape) if return_preactivation else None
    x_rows = x if isinstance(x, CSR) else _rows(x)
    if isinstance(weight, PackedCSR):
        weight = weight.packed(threads)
    _core.forward(x_rows, weight, bias, residual, target.rows, z_rows, number, parameter, threads)
    y = target.done()
    return (y, z) if return_preactivation else y


# ---- Backward ------------------------------------------------------------------------------------------------------


def convert_backward(grad_y, x, weight, activation, preactivation, needs, out, accumulate, threads):
    """`linear_backward` for every argument that is not the common case."""
    name = "linear_backward"
    if isinstance(weight, (PackedWeight, PackedSparse)):
        raise TypeError(f"{name}(): weight is packed; pass the array it was packed from")
    x, weight = _operands(name, x, weight)
    dtype, (n, k) = x.dtype, weight.shape
    leading = x.shape[:-1]
    grad_y = _array(name, "grad_y", grad_y)
    _same_dtype(name, "grad_y", grad_y.dtype, "x", dtype)
    _shape(name, "grad_y", grad_y, (*leading, n), "for this x and weight")
    number, parameter = _activation(name, activation)
    if activation is None:
        preactivation = None
    elif preactivation is None:
        raise ValueError(f"{name}(): preactivation is required with activation {activation!r}")
    else:
        preactivation = _array(name, "preactivation", preactivation)
        _same_dtype(name, "preactivation", preactivation.dtype, "x", dtype)
        _shape(name, "preactivation", preactivation, grad_y.shape, "like grad_y")
    if not isinstance(needs, (str, tuple, list, set, frozenset)):
        raise TypeError(f'{name}(): needs must be a tuple of "x", "weight" and "bias", got {type(needs).__name__}')
    if isinstance(needs, str) or not all(need in ("x", "weight", "bias") for need in needs):
        raise ValueError(f'{name}(): needs must be a tuple of "x", "weight" and "bias", got {needs!r}')
    if not isinstance(out, (tuple, list)) or len(out) != 3:
        raise TypeError(f"{name}(): out must be a tuple of three arrays or None, got {type(out).__name__}")
    if not isinstance(accumulate, (bool, np.bool_)):
        raise TypeError(f"{name}(): accumulate must be a bool, got {type(accumulate).__name__}")
    threads = _threads(name, threads)

    wanted = [need in needs for need in ("x", "weight", "bias")]
    if isinstance(x, CSR):
        wanted[0] = False
    w_shape = weight.data.shape if isinstance(weight, CSR) else (n, k)
    shapes = ((*leading, k), w_shape, (n,))
    inputs = [("grad_y", grad_y), ("x", x), ("weight", weight)]
    if preactivation is not None:
        inputs.append(("preactivation", preactivation))
    for i, (array, shape, label) in enumerate(zip(out, shapes, ("out[0]", "out[1]", "out[2]"), strict=True)):
        if array is None:
            continue
        if not wanted[i]:
            raise ValueError(f"{name}(): {label} is given for a gradient that is not computed")
        earlier = [(f"out[{j}]", out[j]) for j in range(i) if out[j] is not None]
        _check_out(name, label, array, shape, dtype, inputs + earlier)

    targets = []
    for i, (array, shape) in enumerate(zip(out, shapes, strict=True)):
        add = accumulate and i > 0 and array is not None
        targets.append(_Target(array, shape, dtype, fill=add) if wanted[i] else None)
    gx, gw, gb = (target and target.rows for target in targets)
    if isinstance(weight, CSR) and gw is not None and not accumulate:
        gw[0, weight.nnz :] = 0
    x_rows = x if isinstance(x, CSR) else _rows(x)
    # C accumulates into all that it is given or none: what has no old value to add to starts from zero.
    if accumulate:
        for i, target in enumerate(targets):
            if i > 0 and target and out[i] is None:
                # -0 changes nothing, a sum of -0 included; but the sum over no rows at all is +0.
                target.rows[...] = -0.0 if x_rows.shape[0] else 0.0
    # A packed sparse weight is one in two forms, for gw and for gx.
    backward, weights = _core.backward, (weight,)
    if isinstance(weight, PackedCSR) and not isinstance(x, CSR):
        backward, weights = _core.backward_sparse, weight.for_backward(gx is not None, gw is not None, threads)
    backward(
        _rows(grad_y),
        x_rows,
        *weights,
        None if preactivation is None else _rows(preactivation),
        number,
        parameter,
        gx,
        gw if gw is None or not isinstance(weight, CSR) else gw[0],
        None if gb is None else gb[0],
        accumulate,
        threads,
    )
    return tuple(target and target.done() for target in targets)
