"""What optimisers share, mostly on SGD: groups, options, states, checks before a step."""

import copy
import math
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import INPUTS

import fastfc
from fastfc.optim import SGD, Adagrad, Adam, AdamW, RMSprop, SparseAdam

SETTINGS = pytest.mark.parametrize("settings", [
    {}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.8, "nesterov": True}, {"momentum": 0.8, "weight_decay": 0.1, "nesterov": True}, {"lr": 0.0}])
SHAPES = [(3, 4), (5,), (), (0, 3), (2, 8199)]


def make(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [fastfc.Parameter(np.array(rng.standard_normal(shape), dtype)) for shape in SHAPES]


def draw(rng, params):
    for p in params:
        p.grad = np.array(rng.standard_normal(p.data.shape), p.data.dtype)


def formula(weights, grads, velocities, lr, momentum=0.0, weight_decay=0.0, nesterov=False):
    for i, (w, g) in enumerate(zip(weights, grads, strict=True)):
        g = g + weight_decay * w
        if momentum:
            v = g if velocities[i] is None else momentum * velocities[i] + g
            velocities[i] = v
            g = g + momentum * v if nesterov else v
        weights[i] = w - lr * g


@SETTINGS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_twenty_steps_of_the_formula(settings, dtype):
    params, rng = make(dtype), np.random.default_rng(1)
    settings = {"lr": 0.1, **settings}
    opt = SGD(iter(params), **settings)
    arrays = [p.data for p in params]
    weights, velocities = [p.data.astype(np.float64) for p in params], [None] * len(params)
    for _ in range(20):
        draw(rng, params)
        kept = [p.grad.copy() for p in params]
        opt.step()
        formula(weights, [g.astype(np.float64) for g in kept], velocities, **settings)
        for p, g in zip(params, kept, strict=True):
            np.testing.assert_array_equal(p.grad, g)
    for p, array, w in zip(params, arrays, weights, strict=True):
        assert p.data is array  # in place
        np.testing.assert_allclose(p.data, w, rtol=0, atol=1e-12 if dtype == np.float64 else 2e-5)


def test_settings_may_change_between_steps():
    (p,) = params = [fastfc.Parameter(np.ones(3))]
    opt = SGD(params, lr=1.0, momentum=0.5, nesterov=True)
    p.grad = np.ones(3)
    opt.lr, opt.momentum, opt.nesterov = np.float64(0.25), 0.0, False
    opt.step()
    np.testing.assert_array_equal(p.data, np.full(3, 0.75))


def test_parameters_without_gradient_are_left_alone():
    a, b = fastfc.Parameter(np.ones(3)), fastfc.Parameter(np.ones(3))
    opt = SGD([a, b], lr=0.5, momentum=0.9, weight_decay=0.1)
    a.grad = np.ones(3)
    opt.step()
    np.testing.assert_array_equal(b.data, np.ones(3))
    assert opt.state_dict()["state"].keys() == {0}
    b.grad = np.ones(3)  # its first step, however late: the velocity starts as the gradient
    opt.step()
    np.testing.assert_allclose(b.data, np.full(3, 1 - 0.5 * 1.1))


def test_zero_grad_sets_none():
    params = make()
    draw(np.random.default_rng(0), params)
    SGD(params, lr=0.1).zero_grad()
    assert all(p.grad is None for p in params)


@given(layout=st.sampled_from(sorted(INPUTS)), shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
       dtype=st.sampled_from([np.float32, np.float64]))
def test_any_layout_of_the_gradient(layout, shape, dtype):
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    results = []
    for grad in (values, INPUTS[layout](values)):
        p = fastfc.Parameter(np.ones(shape, dtype))
        p.grad = grad
        Adam([p], lr=0.1).step()
        results.append(p.data)
        np.testing.assert_array_equal(grad, values)
    np.testing.assert_array_equal(*results)


def test_assigned_data_is_what_is_updated():
    p = fastfc.Parameter(np.zeros(3))
    opt = SGD([p], lr=1.0)
    p.data, p.grad = np.ones(3), np.ones(3)
    opt.step()
    np.testing.assert_array_equal(p.data, np.zeros(3))


def test_a_model_in_eval_is_refused_before_anything_is_written():
    free, model = fastfc.Parameter(np.ones((2, 3), np.float32)), fastfc.Linear(3, 2, rng=0)
    params = [free, *model.parameters()]
    opt = SGD(params, lr=0.1, momentum=0.9)
    draw(np.random.default_rng(0), params)
    model.eval()
    with pytest.raises(ValueError, match=r"SGD.step\(\): params\[1\] is read-only.*eval\(\).*model.train\(\)"):
        opt.step()
    np.testing.assert_array_equal(free.data, np.ones((2, 3)))
    assert not opt.state_dict()["state"]
    before = model.weight.data.copy()
    model.train()
    opt.step()
    assert not np.array_equal(model.weight.data, before)


@pytest.mark.parametrize("grad", [np.ones(4), np.ones((1, 3)), np.ones(3, np.float32)])
def test_a_gradient_that_does_not_fit_is_refused_before_anything_is_written(grad):
    a, b = fastfc.Parameter(np.ones(3)), fastfc.Parameter(np.ones(3))
    a.grad, b.grad = np.ones(3), grad
    with pytest.raises(ValueError, match=r"params\[1\].grad must be float64 of shape \(3,\), got"):
        SGD([a, b], lr=0.1).step()
    np.testing.assert_array_equal(a.data, np.ones(3))


ONE = [fastfc.Parameter(np.ones(3))]


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: SGD(ONE, lr=-0.1), ValueError, r"lr must be finite and >= 0, got -0.1"),
    (lambda: SGD(ONE, lr=math.nan), ValueError, r"lr must be finite and >= 0, got nan"),
    (lambda: SGD(ONE, lr=math.inf), ValueError, r"lr must be finite and >= 0, got inf"),
    (lambda: SGD(ONE, lr=0.1, momentum=-1), ValueError, r"momentum must be finite and >= 0, got -1"),
    (lambda: SGD(ONE, lr=0.1, weight_decay=-1), ValueError, r"weight_decay must be finite and >= 0, got -1"),
    (lambda: SGD(ONE, lr=0.1, nesterov=True), ValueError, r"nesterov needs a momentum > 0, got 0.0"),
    (lambda: SGD([], lr=0.1), ValueError, r"SGD\(\): params is empty"),
    (lambda: SGD(ONE + ONE, lr=0.1), ValueError, r"params holds a Parameter twice"),
    (lambda: SGD([np.ones(3)], lr=0.1), TypeError, r"params\[0\] must be a Parameter, got ndarray"),
    (lambda: SGD(ONE[0], lr=0.1), TypeError, r"params must be an iterable of Parameters.*got Parameter"),
    (lambda: SGD(fastfc.Linear(2, 2), lr=0.1), TypeError, r"params must be an iterable.*got Linear"),
    (lambda: SGD(fastfc.Sequential(fastfc.ReLU()), lr=0.1), TypeError, r"params\[0\] must be a Parameter, got ReLU"),
])
def test_bad_construction(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_saved_and_loaded_states_are_copies():
    p = fastfc.Parameter(np.ones(3))
    opt = SGD([p], lr=0.1, momentum=0.9)
    p.grad = np.ones(3)
    opt.step()
    state = opt.state_dict()
    opt.step()
    np.testing.assert_array_equal(state["state"][0]["momentum_buffer"], np.ones(3))
    opt.load_state_dict(state)
    opt.step()
    np.testing.assert_array_equal(state["state"][0]["momentum_buffer"], np.ones(3))


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.clear(), r"not the state of a SGD"),
    (lambda s: s["param_groups"].clear(), r"expected 1 parameter groups, got 0"),
    (lambda s: s["param_groups"][0].pop("lr"), r"not the state of a SGD: KeyError\('lr'\)"),
    (lambda s: s["param_groups"][0].update(params=[0]), r"expected 2 parameters, got 1"),
    (lambda s: s["param_groups"][0].update(lr=-1.0), r"lr must be finite and >= 0"),
    (lambda s: s["state"].update({5: {"momentum_buffer": np.ones(3)}}), r"unexpected state\[5\]\['momentum_buffer'\]"),
    (lambda s: s["state"][1].update(exp_avg=np.ones(3)), r"unexpected state\[1\]\['exp_avg'\]"),
    (lambda s: s["state"][1].update(momentum_buffer=np.ones(4)), r"of shape \(3,\), got \(4,\)"),
])
def test_bad_state_changes_nothing(change, message):
    params = [fastfc.Parameter(np.ones(3)), fastfc.Parameter(np.ones(3))]
    opt = SGD(params, lr=0.1, momentum=0.9)
    draw(np.random.default_rng(0), params)
    opt.step()
    before, state = pickle.dumps(opt.state_dict()), opt.state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(state)
    assert pickle.dumps(opt.state_dict()) == before


