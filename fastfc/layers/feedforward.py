"""The feed-forward block of transformers."""

import numpy as np

from fastfc import _core, init
from fastfc.arrays import contiguous, empty
from fastfc.functional import _activation, _array, _rows
from fastfc.layers.affine import Linear, data_of
from fastfc.layers.arguments import float_array, float_dtype, size
from fastfc.layers.checkpoint import recomputed
from fastfc.layers.dropout import Dropout
from fastfc.module import Module

# Names of gated blocks, and the activation of their gate.
GATED = {"swiglu": "silu", "geglu": "gelu"}


class FeedForward(Module):
    """Position-wise feed-forward block, ``y = W2 dropout(act(W1 x + b1)) + b2`` [1]_, or gated [2]_:
    ``y = W2 dropout(act(W1 x + b1) * (W3 x + b3)) + b2``.

    x and y : (..., d_model). In ``eval()`` the intermediate of (..., d_ff) is made and used a block of rows at a time,
    in at most 2.25 MiB (or 64 rows, if they need more), and is never a whole array.

    Parameters
    ----------
    d_model, d_ff : int
        Widths of the block's ends and of its middle.
    dropout : float in [0, 1]
        The probability with which an element of the intermediate is dropped in training.
    activation : str or tuple
        By the names of `fastfc.linear`; ``"swiglu"`` and ``"geglu"`` are "silu" and "gelu" with `gated`.
    gated : bool
        Whether the activation's output is multiplied by a third product, W3.
    bias : bool
        Whether there are b1, b2 and b3.
    recompute : bool
        True: training keeps x alone and computes the intermediate again in the backward pass, as `checkpoint` does,
        with the same bits; it costs the forward pass once more, and saves two arrays of (..., d_ff), three when gated.
    dtype : float32 or float64
    rng : numpy.random.Generator, int or None
        Source of the initial values, which are those of `Linear`, and of the dropout's seed.

    Attributes
    ----------
    w1, w2 : Linear, (d_model to d_ff) and (d_ff to d_model)
        Their parameters are ``w1.weight``, ``w1.bias``, ``w2.weight`` and ``w2.bias`` of the ``state_dict``.
    w3 : Linear, (d_model to d_ff), or None
    dropout : Dropout

    Raises
    ------
    TypeError, ValueError
        If a size is no integer >= 0, `dropout` no number in [0, 1], `activation` unknown, a flag no bool, or `dtype`
        neither float32 nor float64. A call raises what `fastfc.linear` raises.

    Notes
    -----
    The bits are those of `fastfc.linear` and the activation one after the other: a row's result does not depend on the
    rows beside it, nor on threads.

    References
    ----------
    .. [1] A. Vaswani et al., Attention is all you need, arXiv:1706.03762, section 3.3
    .. [2] N. Shazeer, GLU variants improve transformer, arXiv:2002.05202

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> block = fastfc.FeedForward(16, 64, rng=0)
    >>> list(block.state_dict())
    ['w1.weight', 'w1.bias', 'w2.weight', 'w2.bias']
    >>> x = np.ones((8, 10, 16), dtype=np.float32)       # (batch, sequence, d_model)
    >>> y, backward = block.vjp(x)                       # training: with dropout
    >>> backward(np.ones_like(y)).shape, block.w1.weight.grad.shape
    ((8, 10, 16), (64, 16))
    >>> block.eval()(x).shape
    (8, 10, 16)
    >>> fastfc.FeedForward(16, 64, 0.0, activation="swiglu", bias=False)
    FeedForward(
      activation='silu', gated=True
      (w1): Linear(in_features=16, out_features=64, bias=False)
      (w2): Linear(in_features=64, out_features=16, bias=False)
      (w3): Linear(in_features=16, out_features=64, bias=False)
      (dropout): Dropout(p=0.0)
    )
    """

    def __init__(self, d_model, d_ff, dropout=0.1, *, activation="gelu", gated=False, bias=True, recompute=False,
                 dtype=np.float32, rng=None):
        d_model, d_ff = size("FeedForward", "d_model", d_model), size("FeedForward", "d_ff", d_ff)
        dtype, rng = float_dtype("FeedForward", dtype), init.generator(rng)
        for name, value in (("gated", gated), ("bias", bias), ("recompute", recompute)):
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"FeedForward(): {name} must be a bool, got {type(value).__name__}")
        if isinstance(activation, str) and activation in GATED:
            activation, gated = GATED[activation], True
        _activation("FeedForward", activation)
        self.activation, self.recompute = activation, bool(recompute)
        self.w1 = Linear(d_model, d_ff, bias, dtype=dtype, rng=rng)
        self.w2 = Linear(d_ff, d_model, bias, dtype=dtype, rng=rng)
        self.w3 = Linear(d_model, d_ff, bias, dtype=dtype, rng=rng) if gated else None
        try:
            self.dropout = Dropout(dropout, rng=rng)
        except (TypeError, ValueError) as error:
            raise type(error)(f"FeedForward(): dropout: {error}") from None

    def __call__(self, x):
        if self.training:
            return self._forward(x)
        y = self._blocks(x)
        return self._forward(x) if y is None else y

    def vjp(self, x):
        return recomputed(self, self, self._vjp, x) if self.recompute else self._vjp(x)

    def _blocks(self, x):
        """y by blocks of rows; None if the products are others than here were made, or do not fit x or each other."""
        w1, w2, w3 = self.w1, self.w2, self.w3
        for layer in (w1, w2) if w3 is None else (w1, w2, w3):
            if type(layer) is not Linear or layer.activation is not None:
                return None
        operands = (
            w1.weight.operand, data_of(w1.bias), w2.weight.operand, data_of(w2.bias),
            None if w3 is None else w3.weight.operand, None if w3 is None else data_of(w3.bias),
            *_activation("FeedForward", self.activation))
        y = _core.feedforward(x, *operands)
        if y is None:  # an array in need of a view or a copy, perhaps
            x = _array("FeedForward", "x", x)
            if x.ndim:
                y = _core.feedforward(_rows(x), *operands)
                y = y if y is None else y.reshape(*x.shape[:-1], y.shape[-1])
        return y

    def _forward(self, x):
        return self.w2(self.dropout(self._middle(self.w1(x), None if self.w3 is None else self.w3(x))))

    def _vjp(self, x):
        z, w1_backward = self.w1.vjp(x)
        factor, w3_backward = (None, None) if self.w3 is None else self.w3.vjp(x)
        h, dropout_backward = self.dropout.vjp(self._middle(z, factor))
        y, w2_backward = self.w2.vjp(h)

        def backward(grad_y, needs_input_grad=True):
            grad_h = dropout_backward(w2_backward(grad_y))
            grad_z, grad_factor = self._middle_backward(grad_h, z, factor)
            grad_x = w1_backward(grad_z, needs_input_grad)
            if w3_backward is not None:
                grad_x3 = w3_backward(grad_factor, needs_input_grad)
                if needs_input_grad:
                    grad_x += grad_x3
            return grad_x

        return y, backward

    def _middle(self, z, factor):
        activation = _activation("FeedForward", self.activation)
        if factor is None:
            (z,) = _alike(z)
            h = empty(z.shape, z.dtype)
            _core.activation_forward(z, h, *activation, _core.get_default_threads())
        else:
            z, factor = _alike(z, factor)
            h = empty(z.shape, z.dtype)
            _core.gate_forward(z, factor, h, *activation, _core.get_default_threads())
        return h

    def _middle_backward(self, grad_h, z, factor):
        activation = _activation("FeedForward", self.activation)
        if factor is None:
            grad_h, z = _alike(grad_h, z)
            grad_z, grad_factor = empty(z.shape, z.dtype), None
            _core.activation_backward(grad_h, z, grad_z, *activation, _core.get_default_threads())
        else:
            grad_h, z, factor = _alike(grad_h, z, factor)
            grad_z, grad_factor = empty(z.shape, z.dtype), empty(z.shape, z.dtype)
            threads = _core.get_default_threads()
            _core.gate_backward(grad_h, z, factor, grad_z, grad_factor, *activation, threads)
        return grad_z, grad_factor

    def extra_repr(self):
        return f"activation={self.activation!r}, gated={self.w3 is not None}"


def _alike(*arrays):
    """The arrays, contiguous, if they are of one dtype and shape: what other layers in place of w1, w2 or w3 gave may
    not be."""
    first = arrays[0]
    for array in arrays:
        float_array("FeedForward", "the intermediate", array)
        if array.shape != first.shape or array.dtype != first.dtype:
            raise ValueError(f"FeedForward: w1 and w3 must give arrays of one shape and dtype, got {first.dtype} of "
                             f"shape {first.shape} and {array.dtype} of shape {array.shape}")
    return tuple(contiguous(array) for array in arrays)
