"""Losses: against slow float64 formulas, finite differences, the same bits everywhere, special values, arguments."""

import itertools
import math
import warnings

import numpy as np
import pytest
from layouts import INPUTS
from reference import assert_same_bits
from samples import FMA_ISAS, gaussian

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


# ---- Cross-entropy with all options ---------------------------------------------------------------------------------


def cross_entropy(logits, q):
    """Row by row in float64: -sum q log softmax(z), and its gradient."""
    losses, grad = np.zeros(len(q)), np.zeros(q.shape)
    for m, (z, w) in enumerate(zip(logits.astype(np.float64), q, strict=True)):
        log_sum = max(z) + math.log(math.fsum(np.exp(z - max(z))))
        losses[m] = math.fsum(w * (log_sum - z))
        grad[m] = math.fsum(w) * np.exp(z - log_sum) - w
    return losses, grad


OPTIONS = [dict(zip(("weight", "smoothing", "kind"), values, strict=True))
           for values in itertools.product((False, True), (0.0, 0.1, 1.0), ("labels", "ignored", "targets"))]


def case(rng, dtype, rows, classes, weight, smoothing, kind):
    """(loss without a reduction, logits, target, q in float64, what a mean divides by)."""
    logits = 3 * gaussian(rng, (rows, classes), dtype)
    w = rng.random(classes).astype(dtype) + dtype(0.5) if weight else None
    labels = rng.integers(0, classes, rows)
    if kind == "targets":
        target = rng.random((rows, classes)).astype(dtype)
        target /= target.sum(1, keepdims=True)
        p = target.astype(np.float64)
    else:
        p, target = np.eye(classes)[labels], labels.copy()
        if kind == "ignored":
            target[::3] = -7
    wide_w = np.ones(classes) if w is None else w.astype(np.float64)
    q = wide_w * ((1 - smoothing) * p + smoothing / classes)
    count = float(rows)
    if kind != "targets":
        q[target < 0] = 0
        count = wide_w[target[target >= 0]].sum()
    options = {"weight": w, "label_smoothing": smoothing, "ignore_index": -7 if kind == "ignored" else -100}
    return options, logits, target, q, count


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_cross_entropy_with_every_option(isa, dtype, rng, option):
    """A loss passes classes / 16 + 20 roundings of terms that add up to at most sum q (max - z) + log(classes)."""
    u = np.finfo(dtype).eps / 2
    for rows, classes in ((1, 1), (17, 2), (5, 10), (33, 16), (4, 17), (2, 100), (3, 333)):
        options, logits, target, q, count = case(rng, dtype, rows, classes, **option)
        losses, grad = cross_entropy(logits, q)
        size = 1 + q.sum(1) * (np.ptp(logits.astype(np.float64), 1) + math.log(classes))
        tolerance = (classes / 16 + 30) * u
        value, backward = fastfc.CrossEntropyLoss(reduction="none", **options).vjp(logits, target)
        assert value.dtype == dtype
        assert (np.abs(value - losses) <= tolerance * size).all()
        upstream = gaussian(rng, rows, dtype)
        # An exponent is off by u times the difference to the largest logit.
        slack = tolerance * (size[:, None] + 2) * np.abs(upstream[:, None])
        assert (np.abs(backward(upstream) - grad * upstream[:, None]) <= slack).all()
        for reduction, divisor in (("sum", 1.0), ("mean", count)):
            with np.errstate(all="ignore"):
                expected, scale = np.divide(losses.sum(), divisor), np.divide(1.0, divisor)
            value, backward = fastfc.CrossEntropyLoss(reduction=reduction, **options).vjp(logits, target)
            got = backward(0.5)
            if not divisor:
                assert math.isnan(value) and (got == 0).all()
                continue
            assert abs(value - expected) <= tolerance * size.sum() * scale
            assert (np.abs(got - grad * scale / 2) <= tolerance * (size[:, None] + 2) * scale).all()
            assert_same_bits(backward(0.5), got)


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_cross_entropy_the_same_bits(dtype, rng, option, in_turn):
    for rows, classes in ((60000, 10), (1700, 333)):  # work enough to wake a thread
        options, logits, target, _, _ = case(rng, dtype, rows, classes, **option)
        results = []
        for _ in in_turn(FMA_ISAS):
            for threads in (1, 2):
                with fastfc.num_threads(threads):
                    values = []
                    for reduction in ("none", "sum", "mean"):
                        value, backward = fastfc.CrossEntropyLoss(reduction=reduction, **options).vjp(logits, target)
                        values += [np.array(value), backward(np.ones(rows, dtype) if reduction == "none" else None)]
                results.append(values)
        for other in results[1:]:
            for one, two in zip(results[0], other, strict=True):
                assert_same_bits(one, two)


