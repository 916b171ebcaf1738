"""Benchmarks for pytest-benchmark: `pytest benchmarks --benchmark-only`, or `make benchmarks`.

Cases and rivals are those of `python -m fastfc bench`, whose interleaved rounds are what ratios should be read from;
these files are for following one number over time (``--benchmark-autosave``, ``--benchmark-compare``).
"""

import pytest

from fastfc.bench import cases, check, rivals


def pytest_addoption(parser):
    group = parser.getgroup("fastfc")
    group.addoption("--rivals", default="numpy,scipy,scipy.sparse", help="which rivals, 'all' for all installed")
    group.addoption("--shapes", default=None, help="NxK,…: instead of a few by default")
    group.addoption("--batches", default=None, help="M,…: instead of a few by default")
    group.addoption("--fc-threads", default="1", help="T,…: thread counts")
    group.addoption("--dtypes", default="float32", help="float32,float64")


def pytest_generate_tests(metafunc):
    """A test that asks for `case` and `rival` runs for each pair of which the rival is capable."""
    if "case" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    wanted = option("--rivals")
    found, _ = rivals.find(None if wanted == "all" else wanted.split(","))
    batches = option("--batches")
    pairs = []
    for kind in metafunc.module.KINDS:
        dense = kind not in cases.SPARSE_KINDS and kind != "call"
        chosen = cases.cases(
            kind,
            cases.parse_shapes(option("--shapes")) if option("--shapes") else cases.QUICK_SHAPES if dense else None,
            [int(m) for m in batches.split(",")] if batches else cases.QUICK_BATCHES if dense else None,
            option("--dtypes").split(","),
            [int(t) for t in option("--fc-threads").split(",")],
            cases.DENSITIES[1:2],
        )
        pairs += [(case, rival) for case in chosen for rival in found if rival.supports(case)]

    def name(case, rival):
        label = case.label.replace("×", "x").replace(" ", "-")
        return f"{case.kind}-{label}-m{case.m}-{case.dtype}-{case.threads}t-{rival.name}"

    metafunc.parametrize("case,rival", pairs, ids=[name(*pair) for pair in pairs])


@pytest.fixture
def measure(benchmark, case, rival):
    """Check the rival's answer, then time its statement; rivals of one case are grouped in the table."""

    def run():
        data = cases.make_data(case)
        rival.set_threads(case.threads)
        task = rival.prepare(case, data)
        check.check(case, data, task.once())
        benchmark.group = f"{case.kind} {case.label} batch {case.m} {case.dtype} {case.threads}t"
        benchmark.extra_info.update(flops=case.flops, statement=task.statement, version=rival.version())
        benchmark(task.call())

    return run
