"""Sparse operands as anybody may hand them over: a clear error or the right answer. tests/c/fuzz_sparse.c is the long
run."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from samples import integers, random_csr

import fastfc

scipy_sparse = pytest.importorskip("scipy.sparse")


def entry_points(sparse, dense):
    """Everything that takes a CSR: a name and a call each. dense: (rows, cols) of small integers."""
    rows, cols = dense.shape
    x, g = np.ones((3, cols), dense.dtype), np.ones((3, rows), dense.dtype)
    w, gx = np.ones((2, cols), dense.dtype), np.ones((rows, 2), dense.dtype)
    yield lambda: fastfc.linear(x, sparse), x @ dense.T
    yield lambda: fastfc.linear(sparse, w), dense @ w.T
    yield lambda: fastfc.linear_backward(g, x, sparse)[0], g @ dense
    yield lambda: fastfc.linear_backward(gx, sparse, w)[1], gx.T @ dense
    yield lambda: fastfc.sparse_matmul(sparse, x.T), dense @ x.T
    yield lambda: fastfc.sparse_matmul(g, sparse), g @ dense
    yield lambda: fastfc.SparseLinear.from_csr(sparse).to_dense(), dense


CORRUPTIONS = {
    "index too large": lambda rng, d, i, p, s: (d, put(rng, i, s[1] + rng.integers(0, 2**20)), p, s),
    "index negative": lambda rng, d, i, p, s: (d, put(rng, i, -1 - rng.integers(0, 2**20)), p, s),
    "start": lambda rng, d, i, p, s: (d, i, np.r_[1, p[1:]].astype(p.dtype), s),
    "falls": lambda rng, d, i, p, s: (d, i, put(rng, p, -5), s),
    "overruns": lambda rng, d, i, p, s: (d, i, np.r_[p[:-1], len(i) + 1].astype(p.dtype), s),
    "indptr short": lambda rng, d, i, p, s: (d, i, p[:-1], s),
    "indptr long": lambda rng, d, i, p, s: (d, i, np.r_[p, p[-1:]], s),
    "data short": lambda rng, d, i, p, s: (d[:-1], i, p, s),
    "indices short": lambda rng, d, i, p, s: (d, i[:-1], p, s),
    "float indices": lambda rng, d, i, p, s: (d, i.astype(float), p, s),
    "2-D indptr": lambda rng, d, i, p, s: (d, i, p[None], s),
    "half data": lambda rng, d, i, p, s: (d.astype(np.float16), i, p, s),
    "swapped data": lambda rng, d, i, p, s: (d.astype(d.dtype.newbyteorder()), i, p, s),
    "beyond int32": lambda rng, d, i, p, s: (d, put(rng, i.astype(np.int64), 2**32 + 1), p, s),
    "beyond int64": lambda rng, d, i, p, s: (d, put(rng, i.astype(np.uint64), 2**63 + 5), p, s),
    "nothing": lambda rng, d, i, p, s: (d, i, p, s),
    "unsigned": lambda rng, d, i, p, s: (d, i.astype(np.uint32), p.astype(np.uint16), s),
}


def put(rng, array, value):
    array = array.copy()
    array[rng.integers(0, len(array))] = value
    return array


class Crafted:
    """What looks like scipy's CSR and was checked by nobody."""

    format = "csr"

    def __init__(self, data, indices, indptr, shape):
        self.data, self.indices, self.indptr, self.shape = data, indices, indptr, shape
        self.dtype, self.ndim = data.dtype, 2

    def tocsr(self):
        return self


@given(corruption=st.sampled_from(sorted(CORRUPTIONS)), rows=st.integers(1, 12), cols=st.integers(1, 9),
       dtype=st.sampled_from([np.float32, np.float64]), index=st.sampled_from([np.int32, np.int64]),
       repeats=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_a_clear_error_or_the_right_answer(corruption, rows, cols, dtype, index, repeats, seed):
    rng = np.random.default_rng(seed)
    parts = random_csr(rng, (rows, cols), dtype, 0.6, index=index, repeats=repeats, values=integers)
    dense = reference.dense(parts).astype(dtype)
    if not len(parts[1]) and corruption not in ("nothing", "start", "falls", "indptr short"):
        return
    parts = CORRUPTIONS[corruption](rng, *parts)
    if corruption in ("nothing", "unsigned"):
        assert np.array_equal(fastfc.sparse_matmul(fastfc.CSR(*parts), np.ones(cols, dtype)), dense.sum(axis=1))
    else:
        with pytest.raises((ValueError, TypeError), match=r"CSR\(\): "):
            fastfc.CSR(*parts)
    for call, expected in entry_points(Crafted(*parts), dense):
        if corruption in ("nothing", "unsigned"):
            assert np.array_equal(call(), expected)
        else:
            with pytest.raises((ValueError, TypeError)):
                call()


@pytest.mark.parametrize("kind", ["csc", "coo", "bsr", "lil", "dok", "dia"])
def test_other_formats_are_named(kind):
    matrix = scipy_sparse.csr_array(np.eye(4, dtype=np.float32)).asformat(kind)
    x = np.ones((2, 4), np.float32)
    for call in (lambda: fastfc.linear(x, matrix), lambda: fastfc.linear(matrix, x),
                 lambda: fastfc.linear_backward(x, x, matrix), lambda: fastfc.SparseLinear.from_csr(matrix)):
        with pytest.raises(TypeError, match=kind):
            call()
    if kind == "csc":
        assert np.array_equal(fastfc.sparse_matmul(x, matrix), x)
    else:
        with pytest.raises(TypeError, match=rf"in {kind} format; convert it with .tocsr\(\)"):
            fastfc.sparse_matmul(x, matrix)


def test_empty_rows_columns_duplicates_and_zeros():
    data, indices = np.array([1, 2, 0, 4], np.float32), [3, 3, 1, 3]
    csr = fastfc.CSR(data, indices, [0, 0, 3, 3, 4], (4, 6))
    dense = np.zeros((4, 6), np.float32)
    dense[1, 3], dense[3, 3] = 3, 4
    for call, expected in entry_points(csr, dense):
        assert np.array_equal(call(), expected)
    bag = fastfc.EmbeddingBag(6, 2, mode="sum", rng=0)
    np.testing.assert_allclose(bag(csr), dense @ bag.weight.data, rtol=1e-6)
