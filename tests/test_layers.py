"""Parameter, Module, Linear, ReLU and SparseLinear."""

import copy
import gc
import math
import pickle
import re
import threading

import numpy as np
import pytest
from gradients import away_from_zero, check_gradients, state_of
from reference import assert_same_bits
from samples import gaussian

import fastfc


def make_linear(**kw):
    return fastfc.Linear(5, 4, rng=1, **kw)


def make_sparse(**kw):
    return fastfc.SparseLinear(5, 4, sparsity=0.4, rng=1, **kw)


def make_mlp(dtype=np.float32):
    return fastfc.Sequential(
        fastfc.Linear(5, 7, dtype=dtype, rng=1), fastfc.ReLU(),
        fastfc.SparseLinear(7, 6, sparsity=0.3, dtype=dtype, rng=2), fastfc.ReLU(),
        fastfc.Linear(6, 4, bias=False, dtype=dtype, rng=3))


ALL = pytest.mark.parametrize("make", [make_linear, make_sparse, make_mlp])


# -- gradients ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("shape", [(5,), (6, 5), (2, 3, 5)])
def test_linear_gradients(bias, activation, shape):
    layer = fastfc.Linear(5, 4, bias, activation=activation, dtype=np.float64, rng=0)
    check_gradients(layer, np.random.default_rng(1).standard_normal(shape))


@pytest.mark.parametrize("bias", [True, False])
def test_sparse_linear_gradients(bias):
    layer = fastfc.SparseLinear(5, 4, bias, sparsity=0.4, dtype=np.float64, rng=0)
    check_gradients(layer, np.random.default_rng(1).standard_normal((6, 5)))


def test_sparse_linear_gradient_of_duplicate_entries():
    csr = fastfc.CSR(np.array([1.0, 2.0, 3.0]), np.array([1, 1, 0]), np.array([0, 2, 3]), (2, 3))
    check_gradients(fastfc.SparseLinear.from_csr(csr), np.random.default_rng(1).standard_normal((6, 3)))


def test_relu_gradients():
    check_gradients(fastfc.ReLU(), away_from_zero(np.random.default_rng(1), (6, 5)))


def test_sequential_gradients():
    check_gradients(make_mlp(np.float64), np.random.default_rng(1).standard_normal((6, 5)))


@ALL
def test_gradients_accumulate_and_zero_grad_starts_afresh(make):
    model = make(dtype=np.float64)
    rng = np.random.default_rng(2)
    x, g = rng.standard_normal((3, 5)), rng.standard_normal((3, 4))
    model.vjp(x)[1](g)
    once = [p.grad.copy() for p in model.parameters()]
    model.vjp(x)[1](g)
    for p, grad in zip(model.parameters(), once, strict=True):
        np.testing.assert_allclose(p.grad, 2 * grad, rtol=1e-12)
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    model.vjp(x)[1](g)
    for p, grad in zip(model.parameters(), once, strict=True):
        np.testing.assert_array_equal(p.grad, grad)


@ALL
def test_one_gradient_reset_by_hand_does_not_disturb_the_others(make):
    model = make(dtype=np.float64)
    x, g = np.ones((3, 5)), np.ones((3, 4))
    model.vjp(x)[1](g)
    first = next(model.parameters())
    once = [p.grad.copy() for p in model.parameters()]
    first.grad = None
    model.vjp(x)[1](g)
    for p, grad in zip(model.parameters(), once, strict=True):
        np.testing.assert_allclose(p.grad, grad if p is first else 2 * grad, rtol=1e-12)


@ALL
def test_skipping_the_input_gradient_leaves_the_others_as_they_are(make):
    model, x, g = make(dtype=np.float64), np.ones((3, 5)), np.ones((3, 4))
    assert model.vjp(x)[1](g) is not None
    full = [p.grad for p in model.parameters()]
    model.zero_grad()
    assert model.vjp(x)[1](g, needs_input_grad=False) is None
    for p, grad in zip(model.parameters(), full, strict=True):
        np.testing.assert_array_equal(p.grad, grad)