# -- every optimiser ------------------------------------------------------------------------------------------------

ALL = pytest.mark.parametrize("kind", [SGD, Adam, AdamW, Adagrad, RMSprop, SparseAdam])
DENSE = pytest.mark.parametrize(("kind", "options"), [
    (SGD, {}), (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (Adam, {"amsgrad": True}), (AdamW, {}), (Adagrad, {"initial_accumulator_value": 0.1}),
    (RMSprop, {"momentum": 0.9, "centered": True})])


@DENSE
def test_each_loaded_state_goes_on_as_the_saved_one(kind, options):
    runs = []
    for interrupted in (False, True):
        params, rng = make(), np.random.default_rng(1)
        opt = kind(params, **options)
        for step in range(6):
            if interrupted and step == 3:
                state = pickle.loads(pickle.dumps(opt.state_dict()))
                opt = kind(params, lr=7.0)
                opt.load_state_dict(state)
            draw(rng, params)
            opt.step()
        runs.append([p.data for p in params])
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


@DENSE
def test_a_copy_of_model_and_optimiser_goes_on_alike(kind, options):
    params, rng = make(), np.random.default_rng(1)
    opt = kind(params, **options)
    draw(rng, params)
    opt.step()
    params2, opt2 = copy.deepcopy((params, opt))
    params3, opt3 = pickle.loads(pickle.dumps((params, opt)))
    draw(rng, params)
    for other in (params2, params3):
        for p, q in zip(params, other, strict=True):
            q.grad = p.grad.copy()
    for each in (opt, opt2, opt3):
        each.step()
    for p, q, r in zip(params, params2, params3, strict=True):
        np.testing.assert_array_equal(p.data, q.data)
        np.testing.assert_array_equal(p.data, r.data)


BAD_OPTIONS = [(kind, {"lr": lr})
               for kind in (SGD, Adam, AdamW, Adagrad, RMSprop, SparseAdam) for lr in (-1.0, math.nan)]
BAD_OPTIONS += [(kind, {"weight_decay": -0.1}) for kind in (SGD, Adam, AdamW, Adagrad, RMSprop)]
BAD_OPTIONS += [(kind, {"betas": betas}) for kind in (Adam, AdamW, SparseAdam)
                for betas in ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9,), (0.9, math.nan), 0.9)]
