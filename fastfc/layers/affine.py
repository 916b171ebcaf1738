"""Linear, and what all layers of the form ``y = act(x Wᵀ + b)`` share."""

import math

import numpy as np

from fastfc import init
from fastfc.functional import linear, linear_backward, pack
from fastfc.layers.arguments import float_dtype, size
from fastfc.module import Module, Parameter


class Affine(Module):
    """``y = act(x Wᵀ + b)``; a subclass says what W is.

    ``forward`` and ``forward_vjp`` take the activation as an argument, so that `Sequential` can fuse a following
    activation layer into the product.
    """

    activation = None

    def __call__(self, x):
        return self.forward(x, self.activation)

    def vjp(self, x):
        return self.forward_vjp(x, self.activation)

    def forward(self, x, activation):
        return linear(x, self._operand(), data_of(self.bias), activation=activation)

    def forward_vjp(self, x, activation):
        weight, bias = self.weight, self.bias
        b, w = data_of(bias), self._matrix()
        if activation is None:
            y = z = linear(x, self._operand(), b)
        else:
            y, z = linear(x, self._operand(), b, activation=activation, return_preactivation=True)
        z = None if activation is None else z  # without an activation y is the caller's alone

        def backward(grad_y, needs_input_grad=True):
            needs = ("x", "weight", "bias") if needs_input_grad else ("weight", "bias")
            old = (None, weight.grad, None if bias is None else bias.grad)
            grad_x, grad_w, grad_b = linear_backward(
                grad_y, x, w, activation=activation, preactivation=z,
                needs=needs if bias is not None else needs[:-1], out=old, accumulate=True)
            weight.grad = grad_w
            if bias is not None:
                bias.grad = grad_b
            return grad_x

        return y, backward


class Linear(Affine):
    """Fully connected layer, ``y = act(x Wᵀ + b)``.

    Parameters
    ----------
    in_features, out_features : int
        Lengths of the last axis of x and of y; 0 is allowed.
    bias : bool
        Whether there is a b.
    activation : str or tuple, optional
        Applied in the same pass, by the names of `fastfc.linear`.
    dtype : float32 or float64
    rng : numpy.random.Generator, int or None
        Source of the initial values, which are torch's [1]_: W and b from U(-k, k), k = 1/√in_features.

    Attributes
    ----------
    weight : Parameter, (out_features, in_features)
    bias : Parameter, (out_features,), or None

    Raises
    ------
    TypeError, ValueError
        If a size is no integer >= 0, or `dtype` is neither float32 nor float64. A call raises what
        `fastfc.linear` raises.

    References
    ----------
    .. [1] Kaiming uniform with a = √5: K. He et al., arXiv:1502.01852

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.Linear(64, 128, rng=0)
    >>> layer
    Linear(in_features=64, out_features=128, bias=True)
    >>> x = np.ones((32, 64), dtype=np.float32)          # (batch, in_features)
    >>> y, backward = layer.vjp(x)                       # (batch, out_features)
    >>> grad_x = backward(np.ones_like(y))
    >>> y.shape, grad_x.shape, layer.weight.grad.shape
    ((32, 128), (32, 64), (128, 64))
    """

    def __init__(self, in_features, out_features, bias=True, *, activation=None, dtype=np.float32, rng=None):
        self.in_features = size("Linear", "in_features", in_features)
        self.out_features = size("Linear", "out_features", out_features)
        self.activation = activation
        dtype, rng = float_dtype("Linear", dtype), init.generator(rng)
        weight = np.empty((self.out_features, self.in_features), dtype)
        self.weight = Parameter(init.kaiming_uniform_(weight, math.sqrt(5), rng=rng), packer=pack)
        self.bias = default_bias(self, dtype, rng) if bias else None

    def _operand(self):
        return self.weight.operand

    def _matrix(self):
        return self.weight.data

    def extra_repr(self):
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return text if self.activation is None else f"{text}, activation={self.activation!r}"


def data_of(parameter):
    return None if parameter is None else parameter.data


def default_bias(layer, dtype, rng):
    bound = 1 / math.sqrt(layer.in_features) if layer.in_features else 0.0
    return Parameter(init.uniform_(np.empty(layer.out_features, dtype), -bound, bound, rng=rng))