@ALL
def test_two_forwards_then_two_backwards(make):
    model = make(dtype=np.float64)
    rng = np.random.default_rng(2)
    x1, x2, g = rng.standard_normal((3, 5)), rng.standard_normal((2, 5)), rng.standard_normal((3, 4))
    expected = model.vjp(x1)[1](g)
    _, first = model.vjp(x1)
    _, second = model.vjp(x2)
    second(np.ones((2, 4)))
    np.testing.assert_array_equal(first(g), expected)


def test_y_may_be_overwritten_before_backward():
    layer = make_linear(activation="relu", dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((3, 5))
    expected = layer.vjp(x)[1](np.ones((3, 4)))
    y, backward = layer.vjp(x)
    y[...] = 7
    np.testing.assert_array_equal(backward(np.ones((3, 4))), expected)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5)])
@ALL
def test_empty_batch(make, shape):
    model = make()
    y, backward = model.vjp(np.empty(shape, np.float32))
    assert y.shape == shape[:-1] + (4,)
    assert backward(y).shape == shape
    assert all((p.grad == 0).all() and p.grad.shape == p.data.shape for p in model.parameters())


@pytest.mark.parametrize("kind", [fastfc.Linear, fastfc.SparseLinear])
@pytest.mark.parametrize("sizes", [(0, 4), (5, 0), (0, 0)])
def test_zero_features(kind, sizes):
    layer = kind(*sizes, rng=0)
    for mode in (True, False):
        layer.train(mode)
        y, backward = layer.vjp(np.ones((3, sizes[0]), np.float32))
        np.testing.assert_array_equal(y, np.broadcast_to(layer.bias.data, (3, sizes[1])))
        assert backward(np.ones_like(y)).shape == (3, sizes[0])
        assert all(p.grad.shape == p.data.shape for p in layer.parameters())


# -- values ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_linear_equals_the_formula(dtype, activation):
    layer = fastfc.Linear(64, 33, activation=activation, dtype=dtype, rng=0)
    x = np.random.default_rng(1).standard_normal((7, 64)).astype(dtype)
    expected = x.astype(np.float64) @ layer.weight.data.T.astype(np.float64) + layer.bias.data
    expected = expected if activation is None else np.maximum(expected, 0)
    for mode in (True, False):
        y = layer.train(mode)(x)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eval_gives_the_bits_of_train(dtype):
    model = make_mlp(dtype)
    x = np.random.default_rng(1).standard_normal((9, 5)).astype(dtype)
    trained = model(x)
    np.testing.assert_array_equal(model.eval()(x), trained)
    np.testing.assert_array_equal(model.vjp(x)[0], trained)


# -- train and eval ----------------------------------------------------------------------------------------------------

@ALL
def test_eval_freezes_and_train_thaws(make):
    model = make()
    assert model.training
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    for p in model.parameters():
        assert not p.data.flags.writeable
        assert p.data.ctypes.data % 64 == 0  # tables are read where they stand, row by row
        with pytest.raises(ValueError, match="read-only"):
            p.data[...] = 1
        with pytest.raises(ValueError, match="read-only"):
            p.data += 1
    before = state_of(model)
    assert model.train() is model
    assert all(module.training for module in model.modules())
    assert state_of(model) == before
    for p in model.parameters():
        p.data[...] = 1


@ALL
def test_a_packed_array_cannot_be_made_writeable(make):
    for p in make().eval().parameters():
        with pytest.raises(ValueError):
            p.data.flags.writeable = True
        with pytest.raises(ValueError):
            p.data.base.flags.writeable = True if isinstance(p.data.base, np.ndarray) else int("no array")


@ALL
def test_views_taken_earlier_do_not_belong_to_the_model(make):
    model, x = make(), np.ones((2, 5), np.float32)
    early = [p.data for p in model.parameters()]
    y = model.eval()(x)
    for view in early:
        view[...] = 9
    np.testing.assert_array_equal(model(x), y)
    frozen = [(p.data, p.data.copy()) for p in model.parameters()]
    model.train()
    for p, (view, values) in zip(model.parameters(), frozen, strict=True):
        p.data[...] = 3
        assert not view.flags.writeable
        np.testing.assert_array_equal(view, values)


