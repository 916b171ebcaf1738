"""Checks of what layers are made with and called with; each names the argument, what was expected and what came."""

import operator

import numpy as np

from fastfc.module import FLOATS


def size(layer, name, value):
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{layer}(): {name} must be an integer, got {type(value).__name__}") from None
    if value < 0:
        raise ValueError(f"{layer}(): {name} must be >= 0, got {value}")
    return value


def float_dtype(layer, dtype):
    dtype = np.dtype(dtype)
    if dtype not in FLOATS:
        raise TypeError(f"{layer}(): dtype must be float32 or float64, got {dtype}")
    return dtype


def float_array(layer, name, array):
    if not isinstance(array, np.ndarray) or array.dtype not in FLOATS:
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{layer}: {name} must be a float32 or float64 array, got {got}")
    return array
