"""No byte outside an operand is read, and none outside a result is written.

Each array stands at the very end or the very beginning of its memory, with a page next to it that nobody may touch; a
touch ends the process. So all of this runs in a process of its own, one for each target: this file as a script.
"""

import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
from layouts import INPUTS
from samples import Edges, gaussian, random_csr

import fastfc
from fastfc import _core

PAGE = mmap.PAGESIZE


def guarded(a, end):
    """A copy of `a` whose last (or first) byte touches an inaccessible page, and the pages' memory itself."""
    import ctypes

    pages = -(-a.nbytes // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    base = np.frombuffer(memory, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (0, pages + 1):
        address = ctypes.c_void_p(base.ctypes.data + page * PAGE)
        if libc.mprotect(address, ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE + (pages * PAGE - a.nbytes if end else 0)
    # What is left of the page is a canary.
    base[PAGE : (pages + 1) * PAGE] = 0xA5
    out = np.ndarray(a.shape, a.dtype, memory, offset)
    out[...] = a
    inside = slice(offset, offset + a.nbytes)

    def untouched():
        around = np.delete(base[PAGE : (pages + 1) * PAGE], np.r_[inside.start - PAGE : inside.stop - PAGE])
        return bool((around == 0xA5).all())

    return out, untouched


def calls(rng, dtype, end):
    """Every public call on guarded operands and results, over sizes at all edges; says what it is about to try."""
    edges = Edges(dtype)

    def operand(*shape):
        return guarded(gaussian(rng, shape, dtype), end)[0]

    def transposed(*shape):
        return guarded(gaussian(rng, shape[::-1], dtype), end)[0].T

    sizes = [(m, n, 5) for n in edges.n for m in (1, 2, 3, 7)]
    sizes += [(m, edges.lanes + 1, k) for m in (1, 4, 13, 38) for k in (1, 2, 3, 4, 5, 7, 15, 16, 17, 33, 193)]
    sizes += [(m, n, k) for m in (1, 6, 20) for n in (1, edges.lanes, edges.panel + 1) for k in (1, 31, 64, 194)]
    sizes += [(m, n, k) for m in (1, 3, 40) for n in (1, 2, 3, 10) for k in (100, 769, 1024)]
    for m, n, k in sizes:
        grad = operand(m, n)
        z = operand(m, n)
        bias = operand(n)
        for make in (operand, transposed):
            x, w = make(m, k), make(n, k)
            for weight in (w, fastfc.pack(w)):
                y, untouched = guarded(np.zeros((m, n), dtype), end)
                print(f"linear {make.__name__} {(m, n, k)} {type(weight).__name__}", flush=True)
                fastfc.linear(x, weight, bias, residual=z, activation="relu", out=y)
                assert untouched(), "out"
            out = [guarded(np.zeros(shape, dtype), end) for shape in ((m, k), (n, k), (n,))]
            print(f"linear_backward {make.__name__} {(m, n, k)}", flush=True)
            for accumulate in (False, True):
                fastfc.linear_backward(
                    grad, x, w, activation="relu", preactivation=z, out=tuple(a for a, _ in out), accumulate=accumulate
                )
                fastfc.linear_backward(grad, x, w)
                assert all(untouched() for _, untouched in out), "gradients"
    for n in edges.n:
        for number, parameter in (_core.ACTIVATIONS["silu"], _core.ACTIVATIONS["relu"]):
            print(f"gate {n}", flush=True)
            results = [guarded(np.zeros(n, dtype), end) for _ in range(3)]
            h, dz, dfactor = (result for result, _ in results)
            grad, z, factor = operand(n), operand(n), operand(n)
            _core.gate_forward(z, factor, h, number, parameter, 2)
            _core.gate_backward(grad, z, factor, dz, dfactor, number, parameter, 2)
            assert all(untouched() for _, untouched in results), "gate"
    for m, d_model, d_ff in ((1, 3, 5), (7, 9, 33), (38, 33, 70)):
        for activation in ("gelu", "swiglu"):
            print(f"FeedForward {activation} {(m, d_model, d_ff)}", flush=True)
            block = fastfc.FeedForward(d_model, d_ff, activation=activation, dtype=dtype, rng=0).eval()
            for make in (operand, transposed):
                block(make(m, d_model))
    for rows, cols, m in (
        (1, 1, 1),
        (5, 7, 3),
        (66, 40, 17),
        (20, 9, edges.panel + 1),
        (4, 300, edges.lanes - 1),
        (9, 20, 200),
    ):
        for index in (np.int32, np.int64):
            data, indices, indptr, shape = random_csr(rng, (rows, cols), dtype, 0.7, index=index, repeats=True)
            data, indices, indptr = (guarded(a, end)[0] for a in (data, indices, indptr))
            mine = fastfc.CSR(data, indices, indptr, shape)
            # What stands in the guarded pages is the caller's; CSR copies the structure, a call on scipy's does not.
            theirs = fastfc.CSR._of(data, indices, indptr, shape)
            for csr in (mine, theirs):
                for make in (operand, transposed):
                    print(f"csr {make.__name__} {(rows, cols, m)} {index.__name__}", flush=True)
                    x, grad, z = make(m, cols), operand(m, rows), operand(m, rows)
                    y, untouched = guarded(np.zeros((m, rows), dtype), end)
                    fastfc.linear(x, csr, operand(rows), residual=z, activation="relu", out=y)
                    assert untouched(), "out"
                    out = [guarded(np.zeros(s, dtype), end) for s in ((m, cols), data.shape, (rows,))]
                    fastfc.linear_backward(
                        grad, x, csr, activation="relu", preactivation=z, out=tuple(a for a, _ in out)
                    )
                    assert all(untouched() for _, untouched in out), "gradients"
                    w, bias, grad, z = make(m, cols), operand(m), operand(rows, m), operand(rows, m)
                    for weight in (w, fastfc.pack(w)):
                        y, untouched = guarded(np.zeros((rows, m), dtype), end)
                        fastfc.linear(csr, weight, bias, residual=z, activation="relu", out=y)
                        assert untouched(), "out"
                    out = [guarded(np.zeros(s, dtype), end) for s in ((m, cols), (m,))]
                    fastfc.linear_backward(
                        grad, csr, w, activation="relu", preactivation=z, out=(None, out[0][0], out[1][0])
                    )
                    assert all(untouched() for _, untouched in out), "gradients"


def main(isa, name, end):
    _core.select_isa(isa)
    for threads in (1, 2):
        fastfc.set_num_threads(threads)
        calls(np.random.default_rng(1), np.dtype(name), end == "end")


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("end", ["end", "beginning"])
@pytest.mark.parametrize("isa", fastfc.available_isas())
def test_nothing_outside_is_touched(isa, name, end):
    command = [sys.executable, os.path.abspath(__file__), isa, name, end]
    folders = [os.path.dirname(os.path.dirname(os.path.abspath(fastfc.__file__))), *sys.path]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, folders)))
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    last = result.stdout.strip().splitlines()[-1:]
    assert result.returncode == 0, f"exit status {result.returncode} in: {last}\n{result.stderr[-2000:]}"
    assert last


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_the_guard_guards():
    """A read past the end of such an array does end a process."""
    script = (
        "import ctypes, sys; sys.path.insert(0, sys.argv[1]); import numpy as np, test_bounds\n"
        "for end in (True, False):\n"
        "    a, untouched = test_bounds.guarded(np.ones(7, np.float32), end)\n"
        "    b = np.ndarray((6,), np.float32, a.base, 0) if False else a\n"
        "    assert untouched() and (a == 1).all()\n"
        "    if not end:\n"
        "        ctypes.memset(a.ctypes.data + a.nbytes, 0, 1); assert not untouched()\n"
        "print('ready', flush=True)\n"
        "a, _ = test_bounds.guarded(np.ones(7, np.float32), True)\n"
        "ctypes.string_at(a.ctypes.data + a.nbytes, 1)\n"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    result = subprocess.run(
        [sys.executable, "-c", script, os.path.dirname(os.path.abspath(__file__))],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
    )
    assert "ready" in result.stdout, result.stderr
    assert result.returncode != 0


@pytest.mark.parametrize("where", ["contiguous", "spread", "field"])
def test_nothing_between_the_elements_of_out_is_written(isa, dtype, rng, where):
    m, n, k = 9, 37, 20
    x, weight, grad = gaussian(rng, (m, k), dtype), gaussian(rng, (n, k), dtype), gaussian(rng, (m, n), dtype)
    if where == "contiguous":
        memory = np.full((m + 2, n), 77, dtype)
        out = memory[1:-1]
    elif where == "spread":
        memory = np.full((2 * m, 3 * n), 77, dtype)
        out = memory[1::2, 1::3]
    else:
        memory = np.zeros((m, n), np.dtype([("before", "u1"), ("value", dtype), ("after", "u1")]))
        memory["before"] = memory["after"] = 77
        out = memory["value"]
    expected = fastfc.linear(x, weight)
    fastfc.linear(x, weight, out=out)
    assert np.array_equal(out, expected)
    if where == "field":
        assert (memory["before"] == 77).all() and (memory["after"] == 77).all()
    else:
        out[...] = 77
        assert (memory == 77).all()
    z = gaussian(rng, (m, n), dtype)
    memory = np.full(n + 2 + 2 * n * k, 77, dtype)
    gb, gw = memory[1 : n + 1], memory[n + 2 : n + 2 + n * k].reshape(n, k)
    fresh = fastfc.linear_backward(grad, x, weight, activation="relu", preactivation=z)
    fastfc.linear_backward(
        grad, x, weight, activation="relu", preactivation=z, needs=("weight", "bias"), out=(None, gw, gb)
    )
    assert np.array_equal(gw, fresh[1]) and np.array_equal(gb, fresh[2])
    gw[...], gb[...] = 77, 77
    assert (memory == 77).all()


def test_layouts_are_what_they_say(dtype):
    """The helper that other tests stand on: same numbers, and the memory that its name promises."""
    a = np.arange(12, dtype=dtype).reshape(3, 4)
    made = {name: change(a) for name, change in INPUTS.items()}
    for name, b in made.items():
        assert np.array_equal(a, b) and b.dtype == a.dtype, name
    assert made["fortran"].flags.f_contiguous and not made["fortran"].flags.c_contiguous
    assert not made["unaligned"].flags.aligned and made["unaligned"].flags.c_contiguous
    assert made["field"].strides[1] == a.itemsize + 1
    assert made["negative"].strides[0] < 0 and made["negative"].strides[1] < 0
    assert made["negative_rows"].strides == (-4 * a.itemsize, a.itemsize)
    assert made["spread"].strides[1] == 2 * a.itemsize and made["wide_rows"].strides == (7 * a.itemsize, a.itemsize)
    assert not made["read_only"].flags.writeable and not made["mapped"].flags.writeable
    assert type(made["subclass"]) is not np.ndarray and isinstance(made["mapped"], np.memmap)


if __name__ == "__main__":
    main(*sys.argv[1:])