BAD_OPTIONS += [(kind, {"eps": -1e-8}) for kind in (Adam, AdamW, Adagrad, RMSprop, SparseAdam)]
BAD_OPTIONS += [(Adagrad, {"lr_decay": -1}), (Adagrad, {"initial_accumulator_value": -1}), (RMSprop, {"alpha": 1.5}),
                (RMSprop, {"alpha": -0.5}), (RMSprop, {"momentum": -1}), (SGD, {"momentum": math.inf}),
                (SGD, {"dampening": math.nan})]


@pytest.mark.parametrize(("kind", "options"), BAD_OPTIONS)
def test_options_out_of_range(kind, options):
    """When it is made, in a group, in an added group, in a loaded state, and in a step: nothing is changed."""
    (name,), value = options, options[next(iter(options))]
    message = rf"{kind.__name__}.*\(\): {name} must be "
    p, other = fastfc.Parameter(np.ones((2, 3))), fastfc.Parameter(np.ones((2, 3)))
    with pytest.raises(ValueError, match=message):
        kind([p], **options)
    with pytest.raises(ValueError, match=message):
        kind([{"params": p, **options}])
    opt = kind([p])
    with pytest.raises(ValueError, match=message):
        opt.add_param_group({"params": other, **options})
    assert opt.params == [p]
    state = opt.state_dict()
    state["param_groups"][0].update(options)
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(state)
    p.grad = fastfc.SparseGrad([1], np.ones((1, 3)), (2, 3)) if kind is SparseAdam else np.ones((2, 3))
    setattr(opt, name, value)
    with pytest.raises(ValueError, match=message):
        opt.step()
    np.testing.assert_array_equal(p.data, np.ones((2, 3)))
    assert not opt.state