@ALL
def test_train_and_eval_twice_change_nothing(make):
    model = make()
    arrays = [p.data for p in model.train().parameters()]
    assert all(p.data is a for p, a in zip(model.train().parameters(), arrays, strict=True))
    operands = [p.operand for p in model.eval().parameters()]
    assert all(p.operand is o for p, o in zip(model.eval().parameters(), operands, strict=True))


def test_eval_multiplies_by_the_pack_and_train_by_the_array():
    layer = make_linear()
    assert layer.weight.operand is layer.weight.data
    layer.eval()
    assert isinstance(layer.weight.operand, fastfc.PackedWeight)
    assert layer.bias.operand is layer.bias.data
    layer.train()
    assert layer.weight.operand is layer.weight.data


def test_train_frees_the_pack():
    layer, count = fastfc.Linear(5, 4), 0
    layer.eval().train()
    gc.collect()
    count = sum(isinstance(o, fastfc.PackedWeight) and o.shape == (4, 5) for o in gc.get_objects())
    assert count == 0
    assert layer.weight.operand is layer.weight.data


@ALL
@pytest.mark.parametrize("eval_mode", [False, True])
def test_assigned_data_is_what_is_computed_with(make, eval_mode):
    model, x = make(dtype=np.float64).train(not eval_mode), np.random.default_rng(0).standard_normal((3, 5))
    model(x)
    for p in model.parameters():
        p.data = 2 * p.data
        assert p.data.flags.writeable is not eval_mode
    other = make(dtype=np.float64)
    for p in other.parameters():
        p.data *= 2
    expected = other(x)
    assert not np.array_equal(expected, make(dtype=np.float64)(x))
    np.testing.assert_array_equal(model(x), expected)
    g = np.ones((3, 4))
    np.testing.assert_array_equal(model.vjp(x)[1](g), other.vjp(x)[1](g))


@ALL
def test_writing_in_place_in_training_is_seen(make):
    model, x = make(dtype=np.float64), np.random.default_rng(0).standard_normal((3, 5))
    model(x)
    for p in model.parameters():
        p.data[...] = 0
    np.testing.assert_array_equal(model(x), np.zeros((3, 4)))


def test_data_assigned_in_eval_is_a_copy():
    layer, x = make_linear().eval(), np.ones((2, 5), np.float32)
    new = np.ones((4, 5), np.float32)
    layer.weight.data = new
    y = layer(x)
    new[...] = 5
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(layer.weight.data, np.ones((4, 5)))


def test_data_assigned_in_training_is_taken_without_a_copy_if_it_can_be():
    p = make_linear().weight
    new = np.ones((4, 5), np.float32)
    p.data = new
    assert p.data is new
    locked = np.ones((4, 5), np.float32)
    locked.flags.writeable = False
    for awkward in (np.ones((5, 4), np.float32).T, np.ones((4, 10), np.float32)[:, ::2], locked):
        p.data = awkward
        assert p.data.flags.c_contiguous and p.data.flags.writeable and not np.shares_memory(p.data, awkward)


@pytest.mark.parametrize("eval_mode", [False, True])
@pytest.mark.parametrize(("bad", "error", "message"), [
    (np.zeros((5, 4), np.float32), ValueError, r"expected shape \(4, 5\), got \(5, 4\)"),
    (np.zeros((4, 5)), TypeError, r"expected dtype float32, got float64"),
    (np.zeros((4, 5), ">f4"), TypeError, r"expected dtype float32, got >f4"),
    ([[0.0] * 5] * 4, TypeError, r"expected a numpy array, got list"),
    (None, TypeError, r"expected a numpy array, got NoneType"),
])
def test_wrong_data_is_refused_and_changes_nothing(bad, error, message, eval_mode):
    layer = make_linear().train(not eval_mode)
    data, operand = layer.weight.data, layer.weight.operand
    with pytest.raises(error, match=message):
        layer.weight.data = bad
    assert layer.weight.data is data and layer.weight.operand is operand


