"""threadpoolctl sees fastfc and limits it, whichever of the two is imported first."""

import os
import sys

import numpy as np
import pytest
from test_runtime import python

import fastfc
from fastfc import _core, runtime

threadpoolctl = pytest.importorskip("threadpoolctl")


def entries():
    return [entry for entry in threadpoolctl.threadpool_info() if entry["user_api"] == "fastfc"]


@pytest.fixture(autouse=True)
def four_threads():
    with fastfc.num_threads(4):
        yield


def test_it_is_listed_once():
    (entry,) = entries()
    assert entry["num_threads"] == 4 and entry["version"] == fastfc.__version__
    assert os.path.samefile(entry["filepath"], _core.__file__)
    runtime.register_threadpoolctl()
    assert len(entries()) == 1


@pytest.mark.parametrize("options", [{"limits": 1}, {"limits": 1, "user_api": "fastfc"}, {"limits": {"fastfc": 1}}])
def test_limits_hold_and_end(options):
    with threadpoolctl.threadpool_limits(**options):
        assert fastfc.get_num_threads() == 1 and entries()[0]["num_threads"] == 1
        with threadpoolctl.threadpool_limits(limits=3):
            assert fastfc.get_num_threads() == 3
        assert fastfc.get_num_threads() == 1
    assert fastfc.get_num_threads() == 4


def test_limits_of_others_do_not_touch_it():
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        assert fastfc.get_num_threads() == 4


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.skipif(not _core.has_openmp(), reason="built without OpenMP")
@pytest.mark.parametrize("first", ["fastfc", "threadpoolctl"])
def test_a_limit_keeps_the_work_on_one_thread(first):
    """In a process of its own: no thread comes up under the limit, and one does after it."""
    second = "fastfc" if first == "threadpoolctl" else "threadpoolctl"
    result = python(
        f"import {first}\n"
        f"import {second}\n"
        "import os, time, numpy as np, fastfc, threadpoolctl\n"
        "assert [e['user_api'] for e in threadpoolctl.threadpool_info()].count('fastfc') == 1\n"
        "x, w = np.ones((300, 400), np.float32), np.ones((500, 400), np.float32)\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = count()\n"
        "with threadpoolctl.threadpool_limits(1):\n"
        "    for _ in range(20): fastfc.linear(x, w)\n"
        "    limited = count() - before\n"
        "for _ in range(500):\n"
        "    fastfc.linear(x, w)\n"
        "    if count() > before: break\n"
        "print(limited, count() - before)\n",
        FASTFC_NUM_THREADS="2",
        OPENBLAS_NUM_THREADS="1",
    )
    assert result.stdout.split() == ["0", "1"], result.stdout + result.stderr


def test_fastfc_does_not_import_it_and_watches_no_longer_than_needed():
    result = python(
        "import sys, fastfc\n"
        "from fastfc.runtime import _WhenImported\n"
        "assert 'threadpoolctl' not in sys.modules and _WhenImported in sys.meta_path\n"
        "import threadpoolctl\n"
        "assert _WhenImported not in sys.meta_path\n"
        "threadpoolctl.threadpool_info()\n"
        "print('done')\n"
    )
    assert result.stdout.strip() == "done", result.stderr


def test_an_environment_without_it(tmp_path):
    """The watch does not make a missing module exist, and the error is the usual one."""
    result = python(
        "import sys, fastfc\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "try:\n"
        "    import threadpoolctl\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error.name)\n"
    )
    assert result.stdout.strip() == "threadpoolctl", result.stderr


def test_results_are_the_same_under_a_limit(rng):
    x, w = rng.standard_normal((70, 400)), rng.standard_normal((300, 400))
    y = fastfc.linear(x, w)
    with threadpoolctl.threadpool_limits(1):
        assert np.array_equal(fastfc.linear(x, w), y)