@ALL
def test_what_is_no_number(kind):
    with pytest.raises(TypeError, match=r"lr must be a number, got '0.1'"):
        kind(ONE, lr="0.1")


@ALL
def test_every_option_is_an_attribute(kind):
    opt = kind(ONE, lr=0.25)
    assert opt.lr == 0.25
    for name, value in opt.defaults.items():
        assert getattr(opt, name) == value and getattr(kind, name).name == name
    assert repr(opt).startswith(f"{kind.__name__} (\nParameter Group 0\n")
    assert "    lr: 0.25\n" in repr(opt)


# -- groups ---------------------------------------------------------------------------------------------------------

def test_groups_have_options_of_their_own():
    a, b, c = (fastfc.Parameter(np.ones(3)) for _ in range(3))
    opt = SGD([{"params": [a], "lr": 0.5}, {"params": b, "name": "slow"}], lr=0.1)
    opt.add_param_group({"params": iter([c]), "weight_decay": 1.0})
    for p in (a, b, c):
        p.grad = np.ones(3)
    opt.step()
    for p, expected in ((a, 0.5), (b, 0.9), (c, 0.8)):
        np.testing.assert_allclose(p.data, np.full(3, expected))
    assert opt.params == [a, b, c] and opt.param_groups[1]["name"] == "slow"
    with pytest.raises(AttributeError, match=r"lr differs between the parameter groups \(0.5, 0.1, 0.1\); see param"):
        opt.lr  # noqa: B018
    assert opt.momentum == 0.0
    opt.lr = 0.3
    assert [group["lr"] for group in opt.param_groups] == [0.3] * 3 and opt.lr == 0.3


def test_a_state_of_groups_is_loaded_group_by_group():
    def made(lr):
        params = make()
        return params, Adam([{"params": params[:2], "lr": lr}, {"params": params[2:], "betas": (0.5, 0.5)}])
    (params, opt), (others, fresh) = made(0.1), made(0.9)
    draw(np.random.default_rng(0), params)
    opt.step()
    fresh.load_state_dict(opt.state_dict())
    assert fresh.param_groups[0]["lr"] == 0.1 and fresh.param_groups[1]["betas"] == (0.5, 0.5)
    assert fresh.param_groups[1]["params"] == others[2:]
    for p, q in zip(params, others, strict=True):
        np.testing.assert_array_equal(opt.state[p]["exp_avg"], fresh.state[q]["exp_avg"])
        assert opt.state[p]["exp_avg"] is not fresh.state[q]["exp_avg"]


@pytest.mark.parametrize(("group", "error", "message"), [
    ([fastfc.Parameter(np.ones(1))], TypeError, r"a parameter group must be a dict with 'params', got list"),
    ({"lr": 0.1}, ValueError, r"a parameter group needs an entry 'params', got \['lr'\]"),
    ({"params": ONE}, ValueError, r"params holds a Parameter twice"),
    ({"params": [np.ones(3)]}, TypeError, r"params\[0\] must be a Parameter, got ndarray"),
    ({"params": {fastfc.Parameter(np.ones(1))}}, TypeError, r"params must be in an order, got a set"),
])
def test_bad_groups(group, error, message):
    opt = SGD(ONE, lr=0.1)
    with pytest.raises(error, match=r"SGD.add_param_group\(\): " + message):
        opt.add_param_group(group)
    assert len(opt.param_groups) == 1


