"""FeedForward: the bits of the products one after the other, without the intermediate; its gradients; its memory."""

import copy
import pickle
import runpy
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from layouts import INPUTS
from reference import assert_same_bits
from samples import FMA_ISAS, gaussian, in_threads, wild
from test_layers import check_gradients, state_of

import fastfc
from fastfc import _core, activations

ACTIVATIONS = [name for name in _core.ACTIVATIONS if name is not None]
GATED = pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])


def make(d_model, d_ff, dropout=0.0, *, rng=1, **options):
    """A block whose biases are far enough from 0 to be missed."""
    block = fastfc.FeedForward(d_model, d_ff, dropout, rng=rng, **options)
    for parameter in block.parameters():
        if parameter.data.ndim == 1:
            parameter.data[...] = gaussian(np.random.default_rng(7), parameter.data.shape, parameter.data.dtype)
    return block


def apply(activation, z):
    if activation is None:
        return z
    name, *value = (activation,) if isinstance(activation, str) else activation
    return getattr(activations, name)(z, *value)


def one_after_the_other(block, x):
    """What the block computes in eval, by the functions that users have."""
    def affine(layer, a, **options):
        return fastfc.linear(a, layer.weight.data, None if layer.bias is None else layer.bias.data, **options)

    if block.w3 is None:
        h = affine(block.w1, x, activation=block.activation)
    else:
        h = apply(block.activation, affine(block.w1, x)) * affine(block.w3, x)
    return affine(block.w2, h)


@pytest.fixture(autouse=True)
def default_threads():
    before = fastfc.get_num_threads()
    yield
    fastfc.set_num_threads(before)


# -- inference ---------------------------------------------------------------------------------------------------------

@GATED
def test_bits_of_the_products_one_after_the_other(isa, dtype, threads, gated, rng):
    """Widths around each edge of a panel, one numeric block and more of d_ff, one whose rows are kept apart (256), rows
    around tiles."""
    fastfc.set_num_threads(threads)
    for d_model, d_ff in ((1, 1), (3, 5), (8, 31), (17, 64), (33, 193), (65, 400), (200, 129), (9, 256)):
        block = make(d_model, d_ff, gated=gated, dtype=dtype).eval()
        for rows in (0, 1, 2, 3, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 24, 31, 33, 65):
            x = gaussian(rng, (rows, d_model), dtype)
            assert_same_bits(block(x), one_after_the_other(block, x), (d_model, d_ff, rows))


@GATED
def test_bits_over_blocks_of_rows(isa, dtype, threads, gated, rng):
    """d_ff so wide that a block holds few rows: one block, one row more, and several that are not even."""
    fastfc.set_num_threads(threads)
    d_ff = 9 * 2**18 // (np.dtype(dtype).itemsize * (2 if gated else 1) * 70)  # 2.25 MiB in 70 rows
    block = make(2, d_ff, gated=gated, dtype=dtype).eval()
    for rows in (69, 70, 71, 139, 140, 141, 155, 283):
        x = gaussian(rng, (rows, 2), dtype)
        assert_same_bits(block(x), one_after_the_other(block, x), rows)


@GATED
@pytest.mark.parametrize(
    "activation", [*ACTIVATIONS, None, ("leaky_relu", 0.3), ("elu", 1.7), ("softplus", 2.0)], ids=str)
def test_every_activation(isa, dtype, gated, activation, rng):
    block = make(9, 40, activation=activation, gated=gated, dtype=dtype).eval()
    for rows in (3, 40):
        x = 4 * gaussian(rng, (rows, 9), dtype)
        assert_same_bits(block(x), one_after_the_other(block, x), activation)


@GATED
@pytest.mark.parametrize("bias", [False, True])
def test_special_values_travel(fma_isa, dtype, gated, bias, rng):
    block = make(5, 30, gated=gated, bias=bias, dtype=dtype).eval()
    with np.errstate(all="ignore"):
        x = wild(rng, (200, 5), dtype, specials=0.2)
        y = block(x)
        assert_same_bits(y, one_after_the_other(block, x))
    assert np.isnan(y).any() and np.isfinite(y).any()


