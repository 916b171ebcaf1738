"""Compressed sparse rows, checked once."""

from __future__ import annotations

import numpy as np

from fastfc import _core, layouts
from fastfc.arrays import array_of, empty, immutable

__all__ = ["CSR", "PackedCSR", "sparse_matmul"]


class CSR:
    """A sparse matrix in compressed sparse rows: the stored entries of row r stand at ``indptr[r]:indptr[r + 1]``.

    The structure is checked here, once, and copied, so that no later change to the caller's arrays can lead a kernel
    out of bounds. The values are not copied where they can be used as they are: changing ``data`` in place (training)
    is seen by the next call.

    Parameters
    ----------
    data : (nnz,) ndarray
        Stored values, float32 or float64.
    indices : (nnz,) integer ndarray
        Column of each stored value; any order in a row, repeats add up.
    indptr : (rows + 1,) integer ndarray
        Where each row begins.
    shape : tuple of int
        ``(rows, cols)``.

    Attributes
    ----------
    data, indices, indptr : ndarray
        The arrays; `indices` and `indptr` are read-only and both int32, or int64 where they have to be.
    shape : tuple of int
    dtype : numpy.dtype
        Of the values.
    nnz : int
        Number of stored entries, ``indptr[-1]``.

    Raises
    ------
    TypeError
        If the values are not float32 or float64, or the indices not integers.
    ValueError
        If lengths disagree, `indptr` does not start at 0, falls or overruns, or an index is out of range.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> w = fastfc.CSR(np.array([2, 3], np.float32), [1, 0], [0, 1, 2], (2, 3))
    >>> fastfc.linear(np.array([[1, 10, 100]], np.float32), w)
    array([[20.,  3.]], dtype=float32)
    """

    __slots__ = ("_data", "_indices", "_indptr", "_shape")

    # Kernels go by what was checked: none of it can be replaced, and the structure's memory cannot be written.
    data = property(lambda self: self._data)
    indices = property(lambda self: self._indices)
    indptr = property(lambda self: self._indptr)
    shape = property(lambda self: self._shape)

    def __init__(self, data, indices, indptr, shape):
        self._data, indices, indptr, self._shape = _check("CSR", "", data, indices, indptr, shape)
        self._indices, self._indptr = immutable(indices), immutable(indptr)
        # The copies are what counts: the originals could have changed since.
        _check_structure("CSR", "", self._indices, self._indptr, self._shape)

    @classmethod
    def _of(cls, data, indices, indptr, shape):
        """Arrays that `_check` has seen, for the length of one call."""
        self = object.__new__(cls)
        self._data, self._indices, self._indptr, self._shape = data, indices, indptr, shape
        return self

    @property
    def nnz(self):
        return int(self._indptr[-1])

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def ndim(self):
        return 2

    def __reduce__(self):
        return CSR, (self.data, self.indices, self.indptr, self.shape)

    def __repr__(self):
        return f"CSR(shape={self.shape}, nnz={self.nnz}, dtype={self.dtype})"


class PackedCSR(CSR):
    """A CSR weight whose products go through packed copies of it, made when first needed; a layer's, not public.

    The forward product's has the layout that the pattern fills (`fastfc.layouts`), those for gradients are tiled. The
    structure is packed once. While the values may change in place, they are copied into the packs before each product,
    unless they are `frozen`; the gradient of the values is in the order of ``data``, as for any CSR.
    """

    __slots__ = ("_frozen", "_pack", "_tiled", "_transposed")

    def __init__(self, data, structure, frozen=False, like=None):
        self._data, (self._indices, self._indptr, self._shape), self._frozen = data, structure, frozen
        self._pack = self._tiled = self._transposed = None
        if like is not None and not frozen and not like._frozen:  # the same structure: its packs serve other values
            self._pack, self._tiled, self._transposed = like._pack, like._tiled, like._transposed

    def packed(self, threads):
        """The weight as `linear` takes it."""
        if self._pack is None:
            self._pack = layouts.packed(self, layouts.best(self), update=not self._frozen)
        elif not self._frozen:
            _core.update_sparse(self._pack, self._data, threads)
        return self._pack

    def for_backward(self, needs_x, needs_values, threads):
        """(weight, transposed) as `_core.backward_sparse` takes them, each only where it is needed."""
        if needs_x and self._transposed is None:
            self._transposed = layouts.packed(self, "tiled", transpose=True, update=True)
        elif needs_x and not self._frozen:
            _core.update_sparse(self._transposed, self._data, threads)
        weight = self._for_values() if needs_values else None
        return weight, self._transposed if needs_x else None

    def _for_values(self):
        """A tiled pack; its values do not matter for their gradient."""
        if self._frozen:
            return layouts.packed(self, "tiled", update=True)
        if self._tiled is None:
            if self._pack is None:
                self._pack = layouts.packed(self, layouts.best(self), update=True)
            self._tiled = self._pack if self._pack.format == "tiled" else layouts.packed(self, "tiled", update=True)
        return self._tiled


