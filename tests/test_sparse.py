"""CSR operands, forward and backward, as a weight and as x: structure, sizes, memory, and what a stored entry means."""

import copy
import pickle

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from layouts import INPUTS, OUTPUTS, output
from reference import assert_close, assert_same_bits
from samples import gaussian, integers, random_csr, wild
from test_backward import numeric_gradient

import fastfc

scipy_sparse = pytest.importorskip("scipy.sparse")


def structures(rng, shape, dtype, values=gaussian):
    """Every kind of CSR: plain; unsorted with repeats; 64-bit; with unused places at the end; empty; full."""
    yield random_csr(rng, shape, dtype, values=values)
    yield random_csr(rng, shape, dtype, repeats=True, values=values)
    yield random_csr(rng, shape, dtype, index=np.int64, repeats=True, values=values)
    yield random_csr(rng, shape, dtype, index=np.int64, capacity=5, values=values)
    yield random_csr(rng, shape, dtype, capacity=3, values=values)
    yield random_csr(rng, shape, dtype, 0.0, values=values)
    yield random_csr(rng, shape, dtype, 1.0, values=values)


def as_operand(csr):
    return fastfc.CSR(*csr)


# ---- Sizes ----------------------------------------------------------------------------------------------------------


def test_integers_at_all_widths(isa, dtype, edges, rng):
    """The batch (CSR weight), the outputs (CSR x) run along the lanes: their edges in both, forward and backward."""
    for csr in structures(rng, (23, 31), dtype, integers):
        exact = reference.dense(csr).astype(np.int64)
        sparse = as_operand(csr)
        weight, dense = integers(rng, (edges.n[-1], 31), dtype), integers(rng, (edges.n[-1], 31), dtype)
        grad = integers(rng, (edges.n[-1], 23), dtype)
        grad_t = np.ascontiguousarray(grad.T)
        for m in edges.n:
            g = grad[:m].astype(np.int64)
            assert np.array_equal(fastfc.linear(dense[:m], sparse), dense[:m].astype(np.int64) @ exact.T)
            gx, gw, gb = fastfc.linear_backward(grad[:m], dense[:m], sparse)
            assert np.array_equal(gx, g @ exact)
            assert np.array_equal(gw, reference.stored(csr, g.T @ dense[:m].astype(np.int64)))
            assert np.array_equal(gb, g.sum(0))
            n, w = m, weight[:m]
            for operand in (w, fastfc.pack(w)):
                assert np.array_equal(fastfc.linear(sparse, operand), exact @ w.astype(np.int64).T)
            gx, gw, gb = fastfc.linear_backward(grad_t[:, :n], sparse, w)
            assert gx is None
            assert np.array_equal(gw, grad_t[:, :n].T.astype(np.int64) @ exact)
            assert np.array_equal(gb, grad_t[:, :n].astype(np.int64).sum(0))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 63, 64, 65, 129])
def test_rows_of_all_lengths(isa, dtype, rng, rows, canonical):
    """Entries in a row around the numeric block (counted from the row's first), several rows at once in a kernel."""
    lengths = rng.choice([0, 1, 2, 191, 192, 193, 383, 384, 385, 600], rows)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    csr = gaussian(rng, indptr[-1], dtype), rng.integers(0, 50, indptr[-1]), indptr, (rows, 50)
    sparse, weight, magnitude = as_operand(csr), reference.dense(csr), reference.absolute(csr)
    for n in (1, 2, 5, 17, 40, 70, 130):
        x = gaussian(rng, (n, 50), dtype)
        y, across = fastfc.linear(x, sparse), fastfc.linear(sparse, x)
        if isa == "baseline":
            expected = reference.wide(x) @ weight.T
            tolerance = reference.bound(800, np.abs(reference.wide(x)) @ magnitude.T, dtype)
            assert_close(y, expected, tolerance)
            assert_close(across, expected.T, tolerance.T)
        else:
            assert_same_bits(y, canonical.linear_csr_weight(x, csr)[0])
            assert_same_bits(across, canonical.linear_csr_x(csr, x)[0])


