"""`pack`: a weight in the order in which the kernels read it, dense or sparse."""

from __future__ import annotations

import time

import numpy as np

from fastfc import _core, layouts
from fastfc.arrays import array_of
from fastfc.functional import check_pack
from fastfc.sparse import CSR, as_csr, is_sparse

__all__ = ["pack"]

FORMATS = ("auto", "dense", "tiled", *layouts.BLOCKS)


def pack(weight, *, format=None, tune=False, batch=64):
    """Copy a weight into the layout that the kernels read fastest.

    Parameters
    ----------
    weight : (out_features, in_features) ndarray, fastfc.CSR, or scipy.sparse CSR, CSC, COO or BSR
        float32 or float64, any strides. Entries that a sparse matrix stores twice add up.
    format : {None, "auto", "dense", "tiled", "16x1", "1x16", "2:4", "1:4"}, optional
        None: an array stays dense and a sparse matrix sparse, in a layout of blocks if its entries fill blocks wholly,
        else "tiled". "auto": likewise, or "dense" if too much is stored for the sparse layout to gain by; from shape,
        entries and pattern alone. A name: that layout. Of an array the places that are not 0 are stored in a sparse
        layout; then a NaN or Inf in x meets stored entries only. "dense": a sparse matrix is filled up with zeros.

        "16x1": 16 outputs that follow each other store the same inputs (BSR blocks whose height 16 divides; n:m shared
        over 16 outputs). "1x16": 16 inputs that follow each other. "2:4", "1:4": of each 4 inputs so many. Blocks are
        counted from the first output and input. What they have no entry for is filled up with zeros, which are stored
        entries from then on.
    tune : bool
        Time what `format` leaves open, with random numbers, and take the fastest: with None the sparse layouts that a
        sparse matrix fills wholly; with "auto" dense too. Then two runs may differ in their choice, and so in bits.
    batch : int >= 1
        Rows of x that `tune` measures with.

    Returns
    -------
    PackedWeight or PackedSparse
        Usable wherever :func:`fastfc.linear` takes a weight. A PackedWeight gives the bits of the array; the order of
        summation of a PackedSparse is its own, and the same for any batch.

    Raises
    ------
    TypeError
        If `weight` is no float32 or float64 array, nor a sparse matrix of such values.
    ValueError
        If it is not 2-D, or its structure is malformed, or there is no such format, or it does not go into it: inputs
        that 16 or 4 does not divide, more than n entries in 4 inputs.
    MemoryError
        If there is no room for the copy.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> w = fastfc.pack(np.ones((2, 3), np.float32))
    >>> fastfc.linear(np.ones(3, np.float32), w)
    array([3., 3.], dtype=float32)
    >>> pruned = np.where(np.arange(6).reshape(2, 3) % 3, 0, np.float32(2))
    >>> fastfc.pack(pruned, format="auto")
    PackedSparse(shape=(2, 3), dtype=float32, format='tiled', nnz=2, nbytes=70)
    """
    if format is not None and not isinstance(format, str):
        raise TypeError(f"pack(): format must be a string, got {format.__class__.__name__}")
    if format is not None and format not in FORMATS:
        raise ValueError(f"pack(): format must be one of {', '.join(map(repr, FORMATS))}, got {format!r}")
    format = format if format is None else str(format)  # numpy's strings too
    if not isinstance(tune, (bool, np.bool_)):
        raise TypeError(f"pack(): tune must be a bool, got {type(tune).__name__}")
    if isinstance(batch, (bool, np.bool_)) or not isinstance(batch, (int, np.integer)):
        raise TypeError(f"pack(): batch must be an integer, got {type(batch).__name__}")
    if batch < 1:
        raise ValueError(f"pack(): batch must be at least 1, got {batch}")
    if not is_sparse(weight):
        if format is None or format == "dense":
            return _core.pack(weight)
        weight = check_pack(weight)
        csr = _stored(weight)
    else:
        csr = _rows_of(weight)
    open_to = _candidates(csr, format, tune)
    packed = [_packed(csr, weight, name) for name in open_to]
    return packed[0] if len(packed) == 1 else _fastest(packed, batch)


def _candidates(csr, format, tune):
    """Names of the layouts that `format` leaves open: one, unless they are to be timed."""
    if format is not None and format != "auto":
        if format in layouts.BLOCKS:
            refusal = layouts.refusal(csr, format)
            if refusal:
                raise ValueError(f"pack(): weight does not go into format {format!r}: {refusal}")
        return [format]
    best = layouts.best(csr)
    if tune:
        return [*dict.fromkeys([best, "tiled"]), *(["dense"] if format == "auto" else [])]
    most = layouts.BLOCKS[best].most if best in layouts.BLOCKS else 0.55
    return ["dense" if format == "auto" and csr.nnz > most * csr.shape[0] * csr.shape[1] else best]