@GATED
def test_a_row_is_the_same_in_every_batch(dtype, gated, rng):
    d_ff = 4000
    block = make(6, d_ff, gated=gated, dtype=dtype).eval()
    x = gaussian(rng, (300, 6), dtype)
    results = []
    for count in (1, 2):
        fastfc.set_num_threads(count)
        y = block(x)
        results.append(y)
        for rows in (1, 2, 7, 17, 100):
            for begin in (0, 120, 300 - rows):
                assert_same_bits(block(x[begin : begin + rows]), y[begin : begin + rows], (rows, begin))
    assert_same_bits(results[0], results[1])


@pytest.mark.parametrize("name", FMA_ISAS)
def test_bits_do_not_depend_on_the_target(name, dtype, rng):
    """Nor on the one in use when it is called: packed weights keep theirs."""
    x = gaussian(rng, (20, 9), dtype)
    before = fastfc.current_isa()
    try:
        block = make(9, 50, activation="swiglu", dtype=dtype)
        results = []
        for target in (name, FMA_ISAS[-1]):
            _core.select_isa(target)
            results.append(block.eval()(x))
            for other in fastfc.available_isas():
                _core.select_isa(other)
                results.append(block(x))
            block.train()
    finally:
        _core.select_isa(before)
    for y in results:
        assert_same_bits(y, results[0])


@pytest.mark.parametrize("layout", INPUTS)
@pytest.mark.parametrize("shape", [(6,), (5, 6), (3, 4, 6), (2, 0, 6), (2, 3, 1, 6)])
def test_any_memory_for_x(layout, shape, dtype, rng):
    block = make(6, 20, dtype=dtype).eval()
    x = gaussian(rng, shape, dtype)
    assert_same_bits(block(INPUTS[layout](x)), one_after_the_other(block, x), layout)


def test_rows_that_no_stride_walks(dtype, rng):
    block = make(6, 20, dtype=dtype).eval()
    x = gaussian(rng, (4, 3, 6), dtype).transpose(1, 0, 2)
    assert_same_bits(block(x), one_after_the_other(block, np.ascontiguousarray(x)))
    x = np.broadcast_to(gaussian(rng, 6, dtype), (4, 3, 6))
    assert_same_bits(block(x), one_after_the_other(block, np.ascontiguousarray(x)))


@GATED
@pytest.mark.parametrize(("d_model", "d_ff"), [(0, 4), (4, 0), (0, 0)])
def test_empty_widths(d_model, d_ff, gated, dtype):
    block = make(d_model, d_ff, gated=gated, dtype=dtype)
    for rows in (0, 3):
        x = np.ones((rows, d_model), dtype)
        y, backward = block.vjp(x)
        assert_same_bits(y, block.eval()(x))
        assert_same_bits(y, np.broadcast_to(block.w2.bias.data, (rows, d_model)).copy())
        assert backward(np.ones_like(y)).shape == x.shape
        block.train()


def test_training_and_eval_agree_without_dropout(dtype, rng):
    for activation in ("gelu", "swiglu"):
        block = make(9, 40, activation=activation, dtype=dtype)
        x = gaussian(rng, (30, 9), dtype)
        y, z = block(x), block.vjp(x)[0]
        block.eval()
        assert_same_bits(y, z)
        assert_same_bits(y, block(x))
        assert_same_bits(y, block.vjp(x)[0])


def test_dropout_is_for_training(rng):
    block, same = make(9, 40, 0.5), make(9, 40, 0.0)
    x = gaussian(rng, (30, 9), np.float32)
    assert not np.array_equal(block(x), same(x))
    assert not np.array_equal(block(x), block(x))
    assert_same_bits(block.eval()(x), same.eval()(x))