def test_groups_and_parameters_do_not_mix():
    with pytest.raises(TypeError, match=r"SGD\(\): a parameter group must be a dict with 'params', got Parameter"):
        SGD([{"params": ONE}, fastfc.Parameter(np.ones(1))], lr=0.1)
    with pytest.raises(TypeError, match=r"or a list of dicts, got dict"):
        SGD({"params": ONE}, lr=0.1)


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s["param_groups"].append(s["param_groups"][0]), r"expected 1 parameter groups, got 2"),
    (lambda s: s["param_groups"][0].update(params=[0, 0]), r"param_groups name a parameter twice"),
    (lambda s: s["state"][0].pop("step"), r"state\[0\]\['step'\] is missing"),
    (lambda s: s["state"][1].pop("exp_avg"), r"state\[1\]\['exp_avg'\] is missing"),
    (lambda s: s["state"][0].update(step=-1), r"expected state\[0\]\['step'\] to be a number of steps, got -1"),
    (lambda s: s["state"][0].update(step=np.ones(2)), r"to be a number of steps"),
    (lambda s: s["state"][0].update(exp_avg=np.ones(3, int)), r"expected state\[0\]\['exp_avg'\] of floats, got int64"),
])
def test_bad_states_of_adam(change, message):
    params = [fastfc.Parameter(np.ones(3)), fastfc.Parameter(np.ones(3))]
    opt = Adam(params)
    draw(np.random.default_rng(0), params)
    opt.step()
    before, state = pickle.dumps(opt.state_dict()), opt.state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(state)
    assert pickle.dumps(opt.state_dict()) == before


@pytest.mark.parametrize("value", [np.ones(4), np.ones(3, np.float32), [1.0, 1.0, 1.0], np.ones(6)[::2]])
def test_a_state_that_does_not_fit_is_refused(value):
    """State is open to the caller, and C goes by its shape."""
    a, b = params = [fastfc.Parameter(np.ones(3)), fastfc.Parameter(np.ones(3))]
    opt = Adam(params)
    draw(np.random.default_rng(0), params)
    opt.step()
    opt.state[b]["exp_avg_sq"] = value
    kept = a.data.copy()
    with pytest.raises(ValueError, match=r"Adam.step\(\): state of params\[1\]: 'exp_avg_sq' must be a writeable"):
        opt.step()
    np.testing.assert_array_equal(a.data, kept)
    assert opt.state[a]["step"] == 1


# -- gradients ------------------------------------------------------------------------------------------------------

def test_gradients_of_parts_add_up_to_that_of_the_whole():
    rng = np.random.default_rng(0)
    x, gy = rng.standard_normal((12, 5)), rng.standard_normal((12, 3))
    models = [fastfc.Sequential(fastfc.Linear(5, 4, dtype=np.float64, rng=0), fastfc.ReLU(),
                                fastfc.Linear(4, 3, dtype=np.float64, rng=1)) for _ in range(2)]
    for model, parts in zip(models, (1, 3), strict=True):
        opt = Adam(model.parameters())
        for xs, gs in zip(np.split(x, parts), np.split(gy, parts), strict=True):
            model.vjp(xs)[1](gs)
        opt.step()
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=0, atol=1e-9)


def test_zero_grad_keeps_arrays_if_asked():
    a, b, c = (fastfc.Parameter(np.ones((2, 3))) for _ in range(3))
    opt = SGD([a, b, c], lr=0.1)
    array = a.grad = np.ones((2, 3))
    b.grad = fastfc.SparseGrad([1], np.ones((1, 3)), (2, 3))
    with pytest.raises(TypeError, match=r"set_to_none must be a bool, got ndarray"):
        opt.zero_grad(np.ones(2))
    opt.zero_grad(set_to_none=False)
    assert a.grad is array and not array.any() and b.grad is None and c.grad is None


def test_a_gradient_may_be_the_parameter_itself_or_shared():
    a, b = fastfc.Parameter(np.arange(100.0)), fastfc.Parameter(np.zeros(100))
    a.grad = b.grad = a.data
    SGD([b, a], lr=0.5).step()
    np.testing.assert_array_equal(b.data, np.arange(100.0) * -0.5)
    np.testing.assert_array_equal(a.data, np.arange(100.0) * 0.5)


@ALL
def test_a_gradient_that_is_no_array(kind):
    p = fastfc.Parameter(np.ones(3))
    p.grad = [1.0, 1.0, 1.0]
    with pytest.raises(TypeError, match=r"params\[0\].grad must be an array or a SparseGrad, got list"):
        kind([p]).step()


@pytest.mark.parametrize(("kind", "options", "reason"), [
    (SGD, {"momentum": 0.9}, "SGD takes sparse gradients without momentum and weight_decay only"),
    (SGD, {"weight_decay": 0.1}, "SGD takes sparse gradients without momentum and weight_decay only"),
    (Adagrad, {"weight_decay": 0.1}, "Adagrad takes sparse gradients without weight_decay only"),
    (Adam, {}, "Adam does not take sparse gradients; SGD, Adagrad and SparseAdam do"),
    (AdamW, {}, "AdamW does not take sparse gradients"), (RMSprop, {}, "RMSprop does not take sparse gradients")])
