"""Layers whose weight is cut, masked, of low rank or of three axes: each against the dense layer that it stands for."""

import math

import numpy as np
import pytest
from gradients import check_contract, check_gradients, state_of

import fastfc

MAKERS = {
    "low rank": lambda **kw: fastfc.LowRankLinear(6, 8, rank=3, rng=1, **kw),
    "low rank, no bias": lambda **kw: fastfc.LowRankLinear(6, 8, 3, False, activation="tanh", rng=1, **kw),
    "grouped, small": lambda **kw: fastfc.GroupedLinear(6, 8, 2, rng=1, **kw),
    "grouped, no bias": lambda **kw: fastfc.GroupedLinear(6, 8, 2, False, activation=("elu", 0.7), rng=1, **kw),
    "grouped, dense": lambda **kw: fastfc.GroupedLinear(32, 34, 2, rng=1, **kw),
    "grouped, dense, no bias": lambda **kw: fastfc.GroupedLinear(32, 34, 2, False, activation="gelu", rng=1, **kw),
    "one group": lambda **kw: fastfc.GroupedLinear(16, 17, 1, rng=1, **kw),
    "separable": lambda **kw: fastfc.SeparableLinear(6, 8, 3, multiplier=2, rng=1, **kw),
    "separable, no bias": lambda **kw: fastfc.SeparableLinear(6, 8, 3, 1, False, activation="silu", rng=1, **kw),
    "masked": lambda **kw: fastfc.MaskedLinear(6, 8, sparsity=0.4, rng=1, **kw),
    "masked, no bias": lambda **kw: fastfc.MaskedLinear(6, 8, False, activation="sigmoid", rng=1, **kw),
}
ALL = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def inputs(layer, rows=(5,)):
    return np.random.default_rng(3).standard_normal((*rows, layer.in_features))


@ALL
@pytest.mark.parametrize("rows", [(), (5,), (2, 3)])
def test_gradients(make, rows):
    layer = make(dtype=np.float64)
    check_gradients(layer, inputs(layer, rows))


@ALL
def test_contract(make):
    check_contract(make, inputs(make()))


@ALL
def test_any_layout(make):
    layer = make()
    x = inputs(layer, (4, 6)).astype(np.float32)
    y = layer(x)
    wide = np.zeros((4, 6, 2 * x.shape[-1]), np.float32)
    wide[..., ::2] = x
    for layout in (np.asfortranarray(x), wide[..., ::2], x[::-1][::-1]):
        np.testing.assert_array_equal(layer(layout), y)
        got, backward = layer.vjp(layout)
        np.testing.assert_array_equal(got, y)
        np.testing.assert_array_equal(backward(np.asfortranarray(y)), layer.vjp(x)[1](y))


@ALL
def test_wrong_x(make):
    layer = make()
    for call in (layer, layer.vjp):
        with pytest.raises(ValueError, match=rf"x .*{layer.in_features + 1}"):
            call(np.ones((2, layer.in_features + 1), np.float32))
        with pytest.raises(TypeError):
            call(np.ones((2, layer.in_features)))
        with pytest.raises((ValueError, TypeError)):
            call(np.float32(1))


@pytest.mark.parametrize("make", [make for name, make in MAKERS.items() if "low" not in name and "separable" not in name
                                  and "no bias" not in name])
def test_bits_do_not_depend_on_threads(make):
    layer = make()
    x = inputs(layer, (100,)).astype(np.float32)
    results = []
    for threads in (1, 2):
        with fastfc.num_threads(threads):
            layer.zero_grad()
            y, backward = layer.vjp(x)
            results.append([y, backward(y), *(p.grad for p in layer.parameters())])
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


# -- LowRankLinear -----------------------------------------------------------------------------------------------------