def test_a_pack_that_fails_leaves_data_and_pack_as_they_were():
    def packer(array):
        if array[0] < 0:
            raise MemoryError
        return ("packed", array)

    p = fastfc.Parameter(np.ones(3), packer=packer)
    p.freeze()
    data, operand = p.data, p.operand
    assert operand[1] is data
    with pytest.raises(MemoryError):
        p.data = -np.ones(3)
    assert p.data is data and p.operand is operand
    p.thaw()
    p.data = -np.ones(3)
    with pytest.raises(MemoryError):
        p.freeze()
    p.data[0] = 1  # still in training, as it was
    assert p.operand is p.data


@pytest.mark.parametrize(("bad", "message"), [
    ([1.0], "must be a numpy array, got list"), (np.arange(3), "must be float32 or float64, got int64")])
def test_parameter_refuses_other_data(bad, message):
    with pytest.raises(TypeError, match=message):
        fastfc.Parameter(bad)


def test_threads_may_share_a_layer_in_eval():
    model = make_mlp().eval()
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((1 + i % 7, 5)).astype(np.float32) for i in range(40)]
    expected = [model(x) for x in batches]
    model = pickle.loads(pickle.dumps(model))  # as new: nothing has been called yet
    variables = {module: dict(vars(module)) for module in model.modules()}
    barrier, wrong = threading.Barrier(6), []

    def work():
        barrier.wait()
        for _ in range(5):
            for x, y in zip(batches, expected, strict=True):
                if not np.array_equal(model(x), y):
                    wrong.append(x)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for module, before in variables.items():
        after = dict(vars(module))
        assert {k: v for k, v in after.items() if k != "_made"} == {k: v for k, v in before.items() if k != "_made"}


# -- state_dict --------------------------------------------------------------------------------------------------------

def test_state_dict_names_and_order_are_torchs():
    assert list(make_mlp().state_dict()) == [
        "0.weight", "0.bias", "2.weight", "2.bias", "2.indices", "2.indptr", "4.weight"]


def test_state_dict_holds_writeable_copies():
    model = make_mlp().eval()
    before, state = state_of(model), model.state_dict()
    for array in state.values():
        array[...] = 7
    assert state_of(model) == before


@ALL
@pytest.mark.parametrize("eval_mode", [False, True])
def test_state_round_trip(make, eval_mode):
    source, x = make(), np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    target = make().train(not eval_mode)
    for p in target.parameters():
        p.data = p.data + 1
    target(x)
    state = source.state_dict()
    assert target.load_state_dict(state) == ([], [])
    assert state_of(target) == state_of(source)
    np.testing.assert_array_equal(target(x), source(x))
    assert all(p.data.flags.writeable is not eval_mode for p in target.parameters())
    for array in state.values():  # copied, not kept
        array[...] = 0
    assert state_of(target) == state_of(source)


def test_a_state_with_another_mask_of_the_same_size_loads():
    a, b = (fastfc.SparseLinear(9, 8, rng=seed) for seed in (0, 1))
    x = np.random.default_rng(2).standard_normal((3, 9)).astype(np.float32)
    assert not np.array_equal(a.indices, b.indices)
    b(x)
    b.load_state_dict(a.state_dict())
    np.testing.assert_array_equal(b(x), a(x))
    only_structure = {name: array for name, array in fastfc.SparseLinear(9, 8, rng=3).state_dict().items()
                      if name in ("indices", "indptr")}
    b.load_state_dict(only_structure, strict=False)
    expected = fastfc.CSR(b.weight.data, only_structure["indices"], only_structure["indptr"], (8, 9))
    np.testing.assert_array_equal(b(x), fastfc.linear(x, expected, b.bias.data))


