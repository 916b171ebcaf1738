"""Losses: checked arrays in, a number or an array of losses out, and the gradient where it is wanted."""

cdef extern from "fastfc.h" nogil:
    ctypedef enum fc_reduction:
        FC_SUM
        FC_MEAN
    ctypedef enum fc_pointwise:
        FC_SQUARED
        FC_ABSOLUTE
        FC_HUBER
        FC_LOGIT
    ctypedef struct fc_cross_entropy:
        const fc_matrix *x
        const int64_t *labels
        const fc_matrix *targets
        const void *weight
        double smoothing
        int64_t ignore
        fc_reduction reduction
        void *losses
        const fc_matrix *grad
    ctypedef struct fc_pointwise_loss:
        fc_pointwise kind
        double width, factor
        const void *x
        const void *target
        const void *weight
        const void *positive
        Py_ssize_t n
        fc_reduction reduction
        void *losses
        void *grad
    Py_ssize_t fc_labels_check(const int64_t *labels, Py_ssize_t rows, Py_ssize_t classes, int64_t ignore)
    fc_status fc_cross_entropy_loss(fc_dtype, const fc_cross_entropy *, double *, int)
    fc_status fc_pointwise_loss_value(fc_dtype, const fc_pointwise_loss *, double *, int)

SQUARED, ABSOLUTE, HUBER, LOGIT = FC_SQUARED, FC_ABSOLUTE, FC_HUBER, FC_LOGIT


cpdef Py_ssize_t first_bad_label(cnp.ndarray labels, Py_ssize_t classes, int64_t ignore) noexcept:
    """The first of int64 labels, contiguous, that is neither in [0, classes) nor `ignore`; -1: there is none."""
    return fc_labels_check(<const int64_t *>cnp.PyArray_DATA(labels), cnp.PyArray_DIM(labels, 0), classes, ignore)


def plain_labels(logits, target, int64_t ignore):
    """Whether `cross_entropy` takes logits and labels as they are: the common case, without a mistake."""
    return type(logits) is cnp.ndarray and cnp.PyArray_NDIM(logits) == 2 and cnp.PyArray_ISCARRAY_RO(logits) and \
        is_plain(logits) and type(target) is cnp.ndarray and cnp.PyArray_NDIM(target) == 1 and \
        cnp.PyArray_TYPE(target) == cnp.NPY_INT64 and cnp.PyArray_ISCARRAY_RO(target) and \
        cnp.PyArray_DIM(target, 0) == cnp.PyArray_DIM(logits, 0) and \
        first_bad_label(target, cnp.PyArray_DIM(logits, 1), ignore) < 0


def cross_entropy(cnp.ndarray x not None, cnp.ndarray labels, cnp.ndarray targets, cnp.ndarray weight, double smoothing,
                  int64_t ignore, str reduction not None, bint want_grad):
    """(value or array of losses, gradient or None): x (rows, classes) and either labels, int64 and in range, or targets like
    x; all C-contiguous, the weight of x's dtype."""
    cdef fc_matrix xm = matrix(x), tm, gm
    cdef fc_cross_entropy c
    cdef cnp.ndarray losses = None, grad = None
    cdef fc_dtype dt = dtype_of(x)
    cdef fc_status status
    cdef double value = 0
    cdef int team = _default_threads
    c.x = &xm
    c.labels = <const int64_t *>data_or_null(labels)
    c.targets = NULL
    if targets is not None:
        tm = matrix(targets)
        c.targets = &tm
        c.labels = NULL
    c.weight = data_or_null(weight)
    c.smoothing = smoothing
    c.ignore = ignore
    c.reduction = FC_MEAN if reduction == "mean" else FC_SUM
    c.losses = NULL
    if reduction == "none":
        losses = new_vector(xm.rows, cnp.PyArray_TYPE(x))
        c.losses = cnp.PyArray_DATA(losses)
    c.grad = NULL
    if want_grad:
        grad = new_like(x)
        gm = matrix(grad)
        c.grad = &gm
    with nogil:
        status = fc_cross_entropy_loss(dt, &c, &value, team)
    if status != FC_OK:
        raise MemoryError("cross-entropy: no memory for workspace")
    return value if losses is None else losses, grad


def pointwise_loss(int kind, cnp.ndarray x not None, cnp.ndarray target not None, cnp.ndarray weight, cnp.ndarray positive,
                   double width, double factor, str reduction not None, bint want_grad):
    """(value or array of losses, gradient or None): arrays C-contiguous, of one dtype and shape."""
    cdef fc_pointwise_loss c
    cdef cnp.ndarray losses = None, grad = None
    cdef fc_dtype dt = dtype_of(x)
    cdef fc_status status
    cdef double value = 0
    cdef int team = _default_threads
    c.kind = <fc_pointwise>kind
    c.width = width
    c.factor = factor
    c.x = cnp.PyArray_DATA(x)
    c.target = cnp.PyArray_DATA(target)
    c.weight = data_or_null(weight)
    c.positive = data_or_null(positive)
    c.n = cnp.PyArray_SIZE(x)
    c.reduction = FC_MEAN if reduction == "mean" else FC_SUM
    c.losses = c.grad = NULL
    if reduction == "none":
        losses = new_like(x)
        c.losses = cnp.PyArray_DATA(losses)
    if want_grad:
        grad = new_like(x)
        c.grad = cnp.PyArray_DATA(grad)
    with nogil:
        status = fc_pointwise_loss_value(dt, &c, &value, team)
    if status != FC_OK:
        raise MemoryError("loss: no memory for workspace")
    return value if losses is None else losses, grad