def test_low_rank_is_two_linears():
    layer = fastfc.LowRankLinear(6, 8, 3, dtype=np.float64, rng=0)
    assert list(layer.state_dict()) == ["A.weight", "B.weight", "B.bias"]
    assert (layer.in_features, layer.out_features, layer.rank) == (6, 8, 3)
    x = inputs(layer)
    expected = x @ (layer.B.weight.data @ layer.A.weight.data).T + layer.B.bias.data
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(layer.to_dense(), layer.B.weight.data @ layer.A.weight.data, atol=1e-15)
    rng = np.random.default_rng(0)
    first, second = (fastfc.Linear(*sizes, dtype=np.float64, rng=rng) for sizes in ((6, 3, False), (3, 8)))
    np.testing.assert_array_equal(layer.A.weight.data, first.weight.data)
    np.testing.assert_array_equal(layer.B.weight.data, second.weight.data)
    assert fastfc.LowRankLinear(100, 80).rank == 64


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_from_linear_is_the_best_of_its_rank(shape, bias, dtype):
    layer = fastfc.Linear(*shape, bias, activation="relu", dtype=dtype, rng=0)
    weight = layer.weight.data.astype(np.float64)
    s = np.linalg.svd(weight, compute_uv=False)
    before = state_of(layer)
    for rank in range(1, min(shape) + 1):
        low = fastfc.LowRankLinear.from_linear(layer, rank=rank)
        assert low.rank == rank and low.A.weight.dtype == dtype and low.activation == "relu"
        product = low.B.weight.data.astype(np.float64) @ low.A.weight.data
        found = np.linalg.norm(weight - product) / np.linalg.norm(weight)
        best = math.sqrt((s[rank:] ** 2).sum() / (s**2).sum())
        assert abs(low.error - best) < 1e-12
        assert abs(found - best) < (1e-6 if dtype == np.float32 else 1e-14)
        if bias:
            np.testing.assert_array_equal(low.B.bias.data, layer.bias.data)
            low.B.bias.data[0] = 9
        assert f"rank={rank}, error={low.error:.3g}, bias={bias}, activation='relu'" in repr(low)
    x = np.random.default_rng(0).standard_normal((3, shape[0])).astype(dtype)
    low = fastfc.LowRankLinear.from_linear(layer, rank=min(shape))
    np.testing.assert_allclose(low(x), layer(x), atol=1e-5 if dtype == np.float32 else 1e-14)
    assert state_of(layer) == before


@pytest.mark.parametrize("energy", [0, 0.3, 0.5, 0.9, 0.999, 1])
def test_from_linear_by_energy_takes_the_least_rank(energy):
    layer = fastfc.Linear(12, 10, dtype=np.float64, rng=0)
    s2 = np.linalg.svd(layer.weight.data, compute_uv=False) ** 2
    low = fastfc.LowRankLinear.from_linear(layer, energy=energy)
    assert s2[:low.rank].sum() >= energy * s2.sum() * (1 - 1e-14)
    assert low.rank == 1 or s2[:low.rank - 1].sum() < energy * s2.sum()
    assert low.error <= math.sqrt(1 - energy) + 1e-15