@pytest.mark.parametrize("m", [1, 2, 3, 5, 16, 17, 33, 64, 65, 100, 128, 129, 200])
def test_gradient_of_x_in_blocks_of_each_column(isa, dtype, rng, m, threads, canonical):
    """Entries in a column around the numeric block: small batches add each where it belongs, larger ones sort first."""
    lengths = [0, 1, 2, 191, 192, 193, 383, 384, 385, 600]
    columns = rng.permutation(np.repeat(np.arange(10), lengths))
    rows = np.sort(rng.integers(0, 300, len(columns)))
    indptr = np.searchsorted(rows, np.arange(301))
    values = integers if isa == "baseline" else gaussian  # whose sums have no order
    csr = values(rng, len(columns), dtype), columns, indptr, (300, 10)
    grad, x = values(rng, (m, 300), dtype), values(rng, (m, 10), dtype)
    expected = canonical.backward_csr_weight(grad, x, csr)
    for g in (grad, np.asfortranarray(grad)):
        for got, want in zip(fastfc.linear_backward(g, x, as_operand(csr), threads=threads), expected, strict=True):
            assert_same_bits(got, want)
    across, weight = values(rng, (300, m), dtype), values(rng, (m, 10), dtype)
    want = canonical.backward_csr_x(across, csr)
    start = [np.ones_like(w) for w in want]
    out = (None, *start)
    added = fastfc.linear_backward(across, as_operand(csr), weight, out=out, accumulate=True, threads=threads)
    for got, w in zip(added[1:], want, strict=True):
        assert_same_bits(got, np.ones_like(w) + w)


def test_within_the_bound(isa, dtype, rng):
    for csr in structures(rng, (37, 300), dtype):
        w, magnitude, sparse = reference.dense(csr), reference.absolute(csr), as_operand(csr)
        for m in (1, 18, 200):
            x, bias, residual = gaussian(rng, (m, 300), dtype), gaussian(rng, 37, dtype), gaussian(rng, (m, 37), dtype)
            a = reference.wide(x)
            y, z = fastfc.linear(x, sparse, bias, residual=residual, activation="relu", return_preactivation=True)
            exact = a @ w.T + bias + residual
            tolerance = reference.bound(600, np.abs(a) @ magnitude.T, dtype, bias, residual)
            assert_close(z, exact, tolerance)
            assert_close(y, np.maximum(exact, 0), tolerance)
            grad = gaussian(rng, (m, 37), dtype)
            g = np.where(z > 0, reference.wide(grad), 0)
            gx, gw, gb = fastfc.linear_backward(grad, x, sparse, activation="relu", preactivation=z)
            assert_close(gx, g @ w, reference.bound(600, np.abs(g) @ magnitude, dtype))
            assert_close(
                gw,
                reference.stored(csr, g.T @ a),
                reference.stored(csr, reference.bound(m, np.abs(g).T @ np.abs(a), dtype)),
            )
            assert_close(gb, g.sum(0), reference.bound(m, np.abs(g).sum(0), dtype))


@pytest.mark.parametrize("m", [1, 15, 16, 17, 33, 191, 192, 193, 208, 384, 385, 577])
def test_stored_gradient_around_blocks_of_the_batch(isa, dtype, rng, m, threads, canonical):
    csr = random_csr(rng, (20, 30), dtype, repeats=True, capacity=2)
    grad, x = gaussian(rng, (m, 20), dtype), gaussian(rng, (m, 30), dtype)
    _, gw, _ = fastfc.linear_backward(grad, x, as_operand(csr), threads=threads)
    old = gaussian(rng, gw.shape, dtype)
    out = old.copy()
    fastfc.linear_backward(
        grad, x, as_operand(csr), threads=threads, needs=("weight",), out=(None, out, None), accumulate=True
    )
    stored = slice(0, csr[2][-1])
    assert_same_bits(out[stored], (gw + old)[stored])
    assert_same_bits(out[csr[2][-1] :], old[csr[2][-1] :])
    if isa == "baseline":
        product = reference.wide(grad).T @ reference.wide(x)
        magnitude = np.abs(reference.wide(grad)).T @ np.abs(reference.wide(x))
        assert_close(gw, reference.stored(csr, product), reference.stored(csr, reference.bound(m, magnitude, dtype)))
    else:
        assert_same_bits(gw, canonical.backward_csr_weight(grad, x, csr)[1])


