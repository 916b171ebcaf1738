"""Linear, and what all layers of the form ``y = act(x Wᵀ + b)`` share."""

import math

import numpy as np

from fastfc import init
from fastfc._core import affine_vjp, linear_vjp
from fastfc.arrays import empty
from fastfc.functional import linear, pack
from fastfc.layers.arguments import flag, float_dtype, size
from fastfc.module import Module, Parameter


class Affine(Module):
    """``y = act(x Wᵀ + b)``; a subclass says what W is, by ``_operand()`` and ``_matrix()``.

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

    def forward_vjp(self, x, activation, hidden=False):
        return affine_vjp(x, self._operand(), self._matrix(), self.weight, self.bias, activation, hidden)

    def extra_repr(self):
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return text if self.activation is None else f"{text}, activation={self.activation!r}"


class Factored(Module):
    """Two layers, of which the second is affine, in place of one weight; `steps` names them."""

    steps = ()

    def __call__(self, x):
        return self.forward(x, self.activation)

    def vjp(self, x):
        return self.forward_vjp(x, self.activation)

    def forward(self, x, activation):
        first, second = self._pair()
        return second.forward(first(x), activation)

    def forward_vjp(self, x, activation, hidden=False):
        first, second = self._pair()
        between, first_backward = first.vjp(x)
        y, second_backward = second.forward_vjp(between, activation, hidden)

        def backward(grad_y, needs_input_grad=True):
            return first_backward(second_backward(grad_y), needs_input_grad)

        return y, backward

    def _pair(self):
        return (getattr(self, name) for name in self.steps)

    in_features = property(lambda self: getattr(self, self.steps[0]).in_features)
    out_features = property(lambda self: getattr(self, self.steps[1]).out_features)
    bias = property(lambda self: getattr(self, self.steps[1]).bias)
    activation = property(lambda self: getattr(self, self.steps[1]).activation)

    def inner_repr(self):
        """What a subclass adds to the repr, in the middle."""
        return ""

    def __repr__(self):
        text = (f"in_features={self.in_features}, out_features={self.out_features}, {self.inner_repr()}, "
                f"bias={self.bias is not None}")
        text += "" if self.activation is None else f", activation={self.activation!r}"
        return f"{type(self).__name__}({text})"


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
        bias = flag("Linear", "bias", bias)
        self.weight = Parameter(default_weight(self.out_features, self.in_features, dtype, rng), packer=pack)
        self.bias = Parameter(default_bias(self.out_features, self.in_features, dtype, rng)) if bias else None

    def _operand(self):
        return self.weight.operand

    def _matrix(self):
        return self.weight.data

    # Written out, not by these two: with few features a pass takes no longer than such calls.

    def forward(self, x, activation):
        bias = self.bias
        return linear(x, self.weight.operand, None if bias is None else bias.data, activation=activation)

    forward_vjp = linear_vjp


def data_of(parameter):
    return None if parameter is None else parameter.data


def default_weight(outputs, inputs, dtype, rng):
    """(outputs, inputs) from torch's distribution U(-k, k), k = 1/√inputs."""
    return init.kaiming_uniform_(empty((outputs, inputs), dtype), math.sqrt(5), rng=rng)


def default_bias(outputs, inputs, dtype, rng):
    """(outputs,) from the same distribution."""
    bound = 1 / math.sqrt(inputs) if inputs else 0.0
    return init.uniform_(np.empty(outputs, dtype), -bound, bound, rng=rng)
