"""LowRankLinear: a weight of low rank, kept as its two factors."""

import numpy as np

from fastfc import init
from fastfc.functional import linear
from fastfc.layers.affine import Factored, Linear
from fastfc.layers.arguments import float_dtype, fraction, size

__all__ = ["LowRankLinear"]


class LowRankLinear(Factored):
    """Fully connected layer whose weight has rank `rank`: ``y = act((x Aᵀ) Bᵀ + b)``.

    In place of in · out weights there are rank · (in + out), and as many multiply-adds a row.

    Parameters
    ----------
    in_features, out_features : int
    rank : int
        From 1 to the smaller of the two.
    bias : bool
    activation, dtype, rng
        As for `Linear`.

    Attributes
    ----------
    A : Linear, in_features to rank, without a bias
    B : Linear, rank to out_features
    error : float or None
        Of `from_linear`, when it made the layer: ``‖W - B A‖ / ‖W‖`` in the Frobenius norm.

    Raises
    ------
    TypeError, ValueError
        If a size is no integer >= 0, or `rank` is larger than possible. A call raises what `fastfc.linear` raises.

    References
    ----------
    .. [1] C. Eckart, G. Young: The approximation of one matrix by another of lower rank. Psychometrika 1, 1936.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.LowRankLinear(256, 128, rank=16, rng=0)
    >>> layer
    LowRankLinear(in_features=256, out_features=128, rank=16, bias=True)
    >>> [(name, p.shape) for name, p in layer.named_parameters()]
    [('A.weight', (16, 256)), ('B.weight', (128, 16)), ('B.bias', (128,))]
    >>> layer(np.ones((32, 256), dtype=np.float32)).shape
    (32, 128)
    """

    steps = ("A", "B")
    error = None

    def __init__(self, in_features, out_features, rank=64, bias=True, *, activation=None, dtype=np.float32, rng=None):
        inputs = size("LowRankLinear", "in_features", in_features)
        outputs = size("LowRankLinear", "out_features", out_features)
        rank = size("LowRankLinear", "rank", rank, 1)
        if rank > min(inputs, outputs):
            raise ValueError(f"LowRankLinear(): rank must be at most {min(inputs, outputs)} for a weight of shape "
                             f"{(outputs, inputs)}, got {rank}")
        dtype, rng = float_dtype("LowRankLinear", dtype), init.generator(rng)
        self.A = Linear(inputs, rank, False, dtype=dtype, rng=rng)
        self.B = Linear(rank, outputs, bias, activation=activation, dtype=dtype, rng=rng)

    @classmethod
    def from_linear(cls, layer, *, rank=None, energy=None):
        """Make a layer of the best approximation of a `Linear`'s weight, by its singular value decomposition.

        ``W = U S Vᵀ`` is cut after `rank` singular values s: ``A = √S Vᵀ``, ``B = U √S``. No matrix of that rank is
        nearer to W in the Frobenius norm [1]_; how near is the attribute `error`.

        Parameters
        ----------
        layer : Linear
            Its bias and activation are kept. Nothing of it is shared.
        rank : int
        energy : float in [0, 1]
            In place of `rank`: the least rank whose singular values have this share of ``Σ s² = ‖W‖²``; then
            ``error <= sqrt(1 - energy)``.

        Returns
        -------
        LowRankLinear

        Raises
        ------
        TypeError
            If `layer` is no `Linear`, or not one of `rank` and `energy` is given.
        ValueError
            If the rank is larger than possible, `energy` outside [0, 1], or the weight not finite.

        Examples
        --------
        >>> import numpy as np, fastfc
        >>> layer = fastfc.Linear(6, 4, rng=0)
        >>> small = fastfc.LowRankLinear.from_linear(layer, energy=0.9)
        >>> small.rank < 4 and small.error < 0.1 ** 0.5
        True
        """
        name = f"{cls.__name__}.from_linear()"
        if not isinstance(layer, Linear):
            raise TypeError(f"{name}: layer must be a Linear, got {type(layer).__name__}")
        if (rank is None) == (energy is None):
            raise TypeError(f"{name}: give one of rank and energy, got rank={rank}, energy={energy}")
        weight = layer.weight.data
        if not np.isfinite(weight).all():
            raise ValueError(f"{name}: layer.weight holds values that are not finite")
        if not weight.size:
            raise ValueError(f"{name}: layer.weight is empty, of shape {weight.shape}")
        u, s, vt = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
        total = np.square(s).sum()
        if rank is None:
            kept = np.cumsum(np.square(s))
            wanted = fraction(name.removesuffix("()"), "energy", energy) * kept[-1]
            rank = min(int(np.searchsorted(kept, wanted)) + 1, s.size)
        low = cls(layer.in_features, layer.out_features, rank, layer.bias is not None, activation=layer.activation,
                  dtype=weight.dtype, rng=0)
        rank, root = low.rank, np.sqrt(s[:low.rank])
        low.A.weight.data = (root[:, None] * vt[:rank]).astype(weight.dtype)
        low.B.weight.data = (u[:, :rank] * root).astype(weight.dtype)
        if layer.bias is not None:
            low.B.bias.data = layer.bias.data.copy()
        low.error = float(np.sqrt(np.square(s[rank:]).sum() / total)) if total else 0.0
        return low

    def to_dense(self):
        """Return the weight ``B A`` as a fresh array (out_features, in_features)."""
        return linear(self.B.weight.data, self.A.weight.data.T)

    rank = property(lambda self: self.A.out_features)

    def inner_repr(self):
        return f"rank={self.rank}" if self.error is None else f"rank={self.rank}, error={self.error:.3g}"
