# Packed sparse weights. The structure is checked in fastfc.packing; here are the object and the checked calls.

cdef extern from "fastfc.h" nogil:
    ctypedef struct fc_sparse:
        pass
    enum:
        FC_SPARSE_TRANSPOSE
        FC_SPARSE_UPDATE
    fc_sparse *fc_sparse_pack(fc_dtype dtype, const fc_csr *csr, int flags)
    void fc_sparse_free(fc_sparse *sparse)
    size_t fc_sparse_bytes(const fc_sparse *sparse)
    Py_ssize_t fc_sparse_tile(const fc_sparse *sparse)
    double fc_sparse_padding(const fc_sparse *sparse)
    void fc_sparse_update(fc_sparse *sparse, const void *values, int threads)
    void fc_sparse_unpack(const fc_sparse *sparse, void *values, int64_t *indices, int64_t *indptr)
    fc_status fc_linear_forward_sparse(fc_dtype, const fc_matrix *, const fc_sparse *, const fc_epilogue *, int)
    fc_status fc_linear_backward_sparse(fc_dtype, const fc_upstream *, const fc_matrix *, const fc_sparse *,
                                        const fc_sparse *, const fc_gradients *, int)


@cython.final
cdef class PackedSparse:
    """A sparse weight copied once into the order in which the kernels read it.

    Made by :func:`fastfc.pack` from a sparse matrix, usable wherever :func:`fastfc.linear` takes a weight, and immutable. It
    multiplies its stored entries only: a NaN in x reaches y where an entry is stored, be that entry 0, and nowhere else.

    Attributes
    ----------
    shape : tuple of int
        ``(out_features, in_features)``.
    dtype : numpy.dtype
        float32 or float64.
    format : str
        The layout: "tiled"; or of blocks "16x1", "1x16", "2:4", "1:4" (see :func:`fastfc.pack`).
    nnz : int
        Stored entries; zeros that fill up a block are such.
    nbytes : int
        Bytes held. Tiled: for each entry its value and 1 or 2 bytes for its place, a few percent of padding, and the directory.
        Blocks: the values, those of outputs rounded up to 16 (n:4: 32), with 4 bytes for 16 of them, n:4 2 bits each.

    Notes
    -----
    Tiled: the inputs are cut into tiles. An output's sum over its entries in a tile is one chain of fused multiply-adds in order
    of k; the total starts at +0 and takes the sums of the tiles in order of k. The length of a tile follows from the shape
    and the number of entries. The other layouts' sums are those of a CSR weight, chains of 192 entries; "1x16" adds up 16
    chains, one for each place in a block. ``src_c/fastfc.h`` says it all; so the same matrix gives the same bits for any batch, number of
    threads and target with FMA.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> csr = fastfc.CSR(np.float32([2, 3]), [1, 0], [0, 1, 2], (2, 3))
    >>> packed = fastfc.pack(csr)
    >>> packed.shape, packed.nnz, packed.format
    ((2, 3), 2, 'tiled')
    >>> fastfc.linear(np.float32([[1, 10, np.nan]]), packed)
    array([[20.,  3.]], dtype=float32)
    """
    cdef fc_sparse *sparse      # tiled, or
    cdef fc_blocks *blocks
    cdef str layout
    cdef int type_num
    cdef Py_ssize_t n, k, stored
    cdef object __weakref__

    def __init__(self):
        raise TypeError("PackedSparse is made by fastfc.pack(weight)")

    def __dealloc__(self):
        fc_sparse_free(self.sparse)
        fc_blocks_free(self.blocks)

    @property
    def shape(self):
        return (self.n, self.k)

    @property
    def ndim(self):
        return 2

    @property
    def dtype(self):
        return np.dtype(np.float32 if self.type_num == cnp.NPY_FLOAT else np.float64)

    @property
    def format(self):
        return self.layout

    @property
    def nnz(self):
        return self.stored

    @property
    def nbytes(self):
        return fc_sparse_bytes(self.sparse) if self.sparse != NULL else fc_blocks_bytes(self.blocks)

    def explain(self):
        """Return what was chosen and why, as text of a few lines.

        Examples
        --------
        >>> import numpy as np, fastfc
        >>> print(fastfc.pack(np.eye(64, dtype=np.float32), format="auto").explain())
        64 outputs x 64 inputs, float32, 64 entries (98.4 % zeros)
        tiled: tiles of 384 inputs, because some 12 entries of a row should share one
        688 bytes, dense 16384; work: 1.00 multiply-adds an entry, dense 64.0
        """
        from fastfc.layouts import BLOCKS
        cdef Py_ssize_t places = self.n * self.k, tile
        cdef double padding = 1
        zeros = 100 * (1 - <double>self.stored / places) if places else 0.0
        if self.sparse != NULL:
            tile, padding = fc_sparse_tile(self.sparse), fc_sparse_padding(self.sparse)
            many = ("because more than 40 % are stored" if zeros < 60 else
                    "because more than 15 % are stored, of so many that they are better read half as often")
            reason = {112: many, 176: "because more than 15 % are stored", 240: "because more than 7 % are stored"}.get(
                tile, "because some 12 entries of a row should share one")
            reason = f"tiles of {tile} inputs, {reason}"
        else:
            reason = BLOCKS[self.layout].why
        return (f"{self.n} outputs x {self.k} inputs, {self.dtype}, {self.stored} entries ({zeros:.1f} % zeros)\n"
                f"{self.layout}: {reason}\n"
                f"{self.nbytes} bytes, dense {places * self.dtype.itemsize}; work: "
                f"{padding:.2f} multiply-adds an entry, dense {<double>places / max(self.stored, 1):.1f}")

    def _arrays(self):
        """Values, columns in order, and indptr of the matrix as CSR, new arrays."""
        values = np.empty(self.stored, self.dtype)
        indices, indptr = np.empty(self.stored, np.int64), np.empty(self.n + 1, np.int64)
        cdef void *v = cnp.PyArray_DATA(values)
        cdef int64_t *i = <int64_t *>cnp.PyArray_DATA(indices)
        cdef int64_t *p = <int64_t *>cnp.PyArray_DATA(indptr)
        if self.sparse != NULL:
            fc_sparse_unpack(self.sparse, v, i, p)
        else:
            fc_blocks_unpack(self.blocks, v, i, p)
        return values, indices, indptr

    def unpack(self):
        """The weight as a new :class:`fastfc.CSR`, the columns of each row in order."""
        from fastfc.sparse import CSR
        return CSR(*self._arrays(), self.shape)

    def __reduce__(self):
        if self.sparse != NULL:
            return pack_sparse, (*self._arrays(), self.shape)
        return pack_blocks, (*self._arrays(), self.shape, self.layout)

    def __repr__(self):
        return (f"PackedSparse(shape={self.shape}, dtype={self.dtype}, format={self.format!r}, nnz={self.nnz}, "
                f"nbytes={self.nbytes})")


