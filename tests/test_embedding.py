"""Embedding and EmbeddingBag against the products with one-hot and multi-hot rows that they stand for."""

import copy
import pickle

import numpy as np
import pytest
from gradients import check_contract, check_gradients, numeric_gradient, state_of

import fastfc

RNG = np.random.default_rng(0)
X = np.array([[3, 1, 3, 0], [9, 9, 3, 4]])


def one_hot(x, rows, dtype=np.float64):
    return np.eye(rows, dtype=dtype)[x]


def multi_hot(x, offsets, rows, weights=None):
    dense = np.zeros((len(offsets), rows))
    for b, (start, stop) in enumerate(zip(offsets, [*offsets[1:], len(x)], strict=True)):
        for i in range(start, stop):
            dense[b, x[i]] += 1 if weights is None else weights[i]
    return dense


# -- Embedding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [X, X[0], X[0, 0], X.T, X.astype(np.uint8), X[:, :0], X.tolist(), X[::-1, ::2]])
def test_a_lookup_is_a_projection_of_one_hot_rows(x, dtype):
    table = fastfc.Embedding(10, 5, dtype=dtype, rng=0)
    y, backward = table.vjp(x)
    hot = one_hot(np.asarray(x, int), 10, dtype)
    np.testing.assert_array_equal(y, (hot @ table.weight.data).astype(dtype))
    np.testing.assert_array_equal(table(x), y)
    assert y.dtype == dtype and not np.shares_memory(y, table.weight.data)
    g = RNG.standard_normal(y.shape).astype(dtype)
    assert backward(g) is None
    expected = hot.reshape(-1, 10).T @ g.reshape(-1, 5)
    np.testing.assert_allclose(table.weight.grad, expected, rtol=1e-6, atol=1e-7)


def test_gradients_of_a_lookup():
    check_gradients(fastfc.Embedding(10, 3, dtype=np.float64, rng=0), X)


def test_contract():
    check_contract(lambda dtype: fastfc.Embedding(10, 3, padding_idx=4, dtype=dtype, rng=0), X)
    check_contract(lambda dtype: fastfc.EmbeddingBag(10, 3, padding_idx=4, dtype=dtype, rng=0), X)
    check_contract(lambda dtype: fastfc.EmbeddingBag(10, 3, mode="max", dtype=dtype, rng=0), X)


def test_a_linear_takes_one_hot_rows_as_csr(dtype):
    table, layer = fastfc.Embedding(1000, 256, dtype=dtype, rng=0), fastfc.Linear(1000, 256, False, dtype=dtype)
    layer.weight.data = table.weight.data.T.copy()
    x = RNG.integers(0, 1000, 64)
    hot = fastfc.CSR(np.ones(64, dtype), x, np.arange(65), (64, 1000))
    y, backward = table.vjp(x)
    linear_y, linear_backward = layer.vjp(hot)
    np.testing.assert_array_equal(linear_y, y)
    g = RNG.standard_normal(y.shape).astype(dtype)
    backward(g)
    assert linear_backward(g) is None
    np.testing.assert_allclose(layer.weight.grad.T, table.weight.grad, rtol=1e-5, atol=1e-6)
    layer.eval()
    np.testing.assert_array_equal(layer(hot), y)


def test_padding():
    for padding in (3, -7):
        table = fastfc.Embedding(10, 5, padding_idx=padding, dtype=np.float64, rng=0)
        assert table.padding_idx == 3 and not table.weight.data[3].any()
        plain = fastfc.Embedding(10, 5, dtype=np.float64, rng=0)
        np.testing.assert_array_equal(np.delete(table.weight.data, 3, 0), np.delete(plain.weight.data, 3, 0))
        g = RNG.standard_normal((2, 4, 5))
        for layer in (table, plain):
            layer.vjp(X)[1](g)
        assert not table.weight.grad[3].any() and plain.weight.grad[3].any()
        np.testing.assert_array_equal(np.delete(table.weight.grad, 3, 0), np.delete(plain.weight.grad, 3, 0))


