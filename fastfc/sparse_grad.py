"""The gradient of a table of which a batch touches few rows."""

import numpy as np

from fastfc import _core
from fastfc.arrays import array_of
from fastfc.sparse import CSR

__all__ = ["SparseGrad"]


def distinct(indices, count):
    """The different ones of some indices in [0, count), ascending, and the place of each index among them."""
    if count > 128 * len(indices):
        return np.unique(indices, return_inverse=True)
    seen, place = np.zeros(count, bool), np.empty(count, np.intp)  # sooner than sorting
    seen[indices] = True
    rows = np.flatnonzero(seen)
    place[rows] = np.arange(len(rows))
    return rows, place[indices]


class SparseGrad:
    """Gradient of an array of shape (rows, dim) that is zero but for some rows, which alone are stored.

    ``values[i]`` belongs to row ``indices[i]``; a row that occurs more than once has the sum. A layer such as an
    embedding leaves one in ``Parameter.grad``; optimisers that can work on single rows take it (see `fastfc.optim`).

    Parameters
    ----------
    indices : (n,) integer array_like
        Rows, each in [0, rows), in any order, repeats allowed. Kept as int64.
    values : (n, dim) ndarray of float32 or float64
        Taken as it is, not copied.
    shape : tuple of int
        ``(rows, dim)`` of the whole.

    Attributes
    ----------
    indices, values : ndarray
    shape : tuple of int
    dtype : numpy.dtype
        Of the values.

    Raises
    ------
    TypeError
        If `indices` are not integers or `values` not an array of float32 or float64.
    ValueError
        If shapes disagree or an index is out of range.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> g = fastfc.SparseGrad([3, 0, 3], np.float32([[1, 2], [3, 4], [5, 6]]), (4, 2))
    >>> g.coalesce().indices
    array([0, 3])
    >>> g.to_dense()
    array([[3., 4.],
           [0., 0.],
           [0., 0.],
           [6., 8.]], dtype=float32)
    >>> g + g
    SparseGrad(shape=(4, 2), rows=6, dtype=float32)
    """

    __slots__ = ("indices", "shape", "values")

    # ``array + sparse`` is for __radd__ to answer, not for numpy to go through element by element.
    __array_ufunc__ = None

    def __init__(self, indices, values, shape):
        if not isinstance(values, np.ndarray) or values.dtype not in (np.float32, np.float64):
            got = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
            raise TypeError(f"SparseGrad(): values must be a float32 or float64 array, got {got}")
        try:
            rows, dim = (int(d) for d in shape)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"SparseGrad(): shape must be two integers, (rows, dim), got {shape!r}") from None
        if rows < 0 or dim < 0:
            raise ValueError(f"SparseGrad(): shape must not be negative, got {(rows, dim)}")
        indices = array_of("SparseGrad(): indices", indices)
        if indices.ndim != 1:
            raise ValueError(f"SparseGrad(): indices must be 1-D, got shape {indices.shape}")
        if indices.size == 0 and indices.dtype == np.float64:
            indices = indices.astype(np.int64)  # what numpy makes of an empty list
        if indices.dtype.kind not in "iu":
            raise TypeError(f"SparseGrad(): indices must hold integers, got {indices.dtype}")
        if values.shape != (len(indices), dim):
            raise ValueError(f"SparseGrad(): values must have shape {(len(indices), dim)}, one row for each index, "
                             f"got {values.shape}")
        if indices.size and not (0 <= int(indices.min()) and int(indices.max()) < rows):
            at = int(np.argmax((indices < 0) | (indices >= rows)))
            raise ValueError(f"SparseGrad(): indices[{at}] is {indices[at]}, expected a row in [0, {rows})")
        self.indices, self.values, self.shape = indices.astype(np.int64, copy=False), values, (rows, dim)

    @property
    def dtype(self):
        return self.values.dtype

    def coalesce(self):
        """Return the same gradient with rows ascending and each stored once; itself, if it is so already.

        Values of a repeated row are added in the order in which they are stored, so the same gradient gives the same
        bits for any number of threads.
        """
        if np.all(self.indices[1:] > self.indices[:-1]):
            return self
        rows, places = distinct(self.indices, self.shape[0])
        if len(rows) <= 1 << 16:
            places = places.astype(np.uint16)  # which numpy sorts by counting
        order, indptr = np.argsort(places, kind="stable"), np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.bincount(places), out=indptr[1:])
        # Summing rows is a product with a sparse matrix of ones.
        ones = CSR(np.ones(len(order), self.dtype), order, indptr, (len(rows), len(order)))
        return SparseGrad(rows, _core.linear(ones, self.values.T), self.shape)

    def to_dense(self):
        """Return the whole as an array of shape (rows, dim)."""
        once = self.coalesce()
        dense = np.zeros(self.shape, self.dtype)
        dense[once.indices] = once.values
        return dense

    def __add__(self, other):
        """The sum: sparse of two sparse ones (stored one behind the other), an array if the other one is an array."""
        if not isinstance(other, (SparseGrad, np.ndarray)):
            return NotImplemented
        if other.shape != self.shape or other.dtype != self.dtype:
            raise ValueError(f"SparseGrad + {type(other).__name__}: expected {self.dtype} of shape {self.shape}, "
                             f"got {other.dtype} of shape {other.shape}")
        if isinstance(other, np.ndarray):
            return self.to_dense() + other
        return SparseGrad(np.concatenate((self.indices, other.indices)),
                          np.concatenate((self.values, other.values)), self.shape)

    __radd__ = __add__

    def __repr__(self):
        return f"SparseGrad(shape={self.shape}, rows={len(self.indices)}, dtype={self.dtype})"