def test_wrong_state_lists_everything_and_changes_nothing():
    model = make_mlp()
    state = model.state_dict()
    del state["0.bias"], state["2.weight"]
    state["0.weight"] = state["0.weight"].T
    state["4.weight"] = state["4.weight"].astype(int)
    state["2.bias"] = state["2.bias"] + 1
    state["2.indices"] = state["2.indices"] + 100
    state["5.weight"] = state["junk"] = np.ones(1)
    for model in (make_mlp(), make_mlp().eval()):
        before = state_of(model)
        arrays = [(p.data, p.operand) for p in model.parameters()]
        with pytest.raises(ValueError) as caught:
            model.load_state_dict(state)
        text = str(caught.value)
        for line in ("0.bias: missing", "2.weight: missing", "5.weight: unexpected", "junk: unexpected",
                     "0.weight: expected shape (7, 5), got (5, 7)", "4.weight: expected dtype float32, got int64",
                     "2.indices, indptr: "):
            assert re.search(rf"^  {re.escape(line)}", text, re.MULTILINE), line
        assert len(text.splitlines()) == 8
        assert "2.bias" not in text
        assert state_of(model) == before
        for p, (data, operand) in zip(model.parameters(), arrays, strict=True):
            assert p.data is data and p.operand is operand
        with pytest.raises(ValueError) as caught:
            model.load_state_dict(state, strict=False)
        assert len(str(caught.value).splitlines()) == 4
        assert state_of(model) == before


def test_not_strict_takes_what_fits():
    model = make_mlp().eval()
    state = {"0.bias": np.full(7, 2.0), "nonsense": np.ones(3)}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["0.weight", "2.weight", "2.bias", "2.indices", "2.indptr", "4.weight"]
    assert unexpected == ["nonsense"]
    np.testing.assert_array_equal(model[0].bias.data, np.full(7, 2, np.float32))
    assert model[0].bias.data.dtype == np.float32


@pytest.mark.parametrize(("name", "change"), [
    ("indices", lambda a: a - 100), ("indptr", lambda a: a[::-1]), ("indptr", lambda a: a + 1),
    ("indices", lambda a: a.astype(float)), ("indices", lambda a: a.astype(np.int64) + 2**40),
    ("indices", lambda a: a[:-1]), ("indptr", lambda a: np.minimum(a, a[-1] - 1))])
def test_malformed_structure_is_refused(name, change):
    layer = make_sparse()
    before, state = state_of(layer), layer.state_dict()
    state[name] = change(state[name])
    with pytest.raises(ValueError, match="nothing was loaded"):
        layer.load_state_dict(state)
    assert state_of(layer) == before


@pytest.mark.parametrize("bad", [None, [("weight", np.ones((4, 5)))], "weight"])
def test_state_must_be_a_mapping(bad):
    with pytest.raises(TypeError, match="state_dict must be a mapping, got"):
        make_linear().load_state_dict(bad)


def test_strict_must_be_a_bool():
    with pytest.raises(TypeError, match="strict must be a bool, got ndarray"):
        make_linear().load_state_dict({}, strict=np.ones(2))


@pytest.mark.parametrize("dtype", ["f3", np.ones(2), object(), None, int, np.float16])
def test_dtype_must_be_known(dtype):
    with pytest.raises(TypeError, match=r"Linear\(\): dtype must be float32 or float64, got "):
        fastfc.Linear(2, 2, dtype=dtype)


# -- pickle and copy ---------------------------------------------------------------------------------------------------

@ALL
@pytest.mark.parametrize("eval_mode", [False, True])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_pickle_and_deepcopy(make, eval_mode, duplicate):
    model, x = make(), np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    model.vjp(x)[1](np.ones((3, 4), np.float32))
    model.train(not eval_mode)
    y = model(x)
    twin = duplicate(model)
    assert state_of(twin) == state_of(model)
    np.testing.assert_array_equal(twin(x), y)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(p.grad, q.grad)
        assert not np.shares_memory(p.grad, q.grad)
        assert not np.shares_memory(p.data, q.data)
        assert q.data.flags.writeable is not eval_mode
        assert type(p.operand) is type(q.operand)
    for module in twin.modules():
        assert module.training is not eval_mode
        for name in module.buffers:
            with pytest.raises(ValueError):
                getattr(module, name).flags.writeable = True
    twin.train()
    for p in twin.parameters():
        p.data[...] = 0
    np.testing.assert_array_equal(twin(x), np.zeros((3, 4)))
    np.testing.assert_array_equal(model(x), y)


