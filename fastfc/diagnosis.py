"""The self-test: does every kernel compute, on this machine, what it should?"""

from __future__ import annotations

import time
import warnings
from typing import NamedTuple

import numpy as np

from fastfc import _core, runtime
from fastfc.functional import linear, linear_backward
from fastfc.losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss
from fastfc.module import Parameter
from fastfc.optim import SGD, Adagrad, Adam, RMSprop
from fastfc.packing import pack
from fastfc.sparse import CSR, PackedCSR, sparse_matmul

__all__ = ["SelfTest", "selftest"]

# How near the results of the target without FMA are to the others', relative to the largest.
_NEAR = {"float32": 1e-5, "float64": 1e-13}


class Failure(NamedTuple):
    """One result that is not what it should be."""

    isa: str
    check: str
    dtype: str
    detail: str


class SelfTest:
    """What :func:`selftest` found; true if nothing was wrong, and it prints well.

    Attributes
    ----------
    ok : bool
        Whether every kernel of every target gave what it should.
    isas : list of str
        The targets that were tested.
    failures : list of Failure
        What was wrong: `isa`, `check`, `dtype` and `detail` of each.
    dropped : list of str
        Targets that are out of dispatch now.
    seconds : float
        How long it took.
    config : dict
        :func:`fastfc.show_config` as it was.
    """

    def __init__(self, isas, failures, dropped, seconds, config):
        self.isas, self.failures, self.dropped, self.seconds, self.config = isas, failures, dropped, seconds, config

    @property
    def ok(self):
        return not self.failures

    def __bool__(self):
        return self.ok

    def __repr__(self):
        lines = [
            f"fastfc {self.config['version']} self-test: {'ok' if self.ok else 'FAILED'} "
            f"({len(_CHECKS)} checks, {self.seconds:.1f} s)",
            f"  on {self.config['cpu']}, Python {self.config['python']}, numpy {self.config['numpy']}",
        ]
        for isa in self.isas:
            wrong = [f for f in self.failures if f.isa == isa]
            verdict = "ok" if not wrong else "FAILED, out of use now" if isa in self.dropped else "FAILED"
            lines.append(f"  {isa:9} {verdict}")
            lines += [f"    {f.check}, {f.dtype}: {f.detail}" for f in wrong[:8]]
            if len(wrong) > 8:
                lines.append(f"    and {len(wrong) - 8} more")
        return "\n".join(lines)


def selftest():
    """Check every kernel of every target that this CPU can run, within a few seconds.

    Each is given small integers, whose results are exact, and random numbers, which by the contract give the same bits
    alone and in a batch, on one thread and on several, packed or not, and on all targets with FMA. A target that fails
    is taken out of dispatch until the process ends, with a warning; the next best takes its place. Other threads may
    compute meanwhile: they keep their target.

    Returns
    -------
    SelfTest
        True if all is well; printed, it says what was wrong.

    Warns
    -----
    RuntimeWarning
        If a target computes wrong results.

    Notes
    -----
    ``python -m fastfc selftest`` prints the same and ends with status 0 if all is well, else 1, for scripts of
    deployment. Weights that a faulty target packed before still belong to it: pack them again
    (``model.train().eval()``).

    Examples
    --------
    >>> import fastfc
    >>> report = fastfc.selftest()
    >>> report.ok
    True
    >>> print(report)  # doctest: +ELLIPSIS
    fastfc ... self-test: ok ...
    """
    started, config, isas = time.perf_counter(), runtime.show_config(), runtime.available_isas()
    results = {isa: _run(isa) for isa in isas}
    failures = [failure for _, found in results.values() for failure in found]
    failures += _compare({isa: values for isa, (values, _) in results.items()}, {f.isa for f in failures})
    wrong = [isa for isa in isas if any(f.isa == isa for f in failures)]
    # With nothing left that is right there is nothing to change to.
    dropped = [isa for isa in wrong if len(wrong) < len(isas) and _core.drop_isa(isa)]
    report = SelfTest(isas, failures, dropped, time.perf_counter() - started, config)
    if failures:
        now = f"{runtime.current_isa()} is used now" if dropped else "there is no other to use: do not trust results"
        first = failures[0]
        warnings.warn(
            f"fastfc: on this machine ({config['cpu']}) the kernels of {', '.join(wrong)} compute wrong results; "
            f"{now}. Weights that were packed before must be packed again. Please report it to fastfc's authors with "
            "the output of `python -m fastfc selftest`. "
            f"First failure: {first.isa}, {first.check}, {first.dtype}: {first.detail}",
            RuntimeWarning,
            stacklevel=2,
        )
    return report


