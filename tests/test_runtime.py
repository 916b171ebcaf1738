"""Targets and threads: what is chosen at import, from what, and how it is changed."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fastfc
from fastfc import _core, runtime


def python(script, timeout=100, **environment):
    """Runs a script in a fresh interpreter that finds this fastfc; variables that are None are unset."""
    variables = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, [fastfc_folder(), *sys.path])))
    for name in ("FASTFC_ISA", "FASTFC_NUM_THREADS", "OMP_NUM_THREADS"):
        variables.pop(name, None)
    variables.update(environment)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=timeout, env=variables
    )


def fastfc_folder():
    return os.path.dirname(os.path.dirname(os.path.abspath(fastfc.__file__)))


# ---- Targets --------------------------------------------------------------------------------------------------------


def test_available_isas():
    names = fastfc.available_isas()
    assert names[-1] == "scalar" and "baseline" in names and len(set(names)) == len(names)
    assert set(names) <= {"avx512", "avx2", "neon", "baseline", "scalar"}
    names.clear()
    assert fastfc.available_isas()


def test_targets_are_those_of_this_cpu():
    """As the operating system lists the CPU's features."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next(set(line.split(":")[1].split()) for line in file if line.startswith("flags"))
    except (OSError, StopIteration):
        pytest.skip("no list of CPU features")
    names = fastfc.available_isas()
    assert ("avx2" in names) == ({"avx2", "fma"} <= flags)
    assert ("avx512" in names) == ({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma"} <= flags)


def test_best_target_is_chosen():
    result = python("import fastfc; print(fastfc.current_isa(), fastfc.available_isas()[0])")
    current, best = result.stdout.split()
    assert current == best, result.stderr


@pytest.mark.parametrize("name", fastfc.available_isas())
def test_environment_chooses_the_target(name):
    result = python(
        "import fastfc, numpy as np\n"
        "print(fastfc.current_isa(), fastfc.pack(np.ones((1, 1))).isa, fastfc.show_config()['isa'])\n"
        "x = np.arange(12.).reshape(3, 4); assert (fastfc.linear(x, x) == x @ x.T).all()",
        FASTFC_ISA=name,
    )
    assert result.stdout.split() == [name] * 3, result.stderr


@pytest.mark.parametrize(
    "name", ["avx1024", "AVX2", "neon" if "neon" not in fastfc.available_isas() else "avx2", "avx2,scalar"]
)
def test_unknown_target_is_an_error_at_import(name):
    result = python("import fastfc", FASTFC_ISA=name)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and name in last and "scalar" in last


def test_target_that_this_cpu_lacks_is_an_error_at_import(monkeypatch):
    monkeypatch.setattr(_core, "available_isas", lambda: ["baseline", "scalar"])
    with pytest.raises(ImportError, match="'avx512' is not available.*baseline, scalar"):
        runtime.start({"FASTFC_ISA": "avx512"})


def test_select_isa_refuses_what_is_not_there():
    before = fastfc.current_isa()
    for name in ("", "avx1024", "Scalar"):
        with pytest.raises(ValueError, match="not available here"):
            _core.select_isa(name)
    with pytest.raises(TypeError):
        _core.select_isa(None)
    assert fastfc.current_isa() == before


def test_empty_variable_is_no_choice():
    result = python("import fastfc; print(fastfc.current_isa())", FASTFC_ISA="")
    assert result.stdout.strip() == fastfc.available_isas()[0]


def test_show_config(isa):
    config = fastfc.show_config()
    assert isinstance(config, dict)
    assert config["isa"] == isa and config["available_isas"] == fastfc.available_isas()
    assert config["numeric_block"] == 192 and config["num_threads"] == fastfc.get_num_threads()
    assert isinstance(config["openmp"], bool) and config["version"] == fastfc.__version__
    assert config["numpy"] == np.__version__ and "gemm" in config["kernels"]
    text = str(config)
    assert all(key in text for key in config) and len(text.splitlines()) == len(config)


@pytest.mark.parametrize("dtype", ["f", "d"])
def test_probes(isa, dtype):
    """The limits that benchmarks are measured against are positive, and not beyond any machine. (How near to the truth,
    a test cannot say on a machine that others use.)"""
    for threads in (1, 2):
        assert 0 < _core.probe_fma(dtype, 0.02, threads) < 1e5
        for size in (256, 10_000, 1 << 20):
            assert 0 < _core.probe_read(np.ones(size, np.float32), 0.02, threads) < 1e5
    with pytest.raises(ValueError, match="buffer: expected 512 bytes or more for each of 3 threads, got 1532 bytes"):
        _core.probe_read(np.ones(383, np.float32), 0.02, 3)


# ---- Threads --------------------------------------------------------------------------------------------------------


def test_set_num_threads():
    before = fastfc.get_num_threads()
    try:
        for n in (1, 2, np.int32(3), 1000):
            fastfc.set_num_threads(n)
            assert fastfc.get_num_threads() == n and type(fastfc.get_num_threads()) is int
            assert fastfc.show_config()["num_threads"] == n
        fastfc.set_num_threads(10**30)
        assert fastfc.get_num_threads() >= 1000
    finally:
        fastfc.set_num_threads(before)


def test_num_threads_restores_what_was():
    before = fastfc.get_num_threads()
    with fastfc.num_threads(3):
        assert fastfc.get_num_threads() == 3
        with fastfc.num_threads(1):
            assert fastfc.get_num_threads() == 1
        assert fastfc.get_num_threads() == 3
    with pytest.raises(KeyError):
        with fastfc.num_threads(4):
            raise KeyError
    assert fastfc.get_num_threads() == before


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({"FASTFC_NUM_THREADS": "3"}, 3),
        ({"FASTFC_NUM_THREADS": " 3 ", "OMP_NUM_THREADS": "5"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "5,2"}, 5),
        ({"OMP_NUM_THREADS": "0"}, 8),
        ({"OMP_NUM_THREADS": "many"}, 8),
        ({"OMP_NUM_THREADS": "-1"}, 8),
        ({"FASTFC_NUM_THREADS": ""}, 8),
        ({}, 8),
    ],
)
def test_default_from_the_environment(environment, expected):
    assert runtime.default_num_threads(environment, affinity=8, quota=0) == expected


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "3,4"])
def test_own_variable_must_be_a_count(value):
    with pytest.raises(ValueError, match="FASTFC_NUM_THREADS must be a positive integer"):
        runtime.default_num_threads({"FASTFC_NUM_THREADS": value})
    result = python("import fastfc", FASTFC_NUM_THREADS=value)
    assert result.returncode != 0 and "FASTFC_NUM_THREADS" in result.stderr


