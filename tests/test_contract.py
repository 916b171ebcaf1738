"""The promises that no single function owns: one order of summation for all targets, one row's bits whatever stands
around it, deterministic gradients, accuracy, IEEE special values, and the caller's floating-point mode."""

import ctypes
import gc
import itertools
import pathlib
import platform
import threading

import numpy as np
import pytest
from canonical import BLOCK, compile_c
from layouts import INPUTS, OUTPUTS, output
from reference import assert_same_bits
from samples import FMA_ISAS, K_EDGES, Edges, gaussian, random_csr, wild

import fastfc
from fastfc import _core


def special(rng, shape, dtype):
    return wild(rng, shape, dtype, 0.004)


# ---- The canonical order --------------------------------------------------------------------------------------------


def test_the_numeric_block_is_a_constant():
    """Part of the definition of every result, so not a matter of tuning."""
    assert fastfc.show_config()["numeric_block"] == BLOCK == 192


@pytest.mark.parametrize("values", [gaussian, wild, special])
def test_forward_follows_the_canonical_order(fma_isa, dtype, rng, canonical, values):
    edges = Edges(dtype)
    n = 2 * edges.panel + 1
    for k in K_EDGES:
        x, weight, bias, residual = (values(rng, s, dtype) for s in ((13, k), (n, k), (n,), (13, n)))
        for b, r, activation in (
            (None, None, None),
            (bias, None, None),
            (None, residual, None),
            (bias, residual, "relu"),
        ):
            y, z = canonical.linear(x, weight, b, r, activation)
            assert_same_bits(fastfc.linear(x, weight, b, residual=r, activation=activation), y, k)
            assert_same_bits(fastfc.linear(x, fastfc.pack(weight), b, residual=r, activation=activation), y, k)
            both = fastfc.linear(x, weight, b, residual=r, activation=activation, return_preactivation=True)
            assert_same_bits(both[0], y, k)
            assert_same_bits(both[1], z, k)


@pytest.mark.parametrize("values", [gaussian, special])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_every_tile_follows_the_canonical_order(fma_isa, dtype, rng, canonical, values, packed):
    """Every m by every n of all tile edges, k past a block; and the other way round, where few outputs may have lanes
    run along the batch. Columns of the weight are contiguous once and its rows once."""
    edges = Edges(dtype)
    size = max(edges.m[-1], edges.n[-1])
    x, weight, bias, residual = (values(rng, s, dtype) for s in ((size, 200), (size, 200), (size,), (size, size)))
    expected = canonical.linear(x, weight, bias, residual)[0]
    across = np.asfortranarray(weight)
    for m, n in {*itertools.product(edges.m, edges.n), *itertools.product(edges.n, range(14))}:
        r = residual[:m, :n]
        for w in (weight[:n], across[:n]):
            y = fastfc.linear(x[:m], fastfc.pack(w) if packed else w, bias[:n], residual=r)
            assert_same_bits(y, expected[:m, :n], (m, n))


@pytest.mark.parametrize("values", [gaussian, special])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_narrow_products_follow_the_canonical_order(fma_isa, dtype, rng, canonical, values, packed):
    """Outputs that fill no vector, or one or two, beside long rows: numeric blocks stand side by side, as many as a
    vector has lanes or the FMA units want, and the last one is cut; rows crowd into few sets of L1 for some k."""
    lanes = Edges(dtype).lanes
    for k in (64, 200, 383, 450, 577, 960, 1024, 1350, 1536, 3100, 4096):
        shapes = ((60, k), (2 * lanes, k), (2 * lanes,), (60, 2 * lanes))
        x, weight, bias, residual = (values(rng, s, dtype) for s in shapes)
        expected, before = canonical.linear(x, weight, bias, residual, "relu")
        batches = (1, 3, 6, 16) if fma_isa == "scalar" else (1, 2, 3, 4, 5, 6, 7, 9, 15, 16, 17, 23, 33, 48, 60)
        for m, n in itertools.product(batches, (1, 2, 3, 4, 7, 12, lanes + 1, 2 * lanes)):
            if n > 2 * lanes:
                continue
            for w in (weight[:n], np.asfortranarray(weight[:n])):
                w = fastfc.pack(w) if packed else w
                options = {"residual": residual[:m, :n], "activation": "relu", "return_preactivation": True}
                y, z = fastfc.linear(x[:m], w, bias[:n], **options)
                assert_same_bits(y, expected[:m, :n], (m, n, k))
                assert_same_bits(z, before[:m, :n], (m, n, k))


