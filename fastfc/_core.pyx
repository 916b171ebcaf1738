# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The boundary: arrays in, pointers out, GIL released.

The common case of each call is recognised here at C speed. Anything unusual (other layouts, scipy matrices, mistakes)
goes to :mod:`fastfc.functional`, which converts it or composes the error, and calls :func:`forward` or :func:`backward`
below with arrays in the form that C takes.
"""
cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uintptr_t
cimport numpy as cnp

import numpy as np

cnp.import_array()

cdef extern from "fastfc.h" nogil:
    ctypedef enum fc_status:
        FC_OK
        FC_NO_MEMORY
    ctypedef enum fc_dtype:
        FC_F32
        FC_F64
    ctypedef enum fc_activation:
        FC_IDENTITY
        FC_RELU
        FC_LEAKY_RELU
        FC_ELU
        FC_GELU
        FC_GELU_TANH
        FC_SILU
        FC_SIGMOID
        FC_TANH
        FC_SOFTPLUS
        FC_HARDSWISH
    ctypedef struct fc_matrix:
        void *data
        Py_ssize_t rows, cols, row_stride, col_stride
    ctypedef struct fc_csr:
        const void *values
        const void *indices
        const void *indptr
        int index_bytes
        Py_ssize_t rows, cols, nnz
    ctypedef enum fc_csr_fault:
        FC_CSR_OK
    ctypedef struct fc_packed:
        pass
    ctypedef struct fc_epilogue:
        const void *bias
        const void *residual
        Py_ssize_t residual_row
        fc_activation activation
        double parameter
        void *y
        Py_ssize_t y_row
        void *z
        Py_ssize_t z_row
    ctypedef struct fc_gradients:
        fc_matrix *gx
        fc_matrix *gw
        void *gb
        void *values
        int accumulate
    ctypedef struct fc_upstream:
        const fc_matrix *grad_y
        fc_activation activation
        double parameter
        const fc_matrix *z
        int overwrite
    const char *const *fc_available_isas()
    const char *fc_current_isa()
    int fc_select_isa(const char *name)
    int fc_numeric_block()
    const char *const *fc_kernel_names()
    int fc_has_openmp()
    # The default thread count; fastfc.runtime owns its meaning.
    int _default_threads "fc_default_threads"
    fc_csr_fault fc_csr_check(const fc_csr *csr, Py_ssize_t *at)
    fc_csr_fault fc_csr_check_places(const fc_csr *csr, Py_ssize_t *at)
    fc_packed *fc_pack(fc_dtype dtype, const fc_matrix *w, int threads)
    void fc_packed_free(fc_packed *packed)
    void fc_unpack(const fc_packed *packed, const fc_matrix *w)
    size_t fc_packed_bytes(const fc_packed *packed)
    const char *fc_packed_isa(const fc_packed *packed)
    fc_status fc_linear_forward(fc_dtype, const fc_matrix *, const fc_matrix *, const fc_epilogue *, int)
    fc_status fc_linear_forward_packed(fc_dtype, const fc_matrix *, const fc_packed *, const fc_epilogue *, int)
    fc_status fc_linear_forward_csr(fc_dtype, const fc_matrix *, const fc_csr *, const fc_epilogue *, int)
    fc_status fc_linear_forward_csr_x(fc_dtype, const fc_csr *, const fc_matrix *, const fc_packed *,
                                      const fc_epilogue *, int)
    fc_status fc_linear_backward(fc_dtype, const fc_upstream *, const fc_matrix *, const fc_matrix *,
                                 const fc_gradients *, int)
    fc_status fc_linear_backward_csr(fc_dtype, const fc_upstream *, const fc_matrix *, const fc_csr *,
                                     const fc_gradients *, int)
    fc_status fc_linear_backward_csr_x(fc_dtype, const fc_upstream *, const fc_csr *, const fc_gradients *, int)
    void fc_activation_forward(fc_dtype, fc_activation, double, const void *, void *, Py_ssize_t, int)
    void fc_activation_backward(fc_dtype, fc_activation, double, const void *, const void *, void *, Py_ssize_t, int)
    double fc_probe_fma(fc_dtype dtype, double seconds, double window, int threads)
    double fc_probe_read(const float *buffer, size_t nbytes, double seconds, double window, int threads)


# ---- Targets and threads ------------------------------------------------------------------------------------------

cdef list _names(const char *const *names):
    cdef list out = []
    while names[0] != NULL:
        out.append(names[0].decode())
        names += 1
    return out


def available_isas():
    return _names(fc_available_isas())


def current_isa():
    return fc_current_isa().decode()


def select_isa(str name not None):
    """Switch the target: at import and in tests only, never while another thread computes."""
    if fc_select_isa(name.encode()):
        raise ValueError(f"target {name!r} is not available here; available: {', '.join(available_isas())}")


def kernel_names():
    return _names(fc_kernel_names())


def numeric_block():
    return fc_numeric_block()


def has_openmp():
    return bool(fc_has_openmp())


def set_default_threads(int n):
    global _default_threads
    _default_threads = n


def get_default_threads():
    return _default_threads


def probe_fma(str dtype="f", double seconds=0.05, int threads=1, *, double window=0.002):
    """GFLOP/s of FMA chains in registers: the best window of about `window` seconds within `seconds`."""
    cdef double best
    cdef fc_dtype dt = FC_F32 if dtype == "f" else FC_F64
    with nogil:
        best = fc_probe_fma(dt, seconds, window, threads)
    return best * 1e-9


def probe_read(const float[::1] buffer, double seconds=0.05, int threads=1, *, double window=0.002):
    """GB/s read from `buffer`, each thread its own part: the best window within `seconds`.

    The buffer is the caller's, so that it can be in the same caches, and as clean, as what it is compared with.
    """
    cdef double best
    cdef size_t nbytes = 4 * buffer.shape[0]
    if threads < 1 or nbytes < 512 * <size_t>threads:
        raise ValueError(f"buffer: expected 512 bytes or more for each of {threads} threads, got {nbytes} bytes")
    with nogil:
        best = fc_probe_read(&buffer[0], nbytes, seconds, window, threads)
    return best * 1e-9


# ---- Operands -----------------------------------------------------------------------------------------------------

@cython.final
cdef class PackedWeight:
    """A weight copied once into the order in which the kernels read it.

    Made by :func:`fastfc.pack`, usable wherever :func:`fastfc.linear` takes a weight, and immutable. It gives the same
    bits as the array it was made from. Pickling and copying go through :meth:`unpack`.

    Attributes
    ----------
    shape : tuple of int
        ``(out_features, in_features)``, as the array's.
    dtype : numpy.dtype
        float32 or float64.
    nbytes : int
        Bytes held: one copy of the weight, padded to the vector length along the outputs; where the last panel has one to
        three outputs, by a vector at the end.
    isa : str
        The target whose kernels this layout belongs to.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> w = np.arange(6, dtype=np.float32).reshape(2, 3)
    >>> packed = fastfc.pack(w)
    >>> packed.shape, packed.dtype
    ((2, 3), dtype('float32'))
    >>> bool((packed.unpack() == w).all())
    True
    """
    cdef fc_packed *packed
    cdef int type_num
    cdef Py_ssize_t n, k
    cdef object __weakref__

    def __init__(self):
        raise TypeError("PackedWeight is made by fastfc.pack(weight)")

    def __dealloc__(self):
        fc_packed_free(self.packed)

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
    def nbytes(self):
        return fc_packed_bytes(self.packed)

    @property
    def isa(self):
        return fc_packed_isa(self.packed).decode()

    def unpack(self):
        """The weight as a new array of shape ``(out_features, in_features)``."""
        w = empty((self.n, self.k), self.dtype)
        cdef fc_matrix m = matrix(w)
        fc_unpack(self.packed, &m)
        return w

    def __reduce__(self):
        return pack, (self.unpack(),)

    def __repr__(self):
        return f"PackedWeight(shape={self.shape}, dtype={self.dtype}, nbytes={self.nbytes}, isa={self.isa!r})"


cdef inline fc_dtype dtype_of(cnp.ndarray a) noexcept:
    return FC_F32 if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT else FC_F64


cdef inline fc_matrix matrix(cnp.ndarray a) noexcept:
    """A 2-D array as C sees it."""
    cdef fc_matrix m
    m.data = cnp.PyArray_DATA(a)
    m.rows = cnp.PyArray_DIM(a, 0)
    m.cols = cnp.PyArray_DIM(a, 1)
    m.row_stride = cnp.PyArray_STRIDE(a, 0)
    m.col_stride = cnp.PyArray_STRIDE(a, 1)
    return m


cdef inline fc_csr csr_of(cnp.ndarray data, cnp.ndarray indices, cnp.ndarray indptr, Py_ssize_t rows, Py_ssize_t cols) noexcept:
    cdef fc_csr c
    c.values = cnp.PyArray_DATA(data)
    c.indices = cnp.PyArray_DATA(indices)
    c.indptr = cnp.PyArray_DATA(indptr)
    c.index_bytes = <int>cnp.PyArray_ITEMSIZE(indptr)
    c.rows = rows
    c.cols = cols
    c.nnz = cnp.PyArray_DIM(indices, 0)
    return c


def check_csr(cnp.ndarray indices not None, cnp.ndarray indptr not None, Py_ssize_t rows, Py_ssize_t cols, bint whole=True):
    """(fault, place) of a CSR structure whose arrays are contiguous, of one integer type, and rows + 1 long; or of its
    indptr alone."""
    cdef fc_csr c = csr_of(indices, indices, indptr, rows, cols)
    cdef Py_ssize_t at = 0
    cdef int fault
    with nogil:
        fault = fc_csr_check(&c, &at) if whole else fc_csr_check_places(&c, &at)
    return fault, at


def pack(weight):
    """Copy a weight into the layout that the kernels read fastest.

    Parameters
    ----------
    weight : (out_features, in_features) ndarray
        float32 or float64, any strides.

    Returns
    -------
    PackedWeight
        Usable wherever :func:`fastfc.linear` takes a weight, with the same bits as result.

    Raises
    ------
    TypeError
        If `weight` is not a float32 or float64 array.
    ValueError
        If it is not 2-D.
    MemoryError
        If there is no room for the copy.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> w = fastfc.pack(np.ones((2, 3), np.float32))
    >>> fastfc.linear(np.ones(3, np.float32), w)
    array([3., 3.], dtype=float32)
    """
    weight = _functional().check_pack(weight)
    cdef cnp.ndarray w = weight
    cdef fc_matrix m = matrix(w)
    cdef PackedWeight p = PackedWeight.__new__(PackedWeight)
    cdef fc_dtype dt = dtype_of(w)
    cdef int threads = _default_threads
    with nogil:
        p.packed = fc_pack(dt, &m, threads)
    if p.packed == NULL:
        raise MemoryError(f"pack(): no memory for a packed copy of a weight of shape {weight.shape}")
    p.type_num = cnp.PyArray_TYPE(w)
    p.n = m.rows
    p.k = m.cols
    return p


# ---- Forward ------------------------------------------------------------------------------------------------------

# Name of an activation -> (its number in C, its parameter's default or 0).
ACTIVATIONS = {
    None: (FC_IDENTITY, 0.0),
    "relu": (FC_RELU, 0.0),
    "leaky_relu": (FC_LEAKY_RELU, 0.01),
    "elu": (FC_ELU, 1.0),
    "gelu": (FC_GELU, 0.0),
    "gelu_tanh": (FC_GELU_TANH, 0.0),
    "silu": (FC_SILU, 0.0),
    "sigmoid": (FC_SIGMOID, 0.0),
    "tanh": (FC_TANH, 0.0),
    "softplus": (FC_SOFTPLUS, 1.0),
    "hardswish": (FC_HARDSWISH, 0.0),
}
cdef dict _activations = ACTIVATIONS


cdef inline bint is_count(object threads):
    """Whether `threads` can be taken as it is."""
    return threads is None or (type(threads) is int and 1 <= threads <= 1024)


cdef inline bint is_plain(cnp.ndarray a) noexcept:
    """float32 or float64 in the machine's byte order, aligned."""
    cdef int t = cnp.PyArray_TYPE(a)
    return (t == cnp.NPY_FLOAT or t == cnp.NPY_DOUBLE) and cnp.PyArray_ISBEHAVED_RO(a)


