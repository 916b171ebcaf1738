"""Twenty steps of every optimiser, every schedule, and clipping, against torch on identical gradients."""

import itertools
import math

import numpy as np
import pytest

import fastfc
from fastfc import optim

torch = pytest.importorskip("torch", reason="compares with torch.optim")

SHAPES = [(3, 4), (5,), (), (0, 3), (2, 8199), (64, 33)]
OPTIONS = {
    "SGD": [{}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
            {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}, {"maximize": True, "momentum": 0.5}, {"lr": 0}],
    "Adam": [{}, {"betas": (0.4, 0.7)}, {"weight_decay": 0.1}, {"amsgrad": True, "eps": 1e-3}, {"maximize": True},
             {"betas": (0.0, 0.9)}, {"decoupled_weight_decay": True, "weight_decay": 0.1}],
    "AdamW": [{}, {"weight_decay": 0.3}, {"amsgrad": True, "betas": (0.8, 0.95)}, {"maximize": True}],
    "Adagrad": [{}, {"lr_decay": 0.1, "weight_decay": 0.1}, {"maximize": True},
                {"initial_accumulator_value": 0.5, "eps": 1e-3}],
    "RMSprop": [{}, {"momentum": 0.9}, {"centered": True, "alpha": 0.8}, {"weight_decay": 0.1, "eps": 1e-3},
                {"centered": True, "momentum": 0.5, "weight_decay": 0.1, "maximize": True}],
}
EACH = pytest.mark.parametrize(("name", "options"),
                               [(name, options) for name, several in OPTIONS.items() for options in several])
DEFAULT_LR = {"SGD": 0.1, "Adagrad": 0.1}


def pair(name, options, dtype, shapes=SHAPES, seed=0):
    """Our optimiser and torch's, on equal parameters."""
    rng = np.random.default_rng(seed)
    ours = [fastfc.Parameter(np.array(rng.standard_normal(shape), dtype)) for shape in shapes]
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in ours]
    options = {"lr": DEFAULT_LR.get(name, 0.01), **options}
    made = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, foreach=False, **options)
    return *made, ours, theirs


def draw(rng, ours, theirs):
    for p, q in zip(ours, theirs, strict=True):
        p.grad = np.array(rng.standard_normal(p.data.shape), p.data.dtype)
        q.grad = torch.from_numpy(p.grad.copy())


def assert_close(ours, theirs, dtype):
    for p, q in zip(ours, theirs, strict=True):
        expected = q.detach().numpy()
        error = np.linalg.norm((p.data - expected).ravel())
        assert error <= (1e-10 if dtype == np.float64 else 1e-5) * np.linalg.norm(expected.ravel())


@EACH
def test_twenty_steps(name, options, dtype, isa):
    a, b, ours, theirs = pair(name, options, dtype)
    rng = np.random.default_rng(1)
    for _ in range(20):
        draw(rng, ours, theirs)
        a.step()
        b.step()
    assert_close(ours, theirs, dtype)


@EACH
def test_defaults_and_options_are_torchs(name, options):
    a, b, _, _ = pair(name, options, np.float64)
    (mine,), (torchs,) = a.param_groups, b.param_groups
    assert {key: value for key, value in mine.items() if key != "params"}.items() <= torchs.items()
    params = [fastfc.Parameter(np.ones(1))]
    (mine,) = getattr(optim, name)(params).param_groups
    (torchs,) = getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(1))]).param_groups
    assert {key: value for key, value in mine.items() if key != "params"}.items() <= torchs.items()


def to_torch(state):
    return {"param_groups": state["param_groups"],
            "state": {i: {name: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else
                          torch.tensor(float(value)) for name, value in slots.items()}
                      for i, slots in state["state"].items()}}


@EACH
def test_states_go_both_ways(name, options, dtype):
    """Ten steps here go on in torch, and ten of torch's here, as if they had been made there."""
    a, b, ours, theirs = pair(name, options, dtype)
    rng = np.random.default_rng(1)
    for _ in range(10):
        draw(rng, ours, theirs)
        a.step()
        b.step()
    c, d, ours2, theirs2 = pair(name, {"lr": 7.0}, dtype)
    for p, q, mine, torchs in zip(ours2, theirs2, ours, theirs, strict=True):
        p.data = torchs.detach().numpy().copy()
        q.data = torch.from_numpy(mine.data.copy())
    saved, torchs = a.state_dict(), b.state_dict()
    assert saved["state"].keys() == torchs["state"].keys()
    for i, slots in saved["state"].items():
        assert slots.keys() == torchs["state"][i].keys()
    c.load_state_dict(torchs)
    groups = [{**theirs, **mine} for mine, theirs in zip(saved["param_groups"], torchs["param_groups"], strict=True)]
    d.load_state_dict(to_torch({**saved, "param_groups": groups}))
    for _ in range(10):
        draw(rng, ours, theirs)
        for p, q, g in zip(ours2, theirs2, ours, strict=True):
            p.grad, q.grad = g.grad.copy(), torch.from_numpy(g.grad.copy())
        for optimizer in (a, b, c, d):
            optimizer.step()
    assert_close(ours, theirs, dtype)
    assert_close(ours2, theirs, dtype)
    assert_close(ours, theirs2, dtype)


