# Sparse weights whose entries stand in blocks: the layouts beside "tiled" that a PackedSparse may have.

cdef extern from "fastfc.h" nogil:
    ctypedef struct fc_blocks:
        pass
    ctypedef enum fc_layout:
        FC_16X1
        FC_1X16
        FC_2OF4
        FC_1OF4
    enum:
        FC_UNFIT
        FC_WHOLE
    int fc_blocks_fit(const fc_csr *csr, fc_layout layout)
    fc_blocks *fc_blocks_pack(fc_dtype dtype, const fc_csr *csr, fc_layout layout, int flags)
    void fc_blocks_free(fc_blocks *blocks)
    void fc_blocks_update(fc_blocks *blocks, const void *values, int threads)
    int64_t fc_blocks_entries(const fc_blocks *blocks)
    size_t fc_blocks_bytes(const fc_blocks *blocks)
    void fc_blocks_unpack(const fc_blocks *blocks, void *values, int64_t *indices, int64_t *indptr)
    fc_status fc_linear_forward_blocks(fc_dtype, const fc_matrix *, const fc_blocks *, const fc_epilogue *, int)

cdef dict LAYOUTS = {"16x1": FC_16X1, "1x16": FC_1X16, "2:4": FC_2OF4, "1:4": FC_1OF4}


def blocks_fit(cnp.ndarray data not None, cnp.ndarray indices not None, cnp.ndarray indptr not None, shape, str layout):
    """0: a sound CSR does not fit the layout; 1: it does with zeros that fill up; 2: as it stands."""
    cdef fc_csr c = csr_of(data, indices, indptr, shape[0], shape[1])
    cdef fc_layout number = LAYOUTS[layout]
    cdef int fit
    with nogil:
        fit = fc_blocks_fit(&c, number)
    return fit


def pack_blocks(cnp.ndarray data not None, cnp.ndarray indices not None, cnp.ndarray indptr not None, shape, str layout, *,
                bint update=False):
    """The arrays of a sound CSR that fits the layout, as a PackedSparse; able to take new values where asked, which needs a
    CSR that stores no place twice."""
    cdef fc_csr c = csr_of(data, indices, indptr, shape[0], shape[1])
    cdef PackedSparse p = PackedSparse.__new__(PackedSparse)
    cdef fc_dtype dt = dtype_of(data)
    cdef fc_layout number = LAYOUTS[layout]
    cdef int flags = FC_SPARSE_UPDATE if update else 0
    if indptr[shape[0]] >= 1 << 31:
        raise ValueError(f"pack(): weight has {indptr[shape[0]]} stored entries, expected fewer than 2**31")
    with nogil:
        p.blocks = fc_blocks_pack(dt, &c, number, flags)
    if p.blocks == NULL:
        raise MemoryError(f"pack(): no memory for a packed copy of a weight with {indptr[shape[0]]} entries")
    p.stored = fc_blocks_entries(p.blocks)
    p.type_num = cnp.PyArray_TYPE(data)
    p.n, p.k, p.layout = c.rows, c.cols, layout
    return p
