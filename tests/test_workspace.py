"""How much memory a call takes besides its arguments and results: what src_c/fastfc.h says, measured.

In a process of its own for each target, this file as a script, with allocations.c loaded before the C library.
"""

import ctypes
import os
import platform
import re
import subprocess
import sys

import numpy as np
import pytest
from canonical import compile_c
from faults import addresses

import fastfc
from fastfc import _core

THREAD = 5 << 18  # of a dense product, each thread: 1.25 MiB
TILES = 64 << 10  # of a CSR product, each thread, besides
BLOCK = 64  # of each block of memory
PANEL = 256  # and for each row of its dense operand


class Sizes:
    """The bounds of fastfc.h for one call; `spread` says that x, grad_y and z are not contiguous."""

    def __init__(self, m, n, k, dtype, threads, spread, nnz=0):
        self.m, self.n, self.k, self.size, self.threads, self.nnz = m, n, k, np.dtype(dtype).itemsize, threads, nnz
        self.spread = spread

    def copy(self, rows, cols):
        """A copy with contiguous rows: padded to the lanes, and off multiples of 1024 bytes."""
        return rows * (-(-cols * self.size // 64) * 64 + 64)

    def dense(self):
        return self.threads * THREAD

    def forward(self):
        return self.dense() + (self.copy(self.m, self.k) if self.spread else 0)

    def upstream(self, activation):
        """grad_y, or grad_y times act'(z), as contiguous rows; while that is made, a contiguous copy of z."""
        return self.copy(self.m, self.n) * (self.spread + (activation is not None))

    def backward(self, activation):
        return self.upstream(activation) + self.copy(self.n, self.m) + self.dense()

    def csr(self, inner, rows):
        return 8 * (rows + 2) + self.threads * (PANEL * inner + TILES)

    def backward_csr(self, activation):
        gx = (4 + self.size) * self.nnz + self.csr(self.n, self.k)
        values = 8 * (self.n + 1) + (self.n + self.k) * 192 * self.size + self.nnz * self.size
        return self.upstream(activation) + max(gx, values)

    def backward_csr_x(self, activation):
        return self.upstream(activation) + (4 + self.size) * self.nnz + self.csr(self.m, self.k)

    def norm_sums(self):
        return -(-self.m // 192) * 2 * self.n * self.size


def calls(m, n, k, dtype, threads, spread):
    """(name, call, bound) of everything that takes workspace, and of what takes none."""
    rng = np.random.default_rng(0)

    def array(rows, cols):
        a = rng.standard_normal((rows, 2 * cols if spread else cols)).astype(dtype)
        return a[:, ::2] if spread else a

    def whole(*shape):
        return rng.standard_normal(shape).astype(dtype)

    x, grad, z, w = array(m, k), array(m, n), array(m, n), whole(n, k)
    packed, bias = fastfc.pack(w), whole(n)
    yield "linear", lambda: fastfc.linear(x, w, bias), Sizes(m, n, k, dtype, threads, spread).forward()
    yield (
        "linear, weight transposed",
        lambda: fastfc.linear(x, np.asfortranarray(w)),
        Sizes(m, n, k, dtype, threads, spread).forward(),
    )
    yield "linear, packed", lambda: fastfc.linear(x, packed, bias), Sizes(m, n, k, dtype, threads, spread).forward()
    for activation in (None, "gelu"):
        yield (
            f"linear_backward, {activation}",
            lambda a=activation: fastfc.linear_backward(grad, x, w, activation=a, preactivation=z),
            Sizes(m, n, k, dtype, threads, spread).backward(activation),
        )
    kept = rng.random((n, k)) < 0.3
    indptr = np.concatenate([[0], np.cumsum(kept.sum(1))])
    csr = fastfc.CSR(w[kept], np.nonzero(kept)[1], indptr, (n, k))
    sizes = Sizes(m, n, k, dtype, threads, spread, csr.nnz)
    yield "linear, CSR weight", lambda: fastfc.linear(x, csr, bias), sizes.csr(k, n)
    yield (
        "linear_backward, CSR weight",
        lambda: fastfc.linear_backward(grad, x, csr, activation="gelu", preactivation=z),
        sizes.backward_csr("gelu"),
    )
    old = np.zeros_like(csr.data)
    yield (
        "linear_backward, CSR weight, accumulating",
        lambda: fastfc.linear_backward(grad, x, csr, needs=("weight",), out=(None, old, None), accumulate=True),
        sizes.backward_csr(None),
    )
    sparse = fastfc.pack(csr)
    tile = int(re.search(r"tiles of (\d+)", sparse.explain())[1])
    own = max(256 * (tile + 16), 1 << 19) + (5 << 18)  # sums: half of at most 2 MiB of L2, and a block of 1024 outputs
    yield "linear, packed sparse", lambda: fastfc.linear(x, sparse, bias), threads * own
    narrow, many = whole(m, 24), fastfc.pack(whole(9000, 24), format="tiled")
    yield "linear, packed sparse, many outputs", lambda: fastfc.linear(narrow, many), threads * own
    blocks = fastfc.pack(whole(n, k), format="16x1")
    yield "linear, packed sparse, in blocks", lambda: fastfc.linear(x, blocks, bias), (
        (sizes.copy(m, k) if spread else 0) + threads * 128 * (k + 256)
    )
    layer = fastfc.MaskedLinear(k, n, mask=kept, dtype=dtype).to_sparse()
    backward, turned = layer.vjp(x)[1], fastfc.pack(np.where(kept, dtype(1), dtype(0)).T, format="tiled")
    across = int(re.search(r"tiles of (\d+)", turned.explain())[1])
    whole_x = -(-m // 192) * 192 * (k + k // tile + tile + 1) * sizes.size  # so little fits into a quarter of L3
    entries = threads * 192 * 1024 * sizes.size + whole_x + csr.nnz * sizes.size
    yield (
        "SparseLinear, backward",
        lambda: backward(grad),
        spread * sizes.copy(m, n) + max(threads * max(256 * (across + 16), own), entries),
    )
    # A CSR x of n rows: the dense weight is (m, k).
    other = whole(m, k)
    sizes = Sizes(n, m, k, dtype, threads, False, csr.nnz)
    yield "linear, CSR x", lambda: fastfc.linear(csr, other), sizes.csr(k, n)
    packed_other, grad_x = fastfc.pack(other), whole(n, m)
    yield "linear, CSR x, packed", lambda: fastfc.linear(csr, packed_other), sizes.csr(0, n)
    yield (
        "linear_backward, CSR x",
        lambda: fastfc.linear_backward(grad_x, csr, other),
        sizes.backward_csr_x(None),
    )
    rows, sizes = whole(m, n), Sizes(m, n, n, dtype, threads, False)
    norm = fastfc.LayerNorm(n, dtype=dtype)
    yield "LayerNorm", lambda: norm(rows), 0
    yield "LayerNorm backward", lambda: norm.vjp(rows)[1](rows), sizes.norm_sums()
    model = fastfc.Sequential(fastfc.Linear(k, n, dtype=dtype, rng=0), norm)
    xc, sizes = whole(m, k), Sizes(m, n, k, dtype, threads, False)
    yield "Linear and LayerNorm", lambda: model(xc), sizes.forward()
    yield (
        "Linear and LayerNorm backward",
        lambda: model.vjp(xc)[1](rows),
        # Rows of the product, which the forward pass keeps, and their gradient.
        2 * m * n * sizes.size + sizes.norm_sums() + sizes.backward(None),
    )
    labels, cross, mse = rng.integers(0, n, m), fastfc.CrossEntropyLoss(), fastfc.MSELoss()
    yield "CrossEntropyLoss", lambda: cross.vjp(rows, labels), m * sizes.size
    yield "MSELoss", lambda: mse.vjp(rows, rows), 8 * -(-m * n // 3072)
    for gated in (False, True):
        block = fastfc.FeedForward(k, n, gated=gated, dtype=dtype, rng=0).eval()
        h = max(9 << 18, 64 * (1 + gated) * (n * sizes.size + 64))
        yield f"FeedForward, gated {gated}", lambda b=block: b(xc), h + sizes.forward()
    yield "relu", lambda: fastfc.activations.relu(rows), 0
    yield "gelu_grad", lambda: fastfc.activations.gelu_grad(rows, rows), 0
    drop = fastfc.Dropout(0.5, rng=0)
    yield "Dropout", lambda: drop(rows), 0
    p = fastfc.Parameter(whole(m, n))
    p.grad = rows
    opt = fastfc.optim.Adam([p])
    yield "Adam", opt.step, 0
    yield "clip_grad_norm_", lambda: fastfc.clip_grad_norm_([p], 1e9), 8 * -(-m * n // 8192)
    yield "pack", lambda: fastfc.pack(w), packed.nbytes


def packed_batches(dtype, threads):
    """Batches long enough in k to fill what is packed of them in place of the weight."""
    for m, k in ((8, 8600), (16, 8600), (31, 8600), (62, 8600)):
        x, w = np.ones((m, k), dtype), np.broadcast_to(dtype(1), (200, k)).copy()
        yield f"linear, {m} rows packed", lambda x=x, w=w: fastfc.linear(x, w), threads * THREAD


def main():
    library = ctypes.CDLL(None)
    library.fc_test_watch(*map(ctypes.c_void_p, addresses()))
    for name in ("live", "peak", "calls"):
        getattr(library, f"fc_test_{name}").restype = ctypes.c_size_t
    fastfc.set_num_threads(2)
    fastfc.linear(np.ones((300, 400)), np.ones((500, 400)))  # threads are brought up once
    slow = fastfc.current_isa() in ("scalar", "baseline")
    shapes = [(1, 1, 1), (7, 33, 20), (300, 130, 200), (1000, 7, 100), (3, 500, 600)]
    shapes += [] if slow else [(700, 300, 2100)]
    used, wrong = set(), []
    for shape in shapes:
        for dtype in (np.float32, np.float64):
            for threads in (1, 2):
                fastfc.set_num_threads(threads)
                for spread in (False, True):
                    more = packed_batches(dtype, threads) if shape == shapes[0] and not spread else ()
                    for name, call, bound in (*calls(*shape, dtype, threads, spread), *more):
                        call()  # what is made once (scipy's structure, a gradient) is there now
                        library.fc_test_reset()
                        before = library.fc_test_live()
                        result = call()
                        taken, blocks = library.fc_test_peak() - library.fc_test_live(), library.fc_test_calls()
                        del result
                        kept = library.fc_test_live() - before
                        if taken:
                            used.add(name)
                        if taken > bound + BLOCK * blocks:
                            wrong.append(
                                f"{name} {shape} {dtype.__name__}, {threads} threads, spread {spread}: takes {taken}, "
                                f"stated {bound}"
                            )
                        if kept:
                            wrong.append(f"{name} {shape}: keeps {kept}")
    print("\n".join(wrong))
    print("USED", len(used))


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="preloads into glibc")
@pytest.mark.parametrize("isa", fastfc.available_isas())
def test_workspace_is_within_what_is_stated(isa, tmp_path):
    compile_c(os.path.join(os.path.dirname(os.path.abspath(__file__)), "allocations.c"), tmp_path)
    folders = [os.path.dirname(os.path.dirname(os.path.abspath(fastfc.__file__))), *sys.path]
    environment = dict(
        os.environ,
        LD_PRELOAD=str(tmp_path / "allocations.so"),
        FASTFC_ISA=isa,
        PYTHONPATH=os.pathsep.join(filter(None, folders)),
    )
    result = subprocess.run(
        [sys.executable, os.path.abspath(__file__)], capture_output=True, text=True, timeout=500, env=environment
    )
    assert result.returncode == 0, result.stderr[-2000:]
    *wrong, last = result.stdout.split("\n")[:-1]
    assert not any(wrong), "\n".join(wrong)
    # The measure measures: about all that have a bound take something at some size.
    assert last.startswith("USED") and int(last.split()[1]) >= 17, last


def test_nothing_else_asks_for_memory_that_is_not_counted():
    """All of it comes through fc_alloc and fc_map; of malloc only objects of fixed size (and the threads' own)."""
    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src_c")
    if not os.path.isdir(folder):
        pytest.skip("tests run without the sources")
    for name in sorted(os.listdir(folder)):
        if name.endswith(".c") and name not in ("memory.c", "threads.c"):
            with open(os.path.join(folder, name)) as file:
                for line in file:
                    # What a packed sparse weight consists of stays, and is not workspace.
                    if name == "sparse_packed.c" and ("s->" in line or "fc_sparse *s =" in line):
                        continue
                    if name == "sparse_blocks.c" and ("b->" in line or "fc_blocks *b =" in line):
                        continue
                    if "malloc(" in line or "calloc(" in line or "realloc(" in line:
                        assert "malloc(sizeof *" in line, (name, line)


if __name__ == "__main__":
    assert _core.current_isa() == os.environ["FASTFC_ISA"]
    main()