def test_large_products_follow_the_canonical_order(fma_isa, dtype, rng, canonical):
    """Several blocks of rows, several chunks of k, and weights larger than their share of L3 or all of it, which come
    in other chunks and strips, or panel by panel (of an L3 of 32 MiB; where it is larger, more of the same)."""
    far = gaussian(rng, (6509 if dtype == np.float32 else 3257, 1290), dtype)
    many = gaussian(rng, (90, 1180), dtype)
    middle = gaussian(rng, (2000, 650), dtype)
    near = far[: len(far) * 2 // 5 + 17]
    for weight, batches in (
        (far, (25, 18, 13, 12, 11, 7, 6, 1)),
        (near, (14, 12, 11, 7)),
        (middle, (70, 9)),
        (many, (1000, 385)),
    ):
        if fma_isa == "scalar":
            batches = batches[1:2]  # slow, and the driver is the same
        x = gaussian(rng, (max(batches), weight.shape[1]), dtype)
        expected = canonical.product(x, weight)
        packed = fastfc.pack(weight)
        for batch, threads in itertools.product(batches, (1, 2)):
            y = fastfc.linear(x[:batch], packed, threads=threads)
            assert_same_bits(y, expected[:batch], f"batch {batch}, {threads} threads")
        grad = expected[:70]
        got = [fastfc.linear(x, weight), fastfc.linear_backward(grad, x[:70], weight, needs=("x", "weight"))]
        assert_same_bits(got[0], expected, "not packed")
        assert_same_bits(got[1][0], canonical.product(grad, weight.T), "gradient of x")
        assert_same_bits(got[1][1], canonical.product(grad.T, x[: len(grad)].T), "gradient of the weight")


@pytest.mark.parametrize("values", [gaussian, wild, special])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_backward_follows_the_canonical_order(fma_isa, dtype, rng, canonical, values, activation, threads):
    edges = Edges(dtype)
    for m, n, k in (
        (1, 1, 1),
        (193, edges.panel + 1, 7),
        (385, 3, edges.lanes + 1),
        (20, 400, 2 * edges.panel - 1),
        (577, 70, 70),
        (200, 50, 700),
        (193, 30, edges.panel),
        (130, 40, 2 * edges.panel),
    ):
        grad, x, weight, z = (values(rng, s, dtype) for s in ((m, n), (m, k), (n, k), (m, n)))
        expected = canonical.backward(grad, x, weight, z, activation)
        gradients = fastfc.linear_backward(grad, x, weight, activation=activation, preactivation=z, threads=threads)
        for name, one, other in zip(("gx", "gw", "gb"), gradients, expected, strict=True):
            assert_same_bits(one, other, (name, m, n, k))


@pytest.mark.parametrize("values", [gaussian, wild, special])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_csr_follows_its_canonical_order(fma_isa, dtype, rng, canonical, values, index, threads):
    """Stored order, blocks counted from the row's first entry; columns of the transpose in the order of their rows."""
    for rows, cols, m, density in ((5, 700, 33, 0.8), (70, 40, 1, 0.3), (130, 90, 209, 0.4), (700, 4, 70, 0.9)):
        csr = random_csr(rng, (rows, cols), dtype, density, index=index, repeats=True, values=values, capacity=1)
        sparse = fastfc.CSR(*csr)
        x, bias, residual, grad = (values(rng, s, dtype) for s in ((m, cols), (rows,), (m, rows), (m, rows)))
        y, z = canonical.linear_csr_weight(x, csr, bias, residual, "relu")
        assert_same_bits(fastfc.linear(x, sparse, bias, residual=residual, activation="relu", threads=threads), y)
        expected = canonical.backward_csr_weight(grad, x, csr, z, "relu")
        gradients = fastfc.linear_backward(grad, x, sparse, activation="relu", preactivation=z, threads=threads)
        for one, other in zip(gradients, expected, strict=True):
            assert_same_bits(one, other)
        weight, bias, residual, grad = (values(rng, s, dtype) for s in ((m, cols), (m,), (rows, m), (rows, m)))
        y, z = canonical.linear_csr_x(csr, weight, bias, residual, "relu")
        for w in (weight, fastfc.pack(weight)):
            assert_same_bits(fastfc.linear(sparse, w, bias, residual=residual, activation="relu", threads=threads), y)
        gradients = fastfc.linear_backward(grad, sparse, weight, activation="relu", preactivation=z, threads=threads)
        for one, other in zip(gradients[1:], canonical.backward_csr_x(grad, csr, z, "relu"), strict=True):
            assert_same_bits(one, other)


# ---- Same row, same bits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, k", [(130, 400), (37, 193), (1, 1000), (1000, 25)])
def test_a_row_of_y_over_all_batch_sizes(isa, dtype, rng, threads, n, k):
    """Batches of 1 to 300, plain and packed; also its place: the batch starts at another row each time."""
    x, weight, bias = gaussian(rng, (600, k), dtype), gaussian(rng, (n, k), dtype), gaussian(rng, n, dtype)
    packed = fastfc.pack(weight)
    expected = np.concatenate([fastfc.linear(row[None], weight, bias) for row in x])
    step = 7 if isa in ("scalar", "baseline") and n * k > 10000 else 1
    for m in [*range(1, 300, step), 300]:
        rows = slice(300 - m, 300)
        assert_same_bits(fastfc.linear(x[rows], weight, bias, threads=threads), expected[rows], m)
        rows = slice(m, 2 * m)
        assert_same_bits(fastfc.linear(x[rows], packed, bias, threads=threads), expected[rows], m)


@pytest.mark.parametrize("n, k", [(130, 150), (1000, 33), (400, 1)])
def test_a_row_of_gx_over_all_batch_sizes(isa, dtype, rng, threads, n, k):
    grad, x, weight = gaussian(rng, (600, n), dtype), gaussian(rng, (600, k), dtype), gaussian(rng, (n, k), dtype)

    def gx(rows):
        return fastfc.linear_backward(grad[rows], x[rows], weight, needs=("x",), threads=threads)[0]

    expected = np.concatenate([gx(slice(i, i + 1)) for i in range(600)])
    step = 7 if isa in ("scalar", "baseline") else 1
    for m in [*range(1, 300, step), 300]:
        rows = slice(m, 2 * m)
        assert_same_bits(gx(rows), expected[rows], m)


def test_a_row_with_csr_operands_over_all_batch_sizes(isa, dtype, rng, threads):
    sparse = fastfc.CSR(*random_csr(rng, (90, 300), dtype, 0.7, repeats=True))
    x, grad = gaussian(rng, (300, 300), dtype), gaussian(rng, (300, 90), dtype)
    y, (gx, _, _) = fastfc.linear(x[:1], sparse), fastfc.linear_backward(grad[:1], x[:1], sparse)
    first = np.concatenate([fastfc.linear(row[None], sparse) for row in x])
    assert_same_bits(y, first[:1])
    step = 7 if isa in ("scalar", "baseline") else 1
    for m in [*range(1, 300, step), 300]:
        rows = slice(300 - m, 300)
        assert_same_bits(fastfc.linear(x[rows], sparse, threads=threads), first[rows], m)
        got = fastfc.linear_backward(grad[:m], x[:m], sparse, needs=("x",), threads=threads)[0]
        assert_same_bits(got[:1], gx, m)
    # A CSR x: a batch is a run of its rows.
    data, indices, indptr, _ = csr = random_csr(rng, (300, 120), dtype, 0.7, repeats=True)
    weight = gaussian(rng, (70, 120), dtype)
    every = fastfc.linear(fastfc.CSR(*csr), weight)
    for m in [*range(1, 300, step), 300]:
        part = slice(indptr[300 - m], indptr[300])
        some = fastfc.CSR(data[part], indices[part], indptr[300 - m :] - indptr[300 - m], (m, 120))
        assert_same_bits(fastfc.linear(some, weight, threads=threads), every[300 - m :], m)


def test_a_row_alone_and_without_its_batch_axis(isa, dtype, rng):
    x, weight, bias = gaussian(rng, (64, 300), dtype), gaussian(rng, (70, 300), dtype), gaussian(rng, 70, dtype)
    y = fastfc.linear(x, weight, bias)
    for w in (weight, fastfc.pack(weight)):
        assert_same_bits(np.stack([fastfc.linear(row, w, bias) for row in x]), y)


@pytest.mark.parametrize("layout", INPUTS)
def test_bits_over_layouts(isa, dtype, rng, threads, layout):
    """The size is past what one thread, one panel and one block do."""
    x, weight, bias = gaussian(rng, (61, 500), dtype), gaussian(rng, (150, 500), dtype), gaussian(rng, 150, dtype)
    grad = gaussian(rng, (61, 150), dtype)
    expected = fastfc.linear(x, weight, bias, threads=1)
    gradients = fastfc.linear_backward(grad, x, weight, threads=1)
    change = INPUTS[layout]
    out = output(layout, expected.shape, dtype) if layout in OUTPUTS else None
    for w in (change(weight), fastfc.pack(change(weight))):
        assert_same_bits(np.array(fastfc.linear(change(x), w, change(bias), out=out, threads=threads)), expected)
    for one, other in zip(
        fastfc.linear_backward(change(grad), change(x), change(weight), threads=threads), gradients, strict=True
    ):
        assert_same_bits(one, other)


def test_all_fma_targets_agree(in_turn, dtype, rng, threads):
    """And any number of threads."""
    m, n, k = 131, 259, 700
    x, weight, bias, grad, z = (gaussian(rng, s, dtype) for s in ((m, k), (n, k), (n,), (m, n), (m, n)))
    csr = fastfc.CSR(*random_csr(rng, (n, k), dtype, 0.2, repeats=True))
    results = {}
    for name in in_turn(FMA_ISAS):
        results[name] = [
            fastfc.linear(x, weight, bias, activation="relu", threads=threads),
            fastfc.linear(x, fastfc.pack(weight), bias, activation="relu", threads=threads),
            *fastfc.linear_backward(grad, x, weight, activation="relu", preactivation=z, threads=threads),
            fastfc.linear(x, csr, bias, threads=threads),
            *fastfc.linear_backward(grad, x, csr, activation="relu", preactivation=z, threads=threads),
            fastfc.linear(csr, x, threads=threads),
            *fastfc.linear_backward(np.ascontiguousarray(grad.T), csr, x, threads=threads)[1:],
        ]
    assert "scalar" in results
    for name, result in results.items():
        for i, (one, other) in enumerate(zip(result, results["scalar"], strict=True)):
            assert_same_bits(one, other, (name, i))


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_gradients_over_thread_counts(isa, dtype, rng, count):
    """Also more threads than the machine has."""
    m, n, k = (1500, 70, 130) if isa not in ("scalar", "baseline") else (600, 70, 33)
    grad, x, weight, z = (gaussian(rng, s, dtype) for s in ((m, n), (m, k), (n, k), (m, n)))
    csr = fastfc.CSR(*random_csr(rng, (n, k), dtype, 0.5, repeats=True))
    wide_grad = np.ascontiguousarray(x[:n, :k])
    for arguments in ((grad, x, weight), (grad, x, csr), (wide_grad, csr, gaussian(rng, (k, k), dtype))):
        gate = {"activation": "relu", "preactivation": z if arguments[0] is grad else wide_grad[::-1]}
        one = fastfc.linear_backward(*arguments, threads=1, **gate)
        many = fastfc.linear_backward(*arguments, threads=count, **gate)
        for a, b in zip(one, many, strict=True):
            if a is not None:
                assert_same_bits(a, b)


# ---- Accuracy -------------------------------------------------------------------------------------------------------


def test_as_accurate_as_the_most_accurate_peer(isa, rng):
    """Mean <= 0.11, max <= 0.75 of (|x|.|w| + |b|) 2^-24 on Gaussian data, K = 3072."""
    m, n = (96, 1024) if isa not in ("scalar", "baseline") else (48, 512)
    x, weight, bias = (gaussian(rng, s, np.float32) for s in ((m, 3072), (n, 3072), (n,)))
    a, w, b = (v.astype(np.float64) for v in (x, weight, bias))
    unit = (np.abs(a) @ np.abs(w).T + np.abs(b)) * 2.0**-24
    error = np.abs(fastfc.linear(x, weight, bias) - (a @ w.T + b)) / unit
    assert error.mean() <= 0.11 and error.max() <= 0.75, (error.mean(), error.max())


def test_accuracy_of_gradients(isa, rng):
    """The same measure where the batch is summed."""
    grad, x, weight = (gaussian(rng, s, np.float32) for s in ((3072, 48), (3072, 96), (48, 96)))
    _, gw, gb = fastfc.linear_backward(grad, x, weight, needs=("weight", "bias"))
    g, a = grad.astype(np.float64), x.astype(np.float64)
    error = np.abs(gw - g.T @ a) / ((np.abs(g).T @ np.abs(a)) * 2.0**-24)
    assert error.mean() <= 0.11 and error.max() <= 0.75, (error.mean(), error.max())
    error = np.abs(gb - g.sum(0)) / (np.abs(g).sum(0) * 2.0**-24)
    assert error.mean() <= 0.11 and error.max() <= 0.75, (error.mean(), error.max())


# ---- IEEE special values --------------------------------------------------------------------------------------------


def both(x, weight, *arguments, **options):
    """linear() with the weight plain and packed, which must agree."""
    y = fastfc.linear(x, weight, *arguments, **options)
    assert_same_bits(fastfc.linear(x, fastfc.pack(weight), *arguments, **options), y)
    return y


def test_nan_travels_to_its_row_and_column_only(isa, dtype, edges, rng):
    for m, n, k in ((1, 5, 7), (7, edges.panel + 3, 200), (40, 3, 500)):
        x, weight = gaussian(rng, (m, k), dtype), gaussian(rng, (n, k), dtype)
        for at_k in (0, k // 2, k - 1):
            a, w = x.copy(), weight.copy()
            a[m // 2, at_k] = np.nan
            w[n - 1, at_k] = np.nan
            y = both(a, w)
            expected = np.zeros((m, n), bool)
            expected[m // 2], expected[:, n - 1] = True, True
            assert np.array_equal(np.isnan(y), expected)


def test_infinity(isa, dtype):
    """Inf travels with its sign; Inf - Inf and 0 * Inf are NaN: zeros are not skipped."""
    x = np.array([[np.inf, 1], [-np.inf, 1], [0, 1], [1, np.inf]], dtype)
    weight = np.array([[1, 1], [-1, 0], [0, 1], [np.inf, -np.inf]], dtype)
    with np.errstate(invalid="ignore"):
        expected = np.array([[a[0] * w[0] + a[1] * w[1] for w in weight] for a in x], dtype)
    assert np.isnan(expected).any() and np.isinf(expected).any()
    assert_same_bits(both(x, weight), expected)


def test_overflow_gives_infinity(isa, dtype):
    big = np.finfo(dtype).max
    x = np.array([[big, big], [-big, -big], [big, -big]], dtype)
    assert_same_bits(both(x, np.ones((1, 2), dtype)), np.array([[np.inf], [-np.inf], [0]], dtype))
    bias = np.array([big], dtype)
    assert_same_bits(both(x[:1, :1], np.ones((1, 1), dtype), bias), np.array([[np.inf]], dtype))
    assert_same_bits(both(x[:1, :1], np.ones((1, 1), dtype), residual=bias[None]), np.array([[np.inf]], dtype))


def test_signed_zeros(isa, dtype):
    """Sums start from +0, so -0 comes out only where an FMA underflows to it; without FMA the product does, and +0 + -0
    is +0."""
    zero, one = np.zeros((1, 1), dtype), np.ones((1, 1), dtype)
    assert_same_bits(both(-zero, one), zero)
    assert_same_bits(both(one, -zero), zero)
    assert_same_bits(both(-zero, one, np.array([-0.0], dtype)), zero)
    tiny = np.full((1, 1), np.finfo(dtype).smallest_subnormal, dtype)
    underflow = zero if isa == "baseline" else -zero
    assert_same_bits(both(-tiny, tiny), underflow)
    assert_same_bits(both(-tiny, tiny, np.array([-0.0], dtype), residual=-zero), underflow)
    assert_same_bits(both(-tiny, tiny, activation="relu"), zero)


def test_relu(isa, dtype, edges):
    """x for x > 0, NaN for NaN, +0 otherwise; in every lane and in tails."""
    info = np.finfo(dtype)
    values = [
        1,
        -1,
        np.nan,
        -np.nan,
        np.inf,
        -np.inf,
        info.smallest_subnormal,
        -info.smallest_subnormal,
        -info.max,
        0.0,
    ]
    for shift in range(len(values)):
        bias = np.resize(np.roll(np.array(values, dtype), shift), edges.panel + edges.lanes + 3)
        y = both(np.ones((3, 1), dtype), np.zeros((len(bias), 1), dtype), bias, activation="relu")
        expected = np.where(np.isnan(bias), bias, np.where(bias > 0, bias, dtype(0)))
        for row in y:
            assert_same_bits(row, expected)


def test_denormals_are_honoured(isa, dtype):
    """As operands, as products, as sums and in the epilogue."""
    info = np.finfo(dtype)
    tiny = info.smallest_subnormal
    k = 40
    x = np.full((3, k), 3 * tiny, dtype)
    assert_same_bits(both(x, np.ones((20, k), dtype)), np.full((3, 20), 3 * k * tiny, dtype))
    half = np.full((3, 4), np.ldexp(dtype(1), info.minexp // 2), dtype)
    exact = np.ldexp(dtype(1), info.minexp // 2 * 2) / 16
    assert 0 < exact < info.tiny
    assert_same_bits(both(half / 4, half / 4), np.full((3, 3), 4 * exact, dtype))
    bias = np.full(20, tiny, dtype)
    assert_same_bits(
        both(x, np.ones((20, k), dtype), bias, activation="relu"), np.full((3, 20), (3 * k + 1) * tiny, dtype)
    )
    gx, gw, gb = fastfc.linear_backward(x, x, np.ones((k, k), dtype), activation="relu", preactivation=x)
    assert_same_bits(gx, np.full((3, k), 3 * k * tiny, dtype))
    assert_same_bits(gb, np.full(k, 9 * tiny, dtype))
    assert_same_bits(gw, np.zeros((k, k), dtype))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -0.0, 1e30])
def test_out_is_never_read(isa, dtype, edges, rng, garbage):
    """Neither by a call with one chunk of k nor by one with several, dense or sparse, forward or backward."""
    for m, n, k in ((1, 1, 1), (5, edges.panel + 1, 200), (40, 3, edges.chunk + 193), (3, 2, 0)):
        x, weight, grad = (gaussian(rng, s, dtype) for s in ((m, k), (n, k), (m, n)))
        csr = fastfc.CSR(*random_csr(rng, (n, k), dtype))
        for operands in ((x, weight), (x, fastfc.pack(weight)), (x, csr), (csr, x)):
            fresh = fastfc.linear(*operands)
            assert_same_bits(fastfc.linear(*operands, out=np.full_like(fresh, garbage)), fresh)
        for operands in ((grad, x, weight), (grad, x, csr), (np.ascontiguousarray(grad.T), csr, x)):
            fresh = fastfc.linear_backward(*operands)
            out = tuple(None if g is None else np.full_like(g, garbage) for g in fresh)
            for one, other in zip(fastfc.linear_backward(*operands, out=out), fresh, strict=True):
                if other is not None:
                    assert_same_bits(one, other)
            if fresh[0] is not None:
                out = (np.full_like(fresh[0], garbage), *map(np.zeros_like, fresh[1:]))
                assert_same_bits(fastfc.linear_backward(*operands, out=out, accumulate=True)[0], fresh[0])


# ---- The caller's floating-point mode -------------------------------------------------------------------------------

FTZ, DAZ, UP, DOWN, TO_ZERO, MASKS = 0x8000, 0x0040, 0x4000, 0x2000, 0x6000, 0x1F80


class Mode:
    """The calling thread's MXCSR: mode and status flags."""

    def __init__(self, folder):
        source = folder / "mode.c"
        source.write_text(
            "#include <xmmintrin.h>\n"
            "unsigned get(void) { return _mm_getcsr(); }\n"
            "void set(unsigned mode) { _mm_setcsr(mode); }\n"
        )
        library = compile_c(source, folder)
        self.get, self.set = library.get, library.set
        self.get.restype, self.set.argtypes = ctypes.c_uint, [ctypes.c_uint]


@pytest.fixture(scope="module")
def mode(tmp_path_factory):
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("MXCSR is x86's")
    mode = Mode(pathlib.Path(tmp_path_factory.mktemp("mode")))
    before = mode.get()
    yield mode
    mode.set(before)


def mode_calls(rng, dtype):
    """Calls whose results need denormals and rounding to nearest; the second kind is shared by threads."""
    for m, n, k in ((3, 5, 40), (130, 150, 200)):
        x, weight, grad, z = (gaussian(rng, s, dtype) for s in ((m, k), (n, k), (m, n), (m, n)))
        x[0] *= np.finfo(dtype).tiny
        grad[:, 0] *= np.finfo(dtype).tiny
        weight[0], z[:, 0] = 0.5, np.abs(z[:, 0]) * np.finfo(dtype).tiny / 4
        csr = fastfc.CSR(*random_csr(rng, (n, k), dtype, 0.8))
        other = np.ascontiguousarray(grad.T)
        yield lambda threads, x=x, w=weight: [fastfc.linear(x, w, threads=threads)]
        yield lambda threads, x=x, w=weight: [fastfc.linear(x, w)]
        packed = fastfc.pack(weight)
        yield lambda threads, x=x, w=packed: [fastfc.linear(x, w, threads=threads)]
        yield lambda threads, x=x, w=csr: [fastfc.linear(x, w, threads=threads)]
        yield lambda threads, x=x, w=csr: [fastfc.linear(w, x, threads=threads)]
        yield lambda threads, g=grad, x=x, w=weight, z=z: fastfc.linear_backward(
            g, x, w, activation="relu", preactivation=z, threads=threads
        )
        yield lambda threads, g=grad, x=x, w=csr, z=z: fastfc.linear_backward(
            g, x, w, activation="relu", preactivation=z, threads=threads
        )
        yield lambda threads, g=other, x=csr, w=x: fastfc.linear_backward(g, x, w, threads=threads)[1:]


@pytest.mark.parametrize("changed", [FTZ | DAZ, UP, DOWN, TO_ZERO | FTZ, 0x3F, 0], ids=lambda v: f"{v:#x}")
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_mode_of_the_caller_changes_nothing_and_stays(isa, dtype, rng, mode, changed, threads):
    """In a new thread each time: its OpenMP workers start with the caller's mode, so each has to leave it too.

    With 8 threads the number worth starting is a fraction, whose rounding must raise no flag either."""
    calls = list(mode_calls(rng, dtype))
    expected = [call(1) for call in calls]
    problems = []

    def in_that_mode():
        before = mode.get()
        for i, (call, want) in enumerate(zip(calls, expected, strict=True)):
            for operation in ("mode", "bits"):
                mode.set(MASKS | changed)
                got = call(threads)
                after = mode.get()
                mode.set(before)
                if operation == "mode" and after != MASKS | changed:
                    problems.append(f"call {i}: MXCSR was {MASKS | changed:#x}, is {after:#x}")
            try:
                for one, other in zip(got, want, strict=True):
                    assert_same_bits(one, other, f"call {i}")
            except AssertionError as error:
                problems.append(str(error))

    thread = threading.Thread(target=in_that_mode)
    gc.disable()  # what runs on a collection (hypothesis measures its time, say) may raise flags
    try:
        thread.start()
        thread.join()
    finally:
        gc.enable()
    assert not problems, "\n".join(problems)


def test_unmasked_exceptions_do_not_trap(isa, dtype, mode):
    """A caller that traps on overflow gets its Inf, and no signal."""
    for m, threads in ((3, 1), (150, 2), (150, 8)):
        x = np.full((m, 150), np.finfo(dtype).max, dtype)
        gc.disable()
        before = mode.get()
        mode.set(0)
        y = fastfc.linear(x, x, threads=threads)
        after = mode.get()
        mode.set(before)
        gc.enable()
        assert np.isinf(y).all() and after == 0


# ---- Every kernel has a test ----------------------------------------------------------------------------------------

# Kernel -> tests that fail without it, on every target.
TESTS_OF_KERNELS = {
    "gemm": [
        "test_linear.test_integers_at_all_tile_edges",
        "test_contract.test_every_tile_follows_the_canonical_order",
    ],
    "pack": ["test_pack.test_unpack_gives_the_weight_back", "test_linear.test_any_memory_for_each_operand"],
    "few": ["test_linear.test_integers_at_all_tile_edges", "test_contract.test_a_row_of_y_over_all_batch_sizes"],
    "dots": [
        "test_contract.test_narrow_products_follow_the_canonical_order",
        "test_linear.test_a_batch_beside_few_outputs",
    ],
    "finish": ["test_sparse.test_rows_of_all_lengths", "test_linear.test_epilogues"],
    "spmm": ["test_sparse.test_integers_at_all_widths", "test_contract.test_csr_follows_its_canonical_order"],
    "spmm_t": ["test_sparse_matmul.test_order_of_the_transpose"],
    "sddmm": ["test_sparse.test_stored_gradient_around_blocks_of_the_batch"],
    "tiled": [
        "test_packed_sparse.test_integers_at_all_widths",
        "test_packed_sparse.test_the_order_that_is_written_down",
    ],
    "tiled_grad": ["test_packed_sparse.test_gradients_of_a_layer"],
    **{
        kernel: [
            "test_packed_blocks.test_integers_at_all_widths",
            "test_packed_blocks.test_the_order_that_is_written_down",
        ]
        for kernel in ("panels", "quads", "across")
    },
    "panels_turned": ["test_packed_blocks.test_integers_of_many_inputs"],
    "column_sum": [
        "test_backward.test_integers_at_all_tile_edges",
        "test_backward.test_threads_share_all_of_a_large_result",
    ],
    "activation_grad": ["test_backward.test_relu_lets_pass_where_the_preactivation_is_positive_or_nan"],
    "gate": ["test_feedforward.test_gate_is_the_activation_times_the_factor"],
    "gate_grad": ["test_feedforward.test_gate_is_the_activation_times_the_factor"],
    "norm": ["test_norm.test_values_and_gradients_within_the_bound"],
    "norm_grad": ["test_norm.test_values_and_gradients_within_the_bound"],
    "cross_entropy": ["test_losses.test_cross_entropy_with_every_option"],
    "pointwise_loss": ["test_losses.test_pointwise_losses"],
    "dropout": ["test_dropout.test_every_word"],
    "update": ["test_optim_rules.test_each_step_is_the_formula"],
    "square_sum": ["test_clip.test_norm"],
    "probe": ["test_runtime.test_probes"],
}


def test_every_kernel_has_a_test():
    assert set(TESTS_OF_KERNELS) == set(_core.kernel_names())
    for names in TESTS_OF_KERNELS.values():
        for name in names:
            module, function = name.split(".")
            assert callable(getattr(pytest.importorskip(module), function))
