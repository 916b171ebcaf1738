"""Losses give torch's numbers: values and gradients, every option."""

import itertools

import numpy as np
import pytest

import fastfc

torch = pytest.importorskip("torch", reason="compares with torch.nn")

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}
REDUCTIONS = ("mean", "sum", "none")


def close(ours, theirs, dtype):
    """Relative to the norm; NaN where torch has NaN."""
    theirs = theirs.detach().numpy().astype(np.float64)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    error = np.linalg.norm(np.nan_to_num(np.asarray(ours, np.float64) - theirs))
    assert error <= TOLERANCE[dtype] * np.linalg.norm(np.nan_to_num(theirs))


def compare(ours, theirs, x, target, dtype, rng):
    tx = torch.from_numpy(x.copy()).requires_grad_()
    expected = theirs(tx, torch.from_numpy(target))
    value, backward = ours.vjp(x, target)
    close(value, expected, dtype)
    upstream = 0.7 if isinstance(value, float) else np.array(rng.standard_normal(value.shape), dtype)
    expected.backward(torch.as_tensor(upstream, dtype=tx.dtype))
    close(backward(upstream), tx.grad, dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted, smoothing", list(itertools.product((False, True), (0.0, 0.1, 1.0))))
@pytest.mark.parametrize("kind", ["labels", "ignored", "all ignored", "targets"])
def test_cross_entropy(dtype, rng, reduction, weighted, smoothing, kind):
    for rows, classes in ((32, 10), (7, 1000), (1, 2), (0, 4)):
        x = 4 * rng.standard_normal((rows, classes)).astype(dtype)
        w = rng.random(classes).astype(dtype) if weighted else None
        target = rng.integers(0, classes, rows)
        if kind == "targets":
            target = rng.random((rows, classes)).astype(dtype)
        elif kind != "labels":
            target[: rows if kind == "all ignored" else rows // 2] = -100
        ours = fastfc.CrossEntropyLoss(w, reduction=reduction, label_smoothing=smoothing)
        theirs = torch.nn.CrossEntropyLoss(
            None if w is None else torch.from_numpy(w), reduction=reduction, label_smoothing=smoothing)
        if kind == "all ignored" and reduction == "mean":
            assert np.isnan(ours(x, target)) and torch.isnan(theirs(torch.from_numpy(x), torch.from_numpy(target)))
            continue
        compare(ours, theirs, x, target, dtype, rng)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_nll(dtype, rng, reduction, weighted):
    x = -rng.random((20, 6)).astype(dtype)
    w = rng.random(6).astype(dtype) if weighted else None
    target = rng.integers(0, 6, 20)
    target[3] = 2
    ours = fastfc.NLLLoss(w, reduction=reduction, ignore_index=2)
    theirs = torch.nn.NLLLoss(None if w is None else torch.from_numpy(w), reduction=reduction, ignore_index=2)
    compare(ours, theirs, x, target, dtype, rng)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name, options", [
    ("MSELoss", {}), ("L1Loss", {}), ("HuberLoss", {}), ("HuberLoss", {"delta": 0.4}), ("SmoothL1Loss", {}),
    ("SmoothL1Loss", {"beta": 0.3}), ("SmoothL1Loss", {"beta": 0.0}), ("BCEWithLogitsLoss", {}),
])
def test_pointwise(dtype, rng, reduction, name, options):
    for shape in ((256, 33), (5,), (), (2, 3, 4), (0, 3)):
        x, target = (np.array(rng.standard_normal(shape), dtype) for _ in range(2))
        if name == "BCEWithLogitsLoss":
            x, target = np.array(10 * x, dtype), np.array(np.tanh(np.abs(target)), dtype)
        ours = getattr(fastfc, name)(reduction=reduction, **options)
        theirs = getattr(torch.nn, name)(reduction=reduction, **options)
        compare(ours, theirs, x, target, dtype, rng)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight, pos_weight", [((5,), None), ((7, 1), (5,)), (None, (5,)), ((7, 5), (1,))])
def test_bce_weights(dtype, rng, reduction, weight, pos_weight):
    x, target = 20 * rng.standard_normal((7, 5)).astype(dtype), rng.integers(0, 2, (7, 5)).astype(dtype)
    w = None if weight is None else rng.random(weight).astype(dtype)
    p = None if pos_weight is None else rng.random(pos_weight).astype(dtype) * 4
    ours = fastfc.BCEWithLogitsLoss(w, reduction=reduction, pos_weight=p)
    theirs = torch.nn.BCEWithLogitsLoss(
        None if w is None else torch.from_numpy(w), reduction=reduction,
        pos_weight=None if p is None else torch.from_numpy(p))
    compare(ours, theirs, x, target, dtype, rng)
