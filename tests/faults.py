"""Faulty kernels: entries of a target's table in the loaded library, replaced.

The library has no switch for it. Its symbols say where the table and the kernels stand, and its memory is written.
"""

import contextlib
import ctypes
import mmap
import os
import re
import shutil
import subprocess

from fastfc import _core

FE_TOWARDZERO = {"x86_64": 0xC00, "aarch64": 0xC00000}[os.uname().machine]


def addresses():
    """Where the library stands in this process: from, to."""
    with open("/proc/self/maps") as file:
        lines = [re.split("[- ]", line)[:2] for line in file if line.rstrip().endswith(_core.__file__)]
    return min(int(begin, 16) for begin, _ in lines), max(int(end, 16) for _, end in lines)


def symbols():
    """{name: (address in this process, size)} of the library's functions and tables; empty if it is stripped."""
    if not shutil.which("readelf") or not os.path.exists("/proc/self/maps"):
        return {}
    base, _ = addresses()
    text = subprocess.run(["readelf", "--syms", "--wide", _core.__file__], capture_output=True, text=True).stdout
    rows = (line.split() for line in text.splitlines())
    return {r[7]: (base + int(r[1], 16), int(r[2], 0)) for r in rows if len(r) == 8 and re.match(r"fc_\w+__", r[7])}


@contextlib.contextmanager
def faulty(isa, kernel, dtype, fault):
    """While it lasts, the kernel ("gemm", "f32") of a target does nothing (fault "idle") or rounds towards zero."""
    known = symbols()
    table, size = known[f"fc_kernels__{isa}"]
    original, _ = known[f"fc_{kernel}_{dtype}__{isa}"]
    libc, kind = ctypes.CDLL(None), ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    kept = kind(original)

    def truncating(job):
        libc.fesetround(FE_TOWARDZERO)
        kept(job)
        libc.fesetround(0)

    wrong = kind(truncating if fault == "truncates" else lambda job: None)
    words = (ctypes.c_size_t * (size // 8)).from_address(table)
    places = [i for i, word in enumerate(words) if word == original]
    assert len(places) == 1, (kernel, places)
    page = table // mmap.PAGESIZE * mmap.PAGESIZE
    assert not libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(table + size - page), 3)
    words[places[0]] = ctypes.cast(wrong, ctypes.c_void_p).value
    try:
        yield
    finally:
        words[places[0]] = original
