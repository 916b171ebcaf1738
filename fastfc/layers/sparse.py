"""SparseLinear: a weight of which only the stored entries exist."""

import math
import sys

import numpy as np

from fastfc import init
from fastfc.arrays import immutable
from fastfc.layers.affine import Affine, default_bias
from fastfc.layers.arguments import flag, float_dtype, fraction, size
from fastfc.module import FLOATS, Parameter
from fastfc.sparse import CSR, PackedCSR


class SparseLinear(Affine):
    """Fully connected layer under a fixed random mask, ``y = x (mask ∘ W)ᵀ + b``; only what the mask keeps is
    stored (CSR), multiplied and trained.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    sparsity : float in [0, 1]
        Fraction of zeros. ``round((1 - sparsity) · in · out)`` entries are stored, at places drawn uniformly
        without replacement.
    dtype : float32 or float64
    rng : numpy.random.Generator, int or None
        Source of the mask and of the initial values, which are those of a masked `Linear`: U(-k, k),
        k = 1/√in_features.

    Attributes
    ----------
    weight : Parameter, (stored entries,)
        The stored values, row by row.
    indices : ndarray of int32 or int64, (stored entries,)
        Their columns. Read-only.
    indptr : ndarray of int32 or int64, (out_features + 1,)
        Row n is stored at ``indptr[n]:indptr[n + 1]``. Read-only.
    bias : Parameter, (out_features,), or None

    Raises
    ------
    TypeError, ValueError
        If a size is no integer >= 0, `sparsity` is outside [0, 1], or `dtype` is neither float32 nor float64.

    Notes
    -----
    ``state_dict`` holds the keys ``weight`` (the stored values), ``bias``, ``indices`` and ``indptr``. A state
    loads into a layer with the same number of stored entries; its structure is checked as by `fastfc.CSR`.

    A NaN or Inf in x reaches y through stored entries only.

    Products go through packed copies of the weight (see `fastfc.pack`), whose structure is laid out once: in training
    one for the forward and one for the backward pass, each 9 or 10 bytes an entry in float32, into which the values are
    copied before each product; in ``eval()`` one of 5 or 6 bytes an entry. Where the entries fill blocks that `pack`
    has a layout for (as `prune.blocks` and `prune.n_m` leave them), the forward product's has that layout, and training
    takes 10 bytes an entry more.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.SparseLinear(64, 128, sparsity=0.9, rng=0)
    >>> layer
    SparseLinear(in_features=64, out_features=128, bias=True, nnz=819)
    >>> y, backward = layer.vjp(np.ones((32, 64), dtype=np.float32))
    >>> grad_x = backward(np.ones_like(y))
    >>> y.shape, grad_x.shape, layer.weight.grad.shape
    ((32, 128), (32, 64), (819,))
    """

    buffers = ("indices", "indptr")

    def __init__(self, in_features, out_features, bias=True, *, sparsity=0.5, dtype=np.float32, rng=None):
        inputs = size("SparseLinear", "in_features", in_features)
        outputs = size("SparseLinear", "out_features", out_features)
        sparsity = fraction("SparseLinear", "sparsity", sparsity)
        dtype, rng = float_dtype("SparseLinear", dtype), init.generator(rng)
        bias = flag("SparseLinear", "bias", bias)
        kept = kept_cells(outputs, inputs, sparsity, rng)
        self._build(np.empty(kept.size, dtype), *csr_structure(kept, outputs, inputs), (outputs, inputs))
        init.kaiming_uniform_(self.weight.data, math.sqrt(5), fan_in=inputs, rng=rng)
        self.bias = Parameter(default_bias(outputs, inputs, dtype, rng)) if bias else None

    @classmethod
    def from_csr(cls, csr, bias=None):
        """Make a layer of a sparse weight.

        Parameters
        ----------
        csr : scipy.sparse CSR array or matrix, or fastfc.CSR; (out_features, in_features), float32 or float64
            Copied. Entries stored twice add up; each of them is trained.
        bias : ndarray, (out_features,), of the same dtype; or None
            Copied.

        Raises
        ------
        TypeError
            If `csr` is in another format or not CSR at all, or a dtype is wrong.
        ValueError
            If the structure is malformed, or the shape of `bias` does not fit.

        Examples
        --------
        >>> import numpy as np, fastfc
        >>> csr = fastfc.CSR(np.float32([3, 4]), np.int32([0, 2]), np.int32([0, 1, 2]), (2, 3))
        >>> fastfc.SparseLinear.from_csr(csr).to_dense()
        array([[3., 0., 0.],
               [0., 0., 4.]], dtype=float32)
        """
        # scipy's csc and bsr have the same four attributes and mean something else by them.
        wanted = all(hasattr(csr, name) for name in ("data", "indices", "indptr", "shape"))
        if not wanted or getattr(csr, "format", "csr") != "csr":
            got = getattr(csr, "format", None)
            got = f"{type(csr).__name__}" + (f" in format {got!r}" if isinstance(got, str) else "")
            raise TypeError(f"SparseLinear.from_csr(): csr must be a CSR array or matrix, got {got}")
        layer = cls.__new__(cls)
        layer._build(np.array(csr.data, order="C"), csr.indices, csr.indptr, csr.shape)
        layer.bias = _given_bias("from_csr", bias, layer)
        return layer

    @classmethod
    def from_dense(cls, weight, bias=None, *, threshold=0.0):
        """Make a layer that stores the entries of a dense weight with ``|w| > threshold``, and NaNs.

        Parameters
        ----------
        weight : ndarray of float32 or float64, (out_features, in_features)
        bias : ndarray, (out_features,), of the same dtype; or None
            Copied.
        threshold : float >= 0

        Raises
        ------
        TypeError
            If `weight` or `bias` is no array of the right dtype.
        ValueError
            If a shape does not fit, or `threshold` is negative or NaN.

        Examples
        --------
        >>> import numpy as np, fastfc
        >>> fastfc.SparseLinear.from_dense(np.float32([[0.1, -2], [3, 0]]), threshold=0.5)
        SparseLinear(in_features=2, out_features=2, bias=False, nnz=2)
        """
        if not isinstance(weight, np.ndarray) or weight.dtype not in FLOATS:
            got = weight.dtype if isinstance(weight, np.ndarray) else type(weight).__name__
            raise TypeError(f"SparseLinear.from_dense(): weight must be a float32 or float64 array, got {got}")
        if weight.ndim != 2:
            raise ValueError(f"SparseLinear.from_dense(): weight must be 2-D, got shape {weight.shape}")
        if not threshold >= 0:
            raise ValueError(f"SparseLinear.from_dense(): threshold must be >= 0, got {threshold}")
        kept = np.flatnonzero(~(np.abs(weight) <= threshold))
        layer = cls.__new__(cls)
        layer._build(weight.reshape(-1)[kept], *csr_structure(kept, *weight.shape), weight.shape)
        layer.bias = _given_bias("from_dense", bias, layer)
        return layer

    def to_dense(self):
        """Return W as a fresh array (out_features, in_features), with zeros where nothing is stored."""
        dense = np.zeros(self._structure[2], self.weight.data.dtype)
        rows = np.repeat(np.arange(len(dense)), np.diff(self.indptr))
        np.add.at(dense, (rows, self.indices), self.weight.data)
        return dense

    def _build(self, values, indices, indptr, shape):
        csr = CSR(values, indices, indptr, shape)  # checks all four
        self.out_features, self.in_features = csr.shape
        self.weight = Parameter(csr.data[:csr.nnz])
        # The structure is never written again, so what was checked once stays sound.
        # in_features and out_features are for the reader: assigning them changes nothing that C sees.
        self._structure = immutable(csr.indices[:csr.nnz]), immutable(csr.indptr), csr.shape
        self._made = None, None, None

    @property
    def indices(self):
        return self._structure[0]

    @property
    def indptr(self):
        return self._structure[1]

    def _matrix(self):
        # Made again when the values or the structure were replaced. Two threads may both do so, with equal results.
        values, structure, matrix = self._made
        if values is not self.weight.data or structure is not self._structure:
            like = matrix if structure is self._structure else None
            values, structure = self.weight.data, self._structure
            matrix = PackedCSR(values, structure, self.weight.frozen, like)
            self._made = values, structure, matrix
        return matrix

    _operand = _matrix

    def _problems(self, arrays):
        indices, indptr = (arrays.get(name, getattr(self, name)) for name in self.buffers)
        try:
            used = CSR(self.weight.data, indices, indptr, self._structure[2]).nnz
        except ValueError as error:
            yield f"indices, indptr: {error}"
        else:
            if used != indices.size:
                yield f"indptr: expected {indices.size} as its last element, got {used}"

    def _replace_buffers(self, arrays):
        indices, indptr, shape = self._structure
        self._structure = arrays.get("indices", indices), arrays.get("indptr", indptr), shape

    def __getstate__(self):
        return {**vars(self), "_made": (None, None, None)}

    def __setstate__(self, state):
        vars(self).update(state)
        indices, indptr, shape = self._structure
        self._structure = immutable(indices), immutable(indptr), shape

    def extra_repr(self):
        return (f"in_features={self.in_features}, out_features={self.out_features}, "
                f"bias={self.bias is not None}, nnz={self.indices.size}")


