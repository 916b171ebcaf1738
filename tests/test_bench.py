"""The benchmark suite's logic: what it counts, checks, writes and compares. Nothing here asserts a time."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from fastfc.__main__ import build_parser, main
from fastfc.bench import cases, check, cli, limits, measure, report, rivals
from fastfc.bench.cases import Case


def make_cell(case, seconds, peak=100.0, read=50.0, wrong=None):
    """A cell with made-up times: {entrant: seconds}."""
    timings = {name: measure.Timing([time, 2 * time]) for name, time in seconds.items()}
    if peak:
        timings[limits.PEAK] = measure.Timing([1 / peak])
        timings[limits.READ] = measure.Timing([1 / read])
    return report.make_cell(case, timings, wrong or {}, dict.fromkeys(seconds, "y = linear(x, w)"))


def make_result(cells):
    return {"format": report.FORMAT, "machine": {"cpu": "a CPU"}, "cells": cells}


# ------------------------------------------------------------------------------------------------------- cases


def test_default_cases_are_those_of_the_table():
    dense = cases.cases("forward", threads=(1, 2))
    assert len(dense) == 7 * 6 * 2
    assert {(case.n, case.k) for case in dense} >= {(128, 256), (3072, 768), (1024, 479)}
    assert {case.m for case in dense} == {1, 4, 16, 64, 256, 1024}
    assert len({case.key for case in dense}) == len(dense)
    assert {case.density for case in cases.cases("csr")} == {0.2, 0.1, 0.05}


def test_flops_and_bytes():
    forward = Case("forward", n=10, k=20, m=3)
    assert (forward.flops, forward.weight_bytes, forward.traffic_bytes) == (1200, 800, 800)
    assert Case("forward", 10, 20, 3, "float64").weight_bytes == 1600
    backward = Case("backward", 10, 20, 3)
    assert (backward.flops, backward.traffic_bytes) == (2400, 1600)
    sparse = Case("csr", 10, 20, 3, density=0.1)
    assert sparse.stored == 20
    assert sparse.flops == 120
    assert sparse.weight_bytes == 20 * (4 + 4) + 11 * 4


def test_data_is_the_same_each_time_and_csr_equals_its_dense_twin():
    case = Case("csr-backward", 30, 50, 4, density=0.1)
    data = cases.make_data(case)
    assert len(data.values) == case.stored
    assert data.indptr[-1] == case.stored
    dense = np.zeros((30, 50), np.float32)
    dense[data.rows, data.indices] = data.values
    np.testing.assert_array_equal(dense, data.w)
    cases._make_data.cache_clear()
    np.testing.assert_array_equal(cases.make_data(case).x, data.x)


def test_parse_shapes():
    assert cases.parse_shapes("128x256,10X64,3×4") == ((128, 256), (10, 64), (3, 4))
    for text in ("128", "axb", "0x3", "1x2x3", ""):
        with pytest.raises(ValueError, match=r"shape"):
            cases.parse_shapes(text)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "sideways"}, {"m": 0}, {"threads": 0}, {"dtype": "float16"}, {"density": 0.0}, {"hidden": (3,)},
        {"optimizer": "sgd"}, {"kind": "train", "hidden": (3,)}, {"kind": "train", "optimizer": "sgd"},
        {"kind": "train", "hidden": (3,), "optimizer": "lbfgs"}, {"kind": "feedforward"},
    ],
)  # fmt: skip
def test_a_case_that_cannot_be_is_refused(change):
    with pytest.raises(ValueError):
        Case(**{"kind": "forward", "n": 1, "k": 1, "m": 1, **change})


# ------------------------------------------------------------------------------------------------------ rivals


def everybody():
    small = {"n": 33, "k": 47}
    for kind in cases.KINDS:
        extra = {"activation": "relu", "residual": True} if kind == "epilogue" else {}
        extra |= {"density": 0.2} if kind in cases.SPARSE_KINDS else {}
        extra |= {"hidden": (29,)} if kind in cases.NETWORKS else {}
        extra |= {"optimizer": "adamw"} if kind == "train" else {}
        extra |= {"n": small["k"]} if kind == "feedforward" else {}
        for m in (1, 5):
            for dtype in ("float32", "float64"):
                for name in rivals.RIVALS:
                    case = Case(kind, m=m, dtype=dtype, threads=2, **small | extra)
                    if rivals.RIVALS[name]().supports(case) and name not in ("fastfc-bare", "torch.compile"):
                        yield pytest.param(name, case, id=f"{name}-{kind}-{m}-{dtype}")


@pytest.mark.parametrize("name, case", list(everybody()))
def test_every_rival_computes_what_is_asked(name, case):
    rival = rivals.RIVALS[name]
    if rival.missing():
        pytest.skip(rival.missing())
    rival = rival()
    rival.set_threads(case.threads)
    data = cases.make_data(case)
    before = data.x.copy(), data.w.copy(), data.b.copy()
    task = rival.prepare(case, data)
    task.burst(2)  # an answer that adds itself up must not pass
    check.check(case, data, task.once())
    for array, copy in zip((data.x, data.w, data.b), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_an_unknown_rival_is_named():
    with pytest.raises(ValueError, match="'eigen'"):
        rivals.find(["numpy", "eigen"])


def test_a_missing_rival_is_left_out_with_its_reason(monkeypatch):
    class Absent(rivals.Rival):
        name, modules = "absent", ("a_module_that_is_not_there",)

    monkeypatch.setitem(rivals.RIVALS, "absent", Absent)
    found, missing = rivals.find(["absent", "numpy"])
    assert [rival.name for rival in found] == ["fastfc", "numpy"]
    assert missing == {"absent": "a_module_that_is_not_there is not installed"}


# ------------------------------------------------------------------------------------------------- answer check


def test_check_accepts_a_sound_answer():
    case = Case("forward", 40, 300, 60)
    data = cases.make_data(case)
    check.check(case, data, (data.x @ data.w.T + data.b,))


def spoil_one_element(y, data):
    y[31, 7] += 1e-2
    return y


def spoil_bias(y, data):
    return y - data.b


def spoil_precision(y, data):
    # Inputs rounded to bfloat16: what an engine does that was not asked for float32.
    def rounded(a):
        return (a.view(np.uint32) & 0xFFFF0000).view(np.float32)

    return rounded(data.x) @ rounded(data.w).T + data.b


def spoil_nan(y, data):
    y[59, 39] = np.nan
    return y


def spoil_dtype(y, data):
    return y.astype(np.float64)


def spoil_shape(y, data):
    return y.T


@pytest.mark.parametrize("spoil", [spoil_one_element, spoil_bias, spoil_precision, spoil_nan, spoil_dtype, spoil_shape])
def test_check_catches_a_wrong_answer(spoil):
    case = Case("forward", 40, 300, 60)
    data = cases.make_data(case)
    with pytest.raises(check.Wrong, match="^y"):
        check.check(case, data, (spoil(data.x @ data.w.T + data.b, data),))


@pytest.mark.parametrize(
    "part, what", [(0, "gradient of x"), (1, "gradient of the weight"), (2, "gradient of the bias")]
)
def test_check_catches_a_wrong_gradient(part, what):
    case = Case("backward", 40, 30, 60)
    data = cases.make_data(case)
    answer = [data.gy @ data.w, data.gy.T @ data.x, data.gy.sum(0)]
    check.check(case, data, tuple(answer))
    answer[part] = answer[part] * np.float32(1.001)
    with pytest.raises(check.Wrong, match=what):
        check.check(case, data, tuple(answer))


def trained(case, data):
    """The parameters after the steps of a training case, by numpy."""
    task = rivals.Numpy().prepare(case, data)
    task.burst(cases.STEPS - 1)
    return task.once()


@pytest.mark.parametrize("optimizer", cases.OPTIMIZERS)
@pytest.mark.parametrize(("widths", "batch"), cases.NETS[:2])
def test_a_sound_training_step_is_accepted(optimizer, widths, batch):
    case = Case("train", widths[-1], widths[0], batch, hidden=widths[1:-1], optimizer=optimizer)
    data = cases.make_data(case)
    check.check(case, data, trained(case, data))


@pytest.mark.parametrize(("optimizer", "change"), [
    ("sgd", {"momentum": 0.89}), ("sgd", {"lr": 1.01e-3}), ("adamw", {"lr": 1.01e-4}),
    ("adamw", {"eps": 1e-5}), ("adamw", {"weight_decay": 0.0}), ("adamw", {"weight_decay": 0.2}),
])
def test_check_catches_a_wrong_optimiser(monkeypatch, optimizer, change):
    """(Not Adam's betas: on one batch three steps have one gradient, of which every mean is the same.)"""
    case = Case("train", 10, 64, 32, hidden=(128, 64), optimizer=optimizer)
    data = cases.make_data(case)
    with monkeypatch.context() as patch:
        patch.setitem(cases.OPTIMIZERS, optimizer, {**cases.OPTIMIZERS[optimizer], **change})
        answer = trained(case, data)
    with pytest.raises(check.Wrong, match=r"(weight|bias) \d after 3 steps is off by"):
        check.check(case, data, answer)


def test_check_catches_a_step_left_out_and_a_wrong_gradient():
    case = Case("train", 10, 64, 32, hidden=(128, 64), optimizer="sgd")
    data = cases.make_data(case)
    with pytest.raises(check.Wrong, match="weight 0"):
        check.check(case, data, rivals.Numpy().prepare(case, data).once())
    answer = list(trained(case, data))
    answer[3] = data.biases[1]  # as if there were none
    with pytest.raises(check.Wrong, match="bias 1"):
        check.check(case, data, answer)


def test_numbers_of_a_training_case():
    case = Case("train", 10, 64, 32, hidden=(128, 64), optimizer="adamw")
    weights = 64 * 128 + 128 * 64 + 64 * 10
    assert case.widths == (64, 128, 64, 10) and case.label == "64-128-64-10 adamw"
    assert case.flops == 6 * 32 * weights - 2 * 32 * 64 * 128
    assert case.traffic_bytes == 6 * 4 * weights
    everything = cases.cases("train", threads=(1, 2))
    assert len(everything) == 5 * 2 * 2 and len({c.key for c in everything}) == 20
    assert report.case_of(json.loads(json.dumps({"case": dataclasses.asdict(case)}))) == case


class Liar(rivals.Numpy):
    name = "numpy"

    def prepare(self, case, data):
        task = super().prepare(case, data)
        task.statement += "; y[0] = 0"
        return task


class Crasher(rivals.Scipy):
    name = "scipy"

    def prepare(self, case, data):
        raise RuntimeError("out of order")


def test_a_wrong_or_failing_rival_is_reported_and_not_timed():
    case = Case("forward", 8, 8, 4)
    cell = cli.measure_case(case, [rivals.Fastfc(), Liar(), Crasher()], seconds=0.01, rounds=4)
    assert set(cell["times"]) == {"fastfc"}
    assert "roundings" in cell["wrong"]["numpy"]
    assert cell["wrong"]["scipy"] == "RuntimeError: out of order"


def test_a_wrong_fastfc_is_a_failure(monkeypatch, tmp_path, capsys):
    class Wrong(rivals.Fastfc):
        def prepare(self, case, data):
            return measure.Task("y = x", "y", {"x": np.zeros((case.m, case.n), np.float32)})

    monkeypatch.setitem(rivals.RIVALS, "fastfc", Wrong)
    status = main(small_run(tmp_path, "--picture", ""))
    assert status == 1
    assert "FAILURE: fastfc" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------- measuring


def test_task_runs_its_statement_that_often_and_returns_its_answer():
    calls = []
    task = measure.Task("y = f(x)", "y, x", {"f": lambda x: calls.append(x) or x + 1, "x": 2})
    assert task.burst(5) >= 0
    assert len(calls) == 5
    assert [int(part) for part in task.once()] == [3, 2]


def test_interleave_takes_turns_and_ends_in_time():
    order = []

    def entrant(name):
        return lambda: order.append(name) or 1.0

    timings = measure.interleave({name: entrant(name) for name in "ab"}, seconds=0, rounds=(4, 9))
    assert order == ["a", "b", "b", "a"]
    assert [len(timing.samples) for timing in timings.values()] == [2, 2]


def test_interleave_lets_the_hopeless_rest_and_limits_never():
    entrants = {"fastfc": lambda: 1.0, "slow": lambda: 9.0, limits.PEAK: lambda: 50.0}
    timings = measure.interleave(entrants, seconds=9, rounds=(4, 12), subject="fastfc")
    assert [len(timings[name].samples) for name in entrants] == [12, 6, 12]


@pytest.mark.parametrize("told", (True, False))
def test_rest_lasts_until_other_threads_have_stopped(told, monkeypatch):
    if not told:
        monkeypatch.setattr(measure, "_others_run", lambda: None)
    started, stopped = threading.Event(), threading.Event()

    def busy():
        started.set()
        for _ in range(60):  # without the lock, each for much longer than two threads take to change over
            hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 10_000)
        stopped.set()

    thread = threading.Thread(target=busy)
    thread.start()
    started.wait()
    measure.rest(most=60)
    assert stopped.is_set()
    thread.join()