def test_threads_share_uneven_rows(isa, dtype, rng, threads):
    """One row holds most of the entries; many are empty."""
    lengths = np.zeros(301, int)
    lengths[7], lengths[100:140], lengths[300] = 20000, 90, 3
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    csr = integers(rng, indptr[-1], dtype), rng.integers(0, 400, indptr[-1]), indptr, (301, 400)
    exact, sparse = reference.dense(csr).astype(np.int64), as_operand(csr)
    for m in (1, 30, 150, 300):
        x, grad = integers(rng, (m, 400), dtype), integers(rng, (m, 301), dtype)
        a, g = x.astype(np.int64), grad.astype(np.int64)
        bias = integers(rng, 301, dtype)
        assert np.array_equal(fastfc.linear(x, sparse, bias, threads=threads), a @ exact.T + bias.astype(np.int64))
        gx, gw, gb = fastfc.linear_backward(grad, x, sparse, threads=threads)
        assert np.array_equal(gx, g @ exact)
        assert np.array_equal(gw, reference.stored(csr, g.T @ a))
        w = x[:, :400]
        for operand in (w, fastfc.pack(w)):
            assert np.array_equal(fastfc.linear(sparse, operand, threads=threads), exact @ a.T)
        grad = integers(rng, (301, m), dtype)
        _, gw, gb = fastfc.linear_backward(grad, sparse, w, threads=threads)
        assert np.array_equal(gw, grad.T.astype(np.int64) @ exact)
        assert np.array_equal(gb, grad.astype(np.int64).sum(0))


@pytest.mark.parametrize("rows, cols, m", [(0, 0, 0), (0, 5, 3), (5, 0, 3), (5, 4, 0), (0, 0, 3), (1, 1, 1)])
def test_empty(isa, dtype, rows, cols, m):
    sparse = fastfc.CSR(np.zeros(0, dtype), [], np.zeros(rows + 1, int), (rows, cols))
    x, bias = np.ones((m, cols), dtype), np.full(rows, 2, dtype)
    assert_same_bits(fastfc.linear(x, sparse), np.zeros((m, rows), dtype))
    assert_same_bits(fastfc.linear(x, sparse, bias), np.full((m, rows), 2, dtype))
    gx, gw, gb = fastfc.linear_backward(np.ones((m, rows), dtype), x, sparse)
    assert_same_bits(gx, np.zeros((m, cols), dtype))
    assert gw.shape == (0,) and np.array_equal(gb, np.full(rows, m))
    weight = np.ones((m, cols), dtype)
    for w in (weight, fastfc.pack(weight)):
        assert_same_bits(fastfc.linear(sparse, w), np.zeros((rows, m), dtype))
    gx, gw, gb = fastfc.linear_backward(np.ones((rows, m), dtype), sparse, weight)
    assert gx is None
    assert_same_bits(gw, np.zeros((m, cols), dtype))
    assert np.array_equal(gb, np.full(m, rows))


def test_gradient_of_nothing_is_zero(isa, dtype):
    """A batch of 0: garbage in out is overwritten, what accumulates stays."""
    sparse = fastfc.CSR(np.ones(3, dtype), [0, 1, 1], [0, 2, 3], (2, 2))
    grad, x = np.ones((0, 2), dtype), np.ones((0, 2), dtype)
    out = np.full(3, np.nan, dtype)
    assert_same_bits(fastfc.linear_backward(grad, x, sparse, out=(None, out, None))[1], np.zeros(3, dtype))
    out = np.full(3, 4, dtype)
    fastfc.linear_backward(grad, x, sparse, out=(None, out, None), accumulate=True)
    assert_same_bits(out, np.full(3, 4, dtype))


# ---- What a stored entry means --------------------------------------------------------------------------------------


def test_only_stored_entries_are_multiplied(isa, dtype):
    """A NaN or Inf opposite nothing does not travel; opposite a stored zero it does."""
    weight = fastfc.CSR(np.array([0, 2], dtype), [1, 2], [0, 1, 2], (2, 3))
    x = np.array([[np.nan, 1, np.inf], [np.inf, np.inf, 3]], dtype)
    assert_same_bits(fastfc.linear(x, weight), np.array([[0, np.inf], [np.nan, 6]], dtype))
    dense = np.array([[np.nan, np.inf, 1], [np.inf, 1, np.nan]], dtype)
    for w in (dense, fastfc.pack(dense)):
        assert_same_bits(fastfc.linear(weight, w), np.array([[np.nan, 0], [2, np.nan]], dtype))


