"""Activations as layers, Softmax, LogSoftmax, and the layers that move no numbers."""

import numpy as np
import pytest
from gradients import away_from_zero, check_contract, check_gradients

import fastfc
from fastfc import activations

LAYERS = {
    "ReLU()": ("relu", {}),
    "LeakyReLU(negative_slope=0.01)": ("leaky_relu", {}),
    "LeakyReLU(negative_slope=0.2)": ("leaky_relu", {"slope": 0.2}),
    "ELU(alpha=1.0)": ("elu", {}),
    "ELU(alpha=0.5)": ("elu", {"alpha": 0.5}),
    "GELU(approximate='none')": ("gelu", {}),
    "GELU(approximate='tanh')": ("gelu_tanh", {}),
    "SiLU()": ("silu", {}),
    "Sigmoid()": ("sigmoid", {}),
    "Tanh()": ("tanh", {}),
    "Softplus(beta=1.0, threshold=20.0)": ("softplus", {}),
    "Softplus(beta=2.0, threshold=20.0)": ("softplus", {"beta": 2.0}),
    "Hardswish()": ("hardswish", {}),
}
ALL = [*LAYERS, "Softmax(dim=-1)", "Softmax(dim=0)", "LogSoftmax(dim=1)", "Identity()",
       "Flatten(start_dim=0, end_dim=-1)", "Unflatten(dim=1, unflattened_size=(2, -1))"]


def made(text):
    """The layer whose repr is `text`."""
    layer = eval(text, vars(fastfc))
    assert repr(layer) == text
    return layer


@pytest.mark.parametrize("text", LAYERS)
def test_a_layer_gives_the_bits_of_its_function(text, dtype):
    layer, (name, parameter) = made(text), LAYERS[text]
    rng = np.random.default_rng(0)
    x, g = (3 * rng.standard_normal((40, 7))).astype(dtype), rng.standard_normal((40, 7)).astype(dtype)
    x[0] = [np.nan, np.inf, -np.inf, 0, -0.0, 5e-42, -700]
    for layout in (x, np.asfortranarray(x), x[::-1], x[3]):
        g_layout = g[:len(layout)] if layout.ndim == 2 else g[3]
        expected = getattr(activations, name)(layout, **parameter)
        y, backward = layer.vjp(layout)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(layer(layout), expected)
        expected = getattr(activations, name + "_grad")(g_layout, layout, **parameter)
        np.testing.assert_array_equal(backward(g_layout), expected)
        assert backward(g_layout, needs_input_grad=False) is None


@pytest.mark.parametrize("text", ALL)
def test_gradients(text):
    check_gradients(made(text), away_from_zero(np.random.default_rng(1), (6, 4)))


@pytest.mark.parametrize("text", [text for text in ALL if "atten" not in text and "dim=0" not in text
                                  and text != "Identity()"])
def test_contract(text):
    check_contract(lambda dtype: made(text), np.random.default_rng(2).standard_normal((5, 4)))


def test_relu_is_exact():
    x = np.array([-np.inf, -1, -0.0, 0.0, 5e-324, 2, np.inf, np.nan])
    y = fastfc.ReLU()(x)
    np.testing.assert_array_equal(y, [0, 0, 0, 0, 5e-324, 2, np.inf, np.nan])
    assert not np.signbit(y[:-1]).any()
    assert fastfc.ReLU()(x[:0]).shape == (0,)


def test_relu_passes_gradients_where_torch_does():
    x = np.array([-1, -0.0, 0.0, 2, np.nan])
    g = fastfc.ReLU().vjp(x)[1](np.array([np.inf, np.nan, 1, 3, 4]))
    np.testing.assert_array_equal(g, [0, 0, 0, 3, 4])
    assert fastfc.ReLU().vjp(x.astype(np.float32))[1](np.ones(5, np.float32)).dtype == np.float32


@pytest.mark.parametrize("bad", [np.arange(3), [1.0], np.zeros(3, np.float16)])
@pytest.mark.parametrize("text", [*LAYERS, "Softmax(dim=-1)", "LogSoftmax(dim=-1)"])
def test_other_dtypes_are_refused(text, bad):
    with pytest.raises(TypeError, match=r"x must be a"):
        made(text)(bad if isinstance(bad, list) else bad.tolist())
    with pytest.raises(TypeError, match=r"x must be .*float32 or float64.*, got"):
        made(text)(np.asarray(bad, np.int64))