def test_from_linear_finds_an_exact_rank():
    rng = np.random.default_rng(0)
    layer = fastfc.Linear(12, 10, dtype=np.float64)
    layer.weight.data = rng.standard_normal((10, 3)) @ rng.standard_normal((3, 12))
    low = fastfc.LowRankLinear.from_linear(layer, energy=1 - 1e-12)
    assert low.rank == 3 and low.error < 1e-6
    layer.weight.data[...] = 0
    low = fastfc.LowRankLinear.from_linear(layer, energy=0.9)
    assert low.rank == 1 and low.error == 0 and not low.to_dense().any()


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: fastfc.LowRankLinear(10, 20, 11), ValueError,
     r"LowRankLinear\(\): rank must be at most 10 for a weight of shape \(20, 10\), got 11"),
    (lambda: fastfc.LowRankLinear(10, 20), ValueError, r"rank must be at most 10 .* got 64"),
    (lambda: fastfc.LowRankLinear(10, 20, 0), ValueError, r"rank must be >= 1, got 0"),
    (lambda: fastfc.LowRankLinear(10, 20, 2.0), TypeError, r"rank must be an integer, got float"),
    (lambda: fastfc.LowRankLinear(10, 20, True), TypeError, r"rank must be an integer, got bool"),
    (lambda: fastfc.LowRankLinear(-1, 20, 1), ValueError, r"in_features must be >= 0, got -1"),
    (lambda: fastfc.LowRankLinear.from_linear(fastfc.Linear(4, 3), rank=4), ValueError, r"rank must be at most 3"),
    (lambda: fastfc.LowRankLinear.from_linear(fastfc.Linear(4, 3)), TypeError, r"give one of rank and energy"),
    (lambda: fastfc.LowRankLinear.from_linear(fastfc.Linear(4, 3), rank=1, energy=1), TypeError, r"give one of"),
    (lambda: fastfc.LowRankLinear.from_linear(fastfc.Linear(4, 3), energy=1.1), ValueError,
     r"LowRankLinear.from_linear\(\): energy must be in \[0, 1\], got 1.1"),
    (lambda: fastfc.LowRankLinear.from_linear(fastfc.ReLU(), rank=1), TypeError, r"layer must be a Linear, got ReLU"),
    (lambda: fastfc.LowRankLinear.from_linear(fastfc.Linear(0, 3), rank=1), ValueError, r"layer.weight is empty"),
    (lambda: fastfc.LowRankLinear.from_linear(fastfc.LazyLinear(3), rank=1), ValueError, r"uninitialised"),
])
def test_bad_low_rank(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_from_linear_refuses_what_is_not_finite():
    layer = fastfc.Linear(4, 3)
    layer.weight.data[1, 1] = np.nan
    with pytest.raises(ValueError, match="layer.weight holds values that are not finite"):
        fastfc.LowRankLinear.from_linear(layer, rank=1)


# -- GroupedLinear and SeparableLinear ---------------------------------------------------------------------------------


def block_diagonal(weight, groups):
    n, k = len(weight) // groups, weight.shape[1]
    dense = np.zeros((len(weight), k * groups), weight.dtype)
    for g in range(groups):
        dense[g * n:(g + 1) * n, g * k:(g + 1) * k] = weight[g * n:(g + 1) * n]
    return dense


@pytest.mark.parametrize("sizes", [(6, 8, 1), (6, 8, 2), (8, 8, 8), (60, 80, 4), (64, 32, 2), (3, 6, 3), (0, 4, 2),
                                   (4, 0, 2), (200, 200, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_grouped_is_a_block_diagonal_linear(sizes, bias):
    layer = fastfc.GroupedLinear(*sizes, bias, dtype=np.float64, rng=0)
    dense = fastfc.Linear(*sizes[:2], bias, dtype=np.float64)
    dense.weight.data = block_diagonal(layer.weight.data, sizes[2])
    if bias:
        dense.bias.data = layer.bias.data
    np.testing.assert_array_equal(layer.to_dense(), dense.weight.data)
    x, g = (np.random.default_rng(i).standard_normal((7, n)) for i, n in enumerate(sizes[:2]))
    y, backward = layer.vjp(x)
    expected, dense_backward = dense.vjp(x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(backward(g), dense_backward(g), rtol=0, atol=1e-13)
    mask = block_diagonal(np.ones(layer.weight.shape), sizes[2]) > 0
    kept = dense.weight.grad[mask].reshape(layer.weight.shape)
    np.testing.assert_allclose(layer.weight.grad, kept, rtol=0, atol=1e-13)
    if bias:
        np.testing.assert_allclose(layer.bias.grad, dense.bias.grad, rtol=0, atol=1e-13)


def test_both_ways_of_grouping_are_tested():
    assert fastfc.GroupedLinear(6, 8, 2)._structure is not None
    assert fastfc.GroupedLinear(60, 80, 4)._structure is None
    assert isinstance(fastfc.GroupedLinear(60, 80, 4).eval().weight.operand[3], fastfc.PackedWeight)


def test_separable_is_its_formula():
    layer = fastfc.SeparableLinear(12, 5, 4, multiplier=2, dtype=np.float64, rng=0)
    assert list(layer.state_dict()) == ["depthwise.weight", "pointwise.weight", "pointwise.bias"]
    d, p = layer.depthwise.weight.data, layer.pointwise.weight.data
    assert d.shape == (8, 3) and p.shape == (5, 8)
    x = inputs(layer)
    hidden = np.concatenate([x[:, 3 * g:3 * g + 3] @ d[2 * g:2 * g + 2].T for g in range(4)], axis=1)
    np.testing.assert_allclose(layer(x), hidden @ p.T + layer.pointwise.bias.data, atol=1e-14)
    np.testing.assert_allclose(layer.to_dense(), p @ block_diagonal(d, 4), atol=1e-14)
    assert (layer.in_features, layer.out_features, layer.groups, layer.multiplier) == (12, 5, 4, 2)
    assert repr(layer) == "SeparableLinear(in_features=12, out_features=5, groups=4, multiplier=2, bias=True)"


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: fastfc.GroupedLinear(6, 8, 4), ValueError,
     r"GroupedLinear\(\): groups must divide in_features, got groups=4, in_features=6"),
    (lambda: fastfc.GroupedLinear(8, 6, 4), ValueError, r"groups must divide out_features, got groups=4, out"),
    (lambda: fastfc.GroupedLinear(8, 6, 0), ValueError, r"groups must be >= 1, got 0"),
    (lambda: fastfc.GroupedLinear(8, 6, 2.0), TypeError, r"groups must be an integer, got float"),
    (lambda: fastfc.SeparableLinear(8, 6, 3), ValueError,
     r"SeparableLinear\(\): groups must divide in_features, got groups=3, in_features=8"),
    (lambda: fastfc.SeparableLinear(8, 6, 2, 0), ValueError, r"SeparableLinear\(\): multiplier must be >= 1, got 0"),
    (lambda: fastfc.SeparableLinear(8, 6, 2, dtype=int), TypeError, r"SeparableLinear\(\): dtype must be"),
])
def test_bad_groups(make, error, message):
    with pytest.raises(error, match=message):
        make()


# -- MaskedLinear ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0, 0.25, 0.9, 1])
def test_masked_is_a_linear_with_the_product(sparsity):
    layer = fastfc.MaskedLinear(6, 8, sparsity=sparsity, dtype=np.float64, rng=0)
    assert layer.mask.dtype == bool and layer.mask.sum() == round((1 - sparsity) * 48)
    dense = fastfc.Linear(6, 8, dtype=np.float64)
    dense.weight.data, dense.bias.data = layer.weight.data * layer.mask, layer.bias.data
    x, g = inputs(layer), np.random.default_rng(5).standard_normal((5, 8))
    y, backward = layer.vjp(x)
    expected, dense_backward = dense.vjp(x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(backward(g), dense_backward(g))
    np.testing.assert_array_equal(layer.weight.grad, dense.weight.grad * layer.mask)
    np.testing.assert_array_equal(layer.bias.grad, dense.bias.grad)


def test_to_sparse_is_the_same_layer():
    layer = fastfc.MaskedLinear(19, 13, sparsity=0.7, dtype=np.float64, rng=0)
    layer.weight.data[layer.mask][0] = 0  # a zero under the mask is stored
    sparse = layer.to_sparse()
    np.testing.assert_array_equal(sparse.to_dense(), layer.weight.data * layer.mask)
    assert sparse.weight.data.size == layer.mask.sum()
    x, g = inputs(layer), np.random.default_rng(5).standard_normal((5, 13))
    y, backward = layer.vjp(x)
    sparse_y, sparse_backward = sparse.vjp(x)
    np.testing.assert_allclose(sparse_y, y, atol=1e-14)
    np.testing.assert_allclose(sparse_backward(g), backward(g), atol=1e-13)
    np.testing.assert_allclose(sparse.weight.grad, layer.weight.grad[layer.mask], atol=1e-13)
    np.testing.assert_allclose(sparse.bias.grad, layer.bias.grad, atol=1e-13)
    sparse.weight.data[...] = 0
    sparse.bias.data[...] = 0
    assert layer.weight.data.any() and layer.bias.data.any()
    assert fastfc.MaskedLinear(3, 4, False).eval().to_sparse().bias is None
    with pytest.raises(ValueError, match="a SparseLinear has no activation, this layer has 'relu'"):
        fastfc.MaskedLinear(3, 4, activation="relu").to_sparse()


def test_the_mask_is_drawn_as_that_of_a_sparse_layer():
    masked, sparse = (kind(9, 8, sparsity=0.6, rng=3) for kind in (fastfc.MaskedLinear, fastfc.SparseLinear))
    np.testing.assert_array_equal(masked.mask, sparse.to_dense() != 0)


@pytest.mark.parametrize("eval_mode", [False, True])
@pytest.mark.parametrize("kind", [bool, int, float, np.uint8, list])
def test_the_mask_may_change(eval_mode, kind):
    layer = fastfc.MaskedLinear(3, 2, False, mask=[[1, 1, 1], [0, 0, 0]], rng=0).train(not eval_mode)
    x = np.eye(3, dtype=np.float32)
    w = layer.weight.data.copy()
    np.testing.assert_array_equal(layer(x).T, [w[0], [0, 0, 0]])
    new = np.array([[0, 1, 0], [1, 0, 1]])
    layer.mask = new.tolist() if kind is list else new.astype(kind)
    np.testing.assert_array_equal(layer(x).T, w * new)
    np.testing.assert_array_equal(layer.vjp(x)[0].T, w * new)
    np.testing.assert_array_equal(layer.weight.data, w)
    assert repr(layer) == "MaskedLinear(in_features=3, out_features=2, bias=False, kept=3)"
    with pytest.raises(ValueError, match="read-only"):
        layer.mask[0, 0] = True
    with pytest.raises(ValueError):
        layer.mask.flags.writeable = True
    layer.weight.data = 2 * w
    np.testing.assert_array_equal(layer(x).T, 2 * w * new)


@pytest.mark.parametrize("eval_mode", [False, True])
def test_the_mask_is_part_of_the_state(eval_mode):
    a, b = (fastfc.MaskedLinear(6, 8, rng=seed).train(not eval_mode) for seed in (0, 1))
    x = inputs(a).astype(np.float32)
    b(x)
    state = a.state_dict()
    assert list(state) == ["weight", "bias", "mask"] and state["mask"].dtype == bool
    state["mask"] = state["mask"].astype(np.float32)  # as torch.nn.utils.prune keeps it
    b.load_state_dict(state)
    np.testing.assert_array_equal(b(x), a(x))
    np.testing.assert_array_equal(b.mask, a.mask)
    state["mask"][0, 0] = 0.5
    with pytest.raises(ValueError, match="mask: expected dtype bool, got float32"):
        b.load_state_dict(state)


@pytest.mark.parametrize(("mask", "error", "message"), [
    (np.ones((3, 2)), ValueError, r"MaskedLinear: mask must have shape \(2, 3\), got \(3, 2\)"),
    ([[1, 0, 2], [0, 0, 0]], ValueError, r"MaskedLinear: mask\[0, 2\] is 2, expected 0 or 1"),
    ([[1, 0, np.nan], [0, 0, 0]], ValueError, r"MaskedLinear: mask\[0, 2\] is nan, expected 0 or 1"),
    ([["a"] * 3] * 2, TypeError, r"MaskedLinear: mask must be of bools or of 0 and 1, got <U1"),
])
def test_bad_mask(mask, error, message):
    with pytest.raises(error, match=message):
        fastfc.MaskedLinear(3, 2, mask=mask)
    layer = fastfc.MaskedLinear(3, 2, rng=0)
    before = layer.mask
    with pytest.raises(error, match=message):
        layer.mask = mask
    assert layer.mask is before


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, math.nan])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"MaskedLinear\(\): sparsity must be in \[0, 1\], got"):
        fastfc.MaskedLinear(3, 3, sparsity=sparsity)


