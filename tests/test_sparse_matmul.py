"""sparse_matmul: both orders, CSR and CSC, against dense products and its order of summation; and mistakes."""

import warnings

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from layouts import INPUTS
from reference import assert_close, assert_same_bits
from samples import FMA_ISAS, gaussian, integers, random_csr

import fastfc

scipy_sparse = pytest.importorskip("scipy.sparse")


def scipy_of(csr, kind=scipy_sparse.csr_array):
    """scipy's, its structure as given: neither sorted nor summed."""
    data, indices, indptr, shape = csr
    nnz = indptr[-1]
    return kind((data[:nnz], indices[:nnz], indptr), shape=shape)


def as_csc(csr):
    """The transpose of a CSR as scipy's CSC: the same three arrays."""
    return scipy_of((*csr[:3], csr[3][::-1]), scipy_sparse.csc_array)


def parts_of(entries, cols):
    """As src_c/fastfc.h states it."""
    if entries < 65536:
        return 1
    return 8 if entries >= 256 * cols else 4 if entries >= 64 * cols else 2 if entries >= 16 * cols else 1


def chains(csr, dense):
    """csrᵀ @ dense in the stated order: one chain of FMAs a column and part. Long double holds the products of float32
    exactly, so that rounding each step is an FMA."""
    data, indices, indptr, (rows, cols) = csr
    nnz, dtype = int(indptr[-1]), data.dtype
    parts, row = parts_of(nnz, cols), np.repeat(np.arange(rows), np.diff(indptr))
    sums = []
    for part in range(parts):
        out = np.zeros((cols, dense.shape[1]), dtype)
        for e in range(nnz * part // parts, nnz * (part + 1) // parts):
            c = indices[e]
            out[c] = (np.longdouble(data[e]) * dense[row[e]].astype(np.longdouble) + out[c]).astype(dtype)
        sums.append(out)
    total = sums[0]
    for out in sums[1:]:
        total = total + out
    return total


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 36, 40, 63, 64, 65, 68, 100, 130])
def test_integers_at_all_widths(isa, dtype, rng, n, threads):
    """Widths around vectors and panels of every target, in the four products, for every kind of structure."""
    for options in ({}, {"repeats": True}, {"index": np.int64, "repeats": True, "capacity": 5}, {"density": 0.0},
                    {"density": 1.0}):
        csr = random_csr(rng, (23, 31), dtype, values=integers, **options)
        exact = reference.dense(csr).astype(np.int64)
        a, b = integers(rng, (31, n), dtype), integers(rng, (n, 23), dtype)
        for sparse in (fastfc.CSR(*csr), scipy_of(csr)):
            assert np.array_equal(fastfc.sparse_matmul(sparse, a, threads=threads), exact @ a.astype(np.int64))
            assert np.array_equal(fastfc.sparse_matmul(b, sparse, threads=threads), b.astype(np.int64) @ exact)
        csc = as_csc(csr)
        assert np.array_equal(fastfc.sparse_matmul(csc, b.T, threads=threads), exact.T @ b.T.astype(np.int64))
        assert np.array_equal(fastfc.sparse_matmul(a.T, csc, threads=threads), a.T.astype(np.int64) @ exact.T)


