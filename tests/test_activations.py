"""Activations: the errors that are stated, the same bits everywhere, special values, gradients, and their arguments.

FASTFC_ULP=full also searches all 2^32 float32 inputs with tools/ulp.py (about an hour), FASTFC_ULP=quick some of them.
"""

import importlib.util
import inspect
import os
import pathlib

import numpy as np
import pytest
from reference import assert_same_bits
from samples import FMA_ISAS, Edges

import fastfc
from fastfc import _core, activations

special = pytest.importorskip("scipy.special")

NAMES = [name for name in _core.ACTIVATIONS if name]
DEFAULTS = {"leaky_relu": 0.01, "elu": 1.0, "softplus": 1.0}
PAIRS = [("leaky_relu", 0.2), ("leaky_relu", -1.5), ("elu", 0.3), ("elu", 2.0), ("softplus", 0.25), ("softplus", 3.0)]
EVERY = [*NAMES, *PAIRS]
LIMIT = {np.dtype(np.float32): 2.0, np.dtype(np.float64): 4.0}


def name_of(activation):
    return activation if isinstance(activation, str) else activation[0]


def forward(activation, x, **options):
    name, *parameter = (activation,) if isinstance(activation, str) else activation
    return getattr(activations, name)(x, *parameter, **options)


def gradient(activation, grad_y, x, **options):
    name, *parameter = (activation,) if isinstance(activation, str) else activation
    return getattr(activations, f"{name}_grad")(grad_y, x, *parameter, **options)


# ---- Exact functions ------------------------------------------------------------------------------------------------
# For float32 in numpy's float64; for float64 in mpmath. `m` is where exp and so on come from.


class Float64:
    exp, expm1, log1p, tanh, sqrt = np.exp, np.expm1, np.log1p, np.tanh, np.sqrt
    erfc, where, pi = staticmethod(special.erfc), staticmethod(np.where), np.pi

    @staticmethod
    def number(value):
        return value


def mpmath_module():
    mpmath = pytest.importorskip("mpmath")

    class Exact:
        exp, expm1, log1p, tanh, sqrt, erfc = (
            staticmethod(getattr(mpmath, name)) for name in ("exp", "expm1", "log1p", "tanh", "sqrt", "erfc")
        )
        number = staticmethod(mpmath.mpf)
        pi = mpmath.pi

        @staticmethod
        def where(condition, a, b):
            return a if condition else b

    mpmath.mp.dps = 50
    return Exact


def exact(m, activation, x):
    """(value, derivative)."""
    name = name_of(activation)
    p = DEFAULTS.get(name, 0.0) if isinstance(activation, str) else activation[1]
    one = m.number(1.0)

    def sigmoid(v):
        return 1 / (1 + m.exp(-v))

    if name == "relu":
        return m.where(x > 0, x, 0 * one), m.where(x > 0, one, 0 * one)
    if name == "leaky_relu":
        return m.where(x > 0, x, p * x), m.where(x > 0, one, p * one)
    if name == "elu":
        below = m.where(x > 0, 0 * one, x)
        return m.where(x > 0, x, p * m.expm1(below)), m.where(x > 0, one, p * m.exp(below))
    if name == "gelu":
        phi = m.erfc(-x / m.sqrt(2 * one)) / 2
        return x * phi, phi + x * m.exp(-x * x / 2) / m.sqrt(2 * one * m.pi)
    if name == "gelu_tanh":
        k = m.sqrt(8 * one / m.pi)
        x3 = m.where(abs(x) > 50, m.where(x > 0, 50 * one, -50 * one), x)  # saturated
        kappa = m.number("0.044715") if m is not Float64 else 0.044715
        v, slope = k * x3 * (1 + kappa * x3**2), k * (1 + 3 * kappa * x3**2)
        return x * sigmoid(v), sigmoid(v) * (1 + x3 * slope * sigmoid(-v))
    if name == "silu":
        return x * sigmoid(x), sigmoid(x) * (1 + x * sigmoid(-x))
    if name == "sigmoid":
        return sigmoid(x), sigmoid(x) * sigmoid(-x)
    if name == "tanh":
        return m.tanh(x), 4 * sigmoid(2 * x) * sigmoid(-2 * x)
    if name == "softplus":
        t = abs(p * x)
        value = m.where(x > 0, x, 0 * one) + m.log1p(m.exp(-t)) / p
        return m.where(p * x > 20, x, value), m.where(p * x > 20, one, sigmoid(p * x))
    value = m.where(x > 3, x, m.where(x < -3, 0 * one, x * (x + 3) / 6))
    return value, m.where(x > 3, one, m.where(x < -3, 0 * one, (2 * x + 3) / 6))


