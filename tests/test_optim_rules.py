"""Every optimiser against its formula in float64, on every target, and the promises that its kernel keeps."""

import math

import numpy as np
import pytest
from samples import FMA_ISAS

import fastfc
from fastfc.optim import SGD, Adagrad, Adam, AdamW, RMSprop, SparseAdam

# Around the vectors of every target and the units that threads share.
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 67, 8191, 8192, 8193, 16400]

RULES = [
    (SGD, {}), (SGD, {"momentum": 0.9}), (SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}), (SGD, {"maximize": True, "weight_decay": 0.1}),
    (Adam, {}), (Adam, {"amsgrad": True, "betas": (0.4, 0.7)}), (Adam, {"weight_decay": 0.1, "maximize": True}),
    (Adam, {"betas": (0.0, 0.0), "eps": 0.1}), (AdamW, {}), (AdamW, {"weight_decay": 0.3, "amsgrad": True}),
    (Adagrad, {}), (Adagrad, {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}),
    (Adagrad, {"maximize": True}), (RMSprop, {}), (RMSprop, {"momentum": 0.9, "weight_decay": 0.1}),
    (RMSprop, {"centered": True, "alpha": 0.7}), (RMSprop, {"centered": True, "momentum": 0.5, "maximize": True}),
]
EACH = pytest.mark.parametrize(("kind", "options"), RULES,
                               ids=[f"{kind.__name__}-{i}" for i, (kind, _) in enumerate(RULES)])


def formula(kind, group, w, grad, state, step):
    """One step in float64: w and the states after it, and the magnitudes that their rounding errors are relative to."""
    o = group
    g = (-grad if o["maximize"] else grad) + (0 if kind is AdamW else o["weight_decay"]) * w
    g_size = np.abs(grad) + o["weight_decay"] * np.abs(w)
    new, sizes, shrink, condition = {}, {}, 1.0, 1.0

    def average(name, beta, value, size):
        old = state.get(name, np.zeros_like(w))
        new[name], sizes[name] = beta * old + (1 - beta) * value, beta * np.abs(old) + (1 - beta) * size
        return new[name]

    if kind is SGD:
        u, u_size = g, g_size
        if o["momentum"]:
            old = state.get("momentum_buffer")
            v, v_size = (g, g_size) if old is None else (o["momentum"] * old + (1 - o["dampening"]) * g,
                                                         o["momentum"] * np.abs(old) + g_size)
            new["momentum_buffer"], sizes["momentum_buffer"] = v, v_size
            u, u_size = (g + o["momentum"] * v, g_size + o["momentum"] * v_size) if o["nesterov"] else (v, v_size)
        return w - o["lr"] * u, np.abs(w) + o["lr"] * u_size, new, sizes
    if kind in (Adam, AdamW):
        beta1, beta2 = o["betas"]
        m, v = average("exp_avg", beta1, g, g_size), average("exp_avg_sq", beta2, g * g, g_size ** 2)
        if o["amsgrad"]:
            v = new["max_exp_avg_sq"] = np.maximum(state.get("max_exp_avg_sq", 0), v)
            sizes["max_exp_avg_sq"] = np.maximum(v, sizes["exp_avg_sq"])
        scale, bottom = o["lr"] / (1 - beta1 ** step), np.sqrt(v / (1 - beta2 ** step)) + o["eps"]
        u, u_size = scale * m / bottom, scale * sizes["exp_avg"] / bottom
        condition = np.max(sizes["exp_avg_sq"] / np.where(v > 0, v, 1), initial=1)
        shrink = 1 - o["lr"] * o["weight_decay"] if kind is AdamW else 1.0
    elif kind is Adagrad:
        s = new["sum"] = state.get("sum", np.full_like(w, o["initial_accumulator_value"])) + g * g
        sizes["sum"] = s + g_size ** 2
        scale = o["lr"] / (1 + (step - 1) * o["lr_decay"])
        u, u_size = scale * g / (np.sqrt(s) + o["eps"]), scale * g_size / (np.sqrt(s) + o["eps"])
        condition = np.max(sizes["sum"] / s, initial=1)
    else:
        v = average("square_avg", o["alpha"], g * g, g_size ** 2)
        size = sizes["square_avg"]
        if o["centered"]:
            a = average("grad_avg", o["alpha"], g, g_size)
            v, size = v - a * a, size + sizes["grad_avg"] ** 2
        condition = np.max(size / v, initial=1)
        u, u_size = g / (np.sqrt(v) + o["eps"]), g_size / (np.sqrt(v) + o["eps"])
        if o["momentum"]:
            old = state.get("momentum_buffer", np.zeros_like(w))
            u, u_size = o["momentum"] * old + u, o["momentum"] * np.abs(old) + u_size
            new["momentum_buffer"], sizes["momentum_buffer"] = u, u_size * (1 + condition)
        u, u_size = o["lr"] * u, o["lr"] * u_size
    return shrink * w - u, np.abs(w) + u_size * (1 + condition), new, sizes