def test_few_classes_have_the_bits_of_many(isa, dtype, rng):
    """Up to 16 classes rows run side by side; one more that is impossible changes no sum."""
    for rows, classes in itertools.product((1, 3, 16, 35), (1, 2, 10, 16)):
        for weight in (None, rng.random(17).astype(dtype), rng.choice(np.array([0.0, -0.0, -1.0, np.inf], dtype), 17)):
            logits = 3 * gaussian(rng, (rows, classes), dtype)
            logits[rows // 2, 0] = np.nan
            logits[-1, -1] = -np.inf
            logits[rows // 3] = np.where(rng.random(classes) < 0.5, 0.0, -0.0)
            more = np.full((rows, 17), -np.inf, dtype)
            more[:, :classes] = logits
            target = rng.integers(0, classes, rows)
            ignored = 0 if classes == 10 else -100
            target[::5] = ignored
            weights = (None, None) if weight is None else (weight[:classes], weight)
            (few, few_back), (many, many_back) = (
                fastfc.CrossEntropyLoss(weight=w, ignore_index=ignored, reduction="none").vjp(x, target)
                for w, x in zip(weights, (logits, more), strict=True))
            assert_same_bits(few, many)
            upstream = gaussian(rng, rows, dtype)
            assert_same_bits(few_back(upstream), many_back(upstream)[:, :classes])


def test_cross_entropy_finite_differences(rng):
    eps = 1e-6
    for option in OPTIONS:
        options, logits, target, _, _ = case(rng, np.float64, 4, 5, **option)
        loss = fastfc.CrossEntropyLoss(**options)
        grad = loss.vjp(logits, target)[1]()
        for at in np.ndindex(logits.shape):
            step = np.zeros_like(logits)
            step[at] = eps
            expected = (loss(logits + step, target) - loss(logits - step, target)) / (2 * eps)
            assert grad[at] == pytest.approx(expected, abs=1e-8)


def test_the_logarithm(isa, dtype):
    """Of whole numbers, as equal logits give them; kernels/activation.inc states 2 ULP."""
    u = np.finfo(dtype).eps
    for classes in [*range(1, 200), 255, 1000, 4097]:
        value = fastfc.CrossEntropyLoss(reduction="none")(np.full((1, classes), 3, dtype), [0])
        expected = math.log(classes)
        assert abs(float(value[0]) - expected) <= 2 * u / 2 * 2.0 ** math.frexp(expected)[1]


@DTYPES
def test_an_impossible_class_has_no_gradient(dtype):
    logits = np.array([[0, -np.inf, 1], [-np.inf, 2, 2]], dtype)
    value, backward = fastfc.CrossEntropyLoss(reduction="sum").vjp(logits, [0, 2])
    assert value == pytest.approx(math.log1p(math.e) + math.log(2), rel=1e-6)
    grad = backward()
    assert grad[0, 1] == grad[1, 0] == 0 and grad[1, 1] == 0.5


@DTYPES
def test_an_ignored_row_is_not_looked_at(dtype):
    logits = np.array([[np.nan, 1], [0, 0]], dtype)
    value, backward = fastfc.CrossEntropyLoss(ignore_index=0).vjp(logits, [0, 1])
    assert value == pytest.approx(math.log(2), rel=1e-6)
    np.testing.assert_allclose(backward(), [[0, 0], [0.5, -0.5]], atol=1e-7)


# ---- NLL ------------------------------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5]])
def test_nll(dtype, weight):
    x = -np.random.default_rng(0).random((5, 3)).astype(dtype)
    target = np.array([0, 2, -100, 1, 1])
    w = np.ones(3) if weight is None else np.array(weight)
    losses = np.array([0 if t < 0 else -w[t] * x[i, t] for i, t in enumerate(target)])
    count = sum(w[t] for t in target if t >= 0)
    for reduction, expected, scale in (("sum", losses.sum(), 1), ("mean", losses.sum() / count, 1 / count)):
        value, backward = fastfc.NLLLoss(weight, reduction=reduction).vjp(x, target)
        assert type(value) is float and value == pytest.approx(expected, rel=1e-6)
        grad = np.zeros((5, 3))
        for i, t in enumerate(target):
            if t >= 0:
                grad[i, t] = -w[t] * scale
        np.testing.assert_allclose(backward(), grad, rtol=1e-6)
        np.testing.assert_allclose(backward(2.0), 2 * grad, rtol=1e-6)
    value, backward = fastfc.NLLLoss(weight, reduction="none").vjp(x, target)
    np.testing.assert_allclose(value, losses, rtol=1e-6)
    assert backward(np.ones(5, dtype)).dtype == dtype


# ---- Losses of single elements --------------------------------------------------------------------------------------


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid(x):
    return np.where(x > 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def huber(x, t, delta):
    d = x - t
    small = np.abs(d) <= delta
    return np.where(small, d * d / 2, delta * (np.abs(d) - delta / 2)), np.where(small, d, delta * np.sign(d))


def pointwise(loss, x, t):
    """(losses, derivatives) in float64."""
    x, t = x.astype(np.float64), t.astype(np.float64)
    if isinstance(loss, fastfc.MSELoss):
        return (x - t) ** 2, 2 * (x - t)
    if isinstance(loss, fastfc.L1Loss) or isinstance(loss, fastfc.SmoothL1Loss) and not loss.beta:
        return np.abs(x - t), np.sign(x - t)
    if isinstance(loss, fastfc.HuberLoss):
        return huber(x, t, loss.delta)
    if isinstance(loss, fastfc.SmoothL1Loss):
        return tuple(part / loss.beta for part in huber(x, t, loss.beta))
    w = 1 if loss.weight is None else loss.weight
    p = 1 if loss.pos_weight is None else loss.pos_weight
    return w * ((1 - t) * softplus(x) + p * t * softplus(-x)), w * ((1 - t) * sigmoid(x) - p * t * sigmoid(-x))


POINTWISE = [
    (fastfc.MSELoss, {}), (fastfc.L1Loss, {}), (fastfc.HuberLoss, {}), (fastfc.HuberLoss, {"delta": 0.3}),
    (fastfc.SmoothL1Loss, {}), (fastfc.SmoothL1Loss, {"beta": 0.25}), (fastfc.SmoothL1Loss, {"beta": 0}),
    (fastfc.BCEWithLogitsLoss, {}), (fastfc.BCEWithLogitsLoss, {"pos_weight": 3.0, "weight": [[0.5], [2.0], [1.0]]}),
]
EACH = pytest.mark.parametrize(("kind", "options"), POINTWISE, ids=lambda v: v if isinstance(v, dict) else v.__name__)


def sizes(loss, slopes):
    """What a derivative is made of, before its terms cancel."""
    if not isinstance(loss, fastfc.BCEWithLogitsLoss):
        return np.abs(slopes)
    w, p = (1 if v is None else v for v in (loss.weight, loss.pos_weight))
    return w * np.broadcast_to(1.0 + p, slopes.shape)


def pair(rng, shape, dtype, kind):
    x = 2 * gaussian(rng, shape, dtype)
    return x, rng.random(shape).astype(dtype) if kind is fastfc.BCEWithLogitsLoss else gaussian(rng, shape, dtype)


@EACH
def test_pointwise_losses(isa, dtype, rng, kind, options):
    tolerance = 16 * np.finfo(dtype).eps
    for columns in (1, 2, 5, 8, 17, 64, 1021, 1024, 1025):
        shape = (3, columns)
        x, t = pair(rng, shape, dtype, kind)
        losses, slopes = pointwise(kind(**options), x, t)
        size = sizes(kind(**options), slopes)
        upstream = gaussian(rng, shape, dtype)
        value, backward = kind(reduction="none", **options).vjp(x, t)
        assert value.dtype == dtype and value.shape == shape
        # The difference x - t rounds once, in relation to itself.
        assert (np.abs(value - losses) <= tolerance * (np.abs(losses) + 1e-3)).all()
        assert (np.abs(backward(upstream) - upstream * slopes) <= tolerance * np.abs(upstream) * (size + 1e-3)).all()
        for reduction, count in (("sum", 1), ("mean", x.size)):
            loss = kind(reduction=reduction, **options)
            value, backward = loss.vjp(x, t)
            assert type(value) is float and value == loss(x, t)
            bound = (200 * np.finfo(dtype).eps + tolerance) * np.abs(losses).sum()
            assert abs(value - losses.sum() / count) <= (bound + 1e-30) / count
            got = backward()
            assert (np.abs(got - slopes / count) <= 2 * tolerance * (size + 1e-3) / count).all()
            assert_same_bits(backward(), got)
            assert (np.abs(backward(-3.0) + 3 * slopes / count) <= 6 * tolerance * (size + 1e-3) / count).all()


@EACH
def test_pointwise_the_same_bits(dtype, rng, kind, options, in_turn):
    columns = 200_001 if kind is fastfc.BCEWithLogitsLoss else 1_500_001  # work enough to wake a thread
    x, t = pair(rng, (3, columns), dtype, kind)
    results = []
    for _ in in_turn(FMA_ISAS):
        for threads in (1, 2):
            with fastfc.num_threads(threads):
                value, backward = kind(**options).vjp(x, t)
                results.append((value, backward(), kind(reduction="none", **options)(x, t)))
    for value, grad, losses in results[1:]:
        assert value == results[0][0]
        assert_same_bits(grad, results[0][1])
        assert_same_bits(losses, results[0][2])


@EACH
def test_pointwise_finite_differences(rng, kind, options):
    loss, eps = kind(**options), 1e-6
    x, t = pair(rng, (3, 2), np.float64, kind)
    grad = loss.vjp(x, t)[1]()
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = eps
        assert grad[at] == pytest.approx((loss(x + step, t) - loss(x - step, t)) / (2 * eps), abs=1e-8)


@pytest.mark.parametrize("layout", INPUTS)
def test_pointwise_any_layout(rng, layout):
    x, t = pair(rng, (3, 7), np.float32, fastfc.MSELoss)
    value, backward = fastfc.MSELoss().vjp(INPUTS[layout](x), INPUTS[layout](t))
    assert value == fastfc.MSELoss()(x, t)
    assert_same_bits(backward(), fastfc.MSELoss().vjp(x, t)[1]())


@EACH
def test_pointwise_special_values(isa, dtype, kind, options):
    nan, inf = np.nan, np.inf
    loss = kind(reduction="none", **{name: value for name, value in options.items() if name != "weight"})
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        value, backward = loss.vjp(np.array([nan, inf, 1], dtype), np.array([0, 0, nan], dtype))
        grad = backward(np.ones(3, dtype))
    np.testing.assert_array_equal(np.isnan(value), [True, False, True])
    assert value[1] == inf
    assert np.isnan(grad[[0, 2]]).all() and (grad[1] == inf or 0 < grad[1] <= 1)


@EACH
def test_pointwise_empty(dtype, kind, options):
    options = {name: value for name, value in options.items() if name != "weight"}
    empty = np.empty((0, 3), dtype)
    assert math.isnan(kind(**options)(empty, empty)) and kind(reduction="sum", **options)(empty, empty) == 0
    value, backward = kind(reduction="none", **options).vjp(empty, empty)
    assert value.shape == backward(value).shape == (0, 3)


def test_huge_logits_of_bce(isa, dtype):
    x, t = np.array([1000, -1000, 1000, -1000], dtype), np.array([1, 0, 0, 1], dtype)
    value, backward = fastfc.BCEWithLogitsLoss(reduction="none").vjp(x, t)
    np.testing.assert_array_equal(value, [0, 0, 1000, 1000])
    np.testing.assert_array_equal(backward(np.ones(4, dtype)), [0, 0, 1, -1])


# ---- Arguments ------------------------------------------------------------------------------------------------------

A, B, Z, L = np.zeros((2, 3)), np.zeros(3), np.zeros((2, 4)), np.array([0, 1])


@pytest.mark.parametrize("make, error, message", [
    (lambda: fastfc.MSELoss(reduction="avg"), ValueError,
     r"MSELoss\(\): reduction must be one of 'mean', 'sum', 'none', got 'avg'"),
    (lambda: fastfc.MSELoss()(A, B), ValueError, r"MSELoss: target must have shape \(2, 3\), got \(3,\)"),
    (lambda: fastfc.MSELoss()(A, A.astype(np.float32)), TypeError,
     "MSELoss: target is float32, pred is float64; mixed"),
    (lambda: fastfc.L1Loss()(A, A.astype(int)), TypeError,
     "L1Loss: target must be a float32 or float64 array, got int64"),
    (lambda: fastfc.L1Loss()([1.0], A), TypeError, "L1Loss: pred must be a float32 or float64 array, got list"),
    (lambda: fastfc.HuberLoss(delta=0), ValueError, r"HuberLoss\(\): delta must be positive and finite, got 0"),
    (lambda: fastfc.HuberLoss(delta="1"), TypeError, r"HuberLoss\(\): delta must be a number, got str"),
    (lambda: fastfc.SmoothL1Loss(beta=-1), ValueError, r"SmoothL1Loss\(\): beta must be >= 0 and finite, got -1"),
    (lambda: fastfc.BCEWithLogitsLoss([1.0, 2.0])(A, A), ValueError,
     r"BCEWithLogitsLoss: weight of shape \(2,\) does not broadcast to logits of shape \(2, 3\)"),
    (lambda: fastfc.BCEWithLogitsLoss(pos_weight=["a"]), TypeError,
     r"BCEWithLogitsLoss\(\): pos_weight must be of numbers"),
    (lambda: fastfc.BCEWithLogitsLoss()(A, B), ValueError,
     r"BCEWithLogitsLoss: target must have shape \(2, 3\), got \(3,\)"),
    (lambda: fastfc.MSELoss().vjp(A, A)[1](A), TypeError, "MSELoss backward: grad must be a number, got ndarray"),
    (lambda: fastfc.MSELoss(reduction="none").vjp(A, A)[1](), TypeError,
     "MSELoss backward: with reduction 'none' grad must be a float64 array, got NoneType"),
    (lambda: fastfc.MSELoss(reduction="none").vjp(A, A)[1](B), ValueError,
     r"MSELoss backward: grad must have shape \(2, 3\), got \(3,\)"),
    (lambda: fastfc.CrossEntropyLoss(reduction="none").vjp(Z, L)[1](Z), ValueError,
     r"grad must have shape \(2,\), got \(2, 4\)"),
    (lambda: fastfc.CrossEntropyLoss([1.0, 2.0])(Z, L), ValueError,
     "CrossEntropyLoss: logits has 4 classes, weight has 2"),
    (lambda: fastfc.CrossEntropyLoss([[1.0]]), ValueError,
     r"CrossEntropyLoss\(\): weight must be \(classes,\), got shape \(1, 1\)"),
    (lambda: fastfc.CrossEntropyLoss(label_smoothing=1.5), ValueError, r"label_smoothing must be in \[0, 1\], got 1.5"),
    (lambda: fastfc.CrossEntropyLoss(label_smoothing=math.nan), ValueError,
     r"label_smoothing must be in \[0, 1\], got nan"),
    (lambda: fastfc.CrossEntropyLoss(ignore_index=0.5), TypeError, "ignore_index must be an integer, got float"),
    (lambda: fastfc.CrossEntropyLoss()(Z, A), ValueError,
     r"CrossEntropyLoss: target must have shape \(2, 4\), got \(2, 3\)"),
    (lambda: fastfc.CrossEntropyLoss()(Z, Z.astype(np.float32)), TypeError, "target is float32, logits is float64"),
    (lambda: fastfc.CrossEntropyLoss(ignore_index=1)(Z, Z), ValueError,
     "ignore_index is 1, which targets that are prob"),
    (lambda: fastfc.CrossEntropyLoss()(np.zeros((2, 0)), np.zeros((2, 0))), ValueError, "logits must have a class"),
    (lambda: fastfc.CrossEntropyLoss(ignore_index=5)(Z, [5, 6]), ValueError,
     r"target\[1\] is 6, expected a label in \[0, 4\)"),
    (lambda: fastfc.NLLLoss()(Z, [0, 4]), ValueError, r"NLLLoss: target\[1\] is 4, expected a label in \[0, 4\)"),
    (lambda: fastfc.NLLLoss()(B, [0]), ValueError, r"NLLLoss: log_probs must be \(batch, classes\), got shape \(3,\)"),
    (lambda: fastfc.NLLLoss()(Z, Z), TypeError, "NLLLoss: target must be of integers, got float64"),
])
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