# -- construction ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", [fastfc.Linear, fastfc.SparseLinear])
@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"in_features": -1, "out_features": 3}, ValueError, r"Linear\(\): in_features must be >= 0, got -1"),
    ({"in_features": 3, "out_features": -2}, ValueError, r"Linear\(\): out_features must be >= 0, got -2"),
    ({"in_features": 3, "out_features": 2**63}, ValueError, r"Linear\(\): out_features must be <= 9223372036854775807"),
    ({"in_features": 3, "out_features": np.uint64(2**63)}, ValueError, r"out_features must be <= 9223372036854775807"),
    ({"in_features": 2**40, "out_features": 2**40}, ValueError, r"out_features must be|array is too big"),
    ({"in_features": 3.0, "out_features": 3}, TypeError, r"Linear\(\): in_features must be an integer, got float"),
    ({"in_features": 3, "out_features": "3"}, TypeError, r"Linear\(\): out_features must be an integer, got str"),
    ({"in_features": 3, "out_features": 3, "dtype": np.float16}, TypeError, r"must be float32 or float64, got float16"),
    ({"in_features": 3, "out_features": 3, "dtype": int}, TypeError, r"must be float32 or float64, got int64"),
    ({"in_features": 3, "out_features": 3, "rng": "seed"}, TypeError, r"rng must be a numpy.random.Generator"),
    ({"in_features": 3, "out_features": 3, "rng": -1}, ValueError, r"rng must be a seed >= 0, got -1"),
])
def test_bad_construction(kind, arguments, error, message):
    with pytest.raises(error, match=message):
        kind(**arguments)


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, math.nan])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\], got"):
        fastfc.SparseLinear(3, 3, sparsity=sparsity)


def test_bad_calls_name_what_is_wrong():
    layer = fastfc.Linear(256, 10)
    with pytest.raises(ValueError, match=r"x has 128 features in its last axis, weight expects 256"):
        layer(np.ones((2, 128), np.float32))
    with pytest.raises(TypeError):
        layer(np.ones((2, 256)))
    with pytest.raises(ValueError):
        fastfc.Linear(3, 3, activation="rleu")(np.ones((2, 3), np.float32))
    _, backward = layer.vjp(np.ones((2, 256), np.float32))
    with pytest.raises(ValueError):
        backward(np.ones((2, 11), np.float32))
    assert layer.weight.grad is None and layer.bias.grad is None


def test_module_without_passes_says_so():
    with pytest.raises(NotImplementedError, match="Module defines no __call__"):
        fastfc.Module()(1)
    with pytest.raises(NotImplementedError, match="Module defines no vjp"):
        fastfc.Module().vjp(1)


# -- SparseLinear ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("sparsity", "nnz"), [(0, 77), (0.5, 38), (0.9, 8), (0.99, 1), (1, 0)])
def test_number_of_stored_entries(sparsity, nnz):
    layer = fastfc.SparseLinear(7, 11, sparsity=sparsity, rng=0)
    assert layer.weight.data.shape == (nnz,) == layer.indices.shape
    assert layer.to_dense().shape == (11, 7)
    rows = np.repeat(np.arange(11), np.diff(layer.indptr))
    cells = rows * 7 + layer.indices
    assert (np.diff(cells) > 0).all()  # sorted, none twice
    assert np.count_nonzero(layer.to_dense()) == nnz


def test_mask_is_uniform():
    counts = np.zeros((6, 5))
    for seed in range(2000):
        counts += fastfc.SparseLinear(5, 6, sparsity=0.7, rng=seed).to_dense() != 0
    # 9 of 30 cells each time: mean 600, standard deviation √(2000 · 0.3 · 0.7) = 20.5
    assert counts.sum() == 2000 * 9
    assert np.abs(counts - 600).max() < 4.5 * 20.5


