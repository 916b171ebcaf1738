"""Sparse times dense, for its own sake."""

cdef extern from "fastfc.h" nogil:
    fc_status FC_BAD_INDEX
    fc_status fc_sparse_product(fc_dtype, const fc_csr *, int, const fc_matrix *, const fc_matrix *, int)


def sparse_product(csr, bint transposed, cnp.ndarray dense not None, cnp.ndarray out not None, int threads):
    """out = csr dense, or csr^T dense: 2-D arrays of one dtype, aligned; csr an object with CSR fields whose indptr is sound.
    False if an index is out of range; out is then garbage."""
    cdef fc_csr c = csr_of(csr.data, csr.indices, csr.indptr, csr.shape[0], csr.shape[1])
    cdef fc_matrix dm = matrix(dense), om = matrix(out)
    cdef fc_dtype dt = dtype_of(dense)
    cdef fc_status status
    with nogil:
        status = fc_sparse_product(dt, &c, transposed, &dm, &om, threads)
    if status == FC_NO_MEMORY:
        raise MemoryError("no memory for the workspace of a sparse product")
    return status != FC_BAD_INDEX
