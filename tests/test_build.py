"""What is shipped: what an import brings in, examples in docstrings, and a build without OpenMP."""

import doctest
import importlib
import os
import pathlib
import pkgutil
import shutil
import subprocess
import sys

import pytest
from test_runtime import python

import fastfc

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_import_brings_in_numpy_only():
    """No scipy, and nothing else that numpy did not bring in already, but a few small modules of Python's own."""
    result = python(
        "import sys, numpy; before = set(sys.modules); import fastfc; print(*sorted(set(sys.modules) - before))"
    )
    assert result.returncode == 0, result.stderr
    new = {name.partition(".")[0] for name in result.stdout.split()}
    allowed = {
        "fastfc",
        "__future__",
        "_cython_3_0",
        "cython_runtime",
        "contextlib",
        "platform",
        "math",
        "operator",
        "copy",
        "weakref",
    }
    foreign = {name for name in new - allowed if not name.startswith(("_cython", "_cyutility"))}
    assert foreign <= set(sys.stdlib_module_names), foreign
    heavy = {
        "multiprocessing",
        "subprocess",
        "asyncio",
        "ssl",
        "socket",
        "http",
        "unittest",
        "logging",
        "sqlite3",
        "argparse",
        "ctypes",
    }
    assert not foreign & heavy, foreign & heavy


def test_sparse_calls_work_without_scipy():
    result = python(
        "import sys; sys.modules['scipy'] = None\n"
        "import numpy as np, fastfc\n"
        "w = fastfc.CSR(np.ones(2), [0, 1], [0, 1, 2], (2, 2))\n"
        "print(fastfc.linear(np.ones((1, 2)), w), fastfc.linear_backward(np.ones((1, 2)), np.ones((1, 2)), w)[1])"
    )
    assert result.stdout.split() == ["[[1.", "1.]]", "[1.", "1.]"], result.stderr


def test_public_names_are_there():
    assert len(set(fastfc.__all__)) == len(fastfc.__all__)
    for name in fastfc.__all__:
        assert hasattr(fastfc, name), name
    required = {"linear", "linear_backward", "pack", "CSR", "set_num_threads", "get_num_threads", "num_threads"}
    assert required | {"available_isas", "current_isa", "show_config"} <= set(fastfc.__all__)


def modules():
    for module in pkgutil.walk_packages(fastfc.__path__, "fastfc."):
        if not module.name.endswith("__main__"):
            yield module.name


@pytest.mark.parametrize("name", ["fastfc", *modules()])
def test_examples_in_docstrings(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if name.startswith("fastfc.bench"):  # needs what only `pip install fastfc[bench]` brings
            pytest.skip(str(error))
        raise
    failed, _ = doctest.testmod(module, raise_on_error=False)
    assert not failed


@pytest.mark.parametrize("name", [name for name in fastfc.__all__ if not name.startswith("__")])
def test_every_public_name_has_examples_that_run(name):
    """Cython's too, which doctest does not find in its module."""
    value = getattr(fastfc, name)
    if type(value) is type(fastfc):
        tests = [test for test in doctest.DocTestFinder(recurse=True).find(value, name) if test.examples]
    else:
        assert value.__doc__, "no docstring"
        tests = [doctest.DocTestParser().get_doctest(value.__doc__, {}, name, None, None)]
        assert tests[0].examples, "no example"
    for test in tests:
        failed, _ = doctest.DocTestRunner().run(test)
        assert not failed


def test_a_build_without_openmp(tmp_path):
    """It says so, computes the same, and forks and threads are no matter. About 20 s."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("the sources are not here")
    for tool in ("Cython", "setuptools"):
        pytest.importorskip(tool)
    copy = tmp_path / "fastfc"
    names = [
        n for n in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "src_c", "fastfc") if (ROOT / n).exists()
    ]
    copy.mkdir()
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    environment = dict(os.environ, FASTFC_NO_OPENMP="1", CFLAGS="-O1 " + os.environ.get("CFLAGS", ""))
    environment.pop("PYTHONPATH", None)
    build = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr[-3000:]
    assert "-fopenmp" not in build.stdout
    script = (
        "import os, numpy as np, fastfc\n"
        "assert fastfc.__file__.startswith(os.getcwd()), fastfc.__file__\n"
        "assert fastfc.show_config()['openmp'] is False\n"
        "x, w = np.arange(300. * 400).reshape(300, 400) % 7, np.arange(500. * 400).reshape(500, 400) % 5\n"
        "csr = fastfc.CSR(w.ravel(), np.tile(np.arange(400), 500), np.arange(501) * 400, w.shape)\n"
        "for isa in fastfc.available_isas():\n"
        "    fastfc._core.select_isa(isa)\n"
        "    for weight in (w, fastfc.pack(w), csr):\n"
        "        assert (fastfc.linear(x, weight, threads=2) == x @ w.T).all()\n"
        "    gx, gw, gb = fastfc.linear_backward(x @ w.T, x, w, threads=2)\n"
        "    assert (gw == (x @ w.T).T @ x).all()\n"
        "print('done')\n"
    )
    # Run from the copy, and with nothing of this tree on the path.
    folders = [str(copy), *(p for p in sys.path if p and pathlib.Path(p).resolve() not in (ROOT, ROOT / "tests"))]
    environment["PYTHONPATH"] = os.pathsep.join(folders)
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=copy, env=environment, capture_output=True, text=True, timeout=100
    )
    assert result.stdout.strip() == "done", result.stderr
