"""Bilinear: a fully connected layer on the products of two inputs."""

import math

import numpy as np

from fastfc import init
from fastfc.arrays import empty
from fastfc.functional import linear, linear_backward, pack
from fastfc.layers.affine import data_of, default_bias
from fastfc.layers.arguments import flag, float_array, float_dtype, size
from fastfc.module import Module, Parameter

__all__ = ["Bilinear"]

# Elements of the products of a block of rows: 4 MiB in float32.
BLOCK = 1 << 20


class Bilinear(Module):
    """``y[o] = x1 W[o] x2ᵀ + b[o]``, with a matrix W[o] for each output.

    Computed as a fully connected layer on the in1_features · in2_features products of the elements of x1 and x2, in
    blocks of rows, so that no more than 4 MiB of products (or one row's) are held at a time.

    Parameters
    ----------
    in1_features, in2_features, out_features : int
    bias : bool
    dtype : float32 or float64
    rng : numpy.random.Generator, int or None
        Source of the initial values, which are torch's: W and b from U(-k, k), k = 1/√in1_features.

    Attributes
    ----------
    weight : Parameter, (out_features, in1_features, in2_features)
    bias : Parameter, (out_features,), or None

    Raises
    ------
    TypeError, ValueError
        If a size is no integer >= 0, `dtype` is neither float32 nor float64, or x1 and x2 do not fit.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.Bilinear(20, 30, 40, rng=0)
    >>> layer
    Bilinear(in1_features=20, in2_features=30, out_features=40, bias=True)
    >>> x1, x2 = np.ones((8, 20), dtype=np.float32), np.ones((8, 30), dtype=np.float32)
    >>> y, backward = layer.vjp(x1, x2)
    >>> grad_x1, grad_x2 = backward(np.ones_like(y))
    >>> y.shape, grad_x1.shape, grad_x2.shape
    ((8, 40), (8, 20), (8, 30))
    """

    def __init__(self, in1_features, in2_features, out_features, bias=True, *, dtype=np.float32, rng=None):
        self.in1_features = size("Bilinear", "in1_features", in1_features)
        self.in2_features = size("Bilinear", "in2_features", in2_features)
        self.out_features = size("Bilinear", "out_features", out_features)
        dtype, rng = float_dtype("Bilinear", dtype), init.generator(rng)
        bias = flag("Bilinear", "bias", bias)
        bound = 1 / math.sqrt(self.in1_features) if self.in1_features else 0.0
        weight = empty((self.out_features, self.in1_features, self.in2_features), dtype)
        self.weight = Parameter(init.uniform_(weight, -bound, bound, rng=rng), packer=pack_flat)
        self.bias = Parameter(default_bias(self.out_features, self.in1_features, dtype, rng)) if bias else None

    def __call__(self, x1, x2):
        """Return y, (..., out_features), of x1, (..., in1_features), and x2, (..., in2_features)."""
        return self._forward(*self._rows(x1, x2)).reshape(*x1.shape[:-1], self.out_features)

    def vjp(self, x1, x2):
        """Return y and ``backward(grad_y)``, which returns the gradients of x1 and x2."""
        a, b = self._rows(x1, x2)
        weight, bias = self.weight, self.bias
        y = self._forward(a, b).reshape(*x1.shape[:-1], self.out_features)
        shape = y.shape

        def backward(grad_y, needs_input_grad=True):
            g = float_array("Bilinear", "grad_y", grad_y)
            if g.dtype != a.dtype or g.shape != shape:
                raise ValueError(f"Bilinear: grad_y must be {a.dtype} of shape {shape}, got {g.dtype} of shape "
                                 f"{g.shape}")
            g, w = g.reshape(len(a), self.out_features), flat(weight.data)
            grad_a, grad_b = np.empty_like(a), np.empty_like(b)
            grad_w = np.zeros(w.shape, w.dtype)
            bias_grad = None if bias is None else np.zeros(self.out_features, w.dtype)
            needs = ("x",) * bool(needs_input_grad) + ("weight",) + ("bias",) * (bias is not None)
            for part in self._blocks(len(a)):
                grad_p, _, _ = linear_backward(
                    g[part], products(a[part], b[part]), w, needs=needs, out=(None, grad_w, bias_grad), accumulate=True)
                if needs_input_grad:
                    grad_p = grad_p.reshape(len(grad_p), self.in1_features, self.in2_features)
                    np.einsum("mij,mj->mi", grad_p, b[part], out=grad_a[part])
                    np.einsum("mij,mi->mj", grad_p, a[part], out=grad_b[part])
            weight.add_grad(grad_w.reshape(weight.shape))
            if bias is not None:
                bias.add_grad(bias_grad)
            return (grad_a.reshape(x1.shape), grad_b.reshape(x2.shape)) if needs_input_grad else None

        return y, backward

    def _forward(self, a, b):
        w, bias = self.weight.operand, data_of(self.bias)
        w = flat(w) if isinstance(w, np.ndarray) else w
        y = empty((len(a), self.out_features), a.dtype)
        for part in self._blocks(len(a)):
            linear(products(a[part], b[part]), w, bias, out=y[part])
        return y

    def _rows(self, x1, x2):
        """Both as matrices of rows, checked."""
        shapes = []
        for name, x, width in (("x1", x1, self.in1_features), ("x2", x2, self.in2_features)):
            x = float_array("Bilinear", name, x)
            if x.dtype != self.weight.dtype:
                raise TypeError(f"Bilinear: {name} is {x.dtype}, the weight {self.weight.dtype}; mixed dtypes are not "
                                "converted")
            if x.ndim == 0 or x.shape[-1] != width:
                raise ValueError(f"Bilinear: {name} must have shape (..., {width}), got {x.shape}")
            shapes.append(x.shape[:-1])
        if shapes[0] != shapes[1]:
            raise ValueError(f"Bilinear: x1 and x2 must agree in all axes but the last, got {x1.shape} and {x2.shape}")
        rows = math.prod(shapes[0])
        return x1.reshape(rows, self.in1_features), x2.reshape(rows, self.in2_features)

    def _blocks(self, rows):
        step = max(BLOCK // max(self.in1_features * self.in2_features, 1), 1)
        return (slice(start, start + step) for start in range(0, rows, step))

    def extra_repr(self):
        return (f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
                f"out_features={self.out_features}, bias={self.bias is not None}")


def products(a, b):
    """a[m, i] · b[m, j] as rows of i · j."""
    return (a[:, :, None] * b[:, None, :]).reshape(len(a), a.shape[1] * b.shape[1])


def flat(weight):
    return weight.reshape(weight.shape[0], weight.shape[1] * weight.shape[2])


def pack_flat(weight):
    return pack(flat(weight))