def test_other_layers_in_place_of_the_products(rng):
    """A layer of another kind is called as it is, in eval too."""
    class Twice(fastfc.Linear):
        def __call__(self, x):
            return 2 * super().__call__(x)

    for which in ("w1", "w2", "w3"):
        block = make(6, 20, activation="geglu", dtype=np.float64).eval()
        expected = make(6, 20, activation="geglu", dtype=np.float64)
        getattr(expected, which).weight.data *= 2
        getattr(expected, which).bias.data *= 2
        other = Twice(*(20, 6) if which == "w2" else (6, 20), dtype=np.float64)
        other.load_state_dict(getattr(block, which).state_dict())
        setattr(block, which, other.eval())
        x = gaussian(rng, (5, 6), np.float64)
        np.testing.assert_allclose(block(x), expected(x), rtol=1e-12)
    block.w1 = fastfc.Linear(6, 20, activation="relu", dtype=np.float64).eval()
    x = gaussian(rng, (5, 6), np.float64)
    z = block.w1(x)
    assert (z >= 0).all()
    np.testing.assert_allclose(block(x), block.w2(activations.gelu(z) * block.w3(x)), rtol=1e-12)


def test_products_that_do_not_fit_each_other():
    block = make(6, 20, activation="geglu").eval()
    x = np.ones((3, 6), np.float32)
    kept = block.w1, block.w2, block.w3
    for which, wrong, message in (
        ("w2", fastfc.Linear(21, 6), r"x has 20 features in its last axis, weight expects 21"),
        ("w3", fastfc.Linear(6, 21), r"w1 and w3 must give .* shape \(3, 20\) and float32 of shape \(3, 21\)"),
        ("w3", fastfc.Linear(7, 20), r"x has 6 features in its last axis, weight expects 7"),
        ("w2", fastfc.Linear(20, 6, dtype=np.float64), r"weight is float64, x is float32"),
    ):
        setattr(block, which, wrong.eval())
        with pytest.raises((ValueError, TypeError), match=message):
            block(x)
        block.train()
        with pytest.raises((ValueError, TypeError), match=message):
            block.vjp(x)
        block.eval()
        block.w1, block.w2, block.w3 = kept
    block.w2.bias = fastfc.Parameter(np.zeros(7, np.float32))
    with pytest.raises(ValueError, match=r"bias has shape \(7,\), expected \(6,\)"):
        block(x)


def test_threads_may_share_a_block_in_eval(rng):
    block = make(6, 300, activation="swiglu").eval()
    batches = [gaussian(rng, (1 + 17 * i, 6), np.float32) for i in range(8)]
    expected = [block(x) for x in batches]
    wrong = []

    def work():
        for _ in range(20):
            for x, y in zip(batches, expected, strict=True):
                if not np.array_equal(block(x), y):
                    wrong.append(x.shape)

    in_threads(4, work)
    assert not wrong


# -- the kernels between the products ----------------------------------------------------------------------------------

@pytest.mark.parametrize("activation", [*ACTIVATIONS, None], ids=str)
def test_gate_is_the_activation_times_the_factor(isa, dtype, edges, activation, rng):
    """And its gradient is the activation's, and the product's; at every length of a tail, in place or not."""
    number = _core.ACTIVATIONS[activation]
    with np.errstate(all="ignore"):
        for n in (*range(2 * edges.lanes + 2), 8192, 8193, 3 * 8192 + edges.lanes - 1):
            z, factor, grad = (wild(rng, n, dtype, specials=0.1) for _ in range(3))
            if n > 100:
                z = 4 * gaussian(rng, n, dtype)
            h = apply(activation, z) * factor
            product = grad * factor
            expected = (
                product if activation is None else getattr(activations, activation + "_grad")(product, z),
                grad * apply(activation, z))
            for threads in (1, 2):
                got = np.full(n, np.nan, dtype)
                _core.gate_forward(z, factor, got, *number, threads)
                assert_same_bits(got, h, n)
                for alias in (0, 1):
                    operands = [z.copy(), factor.copy()]
                    _core.gate_forward(*operands, operands[alias], *number, threads)
                    assert_same_bits(operands[alias], h, (n, alias))
                for places in ((3, 4), (0, 1), (1, 2), (2, 0)):
                    arrays = [grad.copy(), z.copy(), factor.copy(), *np.full((2, n), np.nan, dtype)]
                    _core.gate_backward(*arrays[:3], *(arrays[place] for place in places), *number, threads)
                    for place, value in zip(places, expected, strict=True):
                        assert_same_bits(arrays[place], value, (n, places))