def test_sparse_equals_the_masked_dense_layer():
    sparse = fastfc.SparseLinear(19, 13, sparsity=0.7, dtype=np.float64, rng=0)
    dense = fastfc.Linear(19, 13, dtype=np.float64)
    dense.weight.data, dense.bias.data = sparse.to_dense(), sparse.bias.data.copy()
    x, g = np.random.default_rng(1).standard_normal((8, 19)), np.random.default_rng(2).standard_normal((8, 13))
    ys, backward_s = sparse.vjp(x)
    yd, backward_d = dense.vjp(x)
    np.testing.assert_allclose(ys, yd, rtol=0, atol=1e-14)
    np.testing.assert_allclose(backward_s(g), backward_d(g), rtol=0, atol=1e-13)
    rows = np.repeat(np.arange(13), np.diff(sparse.indptr))
    np.testing.assert_allclose(sparse.weight.grad, dense.weight.grad[rows, sparse.indices], rtol=0, atol=1e-13)
    np.testing.assert_allclose(sparse.bias.grad, dense.bias.grad, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_from_dense_and_back(dtype):
    weight = np.random.default_rng(0).standard_normal((6, 5)).astype(dtype)
    weight[0, 0], weight[1, 1], weight[2, 2], weight[3] = np.nan, np.inf, -np.inf, 0
    bias = np.arange(6, dtype=dtype)
    layer = fastfc.SparseLinear.from_dense(weight, bias)
    np.testing.assert_array_equal(layer.to_dense(), weight)
    np.testing.assert_array_equal(layer.bias.data, bias)
    assert layer.weight.data.size == 25 and layer.weight.data.dtype == dtype
    assert (layer.in_features, layer.out_features) == (5, 6)
    assert not np.shares_memory(layer.bias.data, bias)
    pruned = fastfc.SparseLinear.from_dense(np.asfortranarray(weight), threshold=0.5)
    assert pruned.bias is None
    np.testing.assert_array_equal(pruned.to_dense(), np.where(np.abs(weight) <= 0.5, 0, weight))


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ((np.ones(3),), ValueError, r"weight must be 2-D, got shape \(3,\)"),
    ((np.ones((2, 3), int),), TypeError, r"weight must be a float32 or float64 array, got int64"),
    (([[1.0]],), TypeError, r"weight must be a float32 or float64 array, got list"),
    ((np.ones((2, 3)), np.ones(3)), ValueError, r"bias must have shape \(2,\), got \(3,\)"),
    ((np.ones((2, 3)), np.ones(2, np.float32)), TypeError, r"bias must be a float64 array, got float32"),
    ((np.ones((2, 3)), [1.0, 2.0]), TypeError, r"bias must be a float64 array, got list"),
])
def test_from_dense_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        fastfc.SparseLinear.from_dense(*arguments)


@pytest.mark.parametrize("threshold", [-1, math.nan])
def test_from_dense_refuses_threshold(threshold):
    with pytest.raises(ValueError, match="threshold must be >= 0, got"):
        fastfc.SparseLinear.from_dense(np.ones((2, 3)), threshold=threshold)


@pytest.mark.parametrize("kind", ["csr_array", "csr_matrix"])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_from_scipy(kind, index):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    weight = getattr(scipy_sparse, kind)(scipy_sparse.random_array((6, 5), density=0.4, rng=0, dtype=np.float32))
    weight.indices, weight.indptr = weight.indices.astype(index), weight.indptr.astype(index)
    dense = weight.toarray()
    layer = fastfc.SparseLinear.from_csr(weight, np.zeros(6, np.float32))
    np.testing.assert_array_equal(layer.to_dense(), dense)
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    weight.data[...] = 0  # copied
    weight.indices[...] = 0
    np.testing.assert_allclose(layer(x), x @ dense.T, atol=1e-6)


def test_from_scipy_with_duplicates_and_unsorted():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    weight = scipy_sparse.csr_array(
        (np.array([1.0, 2.0, 4.0, 8.0]), np.array([2, 0, 2, 1]), np.array([0, 3, 4])), (2, 3))
    layer = fastfc.SparseLinear.from_csr(weight)
    np.testing.assert_array_equal(layer.to_dense(), [[2, 0, 5], [0, 8, 0]])
    np.testing.assert_array_equal(layer(np.eye(3)), layer.to_dense().T)