def is_sparse(value):
    """Whether `value` is a CSR, or any sparse matrix or array of scipy (which need not be installed)."""
    return isinstance(value, CSR) or (hasattr(value, "format") and hasattr(value, "tocsr"))


def as_csr(function, name, value):
    """`value` as a CSR whose structure is sound."""
    if isinstance(value, CSR):
        return value
    if value.format != "csr":
        raise TypeError(f"{function}(): {name} is a sparse matrix in {value.format} format; convert it with .tocsr()")
    return CSR._of(*_check(function, name + ".", value.data, value.indices, value.indptr, value.shape))


def _integers(function, name, array):
    array = array_of(f"{function}(): {name}", array)
    if array.ndim != 1:
        raise ValueError(f"{function}(): {name} must be 1-D, got shape {array.shape}")
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int64)  # what numpy makes of an empty list
    if array.dtype.kind not in "iu":
        raise TypeError(f"{function}(): {name} must hold integers, got {array.dtype}")
    return array


def _check(function, prefix, data, indices, indptr, shape, whole=True):
    """The four parts in the form that C takes, or an error that says what is wrong. Unless `whole`, indices are not
    looked at."""
    data = array_of(f"{function}(): {prefix}data", data)
    if data.dtype not in (np.float32, np.float64) or not data.dtype.isnative:
        raise TypeError(f"{function}(): {prefix}data must be float32 or float64 in native byte order, got {data.dtype}")
    if data.ndim != 1:
        raise ValueError(f"{function}(): {prefix}data must be 1-D, got shape {data.shape}")
    indices = _integers(function, prefix + "indices", indices)
    indptr = _integers(function, prefix + "indptr", indptr)
    try:
        rows, cols = (int(d) for d in shape)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{function}(): {prefix}shape must be two integers, got {shape!r}") from None
    if rows < 0 or cols < 0:
        raise ValueError(f"{function}(): {prefix}shape must not be negative, got {(rows, cols)}")
    if cols > np.iinfo(np.intp).max:
        raise ValueError(f"{function}(): {prefix}shape must fit {np.intp(0).itemsize * 8} bits, got {(rows, cols)}")
    if len(indptr) != rows + 1:
        raise ValueError(f"{function}(): {prefix}indptr has length {len(indptr)}, expected rows + 1 = {rows + 1}")
    if len(indices) != len(data):
        raise ValueError(f"{function}(): {prefix}indices has length {len(indices)}, {prefix}data has {len(data)}")
    # C reads both with one integer type; int32 where both already are, else int64.
    kind = np.int32 if indices.dtype == np.int32 and indptr.dtype == np.int32 else np.int64
    for name, array in ((prefix + "indices", indices), (prefix + "indptr", indptr)):
        if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{function}(): {name} holds {array.max()}, out of range")
    data = np.require(data, requirements="CA") if not (data.flags.c_contiguous and data.flags.aligned) else data
    indices = np.require(indices, kind, "CA")
    indptr = np.require(indptr, kind, "CA")
    _check_structure(function, prefix, indices, indptr, (rows, cols), whole)
    return data, indices, indptr, (rows, cols)


def _check_structure(function, prefix, indices, indptr, shape, whole=True):
    fault, at = _core.check_csr(indices, indptr, *shape, whole)
    if not fault:
        return
    raise ValueError(
        f"{function}(): "
        + (
            lambda: f"{prefix}indptr starts at {indptr[0]}, expected 0",
            lambda: f"{prefix}indptr falls from {indptr[at]} to {indptr[at + 1]} at row {at}",
            lambda: f"{prefix}indptr[{at}] is {indptr[at]}, beyond the {len(indices)} stored entries",
            lambda: f"{prefix}indices[{at}] is {indices[at]}, out of range for {shape[1]} columns",
        )[fault - 1]()
    )


# ---- Sparse times dense, for its own sake ----------------------------------------------------------------------------