def test_parameter_groups(dtype):
    rng = np.random.default_rng(0)
    ours = [fastfc.Parameter(np.array(rng.standard_normal(shape), dtype)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in ours]
    made = []
    for module, params in ((optim, ours), (torch.optim, theirs)):
        groups = [{"params": params[:2], "weight_decay": 0.3}, {"params": params[2], "lr": 0.05}]
        optimizer = module.AdamW(groups, lr=0.01)
        optimizer.add_param_group({"params": params[3:], "betas": (0.5, 0.9)})
        made.append(optimizer)
    a, b = made
    for _ in range(20):
        draw(rng, ours, theirs)
        a.step()
        b.step()
    assert_close(ours, theirs, dtype)
    mine, torchs = ([group["params"] for group in optimizer.state_dict()["param_groups"]] for optimizer in made)
    assert mine == torchs


def test_a_parameter_that_has_no_gradient_at_times():
    """Its own steps count, not those of the optimiser."""
    a, b, ours, theirs = pair("Adam", {}, np.float64)
    rng = np.random.default_rng(1)
    for step in range(20):
        draw(rng, ours, theirs)
        if step % 3:
            ours[0].grad = theirs[0].grad = None
        a.step()
        b.step()
    assert_close(ours, theirs, np.float64)


@pytest.mark.parametrize(("name", "options"), [
    ("SGD", {}), ("SGD", {"maximize": True}), ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}), ("SparseAdam", {}),
    ("SparseAdam", {"betas": (0.5, 0.9), "maximize": True})])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_gradients(name, options, dtype):
    rng, shape = np.random.default_rng(0), (50, 7)
    table = fastfc.Parameter(rng.standard_normal(shape).astype(dtype))
    torchs = torch.nn.Parameter(torch.from_numpy(table.data.copy()))
    a, b = getattr(optim, name)([table], lr=0.1, **options), getattr(torch.optim, name)([torchs], lr=0.1, **options)
    for _ in range(20):
        indices = rng.integers(0, 40, 30)
        table.grad = fastfc.SparseGrad(indices, rng.standard_normal((30, 7)).astype(dtype), shape)
        torchs.grad = torch.sparse_coo_tensor(indices[None], table.grad.values, shape, check_invariants=False)
        a.step()
        b.step()
    assert_close([table], [torchs], dtype)


# -- schedules --------------------------------------------------------------------------------------------------------

SCHEDULES = [
    ("StepLR", {"step_size": 3}), ("StepLR", {"step_size": 1, "gamma": 0.9}),
    ("MultiStepLR", {"milestones": [2, 5, 5, 9]}), ("MultiStepLR", {"milestones": [4], "gamma": 0.5}),
    ("CosineAnnealingLR", {"T_max": 5}),
    ("CosineAnnealingLR", {"T_max": 20, "eta_min": 0.01}), ("CosineAnnealingLR", {"T_max": 1}),
    ("LinearLR", {}), ("LinearLR", {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 7}),
    ("LambdaLR", {"lr_lambda": lambda epoch: 0.9 ** epoch}),
    ("LambdaLR", {"lr_lambda": [lambda epoch: 0.9 ** epoch, lambda epoch: 1 / (1 + epoch)]}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 25}),
    ("OneCycleLR", {"max_lr": [0.5, 0.1], "epochs": 5, "steps_per_epoch": 5}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 25, "anneal_strategy": "linear", "three_phase": True,
                    "pct_start": 0.4}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 30, "cycle_momentum": False, "div_factor": 5.0,
                    "final_div_factor": 10.0}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 30, "base_momentum": [0.7, 0.8], "max_momentum": 0.99,
                    "pct_start": 0.0}),
]


def two_groups(module, kind, **options):
    make = (lambda: fastfc.Parameter(np.ones(2))) if module is optim else (lambda: torch.nn.Parameter(torch.ones(2)))
    return getattr(module, kind)([{"params": [make()]}, {"params": [make()], "lr": 0.3}], lr=0.1, **options)


def follow(a, b, theirs, ours, steps=25):
    for _ in range(steps):
        for mine, torchs in zip(a.param_groups, b.param_groups, strict=True):
            assert mine["lr"] == pytest.approx(torchs["lr"], rel=1e-12, abs=1e-15)
            for name in ("momentum", "betas"):
                if name in mine:
                    assert mine[name] == pytest.approx(torchs[name], rel=1e-12)
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12, abs=1e-15)
        assert ours.last_epoch == theirs.last_epoch
        b.step()
        theirs.step()
        ours.step()


@pytest.mark.parametrize(("name", "arguments"), SCHEDULES)
@pytest.mark.parametrize(("kind", "options"), [("SGD", {"momentum": 0.9}), ("Adam", {})])
def test_schedules(name, arguments, kind, options):
    a, b = two_groups(optim, kind, **options), two_groups(torch.optim, kind, **options)
    follow(a, b, getattr(torch.optim.lr_scheduler, name)(b, **arguments), getattr(optim, name)(a, **arguments))


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(
    [i for i, (name, arguments) in enumerate(SCHEDULES) if name != "OneCycleLR"], 2)))