@pytest.mark.parametrize("quota, expected", [(2.5, 2), (0.5, 1), (1.0, 1), (7.99, 7), (100.0, 8), (0, 8)])
def test_default_is_affinity_or_the_quota_rounded_down(quota, expected):
    assert runtime.default_num_threads({}, affinity=8, quota=quota) == expected


def test_default_takes_this_process_affinity(monkeypatch):
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("no affinity here")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    monkeypatch.setattr(runtime, "cgroup_cpu_quota", lambda: None)
    assert runtime.default_num_threads({}) == 3
    monkeypatch.setattr(runtime, "cgroup_cpu_quota", lambda: 1.5)
    assert runtime.default_num_threads({}) == 1


def test_default_in_a_process_bound_to_one_cpu():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity here")
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import fastfc; print(fastfc.get_num_threads())"
    )
    assert python(script).stdout.strip() == "1"
    assert python(script, FASTFC_NUM_THREADS="3").stdout.strip() == "3"
    assert python(script, OMP_NUM_THREADS="2").stdout.strip() == "2"


def tree(folder, files):
    for path, text in files.items():
        path = folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


V1 = "sys/fs/cgroup/cpu/"
QUOTAS = {
    "no files": ({}, None),
    "v2": ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 2.5),
    "v2 without a limit": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None),
    "v2, a parent limits": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        },
        1.5,
    ),
    "v2, the least counts": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "300000 100000\n",
        },
        3.0,
    ),
    "v2 in a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 50000\n"}, 2.0),
    "v2, the path of the host": (
        {"proc/self/cgroup": "0::/docker/123\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"},
        1.0,
    ),
    "v2 above the namespace": ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
    "v2, other period": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "30000 20000\n"}, 1.5),
    "v2, broken": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "much\n"}, None),
    "v2, period 0": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "100 0\n"}, None),
    "v2, colon in the path": ({"proc/self/cgroup": "0::/a:b\n", "sys/fs/cgroup/a:b/cpu.max": "200000 100000\n"}, 2.0),
    "v1": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/a\n3:memory:/m\n",
            V1 + "a/cpu.cfs_quota_us": "350000\n",
            V1 + "a/cpu.cfs_period_us": "100000\n",
        },
        3.5,
    ),
    "v1 without a limit": (
        {"proc/self/cgroup": "4:cpu:/a\n", V1 + "a/cpu.cfs_quota_us": "-1\n", V1 + "a/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "v1, a parent limits": (
        {
            "proc/self/cgroup": "4:cpu:/a/b\n",
            V1 + "a/cpu.cfs_quota_us": "150000\n",
            V1 + "a/cpu.cfs_period_us": "100000\n",
            V1 + "a/b/cpu.cfs_quota_us": "-1\n",
            V1 + "a/b/cpu.cfs_period_us": "100000\n",
        },
        1.5,
    ),
    "v1 in a container": (
        {
            "proc/self/cgroup": "4:cpu:/docker/1\n",
            V1 + "cpu.cfs_quota_us": "200000\n",
            V1 + "cpu.cfs_period_us": "100000\n",
        },
        2.0,
    ),
    "v1, not this controller": (
        {
            "proc/self/cgroup": "4:cpuset:/a\n",
            V1 + "a/cpu.cfs_quota_us": "100000\n",
            V1 + "a/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "both, the least counts": (
        {
            "proc/self/cgroup": "0::/u\n4:cpu:/a\n",
            "sys/fs/cgroup/u/cpu.max": "300000 100000\n",
            V1 + "a/cpu.cfs_quota_us": "200000\n",
            V1 + "a/cpu.cfs_period_us": "100000\n",
        },
        2.0,
    ),
    "nonsense": ({"proc/self/cgroup": "hello\n\n1:2\n"}, None),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_cgroup_quota(tmp_path, case):
    files, expected = QUOTAS[case]
    quota = runtime.cgroup_cpu_quota(tree(tmp_path, files))
    assert quota == expected
    assert runtime.default_num_threads({}, affinity=4, quota=quota or 0) == max(1, min(4, int(expected or 4)))


def test_cgroup_quota_of_this_machine_is_readable():
    quota = runtime.cgroup_cpu_quota()
    assert quota is None or quota > 0