def draw(rng, params):
    for p in params:
        p.grad = np.array(rng.standard_normal(p.data.shape), p.data.dtype)


def make(dtype, sizes=SIZES, seed=0):
    rng = np.random.default_rng(seed)
    return [fastfc.Parameter(np.array(rng.standard_normal(n), dtype)) for n in sizes]


def arrays(opt):
    """Everything that a step writes, in order."""
    out = [p.data for p in opt.params]
    for p in opt.params:
        out += [value for _, value in sorted(opt.state.get(p, {}).items())]
    return out


@EACH
def test_each_step_is_the_formula(kind, options, isa, dtype):
    """From the very state before it, so that errors of earlier steps do not count: some 8 roundings, and constants'."""
    params, rng = make(dtype), np.random.default_rng(1)
    opt = kind(params, lr=0.1, **options)
    (group,) = opt.param_groups
    for step in range(1, 5):
        draw(rng, params)
        before = [(p.data.astype(float), p.grad.astype(float),
                   {name: np.array(value, float) for name, value in opt.state.get(p, {}).items() if name != "step"})
                  for p in params]
        opt.step()
        bound = 12 * np.finfo(dtype).eps
        for p, (w, grad, state) in zip(params, before, strict=True):
            expected, size, new, sizes = formula(kind, group, w, grad, state, step)
            assert np.all(np.abs(p.data - expected) <= bound * size)
            got = {name: value for name, value in opt.state.get(p, {}).items() if name != "step"}
            assert got.keys() == new.keys()
            for name, value in got.items():
                assert value.dtype == dtype
                assert np.all(np.abs(value - new[name]) <= bound * sizes[name]), name
            assert not opt.counts or opt.state[p]["step"] == step


@EACH
def test_same_bits_on_every_fma_target_and_for_any_number_of_threads(kind, options, dtype, in_turn):
    """The long one is more than two threads' worth of work, and enough to wake them."""
    sizes, results = [17, 1200003, 33], []
    starts, *grads = ([p.data for p in make(dtype, sizes, seed)] for seed in range(3))
    for _ in in_turn(FMA_ISAS):
        for threads in (1, 2, 3):
            params = [fastfc.Parameter(start.copy()) for start in starts]
            opt = kind(params, lr=0.1, **options)
            with fastfc.num_threads(threads):
                for step in grads:
                    for p, grad in zip(params, step, strict=True):
                        p.grad = grad
                    opt.step()
            results.append(arrays(opt))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@EACH
def test_an_element_does_not_depend_on_its_place(kind, options, dtype, isa):
    """Neither in its array nor in the list of parameters."""
    rng = np.random.default_rng(0)
    w, grads = rng.standard_normal(9000).astype(dtype), rng.standard_normal((2, 9000)).astype(dtype)
    cuts = [0, 5, 5, 30, 31, 8191, 9000]
    one = [fastfc.Parameter(w.copy())]
    many = [fastfc.Parameter(w[a:b].copy()) for a, b in zip(cuts, cuts[1:], strict=False)]
    first, second = kind(one, lr=0.1, **options), kind(many[::-1], lr=0.1, **options)
    for grad in grads:
        one[0].grad = grad
        for p, a, b in zip(many, cuts, cuts[1:], strict=False):
            p.grad = grad[a:b]
        first.step()
        second.step()
    np.testing.assert_array_equal(one[0].data, np.concatenate([p.data for p in many]))


