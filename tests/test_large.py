"""Arrays of more than 2^31 elements.

Most of what is read here is zeros that nobody has written: one page of memory, mapped as often as there are pages. So
the first two tests take no memory to speak of. The others write, pack or index as much: 16 GB, so they run on demand,
with FASTFC_TEST_LARGE=1.
"""

import os

import numpy as np
import pytest
from reference import assert_same_bits

import fastfc

ROWS, K = 2**22 + 3, 512
LARGE = pytest.mark.skipif(
    os.environ.get("FASTFC_TEST_LARGE") != "1", reason="takes 16 GB; FASTFC_TEST_LARGE=1 runs it"
)


def zeros(shape, dtype=np.float32):
    try:
        a = np.zeros(shape, dtype)
    except MemoryError:
        pytest.skip(f"no address space for {shape}")
    assert a.size > 2**31
    return a


def ends(a, rng):
    """Small integers in the first and the last row."""
    a[0], a[-1] = rng.integers(-4, 5, a.shape[1:]), rng.integers(-4, 5, a.shape[1:])
    return a


def test_x(rng):
    x = ends(zeros((ROWS, K)), rng)
    weight, grad = rng.integers(-4, 5, (3, K)).astype(np.float32), np.ones((ROWS, 3), np.float32)
    for w in (weight, fastfc.pack(weight)):
        y = fastfc.linear(x, w)
        assert_same_bits(y[[0, -1]], fastfc.linear(x[[0, -1]], w))
        assert not y[1:-1].any()
    _, gw, gb = fastfc.linear_backward(grad, x, weight, needs=("weight", "bias"))
    assert_same_bits(gw, np.broadcast_to(x[0] + x[-1], gw.shape).copy())
    assert (gb == ROWS).all()


def test_weight(rng):
    weight = ends(zeros((ROWS, K)), rng)
    x = rng.integers(-4, 5, (2, K)).astype(np.float32)
    y = fastfc.linear(x, weight)
    assert_same_bits(y[:, [0, -1]], fastfc.linear(x, weight[[0, -1]]))
    assert not y[:, 1:-1].any()
    gx, _, gb = fastfc.linear_backward(np.ones_like(y), x, weight, needs=("x", "bias"))
    assert_same_bits(gx, np.broadcast_to(weight[0] + weight[-1], gx.shape).copy())
    assert (gb == 2).all()


@LARGE
def test_results(rng):
    """y, and then the gradient of x or of the weight, in the same memory."""
    out = zeros((ROWS, K))
    x, weight = rng.integers(-4, 5, (ROWS, 2)).astype(np.float32), rng.integers(-4, 5, (K, 2)).astype(np.float32)
    fastfc.linear(x, weight, activation="relu", out=out)
    for rows in (slice(0, 5), slice(ROWS // 2, ROWS // 2 + 5), slice(-5, None)):
        assert_same_bits(out[rows], fastfc.linear(x[rows], weight, activation="relu"))
    fastfc.activations.relu(out, out=out)
    assert_same_bits(out[-5:], fastfc.linear(x[-5:], weight, activation="relu"))
    few = rng.integers(-4, 5, (2, K)).astype(np.float32)
    nothing = np.broadcast_to(np.float32(0), (ROWS, K))
    _, gw, _ = fastfc.linear_backward(np.ascontiguousarray(x.T), few, nothing, needs=("weight",), out=(None, out, None))
    assert_same_bits(gw[-5:], fastfc.linear(x[-5:], np.ascontiguousarray(few.T)))


@LARGE
def test_pack(rng):
    weight = ends(zeros((ROWS, K)), rng)
    packed = fastfc.pack(weight)
    x = rng.integers(-4, 5, (2, K)).astype(np.float32)
    y = fastfc.linear(x, packed)
    assert_same_bits(y[:, [0, -1]], fastfc.linear(x, weight[[0, -1]]))
    assert not y[:, 1:-1].any()


@LARGE
def test_csr(rng):
    """More than 2^31 stored entries, as scipy's matrix has them: not copied."""

    class Scipy:
        format = "csr"

        def tocsr(self):
            return self

    csr, nnz = Scipy(), 2**31 + 1000
    csr.data, csr.indices = zeros(nnz), zeros(nnz, np.int64)
    csr.data[-2:], csr.indices[-2:] = (3, 5), (1, 2)
    csr.indptr, csr.shape = np.array([0, 7, nnz - 2, nnz]), (3, 4)
    x = rng.integers(-4, 5, (3, 4)).astype(np.float32)
    y = fastfc.linear(x, csr)
    assert_same_bits(y, np.stack([0 * x[:, 0], 0 * x[:, 0], 3 * x[:, 1] + 5 * x[:, 2]], 1) + np.float32(0))
