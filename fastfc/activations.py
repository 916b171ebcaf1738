"""Activation functions and their derivatives, elementwise on arrays: the same bits as ``linear(..., activation=...)``.

Each is a fixed sequence of vector operations (``src_c/kernels/activation.inc``), with the same bits on every target
that has FMA. :data:`ERRORS` holds the largest error of each; ``tools/ulp.py`` finds them, over all inputs for float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastfc import _core
from fastfc.arrays import empty
from fastfc.functional import PARAMETERS, _array, _check_out, _parameter, _same_dtype, _shape, _threads

__all__ = []


class Error(NamedTuple):
    """The largest error that was found, rounded up, and where.

    Forward: in ULP of the exact result, where that is normal. Gradient: in ULP of the larger of the derivative's
    magnitude and 2^-20."""

    ulp: float
    at: float


# (name, pass, dtype) -> Error. float32: over all inputs. float64: over 4e6 random ones (gelu: 2e7), many near roots.
ERRORS = {
    ("relu", "forward", "float32"): Error(0.0, 0.0),
    ("relu", "forward", "float64"): Error(0.0, 0.0),
    ("relu", "gradient", "float32"): Error(0.0, 0.0),
    ("relu", "gradient", "float64"): Error(0.0, 0.0),
    ("leaky_relu", "forward", "float32"): Error(0.5, -1.880791e-36),
    ("leaky_relu", "forward", "float64"): Error(0.5, -1.4999999999999223),
    ("leaky_relu", "gradient", "float32"): Error(0.0, 0.0),
    ("leaky_relu", "gradient", "float64"): Error(0.0, 0.0),
    ("elu", "forward", "float32"): Error(0.95, -0.3791963),
    ("elu", "forward", "float64"): Error(1.263, -0.3474782930560932),
    ("elu", "gradient", "float32"): Error(1.051, -5.8523273),
    ("elu", "gradient", "float64"): Error(1.037, -0.993058971858997),
    ("gelu", "forward", "float32"): Error(1.679, -0.0019351982),
    ("gelu", "forward", "float64"): Error(3.176, -1.3859785449205198),
    ("gelu", "gradient", "float32"): Error(1.73, -0.018654533),
    ("gelu", "gradient", "float64"): Error(1.778, -0.02024269435634669),
    ("gelu_tanh", "forward", "float32"): Error(1.189, -5.4717383),
    ("gelu_tanh", "forward", "float64"): Error(2.414, -2.486314547863567),
    ("gelu_tanh", "gradient", "float32"): Error(1.505, -0.5217314),
    ("gelu_tanh", "gradient", "float64"): Error(1.298, -0.5191812351553569),
    ("silu", "forward", "float32"): Error(1.137, -82.79798),
    ("silu", "forward", "float64"): Error(2.464, -3.2408706472226427),
    ("silu", "gradient", "float32"): Error(1.429, -0.031154452),
    ("silu", "gradient", "float64"): Error(1.285, -0.8417474231311599),
    ("sigmoid", "forward", "float32"): Error(1.043, -38.4155),
    ("sigmoid", "forward", "float64"): Error(2.27, -2.7369098768245355),
    ("sigmoid", "gradient", "float32"): Error(1.62, 2.6376123),
    ("sigmoid", "gradient", "float64"): Error(3.059, -4.128663417737907),
    ("tanh", "forward", "float32"): Error(1.48, 0.1532969),
    ("tanh", "forward", "float64"): Error(2.543, -0.209069369220466),
    ("tanh", "gradient", "float32"): Error(1.62, 1.3188062),
    ("tanh", "gradient", "float64"): Error(3.047, -2.4203029899587873),
    ("softplus", "forward", "float32"): Error(1.807, 0.3343173),
    ("softplus", "forward", "float64"): Error(2.771, -4.156691909559906),
    ("softplus", "gradient", "float32"): Error(1.03, -5.841666),
    ("softplus", "gradient", "float64"): Error(2.27, -2.7369098768245355),
    ("hardswish", "forward", "float32"): Error(1.0, -4.6368583e-05),
    ("hardswish", "forward", "float64"): Error(1.0, -1.2778463515335858),
    ("hardswish", "gradient", "float32"): Error(1.0, 0.5000006),
    ("hardswish", "gradient", "float64"): Error(1.0, 0.8165231136760978),
}

_PARAMETERS = {
    "slope": "slope : float, optional\n    For x <= 0.\n",
    "alpha": "alpha : float, optional\n    Minus the limit at -Inf.\n",
    "beta": "beta : float, optional\n    Positive, from 1e-30 to 1e30.\n",
}

_REST = """

    Parameters
    ----------
    {arguments}{parameter}out : ndarray, optional
        Receives the result; it may be {inputs} itself.
    threads : int, optional
        At most so many threads, instead of the default.

    Returns
    -------
    ndarray
        Of x's shape and dtype.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, dtype, shape or value, before anything is written.

    Notes
    -----
    Largest error{measure}:
    {f32.ulp} ULP in float32 (x = {f32.at!r}, of all inputs),
    {f64.ulp} ULP in float64 (x = {f64.at!r}, of a sample){default}.
    On the target without FMA at most 2 ULP in float32 and 4 in float64.
    """


def _documented(function):
    """Appends to a docstring what all of them say, and lists the function."""
    name, gradient = function.__name__.removesuffix("_grad"), function.__name__.endswith("_grad")
    parameter, which = PARAMETERS.get(name), "gradient" if gradient else "forward"
    arguments = "x : ndarray\n        float32 or float64, any shape and strides.\n    "
    if gradient:
        arguments = f"grad_y : ndarray\n        Of x's shape and dtype.\n    {arguments}"
    function.__doc__ += _REST.format(
        arguments=arguments,
        parameter=_PARAMETERS[parameter].replace("\n", "\n    ") if parameter else "",
        inputs="`grad_y` or `x`" if gradient else "`x`",
        measure=" of the derivative, in ULP of the larger of its magnitude and 2^-20" if gradient else "",
        f32=ERRORS[name, which, "float32"],
        f64=ERRORS[name, which, "float64"],
        default=f", with the default {parameter}" if parameter else "",
    )
    __all__.append(function.__name__)
    return function


def _result(function, out, inputs):
    """Where C writes, and what is returned: `out` itself where it is contiguous."""
    x = inputs[-1][1]
    if out is None:
        out = empty(x.shape, x.dtype)
        return out, out
    # The very same elements may be overwritten one by one; a view that is shifted may not.
    others = [(name, array) for name, array in inputs if not _same_elements(array, out)]
    _check_out(function, "out", out, x.shape, x.dtype, others)
    return (out if out.flags.carray else empty(x.shape, x.dtype)), out


def _same_elements(a, b):
    return (
        isinstance(b, np.ndarray)
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)
    )


def _contiguous(array):
    return array if array.flags.c_contiguous and array.flags.aligned else array.copy(order="C")


def _forward(name, x, value, out, threads):
    number, default = _core.ACTIVATIONS[name]
    x = _array(name, "x", x)
    value = default if value is None else _parameter(name, PARAMETERS[name], name, value)
    threads = _threads(name, threads)
    target, out = _result(name, out, [("x", x)])
    _core.activation_forward(_contiguous(x), target, number, value, threads)
    if target is not out:
        out[...] = target
    return out


def _gradient(name, grad_y, x, value, out, threads):
    number, default = _core.ACTIVATIONS[name]
    function = f"{name}_grad"
    x = _array(function, "x", x)
    grad_y = _array(function, "grad_y", grad_y)
    _same_dtype(function, "grad_y", grad_y.dtype, "x", x.dtype)
    _shape(function, "grad_y", grad_y, x.shape, "like x")
    value = default if value is None else _parameter(function, PARAMETERS[name], name, value)
    threads = _threads(function, threads)
    target, out = _result(function, out, [("grad_y", grad_y), ("x", x)])
    _core.activation_backward(_contiguous(grad_y), _contiguous(x), target, number, value, threads)
    if target is not out:
        out[...] = target
    return out


@_documented
def relu(x, *, out=None, threads=None):
    """x for x > 0, NaN for NaN, +0 otherwise."""
    return _forward("relu", x, None, out, threads)


@_documented
def relu_grad(grad_y, x, *, out=None, threads=None):
    """`grad_y` where x > 0 or x is NaN, +0 otherwise."""
    return _gradient("relu", grad_y, x, None, out, threads)


@_documented
def leaky_relu(x, slope=0.01, *, out=None, threads=None):
    """x for x > 0, else ``slope * x``."""
    return _forward("leaky_relu", x, slope, out, threads)


@_documented
def leaky_relu_grad(grad_y, x, slope=0.01, *, out=None, threads=None):
    """`grad_y` for x > 0, else ``slope * grad_y``."""
    return _gradient("leaky_relu", grad_y, x, slope, out, threads)


@_documented
def elu(x, alpha=1.0, *, out=None, threads=None):
    """x for x > 0, else ``alpha * (exp(x) - 1)``."""
    return _forward("elu", x, alpha, out, threads)


@_documented
def elu_grad(grad_y, x, alpha=1.0, *, out=None, threads=None):
    """`grad_y` for x > 0, else ``alpha * exp(x) * grad_y``."""
    return _gradient("elu", grad_y, x, alpha, out, threads)


@_documented
def gelu(x, *, out=None, threads=None):
    """``x * Phi(x)`` with the normal distribution function ``Phi(x) = erfc(-x / sqrt(2)) / 2``; -0 at -Inf."""
    return _forward("gelu", x, None, out, threads)


@_documented
def gelu_grad(grad_y, x, *, out=None, threads=None):
    """`grad_y` times ``Phi(x) + x * exp(-x**2 / 2) / sqrt(2 * pi)``."""
    return _gradient("gelu", grad_y, x, None, out, threads)


@_documented
def gelu_tanh(x, *, out=None, threads=None):
    """``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``, which approximates :func:`gelu`; -0 at -Inf."""
    return _forward("gelu_tanh", x, None, out, threads)


@_documented
def gelu_tanh_grad(grad_y, x, *, out=None, threads=None):
    """`grad_y` times the derivative of :func:`gelu_tanh`."""
    return _gradient("gelu_tanh", grad_y, x, None, out, threads)


@_documented
def silu(x, *, out=None, threads=None):
    """``x * sigmoid(x)``; -0 at -Inf."""
    return _forward("silu", x, None, out, threads)


@_documented
def silu_grad(grad_y, x, *, out=None, threads=None):
    """`grad_y` times ``s + x * s * (1 - s)``, ``s = sigmoid(x)``."""
    return _gradient("silu", grad_y, x, None, out, threads)


@_documented
def sigmoid(x, *, out=None, threads=None):
    """``1 / (1 + exp(-x))``."""
    return _forward("sigmoid", x, None, out, threads)


@_documented
def sigmoid_grad(grad_y, x, *, out=None, threads=None):
    """`grad_y` times ``s * (1 - s)``, ``s = sigmoid(x)``."""
    return _gradient("sigmoid", grad_y, x, None, out, threads)


@_documented
def tanh(x, *, out=None, threads=None):
    """The hyperbolic tangent."""
    return _forward("tanh", x, None, out, threads)


@_documented
def tanh_grad(grad_y, x, *, out=None, threads=None):
    """`grad_y` times ``1 - tanh(x)**2``."""
    return _gradient("tanh", grad_y, x, None, out, threads)


@_documented
def softplus(x, beta=1.0, *, out=None, threads=None):
    """``log(1 + exp(beta * x)) / beta``, and x where ``beta * x > 20`` (torch's threshold)."""
    return _forward("softplus", x, beta, out, threads)


@_documented
def softplus_grad(grad_y, x, beta=1.0, *, out=None, threads=None):
    """`grad_y` times ``sigmoid(beta * x)``, and `grad_y` where ``beta * x > 20``."""
    return _gradient("softplus", grad_y, x, beta, out, threads)


@_documented
def hardswish(x, *, out=None, threads=None):
    """``x * (x + 3) / 6`` from -3 to 3, x above, 0 below."""
    return _forward("hardswish", x, None, out, threads)


@_documented
def hardswish_grad(grad_y, x, *, out=None, threads=None):
    """`grad_y` times ``(2 * x + 3) / 6`` from -3 to 3, 1 above, 0 below."""
    return _gradient("hardswish", grad_y, x, None, out, threads)
