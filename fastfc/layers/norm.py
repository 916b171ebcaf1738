"""LayerNorm and RMSNorm, and the form in which `fastfc.Sequential` runs them behind a `Linear`."""

import math
import operator

import numpy as np

from fastfc import _core
from fastfc.arrays import contiguous
from fastfc.functional import _activation
from fastfc.layers.affine import Linear, data_of
from fastfc.layers.arguments import flag, float_array, float_dtype, size
from fastfc.module import Module, Parameter


class RowNorm(Module):
    """What norms share: the last axes of x, `normalized_shape`, are one row each. A subclass sets `center`."""

    keeps_width = True

    center = True

    def _build(self, normalized_shape, eps, elementwise_affine, bias, dtype):
        name = type(self).__name__
        try:
            shape = (operator.index(normalized_shape),)
        except TypeError:
            if not isinstance(normalized_shape, tuple | list):
                raise TypeError(f"{name}(): normalized_shape must be an integer or a tuple of integers, "
                                f"got {type(normalized_shape).__name__}") from None
            shape = normalized_shape
        if not len(shape):
            raise ValueError(f"{name}(): normalized_shape must have at least one axis")
        self.normalized_shape = tuple(size(name, "normalized_shape", length) for length in shape)
        if isinstance(eps, bool | np.bool_) or not isinstance(eps, int | float | np.integer | np.floating):
            raise TypeError(f"{name}(): eps must be a number, got {type(eps).__name__}")
        if not 0 <= eps < math.inf:
            raise ValueError(f"{name}(): eps must be >= 0 and finite, got {eps}")
        self.eps = eps
        self.elementwise_affine = flag(name, "elementwise_affine", elementwise_affine)
        bias = flag(name, "bias", bias)
        dtype = float_dtype(name, dtype)
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if self.elementwise_affine else None
        self.bias = Parameter(np.zeros(self.normalized_shape, dtype)) if self.elementwise_affine and bias else None

    def _norm(self, x, keep):
        """What `_core.norm` returns; x is checked and converted only if it has to be."""
        options = self.normalized_shape, data_of(self.weight), data_of(self.bias), self.center, self.eps, keep
        y = _core.norm(x, *options)
        return _core.norm(self._checked(x), *options) if y is None else y

    def _checked(self, x):
        name = type(self).__name__
        x = float_array(name, "x", x)
        if x.shape[-len(self.normalized_shape):] != self.normalized_shape:
            raise ValueError(f"{name}: the last axes of x must be {self.normalized_shape}, got shape {x.shape}")
        if self.weight is None and self.bias is not None:
            raise ValueError(f"{name}: bias needs a weight, got None")
        for what, parameter in (("weight", self.weight), ("bias", self.bias)):
            if parameter is None:
                continue
            shape, dtype = parameter.data.shape, parameter.data.dtype
            if x.dtype != dtype:
                raise TypeError(f"{name}: x is {x.dtype}, {what} is {dtype}; mixed dtypes are not converted")
            if shape != self.normalized_shape:
                raise ValueError(f"{name}: {what} must have shape {self.normalized_shape}, got {shape}")
        return contiguous(x)

    def __call__(self, x):
        return self._norm(x, False)

    def vjp(self, x):
        weight, bias, gamma = self.weight, self.bias, data_of(self.weight)
        y, mean, rstd, n = self._norm(x, True)
        dtype, shape = y.dtype, y.shape

        def backward(grad_y, needs_input_grad=True):
            grad_y = self._checked_gradient(grad_y, dtype, shape)
            if not needs_input_grad and weight is None:
                return None
            grad_x, grad_w, grad_b = _core.norm_backward(
                grad_y, contiguous(x), n, gamma, mean, rstd, needs_input_grad, weight is not None, bias is not None)
            add_gradient(weight, grad_w)
            add_gradient(bias, grad_b)
            return grad_x

        return y, backward

    def _checked_gradient(self, grad_y, dtype, shape):
        name = type(self).__name__
        grad_y = float_array(f"{name} backward", "grad_y", grad_y)
        if grad_y.shape != shape or grad_y.dtype != dtype:
            raise ValueError(f"{name} backward: grad_y must be {dtype} of shape {shape}, "
                             f"got {grad_y.dtype} of shape {grad_y.shape}")
        return contiguous(grad_y)


class LayerNorm(RowNorm):
    """Layer normalisation [1]_, ``y = (x - mean) / √(var + eps) * weight + bias``; mean and variance (of the whole
    population, not of a sample) are those of each row, the last axes of x.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The last axes of x.
    eps : float >= 0
    elementwise_affine : bool
        Whether there are a weight, 1 at first, and a bias, 0 at first.
    bias : bool
        False: no bias.
    dtype : float32 or float64

    Attributes
    ----------
    weight, bias : Parameter, normalized_shape, or None

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, x or its gradient a wrong dtype or shape.

    Notes
    -----
    Two passes over a row, in a fixed order: a row of y has the same bits in any batch, on any number of threads and on
    every target with FMA. The gradients of weight and bias are sums over the batch in blocks of a fixed length. In a
    `Sequential`, behind a `Linear` (and its activation) of as many outputs, rows are normalised while they are in the
    cache, with the same bits.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros, G. E. Hinton, arXiv:1607.06450

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.LayerNorm(4)
    >>> layer
    LayerNorm((4,), eps=1e-05, elementwise_affine=True, bias=True)
    >>> layer(np.float32([[1, 2, 3, 4]])).round(3)              # (batch, features)
    array([[-1.342, -0.447,  0.447,  1.342]], dtype=float32)
    >>> y, backward = layer.vjp(np.ones((2, 4), dtype=np.float32))
    >>> backward(np.ones_like(y)).shape, layer.bias.grad
    ((2, 4), array([2., 2., 2., 2.], dtype=float32))
    """

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True, *, dtype=np.float32):
        self._build(normalized_shape, eps, elementwise_affine, bias, dtype)

    def extra_repr(self):
        return (f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
                f"bias={self.bias is not None}")