def rounded_parameter(activation, dtype):
    """The same with the parameter that C computes with: rounded to the dtype."""
    if isinstance(activation, str):
        return (activation, float(dtype(DEFAULTS[activation]))) if activation in DEFAULTS else activation
    return activation[0], float(dtype(activation[1]))


def errors32(activation, x):
    """Errors of value and derivative at float32 x, in ULP; the value's where its result is normal, else 0."""
    with np.errstate(all="ignore"):
        value, derivative = exact(Float64, rounded_parameter(activation, np.float32), x.astype(np.float64))
        normal = (np.abs(value) >= 2.0**-126) & (np.abs(value) < 2.0**128)
        ulp = 2.0 ** (np.frexp(value)[1] - 24)
        y = forward(activation, x).astype(np.float64)
        large = np.maximum(np.abs(derivative), 2.0**-20)
        g = gradient(activation, np.ones_like(x), x).astype(np.float64)
        return np.where(normal, np.abs(y - value) / ulp, 0), np.abs(g - derivative) / 2.0 ** (np.frexp(large)[1] - 24)


def errors64(m, activation, x):
    """The same at float64 x."""
    y, g = forward(activation, x), gradient(activation, np.ones_like(x), x)
    found = np.zeros((2, x.size))

    def ulp(exact_value):
        return m.number(2.0) ** (int(np.frexp(float(abs(exact_value)))[1]) - 53)

    for i, v in enumerate(x):
        value, derivative = exact(m, rounded_parameter(activation, np.float64), m.number(float(v)))
        if abs(value) >= 2.0**-1022:
            found[0, i] = abs(m.number(float(y[i])) - value) / ulp(value)
        large = max(abs(derivative), m.number(2.0) ** -20)
        found[1, i] = abs(m.number(float(g[i])) - derivative) / ulp(large)
    return found


