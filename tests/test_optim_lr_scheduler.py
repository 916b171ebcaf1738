"""Schedules: saved and loaded, and what they refuse. Their numbers are compared in test_torch_optim.py."""

import math
import pickle

import numpy as np
import pytest

import fastfc
from fastfc.optim import (
    SGD,
    Adagrad,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)


def make(kind=SGD, **options):
    groups = [{"params": fastfc.Parameter(np.ones(2))}, {"params": fastfc.Parameter(np.ones(2)), "lr": 0.4}]
    return kind(groups, lr=0.1, **options)


def sequence(optimizer):
    return SequentialLR(optimizer, [LinearLR(optimizer, total_iters=2), CosineAnnealingLR(optimizer, 4)], [3])


def nested(optimizer):
    return SequentialLR(optimizer, [StepLR(optimizer, 1, 0.5), sequence(optimizer)], [2])


MAKERS = [
    lambda o: StepLR(o, 3), lambda o: MultiStepLR(o, [2, 7], 0.5), lambda o: LinearLR(o, total_iters=8),
    lambda o: CosineAnnealingLR(o, 5), lambda o: LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    lambda o: OneCycleLR(o, 0.5, total_steps=12), sequence, nested,
]


@pytest.mark.parametrize("maker", MAKERS)
def test_a_loaded_schedule_goes_on_as_the_saved_one(maker):
    rates = []
    for interrupted in (False, True):
        opt = make(momentum=0.9)
        schedule, seen = maker(opt), []
        for step in range(11):
            if interrupted and step == 6:
                saved = pickle.loads(pickle.dumps((opt.state_dict(), schedule.state_dict())))
                opt = make(momentum=0.9)
                schedule = maker(opt)
                opt.load_state_dict(saved[0])
                schedule.load_state_dict(saved[1])
            schedule.step()
            assert schedule.get_last_lr() == [group["lr"] for group in opt.param_groups]
            seen.append((schedule.get_last_lr(), [group["momentum"] for group in opt.param_groups]))
        rates.append(seen)
    assert rates[0] == rates[1]


def test_a_loaded_plateau_goes_on_as_the_saved_one():
    rates = []
    for interrupted in (False, True):
        opt = make()
        schedule, seen = ReduceLROnPlateau(opt, patience=2, factor=0.5), []
        for step in range(12):
            if interrupted and step == 5:
                saved = pickle.loads(pickle.dumps((opt.state_dict(), schedule.state_dict())))
                opt = make()
                schedule = ReduceLROnPlateau(opt)
                opt.load_state_dict(saved[0])
                schedule.load_state_dict(saved[1])
            schedule.step(1.0)
            seen.append(schedule.get_last_lr())
        rates.append(seen)
    assert rates[0] == rates[1] and rates[0][-1] != rates[0][0]


def test_a_saved_schedule_is_a_copy():
    opt = make()
    schedule = MultiStepLR(opt, [2])
    saved = schedule.state_dict()
    saved["base_lrs"][0] = 7.0
    assert schedule.base_lrs == [0.1, 0.4]
    schedule.load_state_dict(saved)
    saved["milestones"].append(5)
    assert schedule.base_lrs == [7.0, 0.4] and schedule.milestones == [2]
    schedule.get_last_lr()[0] = 3.0
    assert schedule.get_last_lr()[0] == 0.1


def test_a_sequence_of_sequences():
    opt = make()
    schedule, rates = nested(opt), []
    for _ in range(10):
        rates.append(opt.param_groups[0]["lr"])
        schedule.step()
    expected = [1, 0.5, 1 / 3, 2 / 3, 1, *((1 + math.cos(math.pi * i / 4)) / 2 for i in range(5))]
    np.testing.assert_allclose(rates, 0.1 * np.array(expected), atol=1e-15)


def test_a_rate_of_the_optimiser_is_what_the_next_step_uses():
    opt = make()
    p = opt.params[0]
    schedule = StepLR(opt, 1, 0.5)
    p.grad = np.ones(2)
    opt.step()
    schedule.step()
    opt.step()
    np.testing.assert_allclose(p.data, np.full(2, 1 - 0.1 - 0.05))


