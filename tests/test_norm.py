"""LayerNorm and RMSNorm: against float64 with a derived bound, the same bits everywhere, gradients, the step fused with
a Linear, and arguments."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from layouts import INPUTS
from reference import UNIT, assert_close, assert_same_bits, bound, gamma, wide
from samples import gaussian

import fastfc
from fastfc import _core

SIZES = [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 48, 63, 100, 257]
ROWS = [1, 2, 3, 4, 5, 9]
KINDS = pytest.mark.parametrize("kind", [fastfc.LayerNorm, fastfc.RMSNorm])


def layer_of(kind, n, dtype, rng=None, **options):
    layer = kind(n, dtype=dtype, **options)
    if rng is not None:
        for parameter in layer.parameters():
            parameter.data[...] = gaussian(rng, parameter.data.shape, dtype)
    return layer


# ---- The slow way, and how far from it a result may lie -------------------------------------------------------------


class Reference:
    """In a wider type, with bounds to first order (times 1.1 for the rest). An average on 16 lanes passes at most
    ceil(n / 16) adds, four of the tree and a division, hence gamma(n / 16 + 6). So the mean is off by at most e_mean =
    gamma avg|x|, a difference d by e_d = e_mean + u |d|, the variance by 2 avg(|d| e_d) + gamma var, rstd in relation
    by half of that over var + eps and 2.5 u (eps added, root, quotient), and h = d rstd by e_h."""

    def __init__(self, layer, x, grad_y):
        n, self.u = x.shape[-1], UNIT[x.dtype]
        eps = np.finfo(x.dtype).eps if layer.eps is None else layer.eps
        x, g = wide(x), wide(grad_y)
        lanes = gamma(-(-n // 16) + 6, self.u)
        mean = x.mean(-1, keepdims=True) if layer.center else 0
        e_mean = lanes * np.abs(x).mean(-1, keepdims=True) if layer.center else 0
        d = x - mean
        e_d = e_mean + (self.u * np.abs(d) if layer.center else 0)
        var = (d * d).mean(-1, keepdims=True)
        e_var = (2 * np.abs(d) * e_d + e_d**2).mean(-1, keepdims=True) + lanes * var
        rstd = 1 / np.sqrt(var + eps)
        relative = e_var / (2 * (var + eps)) + 2.5 * self.u
        h = d * rstd
        e_h = e_d * rstd + np.abs(h) * (relative + self.u)
        w = 1 if layer.weight is None else wide(layer.weight.data)
        b = 0 if layer.bias is None else wide(layer.bias.data)
        self.y, self.y_bound = h * w + b, 1.1 * (np.abs(w) * e_h + 2 * self.u * (np.abs(h * w) + np.abs(b)))

        gw = g * w
        along = gw.mean(-1, keepdims=True) if layer.center else 0
        across = (gw * h).mean(-1, keepdims=True)
        size, both = np.abs(gw), np.abs(gw * h)
        e_along = (lanes + 2 * self.u) * size.mean(-1, keepdims=True) if layer.center else 0
        e_across = (lanes + 3 * self.u) * both.mean(-1, keepdims=True) + (size * e_h).mean(-1, keepdims=True)
        self.gx = rstd * (gw - along - h * across)
        total = size + np.abs(along) + np.abs(h * across)
        self.gx_bound = 1.1 * rstd * (
            (4 * self.u + relative) * total + e_along + np.abs(h) * e_across + e_h * np.abs(across))
        rows = g.reshape(-1, n), h.reshape(-1, n), np.broadcast_to(e_h, h.shape).reshape(-1, n)
        m, magnitude = len(rows[0]), np.abs(rows[0] * rows[1]).sum(0)
        self.gamma = (rows[0] * rows[1]).sum(0)
        self.gamma_bound = bound(m, magnitude, layer_dtype(self.u)) + 1.1 * (np.abs(rows[0]) * rows[2]).sum(0)
        self.beta, self.beta_bound = rows[0].sum(0), bound(m, np.abs(rows[0]).sum(0), layer_dtype(self.u))


def layer_dtype(u):
    return np.float32 if u == UNIT[np.dtype(np.float32)] else np.float64


def check(layer, x, grad_y):
    for parameter in layer.parameters():
        parameter.grad = None
    y, backward = layer.vjp(x)
    gx, expected = backward(grad_y), Reference(layer, x, grad_y)
    assert_same_bits(layer(x), y)
    assert_close(y, expected.y, expected.y_bound)
    assert_close(gx, expected.gx, expected.gx_bound)
    if layer.weight is not None:
        assert_close(layer.weight.grad, expected.gamma, expected.gamma_bound)
    if layer.bias is not None:
        assert_close(layer.bias.grad, expected.beta, expected.beta_bound)


@KINDS
def test_values_and_gradients_within_the_bound(isa, dtype, rng, kind):
    for n, m in itertools.product(SIZES, ROWS):
        check(layer_of(kind, n, dtype, rng), gaussian(rng, (m, n), dtype), gaussian(rng, (m, n), dtype))
    for m, n in ((191, 5), (192, 18), (193, 33), (577, 16)):
        check(layer_of(kind, n, dtype, rng), 3 + 100 * gaussian(rng, (m, n), dtype), gaussian(rng, (m, n), dtype))


@pytest.mark.parametrize("make", [
    lambda dtype: fastfc.LayerNorm(20, bias=False, dtype=dtype),
    lambda dtype: fastfc.LayerNorm(20, elementwise_affine=False, dtype=dtype),
    lambda dtype: fastfc.LayerNorm(20, eps=0.5, dtype=dtype),
    lambda dtype: fastfc.RMSNorm(20, elementwise_affine=False, dtype=dtype),
    lambda dtype: fastfc.RMSNorm(20, eps=0.5, dtype=dtype),
])
def test_options(isa, dtype, rng, make):
    layer = make(dtype)
    for parameter in layer.parameters():
        parameter.data[...] = gaussian(rng, 20, dtype)
    check(layer, gaussian(rng, (7, 20), dtype), gaussian(rng, (7, 20), dtype))


@KINDS
def test_finite_differences(rng, kind):
    layer, eps = layer_of(kind, 6, np.float64, rng), 1e-6
    x, grad_y = rng.standard_normal((3, 6)), rng.standard_normal((3, 6))
    gx = layer.vjp(x)[1](grad_y)
    for array, gradient in [(x, gx), *((p.data, p.grad) for p in layer.parameters())]:
        for at in np.ndindex(array.shape):
            kept, sides = array[at], []
            for step in (eps, -eps):
                array[at] = kept + step
                sides.append((layer(x) * grad_y).sum())
            array[at] = kept
            assert gradient[at] == pytest.approx((sides[0] - sides[1]) / (2 * eps), abs=1e-7)


# ---- The same bits --------------------------------------------------------------------------------------------------


def run(layer, x, grad_y):
    for parameter in layer.parameters():
        parameter.grad = None
    y, backward = layer.vjp(x)
    return [y, backward(grad_y), *(p.grad for p in layer.parameters())]


@KINDS
def test_all_targets_with_fma_and_any_number_of_threads_agree(dtype, rng, kind, fma_isa):
    for m, n in ((5, 37), (385, 130), (2100, 520)):  # the last is work enough to wake a thread
        layer, x, grad_y = layer_of(kind, n, dtype, rng), gaussian(rng, (m, n), dtype), gaussian(rng, (m, n), dtype)
        with fastfc.num_threads(2):
            got = run(layer, x, grad_y)
        _core.select_isa("scalar")
        with fastfc.num_threads(1):
            expected = run(layer, x, grad_y)
        _core.select_isa(fma_isa)
        for one, other in zip(got, expected, strict=True):
            assert_same_bits(one, other, (m, n))


@KINDS
def test_a_row_does_not_depend_on_its_batch(isa, dtype, rng, kind):
    layer, x, grad_y = layer_of(kind, 45, dtype, rng), gaussian(rng, (50, 45), dtype), gaussian(rng, (50, 45), dtype)
    y, gx = run(layer, x, grad_y)[:2]
    for begin, end in ((0, 1), (1, 3), (7, 12), (20, 50)):
        part = run(layer, x[begin:end], grad_y[begin:end])
        assert_same_bits(part[0], y[begin:end])
        assert_same_bits(part[1], gx[begin:end])


@KINDS
@pytest.mark.parametrize("layout", INPUTS)
def test_any_layout(dtype, rng, kind, layout):
    layer, x, grad_y = layer_of(kind, 21, dtype, rng), gaussian(rng, (4, 21), dtype), gaussian(rng, (4, 21), dtype)
    for one, other in zip(run(layer, INPUTS[layout](x), INPUTS[layout](grad_y)), run(layer, x, grad_y), strict=True):
        assert_same_bits(one, other)


def test_the_order_of_a_mean(fma_isa, rng):
    """16 lanes, then halves: spelled out in float32."""
    x = gaussian(rng, (1, 53), np.float32)
    lanes = np.zeros(16, np.float32)
    for start in range(0, 53, 16):
        part = x[0, start : start + 16]
        lanes[: part.size] += part
    while lanes.size > 1:
        lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
    mean = lanes[0] / np.float32(53)
    assert_same_bits(_core.norm(x, (53,), None, None, True, 1e-5, True)[1], np.array([mean]))


# ---- Shapes, special values -----------------------------------------------------------------------------------------


def test_several_axes_are_one_row(dtype, rng):
    layer, flat = fastfc.LayerNorm((2, 3), dtype=dtype), fastfc.LayerNorm(6, dtype=dtype)
    x = gaussian(rng, (4, 5, 2, 3), dtype)
    assert_same_bits(layer(x), flat(x.reshape(20, 6)).reshape(x.shape))
    y, backward = layer.vjp(x)
    assert backward(np.ones_like(x)).shape == x.shape
    assert layer.weight.grad.shape == layer.bias.grad.shape == (2, 3)


@KINDS
@pytest.mark.parametrize("shape, normalized", [((0, 4), 4), ((3, 0), 0), ((0, 0), 0), ((2, 0, 3), 3)])
def test_empty(dtype, kind, shape, normalized):
    layer = kind(normalized, dtype=dtype)
    y, backward = layer.vjp(np.ones(shape, dtype))
    assert y.shape == shape and backward(np.ones(shape, dtype)).shape == shape
    assert (layer.weight.grad == 0).all() and layer.weight.grad.shape == (normalized,)


@KINDS
def test_nan_and_inf_stay_in_their_row(isa, dtype, kind):
    x = np.ones((5, 20), dtype)
    x[:, 3] = 2
    x[1, 17], x[3, 2] = np.nan, np.inf
    y = kind(20, dtype=dtype)(x)
    assert np.isnan(y[1]).all() and np.isnan(y[3]).any()
    assert np.isfinite(y[[0, 2, 4]]).all()


def test_a_constant_row_is_zero(isa, dtype):
    assert (fastfc.LayerNorm(100, dtype=dtype)(np.full((3, 100), 0.5, dtype)) == 0).all()


def test_gradients_add_up_and_may_be_left_out(dtype, rng):
    layer, x = layer_of(fastfc.LayerNorm, 9, dtype, rng), gaussian(rng, (5, 9), dtype)
    backward = layer.vjp(x)[1]
    assert backward(x, needs_input_grad=False) is None
    once = layer.weight.grad.copy()
    backward(x)
    assert_same_bits(layer.weight.grad, once + once)
    bare = fastfc.LayerNorm(9, elementwise_affine=False, dtype=dtype)
    assert bare.vjp(x)[1](x, needs_input_grad=False) is None


def test_state(dtype, rng):
    layer = layer_of(fastfc.LayerNorm, 5, dtype, rng)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert list(fastfc.RMSNorm(5).state_dict()) == ["weight"]
    assert not fastfc.LayerNorm(5, elementwise_affine=False).state_dict()
    x = gaussian(rng, (3, 5), dtype)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.eval()):
        assert_same_bits(other(x), layer(x))


# ---- Behind a Linear ------------------------------------------------------------------------------------------------


def apart(model, x, grad_y, needs_input_grad=True):
    """The layers of a Sequential one by one."""
    passes = []
    for layer in model:
        x, backward = layer.vjp(x)
        passes.append(backward)
    y = x
    for backward in reversed(passes[1:]):
        grad_y = backward(grad_y)
    return y, passes[0](grad_y, needs_input_grad)


def together(model, x, grad_y, needs_input_grad):
    y, backward = model.vjp(x)
    return y, backward(grad_y, needs_input_grad)


@KINDS
@pytest.mark.parametrize("between", [None, "relu", "gelu"])
@pytest.mark.parametrize("bias, affine", [(True, True), (False, False)])
def test_fused_with_a_linear_is_the_same(isa, dtype, rng, threads, kind, between, bias, affine):
    n, k = 70, 33
    for m in (0, 1, 5, 13, 26, 190, 400):
        linear = fastfc.Linear(k, n, bias, activation=None if between == "relu" else between, dtype=dtype, rng=0)
        norm = layer_of(kind, n, dtype, rng, elementwise_affine=affine)
        model = fastfc.Sequential(linear, *([fastfc.ReLU()] if between == "relu" else []), norm)
        assert len(model._steps()) == 1
        x, grad_y = gaussian(rng, (m, k), dtype), gaussian(rng, (m, n), dtype)
        with fastfc.num_threads(threads):
            for needs in (True, False):
                results = []
                for way in (apart, together):
                    model.zero_grad()
                    for _ in range(2):  # the second time gradients are added to
                        y, gx = way(model, x, grad_y, needs)
                    results.append([y, *([gx] if needs else []), *(p.grad for p in model.parameters())])
                    assert needs or gx is None
                for one, other in zip(*results, strict=True):
                    assert_same_bits(one, other, m)
            expected = results[0][0]
            assert_same_bits(model(x), expected)
            assert_same_bits(model.eval()(x), expected)


def test_fused_large(dtype, rng, threads):
    """Several blocks of rows, packed and not; x with leading axes, rows apart, or columns apart."""
    model = fastfc.Sequential(fastfc.Linear(96, 300, dtype=dtype, rng=0), layer_of(fastfc.LayerNorm, 300, dtype, rng))
    x = gaussian(rng, (2, 700, 96), dtype)
    expected = model[1](model[0](x))
    with fastfc.num_threads(threads):
        for packed in (False, True):
            model.train(not packed)
            across = np.swapaxes(x.swapaxes(0, 1).copy(), 0, 1)
            for other in (x, np.repeat(x, 2, 1)[:, ::2], np.repeat(x, 2, 2)[..., ::2], across):
                assert_same_bits(model(other), expected)
                assert_same_bits(model.vjp(other)[0], expected)


def test_what_is_not_fused(rng):
    linear, x = fastfc.Linear(4, 6, rng=0), np.ones((2, 4), np.float32)
    for norm in (fastfc.LayerNorm(5), fastfc.LayerNorm((3, 6)), fastfc.LayerNorm(6, dtype=np.float64)):
        model = fastfc.Sequential(linear, norm)
        for call in (model, model.vjp):
            with pytest.raises((TypeError, ValueError), match="LayerNorm: "):
                call(x)
    model = fastfc.Sequential(linear, fastfc.LayerNorm(6))
    for bad in (np.ones((2, 5), np.float32), np.ones((2, 4)), [[1.0] * 4]):
        for call in (model, model.vjp, model.eval(), model.train().vjp):
            with pytest.raises((TypeError, ValueError), match=r"linear\(\): "):
                call(bad)


@pytest.mark.parametrize("layer, name, shape, dtype", [
    (0, "bias", 6, np.float64), (0, "bias", 3, np.float32), (1, "weight", 3, np.float32), (1, "weight", 6, np.float64),
    (1, "bias", 3, np.float32), (1, "bias", 6, np.float64), (1, "weight", None, None),
])
def test_a_parameter_that_was_replaced_by_one_that_does_not_fit(layer, name, shape, dtype):
    model, x = fastfc.Sequential(fastfc.Linear(4, 6, rng=0), fastfc.LayerNorm(6)), np.ones((2, 4), np.float32)
    model(x)
    setattr(model[layer], name, None if shape is None else fastfc.Parameter(np.ones(shape, dtype)))
    for call in (model, model.vjp):
        with pytest.raises((TypeError, ValueError), match=name):
            call(x)
    if layer:
        with pytest.raises((TypeError, ValueError), match=name):
            model[1](np.ones((2, 6), np.float32))


def test_a_gradient_that_c_cannot_add_to(rng, dtype):
    model = fastfc.Sequential(fastfc.Linear(4, 6, dtype=dtype, rng=0), fastfc.LayerNorm(6, dtype=dtype))
    x, grad_y = gaussian(rng, (3, 4), dtype), gaussian(rng, (3, 6), dtype)
    model.vjp(x)[1](grad_y)
    once = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    model[0].weight.grad = np.zeros((6, 8), dtype)[:, ::2]
    model.vjp(x)[1](grad_y)
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.grad, once[name])


# ---- Arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make, error, message", [
    (lambda: fastfc.LayerNorm(2.5), TypeError,
     r"LayerNorm\(\): normalized_shape must be an integer or a tuple.* got float"),
    (lambda: fastfc.LayerNorm((3, 2.5)), TypeError, r"LayerNorm\(\): normalized_shape must be an integer, got float"),
    (lambda: fastfc.LayerNorm(-1), ValueError, r"LayerNorm\(\): normalized_shape must be >= 0, got -1"),
    (lambda: fastfc.LayerNorm(()), ValueError, r"LayerNorm\(\): normalized_shape must have at least one axis"),
    (lambda: fastfc.LayerNorm(3, eps=-1e-5), ValueError, r"LayerNorm\(\): eps must be >= 0 and finite, got -1e-05"),
    (lambda: fastfc.RMSNorm(3, eps=np.nan), ValueError, r"RMSNorm\(\): eps must be >= 0 and finite, got nan"),
    (lambda: fastfc.LayerNorm(3, eps="1"), TypeError, r"LayerNorm\(\): eps must be a number, got str"),
    (lambda: fastfc.RMSNorm(3, dtype=np.int32), TypeError, r"RMSNorm\(\): dtype must be float32 or float64, got int32"),
    (lambda: fastfc.LayerNorm(3)(np.ones((2, 4), np.float32)), ValueError,
     r"LayerNorm: the last axes of x must be \(3,\), got shape \(2, 4\)"),
    (lambda: fastfc.LayerNorm((2, 3))(np.ones(3, np.float32)), ValueError,
     r"last axes of x must be \(2, 3\), got shape \(3,\)"),
    (lambda: fastfc.LayerNorm(3)(np.ones((2, 3))), TypeError, "LayerNorm: x is float64, weight is float32"),
    (lambda: fastfc.RMSNorm(3)(np.ones((2, 3), int)), TypeError,
     "RMSNorm: x must be a float32 or float64 array, got int64"),
    (lambda: fastfc.RMSNorm(3).vjp(np.ones((2, 3), np.float32))[1](np.ones((3, 2), np.float32)), ValueError,
     r"RMSNorm backward: grad_y must be float32 of shape \(2, 3\), got float32 of shape \(3, 2\)"),
    (lambda: fastfc.RMSNorm(3).vjp(np.ones((2, 3), np.float32))[1](np.ones((2, 3))), ValueError,
     r"RMSNorm backward: grad_y must be float32 of shape \(2, 3\), got float64 of shape \(2, 3\)"),
    (lambda: fastfc.LayerNorm(3).vjp(np.ones((2, 3), np.float32))[1](1.0), TypeError,
     "LayerNorm backward: grad_y must be a float32 or float64 array, got float"),
])
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