# -- training ----------------------------------------------------------------------------------------------------------

CASES = pytest.mark.parametrize(("activation", "gated"), [
    ("gelu", False), ("relu", False), ("tanh", False), (None, False), (("elu", 1.5), False), ("swiglu", True),
    ("geglu", True), ("sigmoid", True), (None, True)], ids=str)


@CASES
@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 3, 5)])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_by_finite_differences(activation, gated, shape, recompute):
    block = make(5, 8, activation=activation, gated=gated, recompute=recompute, dtype=np.float64)
    check_gradients(block, np.random.default_rng(1).standard_normal(shape))


class Repeated(fastfc.Module):
    """A block whose every call draws the same mask."""

    def __init__(self, block):
        self.block = block

    def __call__(self, x):
        self.block.dropout.calls = 3
        return self.block(x)

    def vjp(self, x):
        self.block.dropout.calls = 3
        return self.block.vjp(x)


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_with_dropout(activation, recompute):
    block = make(5, 8, 0.4, activation=activation, recompute=recompute, dtype=np.float64)
    check_gradients(Repeated(block), np.random.default_rng(1).standard_normal((6, 5)))


def backward_by_hand(block, x, grad_y):
    """(y, gx, gradients by name) by the functions that users have; the block's dropout moves on by one call."""
    w1, w2, w3 = block.w1, block.w2, block.w3
    grads = {}

    def back(name, grad, a, **options):
        gx, grads[f"{name}.weight"], grads[f"{name}.bias"] = fastfc.linear_backward(
            grad, a, getattr(block, name).weight.data, **options)
        return gx

    z = fastfc.linear(x, w1.weight.data, w1.bias.data)
    factor = None if w3 is None else fastfc.linear(x, w3.weight.data, w3.bias.data)
    h = apply(block.activation, z)
    h, drop = block.dropout.vjp(h if factor is None else h * factor)
    y = fastfc.linear(h, w2.weight.data, w2.bias.data)
    grad_h = drop(back("w2", grad_y, h))
    if factor is None:
        return y, back("w1", grad_h, x, activation=block.activation, preactivation=z), grads
    gx = back("w1", grad_h * factor, x, activation=block.activation, preactivation=z)
    gx3 = back("w3", grad_h * apply(block.activation, z), x)
    return y, gx + gx3, grads


@GATED
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_bits_of_training(isa, dtype, threads, gated, recompute, dropout, rng):
    """Those of the functions, with recomputation or without, for any thread count, step after step."""
    fastfc.set_num_threads(threads)
    block = make(9, 210, dropout, gated=gated, recompute=recompute, dtype=dtype)
    by_hand = copy.deepcopy(block)
    for step in range(3):
        x, grad_y = gaussian(rng, (40, 9), dtype), gaussian(rng, (40, 9), dtype)
        y, backward = block.vjp(x)
        block.zero_grad()
        gx = backward(grad_y)
        expected, expected_gx, expected_grads = by_hand_results = backward_by_hand(by_hand, x, grad_y)
        assert len(by_hand_results) == 3
        assert_same_bits(y, expected, step)
        assert_same_bits(gx, expected_gx, step)
        for name, parameter in block.named_parameters():
            assert_same_bits(parameter.grad, expected_grads[name], name)
        assert block.dropout.calls == by_hand.dropout.calls == step + 1


