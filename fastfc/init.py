"""Initial values of weights: functions that fill an array in place, with torch's names and distributions.

Each that draws takes ``rng``: a `numpy.random.Generator` (drawn from, so its state moves on), an integer seed, or None
for fresh entropy. The same seed gives the same values.

An array is (out_features, in_features), or (out, in, …) where each output has as many inputs as all axes but the
first have places: ``fan_in`` is the product of all lengths but the first, ``fan_out`` of all but the second.
"""

import math
from statistics import NormalDist

import numpy as np

__all__ = [
    "calculate_gain",
    "constant_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

MODES = ("fan_in", "fan_out")
GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}


def generator(rng):
    """Return the `numpy.random.Generator` that an ``rng`` argument means."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is not None and not isinstance(rng, int | np.integer):
        raise TypeError(f"rng must be a numpy.random.Generator, an int or None, got {type(rng).__name__}")
    if rng is not None and rng < 0:
        raise ValueError(f"rng must be a seed >= 0, got {rng}")
    return np.random.default_rng(rng)


def calculate_gain(nonlinearity, param=None):
    """Factor by which a weight's standard deviation grows for the activation that follows it.

    Parameters
    ----------
    nonlinearity : str
        "linear" and "sigmoid": 1; "tanh": 5/3; "relu": √2; "leaky_relu": ``sqrt(2 / (1 + param²))``; "selu": 3/4.
    param : float, optional
        Slope of "leaky_relu" for negative inputs, 0.01 by default.

    Raises
    ------
    TypeError, ValueError
        If `nonlinearity` is not among these, or `param` is not a number.

    Examples
    --------
    >>> from fastfc import init
    >>> round(init.calculate_gain("leaky_relu", 0.2), 4)
    1.3868
    """
    if isinstance(nonlinearity, str) and nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else _finite("calculate_gain", "param", param)
        return math.sqrt(2 / (1 + slope * slope))
    if not (isinstance(nonlinearity, str) and nonlinearity in GAINS):
        known = ", ".join(repr(name) for name in sorted([*GAINS, "leaky_relu"]))
        raise ValueError(f"calculate_gain(): nonlinearity must be one of {known}, got {nonlinearity!r}")
    return GAINS[nonlinearity]


# ---- The distributions ----------------------------------------------------------------------------------------------


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


def normal_(array, mean=0.0, std=1.0, *, rng=None):
    """Fill `array` with draws from the normal distribution N(mean, std²), and return it.

    Parameters
    ----------
    array : ndarray of float32 or float64, any shape
    mean, std : float
        Finite, std >= 0.
    rng : numpy.random.Generator, int or None

    Raises
    ------
    TypeError
        If `array` is no writeable array of float32 or float64.
    ValueError
        If a number is not finite, or std < 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> w = init.normal_(np.empty((100, 100), dtype=np.float32), std=0.02, rng=0)
    >>> bool(abs(w.std() - 0.02) < 0.001)
    True
    """
    _check_array("normal_", array)
    mean, std = _finite("normal_", "mean", mean), _finite("normal_", "std", std, least=0)
    array[...] = generator(rng).standard_normal(array.shape, dtype=array.dtype)
    array *= std
    array += mean
    return array


def trunc_normal_(array, mean=0.0, std=1.0, a=-2.0, b=2.0, *, rng=None):
    """Fill `array` with draws from N(mean, std²) under the condition a <= x <= b, and return it.

    `a` and `b` are values of x, not multiples of std. Any interval will do, far from the mean too: draws come from
    the normal or the uniform distribution, whichever more of are accepted [1]_.

    Parameters
    ----------
    array : ndarray of float32 or float64, any shape
    mean, std : float
        Finite, std >= 0; with 0 every element is the point of [a, b] nearest to the mean.
    a, b : float
        Bounds, a <= b; they may be infinite.
    rng : numpy.random.Generator, int or None

    Raises
    ------
    TypeError
        If `array` is no writeable array of float32 or float64.
    ValueError
        If `mean` or `std` is not finite, std < 0, or not a <= b.

    References
    ----------
    .. [1] C. P. Robert: Simulation of truncated normal variables. Statistics and Computing 5, 1995. arXiv:0907.4010

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> w = init.trunc_normal_(np.empty((8, 8), dtype=np.float32), std=0.5, a=-1, b=1, rng=0)
    >>> bool((abs(w) <= 1).all())
    True
    """
    _check_array("trunc_normal_", array)
    mean, std = _finite("trunc_normal_", "mean", mean), _finite("trunc_normal_", "std", std, least=0)
    if not a <= b:
        raise ValueError(f"trunc_normal_(): expected a <= b, got a={a}, b={b}")
    rng = generator(rng)
    if std == 0:
        array[...] = min(max(mean, a), b)
    else:
        low, high = (a - mean) / std, (b - mean) / std
        array[...] = _truncated(rng, low, high, array.size).reshape(array.shape) * std + mean
    return np.clip(array, a, b, out=array)  # rounding may have gone past a bound


def _truncated(rng, low, high, count):
    """`count` draws from N(0, 1) under the condition low <= x <= high."""
    nearest = min(max(0.0, low), high)
    if abs(nearest) > 1e6:  # all of the mass lies within 1e-4 of it
        return np.full(count, nearest)
    # Beyond these the density has fallen by exp(-40) from its largest value: less than 1e-17 of the mass.
    reach = math.sqrt(nearest * nearest + 80)
    low, high = max(low, -reach), min(high, reach)
    width = high - low
    if width == 0:
        return np.full(count, low)
    left, right = (-high, -low) if low > 0 else (low, high)  # where cdf's differences keep their digits
    mass = NormalDist().cdf(right) - NormalDist().cdf(left)
    # Of uniform draws so many are accepted: the mean of the density over its maximum.
    uniform = mass * math.sqrt(2 * math.pi) / width * math.exp(nearest * nearest / 2) if nearest < 30 else 1.0
    parts, missing = [], count
    while missing:
        size = missing + missing // 4 + 16
        if mass >= uniform:
            draws = rng.standard_normal(size)
            draws = draws[(draws >= low) & (draws <= high)]
        else:
            draws = rng.uniform(low, high, size)
            draws = draws[rng.random(size) < np.exp((nearest * nearest - draws * draws) / 2)]
        parts.append(draws[:missing])
        missing -= parts[-1].size
    return np.concatenate(parts) if parts else np.empty(0)


def kaiming_uniform_(array, a=0.0, mode="fan_in", nonlinearity="leaky_relu", *, fan_in=None, rng=None):
    """Fill `array` with draws from U(-bound, bound), ``bound = gain · sqrt(3 / fan)``, and return it.

    This keeps the variance of activations (`mode` "fan_in") or of gradients ("fan_out") through layers with leaky
    ReLUs of slope `a` [1]_, whose gain is ``sqrt(2 / (1 + a²))``. With a = √5 the bound is ``1 / sqrt(fan_in)``,
    which is how torch initialises ``Linear``.

    Parameters
    ----------
    array : ndarray of float32 or float64, (out_features, in_features)
    a : float
        Slope for negative inputs of the leaky ReLU that follows.
    mode : {"fan_in", "fan_out"}
    nonlinearity : str
        What follows, by a name of `calculate_gain`.
    fan_in : int, optional
        Inputs of one output, instead of what follows from the shape and `mode`. Give it for an array of another
        shape, such as the stored entries of a sparse weight.
    rng : numpy.random.Generator, int or None

    Raises
    ------
    TypeError
        If `array` is no writeable array of float32 or float64.
    ValueError
        If `array` has fewer than two axes and no `fan_in` is given, or a name is unknown.

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
    bound = math.sqrt(3) * _kaiming_std("kaiming_uniform_", array, a, mode, nonlinearity, fan_in)
    return uniform_(array, -bound, bound, rng=rng)