def test_evictor_runs_and_leaves_the_affinity_alone():
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    measure.Evictor(1 << 20)()
    assert before is None or os.sched_getaffinity(0) == before


def test_apart_gives_the_affinity_back_to_all_threads():
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("no affinity here")
    before = os.sched_getaffinity(0)
    done = threading.Event()
    late = []
    thread = threading.Thread(target=done.wait)
    with measure.Apart() as apart:
        thread.start()
        apart.settle()
        late.append(os.sched_getaffinity(thread.native_id))
        if len(before) > 1 and apart.wanted:
            assert len(os.sched_getaffinity(0)) == 1
            assert late[0] == before - os.sched_getaffinity(0)
    assert os.sched_getaffinity(0) == os.sched_getaffinity(thread.native_id) == before
    done.set()
    thread.join()


def test_neighbours_are_a_number_of_cpus():
    neighbours = measure.Neighbours()
    sum(range(100_000))
    found = neighbours()
    assert found is None or 0 <= found <= 2 * os.cpu_count() + 100  # clock ticks are coarse on so short a time


def test_a_disturbed_cell_is_marked_and_not_averaged():
    quiet = make_cell(Case("forward", 4, 4, 4, threads=2), {"fastfc": 1e-6, "numpy": 2e-6})
    loud = {**make_cell(Case("forward", 4, 4, 8, threads=2), {"fastfc": 9e-6, "numpy": 1e-6}), "neighbours": 0.9}
    assert report.disturbance([quiet]) == ""
    assert "1 of 2 cells" in report.disturbance([quiet, loud])
    text = report.render([quiet, loud])
    assert "disturbed" in text
    assert "BLAS 2.00× (least 2.00×)" in text
    serial = {**make_cell(Case("forward", 4, 4, 8), {"fastfc": 1e-6}), "neighbours": 0.9}
    assert "disturbed" not in report.render([serial])