@EACH
def test_special_values_stay_where_they_are(kind, options, isa, dtype):
    (p,), (q,) = make(dtype, [40]), make(dtype, [40])
    a, b = kind([p], lr=0.1, **options), kind([q], lr=0.1, **options)
    p.data[5], p.data[6] = np.inf, np.nan
    draw(np.random.default_rng(1), [p])
    q.grad = p.grad.copy()
    p.grad[20], p.grad[39] = np.nan, np.inf
    a.step()
    b.step()
    others = [i for i in range(40) if i not in (5, 6, 20, 39)]
    np.testing.assert_array_equal(p.data[others], q.data[others])
    assert np.isnan(p.data[[6, 20]]).all() and not np.isfinite(p.data[39])
    if not options.get("weight_decay"):
        assert p.data[5] == np.inf  # 0 * Inf does not come in


def test_denormals_are_honoured(isa, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    p = fastfc.Parameter(np.zeros(20, dtype))
    p.grad = np.full(20, -tiny, dtype)
    SGD([p], lr=1.0).step()
    np.testing.assert_array_equal(p.data, np.full(20, tiny))


def test_the_variance_of_a_constant_is_not_negative(isa, dtype):
    p = fastfc.Parameter(np.zeros(50, dtype))
    p.grad = np.linspace(0.1, 3, 50).astype(dtype)
    opt = RMSprop([p], lr=1e-6, alpha=0.3, centered=True, eps=1e-3)
    for _ in range(60):
        opt.step()
    assert np.isfinite(p.data).all()


@pytest.mark.parametrize(("kind", "options"), [(SGD, {}), (SGD, {"maximize": True}), (Adagrad, {}),
                                               (Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
                                               (SparseAdam, {}), (SparseAdam, {"betas": (0.5, 0.9), "maximize": True})])
@pytest.mark.parametrize("dim", [1, 5, 64, 9000])
def test_sparse_rows(kind, options, dim, isa, dtype, threads):
    """Rows that are named take a dense step on their own, those that are not keep every bit."""
    rng, rows = np.random.default_rng(0), 60
    table = fastfc.Parameter(rng.standard_normal((rows, dim)).astype(dtype))
    opt = kind([table], lr=0.1, **options)
    for step in range(1, 4):
        indices = rng.integers(0, rows - 10, 25 if step < 3 else 0)
        table.grad = fastfc.SparseGrad(indices, rng.standard_normal((len(indices), dim)).astype(dtype), (rows, dim))
        once, before = table.grad.coalesce(), table.data.copy()
        states = {name: value.copy() for name, value in opt.state.get(table, {}).items() if name != "step"}
        with fastfc.num_threads(threads):
            opt.step()
        named = once.indices
        rest = np.setdiff1d(np.arange(rows), named)
        np.testing.assert_array_equal(table.data[rest], before[rest])
        for name, value in states.items():
            np.testing.assert_array_equal(opt.state[table][name][rest], value[rest])
        group = {"weight_decay": 0, "momentum": 0, "amsgrad": False, **opt.param_groups[0]}
        if kind is SparseAdam:  # its eps is added before the bias correction of v
            group["eps"] = group["eps"] / math.sqrt(1 - group["betas"][1] ** step)
        expected, size, _, _ = formula(Adam if kind is SparseAdam else kind, group, before[named].astype(float),
                                       once.values.astype(float),
                                       {name: value[named].astype(float) for name, value in states.items()}, step)
        assert np.all(np.abs(table.data[named] - expected) <= 12 * np.finfo(dtype).eps * size)
        assert not opt.counts or opt.state[table]["step"] == step
