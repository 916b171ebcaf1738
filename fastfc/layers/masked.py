"""MaskedLinear: a dense weight under a mask that may change."""

import numpy as np

from fastfc import init
from fastfc._core import Trainable, affine_vjp
from fastfc.arrays import array_of, immutable
from fastfc.functional import linear, pack
from fastfc.layers.affine import Affine, Linear, data_of, default_bias, default_weight
from fastfc.layers.arguments import flag, float_dtype, fraction, size
from fastfc.layers.sparse import SparseLinear, csr_structure, kept_cells
from fastfc.module import Parameter
from fastfc.sparse import CSR

__all__ = ["MaskedLinear"]


class MaskedLinear(Affine):
    """Fully connected layer under a mask, ``y = act(x (mask ∘ W)ᵀ + b)``, with W and the mask dense.

    What the mask hides has no influence on y and gets a gradient of 0, but keeps its value, for a mask that changes
    during training. Once it is settled, `to_sparse` makes the layer that stores and multiplies only what is left.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    sparsity : float in [0, 1]
        Fraction of zeros in the mask, drawn uniformly without replacement as by `SparseLinear`; for no `mask`.
    mask : array_like of bool, or of 0 and 1, (out_features, in_features), optional
    activation, dtype, rng
        As for `Linear`; the mask is drawn first.

    Attributes
    ----------
    weight : Parameter, (out_features, in_features)
    bias : Parameter, (out_features,), or None
    mask : ndarray of bool, (out_features, in_features)
        Read-only; assign another to change it.
    keep_full_gradient : bool
        Whether backward passes also add to `full_gradient`; False at first.
    full_gradient : ndarray, (out_features, in_features), or None
        The gradient of ``mask ∘ W``, of what the mask hides too: what growing by gradient goes by. Set it to None to
        start afresh.

    Raises
    ------
    TypeError, ValueError
        If a size is no integer >= 0, `sparsity` is outside [0, 1], or the mask has another shape or values.

    Notes
    -----
    ``state_dict`` holds the keys ``weight``, ``bias`` and ``mask``. ``mask ∘ W`` is computed in each pass in
    training; in ``eval()`` once, which makes W, its product with the mask, and that packed.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.MaskedLinear(64, 128, sparsity=0.9, rng=0)
    >>> layer
    MaskedLinear(in_features=64, out_features=128, bias=True, kept=819)
    >>> layer.mask = np.abs(layer.weight.data) > 0.1
    >>> layer.to_sparse()(np.ones((32, 64), dtype=np.float32)).shape
    (32, 128)
    """

    buffers = ("mask",)
    keep_full_gradient, full_gradient = False, None

    def __init__(self, in_features, out_features, bias=True, *, sparsity=0.5, mask=None, activation=None,
                 dtype=np.float32, rng=None):
        self.in_features = inputs = size("MaskedLinear", "in_features", in_features)
        self.out_features = outputs = size("MaskedLinear", "out_features", out_features)
        self.activation = activation
        sparsity = fraction("MaskedLinear", "sparsity", sparsity)
        dtype, rng = float_dtype("MaskedLinear", dtype), init.generator(rng)
        bias = flag("MaskedLinear", "bias", bias)
        if mask is None:
            mask = np.zeros(outputs * inputs, bool)
            mask[kept_cells(outputs, inputs, sparsity, rng)] = True
            mask = mask.reshape(outputs, inputs)
        self._mask, self._made = checked_mask(self, mask), (None, None)
        self.weight = Parameter(default_weight(outputs, inputs, dtype, rng))
        self.bias = Parameter(default_bias(outputs, inputs, dtype, rng)) if bias else None

    @property
    def mask(self):
        return self._mask

    @mask.setter
    def mask(self, mask):
        self._mask = checked_mask(self, mask)

    @classmethod
    def from_linear(cls, linear, mask):
        """Make a layer of a `Linear`, with the very same parameters, so that an optimiser that knows them goes on.

        The `Linear` is not to be used any more.

        Raises
        ------
        TypeError, ValueError
            If `linear` is no `Linear`, or the mask has another shape or values.

        Examples
        --------
        >>> import fastfc
        >>> linear = fastfc.Linear(3, 2, rng=0)
        >>> layer = fastfc.MaskedLinear.from_linear(linear, [[1, 0, 1], [0, 1, 0]])
        >>> layer, layer.weight is linear.weight
        (MaskedLinear(in_features=3, out_features=2, bias=True, kept=3), True)
        """
        if type(linear) is not Linear:
            raise TypeError(f"MaskedLinear.from_linear(): linear must be a Linear, got {type(linear).__name__}")
        layer = cls.__new__(cls)
        layer.in_features, layer.out_features = linear.in_features, linear.out_features
        layer.activation, layer.training = linear.activation, linear.training
        layer._mask, layer._made = checked_mask(linear, mask), (None, None)
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.weight.pack_with(None)
        return layer

    def to_linear(self):
        """Return a `Linear` with the very same parameters, zeros written where the mask hides a weight.

        This layer is not to be used any more.

        Examples
        --------
        >>> import numpy as np, fastfc
        >>> layer = fastfc.MaskedLinear(2, 1, mask=[[1, 0]], rng=0)
        >>> float(layer.to_linear().weight.data[0, 1])
        0.0
        """
        layer = Linear.__new__(Linear)
        layer.in_features, layer.out_features = self.in_features, self.out_features
        layer.activation, layer.training = self.activation, self.training
        layer.weight, layer.bias = self.weight, self.bias
        layer.weight.data = np.where(self._mask, self.weight.data, self.weight.data.dtype.type(0))
        layer.weight.pack_with(pack)
        return layer

    def forward(self, x, activation):
        return linear(x, self._effective().operand, data_of(self.bias), activation=activation)

    def forward_vjp(self, x, activation, hidden=False):
        effective, weight, mask = self._effective(), self.weight, self._mask
        into = Trainable()
        y, product_backward = affine_vjp(x, effective.operand, effective.data, into, self.bias, activation, hidden)

        def backward(grad_y, needs_input_grad=True):
            into.grad = None
            grad_x = product_backward(grad_y, needs_input_grad)
            weight.add_grad(times(into.grad, mask))
            if self.keep_full_gradient:
                self.full_gradient = into.grad if self.full_gradient is None else self.full_gradient + into.grad
            return grad_x

        return y, backward

    def _effective(self):
        """A Parameter with the values mask ∘ W."""
        weight, mask = self.weight.data, self._mask
        if not self.weight.frozen:
            return Parameter(times(weight, mask))
        # Both arrays are immutable in eval(), so these very two make the same product. Two threads may both make it.
        sources, effective = self._made
        if sources is None or sources[0] is not weight or sources[1] is not mask:
            effective = Parameter(times(weight, mask), packer=pack)
            effective.freeze()
            self._made = (weight, mask), effective
        return effective

    def to_sparse(self):
        """Return a `SparseLinear` that stores what the mask keeps, with copies of the values and of the bias.

        Raises
        ------
        ValueError
            If the layer has an activation, which a `SparseLinear` has not.
        """
        if self.activation is not None:
            raise ValueError(f"MaskedLinear.to_sparse(): a SparseLinear has no activation, this layer has "
                             f"{self.activation!r}; put it after the layer")
        kept = np.flatnonzero(self._mask)
        csr = CSR(self.weight.data.reshape(-1)[kept], *csr_structure(kept, *self._mask.shape), self._mask.shape)
        return SparseLinear.from_csr(csr, data_of(self.bias))

    def _replace_buffers(self, arrays):
        self._mask = arrays.get("mask", self._mask)

    def __getstate__(self):
        return {**vars(self), "_made": (None, None)}

    def __setstate__(self, state):
        vars(self).update(state)
        self._mask = immutable(self._mask)

    def extra_repr(self):
        return f"{super().extra_repr()}, kept={int(self._mask.sum())}"


def checked_mask(layer, mask):
    """`mask` as an immutable array of bool; raises if it cannot be this layer's."""
    mask, shape = array_of("MaskedLinear: mask", mask), (layer.out_features, layer.in_features)
    if mask.dtype.kind not in "biuf":
        raise TypeError(f"MaskedLinear: mask must be of bools or of 0 and 1, got {mask.dtype}")
    if mask.shape != shape:
        raise ValueError(f"MaskedLinear: mask must have shape {shape}, got {mask.shape}")
    wrong = (mask != 0) & (mask != 1)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"MaskedLinear: mask{list(at)} is {mask[at]}, expected 0 or 1")
    return immutable(mask.astype(bool))


def times(array, mask):
    with np.errstate(invalid="ignore"):  # Inf · 0
        return array * mask
