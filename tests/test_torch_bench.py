"""The benchmark's compiled rival, which takes its compiler half a minute."""

import pytest

from fastfc.bench import cases, check, rivals

pytest.importorskip("torch", reason="is the rival")


def test_the_compiled_training_step_computes_what_is_asked():
    reason = rivals.TorchCompile.missing()
    if reason:
        pytest.skip(reason)
    case = cases.Case("train", 10, 64, 32, hidden=(128, 64), optimizer="adamw")
    data = cases.make_data(case)
    rival = rivals.TorchCompile()
    rival.set_threads(1)
    task = rival.prepare(case, data)
    task.burst(cases.STEPS - 1)
    check.check(case, data, task.once())