def test_recomputation_holds_the_mask_of_its_own_forward_pass(rng):
    """Several passes forward before the first one back, and one back twice."""
    blocks = [make(6, 20, 0.5, recompute=recompute, dtype=np.float64) for recompute in (False, True)]
    batches = gaussian(rng, (3, 5, 6), np.float64)
    results = []
    for block in blocks:
        passes = [block.vjp(x) for x in batches]
        gradients = [passes[i][1](np.ones((5, 6))) for i in (1, 0, 2, 0)]
        results.append(([y for y, _ in passes], gradients, block(batches[0]), [p.grad for p in block.parameters()]))
    for one, other in zip(*results, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@GATED
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_accumulate_and_that_of_x_can_be_left_out(gated, recompute, rng):
    block = make(6, 20, gated=gated, recompute=recompute, dtype=np.float64)
    x, grad_y = gaussian(rng, (5, 6), np.float64), gaussian(rng, (5, 6), np.float64)
    _, backward = block.vjp(x)
    assert backward(grad_y).shape == x.shape
    once = [p.grad.copy() for p in block.parameters()]
    assert backward(grad_y, needs_input_grad=False) is None
    for p, grad in zip(block.parameters(), once, strict=True):
        np.testing.assert_allclose(p.grad, 2 * grad, rtol=1e-12)
    with pytest.raises(ValueError, match=r"grad_y has shape \(5, 5\)"):
        backward(grad_y[:, :5])


@pytest.mark.parametrize("recompute", [False, True])
def test_backward_in_eval(recompute, rng):
    block = make(6, 20, 0.5, activation="swiglu", recompute=recompute, dtype=np.float64).eval()
    check = make(6, 20, 0.0, activation="swiglu", dtype=np.float64)
    x, grad_y = gaussian(rng, (5, 6), np.float64), gaussian(rng, (5, 6), np.float64)
    (y, backward), (expected, expected_backward) = block.vjp(x), check.vjp(x)
    assert_same_bits(y, expected)
    assert_same_bits(backward(grad_y), expected_backward(grad_y))


# -- memory ------------------------------------------------------------------------------------------------------------

def peak_bytes(function, *arguments):
    """Result, and the most bytes that numpy and Python held meanwhile beyond what they held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = function(*arguments)
        return result, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@GATED
@pytest.mark.parametrize("rows", [8, 64, 512])
def test_the_intermediate_is_no_array_in_inference(gated, rows):
    block = fastfc.FeedForward(96, 384, gated=gated, rng=0).eval()
    x = np.ones((rows, 96), np.float32)
    block(x)
    y, peak = peak_bytes(block, x)
    assert peak <= y.nbytes + 4096
    assert peak_bytes(one_after_the_other, block, x)[1] > rows * 384 * 4  # the measure sees one


@pytest.mark.measures_memory
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("rows", [8, 64, 512])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_beyond_the_result_is_under_4_MiB(activation, rows, threads):
    """Resident memory, C's workspace included, where an allocation never gets pages that were in use before."""
    script = f"""
        import numpy as np, fastfc
        def resident(field):
            with open('/proc/self/status') as file:
                return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
        def growth(function):
            with open('/proc/self/clear_refs', 'w') as file:
                file.write('5')  # the peak starts anew
            before = resident('VmRSS')
            y = function()
            return resident('VmHWM') - before - y.nbytes
        block = fastfc.FeedForward(768, 3072, activation={activation!r}, rng=0).eval()
        x = np.ones(({rows}, 768), np.float32)
        block(x[:1])
        a = growth(lambda: block(x))
        b = growth(lambda: block.w2(fastfc.activations.gelu(block.w1(x))))
        print(a, b)
        """
    result = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=100,
        env={"FASTFC_NUM_THREADS": str(threads), "MALLOC_MMAP_THRESHOLD_": str(1 << 16)})
    if "Permission" in result.stderr or "Errno" in result.stderr:
        pytest.skip("the peak of resident memory can't be set back here")
    assert result.returncode == 0, result.stderr
    block, whole = map(int, result.stdout.split())
    assert block < 4 << 20
    if rows == 512:
        assert whole > 4 << 20  # the measure sees an intermediate that is whole


