"""Promises that every kernel keeps, not only the products: any memory, any size, the caller's floating-point mode."""

import gc
import platform
import threading

import numpy as np
import pytest
from layouts import INPUTS
from reference import assert_same_bits
from samples import gaussian, random_csr
from test_contract import DOWN, FTZ, MASKS, TO_ZERO, UP, Mode

import fastfc
from fastfc import _core
from fastfc.activations import __all__ as ACTIVATIONS


def seeded(shape, dtype, seed=0, scale=1.0):
    return gaussian(np.random.default_rng(seed), shape, dtype) * dtype(scale)


def with_gradient(layer, x, grad):
    y, backward = layer.vjp(x)
    return [y, backward(grad), *(p.grad for p in layer.parameters())]


def parameter(data, grad):
    p = fastfc.Parameter(np.array(data))
    p.grad = grad
    return p


def updated(kind, data, grad, **options):
    p = parameter(data, grad)
    opt = getattr(fastfc.optim, kind)([p], **options)
    for _ in range(3):
        opt.step()
    return [p.data]


def clipped(data, grad):
    p = parameter(data, np.array(grad))
    total = fastfc.clip_grad_norm_([p], 0.5)
    fastfc.clip_grad_value_([p], 0.01)
    return [np.array([total]), p.grad]


def of_csr(dtype, m, n, k, change, what):
    csr = fastfc.CSR(*random_csr(np.random.default_rng(5), (n, k), dtype, 0.4, repeats=True))
    x, grad = change(seeded((m, k), dtype)), change(seeded((m, n), dtype, 1))
    if what == "weight":
        z = change(seeded((m, n), dtype, 2))
        return [fastfc.linear(x, csr), *fastfc.linear_backward(grad, x, csr, activation="gelu", preactivation=z)]
    return [fastfc.linear(csr, x), *fastfc.linear_backward(change(np.array(grad.T)), csr, x)[1:]]


def of_packed_sparse(dtype, m, n, k, change):
    csr = fastfc.CSR(*random_csr(np.random.default_rng(5), (n, k), dtype, 0.4, repeats=False))
    layer = fastfc.SparseLinear.from_csr(csr, seeded(n, dtype, 3))
    return [
        fastfc.linear(change(seeded((m, k), dtype)), fastfc.pack(csr), activation="silu"),
        *with_gradient(layer, change(seeded((m, k), dtype)), change(seeded((m, n), dtype, 1))),
    ]


def of_blocks(dtype, m, n, change):
    """Of k = 48 inputs: blocks of 16 of them, which fill panels too, and 2 of each 4."""
    rng = np.random.default_rng(5)
    w = np.repeat(rng.random((n, 3)) < 0.5, 16, axis=1) * seeded((n, 48), dtype, 1)
    quads = np.where(np.arange(48) % 4 < 2, w, dtype(0))
    return [
        fastfc.linear(change(seeded((m, 48), dtype)), fastfc.pack(weight, format=format), activation="silu")
        for weight, format in ((w, "16x1"), (w, "1x16"), (quads, "2:4"))
    ]


def of_many_inputs(dtype, m, n, change):
    """So many, and so few of them stored, that every target turns x."""
    w, x = np.zeros((n, 40_000), dtype), np.zeros((m, 40_000), dtype)
    w[:, 7::1000], x[:, 7::1000] = seeded((n, 40), dtype, 1), seeded((m, 40), dtype)
    return [fastfc.linear(change(x), fastfc.pack(w, format="16x1"), activation="silu")]


def of_sparse_product(dtype, m, n, k, change):
    csr = fastfc.CSR(*random_csr(np.random.default_rng(5), (k, n), dtype, 0.4, repeats=True))
    return [fastfc.sparse_matmul(change(seeded((m, k), dtype)), csr)]