def kaiming_normal_(array, a=0.0, mode="fan_in", nonlinearity="leaky_relu", *, fan_in=None, rng=None):
    """Fill `array` with draws from N(0, std²), ``std = gain / sqrt(fan)``, and return it.

    The normal distribution of the same variance as that of `kaiming_uniform_`, which says what the parameters and
    errors are.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> w = init.kaiming_normal_(np.empty((400, 50), dtype=np.float32), nonlinearity="relu", rng=0)
    >>> bool(abs(w.std() - 0.2) < 0.005)
    True
    """
    std = _kaiming_std("kaiming_normal_", array, a, mode, nonlinearity, fan_in)
    return normal_(array, 0.0, std, rng=rng)


def _kaiming_std(function, array, a, mode, nonlinearity, fan_in):
    _check_array(function, array)
    if not (isinstance(mode, str) and mode in MODES):
        raise ValueError(f'{function}(): mode must be "fan_in" or "fan_out", got {mode!r}')
    if isinstance(nonlinearity, str) and nonlinearity == "leaky_relu" and a is not None:
        _finite(function, "a", a)
    if fan_in is not None:
        _finite(function, "fan_in", fan_in, least=0)
    fan = _fans(function, array, ", or fan_in given")[MODES.index(mode)] if fan_in is None else fan_in
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))  # fan 0: there is nothing to fill