# -- Bilinear ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(), (5,), (2, 3)])
def test_bilinear_gradients(bias, rows):
    layer = fastfc.Bilinear(3, 4, 5, bias, dtype=np.float64, rng=0)
    rng = np.random.default_rng(1)
    check_gradients(layer, rng.standard_normal((*rows, 3)), rng.standard_normal((*rows, 4)))


def test_bilinear_contract():
    rng = np.random.default_rng(1)
    check_contract(lambda dtype: fastfc.Bilinear(3, 4, 5, dtype=dtype, rng=0),
                   (rng.standard_normal((5, 3)), rng.standard_normal((5, 4))))


def test_bilinear_is_its_formula_in_blocks_too(monkeypatch):
    layer = fastfc.Bilinear(3, 4, 5, dtype=np.float64, rng=0)
    rng = np.random.default_rng(1)
    x1, x2, g = (rng.standard_normal((50, n)) for n in (3, 4, 5))
    y, backward = layer.vjp(x1, x2)
    np.testing.assert_allclose(y, np.einsum("mi,oij,mj->mo", x1, layer.weight.data, x2) + layer.bias.data, atol=1e-14)
    whole = [y, *backward(g), layer.weight.grad, layer.bias.grad]
    layer.zero_grad()
    monkeypatch.setattr("fastfc.layers.bilinear.BLOCK", 7 * 12)
    y, backward = layer.vjp(x1, x2)
    np.testing.assert_array_equal(layer(x1, x2), y)
    for parts, expected in zip([y, *backward(g), layer.weight.grad, layer.bias.grad], whole, strict=True):
        np.testing.assert_allclose(parts, expected, atol=1e-12)
    np.testing.assert_array_equal(y, whole[0])


