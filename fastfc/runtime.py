"""Targets and threads: what this process uses, and how to change it."""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import sys
from contextlib import contextmanager

from fastfc import _core
from fastfc._version import __version__

__all__ = ["available_isas", "current_isa", "get_num_threads", "num_threads", "set_num_threads", "show_config"]


def available_isas():
    """Targets that this build has and this CPU can run, best first.

    Returns
    -------
    list of str
        Of ``"avx512"``, ``"avx2"``, ``"neon"``, ``"baseline"`` and ``"scalar"``.

    Examples
    --------
    >>> import fastfc
    >>> "baseline" in fastfc.available_isas()
    True
    """
    return _core.available_isas()


def current_isa():
    """The target in use: the best available, or what ``FASTFC_ISA`` said at import.

    Examples
    --------
    >>> import fastfc
    >>> fastfc.current_isa() in fastfc.available_isas()
    True
    """
    return _core.current_isa()


def set_num_threads(n):
    """Set the default number of threads for this process.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer of at least 1.

    Examples
    --------
    >>> import fastfc
    >>> before = fastfc.get_num_threads()
    >>> fastfc.set_num_threads(1)
    >>> fastfc.get_num_threads()
    1
    >>> fastfc.set_num_threads(before)
    """
    from fastfc.functional import _threads

    if n is None:
        raise TypeError("set_num_threads(): n must be an integer, got NoneType")
    _core.set_default_threads(_threads("set_num_threads", n, "n"))


def get_num_threads():
    """The default number of threads: see :func:`default_num_threads` for what it starts as.

    Examples
    --------
    >>> import fastfc
    >>> fastfc.get_num_threads() >= 1
    True
    """
    return _core.get_default_threads()


@contextmanager
def num_threads(n):
    """Set the default number of threads for a ``with`` block (of the whole process, as :func:`set_num_threads`).

    Examples
    --------
    >>> import fastfc
    >>> with fastfc.num_threads(1):
    ...     fastfc.get_num_threads()
    1
    """
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)


def default_num_threads(environ=os.environ, affinity=None, quota=None):
    """``FASTFC_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the CPUs this process may use.

    Those are the CPUs of its affinity mask, or the cgroup's CPU quota rounded down if that is less, and at least 1.
    A variable that is not a positive integer is ignored, except that ``FASTFC_NUM_THREADS`` must be one.
    """
    own = environ.get("FASTFC_NUM_THREADS", "").strip()
    if own:
        if not own.isdecimal() or int(own) < 1:
            raise ValueError(f"FASTFC_NUM_THREADS must be a positive integer, got {own!r}")
        return min(int(own), 1024)
    omp = environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list gives nested levels: the first is ours
    if omp.isdecimal() and int(omp) >= 1:
        return min(int(omp), 1024)
    if affinity is None:
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if quota is None:
        quota = cgroup_cpu_quota()
    return max(1, min(affinity, math.floor(quota)) if quota else affinity)


def cgroup_cpu_quota(root="/"):
    """CPUs that the cgroups of this process (v2 or v1, each level up to the root) grant, or None without a limit.

    `root` is where ``proc`` and ``sys`` are found.
    """
    try:
        with open(os.path.join(root, "proc/self/cgroup")) as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    best = None
    for hierarchy, controllers, path in (line for line in lines if len(line) == 3):
        if hierarchy == "0" and not controllers:
            base, read = "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            base, read = "sys/fs/cgroup/cpu", _quota_v1
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        # A container may see its own group as the root: then the path below it does not exist, and the root counts.
        for depth in range(len(parts), -1, -1):
            cpus = read(os.path.join(root, base, *parts[:depth]))
            if cpus is not None:
                best = cpus if best is None else min(best, cpus)
    return best


def _quota_v2(folder):
    try:
        with open(os.path.join(folder, "cpu.max")) as file:
            quota, period = file.read().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder):
    try:
        with open(os.path.join(folder, "cpu.cfs_quota_us")) as file:
            quota = int(file.read())
        with open(os.path.join(folder, "cpu.cfs_period_us")) as file:
            period = int(file.read())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


# ---- threadpoolctl --------------------------------------------------------------------------------------------------


_registered = False


def register_threadpoolctl():
    """Make threadpoolctl list fastfc and limit it; done by itself when both are imported, in either order.

    ``threadpoolctl.threadpool_info()`` then has an entry with ``user_api`` ``"fastfc"``, and ``threadpool_limits(n)``
    sets the default number of threads, as :func:`set_num_threads` does: of the whole process, and overridden by
    ``threads=`` of a call.

    Raises
    ------
    ImportError
        If threadpoolctl is not installed.
    """
    global _registered
    import threadpoolctl

    if _registered:
        return
    _registered = True

    class FastfcController(threadpoolctl.LibController):
        user_api = internal_api = "fastfc"
        filename_prefixes = ("_core",)
        check_symbols = ("fc_default_threads",)

        def get_num_threads(self):
            return get_num_threads()

        def set_num_threads(self, num_threads):
            set_num_threads(max(num_threads, 1))

        def get_version(self):
            return __version__

    threadpoolctl.register(FastfcController)


class _WhenImported:
    """On sys.meta_path until threadpoolctl is imported. (fastfc itself does not import it: that costs milliseconds.)"""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "threadpoolctl":
            return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                register_threadpoolctl()

            spec.loader.exec_module = exec_module
        return spec


class Config(dict):
    """A dict that prints one line an entry."""

    def __repr__(self):
        width = max(map(len, self))
        return "\n".join(f"{key:{width}}  {value}" for key, value in self.items())

    __str__ = __repr__


def show_config():
    """What this build and process use.

    Returns
    -------
    dict
        ``version``, ``isa``, ``available_isas``, ``numeric_block`` (steps of the order of summation), ``openmp``
        (False: built without, one thread only), ``num_threads``, ``kernels``, ``cpu``, ``python``, ``numpy``. It
        prints one line an entry.

    Examples
    --------
    >>> import fastfc
    >>> fastfc.show_config()["numeric_block"]
    192
    """
    import numpy as np

    return Config(
        version=__version__,
        isa=current_isa(),
        available_isas=available_isas(),
        numeric_block=_core.numeric_block(),
        openmp=_core.has_openmp(),
        num_threads=get_num_threads(),
        kernels=_core.kernel_names(),
        cpu=_cpu_name(),
        python=platform.python_version(),
        numpy=np.__version__,
    )


def _cpu_name():
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def start(environ=os.environ):
    """Apply the environment, once, at import."""
    isa = environ.get("FASTFC_ISA", "").strip()
    if isa:
        if isa not in available_isas():
            raise ImportError(
                f"FASTFC_ISA={isa!r} is not available on this CPU and build; available: {', '.join(available_isas())}"
            )
        _core.select_isa(isa)
    _core.set_default_threads(default_num_threads(environ))
    if "threadpoolctl" in sys.modules:
        register_threadpoolctl()
    else:
        sys.meta_path.insert(0, _WhenImported)