def xavier_uniform_(array, gain=1.0, *, rng=None):
    """Fill `array` with draws from U(-bound, bound), ``bound = gain · sqrt(6 / (fan_in + fan_out))``, and return it.

    Parameters
    ----------
    array : ndarray of float32 or float64, (out_features, in_features)
    gain : float
        Such as `calculate_gain` returns.
    rng : numpy.random.Generator, int or None

    Raises
    ------
    TypeError
        If `array` is no writeable array of float32 or float64.
    ValueError
        If `array` has fewer than two axes, or `gain` is negative or not finite.

    References
    ----------
    .. [1] X. Glorot, Y. Bengio: Understanding the difficulty of training deep feedforward neural networks.
       AISTATS 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> w = init.xavier_uniform_(np.empty((20, 4), dtype=np.float32), gain=2, rng=0)
    >>> bool((abs(w) <= 1).all())
    True
    """
    bound = math.sqrt(3) * _xavier_std("xavier_uniform_", array, gain)
    return uniform_(array, -bound, bound, rng=rng)


def xavier_normal_(array, gain=1.0, *, rng=None):
    """Fill `array` with draws from N(0, std²), ``std = gain · sqrt(2 / (fan_in + fan_out))``, and return it.

    The normal distribution of the same variance as that of `xavier_uniform_`, which says what the parameters and
    errors are.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> w = init.xavier_normal_(np.empty((100, 100), dtype=np.float32), rng=0)
    >>> bool(abs(w.std() - 0.1) < 0.005)
    True
    """
    return normal_(array, 0.0, _xavier_std("xavier_normal_", array, gain), rng=rng)


def _xavier_std(function, array, gain):
    _check_array(function, array)
    gain = _finite(function, "gain", gain, least=0)
    return gain * math.sqrt(2 / max(sum(_fans(function, array)), 1))


# ---- Values with a structure ----------------------------------------------------------------------------------------


def constant_(array, val):
    """Fill `array` with the number `val`, and return it.

    Raises
    ------
    TypeError
        If `array` is no writeable array of float32 or float64, or `val` is no number.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> init.constant_(np.empty(3, dtype=np.float32), 0.5)
    array([0.5, 0.5, 0.5], dtype=float32)
    """
    _check_array("constant_", array)
    array[...] = _number("constant_", "val", val)
    return array


def zeros_(array):
    """Fill `array` with 0, and return it; raises as `constant_` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> init.zeros_(np.empty(3, dtype=np.float32))
    array([0., 0., 0.], dtype=float32)
    """
    return constant_(array, 0.0)


def ones_(array):
    """Fill `array` with 1, and return it; raises as `constant_` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> init.ones_(np.empty(3, dtype=np.float32))
    array([1., 1., 1.], dtype=float32)
    """
    return constant_(array, 1.0)


def eye_(array):
    """Fill a 2-D `array` with 1 on the diagonal and 0 elsewhere, and return it.

    Raises
    ------
    TypeError
        If `array` is no writeable array of float32 or float64.
    ValueError
        If it is not 2-D.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> init.eye_(np.empty((2, 3), dtype=np.float32))
    array([[1., 0., 0.],
           [0., 1., 0.]], dtype=float32)
    """
    _check_array("eye_", array)
    _check_matrix("eye_", array)
    array[...] = np.eye(*array.shape, dtype=array.dtype)
    return array


