"""LazyLinear and the uninitialised parameters that it is made of."""

import concurrent.futures
import copy
import pickle

import numpy as np
import pytest
from gradients import state_of

import fastfc

X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
COPIES = [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]


def make(**kw):
    return fastfc.LazyLinear(4, rng=1, **kw)


def is_lazy(layer):
    return type(layer) is fastfc.LazyLinear and layer.has_uninitialized_params()


def is_linear(layer, x=X, **kw):
    """Whether it is what Linear would be, with the same bits."""
    expected = fastfc.Linear(x.shape[-1], 4, rng=1, **kw)
    return (type(layer) is fastfc.Linear and not layer.has_uninitialized_params()
            and repr(layer) == repr(expected) and vars(layer).keys() - {"training"} == vars(expected).keys()
            and state_of(layer) == state_of(expected) and np.array_equal(layer(x), expected(x)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("call", [lambda layer: layer(X), lambda layer: layer.vjp(X)])
@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("eval_mode", [False, True])
def test_it_becomes_a_linear(bias, call, duplicate, eval_mode):
    layer = make(bias=bias)
    assert repr(layer) == f"LazyLinear(in_features=0, out_features=4, bias={bias})"
    first = layer
    layer = duplicate(layer.train(not eval_mode))
    parameters = list(layer.parameters())
    assert is_lazy(layer) and [p.shape for p in parameters] == [(4, None), (4,)][:1 + bias]
    assert layer.training is not eval_mode
    call(layer)
    assert is_linear(layer, bias=bias)
    assert list(layer.parameters()) == parameters  # the very objects
    assert all(p.data.flags.writeable is not eval_mode for p in parameters)
    assert isinstance(layer.weight.operand, fastfc.PackedWeight) is eval_mode
    assert first is layer or is_lazy(first)
    assert is_linear(duplicate(layer), bias=bias)
    layer.train().vjp(X)[1](np.ones((3, 4), np.float32))
    assert layer.weight.grad.shape == (4, 5)


def test_in_a_model():
    model = fastfc.Sequential(fastfc.Flatten(), fastfc.LazyLinear(6, rng=0), fastfc.ReLU(), fastfc.LazyLinear(4, rng=1))
    assert model.has_uninitialized_params()
    y = model(np.ones((3, 2, 5), np.float32))
    assert y.shape == (3, 4) and not model.has_uninitialized_params()
    assert repr(model).splitlines()[2] == "  (1): Linear(in_features=10, out_features=6, bias=True)"
    np.testing.assert_array_equal(model.vjp(np.ones((3, 2, 5), np.float32))[0], y)
    fused = fastfc.Sequential(fastfc.LazyLinear(6, rng=0), fastfc.ReLU())
    np.testing.assert_array_equal(fused(X), fastfc.ReLU()(fastfc.Linear(5, 6, rng=0)(X)))


@pytest.mark.parametrize("first", [
    X[0], X[:0], X.reshape(3, 1, 5), fastfc.CSR(np.ones(1, np.float32), [2], [0, 1], (1, 5))])
def test_any_first_batch(first):
    layer = make()
    layer(first)
    assert is_linear(layer)


@pytest.mark.parametrize(("bad", "error", "message"), [
    (X.astype(np.float64), TypeError, "LazyLinear: x is float64, the layer float32"),
    (np.float32(3), ValueError, "LazyLinear: x must be an array"),
    ([[1.0]], ValueError, "LazyLinear: x must be an array .*, got list"),
])
def test_a_wrong_first_batch_leaves_it_lazy(bad, error, message):
    layer = make()
    for call in (layer, layer.vjp):
        with pytest.raises(error, match=message):
            call(bad)
    assert is_lazy(layer)
    layer(X)
    assert is_linear(layer)


def test_values_cannot_be_read_before():
    layer = make()
    for read in (lambda p: p.data, lambda p: p.operand, np.asarray, lambda p: p.data.shape):
        with pytest.raises(ValueError, match="this parameter is uninitialised, .* call the model on one, or load"):
            read(layer.weight)
    assert repr(layer.weight) == "UninitializedParameter(shape=(4, None), dtype=float32)"
    for bad in (np.zeros((5, 4), np.float32), np.zeros((4, 5)), np.zeros(4, np.float32), [1.0]):
        with pytest.raises(ValueError, match=r"Parameter.data: expected float32 of shape \(4, None\), got"):
            layer.weight.data = bad
    with pytest.raises(ValueError, match="'weight' of LazyLinear.* is uninitialised"):
        fastfc.spectral_norm(layer)
    assert is_lazy(layer)


def test_an_optimiser_refuses_it():
    with pytest.raises(ValueError, match="uninitialised"):
        fastfc.optim.SGD(make().parameters(), lr=0.1)


@pytest.mark.parametrize("eval_mode", [False, True])
def test_a_state_gives_it_its_shape(eval_mode):
    source, layer = fastfc.Linear(5, 4, rng=7), make().train(not eval_mode)
    assert layer.load_state_dict(source.state_dict()) == ([], [])
    assert type(layer) is fastfc.Linear and layer.in_features == 5
    assert state_of(layer) == state_of(source)
    np.testing.assert_array_equal(layer(X), source(X))
    assert layer.weight.data.flags.writeable is not eval_mode


def test_a_lazy_state_loads_into_a_lazy_layer_only():
    state = make().state_dict()
    assert list(state) == ["weight", "bias"]
    layer = make()
    assert layer.load_state_dict(state) == ([], []) and is_lazy(layer)
    with pytest.raises(ValueError, match=r"weight: expected shape \(4, 5\), got an uninitialised parameter"):
        fastfc.Linear(5, 4).load_state_dict(state)
    state["weight"].data = np.zeros((4, 5), np.float32)  # a copy: the layer is as it was
    assert is_lazy(layer)


def test_wrong_states_are_refused():
    layer, state = make(), fastfc.Linear(5, 3).state_dict()
    with pytest.raises(ValueError) as caught:
        layer.load_state_dict(state)
    assert "weight: expected shape (4, None), got (3, 5)" in str(caught.value)
    assert "bias: expected shape (4,), got (3,)" in str(caught.value)
    with pytest.raises(ValueError, match="weight: missing"):
        layer.load_state_dict({"bias": np.zeros(4)})
    assert is_lazy(layer)


def test_parts_of_a_state():
    state = fastfc.Linear(5, 4, rng=7).state_dict()
    layer = make()
    layer.load_state_dict({"bias": state["bias"]}, strict=False)
    assert is_lazy(layer)
    layer(X)
    np.testing.assert_array_equal(layer.bias.data, state["bias"])
    np.testing.assert_array_equal(layer.weight.data, fastfc.Linear(5, 4, rng=1).weight.data)
    layer = make()
    layer.load_state_dict({"weight": state["weight"]}, strict=False)
    assert type(layer) is fastfc.Linear
    np.testing.assert_array_equal(layer.weight.data, state["weight"])
    assert (np.abs(layer.bias.data) <= 5**-0.5).all()


def test_threads_that_come_together():
    for _ in range(20):
        layer = make().eval()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            ys = list(pool.map(layer, [X] * 8))
        assert is_linear(layer)
        assert all(np.array_equal(y, ys[0]) for y in ys)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"out_features": -1}, ValueError, r"LazyLinear\(\): out_features must be >= 0, got -1"),
    ({"out_features": 2, "dtype": int}, TypeError, r"LazyLinear\(\): dtype must be float32 or float64"),
    ({"out_features": 2, "rng": "a"}, TypeError, r"rng must be"),
])
def test_bad_construction(arguments, error, message):
    with pytest.raises(error, match=message):
        fastfc.LazyLinear(**arguments)