OPT = make()


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: StepLR(5, 3), TypeError, r"StepLR\(\): optimizer must be an Optimizer, got int"),
    (lambda: StepLR(OPT, 0), ValueError, r"StepLR\(\): step_size must be an integer > 0, got 0"),
    (lambda: StepLR(OPT, 1.5), ValueError, r"step_size must be an integer > 0, got 1.5"),
    (lambda: StepLR(make(), 1, last_epoch=3), ValueError, r"but param_groups\[0\] has no 'initial_lr'"),
    (lambda: CosineAnnealingLR(OPT, 0), ValueError, r"T_max must be an integer > 0, got 0"),
    (lambda: LinearLR(OPT, 0.0), ValueError, r"start_factor must be in \(0, 1\], got 0.0"),
    (lambda: LinearLR(OPT, 0.5, 2.0), ValueError, r"end_factor must be in \[0, 1\], got 2.0"),
    (lambda: LinearLR(OPT, total_iters=0), ValueError, r"total_iters must be an integer > 0, got 0"),
    (lambda: LambdaLR(OPT, [math.sin]), ValueError, r"a function or 2 of them, one a group, got 1"),
    (lambda: LambdaLR(OPT, 3), TypeError, r"lr_lambda must be callable, got int"),
    (lambda: LambdaLR(5, math.sin), TypeError, r"optimizer must be an Optimizer, got int"),
    (lambda: OneCycleLR(5, 1.0, 10), TypeError, r"optimizer must be an Optimizer, got int"),
    (lambda: OneCycleLR(OPT, 1.0), ValueError, r"needs total_steps, or epochs and steps_per_epoch"),
    (lambda: OneCycleLR(OPT, 1.0, 0), ValueError, r"total_steps must be an integer > 0, got 0"),
    (lambda: OneCycleLR(OPT, 1.0, epochs=2, steps_per_epoch=0), ValueError, r"steps_per_epoch must be an integer > 0"),
    (lambda: OneCycleLR(OPT, 1.0, 10, pct_start=1.5), ValueError, r"pct_start must be in \[0, 1\], got 1.5"),
    (lambda: OneCycleLR(OPT, 1.0, 10, anneal_strategy="sin"), ValueError, r"must be 'cos' or 'linear', got 'sin'"),
    (lambda: OneCycleLR(OPT, 1.0, 10, three_phase=np.ones(2)), TypeError, r"three_phase must be a bool, got ndarray"),
    (lambda: OneCycleLR(OPT, [1.0], 10), ValueError, r"max_lr must be a number or 2 of them, one a group, got 1"),
    (lambda: OneCycleLR(make(Adagrad), 1.0, 10), ValueError, r"Adagrad has no momentum or betas for cycle_momentum"),
    (lambda: SequentialLR(OPT, [], []), ValueError, r"one milestone fewer, got 0 schedulers and 0 milestones"),
    (lambda: SequentialLR(OPT, [StepLR(OPT, 1)], [2]), ValueError, r"got 1 schedulers and 1 milestones"),
    (lambda: SequentialLR(OPT, [StepLR(OPT, 1)] * 3, [3, 2]), ValueError, r"milestones must ascend, got \[3, 2\]"),
    (lambda: SequentialLR(OPT, [StepLR(make(), 1)], []), ValueError, r"schedulers\[0\] belongs to another optimizer"),
    (lambda: SequentialLR(OPT, [ReduceLROnPlateau(OPT)], []), TypeError, r"schedulers\[0\] must be .* got Reduce"),
    (lambda: ReduceLROnPlateau(5), TypeError, r"optimizer must be an Optimizer, got int"),
    (lambda: ReduceLROnPlateau(OPT, factor=1.0), ValueError, r"factor must be < 1, got 1.0"),
    (lambda: ReduceLROnPlateau(OPT, "least"), ValueError, r"mode must be 'min' or 'max', got 'least'"),
    (lambda: ReduceLROnPlateau(OPT, threshold_mode="x"), ValueError, r"threshold_mode must be 'rel' or 'abs', got 'x'"),
    (lambda: ReduceLROnPlateau(OPT, min_lr=[0.1]), ValueError, r"min_lr must be a number or 2 of them"),
    (lambda: StepLR(OPT, 1).load_state_dict({}), ValueError, r"StepLR.load_state_dict\(\): not the state .* step_size"),
])
def test_bad_input_changes_nothing(call, error, message):
    before = [(group["lr"], group["momentum"]) for group in OPT.param_groups]
    with pytest.raises(error, match=message):
        call()
    assert [(group["lr"], group["momentum"]) for group in OPT.param_groups] == before or "Step" in message


def test_too_many_steps_of_one_cycle():
    schedule = OneCycleLR(make(), 0.5, total_steps=2)
    for _ in range(2):
        schedule.step()
    with pytest.raises(ValueError, match=r"OneCycleLR.step\(\): called 3 times, total_steps is 2"):
        schedule.step()
