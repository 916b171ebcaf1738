"""What fastfc should compute, the slow and obvious way, and how far from it a result may lie.

Everything is computed in a wider type (float64 for float32, long double for float64), in no particular order.

The bound
---------
u is the unit roundoff (2^-24 or 2^-53), gamma(n) = n u / (1 - n u) (Higham, Accuracy and Stability, ch. 3), B the
length of a numeric block and nb = ceil(K / B) the number of blocks. A product x[k] w[k] that enters a chain of FMAs
passes at most B roundings (one more without FMA, where the product is rounded by itself); then nb - 1 adds of block
sums; then one add each for bias and residual. Each rounding multiplies by (1 + d), |d| <= u, so

    |y - exact| <= gamma(B + nb - 1 + 2) |x|.|w|  +  gamma(2) |bias|  +  gamma(1) |residual|

and relu, being 1-Lipschitz, adds nothing. Gradual underflow costs at most half the smallest denormal a rounding of a
product (sums that underflow are exact). The reference's own error, K roundings of the wider type, is added. For a sum
of plain adds (the bias' gradient) the same holds with |g| in place of |x|.|w|; for a stored entry's gradient, on 16
lanes, with B/16 + 4 in place of B, which is less.
"""

import math

import numpy as np

BLOCK = 192
UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}


def wide(array):
    if array is None:
        return None
    return np.asarray(array, np.float64 if array.dtype == np.float32 else np.longdouble)


def gamma(n, u):
    return n * u / (1 - n * u)


def bound(length, magnitude, dtype, bias=None, residual=None):
    """Elementwise bound of a sum of `length` products whose absolute values add up to `magnitude`."""
    dtype = np.dtype(dtype)
    u, blocks = UNIT[dtype], -(-length // BLOCK)
    steps = min(length, BLOCK) + 1 + blocks + 1
    reference = np.finfo(magnitude.dtype).eps * (length + 2)
    out = (gamma(steps, u) + reference) * magnitude + length * np.finfo(dtype).smallest_subnormal
    if bias is not None:
        out = out + (gamma(2, u) + reference) * np.abs(wide(bias))
    if residual is not None:
        out = out + (gamma(1, u) + reference) * np.abs(wide(residual))
    return out


def linear(x, weight, bias=None, residual=None, activation=None):
    """(y, error bound); x (..., in), weight (out, in)."""
    a, w = wide(x), wide(weight)
    y = a @ w.T
    if bias is not None:
        y = y + wide(bias)
    if residual is not None:
        y = y + wide(residual)
    if activation == "relu":
        y = np.where(y > 0, y, 0)
    return y, bound(w.shape[1], np.abs(a) @ np.abs(w).T, x.dtype, bias, residual)


def backward(grad_y, x, weight, z=None, activation=None):
    """((gx, gw, gb), their error bounds)."""
    n, k = weight.shape
    g, a, w = (wide(v) for v in (grad_y, x, weight))
    if activation == "relu":
        g = np.where(z > 0, g, 0)
    m = math.prod(x.shape[:-1])
    g, a = g.reshape(m, n), a.reshape(m, k)
    absolute = np.abs(g)
    gradients = (g @ w).reshape(x.shape), g.T @ a, g.sum(0)
    bounds = (
        bound(n, absolute @ np.abs(w), x.dtype).reshape(x.shape),
        bound(len(g), absolute.T @ np.abs(a), x.dtype),
        bound(len(g), absolute.sum(0), x.dtype),
    )
    return gradients, bounds


def dense(csr):
    """The array that a CSR ``(data, indices, indptr, shape)`` stands for: repeated entries add up."""
    data, indices, indptr, shape = csr
    out = np.zeros(shape, wide(data).dtype)
    for r in range(shape[0]):
        for e in range(indptr[r], indptr[r + 1]):
            out[r, indices[e]] += data[e]
    return out


def absolute(csr):
    """The same with the entries' absolute values: what error bounds of CSR products are made of."""
    data, indices, indptr, shape = csr
    return dense((np.abs(data), indices, indptr, shape))


def stored(csr, matrix):
    """matrix[row, column] of each stored entry."""
    data, indices, indptr, shape = csr
    out = np.zeros(len(data), matrix.dtype)
    for r in range(shape[0]):
        for e in range(indptr[r], indptr[r + 1]):
            out[e] = matrix[r, indices[e]]
    return out


def assert_close(actual, expected, tolerance):
    """|actual - expected| <= tolerance everywhere."""
    assert actual.shape == np.shape(expected), (actual.shape, np.shape(expected))
    error = np.abs(wide(actual) - expected)
    bad = np.argwhere(~(error <= tolerance))
    if len(bad):
        at = tuple(bad[0])
        raise AssertionError(
            f"{len(bad)} of {actual.size} beyond the bound, first at {at}: got {actual[at]!r}, "
            f"expected {expected[at]!r}, error {error[at]:.3g}, allowed {tolerance[at]:.3g}"
        )


def assert_same_bits(actual, expected, what=""):
    """Equal bit for bit, the sign of zero included; for NaN only where it stands."""
    assert type(actual) is np.ndarray and actual.dtype == expected.dtype, (type(actual), actual.dtype, expected.dtype)
    assert actual.shape == expected.shape, (what, actual.shape, expected.shape)
    integer = np.int32 if actual.dtype == np.float32 else np.int64
    same = np.ascontiguousarray(actual).view(integer) == np.ascontiguousarray(expected).view(integer)
    if actual.ndim == 0:
        same = same.reshape(())
    same |= np.isnan(actual) & np.isnan(expected)
    if not same.all():
        bad = np.argwhere(~same)
        at = tuple(bad[0])
        raise AssertionError(
            f"{what}: {len(bad)} of {same.size} differ, first at {at}: {actual[at]!r} != {expected[at]!r}"
        )
