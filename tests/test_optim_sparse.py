"""Gradients of single rows: SparseGrad itself, and what optimisers and clipping do with one."""

import pickle

import numpy as np
import pytest

import fastfc
from fastfc import SparseGrad


def draw(rng, n, rows=7, dim=5, dtype=np.float64):
    return SparseGrad(rng.integers(0, rows, n), rng.standard_normal((n, dim)).astype(dtype), (rows, dim))


def dense(grad):
    out = np.zeros(grad.shape, grad.dtype)
    for i, row in zip(grad.indices, grad.values, strict=True):
        out[i] += row
    return out


@pytest.mark.parametrize("n", [0, 1, 2, 30, 1000])
def test_coalesce_and_to_dense(n, rng, dtype, isa, threads):
    grad = draw(rng, n, dtype=dtype)
    with fastfc.num_threads(threads):
        once = grad.coalesce()
    assert np.array_equal(once.indices, np.unique(grad.indices))
    assert once.shape == grad.shape and once.dtype == dtype and once.indices.dtype == np.int64
    tolerance = np.finfo(dtype).eps * n * np.abs(grad.values).max(initial=0)
    np.testing.assert_allclose(grad.to_dense(), dense(grad), rtol=0, atol=tolerance)
    np.testing.assert_array_equal(grad.to_dense(), dense(once))
    assert once.coalesce() is once


def test_repeats_are_added_in_stored_order():
    grad = SparseGrad([1, 0, 1, 1], np.float32([[2 ** 24], [5], [1], [-(2 ** 24)]]), (2, 1))
    np.testing.assert_array_equal(grad.to_dense(), [[5], [0]])  # 2^24 + 1 is 2^24 in float32
    other = SparseGrad([1, 1, 1], np.float32([[2 ** 24], [-(2 ** 24)], [1]]), (2, 1))
    np.testing.assert_array_equal(other.to_dense(), [[0], [1]])


def test_sums(rng):
    a, b = draw(rng, 5), draw(rng, 3)
    both = a + b
    assert isinstance(both, SparseGrad) and len(both.indices) == 8
    np.testing.assert_allclose(both.to_dense(), dense(a) + dense(b), atol=1e-15)
    array = rng.standard_normal(a.shape)
    for total in (a + array, array + a):
        assert isinstance(total, np.ndarray)
        np.testing.assert_allclose(total, dense(a) + array, atol=1e-15)
    with pytest.raises(ValueError, match=r"SparseGrad \+ ndarray: expected float64 of shape \(7, 5\), got .*\(3,\)"):
        a + np.ones(3)
    with pytest.raises(TypeError):
        a + 1


def test_pickles(rng):
    grad = draw(rng, 4)
    again = pickle.loads(pickle.dumps(grad))
    np.testing.assert_array_equal(again.indices, grad.indices)
    np.testing.assert_array_equal(again.values, grad.values)
    assert again.shape == grad.shape


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (([0], [[1.0]], (2, 1)), TypeError, "values must be a float32 or float64 array, got list"),
    (([0], np.ones((1, 1), int), (2, 1)), TypeError, "values must be a float32 or float64 array, got int64"),
    (([0.5], np.ones((1, 1)), (2, 1)), TypeError, "indices must hold integers, got float64"),
    (([0], np.ones((1, 1)), (2,)), TypeError, r"shape must be two integers, \(rows, dim\), got \(2,\)"),
    (([0], np.ones((1, 1)), 2), TypeError, r"shape must be two integers"),
    (([0], np.ones((1, 1)), (-1, 1)), ValueError, r"shape must not be negative"),
    (([[0]], np.ones((1, 1)), (2, 1)), ValueError, r"indices must be 1-D, got shape \(1, 1\)"),
    (([0, 1], np.ones((1, 1)), (2, 1)), ValueError, r"values must have shape \(2, 1\), one row for each index, got"),
    (([0], np.ones((1, 3)), (2, 1)), ValueError, r"values must have shape \(1, 1\)"),
    (([0, 2], np.ones((2, 1)), (2, 1)), ValueError, r"indices\[1\] is 2, expected a row in \[0, 2\)"),
    (([0, 1, -1], np.ones((3, 1)), (2, 1)), ValueError, r"indices\[2\] is -1, expected a row in \[0, 2\)"),
    ((np.array([2 ** 64 - 1], np.uint64), np.ones((1, 1)), (2, 1)), ValueError, r"indices\[0\] is 1844674407"),
])
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        SparseGrad(*arguments)
