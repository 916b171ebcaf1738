"""Dropout by counter-based random numbers."""

import math

import numpy as np

from fastfc import _core, init
from fastfc.arrays import contiguous
from fastfc.layers.arguments import float_array
from fastfc.module import Module


class Dropout(Module):
    """In ``train()``, each element is 0 with probability p, and otherwise multiplied by 1 / (1 - p); in ``eval()`` y is
    x itself.

    Parameters
    ----------
    p : float in [0, 1]
        1: all zeros, as in torch.
    rng : numpy.random.Generator, int or None
        The layer's seed is drawn from it.

    Attributes
    ----------
    p : float
    seed : int
    calls : int
        Training calls so far. Set it back to repeat them.

    Raises
    ------
    TypeError, ValueError
        If `p` is no number in [0, 1], or x or its gradient has a wrong dtype or shape.

    Notes
    -----
    What is dropped is a function of the seed, the number of the call and the element's index alone [1]_: it depends
    neither on threads, memory layout, dtype nor the CPU. So the backward pass makes the mask again, and nothing is
    stored. The seed and the number of calls are part of pickles and deep copies, but not of ``state_dict``, which has
    no entry for this layer, as in torch. Two threads that train one layer at the same time may see the same mask; in
    ``eval()`` there is no state.

    References
    ----------
    .. [1] Philox4x32-10: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, SC 2011. doi:10.1145/2063384.2063405

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.Dropout(0.5, rng=0)
    >>> y, backward = layer.vjp(np.ones((2, 4), dtype=np.float32))
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    >>> bool((backward(np.ones_like(y)) == y).all())
    True
    >>> layer.eval()(np.ones(3, dtype=np.float32))
    array([1., 1., 1.], dtype=float32)
    """

    keeps_width = True

    def __init__(self, p=0.5, *, rng=None):
        if isinstance(p, bool | np.bool_) or not isinstance(p, int | float | np.integer | np.floating):
            raise TypeError(f"Dropout(): p must be a number, got {type(p).__name__}")
        if not 0 <= p <= 1 or math.isnan(p):
            raise ValueError(f"Dropout(): p must be in [0, 1], got {p}")
        self.p = p
        self.seed = int(init.generator(rng).integers(2**64, dtype=np.uint64))
        self.calls = 0

    def _next(self):
        call = self.calls
        self.calls = call + 1
        return call

    def __call__(self, x):
        x = float_array("Dropout", "x", x)
        return _core.dropout(contiguous(x), self.p, self.seed, self._next()) if self.training else x

    def vjp(self, x):
        x = float_array("Dropout", "x", x)
        if self.training:
            p, seed, call = self.p, self.seed, self._next()
            y = _core.dropout(contiguous(x), p, seed, call)
        else:
            y, p = x, None
        shape, dtype = y.shape, y.dtype

        def backward(grad_y, needs_input_grad=True):
            float_array("Dropout backward", "grad_y", grad_y)
            if grad_y.shape != shape or grad_y.dtype != dtype:
                raise ValueError(f"Dropout backward: grad_y must be {dtype} of shape {shape}, "
                                 f"got {grad_y.dtype} of shape {grad_y.shape}")
            if not needs_input_grad or p is None:
                return grad_y if needs_input_grad else None
            return _core.dropout(contiguous(grad_y), p, seed, call)

        return y, backward

    def extra_repr(self):
        return f"p={self.p}"
