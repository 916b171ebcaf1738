"""Activations as layers, over `fastfc.activations`; Softmax and LogSoftmax, which look at whole rows.

In a `Sequential`, an elementwise activation after a `Linear` (or another layer of its kind without an activation)
costs no pass of its own: the two run as one fused call with the same bits.
"""

from numbers import Real

import numpy as np

from fastfc import activations
from fastfc.functional import _parameter
from fastfc.layers.arguments import among, float_array, integer, like
from fastfc.module import Module

__all__ = [
    "ELU",
    "GELU",
    "Hardswish",
    "LeakyReLU",
    "LogSoftmax",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]


class Activation(Module):
    """An elementwise function; a subclass says which, as `activation`, a name or pair that `fastfc.linear` takes.

    x : (...), float32 or float64, any strides; y of the same shape and dtype. Between the two passes x may not be
    written into, y may.
    """

    keeps_width = True
    activation = None

    def __call__(self, x):
        name, value = self._name_and_value()
        return activations._forward(name, x, value, None, None)

    def vjp(self, x):
        name, value = self._name_and_value()
        y = activations._forward(name, x, value, None, None)

        def backward(grad_y, needs_input_grad=True):
            return activations._gradient(name, grad_y, x, value, None, None) if needs_input_grad else None

        return y, backward

    def _name_and_value(self):
        activation = self.activation
        return (activation, None) if isinstance(activation, str) else activation


class Parametric(Activation):
    """An activation with a number, which may be changed between calls; `name` is its name here, `attribute` torch's."""

    def __init__(self, value):
        setattr(self, self.attribute, _parameter(type(self).__name__, self.attribute, self.name, value))

    @property
    def activation(self):
        value = getattr(self, self.attribute)
        return self.name if value == self.default else (self.name, value)

    def extra_repr(self):
        return f"{self.attribute}={getattr(self, self.attribute)}"


class ReLU(Activation):
    """Rectified linear unit, ``relu(x) = max(x, 0)``: x for x > 0, NaN for NaN, +0 otherwise.

    x : (...), float32 or float64; y of the same shape and dtype. The gradient passes where x > 0, and through NaN, as
    in torch.

    Raises
    ------
    TypeError
        If x is no array of float32 or float64.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.ReLU()(np.float32([-1, 0, 2]))
    array([0., 0., 2.], dtype=float32)
    """

    activation = "relu"


class LeakyReLU(Parametric):
    """``leaky_relu(x) = x for x > 0, negative_slope · x otherwise``.

    x : (...), float32 or float64; y of the same shape and dtype.

    Parameters
    ----------
    negative_slope : float

    Raises
    ------
    TypeError, ValueError
        If the slope is no finite number, or x no array of float32 or float64.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.LeakyReLU(0.5)(np.float32([-1, 0, 2]))
    array([-0.5,  0. ,  2. ], dtype=float32)
    """

    name, attribute, default = "leaky_relu", "negative_slope", 0.01

    def __init__(self, negative_slope=0.01):
        super().__init__(negative_slope)


class ELU(Parametric):
    """Exponential linear unit, ``elu(x) = x for x > 0, alpha · (exp(x) - 1) otherwise``.

    x : (...), float32 or float64; y of the same shape and dtype.

    Parameters
    ----------
    alpha : float

    Raises
    ------
    TypeError, ValueError
        If alpha is no finite number, or x no array of float32 or float64.

    References
    ----------
    .. [1] D.-A. Clevert, T. Unterthiner, S. Hochreiter: Fast and accurate deep network learning by exponential linear
       units. ICLR 2016. arXiv:1511.07289

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.ELU()(np.float32([-np.inf, 0, 2]))
    array([-1.,  0.,  2.], dtype=float32)
    """

    name, attribute, default = "elu", "alpha", 1.0

    def __init__(self, alpha=1.0):
        super().__init__(alpha)


class GELU(Activation):
    """Gaussian error linear unit, ``gelu(x) = x · Φ(x)`` with the normal distribution function Φ.

    x : (...), float32 or float64; y of the same shape and dtype.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        "none" goes by erf; "tanh" computes ``x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))``.

    Raises
    ------
    ValueError
        If `approximate` is something else.
    TypeError
        If x is no array of float32 or float64.

    References
    ----------
    .. [1] D. Hendrycks, K. Gimpel: Gaussian error linear units. arXiv:1606.08415

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.GELU(approximate="tanh")
    GELU(approximate='tanh')
    >>> fastfc.GELU()(np.float32([-np.inf, 0, 100]))
    array([ -0.,   0., 100.], dtype=float32)
    """

    names = {"none": "gelu", "tanh": "gelu_tanh"}

    def __init__(self, approximate="none"):
        if not among(approximate, self.names):
            raise ValueError(f'GELU(): approximate must be "none" or "tanh", got {approximate!r}')
        self.approximate = approximate

    @property
    def activation(self):
        return self.names[self.approximate]

    def extra_repr(self):
        return f"approximate={self.approximate!r}"


class SiLU(Activation):
    """Sigmoid linear unit (swish), ``silu(x) = x · sigmoid(x) = x / (1 + exp(-x))``.

    x : (...), float32 or float64; y of the same shape and dtype.

    Raises
    ------
    TypeError
        If x is no array of float32 or float64.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.SiLU()(np.float32([0, 100]))
    array([  0., 100.], dtype=float32)
    """

    activation = "silu"


class Sigmoid(Activation):
    """``sigmoid(x) = 1 / (1 + exp(-x))``.

    x : (...), float32 or float64; y of the same shape and dtype.

    Raises
    ------
    TypeError
        If x is no array of float32 or float64.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.Sigmoid()(np.float32([-np.inf, 0, 100]))
    array([0. , 0.5, 1. ], dtype=float32)
    """

    activation = "sigmoid"