@pytest.mark.parametrize("bad", [np.ones((2, 3)), None, [[1]]])
def test_from_csr_refuses_what_is_not_csr(bad):
    with pytest.raises(TypeError, match=r"csr must be a CSR array or matrix, got"):
        fastfc.SparseLinear.from_csr(bad)


@pytest.mark.parametrize("kind", ["csc_array", "bsr_array", "coo_array"])
def test_from_csr_refuses_other_formats(kind):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=rf"got {kind} in format '{kind[:3]}'"):
        fastfc.SparseLinear.from_csr(getattr(scipy_sparse, kind)(np.eye(3)))


def test_from_csr_refuses_malformed_and_integer_data():
    class Fake:
        data, indices, indptr, shape = np.ones(2), np.array([0, 7]), np.array([0, 1, 2]), (2, 3)

    with pytest.raises(ValueError):
        fastfc.SparseLinear.from_csr(Fake)
    Fake.indices, Fake.data = np.array([0, 1]), np.ones(2, int)
    with pytest.raises(TypeError):
        fastfc.SparseLinear.from_csr(Fake)


def test_from_scipy_with_room_behind_the_stored_entries():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    weight = scipy_sparse.csr_array((np.array([1.0, 2.0, 9.0]), np.array([2, 0, 1]), np.array([0, 1, 2])), (2, 3))
    layer = fastfc.SparseLinear.from_csr(weight)
    assert layer.weight.data.shape == layer.indices.shape == (2,)
    np.testing.assert_array_equal(layer.to_dense(), [[0, 0, 1], [2, 0, 0]])
    layer.load_state_dict(layer.state_dict())


def test_structure_is_read_only_from_the_start():
    layer = make_sparse()
    layer.in_features = layer.out_features = 1
    for duplicate in (layer, copy.deepcopy(layer)):  # C goes by the shape that was checked
        assert duplicate(np.ones((2, 5), np.float32)).shape == (2, 4)
    with pytest.raises(AttributeError):
        layer.indices = layer.indices + 100
    for array in (layer.indices, layer.indptr):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
        with pytest.raises(ValueError):
            array.flags.writeable = True


def test_cleared_gradient_leaves_its_memory_to_the_next(rng):
    layer = fastfc.Linear(5, 3, rng=0)
    x, g = gaussian(rng, (4, 5), np.float32), gaussian(rng, (4, 3), np.float32)
    layer.vjp(x)[1](g)
    expected, where = layer.weight.grad.copy(), layer.weight.grad.ctypes.data
    layer.zero_grad()
    assert layer.weight.grad is None
    layer.vjp(x)[1](g)
    assert layer.weight.grad.ctypes.data == where
    assert_same_bits(layer.weight.grad, expected)


@pytest.mark.parametrize("hold", [lambda grad: grad, lambda grad: grad[:1], memoryview])
def test_cleared_gradient_that_somebody_holds_is_left_alone(rng, hold):
    layer = fastfc.Linear(5, 3, rng=0)
    x = gaussian(rng, (4, 5), np.float32)
    layer.vjp(x)[1](gaussian(rng, (4, 3), np.float32))
    held = hold(layer.weight.grad)
    before = np.array(held)
    layer.zero_grad()
    layer.vjp(x)[1](gaussian(rng, (4, 3), np.float32))
    assert not np.shares_memory(np.asarray(held), layer.weight.grad)
    assert_same_bits(np.asarray(held), before)


def test_cleared_gradient_is_not_kept_in_eval_nor_in_a_pickle(rng):
    layer = fastfc.Linear(50, 30, rng=0)
    x, g = gaussian(rng, (4, 50), np.float32), gaussian(rng, (4, 30), np.float32)
    plain = len(pickle.dumps(layer))
    layer.vjp(x)[1](g)
    layer.zero_grad()
    assert len(pickle.dumps(layer)) == plain
    layer.eval()
    assert layer.weight.take_spare() is None
