"""Finite differences of a model in float64, and what tests of layers share."""

import copy
import pickle

import numpy as np
import pytest

EPS = 1e-6


def numeric_gradient(f, array):
    """Central differences of the scalar f() with respect to each element of `array` (float64), changed in place."""
    grad = np.empty_like(array)
    for at in np.ndindex(array.shape):
        kept = array[at]
        array[at] = kept + EPS
        high = f()
        array[at] = kept - EPS
        low = f()
        array[at] = kept
        grad[at] = (high - low) / (2 * EPS)
    return grad


def check_gradients(model, *inputs, kwargs=None):
    """Compare backward() of a float64 model with finite differences of a random linear functional of y, with respect
    to each input of floats and to each parameter."""
    kwargs = kwargs or {}
    y, backward = model.vjp(*inputs, **kwargs)
    np.testing.assert_array_equal(y, model(*inputs, **kwargs))
    grad_y = np.random.default_rng(99).standard_normal(y.shape)
    model.zero_grad()
    grads = backward(grad_y)

    def f():
        return float((model(*inputs, **kwargs) * grad_y).sum())

    floats = [x for x in inputs if x.dtype.kind == "f"]
    grads = grads if isinstance(grads, tuple) else (grads,) if floats else ()
    for x, grad_x in zip(floats, grads, strict=True):
        np.testing.assert_allclose(grad_x, numeric_gradient(f, x), rtol=1e-6, atol=1e-7)
    for name, parameter in model.named_parameters():
        expected = numeric_gradient(f, parameter.data)
        np.testing.assert_allclose(parameter.grad, expected, rtol=1e-6, atol=1e-7, err_msg=name)


def check_contract(make, x):
    """What every layer keeps to. `make` is called with ``dtype=`` and gives equal layers; x is a float64 array, or of
    integers."""
    for dtype in (np.float32, np.float64):
        xs = tuple(part.astype(dtype) if part.dtype.kind == "f" else part for part in (x if type(x) is tuple else (x,)))
        layer = make(dtype=dtype)
        y, backward = layer.vjp(*xs)
        assert y.dtype == dtype
        g = np.random.default_rng(5).standard_normal(y.shape).astype(dtype)
        first = backward(g)
        once = [p.grad.copy() for p in layer.parameters()]
        for p, grad in zip(layer.parameters(), once, strict=True):
            assert grad.shape == p.shape and grad.dtype == dtype
        # y may be overwritten, passes may be nested, gradients add up, a reset starts afresh
        y, backward = layer.vjp(*xs)
        layer.vjp(*(part[:1] for part in xs))
        y[...] = 7
        assert_equal(backward(g), first)
        for p, grad in zip(layer.parameters(), once, strict=True):
            np.testing.assert_allclose(p.grad, 2 * grad, rtol=1e-5, atol=1e-6)
        layer.zero_grad()
        assert layer.vjp(*xs)[1](g, needs_input_grad=False) is None
        for p, grad in zip(layer.parameters(), once, strict=True):
            np.testing.assert_array_equal(p.grad, grad)
        # a wrong gradient is refused and changes nothing
        layer.zero_grad()
        _, backward = layer.vjp(*xs)
        for wrong in (g[..., :-1], g[:-1], g.astype(np.float16)):
            with pytest.raises((ValueError, TypeError)):
                backward(wrong)
        assert all(p.grad is None for p in layer.parameters())
        # eval gives the bits of train, and rows do not depend on the batch
        y = layer(*xs)
        state = state_of(layer)
        layer.eval()
        assert_equal(layer(*xs), y)
        assert_equal(layer.vjp(*xs)[0], y)
        assert state_of(layer) == state
        assert_equal(layer(*(part[1:2] for part in xs)), y[1:2])
        assert layer(*(part[:0] for part in xs)).shape == (0, *y.shape[1:])
        # state, copies and pickles in both modes
        for mode in (False, True):
            layer.train(mode)
            for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
                assert repr(twin) == repr(layer) and state_of(twin) == state
                assert all(module.training is mode for module in twin.modules())
                assert_equal(twin(*xs), y)
                for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
                    assert q.data.flags.writeable is mode and not np.shares_memory(p.data, q.data)
            other = make(dtype=dtype).train(mode)
            for p in other.parameters():
                p.data = p.data + 1
            other(*xs)
            assert other.load_state_dict(layer.state_dict()) == ([], [])
            assert_equal(other(*xs), y)


def assert_equal(actual, expected):
    if expected is None or isinstance(expected, tuple):
        assert type(actual) is type(expected)
        for a, b in zip(actual or (), expected or (), strict=True):
            assert_equal(a, b)
    else:
        np.testing.assert_array_equal(actual, expected)


def away_from_zero(rng, shape):
    """Gaussian draws with |x| > 0.05, so that finite differences do not cross a kink."""
    x = rng.standard_normal(shape)
    return x + 0.05 * np.sign(x)


def state_of(model):
    return {name: (array.dtype, array.tobytes()) for name, array in model.state_dict().items()}