cdef inline bint may_overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether the memory from a's first to its last byte meets b's; a is C-contiguous."""
    cdef uintptr_t a0 = <uintptr_t>cnp.PyArray_DATA(a), b0 = <uintptr_t>cnp.PyArray_DATA(b)
    cdef uintptr_t a1 = a0 + cnp.PyArray_NBYTES(a), b1 = b0 + cnp.PyArray_ITEMSIZE(b)
    cdef int i
    for i in range(cnp.PyArray_NDIM(b)):
        if cnp.PyArray_DIM(b, i) == 0:
            return False
        if cnp.PyArray_STRIDE(b, i) < 0:
            b0 += (cnp.PyArray_DIM(b, i) - 1) * cnp.PyArray_STRIDE(b, i)
        else:
            b1 += (cnp.PyArray_DIM(b, i) - 1) * cnp.PyArray_STRIDE(b, i)
    return a0 < b1 and b0 < a1


cdef int rows_of(cnp.ndarray a, fc_matrix *m) noexcept:
    """a (..., cols) as a matrix, where one stride can walk its leading axes; 0 if not."""
    cdef int nd = cnp.PyArray_NDIM(a), i
    cdef Py_ssize_t rows = 1, stride = 0, d
    if nd == 0:
        return 0
    m.data = cnp.PyArray_DATA(a)
    m.cols = cnp.PyArray_DIM(a, nd - 1)
    m.col_stride = cnp.PyArray_STRIDE(a, nd - 1)
    for i in range(nd - 2, -1, -1):
        d = cnp.PyArray_DIM(a, i)
        if d == 1:
            continue
        if rows == 1:
            stride = cnp.PyArray_STRIDE(a, i)
        elif cnp.PyArray_STRIDE(a, i) != stride * rows:
            return 0
        rows *= d
    m.rows = rows
    m.row_stride = stride if rows > 1 else m.cols * m.col_stride
    return 1


cdef bint same_leading(cnp.ndarray a, cnp.ndarray b, Py_ssize_t last) noexcept:
    """Whether a.shape == b.shape[:-1] + (last,)."""
    cdef int nd = cnp.PyArray_NDIM(b), i
    if cnp.PyArray_NDIM(a) != nd or cnp.PyArray_DIM(a, nd - 1) != last:
        return False
    for i in range(nd - 1):
        if cnp.PyArray_DIM(a, i) != cnp.PyArray_DIM(b, i):
            return False
    return True


def linear(x, weight, bias=None, *, activation=None, residual=None, out=None, threads=None, return_preactivation=False):
    """Fully connected layer: ``y = activation(x @ weight.T + bias + residual)``.

    Each output is one chain of fused multiply-adds in a fixed order (``src_c/fastfc.h`` states it), so a row of y
    depends on that row of x, the weight and the bias alone: not on the batch, the threads, the layout or the CPU's
    vector length.

    Parameters
    ----------
    x : (..., in_features) ndarray or CSR
        float32 or float64, any strides. A CSR matrix (scipy.sparse or :class:`fastfc.CSR`) of shape
        ``(batch, in_features)`` multiplies its stored entries only.
    weight : (out_features, in_features) ndarray, PackedWeight or CSR
        Of x's dtype. A CSR weight multiplies its stored entries only, and repeated entries add up. At most one of
        `x` and `weight` may be CSR.
    bias : (out_features,) ndarray, optional
        Added to the sum.
    activation : str or (str, float) tuple, optional
        Applied last: "relu", "leaky_relu", "elu", "gelu" (by erf), "gelu_tanh", "silu", "sigmoid", "tanh", "softplus" or
        "hardswish", with torch's default parameters, or a pair: ``("leaky_relu", slope)``, ``("elu", alpha)``,
        ``("softplus", beta)``. :mod:`fastfc.activations` gives formulas and largest errors. ``relu(x)`` is x for x > 0,
        NaN for NaN, +0 otherwise.
    residual : (..., out_features) ndarray, optional
        Added before the activation.
    out : (..., out_features) ndarray, optional
        Receives y. It must not overlap any input; what stands in it is never read.
    threads : int, optional
        At most so many threads, instead of the default (:func:`fastfc.set_num_threads`).
    return_preactivation : bool, optional
        Also return z, the value before the activation, which :func:`linear_backward` needs.

    Returns
    -------
    y : (..., out_features) ndarray
        `out` if it was given.
    z : (..., out_features) ndarray
        Only with `return_preactivation`.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If shapes disagree, `out` cannot be written or overlaps an input, or a CSR matrix is malformed.
    MemoryError
        If there is no memory for the result or for workspace.

    Notes
    -----
    Workspace is at most 1.25 MiB a thread, and a copy of x where its last axis is not contiguous; bias, residual and
    out are copied where they are not contiguous. A CSR operand needs 256 bytes for each row of a panel of the dense one,
    and 64 KiB, for each thread, and 8 bytes for each of its rows. Batches share the weight's traffic: pack a weight that is
    used more than once.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> x = np.array([[1, 2], [3, 4]], np.float32)
    >>> w = np.array([[1, 0], [0, -1], [1, 1]], np.float32)
    >>> fastfc.linear(x, w, np.array([0, 1, 0], np.float32), activation="relu")
    array([[1., 0., 3.],
           [3., 0., 7.]], dtype=float32)
    """
    return run_linear(x, weight, bias, activation, residual, out, threads, return_preactivation)


cdef struct weight_of:
    const fc_matrix *plain      # unless one of these is not NULL:
    const fc_packed *packed
    const fc_sparse *sparse
    const fc_blocks *blocks


cdef fc_status product(fc_dtype dt, const fc_matrix *x, const weight_of *of, const fc_epilogue *e, int threads) noexcept nogil:
    if of.packed != NULL:
        return fc_linear_forward_packed(dt, x, of.packed, e, threads)
    if of.sparse != NULL:
        return fc_linear_forward_sparse(dt, x, of.sparse, e, threads)
    if of.blocks != NULL:
        return fc_linear_forward_blocks(dt, x, of.blocks, e, threads)
    return fc_linear_forward(dt, x, of.plain, e, threads)


cdef object run_linear(x, weight, bias, activation, residual, out, threads, return_preactivation):
    cdef cnp.ndarray a, w = None, y, z = None
    cdef PackedWeight p
    cdef PackedSparse s
    cdef weight_of of
    cdef fc_matrix xm, wm
    cdef fc_epilogue e
    cdef fc_status status
    cdef fc_dtype dt
    cdef Py_ssize_t n = 0, k = -1
    cdef int team, type_num
    cdef tuple act
    if not (type(x) is cnp.ndarray and type(return_preactivation) is bool and is_count(threads) and
            (activation is None or (type(activation) is str and activation in _activations))):
        return _slow_linear(x, weight, bias, activation, residual, out, threads, return_preactivation)
    a = x
    if not is_plain(a) or not rows_of(a, &xm):
        return _slow_linear(x, weight, bias, activation, residual, out, threads, return_preactivation)
    type_num = cnp.PyArray_TYPE(a)
    of.plain, of.packed, of.sparse, of.blocks = &wm, NULL, NULL, NULL
    if type(weight) is PackedWeight:
        p = weight
        n, k, of.packed = p.n, p.k, p.packed
        if p.type_num != type_num:
            k = -1
    elif type(weight) is PackedSparse:
        s = weight
        n, k, of.sparse, of.blocks = s.n, s.k, s.sparse, s.blocks
        if s.type_num != type_num:
            k = -1
    elif type(weight) is cnp.ndarray and cnp.PyArray_NDIM(weight) == 2 and cnp.PyArray_TYPE(weight) == type_num and \
            cnp.PyArray_ISNOTSWAPPED(weight):
        w = weight
        wm = matrix(w)
        n, k = wm.rows, wm.cols
    else:
        k = -1
    if k != xm.cols:
        return _slow_linear(x, weight, bias, activation, residual, out, threads, return_preactivation)
    e.bias = NULL
    if bias is not None:
        if not (type(bias) is cnp.ndarray and cnp.PyArray_NDIM(bias) == 1 and cnp.PyArray_TYPE(bias) == type_num and
                cnp.PyArray_DIM(bias, 0) == n and cnp.PyArray_ISCARRAY_RO(bias)):
            return _slow_linear(x, weight, bias, activation, residual, out, threads, return_preactivation)
        e.bias = cnp.PyArray_DATA(bias)
    e.residual = NULL
    e.residual_row = 0
    if residual is not None:
        if not (type(residual) is cnp.ndarray and cnp.PyArray_TYPE(residual) == type_num and
                cnp.PyArray_ISCARRAY_RO(residual) and same_leading(residual, a, n)):
            return _slow_linear(x, weight, bias, activation, residual, out, threads, return_preactivation)
        e.residual = cnp.PyArray_DATA(residual)
        e.residual_row = n * cnp.PyArray_ITEMSIZE(a)
    if out is None:
        y = new_rows(a, n)
    else:
        if not (type(out) is cnp.ndarray and cnp.PyArray_TYPE(out) == type_num and cnp.PyArray_ISCARRAY(out) and
                same_leading(out, a, n)):
            return _slow_linear(x, weight, bias, activation, residual, out, threads, return_preactivation)
        y = out
        if may_overlap(y, a) or (w is not None and may_overlap(y, w)) or (bias is not None and may_overlap(y, bias)) or \
                (residual is not None and may_overlap(y, residual)):
            return _slow_linear(x, weight, bias, activation, residual, out, threads, return_preactivation)
    act = <tuple>_activations[activation]
    e.activation = <fc_activation><int>act[0]
    e.parameter = <double>act[1]
    e.y = cnp.PyArray_DATA(y)
    e.y_row = n * cnp.PyArray_ITEMSIZE(a)
    if return_preactivation:
        z = new_rows(a, n)
    e.z = data_or_null(z)
    e.z_row = e.y_row
    dt = FC_F32 if type_num == cnp.NPY_FLOAT else FC_F64
    team = _default_threads if threads is None else threads
    # Handing the GIL over costs more than a small product takes.
    if xm.rows * n * k < 4096:
        status = product(dt, &xm, &of, &e, 1)
    else:
        with nogil:
            status = product(dt, &xm, &of, &e, team)
    if status != FC_OK:
        raise MemoryError("linear(): no memory for workspace")
    return (y, z) if return_preactivation else y


cdef object _functional_module = None


cdef object _functional():
    """The module that takes what is unusual; imported when first needed, because it imports this one."""
    global _functional_module
    if _functional_module is None:
        from fastfc import functional
        _functional_module = functional
    return _functional_module


cdef object _slow_linear(x, weight, bias, activation, residual, out, threads, return_preactivation):
    return _functional().convert_linear(x, weight, bias, activation, residual, out, threads, return_preactivation)


cdef void *data_or_null(cnp.ndarray a) noexcept:
    return NULL if a is None else cnp.PyArray_DATA(a)


cdef Py_ssize_t row_stride(cnp.ndarray a) noexcept:
    return 0 if a is None else cnp.PyArray_STRIDE(a, 0)


def forward(x, weight, cnp.ndarray bias, cnp.ndarray residual, cnp.ndarray y not None, cnp.ndarray z, int activation,
            double parameter, int threads):
    """The checked form of linear: 2-D arrays of one dtype; y, z and residual with contiguous, aligned rows; bias
    contiguous; x and weight an array, a packed weight (weight) or an object with CSR fields (one of them)."""
    cdef fc_epilogue e
    cdef fc_matrix xm, wm
    cdef weight_of of
    cdef fc_csr c
    cdef fc_status status
    cdef fc_dtype dt = dtype_of(y)
    cdef bint csr_x = not isinstance(x, np.ndarray), csr_weight = False
    e.bias = data_or_null(bias)
    e.residual = data_or_null(residual)
    e.residual_row = row_stride(residual)
    e.activation = <fc_activation>activation
    e.parameter = parameter
    e.y = cnp.PyArray_DATA(y)
    e.y_row = cnp.PyArray_STRIDE(y, 0)
    e.z = data_or_null(z)
    e.z_row = row_stride(z)
    of.plain, of.packed, of.sparse, of.blocks = NULL, NULL, NULL, NULL
    if isinstance(weight, PackedWeight):
        of.packed = (<PackedWeight>weight).packed
    elif isinstance(weight, PackedSparse):
        of.sparse, of.blocks = (<PackedSparse>weight).sparse, (<PackedSparse>weight).blocks
    elif isinstance(weight, np.ndarray):
        wm = matrix(weight)
        of.plain = &wm
    else:
        csr_weight = True
    if csr_x or csr_weight:
        csr = x if csr_x else weight
        c = csr_of(csr.data, csr.indices, csr.indptr, csr.shape[0], csr.shape[1])
    if not csr_x:
        xm = matrix(x)
    with nogil:
        if csr_x:
            status = fc_linear_forward_csr_x(dt, &c, of.plain, of.packed, &e, threads)
        elif csr_weight:
            status = fc_linear_forward_csr(dt, &xm, &c, &e, threads)
        else:
            status = product(dt, &xm, &of, &e, threads)
    if status != FC_OK:
        raise MemoryError("linear(): no memory for workspace")


# ---- Backward -----------------------------------------------------------------------------------------------------

def backward(cnp.ndarray grad_y not None, x, weight, cnp.ndarray z, int activation, double parameter, cnp.ndarray gx,
             cnp.ndarray gw, cnp.ndarray gb, bint accumulate, int threads):
    """The checked form of linear_backward: 2-D arrays of one dtype; gx, gw and gb with contiguous, aligned rows, or
    None; weight an array or CSR fields (then gw is its values' gradient); x an array or CSR fields."""
    cdef fc_upstream up
    cdef fc_gradients out
    cdef fc_matrix gym = matrix(grad_y), zm, xm, wm, gxm, gwm
    cdef fc_csr c
    cdef fc_status status
    cdef fc_dtype dt = dtype_of(grad_y)
    up.grad_y = &gym
    up.activation = <fc_activation>activation
    up.parameter = parameter
    up.z = NULL
    up.overwrite = 0
    if z is not None:
        zm = matrix(z)
        up.z = &zm
    out.gx = out.gw = NULL
    out.values = NULL
    out.gb = data_or_null(gb)
    out.accumulate = accumulate
    if gx is not None:
        gxm = matrix(gx)
        out.gx = &gxm
    if not isinstance(x, np.ndarray):
        if gw is not None:
            gwm = matrix(gw)
            out.gw = &gwm
        c = csr_of(x.data, x.indices, x.indptr, x.shape[0], x.shape[1])
        with nogil:
            status = fc_linear_backward_csr_x(dt, &up, &c, &out, threads)
    else:
        xm = matrix(x)
        if isinstance(weight, np.ndarray):
            if gw is not None:
                gwm = matrix(gw)
                out.gw = &gwm
            wm = matrix(weight)
            with nogil:
                status = fc_linear_backward(dt, &up, &xm, &wm, &out, threads)
        else:
            out.values = data_or_null(gw)
            c = csr_of(weight.data, weight.indices, weight.indptr, weight.shape[0], weight.shape[1])
            with nogil:
                status = fc_linear_backward_csr(dt, &up, &xm, &c, &out, threads)
    if status != FC_OK:
        raise MemoryError("linear_backward(): no memory for workspace")


cdef inline bint is_out(object array, int type_num, int nd) noexcept:
    """Whether `array` can be written as it is: C-contiguous, aligned, of this dtype and rank."""
    return type(array) is cnp.ndarray and cnp.PyArray_TYPE(array) == type_num and cnp.PyArray_NDIM(array) == nd and \
        cnp.PyArray_ISCARRAY(array)


cdef int _GX = 1, _GW = 2, _GB = 4
cdef dict _needs = {
    ("x", "weight", "bias"): 7, ("x", "weight"): 3, ("weight", "bias"): 6, ("x", "bias"): 5, ("x",): 1, ("weight",): 2, ("bias",): 4,
}


def linear_backward(grad_y, x, weight, *, activation=None, preactivation=None, needs=("x", "weight", "bias"),
                    out=(None, None, None), accumulate=False, threads=None):
    """Gradients of :func:`linear` with respect to x, weight and bias.

    With ``g = grad_y * activation'(preactivation)``: ``gx = g @ weight``, ``gw = g.T @ x``, ``gb = g.sum(0)``. Sums
    over the batch run in blocks of a fixed length, so the same inputs give the same bits for any number of threads.

    Parameters
    ----------
    grad_y : (..., out_features) ndarray
        Gradient of the loss with respect to y.
    x : (..., in_features) ndarray or CSR
        As in the forward pass. For a CSR x there is no gradient of x.
    weight : (out_features, in_features) ndarray or CSR
        As in the forward pass; not packed.
    activation : str or (str, float) tuple, optional
        As in the forward pass.
    preactivation : (..., out_features) ndarray, optional
        z of the forward pass (``return_preactivation=True``); required with an activation.
    needs : tuple of {"x", "weight", "bias"}, optional
        The gradients to compute.
    out : tuple of three ndarrays or None, optional
        Arrays to receive gx, gw and gb.
    accumulate : bool, optional
        Add gw and gb to what stands in `out` (gx is always written).
    threads : int, optional
        At most so many threads, instead of the default.

    Returns
    -------
    gx : (..., in_features) ndarray or None
    gw : (out_features, in_features) ndarray or None
        For a CSR weight an array like ``weight.data``: the gradient of the stored entries, in their order.
    gb : (out_features,) ndarray or None

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype, or the weight is packed.
    ValueError
        If shapes disagree, `needs` names something else, an activation comes without preactivation, or an array of
        `out` cannot be written, is not needed, or overlaps an input or another of them.
    MemoryError
        If there is no memory for the results or for workspace.

    Notes
    -----
    Workspace: a transposed copy of grad_y for gw, one more copy with an activation, and at most 1.25 MiB a thread; more
    with strided arrays and a CSR operand, as ``src_c/fastfc.h`` states.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> x = np.array([[1, 2], [3, 4]], np.float32)
    >>> w = np.array([[1, 0], [0, -1], [1, 1]], np.float32)
    >>> gx, gw, gb = fastfc.linear_backward(np.ones((2, 3), np.float32), x, w)
    >>> gx, gb
    (array([[2., 0.],
           [2., 0.]], dtype=float32), array([2., 2., 2.], dtype=float32))
    """
    return run_backward(grad_y, x, weight, activation, preactivation, needs, out, accumulate, threads, False)


cdef tuple run_backward(grad_y, x, weight, activation, preactivation, needs, out, accumulate, threads, bint overwrite):
    """`overwrite`: grad_y may be, because nobody will read it any more."""
    cdef cnp.ndarray g, a, w, z, gx = None, gw = None, gb = None
    cdef fc_matrix gm, xm, wm, zm, gxm, gwm
    cdef fc_upstream up
    cdef fc_gradients o
    cdef fc_status status
    cdef fc_dtype dt
    cdef cnp.npy_intp shape[2]
    cdef int type_num, want = 0, team
    cdef tuple act
    cdef bint common = (
        type(grad_y) is cnp.ndarray and type(x) is cnp.ndarray and type(weight) is cnp.ndarray and is_count(threads)
        and (activation is None or (type(activation) is str and activation in _activations and type(preactivation) is cnp.ndarray))
        and type(needs) is tuple and type(out) is tuple and len(out) == 3 and (accumulate is False or accumulate is True)
    )
    if common:
        try:
            want = _needs.get(needs, 0)
        except TypeError:  # something unhashable in the tuple: named on the long way
            want = 0
        g, a, w = grad_y, x, weight
        type_num = cnp.PyArray_TYPE(a)
        common = want and is_plain(a) and is_plain(g) and is_plain(w) and cnp.PyArray_TYPE(g) == type_num and \
            cnp.PyArray_TYPE(w) == type_num and cnp.PyArray_NDIM(w) == 2 and rows_of(a, &xm) and rows_of(g, &gm)
    if common:
        wm = matrix(w)
        common = xm.cols == wm.cols and gm.cols == wm.rows and same_leading(g, a, wm.rows)
    up.z = NULL
    up.activation = FC_IDENTITY
    up.parameter = 0
    up.overwrite = overwrite
    if common and activation is not None:
        z = preactivation
        common = is_plain(z) and cnp.PyArray_TYPE(z) == type_num and same_leading(z, g, gm.cols) and rows_of(z, &zm)
        up.z = &zm
        act = <tuple>_activations[activation]
        up.activation = <fc_activation><int>act[0]
        up.parameter = <double>act[1]
    # Outputs of the caller's take the long way unless they are exactly what would be made here.
    if common and out[0] is not None:
        common = want & _GX and is_out(out[0], type_num, cnp.PyArray_NDIM(a)) and same_leading(out[0], a, xm.cols)
    if common and out[1] is not None:
        common = want & _GW and is_out(out[1], type_num, 2) and cnp.PyArray_DIM(out[1], 0) == wm.rows and \
            cnp.PyArray_DIM(out[1], 1) == wm.cols
    if common and out[2] is not None:
        common = want & _GB and is_out(out[2], type_num, 1) and cnp.PyArray_DIM(out[2], 0) == wm.rows
    if common:
        for array in out:
            if array is not None and (
                    may_overlap(array, g) or may_overlap(array, a) or may_overlap(array, w)
                    or (activation is not None and may_overlap(array, preactivation))):
                common = False
        common = common and (out[0] is None or out[1] is None or not may_overlap(out[0], out[1])) and \
            (out[0] is None or out[2] is None or not may_overlap(out[0], out[2])) and \
            (out[1] is None or out[2] is None or not may_overlap(out[1], out[2]))
    # Accumulating into one of gw and gb only is for Python to sort out.
    if common and accumulate and ((want & _GW and out[1] is None) or (want & _GB and out[2] is None)):
        common = False
    if not common:
        return _functional().convert_backward(grad_y, x, weight, activation, preactivation, needs, out, accumulate, threads)

    o.gx = o.gw = NULL
    o.gb = o.values = NULL
    o.accumulate = accumulate
    if want & _GX:
        gx = out[0] if out[0] is not None else new_rows(a, xm.cols)
        rows_of(gx, &gxm)
        o.gx = &gxm
    if want & _GW:
        shape[0], shape[1] = wm.rows, wm.cols
        gw = out[1] if out[1] is not None else new_array(2, shape, type_num)
        gwm = matrix(gw)
        o.gw = &gwm
    if want & _GB:
        gb = out[2] if out[2] is not None else new_vector(wm.rows, type_num)
        o.gb = cnp.PyArray_DATA(gb)
    up.grad_y = &gm
    team = _default_threads if threads is None else threads
    dt = FC_F32 if type_num == cnp.NPY_FLOAT else FC_F64
    with nogil:
        status = fc_linear_backward(dt, &up, &xm, &wm, &o, team)
    if status != FC_OK:
        raise MemoryError("linear_backward(): no memory for workspace")
    return gx, gw, gb


# ---- Activations on their own -------------------------------------------------------------------------------------

def activation_forward(cnp.ndarray x not None, cnp.ndarray y not None, int activation, double parameter, int threads):
    """The checked form: C-contiguous arrays of one dtype and size; y may be x."""
    cdef fc_dtype dt = dtype_of(x)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x)
    cdef const void *source = cnp.PyArray_DATA(x)
    cdef void *target = cnp.PyArray_DATA(y)
    with nogil:
        fc_activation_forward(dt, <fc_activation>activation, parameter, source, target, n, threads)


def activation_backward(cnp.ndarray grad_y not None, cnp.ndarray x not None, cnp.ndarray gx not None, int activation,
                        double parameter, int threads):
    """The checked form: C-contiguous arrays of one dtype and size; gx may be grad_y or x."""
    cdef fc_dtype dt = dtype_of(x)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x)
    cdef const void *grad = cnp.PyArray_DATA(grad_y)
    cdef const void *source = cnp.PyArray_DATA(x)
    cdef void *target = cnp.PyArray_DATA(gx)
    with nogil:
        fc_activation_backward(dt, <fc_activation>activation, parameter, grad, source, target, n, threads)


# ---- Further subjects, each in a file of its own --------------------------------------------------------------------

include "_arrays.pxi"
include "_affine.pxi"
include "_norm.pxi"
include "_loss.pxi"
include "_dropout.pxi"
include "_feedforward.pxi"
include "_optim.pxi"
include "_selftest.pxi"
include "_sparse.pxi"
include "_blocks.pxi"
include "_packed_sparse.pxi"