@pytest.mark.parametrize("layout", INPUTS)
@pytest.mark.parametrize("n", [1, 5, 24, 67])
def test_any_memory_of_the_dense_operand(dtype, rng, layout, n):
    change, csr = INPUTS[layout], random_csr(rng, (40, 30), dtype, repeats=True)
    sparse = fastfc.CSR(*csr)
    a, b = gaussian(rng, (30, n), dtype), gaussian(rng, (n, 40), dtype)
    assert_same_bits(fastfc.sparse_matmul(sparse, change(a)), fastfc.sparse_matmul(sparse, a))
    assert_same_bits(fastfc.sparse_matmul(change(b), sparse), fastfc.sparse_matmul(b, sparse))
    assert_same_bits(fastfc.sparse_matmul(sparse, change(a[:, 0])), fastfc.sparse_matmul(sparse, a)[:, 0])
    assert_same_bits(fastfc.sparse_matmul(change(b[0]), sparse), fastfc.sparse_matmul(b, sparse)[0])
    assert_close(fastfc.sparse_matmul(sparse, a), reference.dense(csr) @ reference.wide(a),
                 reference.bound(60, reference.absolute(csr) @ np.abs(reference.wide(a)), dtype))
    assert_close(fastfc.sparse_matmul(b, sparse), reference.wide(b) @ reference.dense(csr),
                 reference.bound(60, np.abs(reference.wide(b)) @ reference.absolute(csr), dtype))


def test_order_of_csr_times_dense_is_that_of_a_layer(fma_isa, dtype, rng, canonical):
    csr = random_csr(rng, (70, 300), dtype, 0.9, repeats=True)
    for n in (1, 2, 9, 33, 70):
        dense = gaussian(rng, (300, n), dtype)
        expected = canonical.linear_csr_x(csr, dense.T)[0]
        for threads in (1, 2):
            assert_same_bits(fastfc.sparse_matmul(fastfc.CSR(*csr), dense, threads=threads), expected)
            assert_same_bits(fastfc.sparse_matmul(dense.T, as_csc(csr), threads=threads), expected.T.copy())