def sweep32(step, start=0):
    """Every step-th finite float32."""
    x = np.arange(start, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return x[np.isfinite(x)]


def sample64(rng, n):
    ranges = [(-1, 1), (-8, 8), (-64, 64), (-760, 60), (-1e-9, 1e-9)]
    x = np.concatenate([rng.uniform(low, high, n) for low, high in ranges])
    roots = np.array([-0.7517915246935645, -0.7524613866, -1.2784645427610738, -1.5])
    return np.concatenate([x, (roots[:, None] * (1 + 2.0 ** -np.arange(2, 50, 3))).ravel()])


# ---- Errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_stated_errors_float32(best_fma_isa, name):
    value, derivative = errors32(name, sweep32(1021))
    assert value.max() <= activations.ERRORS[name, "forward", "float32"].ulp
    assert derivative.max() <= activations.ERRORS[name, "gradient", "float32"].ulp


@pytest.mark.parametrize("name", NAMES)
def test_stated_errors_float64(best_fma_isa, rng, name):
    value, derivative = errors64(mpmath_module(), name, sample64(rng, 300))
    assert value.max() <= activations.ERRORS[name, "forward", "float64"].ulp
    assert derivative.max() <= activations.ERRORS[name, "gradient", "float64"].ulp


@pytest.mark.parametrize("name", NAMES)
def test_stated_errors_are_those_at_the_stated_inputs(best_fma_isa, name):
    for i, which in enumerate(("forward", "gradient")):
        error = activations.ERRORS[name, which, "float32"]
        assert error.ulp <= LIMIT[np.dtype(np.float32)]
        assert errors32(name, np.array([error.at], np.float32))[i][0] == pytest.approx(error.ulp, abs=2e-3)
        error = activations.ERRORS[name, which, "float64"]
        assert error.ulp <= LIMIT[np.dtype(np.float64)]
        assert errors64(mpmath_module(), name, np.array([error.at]))[i][0] == pytest.approx(error.ulp, abs=2e-3)


@pytest.mark.parametrize("activation", EVERY, ids=str)
def test_limits_on_every_target_and_with_parameters(isa, rng, activation):
    """elu's alpha and softplus' 1 / beta cost one more rounding."""
    extra = 0 if isinstance(activation, str) else 0.5
    for error in errors32(activation, sweep32(10007 if isa != "scalar" else 400009, start=5)):
        assert error.max() <= 2 + extra
    for error in errors64(mpmath_module(), activation, sample64(rng, 20)):
        assert error.max() <= 4 + extra


@pytest.mark.skipif("FASTFC_ULP" not in os.environ, reason="FASTFC_ULP=quick or full is not set")
@pytest.mark.parametrize("dtype_name", ["float32", "float64"])
def test_search(tmp_path, dtype_name):
    path = pathlib.Path(__file__).parent.parent / "tools" / "ulp.py"
    spec = importlib.util.spec_from_file_location("ulp", path)
    ulp = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ulp)
    full = os.environ["FASTFC_ULP"] == "full"
    amount = {"float32": 1 if full else 4099, "float64": 4 * 10**6 if full else 10**5}[dtype_name]
    for name, which, worst, at, denormal in ulp.measure(ulp.build(str(tmp_path)), "best", dtype_name, amount):
        assert worst <= activations.ERRORS[name, which, dtype_name].ulp, (name, which, at)
        assert denormal is None or denormal <= 1.5  # of the smallest denormal


# ---- The same bits --------------------------------------------------------------------------------------------------


def wild(rng, n, dtype):
    """Any bits, and numbers where something happens."""
    any_bits = rng.integers(0, 256, n * np.dtype(dtype).itemsize, dtype=np.uint8).view(dtype)
    some = rng.uniform(-1, 1, n) * rng.choice([1, 8, 40, 800], n)
    return np.where(rng.random(n) < 0.25, any_bits, some.astype(dtype))


@pytest.mark.parametrize("activation", EVERY, ids=str)
def test_same_bits_on_every_fma_target(in_turn, dtype, rng, activation):
    x, g = wild(rng, 4001, dtype), rng.standard_normal(4001).astype(dtype)
    results = [(forward(activation, x), gradient(activation, g, x)) for _ in in_turn(FMA_ISAS)]
    for y, gx in results[1:]:
        assert_same_bits(y, results[0][0])
        assert_same_bits(gx, results[0][1])


@pytest.mark.parametrize("activation", EVERY, ids=str)
def test_an_element_does_not_depend_on_its_neighbours(isa, dtype, rng, activation):
    n = 2 * Edges(dtype).lanes + 3
    x, g = wild(rng, n, dtype), rng.standard_normal(n).astype(dtype)
    y, gx = forward(activation, x), gradient(activation, g, x)
    for i in range(n):
        assert_same_bits(forward(activation, x[i:]), y[i:])
        assert_same_bits(gradient(activation, g[i : i + 1], x[i : i + 1]), gx[i : i + 1])


