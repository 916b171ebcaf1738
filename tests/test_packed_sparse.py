"""Packed sparse weights: formats, the order of summation, memory, mistakes, and training through them."""

import copy
import pickle

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_close, assert_same_bits
from samples import FMA_ISAS, gaussian, integers, random_csr, wild
from test_backward import numeric_gradient
from test_sparse import structures

import fastfc

sp = pytest.importorskip("scipy.sparse")

BATCHES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 40, 47, 57, 63, 64, 65, 96, 113, 129]


def pruned(rng, shape, dtype, density, values=gaussian):
    return np.where(rng.random(shape) < density, values(rng, shape, dtype), dtype(0))


def chains(x, packed):
    """The order of summation as written down, in numpy, with float64 products rounded once: exact for float32 `x`."""
    csr, tile = packed.unpack(), tile_of(packed)
    y = np.zeros((len(x), packed.shape[0]), x.dtype)
    for n in range(packed.shape[0]):
        entries = np.arange(csr.indptr[n], csr.indptr[n + 1])
        for t in np.unique(csr.indices[entries] // tile):
            acc = np.zeros(len(x), x.dtype)
            for e in entries[csr.indices[entries] // tile == t]:
                acc = fma(x[:, csr.indices[e]], csr.data[e], acc)
            y[:, n] += acc
    return y


def tile_of(packed):
    return int(packed.explain().split("tiles of ")[1].split()[0])


def fma(a, b, c):
    """Of float32, rounded once: the product is exact in longdouble's 64 bits, and the sum nearly always."""
    return (a.astype(np.longdouble) * np.longdouble(b) + c.astype(np.longdouble)).astype(c.dtype)


# ---- Values ---------------------------------------------------------------------------------------------------------


def test_integers_at_all_widths(isa, dtype, rng):
    for csr in structures(rng, (23, 31), dtype, integers):
        exact = reference.dense(csr).astype(np.int64)
        packed = fastfc.pack(fastfc.CSR(*csr))
        x = integers(rng, (max(BATCHES), 31), dtype)
        for m in BATCHES:
            assert np.array_equal(fastfc.linear(x[:m], packed), x[:m].astype(np.int64) @ exact.T)


SHAPES = [(1, 1), (7, 129), (8, 128), (9, 127), (64, 385), (257, 193), (300, 999), (512, 70), (1100, 40)]


@pytest.mark.parametrize("shape", SHAPES)  # rows of 512 outputs share a set or two of L1
@pytest.mark.parametrize("density", [0.003, 0.03, 0.1, 0.4, 1.0])
def test_within_the_bound(isa, dtype, rng, shape, density):
    w = pruned(rng, shape, dtype, density)
    packed = fastfc.pack(sp.csr_array(w))
    bias = gaussian(rng, shape[0], dtype)
    for m in (1, 3, 70):
        x, residual = gaussian(rng, (m, shape[1]), dtype), gaussian(rng, (m, shape[0]), dtype)
        y, z = fastfc.linear(x, packed, bias, residual=residual, activation="relu", return_preactivation=True)
        wide = reference.wide(x), reference.wide(w)
        exact = wide[0] @ wide[1].T + bias + residual
        bound = reference.bound(shape[1] + 40, np.abs(wide[0]) @ np.abs(wide[1]).T, dtype, bias, residual)
        assert_close(z, exact, bound)
        assert_close(y, np.maximum(exact, 0), bound)


def test_the_order_that_is_written_down(fma_isa, rng):
    for shape, density in (((20, 300), 0.3), ((20, 500), 0.1), ((30, 900), 0.05), ((9, 1700), 0.02)):
        packed = fastfc.pack(pruned(rng, shape, np.float32, density), format="tiled")
        x = gaussian(rng, (19, shape[1]), np.float32)
        assert_same_bits(fastfc.linear(x, packed), chains(x, packed))


@pytest.mark.parametrize("k, share, tile", [
    (100, 0.5, 112), (100, 0.3, 176), (100, 0.1, 240), (100, 0.05, 384), (575, 0.05, 576), (577, 0.05, 304),
    (1024, 0.02, 1024), (4096, 0.02, 832), (40000, 0.0001, 20000),
])  # fmt: skip
def test_the_tiles_that_are_written_down(k, share, tile):
    """In fastfc.h. Every row has the same number of entries."""
    per_row, rows = int(k * share), 20
    columns = np.tile(np.linspace(0, k - 1, per_row).astype(int), rows)
    csr = fastfc.CSR(np.ones(rows * per_row, np.float32), columns, np.arange(rows + 1) * per_row, (rows, k))
    assert tile_of(fastfc.pack(csr, format="tiled")) == tile


def test_same_row_same_bits(in_turn, dtype, rng):
    """For any batch, place in it, number of threads, layout and FMA target."""
    w = pruned(rng, (700, 600), dtype, 0.2)
    packed = fastfc.pack(sp.csr_array(w))
    x = wild(rng, (130, 600), dtype)
    y = None
    for _ in in_turn(FMA_ISAS):
        for threads in (1, 2, 3):
            for m in BATCHES[1:]:
                part = fastfc.linear(x[:m], packed, threads=threads)
                y = fastfc.linear(x, packed) if y is None else y
                assert_same_bits(part, y[:m])
            assert_same_bits(fastfc.linear(np.asfortranarray(x)[::-1], packed, threads=threads), y[::-1])


def test_only_stored_entries_are_multiplied(isa, dtype):
    indptr, indices = [0, 2, 3, 3], [0, 4, 2]
    packed = fastfc.pack(fastfc.CSR(np.array([0, 2, np.inf], dtype), indices, indptr, (3, 200)))
    for m in (1, 2, 9, 64):
        x = np.full((m, 200), np.nan, dtype)
        x[:, [0, 2, 4]] = [1, 3, 5]
        assert np.array_equal(fastfc.linear(x, packed), np.tile(np.array([10, np.inf, 0], dtype), (m, 1)))
        x[:, 0] = np.inf  # meets the stored 0
        assert np.isnan(fastfc.linear(x, packed)[:, 0]).all()


def test_padding_changes_no_sign(isa, dtype):
    """A row's sum that underflows to -0 next to a longer row: padded steps leave it, and a total turns it to +0."""
    tiny = np.finfo(dtype).tiny
    w = np.zeros((8, 100), dtype)
    w[:, :8] = 1
    w[0, 7] = 0
    w[0, :7] = -tiny
    packed = fastfc.pack(w, format="tiled")
    for m in (1, 5, 64):
        x = np.full((m, 100), tiny)
        y = fastfc.linear(x.astype(dtype), packed)
        assert_same_bits(y, np.tile(y[:1], (m, 1)))
        assert not np.signbit(y[:, 0]).any()


def test_power_law_rows(isa, dtype, rng):
    """A few rows hold half of the entries."""
    density = np.where(np.arange(400) % 97 == 0, 0.9, 0.02)[:, None]
    w = np.where(rng.random((400, 500)) < density, integers(rng, (400, 500), dtype), dtype(0))
    packed = fastfc.pack(sp.csr_array(w))
    assert packed.nbytes < packed.nnz * (np.dtype(dtype).itemsize + 2) * 1.15 + 40_000
    for m in (1, 40):
        x = integers(rng, (m, 500), dtype)
        assert np.array_equal(fastfc.linear(x, packed, threads=2), x.astype(np.int64) @ w.T.astype(np.int64))


@given(data=st.data())
def test_any_structure(data):
    n, k, m = (data.draw(st.integers(0, most)) for most in (40, 300, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count = data.draw(st.integers(0, 400)) if n and k else 0
    rows, columns = np.sort(rng.integers(0, max(n, 1), count)), rng.integers(0, max(k, 1), count)
    csr = fastfc.CSR(integers(rng, count, np.float32), columns, np.searchsorted(rows, np.arange(n + 1)), (n, k))
    x = integers(rng, (m, k), np.float32)
    packed = fastfc.pack(csr)
    assert np.array_equal(fastfc.linear(x, packed), fastfc.linear(x, csr))
    assert packed.unpack().nnz == count


# ---- The object -----------------------------------------------------------------------------------------------------


def test_every_format_of_scipy(dtype, rng):
    w = pruned(rng, (36, 48), dtype, 0.2)
    x = gaussian(rng, (9, 48), dtype)
    y = fastfc.linear(x, fastfc.pack(w, format="tiled"))
    for kind in (sp.csr_array, sp.csc_array, sp.coo_array, sp.csr_matrix, sp.csc_matrix, sp.coo_matrix):
        assert_same_bits(fastfc.linear(x, fastfc.pack(kind(w))), y)
    for block in ((1, 1), (4, 4), (12, 1), (1, 16), (36, 48)):
        packed = fastfc.pack(sp.bsr_array(w, blocksize=block))
        assert_close(fastfc.linear(x, packed), y, np.full(y.shape, 1e-5))
    repeated = sp.coo_array((np.array([1, 2, 4], dtype), ([3, 3, 0], [5, 5, 1])), shape=w.shape)
    assert np.array_equal(to_dense(fastfc.pack(repeated)), repeated.toarray())


def to_dense(packed):
    return fastfc.linear(np.eye(packed.shape[1], dtype=packed.dtype), packed).T


def test_formats_of_an_array(dtype, rng):
    w = pruned(rng, (50, 60), dtype, 0.5)
    assert isinstance(fastfc.pack(w), fastfc.PackedWeight)
    assert isinstance(fastfc.pack(w, format="dense"), fastfc.PackedWeight)
    assert isinstance(fastfc.pack(w, format="auto"), fastfc.PackedSparse)
    assert isinstance(fastfc.pack(np.ones_like(w), format="auto"), fastfc.PackedWeight)
    assert isinstance(fastfc.pack(np.ones_like(w), format="tiled"), fastfc.PackedSparse)
    assert np.array_equal(fastfc.pack(sp.csr_array(w), format="dense").unpack(), w)
    assert np.array_equal(to_dense(fastfc.pack(w.T[::-1], format="tiled")), w.T[::-1])
    assert fastfc.pack(np.where(w == 0, np.nan, dtype(0)), format="tiled").nnz == (w == 0).sum()


def test_attributes_and_copies(dtype, rng):
    w = pruned(rng, (50, 60), dtype, 0.2)
    packed = fastfc.pack(sp.csr_array(w))
    assert (packed.shape, packed.dtype, packed.ndim, packed.format) == ((50, 60), np.dtype(dtype), 2, "tiled")
    assert packed.nnz == np.count_nonzero(w)
    assert packed.nnz * (packed.dtype.itemsize + 1) <= packed.nbytes < w.nbytes
    assert "tiles of 176" in packed.explain()
    x = gaussian(rng, (3, 60), dtype)
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert repr(twin) == repr(packed)
        assert_same_bits(fastfc.linear(x, twin), fastfc.linear(x, packed))
    with pytest.raises(TypeError, match=r"made by fastfc\.pack"):
        fastfc.PackedSparse()


@pytest.mark.parametrize("error, text, weight, format", [
    (ValueError, "format must be one of 'auto', 'dense', 'tiled', .*, got 'csr'", np.ones((2, 2)), "csr"),
    (TypeError, "format must be a string, got int", np.ones((2, 2)), 3),
    (TypeError, "weight must be float32 or float64", np.ones((2, 2), int), "tiled"),
    (ValueError, "weight must be 2-D", np.ones(2), "tiled"),
    (TypeError, "in lil format", sp.lil_array((2, 2)), None),
    (TypeError, "float32 or float64", sp.coo_array(np.ones((2, 2), int)), None),
    (TypeError, "float32 or float64", sp.csr_array(np.ones((2, 2), np.int8)), "auto"),
])  # fmt: skip
def test_mistakes_are_named(error, text, weight, format):
    with pytest.raises(error, match=text):
        fastfc.pack(weight, format=format)


def test_malformed_structures_are_refused():
    def broken(kind, **parts):
        matrix = kind(np.eye(4, dtype=np.float32))
        for name, value in parts.items():
            setattr(matrix, name, np.array(value, np.int32))
        return matrix

    for kind in (sp.csr_matrix, sp.csc_matrix, lambda a: sp.bsr_matrix(a, blocksize=(1, 1))):
        for parts in ({"indices": [0, 1, 2, 4]}, {"indices": [0, 1, -1, 3]}, {"indptr": [0, 2, 1, 3, 4]},
                      {"indptr": [0, 1, 2, 3, 5]}, {"indptr": [1, 1, 2, 3, 4]}, {"indptr": [0, 1, 2]}):  # fmt: skip
            with pytest.raises(ValueError, match=r"indices|indptr"):
                fastfc.pack(broken(kind, **parts))
    for row in ([0, 1, 2, 4], [0, 1, 2, -1]):
        matrix = sp.coo_matrix(np.eye(4, dtype=np.float32))
        matrix.coords = (np.array(row), matrix.col)
        with pytest.raises(ValueError, match="out of range for 4"):
            fastfc.pack(matrix)


def test_wrong_uses_are_named(rng):
    packed = fastfc.pack(pruned(rng, (5, 6), np.float32, 0.5), format="tiled")
    x = np.ones((2, 6), np.float32)
    with pytest.raises(ValueError, match="weight expects 6"):
        fastfc.linear(np.ones((2, 7), np.float32), packed)
    with pytest.raises(TypeError, match="mixed dtypes"):
        fastfc.linear(np.ones((2, 6)), packed)
    with pytest.raises(TypeError, match="both sparse"):
        fastfc.linear(sp.csr_array(x), packed)
    with pytest.raises(TypeError, match="weight is packed"):
        fastfc.linear_backward(np.ones((2, 5), np.float32), x, packed)


# ---- Training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [0, 1, 15, 16, 64, 191, 192, 193, 400])
def test_gradients_of_a_layer(isa, dtype, rng, m):
    csr = random_csr(rng, (70, 150), dtype, 0.3, repeats=True)
    layer = fastfc.SparseLinear.from_csr(fastfc.CSR(*csr), gaussian(rng, 70, dtype))
    w, magnitude = reference.dense(csr), reference.absolute(csr)
    x, grad = gaussian(rng, (m, 150), dtype), gaussian(rng, (m, 70), dtype)
    _, backward = layer.vjp(x)
    gx = backward(grad)
    g, a = reference.wide(grad), reference.wide(x)
    assert_close(gx, g @ w, reference.bound(150, np.abs(g) @ magnitude, dtype))
    bound = reference.stored(csr, reference.bound(m + 1, np.abs(g).T @ np.abs(a), dtype))
    assert_close(layer.weight.grad, reference.stored(csr, g.T @ a), bound)
    first = layer.weight.grad.copy()
    layer.vjp(x)[1](grad)  # adds to what stands there
    assert_same_bits(layer.weight.grad, first + first)


@pytest.mark.parametrize("m", [1, 17, 200])
@pytest.mark.parametrize("counts", [
    [1] * 8 + [5] * 7 + [4],  # padding, then entries 0, 1, 2: numbers that go on from it, unsigned
    [9, 8, 8, 7, 7, 7, 6, 6] * 3 + [3, 2, 1, 0],
    list(range(40)),
], ids=str)
def test_gradients_of_rows_of_all_lengths(isa, dtype, rng, counts, m):
    k = 300 if max(counts) < 10 else 60
    indices = np.concatenate([np.sort(rng.permutation(k)[:count]) for count in counts])
    csr = fastfc.CSR(integers(rng, len(indices), dtype), indices, np.append(0, np.cumsum(counts)), (len(counts), k))
    layer = fastfc.SparseLinear.from_csr(csr)
    x, grad = integers(rng, (m, k), dtype), integers(rng, (m, len(counts)), dtype)
    layer.vjp(x)[1](grad)
    assert_same_bits(layer.weight.grad, (grad.T @ x)[np.repeat(np.arange(len(counts)), counts), indices])


def test_finite_differences(rng):
    layer = fastfc.SparseLinear(9, 7, sparsity=0.6, dtype=np.float64, rng=0)
    x, seed = gaussian(rng, (5, 9), np.float64), gaussian(rng, (5, 7), np.float64)
    _, backward = layer.vjp(x)
    gx = backward(seed)

    def loss():
        return float((layer(x) * seed).sum())

    assert_close(gx, numeric_gradient(loss, x), np.full(x.shape, 1e-6))
    values = layer.weight.data
    assert_close(layer.weight.grad, numeric_gradient(loss, values), np.full(values.shape, 1e-6))


def test_values_change_in_place(dtype, rng):
    layer = fastfc.SparseLinear(300, 200, sparsity=0.8, dtype=dtype, rng=0)
    x, grad = gaussian(rng, (20, 300), dtype), gaussian(rng, (20, 200), dtype)
    for _ in range(3):
        fresh = fastfc.SparseLinear.from_csr(layer._matrix(), layer.bias.data)
        y, backward = layer.vjp(x)
        expected, fresh_backward = fresh.vjp(x)
        assert_same_bits(y, expected)
        assert_same_bits(backward(grad), fresh_backward(grad))
        layer.weight.data *= dtype(1.5)
        layer.weight.data[3] = np.nan
    assert np.isnan(layer(x)).any()


def test_eval_and_train_give_the_same_bits(dtype, rng):
    layer = fastfc.SparseLinear(300, 200, sparsity=0.8, dtype=dtype, rng=0)
    x, grad = gaussian(rng, (20, 300), dtype), gaussian(rng, (20, 200), dtype)
    y, gx = layer(x), layer.vjp(x)[1](grad)
    layer.eval()
    assert_same_bits(layer(x), y)
    assert_same_bits(layer.vjp(x)[1](grad), gx)
    layer.weight.data = np.zeros_like(layer.weight.data)
    assert not (layer(x) - layer.bias.data).any()
    layer.train()
    layer.weight.data[:] = 1
    assert not np.array_equal(layer(x), y)


def test_training_is_deterministic(rng, dtype):
    x, grad = gaussian(rng, (300, 500), dtype), gaussian(rng, (300, 400), dtype)
    results = []
    for threads in (1, 2, 3):
        layer = fastfc.SparseLinear(500, 400, sparsity=0.9, dtype=dtype, rng=0)
        with fastfc.num_threads(threads):
            y, backward = layer.vjp(x)
            results.append((y, backward(grad), layer.weight.grad, layer.bias.grad))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_same_bits(a, b)
