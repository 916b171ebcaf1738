# The feed-forward block; included by _core.pyx.

cdef extern from "fastfc.h" nogil:
    ctypedef struct fc_feedforward:
        const fc_packed *w1
        const fc_packed *w2
        const fc_packed *w3
        const void *b1
        const void *b2
        const void *b3
        fc_activation activation
        double parameter
    fc_status fc_feedforward_forward(fc_dtype, const fc_matrix *, const fc_feedforward *, const fc_matrix *, int)
    void fc_gate_forward(fc_dtype, fc_activation, double, const void *, const void *, void *, Py_ssize_t, int)
    void fc_gate_backward(fc_dtype, fc_activation, double, const void *, const void *, const void *, void *, void *,
                          Py_ssize_t, int)


cdef inline bint fits(object weight, object bias, int type_num, Py_ssize_t n, Py_ssize_t k) noexcept:
    """Whether the weight is packed, n by k, and the bias n contiguous elements, or None."""
    if type(weight) is not PackedWeight:
        return False
    cdef PackedWeight p = weight
    if p.type_num != type_num or p.n != n or p.k != k:
        return False
    return bias is None or (type(bias) is cnp.ndarray and cnp.PyArray_NDIM(bias) == 1 and cnp.PyArray_TYPE(bias) == type_num and
                            cnp.PyArray_ISCARRAY_RO(bias) and cnp.PyArray_DIM(bias, 0) == n)


def feedforward(x, w1, b1, w2, b2, w3, b3, int activation, double parameter):
    """y of the block; None unless x is what C takes as it is, the weights are packed, and all of them fit."""
    cdef fc_matrix xm, ym
    cdef fc_feedforward block
    cdef fc_status status
    cdef cnp.ndarray y
    cdef Py_ssize_t width
    cdef int type_num, team = _default_threads
    if not (type(x) is cnp.ndarray and is_plain(x) and rows_of(x, &xm) and type(w1) is PackedWeight and type(w2) is PackedWeight):
        return None
    type_num = cnp.PyArray_TYPE(x)
    width = (<PackedWeight>w1).n
    if not (fits(w1, b1, type_num, width, xm.cols) and fits(w2, b2, type_num, (<PackedWeight>w2).n, width) and
            (w3 is None or fits(w3, b3, type_num, width, xm.cols))):
        return None
    block.w1 = (<PackedWeight>w1).packed
    block.w2 = (<PackedWeight>w2).packed
    block.w3 = NULL if w3 is None else (<PackedWeight>w3).packed
    block.b1, block.b2, block.b3 = data_or_null(b1), data_or_null(b2), data_or_null(b3)
    block.activation = <fc_activation>activation
    block.parameter = parameter
    y = new_rows(x, (<PackedWeight>w2).n)
    rows_of(y, &ym)
    # Handing the GIL over costs more than a small block takes.
    if xm.rows * width * (xm.cols + ym.cols) < 4096:
        status = fc_feedforward_forward(dtype_of(y), &xm, &block, &ym, 1)
    else:
        with nogil:
            status = fc_feedforward_forward(FC_F32 if type_num == cnp.NPY_FLOAT else FC_F64, &xm, &block, &ym, team)
    if status != FC_OK:
        raise MemoryError("FeedForward: no memory for workspace")
    return y


def gate_forward(cnp.ndarray z not None, cnp.ndarray factor not None, cnp.ndarray h not None, int activation,
                 double parameter, int threads):
    """h = activation(z) * factor: C-contiguous arrays of one dtype and size; h may be an operand."""
    cdef fc_dtype dt = dtype_of(z)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(z)
    cdef const void *a = cnp.PyArray_DATA(z)
    cdef const void *b = cnp.PyArray_DATA(factor)
    cdef void *target = cnp.PyArray_DATA(h)
    with nogil:
        fc_gate_forward(dt, <fc_activation>activation, parameter, a, b, target, n, threads)


def gate_backward(cnp.ndarray grad not None, cnp.ndarray z not None, cnp.ndarray factor not None, cnp.ndarray dz not None,
                  cnp.ndarray dfactor not None, int activation, double parameter, int threads):
    """The gradients of z and factor from that of h: C-contiguous arrays of one dtype and size; dz and dfactor may be
    operands."""
    cdef fc_dtype dt = dtype_of(z)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(z)
    cdef const void *g = cnp.PyArray_DATA(grad)
    cdef const void *a = cnp.PyArray_DATA(z)
    cdef const void *b = cnp.PyArray_DATA(factor)
    cdef void *to_z = cnp.PyArray_DATA(dz)
    cdef void *to_factor = cnp.PyArray_DATA(dfactor)
    with nogil:
        fc_gate_backward(dt, <fc_activation>activation, parameter, g, a, b, to_z, to_factor, n, threads)
