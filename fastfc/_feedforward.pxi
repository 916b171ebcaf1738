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


def feedforward(x, PackedWeight w1 not None, cnp.ndarray b1, PackedWeight w2 not None, cnp.ndarray b2, PackedWeight w3,
                cnp.ndarray b3, int activation, double parameter):
    """y of the block, whose weights and biases fit each other; None if x is not what C takes as it is."""
    cdef fc_matrix xm, ym
    cdef fc_feedforward block
    cdef fc_status status
    cdef fc_dtype dt
    cdef cnp.ndarray y
    cdef int team = _default_threads
    if not (type(x) is cnp.ndarray and is_plain(x) and cnp.PyArray_TYPE(x) == w1.type_num and rows_of(x, &xm) and
            xm.cols == w1.k):
        return None
    block.w1, block.w2, block.w3 = w1.packed, w2.packed, NULL if w3 is None else w3.packed
    block.b1, block.b2, block.b3 = data_or_null(b1), data_or_null(b2), data_or_null(b3)
    block.activation = <fc_activation>activation
    block.parameter = parameter
    y = empty_like_rows(x, w2.n)
    rows_of(y, &ym)
    dt = dtype_of(y)
    # Handing the GIL over costs more than a small block takes.
    if xm.rows * w1.n * (xm.cols + w2.n) < 4096:
        status = fc_feedforward_forward(dt, &xm, &block, &ym, 1)
    else:
        with nogil:
            status = fc_feedforward_forward(dt, &xm, &block, &ym, team)
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
