"""SGD against a transcription of its formula and against torch."""

import math
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest

import fastfc
from fastfc.optim import SGD

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


@SETTINGS
def test_against_torch(settings):
    torch = pytest.importorskip("torch", reason="compares with torch.optim.SGD")
    ours, rng = make(), np.random.default_rng(1)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in ours]
    settings = {"lr": 0.1, **settings}
    a, b = SGD(ours, **settings), torch.optim.SGD(theirs, **settings)
    for _ in range(20):
        draw(rng, ours)
        for p, q in zip(ours, theirs, strict=True):
            q.grad = torch.from_numpy(p.grad.copy())
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-12, atol=1e-14)


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


def test_any_layout_of_the_gradient():
    p = fastfc.Parameter(np.zeros((3, 4)))
    p.grad = np.arange(12.0).reshape(4, 3).T
    SGD([p], lr=1.0).step()
    np.testing.assert_array_equal(p.data, -np.arange(12.0).reshape(4, 3).T)


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


@SETTINGS
def test_a_loaded_state_goes_on_as_the_saved_one(settings):
    settings = {"lr": 0.1, **settings}
    runs = []
    for interrupted in (False, True):
        params, rng = make(), np.random.default_rng(1)
        opt = SGD(params, **settings)
        for step in range(6):
            if interrupted and step == 3:
                state = pickle.loads(pickle.dumps(opt.state_dict()))
                opt = SGD(params, lr=7.0)
                opt.load_state_dict(state)
            draw(rng, params)
            opt.step()
        runs.append([p.data for p in params])
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


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


def test_state_dict_has_torchs_form():
    torch = pytest.importorskip("torch", reason="compares the form of the state with torch.optim.SGD's")
    ours, theirs = [fastfc.Parameter(np.ones(3))], [torch.nn.Parameter(torch.ones(3))]
    a, b = SGD(ours, lr=0.1, momentum=0.9), torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    ours[0].grad, theirs[0].grad = np.ones(3), torch.ones(3)
    a.step()
    b.step()
    mine, torchs = a.state_dict(), b.state_dict()
    assert mine["state"].keys() == torchs["state"].keys()
    assert mine["state"][0].keys() == torchs["state"][0].keys()
    (group,), (torch_group,) = mine["param_groups"], torchs["param_groups"]
    assert group.items() <= torch_group.items()
    a.load_state_dict(torchs)
    np.testing.assert_array_equal(a.state_dict()["state"][0]["momentum_buffer"], np.ones(3))


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


def test_the_digits_example_learns():
    pytest.importorskip("sklearn", reason="has the data")
    path = Path(__file__).parents[1] / "examples" / "digits.py"
    example = runpy.run_path(str(path))
    model, accuracy, seconds, x_test, y_test = example["train_digits"](quiet=True)
    assert accuracy >= 0.97
    assert accuracy == np.mean(model(x_test).argmax(axis=1) == y_test)
    assert seconds > 0 and not model.training