@pytest.mark.parametrize("activation", EVERY, ids=str)
def test_the_epilogue_gives_the_same(isa, dtype, rng, activation):
    lanes = Edges(dtype).lanes
    for n in (1, lanes - 1, lanes, lanes + 1, 4 * lanes + 1):
        x, w = rng.standard_normal((5, 7)).astype(dtype), rng.standard_normal((n, 7)).astype(dtype)
        bias, residual = rng.standard_normal(n).astype(dtype), rng.standard_normal((5, n)).astype(dtype)
        y, z = fastfc.linear(x, w, bias, residual=residual, activation=activation, return_preactivation=True)
        assert_same_bits(y, forward(activation, z))
        assert_same_bits(fastfc.linear(x, w, bias, residual=residual, activation=activation), y)
        assert_same_bits(fastfc.linear(x, fastfc.pack(w), bias, residual=residual, activation=activation), y)
        g = rng.standard_normal((5, n)).astype(dtype)
        through = fastfc.linear_backward(g, x, w, activation=activation, preactivation=z)
        direct = fastfc.linear_backward(gradient(activation, g, z), x, w)
        for a, b in zip(through, direct, strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_threads_change_nothing(rng, name):
    x = wild(rng, 300_001, np.float32)
    assert_same_bits(forward(name, x, threads=1), forward(name, x, threads=3))
    assert_same_bits(gradient(name, x[::-1], x, threads=1), gradient(name, x[::-1], x, threads=3))


def test_a_default_parameter_may_be_written_out(dtype, rng):
    x, w = rng.standard_normal((3, 4)).astype(dtype), rng.standard_normal((5, 4)).astype(dtype)
    for name, value in DEFAULTS.items():
        assert_same_bits(fastfc.linear(x, w, activation=name), fastfc.linear(x, w, activation=(name, value)))
        assert inspect.signature(getattr(activations, name)).parameters.keys() >= {"x", "out", "threads"}


# ---- Special values -------------------------------------------------------------------------------------------------

INF, NAN = np.inf, np.nan
# At -Inf, -0, +0, Inf, NaN.
SPECIAL = {
    "relu": ([0.0, 0.0, 0.0, INF, NAN], [0.0, 0.0, 0.0, 1.0, 1.0]),
    "leaky_relu": ([-INF, -0.0, 0.0, INF, NAN], [0.01, 0.01, 0.01, 1.0, 0.01]),
    "elu": ([-1.0, -0.0, 0.0, INF, NAN], [0.0, 1.0, 1.0, 1.0, NAN]),
    "gelu": ([-0.0, -0.0, 0.0, INF, NAN], [-0.0, 0.5, 0.5, 1.0, NAN]),
    "gelu_tanh": ([-0.0, -0.0, 0.0, INF, NAN], [-0.0, 0.5, 0.5, 1.0, NAN]),
    "silu": ([-0.0, -0.0, 0.0, INF, NAN], [-0.0, 0.5, 0.5, 1.0, NAN]),
    "sigmoid": ([0.0, 0.5, 0.5, 1.0, NAN], [0.0, 0.25, 0.25, 0.0, NAN]),
    "tanh": ([-1.0, -0.0, 0.0, 1.0, NAN], [0.0, 1.0, 1.0, 0.0, NAN]),
    "softplus": ([0.0, np.log(2), np.log(2), INF, NAN], [0.0, 0.5, 0.5, 1.0, NAN]),
    "hardswish": ([-0.0, -0.0, 0.0, INF, NAN], [0.0, 0.5, 0.5, 1.0, NAN]),
}


@pytest.mark.parametrize("name", NAMES)
def test_special_values(isa, dtype, name):
    x = np.array([-INF, -0.0, 0.0, INF, NAN], dtype)
    value, derivative = (np.array(v).astype(dtype) for v in SPECIAL[name])
    assert_same_bits(forward(name, x), value)
    assert_same_bits(gradient(name, np.ones_like(x), x), derivative)


@pytest.mark.parametrize("name", NAMES)
def test_largest_finite_values(isa, dtype, name):
    big = np.finfo(dtype).max
    x = np.array([-big, big], dtype)
    value = {"tanh": [-1, 1], "sigmoid": [0, 1], "elu": [-1, big], "leaky_relu": [dtype(0.01) * -big, big]}
    assert forward(name, x).tolist() == np.array(value.get(name, [0, big]), dtype).tolist()
    flat = {"tanh": [0, 0], "sigmoid": [0, 0], "leaky_relu": [dtype(0.01), 1]}
    assert gradient(name, np.ones_like(x), x).tolist() == np.array(flat.get(name, [0, 1]), dtype).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_denormal_inputs(isa, dtype, name):
    tiny = np.finfo(dtype).smallest_subnormal
    x = (np.array([1, 2, 3, 1000, 123456]) * tiny).astype(dtype)
    x = np.concatenate([-x, x])
    slope = {"relu": (0, 1), "leaky_relu": (0.01, 1), "elu": (1, 1), "tanh": (1, 1)}.get(name, (0.5, 0.5))
    if name in ("sigmoid", "softplus"):
        assert (forward(name, x) == dtype({"sigmoid": 0.5, "softplus": np.log(2)}[name])).all()
    else:
        # Counted in the smallest denormal: within half of one, where the exact result is not a whole number.
        expected = np.where(x < 0, slope[0], slope[1]) * np.round(x.astype(np.float64) / float(tiny))
        assert np.abs(forward(name, x).astype(np.float64) / float(tiny) - expected).max() <= 0.5
    assert_same_bits(
        gradient(name, np.ones_like(x), x),
        gradient(name, np.ones_like(x), np.where(x < 0, -np.finfo(dtype).tiny, np.finfo(dtype).tiny)),
    )


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "sigmoid", "softplus"])
def test_left_tails_fade_through_the_denormals(isa, name):
    """Within 1.5 of the smallest denormal, and 0 only where the exact result is about to round to it."""
    x = np.linspace(-110, -8, 20001, dtype=np.float32)
    y = forward(name, x).astype(np.float64)
    with np.errstate(over="ignore"):
        value, _ = exact(Float64, name, x.astype(np.float64))
    below = np.abs(value) < 2.0**-126
    assert below.any()
    assert np.abs(y - value)[below].max() <= 1.5 * 2.0**-149
    assert (y[np.abs(value) > 2.0**-149] != 0).all()