def test_one_schedule_after_another(first, second):
    a, b, made = two_groups(optim, "SGD"), two_groups(torch.optim, "SGD"), []
    for optimizer, module in ((a, optim), (b, torch.optim.lr_scheduler)):
        parts = [getattr(module, SCHEDULES[i][0])(optimizer, **SCHEDULES[i][1]) for i in (first, second)]
        made.append(module.SequentialLR(optimizer, parts, milestones=[4]))
    follow(a, b, made[1], made[0])


def test_two_schedules_at_once():
    """Both work on the rate as they find it."""
    a, b = two_groups(optim, "SGD"), two_groups(torch.optim, "SGD")
    pairs = [(module.LinearLR(optimizer, total_iters=4), module.StepLR(optimizer, 3),
              module.CosineAnnealingLR(optimizer, 10))
             for optimizer, module in ((a, optim), (b, torch.optim.lr_scheduler))]
    for _ in range(20):
        b.step()
        for mine, torchs in zip(*pairs, strict=True):
            mine.step()
            torchs.step()
        for mine, torchs in zip(a.param_groups, b.param_groups, strict=True):
            assert mine["lr"] == pytest.approx(torchs["lr"], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("name", "arguments"), SCHEDULES)
def test_going_on_from_an_epoch(name, arguments):
    made = []
    for module, schedules in ((optim, optim), (torch.optim, torch.optim.lr_scheduler)):
        optimizer = two_groups(module, "SGD", momentum=0.9)
        before = getattr(schedules, name)(optimizer, **arguments)
        for _ in range(4):
            optimizer.step()
            before.step()
        made.append((optimizer, getattr(schedules, name)(optimizer, last_epoch=before.last_epoch, **arguments)))
    (a, ours), (b, theirs) = made
    follow(a, b, theirs, ours, steps=18)


@pytest.mark.parametrize("arguments", [
    {}, {"patience": 2, "factor": 0.5}, {"mode": "max", "patience": 1},
    {"threshold_mode": "abs", "threshold": 0.2, "patience": 1},
    {"mode": "max", "threshold_mode": "abs", "threshold": 0.2, "patience": 1},
    {"cooldown": 3, "patience": 1, "min_lr": 0.02},
    {"min_lr": [0.05, 0.01], "patience": 0}, {"eps": 0.05, "patience": 0}])
def test_reduce_on_plateau(arguments):
    a, b = two_groups(optim, "SGD"), two_groups(torch.optim, "SGD")
    ours, theirs = optim.ReduceLROnPlateau(a, **arguments), torch.optim.lr_scheduler.ReduceLROnPlateau(b, **arguments)
    rng = np.random.default_rng(0)
    for epoch in range(40):
        metric = float(rng.normal(5 - 0.1 * epoch)) if epoch != 7 else math.nan
        ours.step(metric)
        theirs.step(metric)
        assert [g["lr"] for g in a.param_groups] == pytest.approx([g["lr"] for g in b.param_groups], rel=1e-14)
        assert (ours.num_bad_epochs, ours.best) == (theirs.num_bad_epochs, theirs.best)


# -- clipping ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("norm_type", [2.0, 1.0, math.inf, 3.5, 0.5])
@pytest.mark.parametrize("max_norm", [0.0, 1.0, 1e6])
def test_clip_grad_norm(norm_type, max_norm, dtype):
    shapes = [shape for shape in SHAPES if 0 not in shape]
    _, _, ours, theirs = pair("SGD", {}, dtype, shapes)
    draw(np.random.default_rng(1), ours, theirs)
    norm = fastfc.clip_grad_norm_(ours, max_norm, norm_type)
    # torch adds float32 up in float32: its own error is the larger one.
    assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type).item(),
                                 rel=1e-12 if dtype == np.float64 else 2e-5)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-12 if dtype == np.float64 else 2e-5, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_clipping_a_norm_that_is_not_finite(bad, dtype):
    _, _, ours, theirs = pair("SGD", {}, dtype, [(4,), (3, 3)])
    draw(np.random.default_rng(1), ours, theirs)
    ours[0].grad[2] = bad
    theirs[0].grad[2] = bad
    norm, torchs = fastfc.clip_grad_norm_(ours, 1.0), torch.nn.utils.clip_grad_norm_(theirs, 1.0).item()
    assert norm == torchs or (math.isnan(norm) and math.isnan(torchs))
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(p.grad, q.grad.numpy())


def test_clip_grad_value(dtype):
    _, _, ours, theirs = pair("SGD", {}, dtype)
    draw(np.random.default_rng(1), ours, theirs)
    ours[0].grad[0, 0] = theirs[0].grad[0, 0] = math.nan
    ours[0].grad[0, 1] = theirs[0].grad[0, 1] = -math.inf
    fastfc.clip_grad_value_(ours, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(p.grad, q.grad.numpy())
