"""Arrays in the memory that is needed."""

import numpy as np

__all__ = ["contiguous", "immutable"]


def immutable(array):
    """Copy `array` into one whose memory can never be written, not even by setting its ``writeable`` flag."""
    # A bytes object is the only buffer for which numpy refuses the flag for good.
    return np.ndarray(array.shape, array.dtype, buffer=array.tobytes())


def contiguous(array):
    """`array` itself where it is a C-contiguous, aligned ndarray, else a copy that is."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned and type(array) is np.ndarray else np.array(array, order="C")