def _packed(csr, weight, name):
    if name == "dense":
        return _core.pack(_dense(csr) if is_sparse(weight) else weight)
    return layouts.packed(csr, name)


def _fastest(packed, batch, seconds=0.02):
    """The one whose best time for a product with random numbers is least, all timed in turn."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, packed[0].shape[1])).astype(packed[0].dtype)
    times = dict.fromkeys(range(len(packed)), np.inf)
    end = time.perf_counter() + seconds * len(packed)
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        for i in times:
            start = time.perf_counter()
            _core.linear(x, packed[i])
            times[i] = min(times[i], time.perf_counter() - start)
        rounds += 1
    return packed[min(times, key=times.get)]


def _stored(array):
    """What an array has that is not 0, NaN included, as CSR."""
    stored = array != 0
    rows, columns = np.nonzero(stored)
    indptr = np.searchsorted(rows, np.arange(len(array) + 1))
    return CSR._of(array[stored], columns.astype(np.int64), indptr.astype(np.int64), array.shape)


def _dense(csr):
    dense = np.zeros(csr.shape, csr.dtype)
    rows = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
    np.add.at(dense, (rows, csr.indices[: csr.nnz]), csr.data[: csr.nnz])
    return dense


def _rows_of(weight):
    """A sparse matrix of any format as a CSR that was checked."""
    if isinstance(weight, CSR) or weight.format == "csr":
        return as_csr("pack", "weight", weight)
    if weight.format not in ("csc", "coo", "bsr"):
        raise TypeError(f"pack(): weight is a sparse matrix in {weight.format} format; convert it with .tocsr()")
    if weight.data.dtype not in (np.float32, np.float64) or not weight.data.dtype.isnative:
        raise TypeError(f"pack(): weight must be float32 or float64 in native byte order, got {weight.data.dtype}")
    return as_csr("pack", "weight", _UNPACK[weight.format](weight))


def _from_coo(rows, columns, data, shape):
    """COO as CSR, entries of a row in their order. Checked for range first: what is out of it can't be sorted in."""
    rows, columns, data = (array_of(f"pack(): weight.{name}", array)
                           for name, array in (("row", rows), ("col", columns), ("data", data)))
    for name, index, count in (("row", rows, shape[0]), ("col", columns, shape[1])):
        if index.dtype.kind not in "iu":
            raise TypeError(f"pack(): weight.{name} must hold integers, got {index.dtype}")
        if index.shape != data.shape or data.ndim != 1:
            raise ValueError(f"pack(): weight.{name} has shape {index.shape}, weight.data has {data.shape}")
        wrong = (index < 0) | (index >= count)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(f"pack(): weight.{name}[{at}] is {index[at]}, out of range for {count}")
    order = np.argsort(rows, kind="stable")
    indptr = np.searchsorted(rows[order], np.arange(shape[0] + 1))
    return CSR._of(data[order], columns[order].astype(np.int64), indptr.astype(np.int64), shape)


def _coo(weight):
    if len(weight.shape) != 2:
        raise ValueError(f"pack(): weight must be 2-D (out_features, in_features), got shape {weight.shape}")
    return _from_coo(weight.row, weight.col, weight.data, weight.shape)


def _csc(weight):
    n, k = weight.shape
    across = as_csr("pack", "weight", CSR(weight.data, weight.indices, weight.indptr, (k, n)))
    columns = np.repeat(np.arange(k), np.diff(across.indptr))
    return _from_coo(across.indices[: across.nnz], columns, across.data[: across.nnz], (n, k))


def _bsr(weight):
    (n, k), data = weight.shape, array_of("pack(): weight.data", weight.data)
    if data.ndim != 3 or 0 in data.shape[1:] or n % data.shape[1] or k % data.shape[2]:
        raise ValueError(f"pack(): weight.data has shape {data.shape}, expected blocks that divide {weight.shape}")
    r, c = data.shape[1:]
    blocks = CSR(np.zeros(len(data), data.dtype), weight.indices, weight.indptr, (n // r, k // c))
    rows = np.repeat(np.arange(n // r), np.diff(blocks.indptr))[:, None, None] * r + np.arange(r)[:, None]
    columns = blocks.indices[: blocks.nnz].astype(np.int64)[:, None, None] * c + np.arange(c)
    rows, columns = (np.broadcast_to(a, (blocks.nnz, r, c)).reshape(-1) for a in (rows, columns))
    return _from_coo(rows, columns, data[: blocks.nnz].reshape(-1), (n, k))


_UNPACK = {"coo": _coo, "csc": _csc, "bsr": _bsr}
