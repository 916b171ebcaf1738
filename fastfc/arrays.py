"""Arrays in the memory that is needed."""

import numpy as np

from fastfc._core import empty, immutable

__all__ = ["array_of", "contiguous", "copied", "empty", "immutable"]


def array_of(name, value):
    """``np.asarray(value)``; where numpy makes none of it, the error begins with `name`."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError  # a subclass may be made of something else
        raise kind(f"{name} is no array: {error}") from None


def copied(array):
    """A C-contiguous copy of `array`, from a cache line on."""
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def contiguous(array):
    """`array` itself where it is a C-contiguous, aligned ndarray, else a copy that is."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned and type(array) is np.ndarray else np.array(array, order="C")
