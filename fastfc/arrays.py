"""Arrays whose memory is ours alone."""

import numpy as np

__all__ = ["immutable"]


def immutable(array):
    """Copy `array` into one whose memory can never be written, not even by setting its ``writeable`` flag."""
    # A bytes object is the only buffer for which numpy refuses the flag for good.
    return np.ndarray(array.shape, array.dtype, buffer=array.tobytes())