class Tanh(Activation):
    """The hyperbolic tangent, ``tanh(x)``.

    x : (...), float32 or float64; y of the same shape and dtype.

    Raises
    ------
    TypeError
        If x is no array of float32 or float64.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.Tanh()(np.float32([-100, 0, 100]))
    array([-1.,  0.,  1.], dtype=float32)
    """

    activation = "tanh"


class Softplus(Parametric):
    """``softplus(x) = log(1 + exp(beta · x)) / beta``, and x where ``beta · x > 20``.

    x : (...), float32 or float64; y of the same shape and dtype.

    Parameters
    ----------
    beta : float
        Positive.
    threshold : float
        20 only: it is part of the kernel. There for torch's signature.

    Raises
    ------
    TypeError, ValueError
        If beta is no positive number, the threshold is not 20, or x is no array of float32 or float64.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.Softplus()
    Softplus(beta=1.0, threshold=20.0)
    >>> fastfc.Softplus()(np.float32([-np.inf, 30]))
    array([ 0., 30.], dtype=float32)
    """

    name, attribute, default = "softplus", "beta", 1.0
    threshold = 20.0

    def __init__(self, beta=1.0, threshold=20.0):
        if not isinstance(threshold, Real) or threshold != self.threshold:
            raise ValueError(f"Softplus(): threshold must be 20, got {threshold!r}")
        super().__init__(beta)

    def extra_repr(self):
        return f"beta={self.beta}, threshold={self.threshold}"


class Hardswish(Activation):
    """``hardswish(x) = x · (x + 3) / 6`` from -3 to 3, x above, 0 below.

    x : (...), float32 or float64; y of the same shape and dtype.

    Raises
    ------
    TypeError
        If x is no array of float32 or float64.

    References
    ----------
    .. [1] A. Howard et al.: Searching for MobileNetV3. ICCV 2019. arXiv:1905.02244

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.Hardswish()(np.float32([-4, 0, 3, 4]))
    array([-0.,  0.,  3.,  4.], dtype=float32)
    """

    activation = "hardswish"


# What Sequential may fuse, by exact type: a subclass may compute something else.
ELEMENTWISE = frozenset({ELU, GELU, Hardswish, LeakyReLU, ReLU, SiLU, Sigmoid, Softplus, Tanh})


class Softmax(Module):
    """``softmax(x)[i] = exp(x[i]) / Σ exp(x[j])`` along one axis, computed on x - max(x).

    x : (...), float32 or float64; y of the same shape and dtype. The gradient is ``y · (g - Σ g y)``. Do not put it
    before a `CrossEntropyLoss`, which takes logits.

    Parameters
    ----------
    dim : int
        The axis; the last by default.

    Raises
    ------
    TypeError, ValueError
        If x is no array of float32 or float64, or has no such axis.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.Softmax()(np.float32([[0, 0], [1000, 0]]))
    array([[0.5, 0.5],
           [1. , 0. ]], dtype=float32)
    """

    keeps_width = True

    def __init__(self, dim=-1):
        self.dim = integer(type(self).__name__, "dim", dim)

    def __call__(self, x):
        return self.vjp(x)[0]

    def vjp(self, x):
        shifted = self._shifted(x)
        with np.errstate(all="ignore"):
            y = np.exp(shifted, out=shifted)
            y /= np.add.reduce(y, axis=-1, keepdims=True)
        kept = y.copy()  # y is the caller's

        def backward(grad_y, needs_input_grad=True):
            grad = self._rows(like("Softmax", "grad_y", grad_y, x))
            if not needs_input_grad:
                return None
            with np.errstate(all="ignore"):
                return self._back(kept * (grad - np.add.reduce(grad * kept, axis=-1, keepdims=True)))

        return self._back(y), backward

    def _shifted(self, x):
        """x - max(x), the axis last and contiguous, so that a row's sum depends on that row alone."""
        name = type(self).__name__
        x = float_array(name, "x", x)
        if not -x.ndim <= self.dim < x.ndim:
            raise ValueError(f"{name}: dim is {self.dim}, expected an axis of x, which has shape {x.shape}")
        rows = self._rows(x)
        with np.errstate(all="ignore"):
            return rows - np.maximum.reduce(rows, axis=-1, keepdims=True, initial=-np.inf)

    def _rows(self, array):
        return np.ascontiguousarray(np.moveaxis(array, self.dim, -1))

    def _back(self, rows):
        return np.moveaxis(rows, -1, self.dim)

    def extra_repr(self):
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """``log_softmax(x)[i] = x[i] - log Σ exp(x[j])`` along one axis, computed on x - max(x).

    x : (...), float32 or float64; y of the same shape and dtype. The gradient is ``g - softmax(x) · Σ g``.

    Parameters
    ----------
    dim : int
        The axis; the last by default.

    Raises
    ------
    TypeError, ValueError
        If x is no array of float32 or float64, or has no such axis.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> y = fastfc.LogSoftmax()(np.float32([0, 0]))
    >>> np.allclose(y, -np.log(2))
    True
    """

    def vjp(self, x):
        y = self._shifted(x)
        with np.errstate(all="ignore"):
            exps = np.exp(y)
            sums = np.add.reduce(exps, axis=-1, keepdims=True)
            y -= np.log(sums)

        def backward(grad_y, needs_input_grad=True):
            grad = self._rows(like("LogSoftmax", "grad_y", grad_y, x))
            if not needs_input_grad:
                return None
            with np.errstate(all="ignore"):
                return self._back(grad - exps / sums * np.add.reduce(grad, axis=-1, keepdims=True))

        return self._back(y), backward
