"""LayerNorm and RMSNorm, alone and behind a linear layer."""

cdef extern from "fastfc.h" nogil:
    ctypedef struct fc_norm:
        int center
        double eps
        const void *gamma
        const void *beta
        void *mean
        void *rstd
    ctypedef struct fc_norm_gradients:
        fc_matrix *gx
        void *gamma
        void *beta
    void fc_norm_forward(fc_dtype, const fc_matrix *, const fc_norm *, const fc_matrix *, int)
    fc_status fc_norm_backward(fc_dtype, const fc_matrix *, const fc_matrix *, const fc_norm *, const fc_norm_gradients *, int)
    fc_status fc_linear_norm_forward(fc_dtype, const fc_matrix *, const fc_matrix *, const fc_packed *, const fc_epilogue *,
                                     const fc_norm *, const fc_matrix *, int)
    fc_status fc_linear_norm_backward(fc_dtype, const fc_upstream *, const fc_matrix *, const fc_norm *, const fc_matrix *,
                                      const fc_matrix *, const fc_gradients *, const fc_norm_gradients *, int)


cdef inline fc_matrix as_rows(cnp.ndarray a, Py_ssize_t n) noexcept:
    """A C-contiguous array as rows of n elements."""
    cdef fc_matrix m
    m.data = cnp.PyArray_DATA(a)
    m.rows = cnp.PyArray_SIZE(a) // n if n else 0
    m.cols = n
    m.col_stride = cnp.PyArray_ITEMSIZE(a)
    m.row_stride = n * m.col_stride
    return m


cdef inline fc_norm norm_of(cnp.ndarray gamma, cnp.ndarray beta, bint center, double eps, cnp.ndarray mean,
                            cnp.ndarray rstd) noexcept:
    cdef fc_norm norm
    norm.center = center
    norm.eps = eps
    norm.gamma = data_or_null(gamma)
    norm.beta = data_or_null(beta)
    norm.mean = data_or_null(mean)
    norm.rstd = data_or_null(rstd)
    return norm


cdef inline double eps_of(object eps, int type_num) except -1:
    """None: the distance from 1 to the next number."""
    if eps is None:
        return 2.0**-23 if type_num == cnp.NPY_FLOAT else 2.0**-52
    return eps


cdef inline bint vector_fits(cnp.ndarray a, Py_ssize_t n, int type_num) noexcept:
    """None does."""
    return a is None or (cnp.PyArray_TYPE(a) == type_num and cnp.PyArray_SIZE(a) == n)


cdef inline bint both_fit(cnp.ndarray gamma, cnp.ndarray beta, Py_ssize_t n, int type_num) noexcept:
    return vector_fits(gamma, n, type_num) and vector_fits(beta, n, type_num) and (beta is None or gamma is not None)


def norm(x, tuple normalized_shape not None, cnp.ndarray gamma, cnp.ndarray beta, bint center, eps, bint keep):
    """y, or with `keep` (y, mean, rstd, size of a row), of x, whose last axes are a row. None where x is not a C-contiguous
    array that fits them, or gamma or beta does not."""
    cdef fc_matrix xm, ym
    cdef cnp.ndarray a, y, mean = None, rstd = None
    cdef fc_dtype dt
    cdef fc_norm c
    cdef Py_ssize_t n = 1, d
    cdef int team = _default_threads, axes = <int>len(normalized_shape), i, first
    if type(x) is not cnp.ndarray or not is_plain(x) or not cnp.PyArray_ISCARRAY_RO(x):
        return None
    a = x
    first = cnp.PyArray_NDIM(a) - axes
    if first < 0:
        return None
    for i in range(axes):
        d = normalized_shape[i]
        if d != cnp.PyArray_DIM(a, first + i):
            return None
        n *= d
    if not both_fit(gamma, beta, n, cnp.PyArray_TYPE(a)):
        return None
    xm = as_rows(a, n)
    y = new_like(a)
    ym = as_rows(y, n)
    dt = dtype_of(a)
    if keep:
        mean = new_vector(xm.rows, cnp.PyArray_TYPE(a)) if center else None
        rstd = new_vector(xm.rows, cnp.PyArray_TYPE(a))
    c = norm_of(gamma, beta, center, eps_of(eps, cnp.PyArray_TYPE(a)), mean, rstd)
    with nogil:
        fc_norm_forward(dt, &xm, &c, &ym, team)
    return (y, mean, rstd, n) if keep else y


def norm_backward(cnp.ndarray grad_y not None, cnp.ndarray x not None, Py_ssize_t n, cnp.ndarray gamma, cnp.ndarray mean,
                  cnp.ndarray rstd not None, bint want_gx, bint want_gamma, bint want_beta):
    """(gx, gradient of gamma, of beta), None for what is not wanted: grad_y and x C-contiguous, of one dtype; with a mean
    a LayerNorm, else an RMSNorm."""
    cdef fc_matrix gm = as_rows(grad_y, n), xm = as_rows(x, n), gxm
    cdef fc_norm c = norm_of(gamma, None, mean is not None, 0, mean, rstd)
    cdef fc_norm_gradients out
    cdef fc_dtype dt = dtype_of(x)
    cdef fc_status status
    cdef int type_num = cnp.PyArray_TYPE(x), team = _default_threads
    cdef cnp.ndarray gx = new_like(x) if want_gx else None
    cdef cnp.ndarray to_gamma = new_vector(n, type_num) if want_gamma else None
    cdef cnp.ndarray to_beta = new_vector(n, type_num) if want_beta else None
    out.gx = NULL
    if want_gx:
        gxm = as_rows(gx, n)
        out.gx = &gxm
    out.gamma = data_or_null(to_gamma)
    out.beta = data_or_null(to_beta)
    with nogil:
        status = fc_norm_backward(dt, &gm, &xm, &c, &out, team)
    if status != FC_OK:
        raise MemoryError("norm: no memory for workspace")
    return gx, to_gamma, to_beta