# ---- Running and comparing ------------------------------------------------------------------------------------------

_CHECKS = []


def _check(function):
    """Enters a check: a generator of (what, got, expected) for one dtype, in the same order on every target. Where
    `expected` is None, `got` is compared with what the other targets have."""
    _CHECKS.append(function)
    return function


def _run(isa):
    """({(check, dtype, what): result to compare}, failures) of one target."""
    values, failures = {}, []
    _core.select_isa_here(isa)
    try:
        for check in _CHECKS:
            for dtype in ("float32", "float64"):
                name = check.__name__.strip("_")
                try:
                    with np.errstate(all="ignore"):
                        for what, got, expected in check(np.dtype(dtype)):
                            got = np.asarray(got)
                            if expected is None:
                                values[name, dtype, what] = got
                                continue
                            detail = _difference(got, np.asarray(expected, got.dtype))
                            if detail:
                                failures.append(Failure(isa, name, dtype, f"{what}: {detail}"))
                except MemoryError:
                    raise
                except Exception as error:
                    failures.append(Failure(isa, name, dtype, f"{type(error).__name__}: {error}"))
    finally:
        _core.select_isa_here(None)
    return values, failures


def _compare(results, suspects):
    """Failures of targets that disagree with the definition: `scalar`, or the first with FMA that was right so far."""
    isas = [isa for isa in ("scalar", *results) if isa not in suspects and isa != "baseline"]
    if not isas:
        return []
    definition, failures = isas[0], []
    for isa, values in results.items():
        for (name, dtype, what), got in values.items():
            expected = results[definition].get((name, dtype, what))
            if expected is None:
                continue
            detail = _difference(got, expected, _NEAR[dtype] if isa == "baseline" else 0.0)
            if detail:
                failures.append(Failure(isa, name, dtype, f"{what}: not as {definition} has it: {detail}"))
    return failures


def _difference(got, expected, near=0.0):
    """What is wrong with `got`, or "" if it has the bits of `expected` (near: is within so much of the largest)."""
    if got.shape != expected.shape:
        return f"shape {got.shape} instead of {expected.shape}"
    with np.errstate(all="ignore"):
        same = (got == expected) & (np.signbit(got) == np.signbit(expected))
        same |= np.isnan(got) & np.isnan(expected)
        if near:
            finite = np.abs(expected[np.isfinite(expected)])
            same |= np.abs(got - expected) <= near * max(finite.max(initial=0), np.finfo(got.dtype).tiny)
    if same.all():
        return ""
    place = tuple(int(i) for i in np.argwhere(~same)[0])
    return f"{(~same).sum()} of {same.size} elements; {got[place]!r} at {place} should be {expected[place]!r}"


def _integers(seed, *shape):
    return np.random.default_rng(seed).integers(-8, 9, shape)


def _gaussian(seed, shape, dtype):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ---- The checks: each goes through the kernels that its comment names ------------------------------------------------

# Edges of tiles, panels and numeric blocks.
_SHAPES = ((1, 1, 1), (3, 75, 20), (7, 64, 193), (14, 131, 60), (64, 3, 385), (40, 2, 1024), (1, 1, 3100))


