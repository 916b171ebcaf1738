"""Packed sparse weights whose entries stand in blocks: values, the order of summation, choice, memory and mistakes."""

import copy
import pickle

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_close, assert_same_bits
from samples import FMA_ISAS, gaussian, integers, wild
from test_packed_sparse import fma

import fastfc
from fastfc.layouts import BLOCKS

sp = pytest.importorskip("scipy.sparse")

FORMATS = pytest.mark.parametrize("format", BLOCKS)
# Around the rows of tiles of each target, and where few rows become many.
BATCHES = [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 16, 17, 25, 64, 70]
# Around lanes, panels and chains of 192 entries.
SHAPES = [(1, 16), (15, 48), (16, 16), (17, 400), (31, 208), (32, 768), (33, 784), (70, 1552), (100, 3104)]
BLOCK = 192


def pattern(rng, shape, format, density=0.5):
    """A mask of whole blocks."""
    n, k = shape
    if format == "16x1":
        return np.repeat(rng.random((-(-n // 16), k)) < density, 16, axis=0)[:n]
    if format == "1x16":
        return np.repeat(rng.random((n, k // 16)) < density, 16, axis=1)
    stored = int(format[0])
    order = np.argsort(rng.random((n, k // 4, 4)), axis=2)
    return (order < stored).reshape(n, k)


def blocky(rng, shape, dtype, format, density=0.5, values=gaussian):
    """A CSR of whole blocks; some of its entries are 0."""
    return of_pattern(rng, pattern(rng, shape, format, density), dtype, values)


def of_pattern(rng, mask, dtype, values=gaussian):
    rows, columns = np.nonzero(mask)
    data = values(rng, len(rows), dtype)
    data[::7] = 0
    return fastfc.CSR(data, columns, np.searchsorted(rows, np.arange(len(mask) + 1)), mask.shape)


def dense(csr):
    return reference.dense((csr.data, csr.indices, csr.indptr, csr.shape))


def in_order(x, csr, format):
    """The order of summation as written down; exact for float32."""
    y = np.zeros((len(x), csr.shape[0]), x.dtype)
    for n in range(csr.shape[0]):
        entries = np.arange(csr.indptr[n], csr.indptr[n + 1])
        if format == "1x16":
            lanes = np.zeros((len(x), 16), x.dtype)
            for block in entries.reshape(-1, 16):
                lanes = fma(x[:, csr.indices[block]], csr.data[block], lanes)
            while lanes.shape[1] > 1:
                half = lanes.shape[1] // 2
                lanes = lanes[:, :half] + lanes[:, half:]
            y[:, n] = lanes[:, 0]
            continue
        for at in range(0, len(entries), BLOCK):
            acc = np.zeros(len(x), x.dtype)
            for e in entries[at : at + BLOCK]:
                acc = fma(x[:, csr.indices[e]], csr.data[e], acc)
            y[:, n] = y[:, n] + acc if at else acc
    return y


# ---- Values ---------------------------------------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize("shape", SHAPES)
def test_integers_at_all_widths(isa, dtype, rng, format, shape):
    for density in (0.0, 0.1, 0.6, 1.0):
        csr = blocky(rng, shape, dtype, format, density, integers)
        packed = fastfc.pack(csr, format=format)
        assert packed.nnz == csr.nnz
        x, bias, residual = (integers(rng, size, dtype) for size in
                             ((max(BATCHES), shape[1]), shape[0], (max(BATCHES), shape[0])))  # fmt: skip
        product = x.astype(np.float64) @ dense(csr).astype(np.float64).T  # exact, and fast
        total = product + bias + residual
        for m in BATCHES:
            assert np.array_equal(fastfc.linear(x[:m], packed), product[:m]), m
            rest = {"residual": residual[:m], "activation": "relu", "return_preactivation": True}
            y, z = fastfc.linear(x[:m], packed, bias, **rest)
            assert np.array_equal(z, total[:m]) and np.array_equal(y, np.maximum(total[:m], 0)), m


@FORMATS
@pytest.mark.parametrize("shape", SHAPES)
def test_within_the_bound(in_turn, dtype, rng, format, shape):
    csr = blocky(rng, shape, dtype, format)
    w, bias = dense(csr), gaussian(rng, shape[0], dtype)
    for m in (1, 3, 70):
        x, residual = gaussian(rng, (m, shape[1]), dtype), gaussian(rng, (m, shape[0]), dtype)
        exact = reference.wide(x) @ w.T + bias + residual
        bound = reference.bound(shape[1] + 5, np.abs(reference.wide(x)) @ np.abs(w).T, dtype, bias, residual)
        for _ in in_turn(fastfc.available_isas()):
            packed = fastfc.pack(csr, format=format)
            y, z = fastfc.linear(x, packed, bias, residual=residual, activation="relu", return_preactivation=True)
            assert_close(z, exact, bound)
            assert_close(y, np.maximum(exact, 0), bound)
            silu = fastfc.linear(x, packed, bias, activation="silu")
            assert_same_bits(silu, fastfc.activations.silu(fastfc.linear(x, packed, bias)))


@FORMATS
def test_the_order_that_is_written_down(fma_isa, rng, format):
    far_apart = [((17, 40_000), 0.01)] if format == "16x1" else []
    for shape, density in (((20, 300 // 16 * 16), 0.9), ((35, 912), 0.8), ((9, 1712), 0.2), *far_apart):
        csr = blocky(rng, shape, np.float32, format, density)
        x = gaussian(rng, (19, shape[1]), np.float32)
        assert_same_bits(fastfc.linear(x, fastfc.pack(csr, format=format)), in_order(x, csr, format))


@FORMATS
def test_same_row_same_bits(best_fma_isa, in_turn, dtype, rng, format):
    """For any batch, place in it, number of threads, layout and FMA target."""
    packed = fastfc.pack(blocky(rng, (700, 1600), dtype, format, 0.5), format=format)
    x = wild(rng, (430, 1600), dtype)
    y = fastfc.linear(x, packed)
    for isa in in_turn(FMA_ISAS):
        for threads in (1, 2, 3):
            for m in [*BATCHES, 129, 193] if isa != "scalar" else BATCHES[::3]:
                assert_same_bits(fastfc.linear(x[:m], packed, threads=threads), y[:m])
        assert_same_bits(fastfc.linear(np.asfortranarray(x)[::-1], packed, threads=2), y[::-1])


@FORMATS
def test_only_stored_entries_are_multiplied(isa, dtype, rng, format):
    """Inf and NaN opposite what is not stored, in the same panel or group of 4 as what is; stored zeros meet them."""
    csr = blocky(rng, (50, 96), dtype, format, 0.5, integers)
    packed, w = fastfc.pack(csr, format=format), dense(csr)
    stored = np.zeros(w.shape, bool)
    stored[np.repeat(np.arange(50), np.diff(csr.indptr)), csr.indices] = True
    for m in (1, 2, 9):
        for special in (np.nan, np.inf, -np.inf):
            x = integers(rng, (m, 96), dtype)
            x[:, ::5] = special
            y = fastfc.linear(x, packed)
            clean = ~stored[:, ::5].any(axis=1)
            without = np.where(np.isfinite(x), x, 0)
            assert np.array_equal(y[:, clean], without.astype(np.int64) @ w[clean].T)
            assert not np.isfinite(y[:, ~clean]).any()
            with np.errstate(invalid="ignore"):
                for row in np.flatnonzero(~clean):
                    expected = (x[:, stored[row]] * w[row, stored[row]].astype(dtype)).sum(axis=1)
                    assert np.array_equal(y[:, row], expected, equal_nan=True)


def test_what_fills_blocks_up_is_stored(isa, dtype, rng):
    """Holes become zeros that count, come back, and meet a NaN."""
    indptr, indices, data = [0, 1, 2, 2, 2], [1, 6], np.array([3, -2], dtype)
    csr = fastfc.CSR(data, indices, indptr, (4, 16))
    for format, full in (("16x1", 8), ("1x16", 32), ("2:4", 32), ("1:4", 16)):
        packed = fastfc.pack(csr, format=format)
        assert packed.nnz == full == packed.unpack().nnz
        assert np.array_equal(dense(packed.unpack()), dense(csr))
        x = integers(rng, (3, 16), dtype)
        assert np.array_equal(fastfc.linear(x, packed), x @ dense(csr).astype(dtype).T)
        x[:, packed.unpack().indices[0]] = np.nan
        assert np.isnan(fastfc.linear(x, packed)[:, 0]).all()


@FORMATS
def test_repeated_entries_add_up(dtype, rng, format):
    csr = blocky(rng, (40, 32), dtype, format, 0.7, integers)
    twice = fastfc.CSR(np.repeat(csr.data, 2), np.repeat(csr.indices, 2), 2 * csr.indptr, csr.shape)
    packed = fastfc.pack(twice, format=format)
    assert packed.nnz == csr.nnz
    assert np.array_equal(dense(packed.unpack()), 2 * dense(csr))


@FORMATS
def test_signs_of_zero_come_back(dtype, format):
    csr = fastfc.CSR(np.full(32, -0.0, dtype), np.tile(np.arange(32), 1), [0, 32], (1, 32))
    if ":" in format:
        csr = fastfc.CSR(np.full(8, -0.0, dtype), np.arange(8) * 4, [0, 8], (1, 32))
    assert np.signbit(fastfc.pack(csr, format=format).unpack().data).all()


@given(data=st.data())
def test_any_structure(data):
    format = data.draw(st.sampled_from(list(BLOCKS)))
    n, k, m = data.draw(st.integers(0, 70)), 16 * data.draw(st.integers(0, 20)), data.draw(st.integers(0, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    csr = blocky(rng, (n, k), np.float32, format, data.draw(st.floats(0, 1)), integers)
    keep = rng.random(csr.nnz) < data.draw(st.sampled_from([0.5, 1.0]))
    rows = np.repeat(np.arange(n), np.diff(csr.indptr))[keep]
    csr = fastfc.CSR(csr.data[keep], csr.indices[keep], np.searchsorted(rows, np.arange(n + 1)), (n, k))
    x = integers(rng, (m, k), np.float32)
    packed = fastfc.pack(csr, format=format)
    assert np.array_equal(fastfc.linear(x, packed, threads=2), fastfc.linear(x, csr))
    again = fastfc.pack(packed.unpack(), format=format)
    assert again.nnz == packed.nnz >= csr.nnz and again.nbytes == packed.nbytes


def test_panels_of_all_lengths(isa, dtype, rng):
    """Panels that are finished in the first of several spans of chains, empty ones too, and shares of threads."""
    mask = np.repeat(rng.random((20, 2000)) < rng.choice([0, 0.01, 0.2, 1.0], (20, 1)), 16, axis=0)[:309]
    w = np.where(mask, integers(rng, mask.shape, dtype), dtype(0))
    packed = fastfc.pack(w, format="16x1")
    for m, threads in ((1, 1), (20, 1), (230, 1), (230, 3)):
        x = integers(rng, (m, 2000), dtype)
        assert np.array_equal(fastfc.linear(x, packed, threads=threads), x.astype(np.int64) @ w.T.astype(np.int64))


def many_inputs(rng, dtype, values=gaussian):
    """A CSR of panels whose entries stand so far apart that lanes run along the batch on all targets."""
    mask = np.repeat(rng.random((6, 40_000)) < rng.choice([0, 0.002, 0.01], (6, 1)), 16, axis=0)[:85]
    return of_pattern(rng, mask, dtype, values)


def test_integers_of_many_inputs(isa, dtype, rng):
    csr = many_inputs(rng, dtype, integers)
    packed, bias = fastfc.pack(csr, format="16x1"), integers(rng, 85, dtype)
    x, residual = integers(rng, (40_000, 70), dtype).T, integers(rng, (70, 85), dtype)
    total = np.maximum(x.astype(np.float64) @ dense(csr).astype(np.float64).T + bias + residual, 0)
    for m in (*BATCHES, 20, 29, 32, 33, 47):
        for threads in (1, 3):
            y = fastfc.linear(x[:m], packed, bias, residual=residual[:m], activation="relu", threads=threads)
            assert np.array_equal(y, total[:m]), (m, threads)


def test_bits_of_many_inputs(best_fma_isa, in_turn, dtype, rng):
    packed = fastfc.pack(many_inputs(rng, dtype), format="16x1")
    x = wild(rng, (70, 40_000), dtype)
    y = fastfc.linear(x, packed)
    for _ in in_turn(FMA_ISAS):
        for m in (*BATCHES, 29, 32, 47):
            assert_same_bits(fastfc.linear(x[:m], packed), y[:m])


# ---- The object -----------------------------------------------------------------------------------------------------


@FORMATS
def test_attributes_and_copies(dtype, rng, format):
    csr = blocky(rng, (64, 96), dtype, format, 0.3)
    packed = fastfc.pack(csr, format=format)
    size = np.dtype(dtype).itemsize
    assert (packed.shape, packed.dtype, packed.format, packed.nnz) == ((64, 96), np.dtype(dtype), format, csr.nnz)
    assert csr.nnz * size < packed.nbytes < csr.nnz * (size + 0.5) + 1000
    assert f"\n{format}: {BLOCKS[format].why}\n" in packed.explain() and f"{csr.nnz} entries" in packed.explain()
    x = gaussian(rng, (3, 96), dtype)
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert repr(twin) == repr(packed)
        assert_same_bits(fastfc.linear(x, twin), fastfc.linear(x, packed))
    back = packed.unpack()
    assert np.array_equal(back.indices, csr.indices) and np.array_equal(back.indptr, csr.indptr)
    assert_same_bits(back.data, csr.data)


# ---- The choice -----------------------------------------------------------------------------------------------------


def test_chosen_by_the_pattern(dtype, rng):
    def chosen(matrix, format=None):
        return fastfc.pack(matrix, format=format).format

    for format in BLOCKS:
        csr = blocky(rng, (80, 160), dtype, format, 0.3)
        csr.data[csr.data == 0] = 1
        assert chosen(csr) == chosen(csr, "auto") == chosen(dense(csr).astype(dtype), "auto") == format
        holed = dense(csr).astype(dtype)
        holed[tuple(np.argwhere(holed)[5])] = 0
        assert chosen(holed, "auto") == "tiled"
    expected = {(16, 1): "16x1", (16, 16): "16x1", (32, 4): "16x1", (1, 16): "1x16", (4, 4): "tiled"}
    for block, format in expected.items():
        grid = rng.random((96 // block[0], 96 // block[1])) < 0.3
        w = np.kron(grid, np.ones(block)).astype(dtype) * gaussian(rng, (96, 96), dtype)
        assert chosen(sp.bsr_array(w, blocksize=block)) == format
    shared = np.repeat(pattern(rng, (6, 160), "2:4"), 16, axis=0).astype(dtype)
    assert chosen(shared, "auto") == "16x1"
    assert isinstance(fastfc.pack(np.ones((64, 64), dtype), format="auto"), fastfc.PackedWeight)
    assert chosen(sp.csr_array(np.ones((64, 64), dtype))) == "16x1"
    assert chosen(sp.csr_array(np.ones((3, 64), dtype))) == "1x16"  # not 13 rows of padding
    assert chosen(sp.csr_array(np.eye(640, dtype=dtype))) == "tiled"


def test_tuned(dtype, rng):
    csr = blocky(rng, (80, 160), dtype, "16x1", 0.3, integers)
    x = integers(rng, (4, 160), dtype)
    for weight, format, of in ((csr, None, {"16x1", "tiled"}), (csr, "auto", {"16x1", "tiled", "dense"}),
                               (csr, "tiled", {"tiled"}), (dense(csr).astype(dtype), None, {"dense"}),
                               (np.ones((8, 8), dtype), "auto", {"tiled", "dense", "16x1"})):  # fmt: skip
        packed = fastfc.pack(weight, format=format, tune=True, batch=4)
        assert getattr(packed, "format", "dense") in of
        if packed.shape == csr.shape:
            assert np.array_equal(fastfc.linear(x, packed), x.astype(np.int64) @ dense(csr).T.astype(np.int64))


@pytest.mark.parametrize("error, text, weight, options", [
    (ValueError, "into format '2:4': 6 inputs, expected a multiple of 4", np.ones((4, 6)), {"format": "2:4"}),
    (ValueError, "'1x16': 24 inputs, expected a multiple of 16", np.ones((4, 24)), {"format": "1x16"}),
    (ValueError, "'1:4': more than 1 entries in 4 inputs", np.ones((4, 8)), {"format": "1:4"}),
    (ValueError, "'2:4': more than 2 entries", sp.csr_array(np.ones((4, 8))), {"format": "2:4"}),
    (ValueError, "must be one of 'auto', 'dense', 'tiled', '16x1', .* got '3:4'", np.ones((2, 2)), {"format": "3:4"}),
    (TypeError, "tune must be a bool, got int", np.ones((2, 2)), {"tune": 1}),
    (TypeError, "batch must be an integer, got float", np.ones((2, 2)), {"batch": 1.0}),
    (ValueError, "batch must be at least 1, got 0", np.ones((2, 2)), {"batch": 0}),
])  # fmt: skip
def test_mistakes_are_named(error, text, weight, options):
    with pytest.raises(error, match=text):
        fastfc.pack(weight, **options)


@FORMATS
def test_malformed_structures_are_refused(format):
    for indptr, indices in (([0, 1, 2], [0, 16]), ([0, 1, 2], [0, -1]), ([0, 2, 1], [0, 1]), ([0, 1, 3], [0, 1])):
        matrix = sp.csr_matrix(np.eye(2, 16, dtype=np.float32))
        matrix.indptr, matrix.indices = np.array(indptr, np.int32), np.array(indices, np.int32)
        with pytest.raises(ValueError, match=r"indices|indptr"):
            fastfc.pack(matrix, format=format)


# ---- Layers ---------------------------------------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize("m", [1, 30])
def test_a_layer_of_blocks(isa, dtype, rng, format, m):
    """Forward through the layout, in training as in eval, whatever the values become; gradients as those of any CSR."""
    csr = blocky(rng, (80, 160), dtype, format, 0.4)
    layer = fastfc.SparseLinear.from_csr(csr, gaussian(rng, 80, dtype))
    x, grad = gaussian(rng, (m, 160), dtype), gaussian(rng, (m, 80), dtype)
    for _ in range(2):
        packed = fastfc.pack(fastfc.CSR(layer.weight.data, csr.indices, csr.indptr, csr.shape), format=format)
        expected = fastfc.linear(x, packed, layer.bias.data)
        y, backward = layer.vjp(x)
        assert_same_bits(y, expected)
        gx = backward(grad)
        w = dense(packed.unpack())
        g, a = reference.wide(grad), reference.wide(x)
        assert_close(gx, g @ w, reference.bound(80, np.abs(g) @ np.abs(w), dtype))
        arrays = csr.data, csr.indices, csr.indptr, csr.shape
        bound = reference.stored(arrays, reference.bound(m + 1, np.abs(g).T @ np.abs(a), dtype))
        assert_close(layer.weight.grad, reference.stored(arrays, g.T @ a), bound)
        layer.eval()
        assert_same_bits(layer(x), expected)
        layer.train()
        layer.zero_grad()
        layer.weight.data *= dtype(-1.5)


def test_pruned_layers_reach_the_layouts(rng):
    prune = fastfc.prune
    for method, format in ((lambda model: prune.blocks(model, 0.75, (16, 1)), "16x1"),
                           (lambda model: prune.blocks(model, 0.75, (16, 16)), "16x1"),
                           (lambda model: prune.blocks(model, 0.75, (1, 16)), "1x16"),
                           (lambda model: prune.n_m(model, 2, 4), "2:4"), (lambda model: prune.n_m(model, 1, 4), "1:4"),
                           (lambda model: prune.n_m(model, 2, 8, shared=16), "16x1"),
                           (lambda model: prune.l1_unstructured(model, 0.75), "tiled")):  # fmt: skip
        layer = prune.to_sparse(method(fastfc.Linear(96, 64, rng=0)))
        report = prune.report(layer, measure=False)
        assert report["format"] == [format] and report["bytes"][0] < 96 * 64 * 4
        x = gaussian(rng, (5, 96), np.float32)
        assert_close(layer.eval()(x), reference.wide(x) @ layer.to_dense().T + layer.bias.data, np.full((5, 64), 1e-5))