def test_limits_are_sane():
    entrants = limits.entrants(Case("forward", 64, 64, 4), window=0.001)
    if not entrants:
        pytest.skip("this build has no probes")
    for sample in entrants.values():
        assert 0.01 < 1 / sample() < 1e6  # GFLOP/s, GB/s


# -------------------------------------------------------------------------------------------------------- report


def test_roofline_is_the_lower_of_two_roofs():
    assert limits.roofline(flops=2000, nbytes=4000, peak=100, read=50) == 25
    assert limits.roofline(flops=2e6, nbytes=4000, peak=100, read=50) == 100


def test_row():
    case = Case("forward", 1000, 1000, 10)  # 20 MFLOP on 4 MB
    row = report.row_of(make_cell(case, {"fastfc": 4e-4, "numpy": 8e-4, "scipy": 6e-4, "onnxruntime": 5e-4}))
    assert row.gflops == pytest.approx(50)
    assert (row.blas, row.best) == ("scipy", "onnxruntime")
    assert row.blas_ratio == pytest.approx(1.5)
    assert row.best_ratio == pytest.approx(1.25)
    assert (row.roof, row.bound) == (100, "peak")
    assert row.roof_fraction == pytest.approx(0.5)
    assert report.row_of(make_cell(Case("forward", 1000, 1000, 1), {"fastfc": 1e-4})).bound == "read"


