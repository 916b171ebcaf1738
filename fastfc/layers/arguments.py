"""Checks of what layers are made with and called with; each names the argument, what was expected and what came."""

import operator
import sys
from numbers import Real

import numpy as np

from fastfc.module import FLOATS, float_dtype  # noqa: F401


def integer(layer, name, value):
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{layer}(): {name} must be an integer, got {type(value).__name__}") from None


def size(layer, name, value, least=0):
    value = integer(layer, name, value)
    if value < least:
        raise ValueError(f"{layer}(): {name} must be >= {least}, got {value}")
    if value > sys.maxsize:
        raise ValueError(f"{layer}(): {name} must be <= {sys.maxsize}, what an axis can have, got {value}")
    return value


def among(value, names):
    """Whether `value` is one of the strings `names`. An array is not, nor what has no hash."""
    return isinstance(value, str) and value in names


def flag(layer, name, value):
    try:
        return bool(value)
    except (TypeError, ValueError):  # an array
        raise TypeError(f"{layer}(): {name} must be a bool, got {type(value).__name__}") from None


def fraction(layer, name, value):
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{layer}(): {name} must be a number, got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"{layer}(): {name} must be in [0, 1], got {value}")
    return value


def float_array(layer, name, array):
    if not isinstance(array, np.ndarray) or array.dtype not in FLOATS:
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{layer}: {name} must be a float32 or float64 array, got {got}")
    return array


def like(layer, name, array, x):
    """`array`, of the shape and dtype of x."""
    array = float_array(layer, name, array)
    if array.dtype != x.dtype:
        raise TypeError(f"{layer}: {name} is {array.dtype}, expected {x.dtype}")
    if array.shape != x.shape:
        raise ValueError(f"{layer}: {name} must have shape {x.shape}, got {array.shape}")
    return array
