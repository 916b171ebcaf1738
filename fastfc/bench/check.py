"""Is an answer right? Float64 references, with bounds that a sound float kernel keeps and a cheat does not.

The error of a product is judged against ``|x|·|w|ᵀ + |b|``, in units of the dtype's rounding: on independent
Gaussian data the worst sound engine stays under 3 of them whatever k, running sums without blocks under 5. A
kernel that rounds its inputs to bfloat16, skips a tail or reads a stale bias is off by hundreds.
"""

from __future__ import annotations

import math

import numpy as np

from . import steps
from .cases import STEPS, Case, Data

#: Largest error, in roundings (2⁻²⁴ for float32) of the sum of moduli.
ROUNDINGS = 32
#: Largest error of what a few training steps changed, in the norm and relative to the change. Adam divides a gradient
#: by its own size, so where that is next to nothing, rounding shows.
TRAINED = 1e-3
#: Rows whose every element is compared; the others are covered by one random projection.
ROWS = 24

_erf = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS = {
    None: lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "gelu": lambda z: 0.5 * z * (1 + _erf(z / math.sqrt(2))),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}


class Wrong(Exception):
    """An answer that is not the product it claims to be."""


def check(case: Case, data: Data, answer: tuple[np.ndarray, ...]) -> None:
    """Raise `Wrong` unless `answer` is that of `case`: ``(y,)`` forward, ``(gx, gw, gb)`` backward, in training all
    parameters after `STEPS` steps.
    """
    if case.kind == "train":
        return _trained(case, data, answer)
    if case.kind == "feedforward":
        return _feedforward(case, data, *answer)
    if case.kind == "norm":
        return _normalised(case, data, *answer)
    x, w, b = (a.astype(np.float64) for a in (data.x, data.w, data.b))
    if not case.backward:
        (y,) = answer
        residual = 0 if data.residual is None else data.residual.astype(np.float64)
        _product("y", case, y, x, w.T, b + np.zeros((case.m, 1)) + residual, case.activation)
        return
    gx, gw, gb = answer
    gy = data.gy.astype(np.float64)
    _product("gradient of x", case, gx, gy, w)
    if case.sparse:
        _stored("gradient of the stored entries", case, gw, gy, x, data)
    else:
        _product("gradient of the weight", case, gw, gy.T, x)
    _product("gradient of the bias", case, np.reshape(gb, (1, -1)), np.ones((1, case.m)), gy)


def _roundings(case: Case) -> float:
    return ROUNDINGS * float(np.finfo(case.dtype).eps) / 2


def _expect(what, case, got, shape):
    if got.shape != shape:
        raise Wrong(f"{what} has shape {got.shape}, expected {shape}")
    if got.dtype != np.dtype(case.dtype):
        raise Wrong(f"{what} is {got.dtype}, expected {case.dtype}")


def _compare(what, case, got, reference, scale):
    error = np.abs(got - reference) / np.maximum(scale, np.finfo(np.float64).tiny)
    worst = float(np.max(error, initial=0.0))
    if not worst <= _roundings(case):  # also catches NaN
        unit = float(np.finfo(case.dtype).eps) / 2
        raise Wrong(f"{what} is off by {worst / unit:.3g} roundings of the sum of moduli, {ROUNDINGS} are allowed")


def _product(what, case, got, left, right, add=None, activation=None):
    """Compare `got` with ``act(left @ right + add)``: some rows in full, all of it through one projection."""
    rows, columns = left.shape[0], right.shape[1]
    _expect(what, case, got, (rows, columns))
    rng = np.random.default_rng(7)
    some = np.arange(rows) if rows <= ROWS else np.unique(np.r_[0, rows - 1, rng.choice(rows, ROWS, replace=False)])
    add = np.zeros((1, 1)) if add is None else add
    part = np.broadcast_to(add, (rows, columns))[some]
    z, scale = left[some] @ right + part, np.abs(left[some]) @ np.abs(right) + np.abs(part)
    _compare(what, case, got[some], ACTIVATIONS[activation](z), scale)
    if activation is None and len(some) < rows:
        signs = rng.choice([-1.0, 1.0], columns)
        reference = left @ (right @ signs) + np.broadcast_to(add, (rows, columns)) @ signs
        # Errors of many elements cancel like the signs do, so the allowance grows with the root of their number.
        scale = np.abs(left) @ np.abs(right).sum(1) + np.abs(np.broadcast_to(add, (rows, columns))).sum(1)
        scale /= math.sqrt(columns)
        _compare(f"{what}, projected", case, got @ signs, reference, scale)


def _stored(what, case, got, gy, x, data):
    """Compare `got` with the entries of ``gyᵀ·x`` at stored places: a sample of them, in full precision."""
    _expect(what, case, got, data.values.shape)
    rng = np.random.default_rng(7)
    some = np.unique(np.r_[0, len(got) - 1, rng.integers(0, len(got), 4096)])
    left, right = gy[:, data.rows[some]], x[:, data.indices[some]]
    _compare(what, case, got[some], (left * right).sum(0), (np.abs(left) * np.abs(right)).sum(0))


def _trained(case, data, answer):
    """Compare what the steps changed in each weight and bias with the change in float64."""
    before = [array for pair in zip(data.weights, data.biases, strict=True) for array in pair]
    unit = float(np.finfo(case.dtype).eps) / 2
    for i, (got, old, new) in enumerate(zip(answer, before, steps.reference(case, data, STEPS), strict=True)):
        what = f"{'bias' if i % 2 else 'weight'} {i // 2} after {STEPS} steps"
        _expect(what, case, got, old.shape)
        change, error = np.linalg.norm(new - old), np.linalg.norm(got - new)
        # Each step rounds each parameter once, twice with weight decay.
        allowed = TRAINED * change + 2 * STEPS * unit * np.linalg.norm(old)
        if not error <= allowed:
            raise Wrong(f"{what} is off by {error / change:.2g} of the change, {allowed / change:.2g} is allowed")


def _feedforward(case, data, y):
    """Compare in full; an error of the intermediate counts at most 1.13 times (the slope of gelu)."""
    (w1, w2), (b1, b2) = ([a.astype(np.float64) for a in arrays] for arrays in (data.weights, data.biases))
    x = data.x.astype(np.float64)
    h = ACTIVATIONS["gelu"](x @ w1.T + b1)
    inner = np.abs(x) @ np.abs(w1).T + np.abs(b1)
    _expect("y", case, y, (case.m, case.n))
    _compare("y", case, y, h @ w2.T + b2, (np.abs(h) + 1.13 * inner) @ np.abs(w2).T + np.abs(b2))


def _normalised(case, data, y):
    """Compare in full; an error of the product is divided by the row's deviation, and counts again in its mean."""
    x, w, b = (a.astype(np.float64) for a in (data.x, data.w, data.b))
    z = x @ w.T + b
    deviation = np.sqrt(z.var(1, keepdims=True) + 1e-5)
    y0 = (z - z.mean(1, keepdims=True)) / deviation
    inner = (np.abs(x) @ np.abs(w).T + np.abs(b)).max(1, keepdims=True)
    _expect("y", case, y, (case.m, case.n))
    _compare("y", case, y, y0, 2 * inner / deviation * (1 + np.abs(y0)))
