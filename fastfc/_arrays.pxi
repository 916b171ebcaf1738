# New arrays. Large ones begin where a cache line does: numpy's own begin 16 bytes into one, so that each full-width store and
# load of them meets two lines, which costs a product up to a tenth.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t
from libc.string cimport memset, strcpy

cdef extern from "memory.h" nogil:
    void *fc_alloc(size_t bytes)
    void fc_prefer_huge(void *p, size_t bytes)
    void *fc_realloc(void *p, size_t bytes)
    void fc_free(void *p)

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *, size_t) noexcept nogil
        void *(*calloc)(void *, size_t, size_t) noexcept nogil
        void *(*realloc)(void *, void *, size_t) noexcept nogil
        void (*free)(void *, void *, size_t) noexcept nogil
    ctypedef struct PyDataMem_Handler:
        char name[127]
        uint8_t version
        PyDataMemAllocator allocator
    object PyDataMem_SetHandler(object)  # for this thread, or asynchronous task; returns the one before
    PyObject *PyDataMem_DefaultHandler


cdef void *_allocate(void *context, size_t bytes) noexcept nogil:
    cdef void *p = fc_alloc(bytes)
    if p != NULL:
        fc_prefer_huge(p, bytes)
    return p


cdef void *_allocate_zeros(void *context, size_t count, size_t size) noexcept nogil:
    cdef void *p = _allocate(context, count * size) if not size or count <= <size_t>-1 // size else NULL
    if p != NULL:
        memset(p, 0, count * size)
    return p


cdef void *_resize(void *context, void *p, size_t bytes) noexcept nogil:
    return fc_realloc(p, bytes)


cdef void _release(void *context, void *p, size_t bytes) noexcept nogil:
    fc_free(p)


cdef PyDataMem_Handler _lines
strcpy(_lines.name, "fastfc")
_lines.version = 1
_lines.allocator.ctx = NULL
_lines.allocator.malloc = _allocate
_lines.allocator.calloc = _allocate_zeros
_lines.allocator.realloc = _resize
_lines.allocator.free = _release
cdef object _line_handler = PyCapsule_New(&_lines, "mem_handler", NULL)  # which numpy requires it to be called


cdef cnp.ndarray new_array(int nd, cnp.npy_intp *shape, int type_num):
    """C-ordered, any values in it."""
    cdef size_t n = 1  # may wrap: numpy says that the shape is too large
    cdef int i
    for i in range(nd):
        n *= <size_t>shape[i]
    if n < 4096:  # to change handlers takes 0.1 µs
        return cnp.PyArray_EMPTY(nd, shape, type_num, 0)
    before = PyDataMem_SetHandler(_line_handler)
    try:
        if <PyObject *>before != PyDataMem_DefaultHandler:  # somebody's choice, which stays
            PyDataMem_SetHandler(before)
        return cnp.PyArray_EMPTY(nd, shape, type_num, 0)
    finally:
        PyDataMem_SetHandler(before)


cdef inline cnp.ndarray new_vector(Py_ssize_t n, int type_num):
    cdef cnp.npy_intp shape[1]
    shape[0] = n
    return new_array(1, shape, type_num)


cdef inline cnp.ndarray new_like(cnp.ndarray a):
    """C-ordered whatever a is."""
    return new_array(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.PyArray_TYPE(a))


cdef cnp.ndarray new_rows(cnp.ndarray x, Py_ssize_t last):
    """Of shape x.shape[:-1] + (last,)."""
    cdef cnp.npy_intp shape[64]  # NPY_MAXDIMS of numpy 2
    cdef int nd = cnp.PyArray_NDIM(x), i
    for i in range(nd - 1):
        shape[i] = cnp.PyArray_DIM(x, i)
    shape[nd - 1] = last
    return new_array(nd, shape, cnp.PyArray_TYPE(x))


def empty(tuple shape not None, dtype):
    """``np.empty(shape, dtype)`` for a float dtype, from a cache line on where it is large."""
    cdef cnp.npy_intp lengths[64]
    cdef int nd = <int>len(shape), i
    if nd > 64:
        return np.empty(shape, dtype)  # numpy's error
    for i in range(nd):
        lengths[i] = shape[i]
    return new_array(nd, lengths, np.dtype(dtype).num)


def immutable(array):
    """A C-ordered copy, from a cache line on, whose memory can never be written, not even by setting its ``writeable`` flag."""
    # A bytes object is the only buffer for which numpy refuses the flag for good; nobody else has seen this one yet.
    cdef bytes memory = PyBytes_FromStringAndSize(NULL, array.nbytes + 63)
    cdef char *begin = PyBytes_AS_STRING(memory)
    cdef cnp.npy_intp size = array.nbytes, skip = -<cnp.npy_intp>begin & 63
    fc_prefer_huge(begin, size + 63)
    cdef cnp.ndarray inside = cnp.PyArray_SimpleNewFromData(1, &size, cnp.NPY_UINT8, begin + skip)
    inside.view(array.dtype).reshape(array.shape)[...] = array
    return np.ndarray(array.shape, array.dtype, buffer=memory, offset=skip)