@pytest.mark.parametrize("padding", [None, 3])
def test_sparse_gradient(padding):
    dense, sparse = (fastfc.Embedding(10, 5, padding, sparse=which, dtype=np.float64, rng=0) for which in (False, True))
    for x in (X, X[0], X):
        g = RNG.standard_normal((*x.shape, 5))
        dense.vjp(x)[1](g)
        kept, there = g.copy(), x.copy()
        sparse.vjp(there)[1](kept)
        kept[...] = 7  # the gradient is nobody else's
        there[...] = 0
        assert isinstance(sparse.weight.grad, fastfc.SparseGrad)
        np.testing.assert_allclose(sparse.weight.grad.to_dense(), dense.weight.grad, rtol=1e-13, atol=1e-15)
    assert sparse.weight.grad.shape == (10, 5)
    for twin in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        assert isinstance(twin.weight.grad, fastfc.SparseGrad) and state_of(twin) == state_of(sparse)
    sparse.weight.grad = np.ones((10, 5))  # an array that is there stays one
    sparse.vjp(X)[1](np.ones((2, 4, 5)))
    assert isinstance(sparse.weight.grad, np.ndarray)
    assert repr(fastfc.Embedding(10, 5, padding, sparse=True)) == (
        "Embedding(10, 5, sparse=True)" if padding is None else "Embedding(10, 5, padding_idx=3, sparse=True)")


def test_a_large_batch_gives_the_same_bits_for_any_threads():
    table = fastfc.Embedding(300, 65, rng=0)
    x, g = RNG.integers(0, 300, 20_000), RNG.standard_normal((20_000, 65)).astype(np.float32)
    grads = []
    for threads in (1, 2):
        with fastfc.num_threads(threads):
            table.zero_grad()
            table.vjp(x)[1](g)
            grads.append(table.weight.grad)
    np.testing.assert_array_equal(*grads)
    expected = np.zeros((300, 65))
    np.add.at(expected, x, g.astype(np.float64))
    np.testing.assert_allclose(grads[0], expected, rtol=0, atol=1e-4)


def test_a_table_at_the_head_of_a_model_trains():
    model = fastfc.Sequential(
        fastfc.Embedding(10, 4, rng=0), fastfc.Flatten(), fastfc.Linear(16, 3, rng=1), fastfc.ReLU())
    y, backward = model.vjp(X)
    assert backward(np.ones_like(y)) is None
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match=r"^layer 0, Embedding\(10, 4\): Embedding: x\[1, 2\] is 10, expected"):
        model(np.array([[0, 1, 2, 3], [4, 5, 10, 11]]))


# -- EmbeddingBag ------------------------------------------------------------------------------------------------------

OFFSETS = [[0, 3, 3, 7], [0], [0, 8], [0, 0, 8], list(range(8))]


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("padding", [None, 9])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_bag_is_a_projection_of_multi_hot_rows(mode, offsets, padding, sparse):
    bag = fastfc.EmbeddingBag(10, 5, mode=mode, padding_idx=padding, sparse=sparse, dtype=np.float64, rng=0)
    x = X.reshape(-1)
    hot = multi_hot(x, offsets, 10)
    if padding is not None:
        hot[:, padding] = 0
    if mode == "mean":
        hot /= np.maximum(hot.sum(axis=1, keepdims=True), 1)
    y, backward = bag.vjp(x, offsets)
    np.testing.assert_allclose(y, hot @ bag.weight.data, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(bag(x, offsets), y)
    g = RNG.standard_normal(y.shape)
    assert backward(g) is None
    grad = bag.weight.grad.to_dense() if sparse else bag.weight.grad
    np.testing.assert_allclose(grad, hot.T @ g, rtol=0, atol=1e-14)
    backward(g)
    grad = bag.weight.grad.to_dense() if sparse else bag.weight.grad
    np.testing.assert_allclose(grad, 2 * hot.T @ g, rtol=0, atol=1e-13)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 9])