def test_fastfc_in_other_clothes_is_not_a_rival():
    case = Case("forward", 100, 100, 10, threads=2)
    row = report.row_of(make_cell(case, {"fastfc": 1e-4, "fastfc-1t": 5e-5, "numpy": 2e-4}))
    assert row.best == "numpy"
    assert row.speedup == pytest.approx(0.5)


def test_a_packed_sparse_weight_beside_its_dense_twin():
    case = Case("sparse", 64, 64, 16, density=0.1)
    cell = make_cell(case, {"fastfc": 1e-5, "fastfc-dense": 3e-5, "scipy.sparse": 4e-5})
    row = report.row_of(cell)
    assert (row.best, row.over_dense) == ("scipy.sparse", pytest.approx(3.0))
    text = report.render([cell])
    assert "× own dense" in text and "3.00×" in text
    assert "own dense" not in report.render([make_cell(Case("csr", 64, 64, 16, density=0.1), {"fastfc": 1e-5})])


def test_geometric_mean():
    assert report.geometric_mean([1, 4, None]) == pytest.approx(2)
    assert report.geometric_mean([]) is None


def test_tables_say_what_there_is():
    cells = [
        make_cell(Case("forward", 128, 256, 1), {"fastfc": 1e-6, "numpy": 2e-6}),
        make_cell(Case("forward", 128, 256, 16), {"fastfc": 1e-5}, peak=None),
        make_cell(Case("forward", 64, 64, 16), {"numpy": 1e-5}, wrong={"fastfc": "y is off"}),
        make_cell(Case("csr", 64, 64, 16, density=0.1), {"fastfc": 1e-5, "scipy.sparse": 4e-5}),
        make_cell(Case("call", 4, 3, 1), {"fastfc": 1e-6, "fastfc-out": 5e-7, "numpy": 2e-6}),
        make_cell(Case("epilogue", 64, 64, 16, activation="relu"), {"fastfc": 1.1e-5, "fastfc-bare": 1e-5}),
    ]
    text = report.render(cells)
    for part in ("128×256", "2.00×", "numpy", "wrong", "64×64 90% zeros", "4.00×", "1.00 µs (0.50)", "+10.0%", "–"):
        assert part in text
    assert report.wrong_answers(cells) == {"fastfc": ["forward 64×64 batch 16 float32, 1 threads: y is off"]}