def _given_bias(function, bias, layer):
    if bias is None:
        return None
    dtype = layer.weight.data.dtype
    if not isinstance(bias, np.ndarray) or bias.dtype != dtype:
        got = bias.dtype if isinstance(bias, np.ndarray) else type(bias).__name__
        raise TypeError(f"SparseLinear.{function}(): bias must be a {dtype} array, got {got}")
    if bias.shape != (layer.out_features,):
        raise ValueError(f"SparseLinear.{function}(): bias must have shape ({layer.out_features},), "
                         f"got {bias.shape}")
    return Parameter(bias.copy())


def kept_cells(rows, columns, sparsity, rng):
    """Of the cells of a rows × columns matrix, counted row by row, those that a random mask keeps; ascending."""
    cells = rows * columns
    if cells > sys.maxsize:
        raise ValueError(f"in_features * out_features must be <= {sys.maxsize}, got {columns} * {rows}")
    return np.sort(rng.choice(cells, round((1 - sparsity) * cells), replace=False, shuffle=False))


def csr_structure(kept, rows, columns):
    """Indices and indptr of the cells `kept` (row-major, ascending) of a rows × columns matrix."""
    small = max(columns, kept.size) <= np.iinfo(np.int32).max
    dtype = np.int32 if small else np.int64
    indptr = np.searchsorted(kept, np.arange(rows + 1) * columns).astype(dtype)
    return (kept % max(columns, 1)).astype(dtype), indptr
