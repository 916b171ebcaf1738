"""spectral_norm and weight_norm."""

import concurrent.futures
import copy
import pickle

import numpy as np
import pytest
from gradients import assert_equal, numeric_gradient, state_of

import fastfc

LAYERS = {
    "Linear": (lambda **kw: fastfc.Linear(5, 4, activation="tanh", rng=1, **kw), [5]),
    "MaskedLinear": (lambda **kw: fastfc.MaskedLinear(5, 4, sparsity=0.3, rng=1, **kw), [5]),
    "GroupedLinear": (lambda **kw: fastfc.GroupedLinear(6, 4, 2, rng=1, **kw), [6]),
    "Bilinear": (lambda **kw: fastfc.Bilinear(3, 2, 4, rng=1, **kw), [3, 2]),
}
NORMS = {
    "spectral": lambda layer: fastfc.spectral_norm(layer, rng=3),
    "spectral, dim 1, 3 iterations": lambda layer: fastfc.spectral_norm(layer, n_power_iterations=3, dim=1, rng=3),
    "weight": fastfc.weight_norm,
    "weight, last dim": lambda layer: fastfc.weight_norm(layer, dim=-1),
    "weight, no dim": lambda layer: fastfc.weight_norm(layer, dim=None),
}
BOTH = (pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS),
        pytest.mark.parametrize(("make", "sizes"), LAYERS.values(), ids=LAYERS))


def over(test):
    for mark in BOTH:
        test = mark(test)
    return test


def inputs(sizes, dtype=np.float64, rows=6):
    return [np.random.default_rng(i).standard_normal((rows, n)).astype(dtype) for i, n in enumerate(sizes)]


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


@over
def test_gradients(make, sizes, norm):
    layer, xs = norm(make(dtype=np.float64)), inputs(sizes)
    layer(*xs)
    layer.training = False  # u and v stay: they are constants in the backward pass
    y, backward = layer.vjp(*xs)
    g = np.random.default_rng(9).standard_normal(y.shape)

    def f():
        return float((layer(*xs) * g).sum())

    grads = as_tuple(backward(g))
    for x, grad in zip(xs, grads, strict=True):
        np.testing.assert_allclose(grad, numeric_gradient(f, x), rtol=1e-6, atol=1e-7)
    assert {name for name, _ in layer.named_parameters()} >= {"bias"}
    for name, p in layer.named_parameters():
        np.testing.assert_allclose(p.grad, numeric_gradient(f, p.data), rtol=1e-6, atol=1e-7, err_msg=name)


@over
def test_passes_in_training(make, sizes, norm, dtype):
    """Each pass has its own weight, u and v; gradients add up."""
    layer, xs = norm(make(dtype=dtype)), inputs(sizes, dtype)
    reference = copy.deepcopy(layer)
    y, backward = layer.vjp(*xs)
    np.testing.assert_array_equal(reference(*xs), y)  # the same first pass
    assert y.dtype == dtype
    g = np.ones_like(y)
    layer.vjp(*inputs(sizes, dtype, 3))
    y[...] = 3
    first = backward(g)
    once = [p.grad.copy() for p in layer.parameters()]
    assert all(p.grad.dtype == dtype and p.grad.shape == p.shape for p in layer.parameters())
    twin = pickle.loads(pickle.dumps(reference))
    layer.zero_grad()
    backward(g)
    backward(g)
    for p, grad in zip(layer.parameters(), once, strict=True):
        np.testing.assert_allclose(p.grad, 2 * grad, rtol=1e-5, atol=1e-6)
    assert_equal(backward(g, needs_input_grad=False), None)
    assert len(as_tuple(first)) == len(sizes)
    assert state_of(twin) == state_of(reference)


@over
def test_eval(make, sizes, norm):
    layer, xs = norm(make()), inputs(sizes, np.float32)
    layer(*xs)
    layer.training = False
    y = layer(*xs)
    layer.eval()
    state = state_of(layer)
    for _ in range(3):
        np.testing.assert_array_equal(layer(*xs), y)
        np.testing.assert_array_equal(layer.vjp(*xs)[0], y)
    assert state_of(layer) == state  # no iteration
    weight = layer.weight
    layer(*xs)
    assert layer.weight is weight and weight.frozen  # made once
    with pytest.raises(ValueError, match="read-only"):
        weight.data[...] = 0
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert state_of(twin) == state and repr(twin) == repr(layer) and not twin.training
        np.testing.assert_array_equal(twin.weight.data, weight.data)
        np.testing.assert_array_equal(twin(*xs), y)
    twin = pickle.loads(pickle.dumps(layer))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(result, y) for result in pool.map(lambda _: twin(*xs), range(32)))
    other = norm(make()).eval()
    for p in other.parameters():
        p.data = np.asarray(p.data + 1)
    other(*xs)
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(other.weight.data, weight.data)
    np.testing.assert_array_equal(other(*xs), y)
    for p in layer.parameters():  # what is assigned in eval() counts
        p.data = np.random.default_rng(7).standard_normal(p.shape).astype(np.float32).reshape(p.shape)
    changed = layer(*xs)
    assert not np.array_equal(changed, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer))(*xs), changed)
    layer.train()
    layer.training = False
    np.testing.assert_array_equal(layer(*xs), changed)
    for p in layer.parameters():  # and what is written in train()
        p.data[...] = np.random.default_rng(8).standard_normal(p.shape)
    np.testing.assert_array_equal(layer(*xs), copy.deepcopy(layer)(*xs))
    assert not np.array_equal(layer(*xs), changed)