def test_result_survives_the_file(tmp_path):
    result = make_result([make_cell(Case("csr", 64, 64, 16, density=0.1), {"fastfc": 1e-5})])
    path = tmp_path / "new" / "folder" / "bench.json"
    report.save(str(path), result)
    assert report.load(str(path)) == result
    assert report.case_of(report.load(str(path))["cells"][0]) == Case("csr", 64, 64, 16, density=0.1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99, "cells": []}', '{"format": 1}'])
def test_a_file_that_is_no_result_is_refused(tmp_path, text):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"old\.json"):
        report.load(str(path))
    with pytest.raises(ValueError, match="cannot read"):
        report.load(str(tmp_path / "none.json"))


# ---------------------------------------------------------------------------------------------------- comparison


def test_compare_takes_the_clock_out():
    case = Case("forward", 128, 256, 16)
    old = make_result([make_cell(case, {"fastfc": 1e-5}, peak=100)])
    slow_day = make_result([make_cell(case, {"fastfc": 2e-5}, peak=50)])
    (change,) = report.compare(old, slow_day)
    assert change.ratio == pytest.approx(1)
    worse = make_result([make_cell(case, {"fastfc": 2e-5}, peak=100)])
    (change,) = report.compare(old, worse)
    assert change.ratio == pytest.approx(2)
    assert report.regressions([change], 0.1) == [change]
    assert "REGRESSION" in report.render_comparison([change], 0.1, old, worse)
    no_peak = make_result([make_cell(case, {"fastfc": 3e-5}, peak=None)])
    assert report.compare(old, no_peak)[0].ratio == pytest.approx(3)


def test_compare_takes_only_common_cells():
    case = Case("forward", 128, 256, 16)
    old = make_result([make_cell(case, {"fastfc": 1e-5})])
    new = make_result([make_cell(dataclasses.replace(case, threads=2), {"fastfc": 1e-5})])
    assert report.compare(old, new) == []
    assert "no cell in common" in report.render_comparison([], 0.1, old, new)


# -------------------------------------------------------------------------------------------------- command line


def small_run(tmp_path, *more):
    return [
        "bench", "--no-digits", "--no-backward", "--shapes", "16x24", "--batches", "3", "--threads", "1",
        "--rivals", "numpy", "--seconds", "0.2", "--json", str(tmp_path / "bench.json"), *more,
    ]  # fmt: skip