def linear_norm(x, Trainable of_weight not None, Trainable of_bias, int activation, double parameter, Trainable of_gamma,
                Trainable of_beta, tuple normalized_shape not None, bint center, eps, bint keep):
    """A linear layer, its activation and the norm of its rows, by the layers' parameters: y, or with `keep` (y, h, z,
    activation, parameter, mean, rstd), where h is what was normalised and z the sum before the activation, if there is one.
    None where any of that does not fit the weight: then the two layers run by themselves, and say what is wrong."""
    cdef object weight = of_weight._operand
    cdef cnp.ndarray bias = None if of_bias is None else of_bias._data
    cdef cnp.ndarray gamma = None if of_gamma is None else of_gamma._data, beta = None if of_beta is None else of_beta._data
    cdef cnp.ndarray a, h, y, z = None, mean = None, rstd = None
    cdef fc_packed *packed = NULL
    cdef fc_matrix xm, wm, ym
    cdef fc_epilogue e
    cdef fc_norm c
    cdef fc_status status
    cdef fc_dtype dt
    cdef int type_num, team = _default_threads
    cdef Py_ssize_t n, k
    if type(x) is not cnp.ndarray or not is_plain(x) or not rows_of(x, &xm):
        return None
    a = x
    type_num = cnp.PyArray_TYPE(a)
    if type(weight) is PackedWeight:
        packed = (<PackedWeight>weight).packed
        n, k = (<PackedWeight>weight).n, (<PackedWeight>weight).k
        if (<PackedWeight>weight).type_num != type_num:
            return None
    else:
        wm = matrix(weight)
        n, k = wm.rows, wm.cols
        if cnp.PyArray_TYPE(weight) != type_num:
            return None
    if k != xm.cols or n == 0 or len(normalized_shape) != 1 or <Py_ssize_t>normalized_shape[0] != n or \
            not (vector_fits(bias, n, type_num) and both_fit(gamma, beta, n, type_num)):
        return None
    y = h = new_rows(a, n)
    if keep:
        h = new_rows(a, n)
        z = new_rows(a, n) if activation != FC_IDENTITY else None
        mean = new_vector(xm.rows, type_num) if center else None
        rstd = new_vector(xm.rows, type_num)
    e.bias = data_or_null(bias)
    e.residual = NULL
    e.residual_row = 0
    e.activation = <fc_activation>activation
    e.parameter = parameter
    e.y = cnp.PyArray_DATA(h)
    e.z = data_or_null(z)
    e.y_row = e.z_row = n * cnp.PyArray_ITEMSIZE(a)
    c = norm_of(gamma, beta, center, eps_of(eps, type_num), mean, rstd)
    ym = as_rows(y, n)
    dt = dtype_of(a)
    with nogil:
        status = fc_linear_norm_forward(dt, &xm, &wm, packed, &e, &c, &ym, team)
    if status != FC_OK:
        raise MemoryError("linear and norm: no memory for workspace")
    return (y, h, z, activation, parameter, mean, rstd) if keep else y


def linear_norm_backward(cnp.ndarray grad_y not None, cnp.ndarray h not None, cnp.ndarray z, int activation, double parameter,
                         cnp.ndarray x not None, cnp.ndarray weight not None, cnp.ndarray gamma, cnp.ndarray mean,
                         cnp.ndarray rstd not None, bint want_gx, cnp.ndarray gw not None, cnp.ndarray gb, bint accumulate,
                         bint want_gamma, bint want_beta):
    """(gx, gradient of gamma, of beta) of linear_norm; gw and gb, C-contiguous, are written or added to."""
    cdef Py_ssize_t n = cnp.PyArray_DIM(weight, 0)
    cdef fc_matrix gm = as_rows(grad_y, n), hm = as_rows(h, n), wm = matrix(weight), gwm = matrix(gw), xm, zm, gxm
    cdef fc_norm c = norm_of(gamma, None, mean is not None, 0, mean, rstd)
    cdef fc_norm_gradients norm_out
    cdef fc_gradients out
    cdef fc_upstream up
    cdef fc_dtype dt = dtype_of(x)
    cdef fc_status status
    cdef int type_num = cnp.PyArray_TYPE(x), team = _default_threads
    cdef cnp.ndarray gx = new_rows(x, cnp.PyArray_DIM(weight, 1)) if want_gx else None
    cdef cnp.ndarray to_gamma = new_vector(n, type_num) if want_gamma else None
    cdef cnp.ndarray to_beta = new_vector(n, type_num) if want_beta else None
    rows_of(x, &xm)
    up.grad_y = &gm
    up.activation = <fc_activation>activation
    up.parameter = parameter
    up.z = NULL
    up.overwrite = 0
    if z is not None:
        zm = as_rows(z, n)
        up.z = &zm
    out.gx = NULL
    if want_gx:
        gxm = as_rows(gx, xm.cols)
        gxm.rows = xm.rows
        out.gx = &gxm
    out.gw = &gwm
    out.gb = data_or_null(gb)
    out.values = NULL
    out.accumulate = accumulate
    norm_out.gx = NULL
    norm_out.gamma = data_or_null(to_gamma)
    norm_out.beta = data_or_null(to_beta)
    with nogil:
        status = fc_linear_norm_backward(dt, &up, &hm, &c, &xm, &wm, &out, &norm_out, team)
    if status != FC_OK:
        raise MemoryError("linear and norm: no memory for workspace")
    return gx, to_gamma, to_beta