@pytest.mark.parametrize("sizes", [(0, 4, 5), (3, 0, 5), (3, 4, 0)])
def test_bilinear_of_nothing(sizes):
    layer = fastfc.Bilinear(*sizes, rng=0)
    x1, x2 = np.ones((2, sizes[0]), np.float32), np.ones((2, sizes[1]), np.float32)
    for mode in (True, False):
        layer.train(mode)
        y, backward = layer.vjp(x1, x2)
        assert y.shape == (2, sizes[2])
        assert [g.shape for g in backward(y)] == [x1.shape, x2.shape]
        assert layer.weight.grad.shape == (sizes[2], *sizes[:2])


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda layer: layer(np.ones((2, 4)), np.ones((2, 4))), ValueError, r"x1 must have shape \(..., 3\), got \(2, 4\)"),
    (lambda layer: layer(np.ones((2, 3)), np.ones((2, 3))), ValueError, r"x2 must have shape \(..., 4\), got \(2, 3\)"),
    (lambda layer: layer(np.ones((2, 3)), np.ones((3, 4))), ValueError,
     r"x1 and x2 must agree in all axes but the last, got \(2, 3\) and \(3, 4\)"),
    (lambda layer: layer(np.ones((2, 3)), np.ones((2, 4), np.float32)), TypeError, r"x2 is float32, the weight"),
    (lambda layer: layer([[1.0] * 3], np.ones((1, 4))), TypeError, r"x1 must be a float32 or float64 array, got list"),
    (lambda layer: layer(np.ones((2, 3)), None), TypeError, r"x2 must be a float32 or float64 array, got NoneType"),
    (lambda layer: fastfc.Bilinear(3, -1, 2), ValueError, r"Bilinear\(\): in2_features must be >= 0, got -1"),
])
def test_bad_bilinear(call, error, message):
    with pytest.raises(error, match=message):
        call(fastfc.Bilinear(3, 4, 5, dtype=np.float64))