def test_end_to_end(tmp_path, capsys, monkeypatch):
    picture = tmp_path / "bench.png"
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")  # read by OpenBLAS when it is loaded: only the note appears
    assert main(small_run(tmp_path, "--picture", str(picture), "--backward", "--calls", "--epilogue")) == 0
    text = capsys.readouterr().out
    assert "16×24" in text
    assert "numpy" in text
    assert "note: OPENBLAS_CORETYPE=Haswell is set" in text
    result = json.loads((tmp_path / "bench.json").read_text())
    assert [cell["case"]["kind"] for cell in result["cells"]][:2] == ["forward", "backward"]
    cell = result["cells"][0]
    assert cell["times"]["fastfc"]["min"] > 0
    assert not cell["wrong"]
    assert {"cpu", "cpus", "caches"} <= set(result["machine"])
    assert {"fastfc", "numpy"} <= set(result["versions"])
    assert result["fastfc"]["isa"]
    pytest.importorskip("matplotlib")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "bench-backward-float32.png").exists()


def test_comparison_on_the_command_line(tmp_path, capsys):
    assert main(small_run(tmp_path, "--picture", "")) == 0
    old = report.load(str(tmp_path / "bench.json"))
    for cell in old["cells"]:
        cell["times"]["fastfc"]["min"] /= 1000
    report.save(str(tmp_path / "old.json"), old)
    compare = ["--picture", "", "--compare", str(tmp_path / "old.json")]
    assert main(small_run(tmp_path, *compare)) == 0
    assert "REGRESSION" in capsys.readouterr().out
    assert main(small_run(tmp_path, *compare, "--fail-on-regression")) == 2


def test_out_of_time_is_said(tmp_path, capsys):
    shapes = ["--shapes", "512x512,512x513,512x514", "--batches", "64", "--seconds", "0.001"]
    assert main(small_run(tmp_path, "--picture", "", *shapes)) == 0
    assert "out of time: 2 cells were not measured" in capsys.readouterr().out
    assert len(report.load(str(tmp_path / "bench.json"))["cells"]) == 1


def test_bad_options_end_with_a_word(tmp_path, capsys):
    for options, word in (
        (["--shapes", "12"], "shape"),
        (["--batches", "0"], "at least 1"),
        (["--kinds", "sideways"], "sideways"),
        (["--dtypes", "float16"], "float16"),
        (["--seconds", "-1"], "above 0"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["bench", *options])
        assert stop.value.code == 2
        assert word in capsys.readouterr().err
    assert main(small_run(tmp_path, "--rivals", "eigen")) == 2
    assert "eigen" in capsys.readouterr().err
    assert main(small_run(tmp_path, "--compare", str(tmp_path / "none.json"))) == 2
    assert "cannot read" in capsys.readouterr().err


def test_quick_is_a_part_of_the_whole():
    def chosen(*options):
        return cli.chosen_cases(build_parser().parse_args(["bench", "--threads", "1,2", *options]))

    whole, quick = chosen(), chosen("--quick")
    assert {case.kind for case in whole} == {"forward", "backward", "sparse", "csr", "csr-backward"}
    assert {case.key for case in quick} <= {case.key for case in whole}
    assert len(quick) < len(whole) / 2
    assert {case.kind for case in chosen("--kinds", "plain,call")} == {"plain", "call"}
    assert all(case.cold for case in chosen("--cold"))
    assert {case.m for case in chosen("--kinds", "train", "--batches", "32")} == {32}


@pytest.mark.parametrize("arguments, words", [([], "info"), (["--help"], "bench"), (["bench", "--help"], "--compare")])
def test_help(arguments, words):
    run = subprocess.run([sys.executable, "-I", "-m", "fastfc", *arguments], capture_output=True, text=True)
    if "No module named" in run.stderr:
        pytest.skip("fastfc is not installed here")
    assert run.returncode == 0, run.stderr
    assert words in run.stdout


def test_info(capsys):
    assert main(["info"]) == 0
    assert "isa" in capsys.readouterr().out


def test_digits():
    pytest.importorskip("sklearn")
    from fastfc.bench import digits

    result = digits.run()
    assert result["accuracy"] >= digits.LEAST_ACCURACY
    assert "held-out accuracy" in digits.describe(result)


def test_importing_fastfc_does_not_import_the_bench():
    code = "import sys, fastfc; print([m for m in sys.modules if m.startswith(('fastfc.bench', 'scipy'))])"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"], capture_output=True, text=True
    )
    assert run.stdout.strip() == "[]", run.stderr