def test_gradients_of_bags(mode, padding):
    bag = fastfc.EmbeddingBag(10, 5, mode=mode, padding_idx=padding, dtype=np.float64, rng=0)
    for kwargs in ({"offsets": [0, 3, 3, 7]}, {}):
        bag.vjp(X.reshape(-1) if kwargs else X, **kwargs)[1](np.ones((4 if kwargs else 2, 5)))
        x, g = (X.reshape(-1) if kwargs else X), RNG.standard_normal((4 if kwargs else 2, 5))
        bag.zero_grad()
        y, backward = bag.vjp(x, **kwargs)
        backward(g)
        f = lambda x=x, g=g, kwargs=kwargs: float((bag(x, **kwargs) * g).sum())  # noqa: E731
        expected = numeric_gradient(f, bag.weight.data)
        np.testing.assert_allclose(bag.weight.grad, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("padding", [None, 9])
def test_weights_of_samples(padding):
    bag = fastfc.EmbeddingBag(10, 5, mode="sum", padding_idx=padding, dtype=np.float64, rng=0)
    weights, x, offsets = RNG.standard_normal(8), X.reshape(-1), [0, 3, 3, 7]
    y, backward = bag.vjp(x, offsets, weights)
    hot = multi_hot(x, offsets, 10, weights)
    if padding is not None:
        hot[:, padding] = 0
    np.testing.assert_allclose(y, hot @ bag.weight.data, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(bag(X, per_sample_weights=weights.reshape(X.shape)),
                                  bag(x, [0, 4], weights))
    g = RNG.standard_normal(y.shape)
    grad = backward(g)
    np.testing.assert_allclose(bag.weight.grad, hot.T @ g, rtol=0, atol=1e-14)
    expected = numeric_gradient(lambda: float((bag(x, offsets, weights) * g).sum()), weights)
    np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-7)
    assert backward(g, needs_input_grad=False) is None
    assert bag.vjp(X, None, weights.reshape(X.shape))[1](np.ones((2, 5))).shape == X.shape


def test_empty_bags():
    for mode in ("sum", "mean", "max"):
        bag = fastfc.EmbeddingBag(10, 5, mode=mode, padding_idx=9, rng=0)
        for x, offsets, bags in (([], [0, 0], 2), ([], [], 0), ([9, 9], [0], 1), (np.empty((3, 0), int), None, 3)):
            y, backward = bag.vjp(np.array(x, int), offsets)
            np.testing.assert_array_equal(y, np.zeros((bags, 5), np.float32))
            backward(y)
            assert not bag.weight.grad.any()


def test_max_takes_the_first_of_equals_and_carries_nan():
    bag = fastfc.EmbeddingBag(3, 2, mode="max", dtype=np.float64)
    bag.weight.data = np.array([[1.0, 5], [1, 2], [0, np.nan]])
    y, backward = bag.vjp([[0, 1], [1, 0], [1, 2]])
    np.testing.assert_array_equal(y, [[1, 5], [1, 5], [1, np.nan]])
    backward(np.array([[1.0, 10], [2, 20], [4, 40]]))
    np.testing.assert_array_equal(bag.weight.grad, [[1, 30], [6, 0], [0, 40]])


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: fastfc.Embedding(10, 5, rng=0), lambda: fastfc.EmbeddingBag(10, 5, rng=0)])
@pytest.mark.parametrize(("x", "error", "message"), [
    ([[0, 1], [10, -1]], ValueError, r"x\[1, 0\] is 10, expected an index in \[0, 10\)"),
    ([[0, -1], [10, -1]], ValueError, r"x\[0, 1\] is -1, expected an index in \[0, 10\)"),
    (np.array([[2**63]], np.uint64), ValueError, r"x\[0, 0\] is 9223372036854775808, expected"),
    (np.array([[0, 1], [2, 30]])[:, ::-1], ValueError, r"x\[1, 0\] is 30"),
    ([[0.0]], TypeError, r"x must be of integers, got float64"),
    ([[True]], TypeError, r"x must be of integers, got bool"),
])
def test_wrong_indices(make, x, error, message):
    layer = make()
    for call in (layer, layer.vjp):
        with pytest.raises(error, match=message):
            call(x)