@over
def test_remove(make, sizes, norm):
    for mode in (True, False):
        plain, xs = make(dtype=np.float64), inputs(sizes)
        layer = norm(make(dtype=np.float64))
        layer(*xs)
        layer.train(mode)
        layer.training = False
        y = layer(*xs)
        layer.training = mode
        remove = fastfc.remove_spectral_norm if hasattr(layer, "weight_orig") else fastfc.remove_weight_norm
        assert remove(layer) is layer and type(layer) is type(plain)
        np.testing.assert_array_equal(layer(*xs), y)
        assert vars(layer).keys() - {"training"} == vars(plain).keys()
        assert sorted(layer.state_dict()) == sorted(plain.state_dict())
        assert layer.weight.data.flags.writeable is mode
        norm(layer)  # and again


def test_the_spectral_norm_becomes_one():
    layer = fastfc.spectral_norm(fastfc.Linear(20, 30, dtype=np.float64, rng=0), rng=0)
    x = np.ones((1, 20))
    for _ in range(200):
        layer(x)
    assert abs(np.linalg.norm(layer.weight.data, 2) - 1) < 1e-6
    before = state_of(layer)
    layer.eval()(x)
    assert state_of(layer) == before
    assert list(layer.state_dict()) == ["bias", "weight_orig", "weight_u", "weight_v"]
    assert [name for name, _ in layer.named_parameters()] == ["bias", "weight_orig"]
    assert repr(layer) == "Linear(in_features=20, out_features=30, bias=True)" and isinstance(layer, fastfc.Linear)


def test_weight_norm_starts_with_the_same_weight():
    for dim, shape in ((0, (4, 1)), (1, (1, 5)), (-1, (1, 5)), (None, ())):
        plain = fastfc.Linear(5, 4, dtype=np.float64, rng=0)
        layer = fastfc.weight_norm(fastfc.Linear(5, 4, dtype=np.float64, rng=0), dim=dim)
        np.testing.assert_allclose(layer.weight.data, plain.weight.data, rtol=1e-14)
        assert layer.weight_g.shape == shape and layer.weight_v.shape == (4, 5)
        assert list(layer.state_dict()) == ["bias", "weight_g", "weight_v"]


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_in_a_model(norm):
    model = fastfc.Sequential(norm(fastfc.Linear(5, 6, rng=0)), fastfc.ReLU(), fastfc.Linear(6, 2, rng=1))
    x = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    opt = fastfc.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(50):
        y, backward = model.vjp(x)
        losses.append(float(np.square(y - 1).sum()))
        backward(2 * (y - 1))
        opt.step()
        opt.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
    y = model.eval()(x)
    assert pickle.loads(pickle.dumps(model))(x).tobytes() == y.tobytes()
    with pytest.raises(ValueError, match=r"^layer 0, Linear\("):
        model(np.ones((2, 4), np.float32))


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_of_a_layer_that_a_model_has_fused_before(norm):
    layer, x = fastfc.Linear(5, 6, rng=0), np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    model = fastfc.Sequential(layer, fastfc.ReLU())
    model(x)
    norm(layer)
    twin, relu = copy.deepcopy(layer), fastfc.ReLU()
    for _ in range(3):
        np.testing.assert_array_equal(model(x), relu(twin(x)))
        y, backward = model.vjp(x)
        z, twin_backward = twin.vjp(x)
        np.testing.assert_array_equal(backward(y), twin_backward(relu.vjp(z)[1](y)))
        assert state_of(layer) == state_of(twin)  # as many iterations
        for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
            np.testing.assert_array_equal(p.grad, q.grad)
            p.data -= 0.1 * p.grad
            q.data -= 0.1 * q.grad


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: fastfc.spectral_norm(fastfc.ReLU()), ValueError,
     r"spectral_norm\(\): name: ReLU\(\) has no parameter 'weight'"),
    (lambda: fastfc.weight_norm(fastfc.Linear(3, 2), "bias"), ValueError,
     r"weight_norm\(\): name: 'bias' must have two axes or more, got shape \(2,\)"),
    (lambda: fastfc.weight_norm(fastfc.SparseLinear(3, 2)), ValueError, r"must have two axes or more"),
    (lambda: fastfc.weight_norm(np.ones((3, 2))), TypeError, r"layer must be a Module, got ndarray"),
    (lambda: fastfc.weight_norm(fastfc.Linear(3, 2), dim=2), ValueError, r"dim is 2, expected an axis of 'weight'"),
    (lambda: fastfc.weight_norm(fastfc.Linear(3, 2), dim=0.5), TypeError, r"dim must be an integer, got float"),
    (lambda: fastfc.spectral_norm(fastfc.Linear(3, 2), eps=0), ValueError, r"eps must be > 0, got 0"),
    (lambda: fastfc.spectral_norm(fastfc.Linear(3, 2), n_power_iterations=0), ValueError,
     r"n_power_iterations must be >= 1, got 0"),
    (lambda: fastfc.spectral_norm(fastfc.weight_norm(fastfc.Linear(3, 2))), ValueError, r"is normalised already"),
    (lambda: fastfc.spectral_norm(fastfc.Embedding(3, 2, sparse=True)), ValueError, r"has a sparse gradient"),
    (lambda: fastfc.weight_norm(fastfc.LazyLinear(3)), ValueError, r"is uninitialised; call the layer on a first"),
    (lambda: fastfc.remove_weight_norm(fastfc.Linear(3, 2)), ValueError, r"'weight' of Linear.* is not normalised so"),
    (lambda: fastfc.remove_spectral_norm(fastfc.weight_norm(fastfc.Linear(3, 2))), ValueError, r"is not normalised so"),
])
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
