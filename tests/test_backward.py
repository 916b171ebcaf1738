"""linear_backward() on dense operands: the three gradients, right and from any memory into any memory."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from layouts import INPUTS, OUTPUTS, output
from reference import assert_close, assert_same_bits
from samples import K_EDGES, gaussian, integers, wild

import fastfc

NAMES = ("x", "weight", "bias")


def operands(rng, m, n, k, dtype, values=gaussian):
    """grad_y, x, weight, z"""
    return (
        values(rng, (m, n), dtype),
        values(rng, (m, k), dtype),
        values(rng, (n, k), dtype),
        values(rng, (m, n), dtype),
    )


# ---- Sizes ----------------------------------------------------------------------------------------------------------


def test_integers_at_all_tile_edges(isa, dtype, edges, rng):
    """Each of m, n and k is once the rows of a tile, once its columns, once the sum: all edges in each place."""
    sizes = edges.n
    grad, x, weight, _ = operands(rng, 50, sizes[-1], sizes[-1], dtype, integers)
    for size in sizes:
        for m, n, k in ((7, size, 5), (7, 5, size), (size % 51, 9, edges.lanes + 1), (3, size, size)):
            g, a, w = grad[:m, :n], x[:m, :k], weight[:n, :k]
            gx, gw, gb = fastfc.linear_backward(g, a, w)
            exact = [v.astype(np.int64) for v in (g, a, w)]
            assert gx.dtype == gw.dtype == gb.dtype == dtype
            assert np.array_equal(gx, exact[0] @ exact[2]), (m, n, k)
            assert np.array_equal(gw, exact[0].T @ exact[1]), (m, n, k)
            assert np.array_equal(gb, exact[0].sum(0)), (m, n, k)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_within_the_bound_around_numeric_blocks(isa, dtype, rng, activation):
    for size in K_EDGES:
        for m, n in ((size, 5), (5, size)):
            grad, x, weight, z = operands(rng, m, n, 6, dtype)
            gradients = fastfc.linear_backward(grad, x, weight, activation=activation, preactivation=z)
            for actual, expected, tolerance in zip(
                gradients, *reference.backward(grad, x, weight, z, activation), strict=True
            ):
                assert_close(actual, expected, tolerance)


def test_chunks_of_the_sums(isa, dtype, edges, rng, canonical):
    """n (for gx) and m (for gw and gb) around the chunk that L2 holds."""
    for size in (edges.chunk + 1, 2 * edges.chunk + 193):
        for m, n in ((size, 3), (3, size)):
            grad, x, weight, z = operands(rng, m, n, edges.lanes + 1, dtype, integers)
            z -= 1
            gradients = fastfc.linear_backward(grad, x, weight, activation="relu", preactivation=z, threads=2)
            g = np.where(z > 0, grad, 0).astype(np.int64)
            for actual, expected in zip(
                gradients, (g @ weight.astype(np.int64), g.T @ x.astype(np.int64), g.sum(0)), strict=True
            ):
                assert np.array_equal(actual, expected)


def test_threads_share_all_of_a_large_result(isa, dtype, rng, threads):
    grad, x, weight, z = operands(rng, 301, 130, 133, dtype, integers)
    gradients = fastfc.linear_backward(grad, x, weight, threads=threads)
    g = grad.astype(np.int64)
    for actual, expected in zip(
        gradients, (g @ weight.astype(np.int64), g.T @ x.astype(np.int64), g.sum(0)), strict=True
    ):
        assert np.array_equal(actual, expected)
    # Column sums and gates alone are shared out at their own sizes.
    grad, z = integers(rng, (2000, 300), dtype), integers(rng, (2000, 300), dtype)
    x, weight = np.ones((2000, 1), dtype), np.ones((300, 1), dtype)
    gb = fastfc.linear_backward(grad, x, weight, needs=("bias",), activation="relu", preactivation=z, threads=threads)[
        2
    ]
    assert np.array_equal(gb, np.where(z > 0, grad, 0).astype(np.int64).sum(0))


@pytest.mark.parametrize("m, n, k", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (0, 70, 90)])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_empty(isa, dtype, m, n, k, activation):
    """Sums of nothing are +0, and nothing is added where accumulating."""
    grad, x, weight, z = (np.ones(s, dtype) for s in ((m, n), (m, k), (n, k), (m, n)))
    gx, gw, gb = fastfc.linear_backward(grad, x, weight, activation=activation, preactivation=z)
    assert_same_bits(gx, np.full((m, k), float(n), dtype))
    assert_same_bits(gw, np.full((n, k), float(m), dtype))
    assert_same_bits(gb, np.full(n, float(m), dtype))
    old = (np.full((m, k), np.nan, dtype), np.full((n, k), 5, dtype), np.full(n, 6, dtype))
    fastfc.linear_backward(grad, x, weight, activation=activation, preactivation=z, out=old, accumulate=True)
    assert_same_bits(old[0], gx)
    assert_same_bits(old[1], gw + 5)
    assert_same_bits(old[2], gb + 6)


# ---- Against finite differences -------------------------------------------------------------------------------------


def numeric_gradient(function, a, step=1e-6):
    """Central differences of a scalar function; a is changed in place and restored."""
    out = np.empty_like(a)
    for at in np.ndindex(a.shape):
        before = a[at]
        a[at] = before + step
        high = function()
        a[at] = before - step
        low = function()
        a[at] = before
        out[at] = (high - low) / (2 * step)
    return out


@pytest.mark.parametrize("activation", [None, "relu"])
def test_finite_differences(isa, rng, activation):
    x, weight, bias, residual = (gaussian(rng, s, np.float64) for s in ((2, 3, 6), (5, 6), (5,), (2, 3, 5)))
    upstream = gaussian(rng, (2, 3, 5), np.float64)

    def loss():
        return (fastfc.linear(x, weight, bias, residual=residual, activation=activation) * upstream).sum()

    _, z = fastfc.linear(x, weight, bias, residual=residual, activation=activation, return_preactivation=True)
    assert np.abs(z).min() > 1e-4, "a kink in the way: choose another seed"
    gradients = fastfc.linear_backward(upstream, x, weight, activation=activation, preactivation=z)
    for actual, variable in zip(gradients, (x, weight, bias), strict=True):
        np.testing.assert_allclose(actual, numeric_gradient(loss, variable), rtol=1e-6, atol=1e-8)


def test_relu_lets_pass_where_the_preactivation_is_positive_or_nan(isa, dtype):
    """As torch: the gradient is grad_y for z > 0 (and NaN), else +0, whatever grad_y holds there."""
    info = np.finfo(dtype)
    z = np.array(
        [1, -1, 0.0, -0.0, np.nan, np.inf, -np.inf, info.smallest_subnormal, -info.smallest_subnormal] * 3, dtype
    )
    for value in (2.0, -2.0, -0.0, np.inf, np.nan):
        grad = np.full((1, len(z)), value, dtype)
        gb = fastfc.linear_backward(
            grad,
            np.ones((1, 1), dtype),
            np.ones((len(z), 1), dtype),
            activation="relu",
            preactivation=z[None],
            needs=("bias",),
        )[2]
        assert_same_bits(gb, np.where((z > 0) | np.isnan(z), value + 0.0, 0).astype(dtype))


# ---- Arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "needs", [(), ("x",), ("weight",), ("bias",), ("bias", "x"), ["weight", "bias"], {"x", "weight"}]
)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_only_what_is_needed(isa, dtype, rng, needs, activation):
    grad, x, weight, z = operands(rng, 9, 20, 30, dtype)
    every = fastfc.linear_backward(grad, x, weight, activation=activation, preactivation=z)
    some = fastfc.linear_backward(grad, x, weight, activation=activation, preactivation=z, needs=needs)
    for name, one, other in zip(NAMES, some, every, strict=True):
        if name in needs:
            assert_same_bits(one, other, name)
        else:
            assert one is None


@pytest.mark.parametrize("needs", ["weight", "bias"])
def test_the_gradient_of_no_rows_is_plus_zero(dtype, needs):
    """Also where it could be added to something, and dense or sparse."""
    x, grad = np.ones((0, 2), dtype), np.ones((0, 3), dtype)
    for weight in (np.ones((3, 2), dtype), fastfc.CSR(np.ones(3, dtype), [0, 1, 0], [0, 1, 2, 3], (3, 2))):
        for accumulate in (False, True):
            for g in fastfc.linear_backward(grad, x, weight, needs=(needs,), accumulate=accumulate):
                assert g is None or not (g.any() or np.signbit(g).any())


@pytest.mark.parametrize("layout", OUTPUTS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_out_and_accumulate(isa, dtype, rng, layout, accumulate):
    """gw and gb are added to what stands there, one rounding each; gx is always written; garbage is not read."""
    for m in (9, 400):
        grad, x, weight, _ = operands(rng, m, 21, 35, dtype)
        fresh = fastfc.linear_backward(grad, x, weight)
        old = [gaussian(rng, g.shape, dtype) if accumulate else np.full(g.shape, np.nan, dtype) for g in fresh]
        old[0][...] = np.nan
        out = tuple(OUTPUTS[layout](a) for a in old)
        result = fastfc.linear_backward(grad, x, weight, out=out, accumulate=accumulate)
        for i, (given_out, got) in enumerate(zip(out, result, strict=True)):
            assert got is given_out
            expected = fresh[i] + old[i] if accumulate and i else fresh[i]
            assert_same_bits(np.array(given_out), expected, NAMES[i])


@pytest.mark.parametrize("order", ["C", "F"])
def test_accumulate_adds_once_for_any_thread_count(isa, dtype, rng, order):
    """Few outputs and a long batch, so that the gradient of the weight has few rows and much to sum."""
    x = np.asarray(integers(rng, (30000, 64), dtype), order=order)
    for n in (1, 4, 6):
        weight, grad, old = (integers(rng, shape, dtype) for shape in ((n, 64), (30000, n), (n, 64)))
        expected = old + grad.T @ x
        for threads in (1, 2, 3):
            gw = old.copy()
            fastfc.linear_backward(
                grad, x, weight, needs=("weight",), out=(None, gw, None), accumulate=True, threads=threads
            )
            assert_same_bits(gw, expected, (n, threads))


def test_accumulate_into_some(dtype, rng):
    grad, x, weight, _ = operands(rng, 9, 21, 35, dtype)
    fresh = fastfc.linear_backward(grad, x, weight)
    for chosen in range(8):
        old = [np.full(g.shape, 3, dtype) if chosen >> i & 1 else None for i, g in enumerate(fresh)]
        result = fastfc.linear_backward(grad, x, weight, out=tuple(old), accumulate=True)
        for i in range(3):
            add = 3 if old[i] is not None and i else 0
            assert_same_bits(result[i], fresh[i] + dtype(add))


@pytest.mark.parametrize("leading", [(), (1,), (0,), (4,), (2, 3), (2, 0), (2, 1, 3)])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_leading_axes(dtype, rng, leading, activation):
    m = int(np.prod(leading))
    grad, x, weight, z = operands(rng, m, 5, 6, dtype)
    expected = fastfc.linear_backward(grad, x, weight, activation=activation, preactivation=z)
    gx, gw, gb = fastfc.linear_backward(
        grad.reshape(*leading, 5),
        x.reshape(*leading, 6),
        weight,
        activation=activation,
        preactivation=z.reshape(*leading, 5),
    )
    assert_same_bits(gx, expected[0].reshape(*leading, 6))
    assert_same_bits(gw, expected[1])
    assert_same_bits(gb, expected[2])


# ---- Memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", INPUTS)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_any_memory_for_each_operand(isa, dtype, rng, layout, activation):
    values = operands(rng, 21, 37, 50, dtype)
    change = INPUTS[layout]

    def backward(grad, x, weight, z):
        return fastfc.linear_backward(grad, x, weight, activation=activation, preactivation=z)

    expected = backward(*values)
    for changed in (0, 1, 2, 3, slice(None)):
        arrays = list(values)
        if isinstance(changed, slice):
            arrays = [change(a) for a in arrays]
        else:
            arrays[changed] = change(arrays[changed])
        for name, one, other in zip(NAMES, backward(*arrays), expected, strict=True):
            assert_same_bits(one, other, (changed, name))


def test_broadcast_grad_y(isa, dtype, rng):
    """What the gradient of a sum is: one number everywhere."""
    _, x, weight, z = operands(rng, 21, 37, 50, dtype)
    for shape in ((1, 1), (1, 37), (21, 1)):
        grad = np.broadcast_to(gaussian(rng, shape, dtype), (21, 37))
        for activation in (None, "relu"):
            one = fastfc.linear_backward(grad, x, weight, activation=activation, preactivation=z)
            other = fastfc.linear_backward(grad.copy(), x, weight, activation=activation, preactivation=z)
            for a, b in zip(one, other, strict=True):
                assert_same_bits(a, b)


def test_inputs_stay_as_they_were(isa, dtype, rng):
    arrays = operands(rng, 21, 37, 50, dtype)
    copies = [a.copy() for a in arrays]
    grad, x, weight, z = arrays
    fastfc.linear_backward(grad, x, weight, activation="relu", preactivation=z)
    fastfc.linear_backward(grad, x, weight)
    for array, copy in zip(arrays, copies, strict=True):
        assert_same_bits(array, copy)


@given(
    leading=st.lists(st.integers(0, 4), max_size=3).map(tuple),
    n=st.one_of(st.integers(0, 40), st.integers(190, 196)),
    k=st.integers(0, 70),
    dtype=st.sampled_from([np.float32, np.float64]),
    memory=st.lists(st.sampled_from(sorted(INPUTS)), min_size=4, max_size=4),
    outs=st.lists(st.sampled_from([None, *sorted(OUTPUTS)]), min_size=3, max_size=3),
    wanted=st.lists(st.booleans(), min_size=3, max_size=3),
    relu=st.booleans(),
    accumulate=st.booleans(),
    threads=st.sampled_from([None, 1, 2]),
    special=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_call(canonical, leading, n, k, dtype, memory, outs, wanted, relu, accumulate, threads, special, seed):
    rng = np.random.default_rng(seed)
    m = int(np.prod(leading))
    grad, x, weight, z = operands(rng, m, n, k, dtype, (lambda *a: wild(*a, 0.02)) if special else gaussian)
    activation = "relu" if relu else None
    if fastfc.current_isa() == "baseline":
        return
    expected = list(canonical.backward(grad, x, weight, z, activation))
    shapes = ((*leading, k), (n, k), (n,))
    out = []
    for i in range(3):
        expected[i] = expected[i].reshape(shapes[i])
        target = None
        if outs[i] and wanted[i]:
            target = output(outs[i], shapes[i], dtype)
            if accumulate and i:
                old = gaussian(rng, shapes[i], dtype)
                target[...] = old
                with np.errstate(all="ignore"):
                    expected[i] = expected[i] + old
        out.append(target)
    change = [INPUTS[name] for name in memory]
    result = fastfc.linear_backward(
        change[0](grad.reshape(*leading, n)),
        change[1](x.reshape(*leading, k)),
        change[2](weight),
        activation=activation,
        preactivation=change[3](z.reshape(*leading, n)) if relu else None,
        needs=tuple(name for name, want in zip(NAMES, wanted, strict=True) if want),
        out=tuple(out),
        accumulate=accumulate,
        threads=threads,
    )
    for i in range(3):
        if wanted[i]:
            assert out[i] is None or result[i] is out[i]
            assert_same_bits(np.array(result[i]), expected[i], NAMES[i])
        else:
            assert result[i] is None