def test_as_scipy_means_them(dtype, rng):
    """Arrays and matrices of scipy.sparse, sorted or not, with repeats; the caller's object is not touched."""
    for csr in structures(rng, (20, 30), dtype):
        nnz = csr[2][-1]
        csr = csr[0][:nnz], csr[1][:nnz], *csr[2:]
        x = gaussian(rng, (7, 30), dtype)
        expected = fastfc.linear(x, as_operand(csr))
        for kind in (scipy_sparse.csr_array, scipy_sparse.csr_matrix):
            theirs = kind(csr[:3], shape=csr[3])
            before = [a.copy() for a in (theirs.data, theirs.indices, theirs.indptr)]
            assert_same_bits(fastfc.linear(x, theirs), expected)
            assert_same_bits(fastfc.linear(theirs, x), fastfc.linear(as_operand(csr), x))
            gw = fastfc.linear_backward(expected, x, theirs)[1]
            assert gw.shape == theirs.data.shape
            for a, b in zip(before, (theirs.data, theirs.indices, theirs.indptr), strict=True):
                assert np.array_equal(a, b)
            y = x.astype(np.float64) @ theirs.toarray().astype(np.float64).T
            np.testing.assert_allclose(expected, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_finite_differences_of_a_csr_weight(isa, rng, activation):
    data, *structure = random_csr(rng, (5, 6), np.float64, 0.5, repeats=True)
    x, bias, upstream = (gaussian(rng, s, np.float64) for s in ((7, 6), (5,), (7, 5)))
    weight = fastfc.CSR(data, *structure)
    assert weight.data is data

    def loss():
        return (fastfc.linear(x, weight, bias, activation=activation) * upstream).sum()

    _, z = fastfc.linear(x, weight, bias, return_preactivation=True)
    assert np.abs(z).min() > 1e-4, "a kink in the way: choose another seed"
    gradients = fastfc.linear_backward(upstream, x, weight, activation=activation, preactivation=z)
    for actual, variable in zip(gradients, (x, data, bias), strict=True):
        np.testing.assert_allclose(actual, numeric_gradient(loss, variable), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_finite_differences_with_a_csr_x(isa, rng, activation):
    x = fastfc.CSR(*random_csr(rng, (7, 6), np.float64, 0.5, repeats=True))
    weight, bias, upstream = (gaussian(rng, s, np.float64) for s in ((5, 6), (5,), (7, 5)))

    def loss():
        return (fastfc.linear(x, weight, bias, activation=activation) * upstream).sum()

    _, z = fastfc.linear(x, weight, bias, return_preactivation=True)
    assert np.abs(z).min() > 1e-4, "a kink in the way: choose another seed"
    gx, *gradients = fastfc.linear_backward(upstream, x, weight, activation=activation, preactivation=z)
    assert gx is None
    for actual, variable in zip(gradients, (weight, bias), strict=True):
        np.testing.assert_allclose(actual, numeric_gradient(loss, variable), rtol=1e-6, atol=1e-8)


# ---- Memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", INPUTS)
def test_any_memory_for_each_operand(isa, dtype, rng, layout):
    change = INPUTS[layout]
    csr = random_csr(rng, (21, 37), dtype, repeats=True)
    sparse = as_operand(csr)
    for m in (1, 26, 130):
        x, bias, residual, grad = (gaussian(rng, s, dtype) for s in ((m, 37), (21,), (m, 21), (m, 21)))
        expected = fastfc.linear(x, sparse, bias, residual=residual)
        parts = fastfc.CSR(change(csr[0]), change(csr[1]), change(csr[2]), csr[3])
        assert_same_bits(fastfc.linear(change(x), parts, change(bias), residual=change(residual)), expected)
        for one, other in zip(
            fastfc.linear_backward(change(grad), change(x), parts, activation="relu", preactivation=change(residual)),
            fastfc.linear_backward(grad, x, sparse, activation="relu", preactivation=residual),
            strict=True,
        ):
            assert_same_bits(one, other)
        weight, bias, residual, grad = (gaussian(rng, s, dtype) for s in ((m, 37), (m,), (21, m), (21, m)))
        expected = fastfc.linear(sparse, weight, bias, residual=residual)
        assert_same_bits(fastfc.linear(parts, change(weight), change(bias), residual=change(residual)), expected)
        assert_same_bits(fastfc.linear(parts, fastfc.pack(change(weight)), bias, residual=residual), expected)
        one = fastfc.linear_backward(
            change(grad), parts, change(weight), activation="relu", preactivation=change(residual)
        )
        other = fastfc.linear_backward(grad, sparse, weight, activation="relu", preactivation=residual)
        assert_same_bits(one[1], other[1])
        assert_same_bits(one[2], other[2])


@pytest.mark.parametrize("layout", OUTPUTS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_out_and_accumulate(isa, dtype, rng, layout, accumulate):
    csr = random_csr(rng, (21, 37), dtype, repeats=True, capacity=2)
    sparse, nnz = as_operand(csr), csr[2][-1]
    for m in (26, 400):
        x, grad, bias = (gaussian(rng, s, dtype) for s in ((m, 37), (m, 21), (21,)))
        expected = fastfc.linear(x, sparse, bias)
        out = output(layout, (m, 21), dtype)
        assert fastfc.linear(x, sparse, bias, out=out) is out
        assert_same_bits(np.array(out), expected)
        weight, wide_grad = gaussian(rng, (m, 37), dtype), gaussian(rng, (21, m), dtype)
        out = output(layout, (21, m), dtype)
        assert_same_bits(np.array(fastfc.linear(sparse, weight, out=out)), fastfc.linear(sparse, weight))
        for operands in ((grad, x, sparse), (wide_grad, sparse, weight)):
            fresh = fastfc.linear_backward(*operands)
            old = [None if g is None else gaussian(rng, g.shape, dtype) for g in fresh]
            out = [
                None if a is None else OUTPUTS[layout](a if accumulate and i else a * np.nan) for i, a in enumerate(old)
            ]
            result = fastfc.linear_backward(*operands, out=tuple(out), accumulate=accumulate)
            for i, (target, got) in enumerate(zip(out, result, strict=True)):
                assert got is target
                if target is None:
                    continue
                want = fresh[i] + old[i] if accumulate and i else fresh[i]
                if i == 1 and operands[2] is sparse:
                    target, want = target[:nnz], want[:nnz]
                assert_same_bits(np.array(target), want, i)


def test_leading_axes_with_a_csr_weight(dtype, rng):
    sparse = as_operand(random_csr(rng, (5, 6), dtype))
    for leading in ((), (1,), (0,), (2, 3), (2, 0, 3)):
        x, grad = gaussian(rng, (*leading, 6), dtype), gaussian(rng, (*leading, 5), dtype)
        rows = fastfc.linear(x.reshape(-1, 6), sparse)
        assert_same_bits(fastfc.linear(x, sparse), rows.reshape(*leading, 5))
        gx = fastfc.linear_backward(grad, x, sparse)[0]
        assert_same_bits(gx, fastfc.linear_backward(grad.reshape(-1, 5), x.reshape(-1, 6), sparse)[0].reshape(x.shape))


# ---- The class ------------------------------------------------------------------------------------------------------


def test_attributes(dtype):
    data = np.arange(4, dtype=dtype)
    sparse = fastfc.CSR(data, [0, 2, 1, 9], [0, 2, 3], (2, 3))
    assert sparse.shape == (2, 3) and sparse.nnz == 3 and sparse.dtype == dtype and sparse.ndim == 2
    assert sparse.data is data
    assert not sparse.indices.flags.writeable and not sparse.indptr.flags.writeable
    assert "CSR" in repr(sparse) and "nnz=3" in repr(sparse)


def test_structure_is_a_copy_and_values_are_not(dtype):
    data, indices, indptr = np.ones(2, dtype), np.array([0, 1], np.int32), np.array([0, 1, 2], np.int32)
    sparse = fastfc.CSR(data, indices, indptr, (2, 2))
    indices[:], indptr[:] = 10**6, -1
    data[0] = 7
    assert_same_bits(fastfc.linear(np.ones((1, 2), dtype), sparse), np.array([[7, 1]], dtype))
    with pytest.raises(ValueError):
        sparse.indices[0] = 5
    with pytest.raises(ValueError):
        sparse.indptr[0] = 5


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64, ">i4"])
def test_any_integers_as_structure(dtype, kind):
    sparse = fastfc.CSR(np.array([1, 2, 3], dtype), np.array([2, 0, 1], kind), np.array([0, 1, 3], np.int32), (2, 3))
    assert sparse.indices.dtype == sparse.indptr.dtype
    assert_same_bits(fastfc.linear(np.array([[1, 10, 100]], dtype), sparse), np.array([[100, 32]], dtype))


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_copies_and_pickles(dtype, rng, clone):
    csr = random_csr(rng, (9, 11), dtype, repeats=True, capacity=3)
    sparse = as_operand(csr)
    other = clone(sparse)
    assert type(other) is fastfc.CSR and other.shape == sparse.shape and other.nnz == sparse.nnz
    x = gaussian(rng, (4, 11), dtype)
    assert_same_bits(fastfc.linear(x, other), fastfc.linear(x, sparse))
    assert not other.indices.flags.writeable


# ---- Anything -------------------------------------------------------------------------------------------------------


@given(
    rows=st.integers(0, 80),
    cols=st.integers(0, 60),
    m=st.one_of(st.integers(0, 20), st.integers(190, 196)),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    index=st.sampled_from([np.int32, np.int64]),
    repeats=st.booleans(),
    capacity=st.sampled_from([0, 3]),
    memory=st.lists(st.sampled_from(sorted(INPUTS)), min_size=4, max_size=4),
    out=st.sampled_from([None, *sorted(OUTPUTS)]),
    relu=st.booleans(),
    threads=st.sampled_from([None, 1, 2]),
    special=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_call(
    canonical, rows, cols, m, density, dtype, index, repeats, capacity, memory, out, relu, threads, special, seed
):
    if fastfc.current_isa() == "baseline":
        return
    rng = np.random.default_rng(seed)
    values = (lambda *a: wild(*a, 0.02)) if special else gaussian
    csr = random_csr(rng, (rows, cols), dtype, density, index=index, repeats=repeats, values=values, capacity=capacity)
    sparse = as_operand(csr)
    change = [INPUTS[name] for name in memory]
    activation = "relu" if relu else None

    x, bias, residual, grad = (values(rng, s, dtype) for s in ((m, cols), (rows,), (m, rows), (m, rows)))
    target = None if out is None else output(out, (m, rows), dtype)
    got = fastfc.linear(
        change[0](x),
        sparse,
        change[1](bias),
        residual=change[2](residual),
        activation=activation,
        out=target,
        threads=threads,
    )
    y, z = canonical.linear_csr_weight(x, csr, bias, residual, activation)
    assert_same_bits(np.array(got), y)
    got = fastfc.linear_backward(
        change[3](grad),
        change[0](x),
        sparse,
        activation=activation,
        preactivation=change[2](z) if relu else None,
        threads=threads,
    )
    for one, other in zip(got, canonical.backward_csr_weight(grad, x, csr, z, activation), strict=True):
        assert_same_bits(one, other)

    weight, bias, residual, grad = (values(rng, s, dtype) for s in ((m, cols), (m,), (rows, m), (rows, m)))
    y, z = canonical.linear_csr_x(csr, weight, bias, residual, activation)
    for w in (change[0](weight), fastfc.pack(weight)):
        got = fastfc.linear(
            sparse, w, change[1](bias), residual=change[2](residual), activation=activation, threads=threads
        )
        assert_same_bits(got, y)
    got = fastfc.linear_backward(
        change[3](grad),
        sparse,
        weight,
        activation=activation,
        preactivation=change[2](z) if relu else None,
        threads=threads,
    )
    gw, gb = canonical.backward_csr_x(grad, csr, z, activation)
    assert_same_bits(got[1], gw)
    assert_same_bits(got[2], gb)
