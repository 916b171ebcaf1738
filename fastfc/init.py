"""Initial values of weights: functions that fill an array in place, with torch's names and distributions.

Each takes ``rng``: a `numpy.random.Generator` (drawn from, so its state moves on), an integer seed, or None for
fresh entropy. The same seed gives the same values.
"""

import math

import numpy as np

__all__ = ["kaiming_uniform_", "uniform_"]


def generator(rng):
    """Return the `numpy.random.Generator` that an ``rng`` argument means."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is not None and not isinstance(rng, int | np.integer):
        raise TypeError(f"rng must be a numpy.random.Generator, an int or None, got {type(rng).__name__}")
    if rng is not None and rng < 0:
        raise ValueError(f"rng must be a seed >= 0, got {rng}")
    return np.random.default_rng(rng)


def uniform_(array, a=0.0, b=1.0, *, rng=None):
    """Fill `array` with draws from the uniform distribution U(a, b), and return it.

    Parameters
    ----------
    array : ndarray of float32 or float64, any shape
    a, b : float
        Bounds, a <= b, both finite.
    rng : numpy.random.Generator, int or None

    Raises
    ------
    TypeError
        If `array` is no writeable array of float32 or float64.
    ValueError
        If a > b, or a bound is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> w = init.uniform_(np.empty((2, 3), dtype=np.float32), -1, 1, rng=0)
    >>> bool((abs(w) <= 1).all())
    True
    """
    _check_array("uniform_", array)
    if not (math.isfinite(a) and math.isfinite(b) and a <= b):
        raise ValueError(f"uniform_(): expected finite a <= b, got a={a}, b={b}")
    array[...] = generator(rng).random(array.shape, dtype=array.dtype)
    array *= b - a
    array += a
    return array


def kaiming_uniform_(array, a=0.0, *, fan_in=None, rng=None):
    """Fill `array` with draws from U(-bound, bound), ``bound = sqrt(6 / ((1 + a²) fan_in))``, and return it.

    This keeps the variance of activations through layers with leaky ReLUs of slope `a` [1]_. With a = √5 the
    bound is ``1 / sqrt(fan_in)``, which is how torch initialises ``Linear``.

    Parameters
    ----------
    array : ndarray of float32 or float64, (out_features, in_features)
    a : float
        Slope of the rectifier that follows, for negative inputs.
    fan_in : int, optional
        Inputs of one output; by default ``in_features``. Give it for an array of another shape, such as the
        stored entries of a sparse weight.
    rng : numpy.random.Generator, int or None

    Raises
    ------
    TypeError
        If `array` is no writeable array of float32 or float64.
    ValueError
        If `array` is not 2-D and no `fan_in` is given.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun: Delving deep into rectifiers. ICCV 2015. arXiv:1502.01852

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> w = init.kaiming_uniform_(np.empty((8, 25), dtype=np.float32), a=np.sqrt(5), rng=0)
    >>> bool((abs(w) <= 1 / 5).all())
    True
    """
    _check_array("kaiming_uniform_", array)
    if fan_in is None:
        if array.ndim != 2:
            raise ValueError(f"kaiming_uniform_(): array must be 2-D, or fan_in given; got {array.ndim}-D")
        fan_in = array.shape[1]
    bound = math.sqrt(6 / ((1 + a * a) * max(fan_in, 1)))  # fan_in 0: there is nothing to fill
    return uniform_(array, -bound, bound, rng=rng)


def _check_array(function, array):
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{function}(): array must be a float32 or float64 ndarray, got {got}")
    if not array.flags.writeable:
        raise TypeError(f"{function}(): array must be writeable, got a read-only array")
