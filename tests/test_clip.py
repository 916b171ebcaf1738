"""The norm of gradients, exact sums for reference, and what clipping does and leaves alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import FMA_ISAS

import fastfc
from fastfc import _core, clip_grad_norm_, clip_grad_value_

SIZES = [0, 1, 2, 15, 16, 17, 33, 8191, 8192, 8193, 20000]


def make(dtype, sizes=SIZES, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    params = [fastfc.Parameter(np.zeros(n, dtype)) for n in sizes]
    for p in params:
        p.grad = (rng.standard_normal(p.data.shape) * scale).astype(dtype)
    return params


def exact(params):
    """By fsum, on values brought near 1 by a power of two: right to the last bits at any scale."""
    values = np.concatenate([np.zeros(1), *(p.grad.astype(np.float64).ravel() for p in params)])
    largest = np.abs(values).max(initial=0)
    if largest == 0:
        return 0.0
    exponent = math.frexp(largest)[1]
    scaled = np.ldexp(values, -exponent)
    return math.ldexp(math.sqrt(math.fsum(scaled * scaled)), exponent)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("sizes", [SIZES, [3], [0], [], [1] * 300], ids=str)
def test_norm(sizes, scale, isa, dtype, threads):
    """float64 sums: n/16 in a lane at most, then blocks; half of that in the root."""
    params = make(dtype, sizes, scale)
    with fastfc.num_threads(threads):
        assert clip_grad_norm_(params, math.inf) == pytest.approx(exact(params), rel=600 * 2.0 ** -53)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-160, 1e160, 1e300])
def test_norm_of_float64_whose_squares_leave_the_range(scale, isa):
    params = make(np.float64, scale=scale)
    assert clip_grad_norm_(params, math.inf) == pytest.approx(exact(params), rel=1e-13)
    assert clip_grad_norm_(make(np.float64, [5], np.finfo(np.float64).smallest_subnormal), 1.0) > 0


def test_largest_float32_does_not_overflow(isa):
    params = make(np.float32)
    for p in params:
        p.grad.fill(np.finfo(np.float32).max)
    assert clip_grad_norm_(params, 1.0) == pytest.approx(float(np.finfo(np.float32).max) * math.sqrt(sum(SIZES)))
    np.testing.assert_allclose(exact(params), 1.0, rtol=1e-4)  # the factor is denormal


def test_same_bits_on_every_fma_target_and_for_any_number_of_threads(in_turn, dtype):
    norms = set()
    for _ in in_turn(FMA_ISAS):
        for threads in (1, 2, 3):
            with fastfc.num_threads(threads):
                norms.add(clip_grad_norm_(make(dtype, [17, 1200003, 33]), 1.0))
    assert len(norms) == 1


@given(st.lists(st.integers(0, 70), max_size=6), st.sampled_from([np.float32, np.float64]), st.integers(0, 9))
def test_the_order_of_lanes_is_the_documented_one(sizes, dtype, seed):
    """16 lanes from the beginning of each tensor, the tree of halves, then tensor by tensor (short: one block each)."""
    params, total = make(dtype, sizes, seed=seed), 0.0
    for p in params:
        lanes = np.zeros(16)
        for i, x in enumerate(p.grad.astype(np.float64)):
            lanes[i % 16] = _fma(x, x, lanes[i % 16])
        for half in (8, 4, 2, 1):
            lanes = lanes[:half] + lanes[half:]
        total += float(lanes[0]) if len(p.grad) else 0.0
    before = fastfc.current_isa()
    _core.select_isa(FMA_ISAS[0])
    norm = clip_grad_norm_(params, math.inf)
    _core.select_isa(before)
    assert norm == math.sqrt(total)


def _fma(a, b, c):
    from fractions import Fraction
    return float(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)))


def test_what_is_clipped(isa, dtype, threads):
    params = make(dtype)
    kept = [p.grad.copy() for p in params]
    arrays = [p.grad for p in params]
    with fastfc.num_threads(threads):
        norm = clip_grad_norm_(iter(params), 3.0)
    for p, array, old in zip(params, arrays, kept, strict=True):
        assert p.grad is array  # in place
        np.testing.assert_array_equal(array, old * dtype(3.0 / (norm + 1e-6)))
    assert clip_grad_norm_(params, 100.0) == pytest.approx(3.0, rel=1e-5)
    # A smaller norm is left alone.
    np.testing.assert_array_equal(params[-1].grad, kept[-1] * dtype(3.0 / (norm + 1e-6)))
    params[0].grad = None
    assert clip_grad_norm_(params[0], 1.0) == 0.0


@pytest.mark.parametrize("p", [1.0, 3.0, math.inf])
def test_other_norms(p, dtype):
    params = make(dtype, [5, 0, 70])
    values = np.concatenate([q.grad.astype(np.float64) for q in params])
    assert clip_grad_norm_(params, 1e9, p) == pytest.approx(np.linalg.norm(values, p), rel=1e-12)
    params[2].grad[3] = np.nan
    assert math.isnan(clip_grad_norm_(params, 1e9, p))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_a_norm_that_is_not_finite(bad, p, isa, dtype):
    params = make(dtype, [40, 3])
    params[0].grad[37] = bad
    kept = [q.grad.copy() for q in params]
    with pytest.raises(ValueError, match=r"the norm of the gradients is (nan|inf); error_if_nonfinite=False goes on"):
        clip_grad_norm_(params, 1.0, p, error_if_nonfinite=True)
    for q, old in zip(params, kept, strict=True):
        np.testing.assert_array_equal(q.grad, old)
    norm = clip_grad_norm_(params, 1.0, p)
    assert math.isnan(norm) if np.isnan(bad) else norm == math.inf
    expected = np.full(3, np.nan) if np.isnan(bad) else np.zeros(3)
    np.testing.assert_array_equal(params[1].grad, expected)
    assert np.isnan(params[0].grad[37])


def test_values(isa, dtype, threads):
    params = make(dtype)
    kept = [p.grad.copy() for p in params]
    params[-1].grad[:3] = kept[-1][:3] = np.nan, np.inf, -np.inf
    with fastfc.num_threads(threads):
        assert clip_grad_value_(params, 0.5) is None
    for p, old in zip(params, kept, strict=True):
        np.testing.assert_array_equal(p.grad, np.clip(old, -0.5, 0.5))


def layouts(dtype):
    base = np.arange(1, 25, dtype=dtype).reshape(4, 6)
    yield base.T
    yield np.asfortranarray(base)
    yield base[::-1, ::2]
    yield np.frombuffer(bytearray(base.nbytes + 1), np.uint8)[1:].view(dtype).reshape(4, 6)
    yield np.array(dtype(7))


def test_any_layout(dtype):
    for grad in layouts(dtype):
        grad[...] = np.arange(1, grad.size + 1).reshape(grad.shape)
        p = fastfc.Parameter(np.zeros(grad.shape, dtype))
        p.grad, old = grad, grad.copy()
        norm = clip_grad_norm_(p, 1.0)
        assert norm == pytest.approx(np.linalg.norm(old.ravel().astype(float)), rel=1e-14)
        assert p.grad is grad
        np.testing.assert_array_equal(grad, old * dtype(1 / (norm + 1e-6)))
        grad[...] = old
        clip_grad_value_(p, 2.0)
        np.testing.assert_array_equal(grad, np.clip(old, -2, 2))


def test_an_array_that_two_parameters_share_counts_and_is_scaled_once():
    a, b = make(np.float64, [10, 10])
    b.grad = a.grad
    old = a.grad.copy()
    norm = clip_grad_norm_([a, b], 0.5)
    assert norm == pytest.approx(np.linalg.norm(old))
    np.testing.assert_array_equal(a.grad, old * (0.5 / (norm + 1e-6)))


def test_sparse_gradients(dtype):
    a, b = fastfc.Parameter(np.zeros((6, 3), dtype)), make(dtype, [4])[0]
    a.grad = fastfc.SparseGrad([5, 1, 5], np.arange(1, 10, dtype=dtype).reshape(3, 3), (6, 3))
    whole = np.concatenate([a.grad.to_dense().ravel(), b.grad]).astype(float)
    norm = clip_grad_norm_([a, b], 1.0)
    assert norm == pytest.approx(np.linalg.norm(whole), rel=1e-14)
    np.testing.assert_allclose(np.concatenate([a.grad.to_dense().ravel(), b.grad]), whole / norm, rtol=1e-5)
    a.grad = fastfc.SparseGrad([5, 1, 5], np.full((3, 3), 2, dtype), (6, 3))
    clip_grad_value_(a, 3.0)
    np.testing.assert_array_equal(a.grad.to_dense(), [[0] * 3, [2] * 3, [0] * 3, [0] * 3, [0] * 3, [3] * 3])


def readonly():
    p = fastfc.Parameter(np.zeros(3))
    p.grad = np.ones(3)
    p.grad.flags.writeable = False
    return p


def wrong(grad):
    p = fastfc.Parameter(np.zeros(3))
    p.grad = grad
    return p


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda p: clip_grad_norm_(p, -1.0), ValueError, "max_norm must be >= 0, got -1.0"),
    (lambda p: clip_grad_norm_(p, math.nan), ValueError, "max_norm must be >= 0, got nan"),
    (lambda p: clip_grad_norm_(p, "1e"), TypeError, "max_norm must be a number, got '1e'"),
    (lambda p: clip_grad_norm_(p, 1.0, 0), ValueError, "norm_type must be > 0, got 0"),
    (lambda p: clip_grad_norm_(p, 1.0, math.nan), ValueError, "norm_type must be > 0, got nan"),
    (lambda p: clip_grad_norm_(p, 1.0, None), TypeError, "norm_type must be a number, got None"),
    (lambda p: clip_grad_norm_([*p, readonly()], 1.0), ValueError, r"parameters\[2\].grad is read-only"),
    (lambda p: clip_grad_norm_([*p, wrong(1.0)], 1.0), TypeError, r"parameters\[2\].grad must be a fl.* got float"),
    (lambda p: clip_grad_norm_([*p, wrong(np.ones(3, int))], 1.0), TypeError, r"grad must be a float32 .* got int64"),
    (lambda p: clip_grad_norm_([*p, np.ones(3)], 1.0), TypeError, r"parameters\[2\] must be a Parameter, got ndarray"),
    (lambda p: clip_grad_norm_(5, 1.0), TypeError, r"parameters must be a Parameter or an iterable of them, got int"),
    (lambda p: clip_grad_value_(p, -1.0), ValueError, "clip_value must be >= 0, got -1.0"),
    (lambda p: clip_grad_value_(p, math.nan), ValueError, "clip_value must be >= 0, got nan"),
    (lambda p: clip_grad_value_([*p, readonly()], 0.1), ValueError, r"clip_grad_value_\(\): parameters\[2\].grad is"),
    (lambda p: clip_grad_value_([1], 0.1), TypeError, r"parameters\[0\] must be a Parameter, got int"),
])
def test_bad_input_changes_nothing(call, error, message):
    params = make(np.float64, [3, 4])
    kept = [p.grad.copy() for p in params]
    with pytest.raises(error, match=message):
        call(params)
    for p, old in zip(params, kept, strict=True):
        np.testing.assert_array_equal(p.grad, old)