#: Each: the kernels that it runs, and (m, n, dtype, change) -> arrays; `change` brings an operand into some memory.
def operations():
    def linear(m, n, d, c):
        return [fastfc.linear(c(seeded((m, 37), d)), c(seeded((n, 37), d, 1)), c(seeded(n, d, 2)), activation="silu")]

    def packed(m, n, d, c):
        return [
            fastfc.linear(
                c(seeded((m, 37), d)), fastfc.pack(c(seeded((n, 37), d, 1))), residual=c(seeded((m, n), d, 2))
            )
        ]

    def backward(m, n, d, c):
        return list(
            fastfc.linear_backward(
                c(seeded((m, n), d)),
                c(seeded((m, 37), d, 1)),
                c(seeded((n, 37), d, 2)),
                activation="gelu",
                preactivation=c(seeded((m, n), d, 3)),
            )
        )

    def loss(kind, **options):
        def run(m, n, d, c):
            labels = np.random.default_rng(4).integers(0, n, m) if n else np.zeros(m, int)
            target = labels if kind == "CrossEntropyLoss" else c(seeded((m, n), d, 1))
            value, back = getattr(fastfc, kind)(**options).vjp(c(seeded((m, n), d)), target)
            return [np.array(value), back()]

        return run

    def block(gated):
        def run(m, n, d, c):
            layer = fastfc.FeedForward(n, 21, 0.0, gated=gated, dtype=d, rng=0)
            x, grad = c(seeded((m, n), d)), c(seeded((m, n), d, 1))
            return [*with_gradient(layer, x, grad), layer.eval()(x)]

        return run

    def norm(kind):
        return lambda m, n, d, c: with_gradient(
            getattr(fastfc, kind)(n, dtype=d), c(seeded((m, n), d)), c(seeded((m, n), d, 1))
        )

    def fused(m, n, d, c):
        model = fastfc.Sequential(fastfc.Linear(9, n, dtype=d, rng=0), fastfc.ReLU(), fastfc.LayerNorm(n, dtype=d))
        return with_gradient(model, c(seeded((m, 9), d)), c(seeded((m, n), d, 1)))

    def activation(name):
        if name.endswith("_grad"):
            return lambda m, n, d, c: [
                getattr(fastfc.activations, name)(c(seeded((m, n), d)), c(seeded((m, n), d, 1, 3)))
            ]
        return lambda m, n, d, c: [getattr(fastfc.activations, name)(c(seeded((m, n), d, 0, 3)))]

    def long_rows(m, n, d, c):
        """Numeric blocks side by side, where rows crowd into few sets of L1 or are as few as one."""
        x, w = seeded((m, 1024), d), seeded((min(n, 2), 1024), d, 1)
        return [fastfc.linear(c(x), weight) for weight in (c(w), fastfc.pack(w))]

    table = {
        "linear": ("gemm pack few", linear),
        "long rows": ("dots", long_rows),
        "packed": ("gemm pack", packed),
        "backward": ("gemm pack column_sum activation_grad", backward),
        "csr weight": ("spmm sddmm finish", lambda m, n, d, c: of_csr(d, m, n, 23, c, "weight")),
        "packed sparse weight": ("tiled tiled_grad", lambda m, n, d, c: of_packed_sparse(d, m, n, 23, c)),
        "blocks": ("panels quads across", lambda m, n, d, c: of_blocks(d, m, n, c)),
        "blocks of many inputs": ("panels_turned", lambda m, n, d, c: of_many_inputs(d, m, n, c)),
        "dense by csr": ("spmm_t", lambda m, n, d, c: of_sparse_product(d, m, n, 23, c)),
        "csr x": ("spmm finish", lambda m, n, d, c: of_csr(d, m, n, 23, c, "x")),
        "CrossEntropyLoss": ("cross_entropy", loss("CrossEntropyLoss", label_smoothing=0.1)),
        "MSELoss": ("pointwise_loss", loss("MSELoss")),
        "HuberLoss": ("pointwise_loss", loss("HuberLoss", reduction="sum")),
        "BCEWithLogitsLoss": ("pointwise_loss", loss("BCEWithLogitsLoss")),
        "LayerNorm": ("norm norm_grad", norm("LayerNorm")),
        "RMSNorm": ("norm norm_grad", norm("RMSNorm")),
        "Linear and LayerNorm": ("norm norm_grad", fused),
        "FeedForward": ("gemm finish", block(False)),
        "FeedForward, gated": ("gate gate_grad", block(True)),
        "Dropout": ("dropout", lambda m, n, d, c: [fastfc.Dropout(0.4, rng=1)(c(seeded((m, n), d)))]),
        "SGD": (
            "update",
            lambda m, n, d, c: updated("SGD", seeded((m, n), d), c(seeded((m, n), d, 1)), lr=0.1, momentum=0.9),
        ),
        "AdamW": ("update", lambda m, n, d, c: updated("AdamW", seeded((m, n), d), c(seeded((m, n), d, 1)))),
        "clip": ("update square_sum", lambda m, n, d, c: clipped(seeded((m, n), d), c(seeded((m, n), d, 1)))),
    }
    table.update(
        (name, ("finish" if not name.endswith("_grad") else "activation_grad", activation(name)))
        for name in ACTIVATIONS
    )
    return table


OPERATIONS = operations()
NAMES = pytest.mark.parametrize("name", OPERATIONS)


def run(name, m, n, dtype, layout="c"):
    return OPERATIONS[name][1](m, n, dtype, INPUTS[layout])


def test_every_kernel_is_here():
    """But `probe`, which measures the machine."""
    covered = {kernel for kernels, _ in OPERATIONS.values() for kernel in kernels.split()}
    assert covered == set(_core.kernel_names()) - {"probe"}