def pack_sparse(cnp.ndarray data not None, cnp.ndarray indices not None, cnp.ndarray indptr not None, shape, *,
                bint transpose=False, bint update=False):
    """The checked form: the arrays of a sound CSR; its transpose, and able to take new values, where asked."""
    cdef fc_csr c = csr_of(data, indices, indptr, shape[0], shape[1])
    cdef PackedSparse p = PackedSparse.__new__(PackedSparse)
    cdef fc_dtype dt = dtype_of(data)
    cdef int flags = (FC_SPARSE_TRANSPOSE if transpose else 0) | (FC_SPARSE_UPDATE if update else 0)
    p.stored = indptr[shape[0]]
    if p.stored >= 1 << 31:
        raise ValueError(f"pack(): weight has {p.stored} stored entries, expected fewer than 2**31")
    with nogil:
        p.sparse = fc_sparse_pack(dt, &c, flags)
    if p.sparse == NULL:
        raise MemoryError(f"pack(): no memory for a packed copy of a weight with {p.stored} entries")
    p.type_num = cnp.PyArray_TYPE(data)
    p.n, p.k = (c.cols, c.rows) if transpose else (c.rows, c.cols)
    p.layout = "tiled"
    return p


def update_sparse(PackedSparse packed not None, cnp.ndarray values not None, int threads):
    """Put in new values, contiguous and in the order of the CSR that was packed with update=True."""
    cdef const void *data = cnp.PyArray_DATA(values)
    with nogil:
        if packed.sparse != NULL:
            fc_sparse_update(packed.sparse, data, threads)
        else:
            fc_blocks_update(packed.blocks, data, threads)


def backward_sparse(cnp.ndarray grad_y not None, cnp.ndarray x not None, PackedSparse weight, PackedSparse transposed,
                    cnp.ndarray z, int activation, double parameter, cnp.ndarray gx, cnp.ndarray gw, cnp.ndarray gb,
                    bint accumulate, int threads):
    """As `backward`, for a weight that was packed with update=True (needed for gw) and its transpose (for gx)."""
    cdef fc_upstream up
    cdef fc_gradients out
    cdef fc_matrix gym = matrix(grad_y), xm = matrix(x), zm, gxm
    cdef fc_status status
    cdef fc_dtype dt = dtype_of(grad_y)
    cdef const fc_sparse *w = NULL
    cdef const fc_sparse *across = NULL
    if weight is not None:
        w = weight.sparse
    if transposed is not None:
        across = transposed.sparse
    up.grad_y = &gym
    up.activation = <fc_activation>activation
    up.parameter = parameter
    up.z = NULL
    up.overwrite = 0
    if z is not None:
        zm = matrix(z)
        up.z = &zm
    out.gx = out.gw = NULL
    out.values = data_or_null(gw)
    out.gb = data_or_null(gb)
    out.accumulate = accumulate
    if gx is not None:
        gxm = matrix(gx)
        out.gx = &gxm
    with nogil:
        status = fc_linear_backward_sparse(dt, &up, &xm, w, across, &out, threads)
    if status != FC_OK:
        raise MemoryError("linear_backward(): no memory for workspace")