@pytest.mark.parametrize("text", [*LAYERS, "Softmax(dim=-1)", "LogSoftmax(dim=-1)"])
def test_backward_refuses_another_shape(text):
    backward = made(text).vjp(np.ones((3, 4)))[1]
    with pytest.raises(ValueError, match=r"grad_y (must have shape \(3, 4\), got|has shape) \(4,\)"):
        backward(np.ones(4))
    with pytest.raises(TypeError, match=r"grad_y is float32"):
        backward(np.ones((3, 4), np.float32))


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: fastfc.LeakyReLU("0.1"), TypeError, r"LeakyReLU\(\): negative_slope must be a number, got str"),
    (lambda: fastfc.ELU(np.nan), ValueError, r"ELU\(\): alpha must be finite, got nan"),
    (lambda: fastfc.Softplus(-1), ValueError, r"Softplus\(\): beta must be positive"),
    (lambda: fastfc.Softplus(threshold=30), ValueError, r"Softplus\(\): threshold must be 20, got 30"),
    (lambda: fastfc.GELU("erf"), ValueError, r'GELU\(\): approximate must be "none" or "tanh", got \'erf\''),
    (lambda: fastfc.Softmax(2)(np.ones((3, 4))), ValueError, r"dim is 2, expected an axis of x, .* \(3, 4\)"),
    (lambda: fastfc.Softmax()(np.float32(1)), TypeError, r"Softmax: x must be a float32 or float64 array, got float32"),
    (lambda: fastfc.LogSoftmax(-3)(np.ones((3, 4))), ValueError, r"LogSoftmax: dim is -3"),
    (lambda: fastfc.Flatten(0.5), TypeError, r"Flatten\(\): start_dim must be an integer, got float"),
    (lambda: fastfc.Flatten(2)(np.ones((3, 4))), ValueError, r"Flatten: start_dim is 2, expected an axis of x"),
    (lambda: fastfc.Flatten(1, 0)(np.ones((3, 4))), ValueError, r"start_dim 1 comes after end_dim 0 in shape \(3, 4\)"),
    (lambda: fastfc.Flatten()([1.0]), TypeError, r"Flatten: x must be a numpy array, got list"),
    (lambda: fastfc.Unflatten(1, (-1, -1)), ValueError, r"may hold -1 once"),
    (lambda: fastfc.Unflatten(1, (3, -2)), ValueError, r"unflattened_size must be >= -1, got -2"),
    (lambda: fastfc.Unflatten(1, (3, -1))(np.ones((3, 4))), ValueError, r"axis 1 of x has length 4, which \(3, -1\)"),
    (lambda: fastfc.Unflatten(1, (0, -1))(np.ones((3, 4))), ValueError, r"axis 1 of x has length 4, which \(0, -1\)"),
    (lambda: fastfc.Unflatten(5, (2, 2))(np.ones((3, 4))), ValueError, r"dim is 5, expected an axis of x"),
    (lambda: fastfc.Flatten().vjp(np.ones((3, 4, 2)))[1](np.ones((3, 7))), ValueError,
     r"Flatten: grad_y must have shape \(3, 8\), got \(3, 7\)"),
])
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_softmax_of_extremes():
    y = fastfc.Softmax()(np.array([[1e308, -1e308, 0], [-np.inf, 0, 0], [np.nan, 0, 0], [3, 3, 3]]))
    np.testing.assert_array_equal(y[0], [1, 0, 0])
    np.testing.assert_array_equal(y[1], [0, 0.5, 0.5])
    assert np.isnan(y[2]).all()
    np.testing.assert_allclose(y[3], 1 / 3)
    log = fastfc.LogSoftmax()(np.array([[1000.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(log, [[0, -1000], [-np.log(2)] * 2])


@pytest.mark.parametrize("kind", [fastfc.Softmax, fastfc.LogSoftmax])
def test_softmax_rows_depend_on_nothing_else(kind, dtype):
    x = np.random.default_rng(0).standard_normal((50, 37)).astype(dtype)
    y = kind()(x)
    np.testing.assert_array_equal(kind()(np.asfortranarray(x)), y)
    np.testing.assert_array_equal(kind(0)(x.T), y.T)
    np.testing.assert_array_equal(kind()(x[::-1, ::-1][::-1, ::-1][7]), y[7])


def test_flatten_and_unflatten_shapes():
    x = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    assert fastfc.Flatten()(x).shape == (2, 60)
    assert fastfc.Flatten(1, 2)(x).shape == (2, 12, 5)
    assert fastfc.Flatten(-2)(x).shape == (2, 3, 20)
    assert fastfc.Flatten(0)(np.array(3.0)).shape == (1,)
    assert fastfc.Flatten()(np.empty((0, 3, 4))).shape == (0, 12)
    assert fastfc.Flatten()(np.empty((5, 0, 4))).shape == (5, 0)
    y, backward = fastfc.Flatten().vjp(x.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(backward(y), x.transpose(0, 3, 1, 2))
    assert fastfc.Unflatten(1, (3, 1))(x).shape == (2, 3, 1, 4, 5)
    assert fastfc.Unflatten(-1, (-1, 5))(x).shape == (2, 3, 4, 1, 5)
    assert fastfc.Unflatten(1, (-1, 2))(np.empty((3, 0))).shape == (3, 0, 2)
