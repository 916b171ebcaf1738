"""Beside torch, and MKL, in one process and at once: everybody gets what it gets alone."""

from functools import partial

import numpy as np
import pytest
from samples import at_once

import fastfc

torch = pytest.importorskip("torch", reason="compares with torch")


def alone_and_at_once(work):
    """Each of [(compute, tolerance)] in a thread of its own, 30 times, against what it gave alone."""

    def run(compute, expected, near):
        for _ in range(30):
            assert np.allclose(compute(), expected, rtol=near, atol=near * abs(expected).max())

    at_once(*[partial(run, compute, np.array(compute()), near) for compute, near in work])


@pytest.fixture
def operands(rng):
    x, w = rng.standard_normal((150, 400), np.float32), rng.standard_normal((300, 400), np.float32)
    return x, w, fastfc.pack(w)


def test_torch_beside_fastfc(operands):
    x, w, packed = operands
    xt, wt = torch.from_numpy(x), torch.from_numpy(w)

    def step():
        wt2 = wt.clone().requires_grad_()
        torch.nn.functional.linear(xt, wt2).square().sum().backward()
        return wt2.grad.numpy()

    before = torch.get_num_threads()
    alone_and_at_once(
        [
            (lambda: fastfc.linear(x, packed, activation="gelu", threads=2), 0),
            (lambda: torch.nn.functional.linear(xt, wt).numpy(), 1e-5),
            (step, 1e-5),
            (lambda: fastfc.linear_backward(x @ w.T, x, w, threads=2)[1], 1e-5),
        ]
    )
    assert torch.get_num_threads() == before and np.array_equal(torch.from_numpy(x).numpy(), x)


def test_torch_and_fastfc_keep_their_own_thread_counts():
    before = torch.get_num_threads(), fastfc.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert fastfc.get_num_threads() == before[1]
        with fastfc.num_threads(3):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before[0])


def test_mkl_beside_torch_and_fastfc(operands):
    from fastfc.bench.rivals import MKL

    try:
        library = MKL.library()
    except (ImportError, OSError) as error:
        pytest.skip(str(error))
    import ctypes

    x, w, packed = operands
    y = np.empty((len(x), len(w)), np.float32)
    pointer, as_int = (lambda a: ctypes.c_void_p(a.ctypes.data)), ctypes.c_int

    def mkl():
        library.cblas_sgemm(
            as_int(101), as_int(111), as_int(112), as_int(len(x)), as_int(len(w)), as_int(400), ctypes.c_float(1),
            pointer(x), as_int(400), pointer(w), as_int(400), ctypes.c_float(0), pointer(y), as_int(len(w)),
        )  # fmt: skip
        return y

    xt, wt = torch.from_numpy(x), torch.from_numpy(w)
    alone_and_at_once(
        [
            (mkl, 1e-5),
            (lambda: fastfc.linear(x, packed, threads=2), 0),
            (lambda: torch.nn.functional.linear(xt, wt).numpy(), 1e-5),
        ]
    )