# ---- Gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", EVERY, ids=str)
def test_finite_differences(activation, rng):
    x = rng.uniform(-6, 6, 1000)
    x = x[(np.abs(x) > 1e-3) & (np.abs(np.abs(x) - 3) > 1e-3)]
    h = 1e-5
    numeric = (forward(activation, x + h) - forward(activation, x - h)) / (2 * h)
    g = rng.standard_normal(x.size)
    np.testing.assert_allclose(gradient(activation, g, x), g * numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("activation", EVERY, ids=str)
def test_agrees_with_torch(activation, rng):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    name, *parameter = (activation,) if isinstance(activation, str) else activation
    function = (
        {
            "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
            "softplus": lambda x: f.softplus(x, *parameter),
            "elu": lambda x: f.elu(x, *parameter),
            "leaky_relu": lambda x: f.leaky_relu(x, *parameter),
        }.get(name)
        or getattr(f, name, None)
        or getattr(torch, name)
    )
    x = np.concatenate([rng.uniform(-30, 30, 2000), [-3.0, 3.0, 0.0, 20.0, -20.0]])
    g = rng.standard_normal(x.size)
    t = torch.tensor(x, requires_grad=True)
    y = function(t)
    y.backward(torch.tensor(g))
    np.testing.assert_allclose(forward(activation, x), y.detach().numpy(), rtol=1e-12, atol=1e-15)
    smooth = np.abs(x) != 3 if name == "hardswish" else slice(None)
    np.testing.assert_allclose(gradient(activation, g, x)[smooth], t.grad.numpy()[smooth], rtol=1e-12, atol=1e-13)


# ---- Arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_any_shape_and_memory(dtype, rng, name):
    flat = rng.standard_normal(24).astype(dtype)
    expected, slopes = forward(name, flat), gradient(name, np.ones_like(flat), flat)
    for shape in [(24,), (2, 3, 4), (24, 1)]:
        assert_same_bits(forward(name, flat.reshape(shape)), expected.reshape(shape))
    strided = np.zeros((24, 3), dtype)
    strided[:, 1] = flat
    assert_same_bits(forward(name, strided[:, 1]), expected)
    assert_same_bits(forward(name, flat[::-1]), expected[::-1])
    assert_same_bits(forward(name, np.asfortranarray(flat.reshape(4, 6))), expected.reshape(4, 6))
    assert forward(name, flat[0:1].reshape(())).shape == ()
    assert forward(name, flat[:0].reshape(0, 5)).shape == (0, 5)
    unaligned = np.frombuffer(b"\0" + flat.tobytes(), dtype, offset=1)
    assert_same_bits(forward(name, unaligned), expected)
    assert_same_bits(gradient(name, np.broadcast_to(dtype(1), 24), strided[:, 1]), slopes)


@pytest.mark.parametrize("name", NAMES)
def test_out(dtype, rng, name):
    x, g = rng.standard_normal((2, 5, 6)).astype(dtype)
    expected, slopes = forward(name, x), gradient(name, g, x)
    out = np.full((5, 6), np.nan, dtype)
    assert forward(name, x, out=out) is out
    assert_same_bits(out, expected)
    wide = np.full((5, 12), np.nan, dtype)
    assert_same_bits(gradient(name, g, x, out=wide[:, ::2]), slopes)
    assert np.isnan(wide[:, 1::2]).all()
    same = x.copy()
    assert_same_bits(forward(name, same, out=same), expected)
    same = x.copy()
    assert_same_bits(gradient(name, g, same, out=same), slopes)
    same = g.copy()
    assert_same_bits(gradient(name, same, x, out=same), slopes)


X = np.zeros((2, 3), np.float32)
BUFFER = np.zeros(8, np.float32)
A = activations


def linear(activation):
    return lambda: fastfc.linear(X, X, activation=activation)


MISTAKES = {
    "list": (TypeError, "gelu(): x must be a numpy array, got list", lambda: A.gelu([1.0])),
    "dtype": (TypeError, "gelu(): x must be float32 or float64", lambda: A.gelu(np.zeros(2, int))),
    "out shape": (ValueError, "gelu(): out has shape (6,), expected (2, 3)", lambda: A.gelu(X, out=X.ravel())),
    "out dtype": (TypeError, "gelu(): out must be float32", lambda: A.gelu(X, out=np.zeros((2, 3)))),
    "shifted": (ValueError, "gelu(): out overlaps x", lambda: A.gelu(BUFFER[:7], out=BUFFER[1:])),
    "shifted grad": (ValueError, "overlaps grad_y", lambda: A.gelu_grad(BUFFER[:7], BUFFER[:7].copy(), out=BUFFER[1:])),
    "grad shape": (ValueError, "gelu_grad(): grad_y has shape (6,)", lambda: A.gelu_grad(X.ravel(), X)),
    "grad dtype": (TypeError, "gelu_grad(): grad_y is float64, x is float32", lambda: A.gelu_grad(np.zeros((2, 3)), X)),
    "threads": (ValueError, "gelu(): threads must be at least 1", lambda: A.gelu(X, threads=0)),
    "slope": (TypeError, "leaky_relu(): slope must be a number, got str", lambda: A.leaky_relu(X, "1")),
    "alpha": (ValueError, "elu(): alpha must be finite, got nan", lambda: A.elu(X, NAN)),
    "beta": (ValueError, "softplus(): beta must be positive", lambda: A.softplus(X, 0)),
    "beta grad": (ValueError, "softplus_grad(): beta must be positive", lambda: A.softplus_grad(X, X, -1)),
    "pair": (ValueError, "linear(): activation must be one of", linear(("gelu", 0.5))),
    "triple": (ValueError, "linear(): activation must be one of", linear(("elu", 1, 2))),
    "pair type": (TypeError, "linear(): activation's alpha must be a number, got str", linear(("elu", "1"))),
    "pair bool": (TypeError, "linear(): activation's alpha must be a number, got bool", linear(("elu", True))),
    "pair value": (ValueError, "linear(): activation's beta must be positive", linear(("softplus", 0))),
    "says pairs": (ValueError, "('leaky_relu', slope)", linear("Gelu")),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(case):
    error, message, call = MISTAKES[case]
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize("name", activations.__all__)
def test_documented(name):
    text = inspect.getdoc(getattr(activations, name))
    assert "Largest error" in text and "Parameters" in text and "Raises" in text