def test_one_wrong_index():
    with pytest.raises(ValueError, match=r"Embedding: x is 10, expected an index in \[0, 10\)"):
        fastfc.Embedding(10, 5)(10)


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: fastfc.Embedding(10, 5, padding_idx=10), ValueError, r"Embedding\(\): padding_idx must be in \[-10, 10\)"),
    (lambda: fastfc.Embedding(10, 5, padding_idx=1.0), TypeError, r"padding_idx must be an integer, got float"),
    (lambda: fastfc.Embedding(-1, 5), ValueError, r"num_embeddings must be >= 0, got -1"),
    (lambda: fastfc.EmbeddingBag(10, 2.5), TypeError, r"EmbeddingBag\(\): embedding_dim must be an integer"),
    (lambda: fastfc.EmbeddingBag(10, 5, mode="min"), ValueError, r'mode must be "mean", "sum" or "max", got \'min\''),
    (lambda: fastfc.EmbeddingBag(10, 5, mode="max", sparse=True), ValueError, r'mode "max" has no sparse gradient'),
    (lambda: fastfc.EmbeddingBag(10, 5)([1, 2]), ValueError, r"x must be \(bags, length\), or 1-D with offsets, got"),
    (lambda: fastfc.EmbeddingBag(10, 5)([[1, 2]], [0]), ValueError, r"x must be 1-D with offsets, got shape \(1, 2\)"),
    (lambda: fastfc.EmbeddingBag(10, 5)([1, 2], [1]), ValueError, r"offsets must start at 0, got \[1\]"),
    (lambda: fastfc.EmbeddingBag(10, 5)([1, 2], []), ValueError, r"offsets must start at 0, got \[\]"),
    (lambda: fastfc.EmbeddingBag(10, 5)([1, 2], [0, 2, 1]), ValueError, r"offsets\[1\] is 2, more than what .*, 1"),
    (lambda: fastfc.EmbeddingBag(10, 5)([1, 2], [0, 3]), ValueError, r"offsets\[1\] is 3, more than .*, 2"),
    (lambda: fastfc.EmbeddingBag(10, 5)([1, 2], [0.0]), TypeError, r"offsets must be a row of integers, got float64"),
    (lambda: fastfc.EmbeddingBag(10, 5)([[1]], None, np.ones((1, 1), np.float32)), ValueError,
     r'per_sample_weights need mode "sum", this layer has \'mean\''),
    (lambda: fastfc.EmbeddingBag(10, 5, mode="sum")([[1]], None, np.ones(1, np.float32)), ValueError,
     r"per_sample_weights must have shape \(1, 1\), got \(1,\)"),
    (lambda: fastfc.EmbeddingBag(10, 5, mode="sum")([[1]], None, np.ones((1, 1))), TypeError,
     r"per_sample_weights are float64, the weight float32"),
    (lambda: fastfc.EmbeddingBag(10, 5, mode="sum")([[1]], None, [[1.0]]), TypeError, r"per_sample_weights must be a"),
])
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_bags_as_a_csr(sparse, index, dtype):
    """Bags of words with values: a CSR is indices, offsets and per_sample_weights in one."""
    indptr = np.array([0, 3, 3, 5, 9], index)
    x = np.array([4, 1, 4, 0, 9, 9, 2, 3, 3], index)
    values = RNG.standard_normal(9).astype(dtype)
    bags = fastfc.CSR(values, x, indptr, (4, 10))
    one, other = (fastfc.EmbeddingBag(10, 5, mode="sum", sparse=sparse, dtype=dtype, rng=0) for _ in range(2))
    y, backward = one.vjp(bags)
    expected, expected_backward = other.vjp(x, indptr[:-1], values)
    np.testing.assert_array_equal(y, expected)
    g = RNG.standard_normal(y.shape).astype(dtype)
    np.testing.assert_array_equal(backward(g), expected_backward(g))
    dense = [layer.weight.grad.to_dense() if sparse else layer.weight.grad for layer in (one, other)]
    np.testing.assert_array_equal(*dense)
    np.testing.assert_allclose(dense[0], multi_hot(x, indptr[:-1], 10, values).T @ g, rtol=1e-5, atol=1e-6)
    for wrong, error, text in (
            (lambda: one(bags, offsets=[0]), ValueError, "no offsets or per_sample_weights"),
            (lambda: fastfc.EmbeddingBag(11, 5, mode="sum", dtype=dtype)(bags), ValueError, "x must have 11 columns"),
            (lambda: fastfc.EmbeddingBag(10, 5, mode="mean", dtype=dtype)(bags), ValueError, 'need mode "sum"')):
        with pytest.raises(error, match=text):
            wrong()


