"""LazyLinear: a Linear that learns its in_features from the first batch."""

import threading

import numpy as np

from fastfc import init
from fastfc.functional import pack
from fastfc.layers.affine import Linear, default_bias, default_weight
from fastfc.layers.arguments import flag, float_dtype, size
from fastfc.module import UninitializedParameter

__all__ = ["LazyLinear"]

# Threads that share a model in eval() may all come with a first batch: one of them makes the weight.
making = threading.Lock()


class LazyLinear(Linear):
    """`Linear` whose in_features follow from the first batch, or from the first state that is loaded.

    Until then its parameters are `UninitializedParameter` objects, ``in_features`` is 0 and
    ``has_uninitialized_params()`` True; it may be copied and pickled, and its state saved and loaded as it is. Then
    it becomes a `Linear`, with the values that ``Linear(in_features, out_features, rng=rng)`` would have got.

    Parameters
    ----------
    out_features : int
    bias : bool
    activation, dtype, rng
        As for `Linear`.

    Attributes
    ----------
    weight : UninitializedParameter, then Parameter, (out_features, in_features)
    bias : UninitializedParameter, then Parameter, (out_features,); or None

    Raises
    ------
    TypeError, ValueError
        As `Linear`; also, before the first batch, if a value of a parameter is read, by an optimiser for example.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.LazyLinear(128, rng=0)
    >>> layer, layer.has_uninitialized_params()
    (LazyLinear(in_features=0, out_features=128, bias=True), True)
    >>> layer(np.ones((32, 64), dtype=np.float32)).shape
    (32, 128)
    >>> layer, layer.has_uninitialized_params()
    (Linear(in_features=64, out_features=128, bias=True), False)
    """

    def __init__(self, out_features, bias=True, *, activation=None, dtype=np.float32, rng=None):
        self.in_features = 0
        self.out_features = size("LazyLinear", "out_features", out_features)
        self.activation = activation
        dtype = float_dtype("LazyLinear", dtype)
        bias = flag("LazyLinear", "bias", bias)
        self._rng = init.generator(rng)
        self.weight = UninitializedParameter((self.out_features, None), dtype, packer=pack)
        self.bias = UninitializedParameter((self.out_features,), dtype) if bias else None

    # Not by super(): once it has learnt, this object is no LazyLinear.

    def forward(self, x, activation):
        self._learn(x)
        return Linear.forward(self, x, activation)

    def forward_vjp(self, x, activation, hidden=False):
        self._learn(x)
        return Linear.forward_vjp(self, x, activation, hidden)

    def _learn(self, x):
        shape, dtype = getattr(x, "shape", ()), getattr(x, "dtype", None)
        if not shape:
            raise ValueError(f"LazyLinear: x must be an array (..., in_features), got {type(x).__name__}")
        if dtype != self.weight.dtype:
            raise TypeError(f"LazyLinear: x is {dtype}, the layer {self.weight.dtype}; mixed dtypes are not converted")
        self._become_linear(shape[-1])

    def _loaded(self):
        if not isinstance(self.weight, UninitializedParameter):
            self._become_linear(self.weight.shape[1])

    def _become_linear(self, in_features):
        with making:
            if "_rng" not in vars(self):  # another thread was here first
                return
            # Drawn in Linear's order; what a state has brought stays.
            rng, sizes = self._rng, (self.out_features, in_features)
            if isinstance(self.weight, UninitializedParameter):
                self.weight.data = default_weight(*sizes, self.weight.dtype, rng)
            if isinstance(self.bias, UninitializedParameter):
                self.bias.data = default_bias(*sizes, self.bias.dtype, rng)
            self.in_features = in_features
            del self._rng
            self.__class__ = Linear
