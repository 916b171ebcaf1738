"""Dropout by counter-based random numbers."""

from libc.stdint cimport uint64_t

cdef extern from "fastfc.h" nogil:
    void fc_dropout(fc_dtype, const void *, void *, Py_ssize_t, double, uint64_t, uint64_t, int)


def dropout(cnp.ndarray x not None, double p, uint64_t seed, uint64_t call):
    """A new array: elements of x, which is C-contiguous, times 0 or 1 / (1 - p)."""
    cdef cnp.ndarray y = new_like(x)
    cdef fc_dtype dt = dtype_of(x)
    cdef const void *source = cnp.PyArray_DATA(x)
    cdef void *target = cnp.PyArray_DATA(y)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x)
    cdef int team = _default_threads
    with nogil:
        fc_dropout(dt, source, target, n, p, seed, call, team)
    return y