@_check
def _dense(dtype):  # gemm, few, dots, pack
    for m, n, k in _SHAPES:
        xi, wi, bi, ri = _integers(1, m, k), _integers(2, n, k), _integers(3, n), _integers(4, m, n)
        x, w, b, r = (a.astype(dtype) for a in (xi, wi, bi, ri))
        exact = xi @ wi.T + bi + ri
        packed = pack(w)
        for what, weight in (("packed", packed), ("not packed", w), ("transposed", np.asfortranarray(w))):
            got, z = linear(x, weight, b, residual=r, activation="relu", return_preactivation=True)
            yield f"{what} {(m, n, k)}", got, np.maximum(exact, 0)
            yield f"{what} {(m, n, k)}, before the activation", z, exact
        yield f"unpack {(n, k)}", packed.unpack(), w
    for m, n, k in ((30, 75, 400), (200, 4, 200), (40, 2, 1024)):
        x, w, b = _gaussian(1, (m, k), dtype), _gaussian(2, (n, k), dtype), _gaussian(3, n, dtype)
        packed = pack(w)
        y = linear(x, packed, b, activation="gelu")
        yield f"random {(m, n, k)}", y, None
        yield f"not packed, random {(m, n, k)}", linear(x, w, b, activation="gelu"), y
        rows = np.concatenate([linear(x[i : i + 1], packed, b, activation="gelu") for i in range(m)])
        yield f"row by row, random {(m, n, k)}", rows, y
        rows = np.concatenate([linear(x[i : i + 4], w, b, activation="gelu") for i in range(0, m, 4)])
        yield f"4 rows at a time, not packed, random {(m, n, k)}", rows, y


@_check
def _threads(dtype):  # gemm on several threads
    x, w = _gaussian(1, (70, 400), dtype), _gaussian(2, (330, 400), dtype)
    packed = pack(w)
    y = linear(x, packed, threads=1)
    yield "several threads", linear(x, packed, threads=4), y
    yield "several threads, not packed", linear(x, w, threads=4), y


@_check
def _gradients(dtype):  # gemm, column_sum, activation_grad
    for m, n, k in ((1, 1, 1), (20, 75, 35), (200, 70, 20)):
        gi, xi, wi, zi = _integers(1, m, n), _integers(2, m, k), _integers(3, n, k), _integers(4, m, n)
        g, x, w, z = (a.astype(dtype) for a in (gi, xi, wi, zi))
        gi = np.where(zi > 0, gi, 0)
        got = linear_backward(g, x, w, activation="relu", preactivation=z)
        for what, one, exact in zip(("x", "weight", "bias"), got, (gi @ wi, gi.T @ xi, gi.sum(0)), strict=True):
            yield f"of {what} {(m, n, k)}", one, exact
    g, x, w = _gaussian(1, (200, 40), dtype), _gaussian(2, (200, 30), dtype), _gaussian(3, (40, 30), dtype)
    got = linear_backward(g, x, w, activation="silu", preactivation=g)
    for what, one in zip(("x", "weight", "bias"), got, strict=True):
        yield f"of {what}, random", one, None


@_check
def _sparse(dtype):  # spmm, sddmm, finish, pack, column_sum
    m, n, k = 21, 75, 40
    wi = np.where(np.random.default_rng(1).random((n, k)) < 0.3, _integers(2, n, k), 0)
    rows, cols = np.nonzero(wi)
    csr = CSR(wi[rows, cols].astype(dtype), cols, np.searchsorted(rows, np.arange(n + 1)), (n, k))
    xi, bi, ri, gi, vi = _integers(3, m, k), _integers(4, n), _integers(5, m, n), _integers(6, m, n), _integers(7, m, k)
    x, b, r, g, v = (a.astype(dtype) for a in (xi, bi, ri, gi, vi))
    yield "sparse weight", linear(x, csr, b, residual=r, activation="relu"), np.maximum(xi @ wi.T + bi + ri, 0)
    yield "sparse x", linear(csr, v), wi @ vi.T
    yield "sparse x, packed", linear(csr, pack(v)), wi @ vi.T
    gx, gv, gb = linear_backward(g, x, csr)
    yield "gradient of x", gx, gi @ wi
    yield "gradient of the entries", gv, (gi.T @ xi)[rows, cols]
    yield "gradient of bias", gb, gi.sum(0)
    yield "gradient of a weight of sparse x", linear_backward(g.T.copy(), csr, v)[1], gi @ wi
    x, g = _gaussian(8, (200, k), dtype), _gaussian(9, (200, n), dtype)
    yield "random", linear(x, csr, activation="silu"), None
    yield "row by row, random", np.concatenate([linear(row[None], csr, activation="silu") for row in x]), linear(
        x, csr, activation="silu"
    )
    yield "gradient of the entries, random", linear_backward(g, x, csr)[1], None