def test_gradients_of_large_bags_are_the_same_for_any_threads_and_sparse_or_not():
    x, offsets = RNG.integers(0, 300, 40_000), np.arange(0, 40_000, 40)
    g, grads = RNG.standard_normal((1000, 65)).astype(np.float32), []
    for sparse in (False, True):
        for threads in (1, 2):
            bag = fastfc.EmbeddingBag(300, 65, sparse=sparse, rng=0)
            with fastfc.num_threads(threads):
                y, backward = bag.vjp(x, offsets)
                backward(g)
            grads.append(bag.weight.grad.to_dense() if sparse else bag.weight.grad)
    for grad in grads[1:]:
        np.testing.assert_array_equal(grad, grads[0])
    hot = multi_hot(x, offsets, 300) / 40
    np.testing.assert_allclose(grads[0], hot.T @ g, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3])
def test_bags_in_any_memory(mode, padding):
    """Indices and weights of samples strided, backwards, broadcast; and an x that changes after the forward pass."""
    bag = fastfc.EmbeddingBag(50, 8, mode=mode, padding_idx=padding, sparse=mode != "max", rng=0)
    table, offsets = RNG.integers(0, 50, (12, 7)), np.array([0, 3, 3, 10])
    weights = RNG.standard_normal((12, 7)).astype(np.float32)
    for x, samples, where in (
        (table[:, 1], weights[:, 1], offsets), (table[::-1, 2], weights[::-1, 2], offsets),
        (table[:, ::2], weights[:, ::2], None),
        (table[:, :1], weights[:, :1], None), (table.T, weights.T, None), (np.asfortranarray(table), weights, None),
        (np.broadcast_to(np.int64(7), (3, 5)), np.broadcast_to(np.float32(2), (3, 5)), None),
    ):
        samples = (samples,) if mode == "sum" else ()
        results = []
        for order in "given", "copied":
            given = np.array(x, order="C") if order == "copied" else x
            y, backward = bag.vjp(given, where, *(np.array(s, order="C") if order == "copied" else s for s in samples))
            bag.weight.grad = None
            grad = backward(np.ones_like(y))
            dense = bag.weight.grad if mode == "max" else bag.weight.grad.to_dense()
            results.append((y, dense, *([] if grad is None else [grad])))
        for got, expected in zip(*results, strict=True):
            np.testing.assert_array_equal(got, expected)
    x = np.array([[1, 2], [4, 5]])
    y, backward = bag.vjp(x)
    x[...] = -1
    bag.weight.grad = None
    backward(np.ones_like(y))
    dense = bag.weight.grad if mode == "max" else bag.weight.grad.to_dense()
    assert set(np.flatnonzero(dense.any(axis=1))) <= {1, 2, 4, 5}


@pytest.mark.parametrize("shape", [(5, 8), (50, 4), (50,)])
def test_a_bag_whose_table_has_another_shape(shape):
    bag = fastfc.EmbeddingBag(50, 8)
    bag.weight = fastfc.Parameter(np.ones(shape, np.float32))
    with pytest.raises(ValueError, match=r"EmbeddingBag: weight must have shape \(50, 8\), got"):
        bag([[40, 2]])
