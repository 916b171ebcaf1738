"""CrossEntropyLoss against a slow float64 formula, finite differences and torch."""

import math
import warnings

import numpy as np
import pytest

import fastfc

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def reference(logits, target):
    """Row by row in float64: the mean of -log softmax(z)[t], and its gradient."""
    logits = logits.astype(np.float64)
    total, grad = 0.0, np.zeros_like(logits)
    for m, (z, t) in enumerate(zip(logits, target, strict=True)):
        log_sum = max(z) + math.log(math.fsum(math.exp(v - max(z)) for v in z))
        total += log_sum - z[t]
        grad[m] = np.exp(z - log_sum)
        grad[m, t] -= 1
    return total / len(target), grad / len(target)


def batch(dtype=np.float64, rows=7, classes=5, seed=0, scale=3):
    rng = np.random.default_rng(seed)
    return (scale * rng.standard_normal((rows, classes))).astype(dtype), rng.integers(0, classes, rows)


@DTYPES
@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (1, 10), (7, 5), (32, 10), (3, 1000)])
def test_value_and_gradient(dtype, rows, classes):
    logits, target = batch(dtype, rows, classes)
    loss, (kept_logits, kept_target) = fastfc.CrossEntropyLoss(), (logits.copy(), target.copy())
    value, backward = loss.vjp(logits, target)
    expected, grad = reference(logits, target)
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    assert type(value) is float and value == loss(logits, target)
    assert value == pytest.approx(expected, rel=tolerance, abs=tolerance)
    got = backward()
    assert got.dtype == dtype and got.shape == logits.shape
    np.testing.assert_allclose(got, grad, rtol=0, atol=tolerance)
    again = backward()
    assert again is not got
    np.testing.assert_array_equal(again, got)
    np.testing.assert_array_equal(logits, kept_logits)
    np.testing.assert_array_equal(target, kept_target)


def test_finite_differences():
    logits, target = batch()
    loss, eps = fastfc.CrossEntropyLoss(), 1e-6
    grad = loss.vjp(logits, target)[1]()
    for at in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[at] = eps
        expected = (loss(logits + step, target) - loss(logits - step, target)) / (2 * eps)
        assert grad[at] == pytest.approx(expected, abs=1e-8)


@DTYPES
def test_huge_logits_neither_overflow_nor_vanish(dtype):
    logits = np.array([[1e4, 0, -1e4], [-3e4, -3e4, -3e4], [1e30, -1e30, 0]], dtype)
    value, backward = fastfc.CrossEntropyLoss().vjp(logits, np.array([1, 2, 0]))
    assert value == pytest.approx((1e4 + math.log(3) + 0) / 3, rel=1e-6)
    np.testing.assert_allclose(3 * backward(), [[1, -1, 0], [1 / 3, 1 / 3, -2 / 3], [0, 0, 0]], atol=1e-6)


@DTYPES
def test_nan_and_inf_travel_without_warnings(dtype):
    loss, zero = fastfc.CrossEntropyLoss(), np.array([0])
    inf, nan = np.inf, np.nan
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        for row, value in [([nan, 0], nan), ([0, nan], nan), ([inf, 0], nan), ([-inf, 0], inf), ([0, -inf], 0),
                           ([-inf, -inf], nan)]:
            got, backward = loss.vjp(np.array([row], dtype), zero)
            np.testing.assert_equal(got, float(value))
            backward()
    grad = loss.vjp(np.array([[0, nan], [0, 0]], dtype), np.array([0, 0]))[1]()
    assert np.isnan(grad[0]).all()
    np.testing.assert_allclose(grad[1], [-0.25, 0.25])


@DTYPES
def test_a_rows_gradient_does_not_depend_on_its_batch_or_layout(dtype):
    logits, target = batch(dtype, 64, 37)
    loss = fastfc.CrossEntropyLoss()
    full = loss.vjp(logits, target)[1]()
    for rows in (1, 2, 16):  # powers of two: the division by the batch is exact
        part = loss.vjp(logits[:rows], target[:rows])[1]()
        np.testing.assert_array_equal(part * (rows / 64), full[:rows])
    for other in (np.asfortranarray(logits), np.repeat(logits, 2, axis=1)[:, ::2], logits[::-1].copy()[::-1]):
        value, backward = loss.vjp(other, target)
        assert value == loss(logits, target)
        np.testing.assert_array_equal(backward(), full)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64, ">i4", list])
def test_any_integer_labels(kind):
    logits, target = batch()
    other = target.tolist() if kind is list else target.astype(kind)
    assert fastfc.CrossEntropyLoss()(logits, other) == fastfc.CrossEntropyLoss()(logits, target)


def test_empty_batch_is_nan():
    value, backward = fastfc.CrossEntropyLoss().vjp(np.empty((0, 5), np.float32), np.empty(0, int))
    assert math.isnan(value)
    assert backward().shape == (0, 5) and backward().dtype == np.float32


GOOD, LABELS = np.zeros((3, 4)), np.array([0, 1, 2])


@pytest.mark.parametrize(("logits", "target", "error", "message"), [
    (GOOD, np.array([0, 4, -1]), ValueError, r"target\[1\] is 4, expected a label in \[0, 4\)"),
    (GOOD, np.array([0, 1, -1]), ValueError, r"target\[2\] is -1, expected a label in \[0, 4\)"),
    (GOOD, np.array([0, -128, 1], np.int8), ValueError, r"target\[1\] is -128, expected"),
    (GOOD, np.array([0, 1, 2**64 - 1], np.uint64), ValueError, r"target\[2\] is 18446744073709551615, expected"),
    (np.zeros((3, 0)), LABELS, ValueError, r"target\[0\] is 0, expected a label in \[0, 0\)"),
    (GOOD, np.array([0, 1]), ValueError, r"target must have shape \(3,\), got \(2,\)"),
    (GOOD, np.array([[0, 1, 2]]), ValueError, r"target must have shape \(3,\), got \(1, 3\)"),
    (GOOD, np.array(0), ValueError, r"target must have shape \(3,\), got \(\)"),
    (GOOD[0], LABELS, ValueError, r"logits must be \(batch, classes\), got shape \(4,\)"),
    (GOOD[None], LABELS, ValueError, r"logits must be \(batch, classes\), got shape \(1, 3, 4\)"),
    (GOOD, np.array([0.0, 1, 2]), TypeError, r"target must be of integers, got float64"),
    (GOOD, np.array([True, False, True]), TypeError, r"target must be of integers, got bool"),
    (GOOD, np.array([0, 1, None]), TypeError, r"target must be of integers, got object"),
    (GOOD.astype(int), LABELS, TypeError, r"logits must be a float32 or float64 array, got int64"),
    (GOOD.astype(np.float16), LABELS, TypeError, r"logits must be a float32 or float64 array, got float16"),
    (GOOD.tolist(), LABELS, TypeError, r"logits must be a float32 or float64 array, got list"),
])
def test_bad_input(logits, target, error, message):
    with pytest.raises(error, match=message):
        fastfc.CrossEntropyLoss()(logits, target)


def test_against_torch():
    torch = pytest.importorskip("torch", reason="compares with torch.nn.CrossEntropyLoss")
    logits, target = batch(np.float64, 32, 10)
    theirs = torch.from_numpy(logits.copy()).requires_grad_()
    expected = torch.nn.CrossEntropyLoss()(theirs, torch.from_numpy(target))
    expected.backward()
    value, backward = fastfc.CrossEntropyLoss().vjp(logits, target)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(backward(), theirs.grad.numpy(), rtol=1e-10, atol=1e-14)