@_check
def _sparse_packed(dtype):  # tiled, tiled_grad, spmm_t
    m, n, k = 21, 75, 400
    wi = np.where(np.random.default_rng(1).random((n, k)) < 0.3, _integers(2, n, k), 0)
    rows, cols = np.nonzero(wi)
    csr = CSR(wi[rows, cols].astype(dtype), cols, np.searchsorted(rows, np.arange(n + 1)), (n, k))
    xi, bi, gi = _integers(3, m, k), _integers(4, n), _integers(6, m, n)
    x, b, g = (a.astype(dtype) for a in (xi, bi, gi))
    packed, trained = pack(csr), PackedCSR(csr.data, (csr.indices, csr.indptr, csr.shape))
    yield "forward", linear(x, packed, b, activation="relu"), np.maximum(xi @ wi.T + bi, 0)
    yield "unpack", packed.unpack().data, csr.data
    gx, gv, _ = linear_backward(g, x, trained)
    yield "gradient of x", gx, gi @ wi
    yield "gradient of the entries", gv, (gi.T @ xi)[rows, cols]
    yield "dense by sparse", sparse_matmul(g, csr), gi @ wi
    x, g = _gaussian(8, (200, k), dtype), _gaussian(9, (200, n), dtype)
    y = linear(x, packed, activation="silu")
    yield "random", y, None
    yield "row by row, random", np.concatenate([linear(row[None], packed, activation="silu") for row in x]), y
    gx, gv, _ = linear_backward(g, x, trained)
    yield "gradient of x, random", gx, None
    yield "gradient of the entries, random", gv, None
    yield "dense by sparse, random", sparse_matmul(g, csr), None


def _row_by_row(name, x, packed):
    y = linear(x, packed, activation="silu")
    yield name, y, None
    yield f"{name}, row by row", np.concatenate([linear(row[None], packed, activation="silu") for row in x]), y


@_check
def _many_inputs(dtype):  # panels_turned: entries so far apart that every target turns x
    m, n, k = 47, 32, 40_000
    random = np.random.default_rng(1)
    columns = np.sort(random.choice(k, 450, replace=False))
    wi, xi = _integers(2, n, len(columns)), _integers(3, m, len(columns))
    w, x = np.zeros((n, k), dtype), np.zeros((m, k), dtype)
    w[:, columns], x[:, columns] = wi, xi
    packed = pack(w, format="16x1")
    yield "16x1, many inputs", linear(x, packed), xi @ wi.T
    w[:, columns], x[:, columns] = _gaussian(6, wi.shape, dtype), _gaussian(7, xi.shape, dtype)
    yield from _row_by_row("16x1, many inputs, random", x, pack(w, format="16x1"))