@pytest.mark.measures_memory
@GATED
def test_memory_that_recomputation_saves(gated):
    """Between the passes x and y are all that is held, against z, h (and the factor), and h before dropout."""
    rows, d_model, d_ff = 1000, 16, 256
    x = np.ones((rows, d_model), np.float32)
    held = {}
    for recompute in (False, True):
        block = fastfc.FeedForward(d_model, d_ff, 0.1, gated=gated, recompute=recompute, rng=0)
        block.vjp(x)[1](x)  # gradients are there
        tracemalloc.start()
        try:
            kept = block.vjp(x)
            held[recompute] = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        del kept
    intermediate = rows * d_ff * 4
    assert held[True] < x.nbytes + 0.05 * intermediate
    assert held[False] > (3 if gated else 2) * intermediate


@pytest.mark.measures_memory
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_no_memory_is_a_memory_error():
    script = """
        import resource, numpy as np, fastfc
        block = fastfc.FeedForward(1, 1 << 19, rng=0).eval()
        x = np.ones((64, 1), np.float32)
        y = block(x)
        with open('/proc/self/statm') as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
        try:
            block(x)  # 64 rows of 2 MiB
        except MemoryError as error:
            print(error)
        assert (block(x[:4]) == y[:4]).all()
        """
    result = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=100,
        env={"FASTFC_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)})
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "FeedForward: no memory for workspace"


# -- state -------------------------------------------------------------------------------------------------------------

def test_names_shapes_and_initial_values():
    block = fastfc.FeedForward(6, 20, rng=3)
    assert {name: a.shape for name, a in block.state_dict().items()} == {
        "w1.weight": (20, 6), "w1.bias": (20,), "w2.weight": (6, 20), "w2.bias": (6,)}
    gated = fastfc.FeedForward(6, 20, activation="swiglu", bias=False, rng=3)
    assert {name: a.shape for name, a in gated.state_dict().items()} == {
        "w1.weight": (20, 6), "w2.weight": (6, 20), "w3.weight": (20, 6)}
    assert fastfc.FeedForward(6, 20).dropout.p == 0.1
    rng = np.random.default_rng(3)
    for layer in (block.w1, block.w2):
        same = fastfc.Linear(layer.in_features, layer.out_features, rng=rng)
        assert state_of(layer) == state_of(same)
    assert state_of(fastfc.FeedForward(6, 20, rng=3)) == state_of(block)
    assert state_of(fastfc.FeedForward(6, 20, rng=4)) != state_of(block)
    with pytest.raises(ValueError, match=r"w2.bias: missing"):
        block.load_state_dict({k: v for k, v in block.state_dict().items() if k != "w2.bias"})


@pytest.mark.parametrize(("name", "plain"), [("swiglu", "silu"), ("geglu", "gelu")])
def test_names_of_gated_blocks(name, plain, rng):
    x = gaussian(rng, (4, 6), np.float32)
    one, other = (fastfc.FeedForward(6, 20, 0.0, rng=0, **options) for options in (
        {"activation": name}, {"activation": plain, "gated": True}))
    assert_same_bits(one.eval()(x), other.eval()(x))
    assert repr(one) == repr(other)


@GATED
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))], ids=["copy", "pickle"])
def test_copies_and_pickles_go_on_as_the_original(gated, mode, duplicate, rng):
    block = make(6, 20, 0.5, gated=gated, recompute=True)
    x = gaussian(rng, (4, 6), np.float32)
    block(x)
    getattr(block, mode)()
    other = duplicate(block)
    assert repr(other) == repr(block)
    assert_same_bits(other(x), block(x))
    assert_same_bits(other.vjp(x)[1](x), block.vjp(x)[1](x))