@pytest.mark.parametrize("n", [20, 33, 64, 100, 256, 257, 300, 530])
@pytest.mark.parametrize("isas, values", [(FMA_ISAS, gaussian), (["baseline"], integers)], ids=["fma", "baseline"])
def test_a_dense_operand_beyond_the_caches(in_turn, dtype, rng, n, isas, values, canonical):
    """Its rows are fetched ahead, many vectors of each at once: on a line and off it, side by side and apart."""
    size = np.dtype(dtype).itemsize
    for megabytes, per in (4, 9), (40, 700):  # from L3, and from memory
        inner = (megabytes << 20) // (n * size)
        lengths = np.full(inner // per + 30, per)
        lengths[:9] = 0, 1, 2, 191, 192, 193, 384, 385, 600
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        indices = rng.integers(0, inner, indptr[-1])
        csr = values(rng, indptr[-1], dtype), indices, indptr, (len(lengths), inner)
        sparse, dense = fastfc.CSR(*csr), values(rng, (inner, n), dtype)
        expected = canonical.linear_csr_x(csr, dense.T)[0]
        for _ in in_turn(isas):
            assert_same_bits(fastfc.linear(sparse, fastfc.pack(dense.T), threads=2), expected)
        results = []  # kept: the next must not find them where it forgets to write
        memory = np.empty(inner * (n + 48) + 64, dtype)
        memory = memory[-memory.ctypes.data % 64 // size :]
        for step in (n, n + -n % 16, n + -n % 16 + 17):
            for start in (0, 1, 4):
                strides = step * size, size
                laid = np.lib.stride_tricks.as_strided(memory[start:], (inner, n), strides)
                laid[...] = dense
                for _ in in_turn(isas):
                    results.append(fastfc.sparse_matmul(sparse, laid, threads=2))
                    assert_same_bits(results[-1], expected)


@pytest.mark.parametrize("rows, cols, per", [(40, 30, 3), (4000, 900, 17), (700, 900, 93), (300, 200, 230)])
def test_order_of_the_transpose(fma_isa, rng, rows, cols, per):
    """1, 2, 4 and 8 parts; float32, whose products long double holds exactly."""
    indptr = np.arange(rows + 1) * per
    csr = gaussian(rng, rows * per, np.float32), rng.integers(0, cols, rows * per), indptr, (rows, cols)
    dense = gaussian(rng, (rows, 3), np.float32)
    expected = chains(csr, dense)
    for n in (1, 3):
        for threads in (1, 2):
            got = fastfc.sparse_matmul(dense[:, :n].T, fastfc.CSR(*csr), threads=threads)
            assert_same_bits(got.T.copy(), expected[:, :n].copy())
    wide = np.tile(dense, (1, 14))
    assert_same_bits(fastfc.sparse_matmul(wide.T, fastfc.CSR(*csr)).T.copy(), np.tile(expected, (1, 14)))


@pytest.mark.parametrize("n", [1, 3, 20, 67])
def test_long_rows_are_cut_and_the_bits_stay(isa, dtype, rng, n):
    """Power laws: single rows with most of the entries, next to each other and at the ends."""
    for lengths in ([60_000, 3, 0, 50], [0, 5, 30_001, 30_000, 7], [2, 1, 90_000], [3072, 3073, 50_000, 0]):
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        csr = gaussian(rng, indptr[-1], dtype), rng.integers(0, 500, indptr[-1]), indptr, (len(lengths), 500)
        sparse, dense = fastfc.CSR(*csr), gaussian(rng, (500, n), dtype)
        one = fastfc.sparse_matmul(sparse, dense, threads=1)
        for threads in (2, 3, 8):
            assert_same_bits(fastfc.sparse_matmul(sparse, dense, threads=threads), one)
            assert_same_bits(fastfc.linear(sparse, dense.T, threads=threads), one)
        bias = gaussian(rng, n, dtype)
        one = fastfc.linear(sparse, dense.T, bias, threads=1)
        assert_same_bits(fastfc.linear(sparse, dense.T, bias, threads=2), one)
        other = gaussian(rng, (n, len(lengths)), dtype)
        one, two = (fastfc.sparse_matmul(other, sparse, threads=threads) for threads in (1, 2))
        assert_same_bits(two.copy(), one.copy())


def test_a_column_is_the_same_in_any_company(isa, dtype, rng):
    csr = random_csr(rng, (90, 80), dtype, 0.5)
    a, b = gaussian(rng, (80, 150), dtype), gaussian(rng, (150, 90), dtype)
    sparse = fastfc.CSR(*csr)
    whole, across = fastfc.sparse_matmul(sparse, a), fastfc.sparse_matmul(b, sparse)
    for columns in (slice(0, 1), slice(3, 8), slice(5, 38), slice(77, 150), slice(149, 150)):
        assert_same_bits(fastfc.sparse_matmul(sparse, a[:, columns]), whole[:, columns].copy())
        assert_same_bits(fastfc.sparse_matmul(b[columns], sparse).copy(), across[columns].copy())


def test_as_scipy_has_it(dtype, rng):
    csr = random_csr(rng, (20, 30), dtype, repeats=True)
    for kind in (scipy_sparse.csr_array, scipy_sparse.csr_matrix, scipy_sparse.csc_array, scipy_sparse.csc_matrix):
        theirs = kind(scipy_of(csr))
        for dense in (gaussian(rng, (30, 5), dtype), gaussian(rng, 30, dtype), gaussian(rng, (30, 0), dtype)):
            ours, expected = fastfc.sparse_matmul(theirs, dense), theirs @ dense
            assert ours.shape == expected.shape and ours.dtype == dtype and type(ours) is np.ndarray
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
        for dense in (gaussian(rng, (5, 20), dtype), gaussian(rng, 20, dtype), gaussian(rng, (0, 20), dtype)):
            ours, expected = fastfc.sparse_matmul(dense, theirs), dense @ theirs
            assert ours.shape == expected.shape and ours.flags.f_contiguous
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows, cols, n", [(0, 0, 0), (0, 5, 3), (5, 0, 3), (5, 4, 0), (0, 0, 3), (1, 1, 1)])
def test_empty(isa, dtype, rows, cols, n):
    sparse = fastfc.CSR(np.zeros(0, dtype), [], np.zeros(rows + 1, int), (rows, cols))
    assert_same_bits(fastfc.sparse_matmul(sparse, np.ones((cols, n), dtype)), np.zeros((rows, n), dtype))
    assert_same_bits(fastfc.sparse_matmul(np.ones((n, rows), dtype), sparse).copy(), np.zeros((n, cols), dtype))
    csc = scipy_sparse.csc_array((rows, cols), dtype=dtype)
    assert_same_bits(fastfc.sparse_matmul(csc, np.ones((cols, n), dtype)), np.zeros((rows, n), dtype))


def test_only_stored_entries_are_multiplied(isa, dtype):
    sparse = fastfc.CSR(np.array([0, 2], dtype), [1, 2], [0, 1, 2], (2, 3))
    dense = np.array([[np.nan], [np.inf], [3]], dtype)
    assert_same_bits(fastfc.sparse_matmul(sparse, dense), np.array([[np.nan], [6]], dtype))
    across = fastfc.sparse_matmul(np.array([[np.inf, 1]], dtype), sparse)
    assert_same_bits(across.copy(), np.array([[0, np.nan, 2]], dtype))


# -- mistakes ----------------------------------------------------------------------------------------------------------


def crafted(data, indices, indptr, shape, kind=scipy_sparse.csr_array):
    """scipy's object with arrays that its constructor would refuse."""
    made = kind(shape, dtype=np.asarray(data).dtype)
    made.data, made.indices, made.indptr = np.asarray(data), np.asarray(indices), np.asarray(indptr)
    return made


ONES = np.ones((3, 2), np.float32)


@pytest.mark.parametrize("kind", [scipy_sparse.csr_array, scipy_sparse.csc_array])
@pytest.mark.parametrize("wide", [1, 2, 40])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_a_malformed_structure_is_refused(kind, wide, index):
    one = np.ones(2, np.float32)
    for indices, indptr, text in (
            ([0, 3], [0, 1, 1, 2], r"indices\[1\] is 3, out of range for 3 columns"),
            ([-1, 0], [0, 1, 1, 2], r"indices\[0\] is -1, out of range"),
            ([0, 2**31 - 1], [0, 1, 1, 2], r"indices\[1\] is 2147483647, out of range"),
            ([-2**31, 0], [0, 1, 1, 2], r"indices\[0\] is -2147483648, out of range"),
            ([0, 1], [1, 1, 1, 2], "indptr starts at 1, expected 0"),
            ([0, 1], [0, 2, 1, 2], "indptr falls from 2 to 1 at row 1"),
            ([0, 1], [0, 1, 2, 3], r"indptr\[3\] is 3, beyond the 2 stored entries"),
            ([0, 1], [0, 1, 2], "indptr has length 3, expected rows . 1 = 4"),
            ([0, 1, 2], [0, 1, 1, 2], "indices has length 3, .*data has 2")):
        bad = crafted(one, np.array(indices, index), np.array(indptr, index), (3, 3), kind)
        with pytest.raises(ValueError, match=text):
            fastfc.sparse_matmul(bad, np.ones((3, wide), np.float32))
        with pytest.raises(ValueError, match=text):
            fastfc.sparse_matmul(np.ones((wide, 3), np.float32), bad)
    many = np.zeros(50_000, index)
    many[33_333] = 3
    long = crafted(np.ones(50_000, np.float32), many, np.array([0, 50_000, 50_000, 50_000], index), (3, 3), kind)
    for threads in (1, 2):  # in a row that is cut, too
        with pytest.raises(ValueError, match=r"indices\[33333\] is 3"):
            fastfc.sparse_matmul(long, np.ones((3, wide), np.float32), threads=threads)
        with pytest.raises(ValueError, match=r"indices\[33333\] is 3"):
            fastfc.sparse_matmul(np.ones((wide, 3), np.float32), long, threads=threads)


@pytest.mark.parametrize("a, b, error, text", [
    (ONES, ONES, TypeError, "one of a and b must be sparse and the other dense, got ndarray and ndarray"),
    (scipy_sparse.csr_array(ONES), scipy_sparse.csr_array(ONES.T), TypeError, "got csr_array and csr_array"),
    (scipy_sparse.coo_array(ONES), ONES.T, TypeError, "a is a sparse matrix in coo format; convert it with .tocsr()"),
    (ONES.T, scipy_sparse.bsr_array(ONES), TypeError, "b is a sparse matrix in bsr format"),
    (scipy_sparse.csr_array(ONES), ONES, ValueError, r"shapes \(3, 2\) of a and \(3, 2\) of b do not fit"),
    (ONES, scipy_sparse.csr_array(ONES), ValueError, r"shapes \(3, 2\) of a and \(3, 2\) of b do not fit"),
    (scipy_sparse.csr_array(ONES), np.ones(3, np.float32), ValueError, "do not fit"),
    (scipy_sparse.csr_array(ONES), np.ones((2, 3)), TypeError, "b is float64, a is float32; mixed dtypes"),
    (scipy_sparse.csr_array(ONES), ONES.T.astype(int), TypeError, "b must be float32 or float64"),
    (scipy_sparse.csr_array(ONES.astype(int)), ONES.T, TypeError, "b is float32, a is int"),
    (scipy_sparse.csr_array(ONES), np.ones((2, 1, 1), np.float32), ValueError, "b must have one axis or two"),
    (scipy_sparse.csr_array(ONES), np.float32(1), TypeError, "b must be a numpy array"),
    (scipy_sparse.csr_array(ONES), [[1, 2]], TypeError, "b must be a numpy array, got list"),
])
def test_mistakes_are_named(a, b, error, text):
    with pytest.raises(error, match=text):
        fastfc.sparse_matmul(a, b)


def test_threads_is_checked():
    with pytest.raises(ValueError, match="threads must be at least 1"):
        fastfc.sparse_matmul(scipy_sparse.csr_array(ONES), ONES.T, threads=0)


@given(rows=st.integers(0, 70), cols=st.integers(0, 50), n=st.integers(0, 70), density=st.sampled_from([0.0, 0.1, 0.7]),
       repeats=st.booleans(), index=st.sampled_from([np.int32, np.int64]), csc=st.booleans(),
       memory=st.sampled_from(sorted(INPUTS)), threads=st.sampled_from([1, 2, 5]), seed=st.integers(0, 2**32 - 1))
def test_any_product(rows, cols, n, density, repeats, index, csc, memory, threads, seed):
    rng = np.random.default_rng(seed)
    csr = random_csr(rng, (rows, cols), np.float64, density, index=index, repeats=repeats, values=integers)
    exact, sparse = reference.dense(csr).astype(np.int64), as_csc(csr) if csc else fastfc.CSR(*csr)
    exact = exact.T if csc else exact
    a, b = integers(rng, (exact.shape[1], n), np.float64), integers(rng, (n, exact.shape[0]), np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(fastfc.sparse_matmul(sparse, INPUTS[memory](a), threads=threads), exact @ a.astype(int))
        assert np.array_equal(fastfc.sparse_matmul(INPUTS[memory](b), sparse, threads=threads), b.astype(int) @ exact)


@pytest.mark.parametrize("columns", [0, 3])
@pytest.mark.parametrize("left", [True, False])
def test_a_structure_that_lies_is_refused_beside_an_empty_operand_too(left, columns):
    wrong = scipy_sparse.csr_array(ONES.copy())
    wrong.indices[-1] = 7
    dense = np.ones((wrong.shape[1], columns) if left else (columns, wrong.shape[0]), np.float32)
    with pytest.raises(ValueError, match=r"indices\[\d+\] is 7"):
        fastfc.sparse_matmul(wrong, dense) if left else fastfc.sparse_matmul(dense, wrong)