@_check
def _sparse_blocks(dtype):  # panels, quads, across
    m, n, k = 21, 75, 800
    random = np.random.default_rng(1)
    panels = np.repeat(random.random((-(-n // 16), k)) < 0.4, 16, axis=0)[:n]
    across = np.repeat(random.random((n, k // 16)) < 0.4, 16, axis=1)
    quads = (np.argsort(random.random((n, k // 4, 4)), axis=2) < 2).reshape(n, k)
    for form, mask in (("16x1", panels), ("1x16", across), ("2:4", quads), ("1:4", quads & (np.arange(k) % 2 > 0))):
        wi = np.where(mask, _integers(2, n, k), 0)
        if form == "1:4":
            wi[:, 3::4] = np.where(wi[:, 1::4], 0, wi[:, 3::4])
        xi, bi, ri = _integers(3, m, k), _integers(4, n), _integers(5, m, n)
        x, b, r, w = (a.astype(dtype) for a in (xi, bi, ri, wi))
        packed = pack(w, format=form)
        yield f"{form}", linear(x, packed, b, residual=r, activation="relu"), np.maximum(xi @ wi.T + bi + ri, 0)
        packed = pack(np.where(wi, _gaussian(6, (n, k), dtype), dtype.type(0)), format=form)
        yield from _row_by_row(f"{form}, random", _gaussian(7, (m, k), dtype), packed)


@_check
def _activations(dtype):  # finish, activation_grad, gate, gate_grad
    info = np.finfo(dtype)
    specials = [0.0, -0.0, info.smallest_subnormal, -info.tiny, info.max, -info.max, np.inf, -np.inf, np.nan]
    x = np.concatenate([np.linspace(-30, 30, 2003), specials]).astype(dtype)
    grad, factor = _gaussian(1, x.shape, dtype), _gaussian(2, x.shape, dtype)
    for name in filter(None, _core.ACTIVATIONS):
        number, parameter = _core.ACTIVATIONS[name]
        out = [np.full_like(x, np.nan) for _ in range(5)]
        _core.activation_forward(x, out[0], number, parameter, 1)
        _core.activation_backward(grad, x, out[1], number, parameter, 1)
        _core.gate_forward(x, factor, out[2], number, parameter, 1)
        _core.gate_backward(grad, x, factor, out[3], out[4], number, parameter, 1)
        for what, one in zip(("", " gradient", " gate", " gate's gradient", " its factor's"), out, strict=True):
            yield name + what, one, None
    zi, gi, fi = _integers(3, 1003), _integers(4, 1003), _integers(5, 1003)
    z, g, f = (a.astype(dtype) for a in (zi, gi, fi))
    number, parameter = _core.ACTIVATIONS["relu"]
    h, dz, df = (np.full_like(z, np.nan) for _ in range(3))
    _core.gate_forward(z, f, h, number, parameter, 1)
    _core.gate_backward(g, z, f, dz, df, number, parameter, 1)
    yield "gate of integers", h + 0, np.maximum(zi, 0) * fi
    yield "gate's gradient of integers", dz + 0, np.where(zi > 0, gi * fi, 0)
    yield "its factor's, of integers", df + 0, gi * np.maximum(zi, 0)


@_check
def _norms(dtype):  # norm, norm_grad
    # Rows of ±2^j: mean 0, deviation 2^j, so that all is exact.
    m, n = 19, 64
    signs = np.where(np.random.default_rng(1).permuted(np.tile(np.arange(n) % 2, (m, 1)), axis=1), 1, -1)
    x = (signs * 2.0 ** (np.arange(m)[:, None] % 5)).astype(dtype)
    gamma, beta, gi = _integers(2, n), _integers(3, n), _integers(4, m, n)
    g = gi.astype(dtype)
    for center in (True, False):
        shift = beta.astype(dtype) if center else None
        y, mean, rstd, _ = _core.norm(x, (n,), gamma.astype(dtype), shift, center, 0.0, True)
        yield f"forward, center={center}", y + 0, signs * gamma + center * beta + 0
        gx, to_gamma, to_beta = _core.norm_backward(g, x, n, gamma.astype(dtype), mean, rstd, True, True, True)
        h = (gi * gamma).astype(np.float64)
        exact = h - signs * (h * signs).mean(1, keepdims=True) - center * h.mean(1, keepdims=True)
        yield f"gradient, center={center}", gx + 0, exact * 0.5 ** (np.arange(m)[:, None] % 5) + 0
        yield f"gradient of gamma, center={center}", to_gamma + 0, (gi * signs).sum(0)
        yield f"gradient of beta, center={center}", to_beta + 0, gi.sum(0)
        x2, g2 = _gaussian(5, (33, 75), dtype), _gaussian(6, (33, 75), dtype)
        y, mean, rstd, _ = _core.norm(x2, (75,), None, None, center, 1e-5, True)
        yield f"random, center={center}", y, None
        yield f"gradient, random, center={center}", _core.norm_backward(
            g2, x2, 75, None, mean, rstd, True, False, False
        )[0], None


@_check
def _losses(dtype):  # cross_entropy, pointwise_loss
    m, n = 21, 64
    labels = np.random.default_rng(1).integers(0, n, m)
    _, backward = CrossEntropyLoss(reduction="sum").vjp(np.zeros((m, n), dtype), labels)
    yield "gradient of cross-entropy", backward(), 1 / n - (np.arange(n) == labels[:, None])
    value, backward = CrossEntropyLoss(label_smoothing=0.1).vjp(_gaussian(2, (m, 75), dtype), labels)
    yield "cross-entropy, random", np.asarray(value, dtype), None
    yield "gradient of cross-entropy, random", backward(), None
    xi, ti = _integers(3, 5, 203), _integers(4, 5, 203)
    x, t = xi.astype(dtype), ti.astype(dtype)
    for loss, total, slope in ((MSELoss, (xi - ti) ** 2, 2 * (xi - ti)), (L1Loss, abs(xi - ti), np.sign(xi - ti))):
        value, backward = loss(reduction="sum").vjp(x, t)
        yield loss.__name__, np.asarray(value), total.sum()
        yield f"gradient of {loss.__name__}", backward() + 0, slope
    value, backward = BCEWithLogitsLoss().vjp(x, (t > 0).astype(dtype))
    yield "BCEWithLogitsLoss", np.asarray(value, dtype), None
    yield "gradient of BCEWithLogitsLoss", backward(), None


@_check
def _optimizers(dtype):  # update, square_sum
    wi, gi = _integers(1, 1003), _integers(2, 1003)
    weight = Parameter(wi.astype(dtype))
    weight.grad = gi.astype(dtype)
    SGD([weight], lr=0.5).step()
    yield "SGD", weight.data + 0, wi - 0.5 * gi
    yield "sum of squares", _core.square_sum([wi.astype(dtype), gi.astype(dtype)], 0.5), ((wi**2 + gi**2).sum()) / 4
    yield "sum of squares, random", _core.square_sum([_gaussian(4, 1003, dtype)], 0.3), None
    for optimizer in (SGD, Adam, Adagrad, RMSprop):
        weight = Parameter(_gaussian(3, 1003, dtype))
        options = {"momentum": 0.9, "nesterov": True} if optimizer is SGD else {}
        steps = optimizer([weight], lr=0.01, weight_decay=0.01, **options)
        for seed in range(3):
            weight.grad = _gaussian(seed, 1003, dtype)
            steps.step()
        yield optimizer.__name__, weight.data, None


@_check
def _dropout(dtype):  # dropout
    x = _integers(1, 1003).astype(dtype)
    y = _core.dropout(x, 0.5, 7, 11)
    yield "kept elements", np.where(y == 0, x, y / 2), x
    yield "half of them", bool(400 < ((y == 0) & (x != 0)).sum() < 560), True
    yield "which are kept", y, None


@_check
def _probes(dtype):  # probe
    yield "rate of FMA", bool(0 < _core.probe_fma(dtype.char, 0.0, 1, window=1e-4) < np.inf), True
    buffer = np.ones(1 << 14, np.float32)
    yield "rate of reading", bool(0 < _core.probe_read(buffer, 0.0, 1, window=1e-4) < np.inf), True
