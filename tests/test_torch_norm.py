"""LayerNorm, RMSNorm and Dropout beside torch: values, gradients, names and text."""

import numpy as np
import pytest

import fastfc

torch = pytest.importorskip("torch", reason="compares with torch.nn")

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}


def close(ours, theirs, dtype):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) <= TOLERANCE[dtype] * np.linalg.norm(theirs)


def pair(name, shape, dtype, rng, **options):
    ours = getattr(fastfc, name)(shape, dtype=dtype, **options)
    theirs = getattr(torch.nn, name)(shape, dtype=getattr(torch, np.dtype(dtype).name), **options)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_array_equal(parameter.data, other.detach().numpy())
        parameter.data[...] = rng.standard_normal(parameter.data.shape)
        other.data.copy_(torch.from_numpy(parameter.data))
    return ours, theirs


@pytest.mark.parametrize("name, options", [
    ("LayerNorm", {}), ("LayerNorm", {"bias": False}), ("LayerNorm", {"elementwise_affine": False}),
    ("LayerNorm", {"eps": 0.1}),
    ("RMSNorm", {}), ("RMSNorm", {"elementwise_affine": False}), ("RMSNorm", {"eps": 0.1}),
])
@pytest.mark.parametrize("shape, normalized", [
    ((512, 768), 768), ((3, 4, 5), (4, 5)), ((7, 1), 1), ((33,), 33), ((0, 5), 5),
])
def test_norms(dtype, rng, name, options, shape, normalized):
    ours, theirs = pair(name, normalized, dtype, rng, **options)
    x, grad_y = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    tx = torch.from_numpy(x.copy()).requires_grad_()
    y, backward = ours.vjp(x)
    ty = theirs(tx)
    close(y, ty, dtype)
    if normalized == 1:
        return  # a row of one is its own mean, or its own root mean square: what is left of a gradient is rounding
    gx = backward(grad_y)
    ty.backward(torch.from_numpy(grad_y))
    close(gx, tx.grad, dtype)
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(parameter.grad, other.grad, dtype)


def test_a_linear_and_a_norm(dtype, rng):
    ours, theirs = pair("LayerNorm", 40, dtype, rng)
    linear = torch.nn.Linear(30, 40, dtype=getattr(torch, np.dtype(dtype).name))
    theirs = torch.nn.Sequential(linear, torch.nn.ReLU(), theirs)
    model = fastfc.Sequential(fastfc.Linear(30, 40, dtype=dtype), fastfc.ReLU(), ours)
    model.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    x, grad_y = rng.standard_normal((50, 30)).astype(dtype), rng.standard_normal((50, 40)).astype(dtype)
    tx = torch.from_numpy(x.copy()).requires_grad_()
    y, backward = model.vjp(x)
    gx, ty = backward(grad_y), theirs(tx)
    ty.backward(torch.from_numpy(grad_y))
    close(y, ty, dtype)
    close(gx, tx.grad, dtype)
    for parameter, other in zip(model.parameters(), theirs.parameters(), strict=True):
        close(parameter.grad, other.grad, dtype)


def test_dropout_of_everything_and_of_nothing(dtype, rng):
    x = rng.standard_normal((4, 5)).astype(dtype)
    for p in (0.0, 1.0):
        np.testing.assert_array_equal(fastfc.Dropout(p)(x), torch.nn.Dropout(p)(torch.from_numpy(x)).numpy())