def sparse_matmul(a, b, *, threads=None):
    """The product of a sparse and a dense matrix, in either order, as scipy's ``a @ b``.

    Parameters
    ----------
    a, b : CSR, scipy.sparse CSR or CSC array or matrix, and ndarray
        One of each, float32 or float64, both the same. The dense one may have any strides, and one axis: then it is a
        row (before the sparse one) or a column (behind it). The sparse one is used as it stands: entries in any order,
        those that occur more than once add up.
    threads : int, optional
        At most so many threads, instead of the default (:func:`fastfc.set_num_threads`).

    Returns
    -------
    ndarray
        A new array, of two axes, or of one if the dense operand has one. In C order; that of dense @ sparse is the
        transpose of such, as scipy's is.

    Raises
    ------
    TypeError
        If not exactly one operand is sparse, it is in another format, or dtypes differ or are others.
    ValueError
        If shapes do not fit, or the sparse matrix is malformed.
    MemoryError
        If there is no memory for the result or for workspace.

    Notes
    -----
    Zeros that are not stored are not multiplied: a NaN or Inf opposite them does not travel. The same operands give the
    same bits for any number of threads, layout and FMA target, and a row or column of the result whatever others the
    dense operand has: ``src_c/fastfc.h`` states the order of the sums, which for ``CSR @ dense`` and ``dense @ CSC`` is
    that of `linear`. Work is shared out by stored entries; a row that has many of them is cut.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> a = fastfc.CSR(np.array([2, 3], np.float32), [1, 0], [0, 1, 2], (2, 3))
    >>> fastfc.sparse_matmul(a, np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    array([[6., 8.],
           [3., 6.]], dtype=float32)
    >>> fastfc.sparse_matmul(np.array([1, 10], np.float32), a)
    array([30.,  2.,  0.], dtype=float32)
    """
    from fastfc import functional  # which imports this

    function = "sparse_matmul"
    left = is_sparse(a)
    if left == is_sparse(b):
        raise TypeError(f"{function}(): one of a and b must be sparse and the other dense, got {type(a).__name__} and "
                        f"{type(b).__name__}")
    sparse, dense, name = (a, b, "a") if left else (b, a, "b")
    dense = functional._array(function, "b" if left else "a", dense)
    threads = functional._threads(function, threads)
    csc = not isinstance(sparse, CSR) and sparse.format == "csc"
    if not (isinstance(sparse, CSR) or csc or sparse.format == "csr"):
        raise TypeError(f"{function}(): {name} is a sparse matrix in {sparse.format} format; convert it with .tocsr()")
    if dense.ndim not in (1, 2):
        raise ValueError(f"{function}(): {'b' if left else 'a'} must have one axis or two, got shape {dense.shape}")
    shape = sparse.shape
    inner = dense.shape[0 if left else -1]
    if len(shape) != 2 or shape[1 if left else 0] != inner:
        raise ValueError(f"{function}(): the shapes {a.shape} of a and {b.shape} of b do not fit")
    functional._same_dtype(function, "b", b.dtype, "a", a.dtype)
    checked = isinstance(sparse, CSR)
    rows = sparse if checked else CSR._of(*_check(
        function, name + ".", sparse.data, sparse.indices, sparse.indptr, shape[::-1] if csc else shape, False))
    # In C the sparse operand comes first: what stands before it is seen as its transpose, as is the result.
    matrix = dense[:, None] if dense.ndim == 1 else dense if left else dense.T
    if not matrix.flags.aligned:
        matrix = matrix.copy()
    columns = matrix.shape[1]
    transposed = left == csc
    out = (np.zeros if transposed else empty)((shape[0 if left else 1], columns), dense.dtype)
    # C looks at the indices that it meets; there are none to meet where an operand is empty.
    if not _core.sparse_product(rows, transposed, matrix, out, threads) or not (matrix.size and out.size):
        _check_structure(function, name + ".", rows.indices, rows.indptr, rows.shape)
    if dense.ndim == 1:
        return out.reshape(-1)
    return out if left else out.T


def product(csr, dense):
    """csr @ dense as a new array; None if an index of csr is out of range.

    Of a CSR whose indptr is sound and whose parts are contiguous; dense is aligned, of its dtype, and has a row for
    each of its columns.
    """
    out = empty((csr.shape[0], dense.shape[1]), dense.dtype)
    return out if _core.sparse_product(csr, False, dense, out, _core.get_default_threads()) else None


def transposed_product(csr, dense):
    """csrᵀ @ dense as a new array, of a CSR whose structure is sound and an array of its dtype."""
    out = np.zeros((csr.shape[1], dense.shape[1]), dense.dtype)
    dense = dense if dense.flags.aligned else dense.copy()
    _core.sparse_product(csr, True, dense, out, _core.get_default_threads())
    return out
