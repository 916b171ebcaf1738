"""No memory: every allocation that the library makes, made to fail in turn, is a MemoryError and nothing worse.

failing_malloc.c is preloaded into a process of its own: this file as a script.
"""

import ctypes
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from canonical import compile_c
from faults import addresses
from samples import gaussian, random_csr

import fastfc
from fastfc import _core

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="preloads a malloc for glibc",
)


def calls(dtype):
    """{name: (call(out), new outputs that a failure must leave alone)}: large enough for workspace in all of them."""
    rng = np.random.default_rng(1)
    m, n, k = 700, 90, 5000
    x, w, g = (gaussian(rng, shape, dtype) for shape in ((m, k), (n, k), (m, n)))
    turned, short = np.asfortranarray(x), np.ascontiguousarray(x[:, :400])
    csr_t = fastfc.CSR(*random_csr(rng, (n, 400), dtype, 0.3))
    bias, packed = gaussian(rng, (n,), dtype), fastfc.pack(w)
    kept = np.repeat(rng.random((-(-n // 16), k)) < 0.1, 16, axis=0)[:n]
    blocks = fastfc.pack(w * kept, format="16x1")
    norm = fastfc.LayerNorm(n, dtype=dtype)
    ff = fastfc.FeedForward(40, 70, activation="swiglu", dtype=dtype, rng=0).eval()
    linear, after = fastfc.Linear(400, n, dtype=dtype, rng=0), fastfc.LayerNorm(n, dtype=dtype)
    fused = fastfc.Sequential(linear, fastfc.GELU(), after)
    labels, logits = rng.integers(0, 9, 4000), gaussian(rng, (4000, 9), dtype)
    flat = gaussian(rng, (9_000_000,), dtype)

    def y():
        return [np.full((m, n), 7, dtype)]

    def gradients(*shapes):
        return lambda: [np.full(shape, 7, dtype) for shape in shapes]

    def forward(*operands, **options):
        return lambda out: [fastfc.linear(*operands, out=out[0], **options)]

    def vjp(layer, *arguments):
        def call(out):
            value, backward = layer.vjp(*arguments)
            return [value, backward() if isinstance(layer, fastfc.CrossEntropyLoss | fastfc.MSELoss) else backward(g)]

        return call

    def nothing():
        return []

    every = gradients((m, k), (n, k), (n,))
    plain = {"activation": None}
    silu = {"activation": "silu", "preactivation": g[::-1]}
    return {
        "linear": (forward(x, w, bias), y),
        "linear, x of other strides": (forward(turned, w, bias, activation="gelu"), y),
        "linear, packed": (forward(turned, packed), y),
        "linear, blocks": (forward(turned, blocks, bias), y),
        "linear, CSR weight": (forward(short, csr_t, bias), y),
        "linear, CSR x": (forward(csr_t, short), lambda: [np.full((n, m), 7, dtype)]),
        "linear, CSR x, packed": (forward(csr_t, fastfc.pack(short)), lambda: [np.full((n, m), 7, dtype)]),
        "linear_backward": (lambda out: fastfc.linear_backward(g, x, w, out=tuple(out), **plain), every),
        "linear_backward, activation": (lambda out: fastfc.linear_backward(g, x, w, out=tuple(out), **silu), every),
        "linear_backward, accumulating": (
            lambda out: fastfc.linear_backward(g, turned, w, out=tuple(out), accumulate=True),
            every,
        ),
        "linear_backward, CSR weight": (
            lambda out: fastfc.linear_backward(g, short, csr_t, out=tuple(out), accumulate=True, **silu),
            gradients((m, 400), (len(csr_t.data),), (n,)),
        ),
        "linear_backward, CSR x": (lambda out: fastfc.linear_backward(g.T.copy(), csr_t, short)[1:], nothing),
        "pack": (lambda out: [fastfc.pack(w).unpack()], nothing),
        "pack, small": (lambda out: [fastfc.pack(w[:, :30]).unpack()], nothing),
        "norm": (vjp(norm, g), nothing),
        "linear and norm": (vjp(fused, short), nothing),
        "feedforward": (lambda out: [ff(np.ascontiguousarray(x[:, :40]))], nothing),
        "cross-entropy": (vjp(fastfc.CrossEntropyLoss(), logits, labels), nothing),
        "pointwise loss": (vjp(fastfc.MSELoss(), flat, flat[::-1].copy()), nothing),
        "sum of squares": (lambda out: [np.asarray(_core.square_sum([flat]))], nothing),
        "embedding": (vjp(fastfc.Embedding(30, n, dtype=dtype, rng=0), rng.integers(0, 30, m)), nothing),
    }


def armed(library):
    """(arm(n): our allocation number n from now on fails, or none if n < 0; how many there were since)."""
    hook = ctypes.CDLL(library)
    hook.allocations_seen.restype = ctypes.c_long
    begin, end = addresses()
    return (
        lambda n: hook.fail_allocation(ctypes.c_void_p(begin), ctypes.c_void_p(end), ctypes.c_long(n)),
        hook.allocations_seen,
    )


def without_a_crew(library):
    """Workers that cannot be brought up are missed by nobody: the caller does it all."""
    arm, seen = armed(library)
    x, w = np.arange(300.0 * 400).reshape(300, 400) % 7, np.arange(500.0 * 400).reshape(500, 400) % 5
    fastfc.set_num_threads(1)
    packed, out = fastfc.pack(w), np.empty((300, 500))
    for n in range(3):
        arm(n)
        try:
            fastfc.linear(x, packed, threads=2, out=out)
        except MemoryError:  # of another allocation
            continue
        finally:
            arm(-1)
        assert (out == x @ w.T).all()
    print("done")


def main(library, name):
    if name == "crew":
        return without_a_crew(library)
    arm, seen = armed(library)
    fastfc.set_num_threads(2)
    for what, (call, new) in calls(np.dtype(name)).items():
        expected = call(new())
        arm(-1)
        call(new())
        count = seen()
        for n in range(count):
            out = new()
            arm(n)
            try:
                call(out)
            except MemoryError as error:
                problem = "" if str(error) else "no message"
            else:
                problem = "no error"
            arm(-1)
            untouched = sum((array == 7).all() for array in out)
            # Of a backward pass some gradients may be complete and the others untouched.
            if not problem and "backward" not in what and untouched != len(out):
                problem = "out was written"
            if not problem and "backward" in what:
                for array, right in zip(out, expected, strict=bool(out)):
                    if not (array == 7).all() and not np.array_equal(array, right):
                        problem = "half a gradient"
            for a, b in zip(call(new()), expected, strict=True):
                if not np.array_equal(a, b):
                    problem += ", and wrong afterwards"
            if problem:
                print(f"{what}, allocation {n} of {count}: {problem}")
        print(f"{what}: {count} allocations", flush=True)
    print("done")


@pytest.fixture(scope="module")
def hook(tmp_path_factory):
    return compile_c(os.path.join(os.path.dirname(__file__), "failing_malloc.c"), tmp_path_factory.mktemp("hook"))._name


def preloaded(hook, *arguments):
    folders = [os.path.dirname(os.path.dirname(os.path.abspath(fastfc.__file__))), *sys.path]
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join(filter(None, folders)), LD_PRELOAD=hook, FASTFC_NUM_THREADS="2"
    )
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, env=environment
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_each_allocation_may_fail(hook, name):
    lines = preloaded(hook, os.path.abspath(__file__), hook, name)
    counts = {line.rpartition(": ")[0]: line.rpartition(": ")[2] for line in lines[:-1]}
    assert lines[-1] == "done" and set(counts) == set(calls(np.dtype(name))), lines
    assert all(re.fullmatch("[1-9][0-9]* allocations", count) for count in counts.values()), lines


def test_no_memory_for_a_crew_is_one_thread_less(hook):
    assert preloaded(hook, os.path.abspath(__file__), hook, "crew") == ["done"]


if __name__ == "__main__":
    main(*sys.argv[1:])