def orthogonal_(array, gain=1.0, *, rng=None):
    """Fill `array` with `gain` times a random matrix whose rows, or whose columns if they are fewer, are orthonormal.

    The matrix is uniformly distributed among these: Q of the QR decomposition of Gaussian draws, with the signs that
    make the diagonal of R positive [2]_. Axes after the second are taken together with it, as in torch. Computed in
    float64.

    Parameters
    ----------
    array : ndarray of float32 or float64, two axes or more
    gain : float
    rng : numpy.random.Generator, int or None

    Returns
    -------
    ndarray
        `array`.

    Raises
    ------
    TypeError
        If `array` is no writeable array of float32 or float64.
    ValueError
        If it has fewer than two axes, or `gain` is not finite.

    References
    ----------
    .. [1] A. Saxe, J. McClelland, S. Ganguli: Exact solutions to the nonlinear dynamics of learning in deep linear
       neural networks. ICLR 2014. arXiv:1312.6120
    .. [2] F. Mezzadri: How to generate random matrices from the classical compact groups. Notices of the AMS 54, 2007.
       arXiv:math-ph/0609050

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> w = init.orthogonal_(np.empty((3, 5), dtype=np.float32), rng=0)
    >>> np.allclose(w @ w.T, np.eye(3), atol=1e-6)
    True
    """
    _check_array("orthogonal_", array)
    gain = _finite("orthogonal_", "gain", gain)
    _fans("orthogonal_", array)
    if array.size:
        rows = array.shape[0]
        columns = array.size // rows
        q, r = np.linalg.qr(generator(rng).standard_normal((max(rows, columns), min(rows, columns))))
        q *= np.where(np.diagonal(r) < 0, -gain, gain)
        array[...] = (q if rows >= columns else q.T).reshape(array.shape)
    return array


def sparse_(array, sparsity, std=0.01, *, rng=None):
    """Fill a 2-D `array` with draws from N(0, std²), of which in each column ``ceil(sparsity · rows)`` are set to 0.

    Parameters
    ----------
    array : ndarray of float32 or float64, (out_features, in_features)
    sparsity : float in [0, 1]
        Fraction of zeros in each column; which they are is drawn for each column on its own.
    std : float >= 0
    rng : numpy.random.Generator, int or None

    Returns
    -------
    ndarray
        `array`.

    Raises
    ------
    TypeError
        If `array` is no writeable array of float32 or float64.
    ValueError
        If it is not 2-D, or a number is out of range.

    References
    ----------
    .. [1] J. Martens: Deep learning via Hessian-free optimization. ICML 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc import init
    >>> w = init.sparse_(np.empty((10, 4), dtype=np.float32), 0.75, rng=0)
    >>> (w == 0).sum(axis=0)
    array([8, 8, 8, 8])
    """
    _check_array("sparse_", array)
    _check_matrix("sparse_", array)
    sparsity, std = _finite("sparse_", "sparsity", sparsity), _finite("sparse_", "std", std, least=0)
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparse_(): sparsity must be in [0, 1], got {sparsity}")
    rng = generator(rng)
    normal_(array, 0.0, std, rng=rng)
    rows, columns = array.shape
    order = rng.permuted(np.repeat(np.arange(rows)[:, None], columns, axis=1), axis=0)
    array[order < math.ceil(sparsity * rows)] = 0
    return array


# ---- Checks ---------------------------------------------------------------------------------------------------------


def _check_array(function, array):
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{function}(): array must be a float32 or float64 ndarray, got {got}")
    if not array.flags.writeable:
        raise TypeError(f"{function}(): array must be writeable, got a read-only array")


def _check_matrix(function, array):
    if array.ndim != 2:
        raise ValueError(f"{function}(): array must be 2-D, got {array.ndim}-D")


def _fans(function, array, otherwise=""):
    if array.ndim < 2:
        raise ValueError(f"{function}(): array must have two axes or more{otherwise}; got {array.ndim}-D")
    outputs, inputs = array.shape[:2]
    places = math.prod(array.shape[2:])
    return inputs * places, outputs * places


def _number(function, name, value):
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{function}(): {name} must be a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{function}(): {name} must be a number that a float holds, got a larger int") from None


def _finite(function, name, value, least=-math.inf):
    value = _number(function, name, value)
    if not (math.isfinite(value) and value >= least):
        wanted = "finite" if least == -math.inf else f"finite and >= {least}"
        raise ValueError(f"{function}(): {name} must be {wanted}, got {value}")
    return value