def test_sparse_gradients_are_refused(kind, options, reason):
    a, b = fastfc.Parameter(np.ones(3)), fastfc.Parameter(np.ones((4, 2)))
    a.grad, b.grad = np.ones(3), fastfc.SparseGrad([1], np.ones((1, 2)), (4, 2))
    opt = kind([a, b], **options)
    with pytest.raises(TypeError, match=r"params\[1\].grad is a SparseGrad: " + reason):
        opt.step()
    np.testing.assert_array_equal(a.data, np.ones(3))
    assert not opt.state


def test_sparse_gradients_that_do_not_fit():
    p = fastfc.Parameter(np.ones((4, 2)))
    opt = SGD([p])
    for grad in (fastfc.SparseGrad([1], np.ones((1, 2)), (5, 2)), fastfc.SparseGrad([1], np.ones((1, 2), "f"), (4, 2))):
        p.grad = grad
        with pytest.raises(ValueError, match=r"params\[0\].grad must be float64 of shape \(4, 2\), got"):
            opt.step()
    p.grad = fastfc.SparseGrad([1, 2], np.ones((2, 2)), (4, 2))
    for changed in ([1, 4], [-1, 2]):
        p.grad.indices[:] = changed
        with pytest.raises(ValueError, match="indices have changed"):
            opt.step()
    np.testing.assert_array_equal(p.data, np.ones((4, 2)))


def test_sparse_adam_takes_no_dense_gradient():
    (p,) = params = [fastfc.Parameter(np.ones((4, 2)))]
    p.grad = np.ones((4, 2))
    with pytest.raises(TypeError, match=r"SparseAdam.step\(\): params\[0\].grad is dense, expected a SparseGrad"):
        SparseAdam(params).step()


def test_the_digits_example_learns():
    pytest.importorskip("sklearn", reason="has the data")
    path = Path(__file__).parents[1] / "examples" / "digits.py"
    example = runpy.run_path(str(path))
    model, accuracy, seconds, x_test, y_test = example["train_digits"](quiet=True)
    assert accuracy >= 0.97
    assert accuracy == np.mean(model(x_test).argmax(axis=1) == y_test)
    assert seconds > 0 and not model.training


@pytest.mark.parametrize("change", [lambda opt: opt.betas.__setitem__(0, 1.5), lambda opt: opt.lr.fill(-1)],
                         ids=["a list", "an array"])
def test_an_option_that_changes_in_itself_is_checked(change):
    p = fastfc.Parameter(np.ones(3))
    opt = Adam([p], lr=np.array(0.5), betas=[0.9, 0.999])
    for _ in range(2):
        p.grad = np.ones(3)
        opt.step()
    before = p.data.copy()
    change(opt)
    with pytest.raises(ValueError):
        opt.step()
    np.testing.assert_array_equal(p.data, before)


def test_an_option_that_changes_in_itself_has_effect():
    p = fastfc.Parameter(np.zeros(3))
    opt = SGD([p], lr=np.array(1.0))
    p.grad = np.ones(3)
    opt.step()
    opt.lr.fill(10)
    opt.step()
    np.testing.assert_array_equal(p.data, np.full(3, -11.0))


def test_what_is_no_parameter_in_a_group_is_named():
    p = fastfc.Parameter(np.zeros(3))
    opt = SGD([p], lr=1.0)
    opt.param_groups[0]["params"].append(None)
    for call in (opt.step, opt.zero_grad):
        with pytest.raises(TypeError, match="Parameter, got NoneType"):
            call()


@pytest.mark.parametrize("kind", [SGD, Adam, Adagrad, RMSprop])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_in_the_middle_goes_on_with_the_same_bits(kind, duplicate):
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((4, 5))
    p = fastfc.Parameter(np.ones(5))
    opt = kind([p], lr=0.1)
    for grad in grads[:2]:
        p.grad = grad.copy()
        opt.step()
    q, other = duplicate((p, opt))
    for grad in grads[2:]:
        p.grad, q.grad = grad.copy(), grad.copy()
        opt.step()
        other.step()
    np.testing.assert_array_equal(p.data, q.data)