@NAMES
@pytest.mark.parametrize("m, n", [(5, 19), (70, 131)])
def test_any_memory(isa, dtype, name, m, n):
    """Fortran, strided, negative strides, unaligned, fields of records, read-only, memory-mapped: the same bits."""
    expected = run(name, m, n, dtype)
    for layout in INPUTS:
        for one, other in zip(run(name, m, n, dtype, layout), expected, strict=True):
            assert_same_bits(np.array(one), np.array(other), layout)


@NAMES
def test_any_size(isa, dtype, name, edges):
    """Nothing, one, and the sizes around the lanes: never an error, and finite results where there are any."""
    for m, n in [(0, 0), (0, 3), (3, 0), (1, 1), *((3, n) for n in edges.n)]:
        if n == 0 and name in ("CrossEntropyLoss",):
            continue  # there is no class
        with np.errstate(all="ignore"):
            results = run(name, m, n, dtype)
        for result in results:
            assert m * n == 0 or np.isfinite(result).all(), (m, n)


@pytest.fixture(scope="module")
def mode(tmp_path_factory):
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("MXCSR is x86's")
    mode = Mode(tmp_path_factory.mktemp("mode"))
    before = mode.get()
    yield mode
    mode.set(before)


#: Calls of C alone, on operands that are there: numpy's own arithmetic follows the caller's mode, as it always does.
BARE = {
    "norm": lambda x, z: fastfc.LayerNorm(x.shape[1], dtype=x.dtype),
    "rms": lambda x, z: fastfc.RMSNorm(x.shape[1], dtype=x.dtype),
    "dropout": lambda x, z: fastfc.Dropout(0.4, rng=1).eval(),
    "gated": lambda x, z: fastfc.FeedForward(x.shape[1], 21, 0.0, gated=True, dtype=x.dtype, rng=0).eval(),
    "fused": lambda x, z: fastfc.Sequential(
        fastfc.Linear(x.shape[1], 40, dtype=x.dtype, rng=0), fastfc.ReLU(), fastfc.LayerNorm(40, dtype=x.dtype)
    ).eval(),
    **{
        name: lambda x, z, name=name: getattr(fastfc.activations, name)
        for name in ACTIVATIONS
        if not name.endswith("_grad")
    },
    **{
        name: lambda x, z, name=name: lambda x: getattr(fastfc.activations, name)(x, z)
        for name in ACTIVATIONS
        if name.endswith("_grad")
    },
    "cross entropy": lambda x, z: (
        lambda x: np.asarray(fastfc.CrossEntropyLoss(reduction="none")(x, np.zeros(len(x), np.int64)))
    ),
    "huber": lambda x, z: lambda x: fastfc.HuberLoss(reduction="none")(x, z),
}


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("changed", [FTZ | 0x40, UP, DOWN, TO_ZERO | FTZ, 0x3F, 0], ids=lambda v: f"{v:#x}")
def test_mode_of_the_caller_changes_nothing_and_stays(isa, dtype, mode, name, changed):
    """On operands that are partly denormal, small and shared by threads."""
    for m, n in ((5, 19), (200, 131)):
        x, z = seeded((m, n), dtype), seeded((m, n), dtype, 1)
        x[0] *= np.finfo(dtype).tiny
        z[0] *= np.finfo(dtype).tiny
        call = BARE[name](x, z)
        with np.errstate(all="ignore"):
            expected = np.array(call(x))
        seen = {}

        def in_that_mode(call=call, x=x, seen=seen):
            before = mode.get()
            mode.set(MASKS | changed)
            y = call(x)
            seen["after"] = mode.get()
            mode.set(before)
            seen["y"] = y

        gc.disable()
        try:
            thread = threading.Thread(target=in_that_mode)
            thread.start()
            thread.join()
        finally:
            gc.enable()
        assert seen["after"] == MASKS | changed, f"MXCSR was {MASKS | changed:#x}, is {seen['after']:#x}"
        assert_same_bits(np.array(seen["y"]), expected)


def test_inputs_that_overlap_each_other_are_fine(isa, dtype):
    """x, weight, bias and residual may be one and the same memory: only results may not lie on them."""
    square = seeded((20, 20), dtype)
    expected = fastfc.linear(square.copy(), square.T.copy(), square[0].copy(), residual=square.copy())
    assert_same_bits(fastfc.linear(square, square.T, square[0], residual=square), expected)
    apart = fastfc.linear_backward(
        square.copy(), square.copy(), square.copy(), activation="gelu", preactivation=square.copy()
    )
    for one, other in zip(
        fastfc.linear_backward(square, square, square, activation="gelu", preactivation=square), apart, strict=True
    ):
        assert_same_bits(one, other)