class RMSNorm(RowNorm):
    """Root mean square normalisation [1]_, ``y = x / √(mean(x²) + eps) * weight`` for each row, the last axes of x.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The last axes of x.
    eps : float >= 0, optional
        None: the distance from 1 to the next number of x's dtype.
    elementwise_affine : bool
        Whether there is a weight, 1 at first.
    dtype : float32 or float64

    Attributes
    ----------
    weight : Parameter, normalized_shape, or None

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, x or its gradient a wrong dtype or shape.

    Notes
    -----
    What `LayerNorm` promises holds here too.

    References
    ----------
    .. [1] B. Zhang, R. Sennrich, arXiv:1910.07467

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.RMSNorm(2)
    >>> layer
    RMSNorm((2,), eps=None, elementwise_affine=True)
    >>> layer(np.float32([[3, 4]])).round(3)
    array([[0.849, 1.131]], dtype=float32)
    """

    center = False

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True, *, dtype=np.float32):
        self._build(normalized_shape, 0.0 if eps is None else eps, elementwise_affine, False, dtype)
        self.eps = eps

    def extra_repr(self):
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


IDENTITY = _activation("linear", None)


class LinearNorm:
    """A `Linear`, the activation layer after it or None, and the norm of its rows in one call, with the bits of one
    after the other.

    `Sequential` makes it for a step and keeps it, so what the layers are by now is looked up in each call.
    """

    __slots__ = ("following", "linear", "norm")

    def __init__(self, linear, following, norm):
        self.linear, self.following, self.norm = linear, following, norm

    def __call__(self, x, keep=False):
        """y; or with `keep` what `_core.linear_norm` returns, None where the layers are to run apart."""
        linear, following, norm = self.linear, self.following, self.norm
        y = None
        if type(linear) is Linear and (following is None or linear.activation is None):
            activation = linear.activation if following is None else following.activation
            number, parameter = IDENTITY if activation is None else _activation("linear", activation)
            y = _core.linear_norm(x, linear.weight, linear.bias, number, parameter, norm.weight, norm.bias,
                                  norm.normalized_shape, norm.center, norm.eps, keep)
        return self._apart(x) if y is None and not keep else y

    def _apart(self, x):
        for layer in self._layers():
            x = layer(x)
        return x

    def _layers(self):
        return [layer for layer in (self.linear, self.following, self.norm) if layer is not None]

    def vjp(self, x):
        linear, norm = self.linear, self.norm
        results = self(x, True)
        if results is None:
            return self._vjp_apart(x)
        y, h, z, number, parameter, mean, rstd = results
        weight, bias, gamma, beta = linear.weight, linear.bias, norm.weight, norm.bias
        w, scale = weight.data, data_of(gamma)
        dtype, shape = y.dtype, y.shape

        def backward(grad_y, needs_input_grad=True):
            grad_y = norm._checked_gradient(grad_y, dtype, shape)
            add = all(p is None or receives(p) for p in (weight, bias))
            grad_w = weight.grad if add else np.empty_like(w)
            grad_b = None if bias is None else bias.grad if add else np.empty_like(bias.data)
            grad_x, grad_scale, grad_shift = _core.linear_norm_backward(
                grad_y, h, z, number, parameter, x, w, scale, mean, rstd, needs_input_grad, grad_w, grad_b, add,
                gamma is not None, beta is not None)
            if not add:
                add_gradient(weight, grad_w)
                add_gradient(bias, grad_b)
            add_gradient(gamma, grad_scale)
            add_gradient(beta, grad_shift)
            return grad_x

        return y, backward

    def _vjp_apart(self, x):
        passes = []
        for layer in self._layers():
            x, backward = layer.vjp(x)
            passes.append(backward)

        def backward(grad_y, needs_input_grad=True):
            for layer_backward in passes[:0:-1]:
                grad_y = layer_backward(grad_y)
            return passes[0](grad_y, needs_input_grad)

        return x, backward

    def __repr__(self):
        return repr(self.linear)  # an error names the step by it


def add_gradient(parameter, gradient):
    """Add `gradient`, of the parameter's size, to what the parameter has."""
    if parameter is not None:
        gradient = gradient.reshape(parameter.data.shape)
        parameter.grad = gradient if parameter.grad is None else np.add(parameter.grad, gradient, out=parameter.grad)


def receives(parameter):
    """Whether C can add to the parameter's gradient where it is."""
    grad, data = parameter.grad, parameter.data
    return type(grad) is np.ndarray and grad.flags.carray and grad.shape == data.shape and grad.dtype == data.dtype