def test_repr():
    assert repr(fastfc.FeedForward(6, 20)) == (
        "FeedForward(\n"
        "  activation='gelu', gated=False\n"
        "  (w1): Linear(in_features=6, out_features=20, bias=True)\n"
        "  (w2): Linear(in_features=20, out_features=6, bias=True)\n"
        "  (dropout): Dropout(p=0.1)\n"
        ")")


def test_in_a_model(rng):
    model = fastfc.Sequential(fastfc.Linear(5, 6, dtype=np.float64, rng=0), make(6, 20, dtype=np.float64))
    check_gradients(model, gaussian(rng, (4, 5), np.float64))
    assert list(model.state_dict())[2:4] == ["1.w1.weight", "1.w1.bias"]


# -- mistakes ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("arguments", "options", "error", "message"), [
    ((-1, 4), {}, ValueError, r"FeedForward\(\): d_model must be >= 0, got -1"),
    ((4, 2.5), {}, TypeError, r"FeedForward\(\): d_ff must be an integer, got float"),
    ((4, 4, 1.5), {}, ValueError, r"p must be in \[0, 1\], got 1.5"),
    ((4, 4, -0.1), {}, ValueError, r"p must be in \[0, 1\], got -0.1"),
    ((4, 4, "0.1"), {}, TypeError, r"p must be a number, got str"),
    ((4, 4), {"activation": "swish"}, ValueError, r"activation must be one of .*got 'swish'"),
    ((4, 4), {"activation": 3}, TypeError, r"activation must be one of .*got int"),
    ((4, 4), {"activation": ("elu", np.inf)}, ValueError, r"activation's alpha must be finite, got inf"),
    ((4, 4), {"gated": 1}, TypeError, r"gated must be a bool, got int"),
    ((4, 4), {"bias": None}, TypeError, r"bias must be a bool, got NoneType"),
    ((4, 4), {"recompute": "yes"}, TypeError, r"recompute must be a bool, got str"),
    ((4, 4), {"dtype": np.float16}, TypeError, r"dtype must be float32 or float64, got float16"),
    ((4, 4), {"rng": "0"}, TypeError, r"rng must be"),
])
def test_wrong_blocks_are_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        fastfc.FeedForward(*arguments, **options)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("x", "error", "message"), [
    (np.ones((3, 5), np.float32), ValueError, r"x has 5 features in its last axis, weight expects 6"),
    (np.ones((3, 6)), TypeError, r"weight is float32, x is float64"),
    (np.ones((3, 6), np.int64), TypeError, r"x must be float32 or float64 in native byte order, got int64"),
    (np.ones((3, 6), ">f4"), TypeError, r"x must be float32 or float64 in native byte order, got >f4"),
    (np.float32(1), TypeError, r"x must be a numpy array, got float32"),
    (np.array(1, np.float32), ValueError, r"x must have at least one axis"),
    ([[1.0] * 6], TypeError, r"x must be a numpy array, got list"),
    (None, TypeError, r"x must be a numpy array, got NoneType"),
], ids=["width", "float64", "int", "swapped", "scalar", "0-D", "list", "None"])
def test_wrong_x_is_refused(x, error, message, mode):
    block = getattr(make(6, 20, 0.1, activation="swiglu"), mode)()
    for call in (block, block.vjp):
        with pytest.raises(error, match=message):
            call(x)


# -- the example -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("with_torch", [False, True])
def test_the_example_runs(with_torch, capsys):
    if with_torch:
        pytest.importorskip("torch", reason="the example compares with it")
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "feedforward.py"))
    names = example["main"].__globals__
    names["ROWS"] = (8,)
    if not with_torch:
        names["torch_block"] = lambda: None
    example["main"](0.0)
    said = capsys.readouterr().out
    assert ("With torch's weights" in said) == with_torch and ("is left out" in said) != with_torch
    assert "two bare products" in said and "workspace of 2.25 MiB" in said
