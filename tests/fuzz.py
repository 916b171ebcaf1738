"""Fuzzed calls of the public functions: random shapes, strides, dtypes, values, options, and malformed arguments.

    python fuzz.py --calls 1000000 --seed 0        # in pieces, each in a process of its own; says what it finds
    python fuzz.py --seed 0 --case 4711            # one case again, in this process

Each case makes one call's arguments from its seed and number alone, and holds the call to this:

- The process lives, and its memory does not grow.
- A sound call gives the right result: products bit for bit what canonical.c says (on `baseline` within the derived
  bound), everything else what numpy gives in float64, or its gradient by finite differences. Inputs stay as they were.
- A call with one malformed argument raises ValueError or TypeError with that argument's name, and has written nothing.
- A call of anything public with arguments at random returns, or raises ValueError or TypeError.

A new public function gets a line in TARGETS or is found by `anything` on its own; `test_fuzz.py` runs a short piece.
"""

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import inspect
import io
import math
import os
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zipfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # `python -I` leaves it out

import numpy as np
import reference
from canonical import Canonical
from layouts import INPUTS, OUTPUTS, output
from samples import FMA_ISAS, gaussian, integers, random_csr, wild

import fastfc
from fastfc import _core

ISAS = fastfc.available_isas()
ACTIVATIONS = [
    None,
    "relu",
    "leaky_relu",
    "elu",
    "gelu",
    "gelu_tanh",
    "silu",
    "sigmoid",
    "tanh",
    "softplus",
    "hardswish",
    ("leaky_relu", 0.2),
    ("elu", 0.5),
    ("softplus", 2.0),
]
LAYOUTS = [name for name in INPUTS if name != "mapped"]  # which needs a file for each array
REFUSALS = (ValueError, TypeError)


class Wrong(AssertionError):
    """What a call did and should not have done."""


class Case:
    """A case's source of chance, and how it makes what calls are made of."""

    def __init__(self, seed, number):
        self.rng = rng = np.random.default_rng([seed, number])
        self.dtype = np.dtype(np.float32 if rng.random() < 0.7 else np.float64)
        self.isa = ISAS[0] if rng.random() < 0.6 else self.pick(ISAS)
        self.values = self.pick((gaussian, gaussian, integers, wild, special))
        self.before = []

    def pick(self, choices):
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, p):
        return bool(self.rng.random() < p)

    def size(self, most=40):
        """0 and 1 often, small mostly, past a numeric block now and then."""
        draw = self.rng.random()
        if draw < 0.12:
            return int(self.rng.integers(2))
        return int(self.rng.integers(most)) if draw < 0.95 else int(self.rng.integers(6 * most))

    def array(self, shape, dtype=None, layout=None):
        a = self.values(self.rng, shape, dtype or self.dtype)
        return self.laid_out(a, layout)

    def laid_out(self, a, layout=None):
        if layout is None and self.chance(0.4):
            layout = "c"
        a = INPUTS[layout or self.pick(LAYOUTS)](a)
        self.before.append((a, a.tobytes()))
        return a

    def leading(self, rows=None):
        """Leading axes; all in all not many rows."""
        draw = self.rng.random()
        if draw < 0.6:
            return (self.size() if rows is None else rows,)
        return () if draw < 0.7 else tuple(int(d) for d in self.rng.integers(0, 5, 1 + self.rng.integers(3)))

    def unchanged(self, but=()):
        for a, bytes_before in self.before:
            if not any(a is other for other in but) and a.tobytes() != bytes_before:
                raise Wrong("an input has been changed")

    def csr(self, rows, cols):
        """A CSR, or what looks like scipy's; and its parts."""
        parts = random_csr(
            self.rng,
            (rows, cols),
            self.dtype,
            float(self.rng.random()),
            values=self.values,
            index=self.pick((np.int32, np.int64)),
            repeats=self.chance(0.5),
            capacity=self.size(3),
        )
        return (fastfc.CSR if self.chance(0.5) else Scipy)(*parts), parts


class Scipy:
    """What fastfc asks of a matrix of scipy."""

    format = "csr"

    def __init__(self, data, indices, indptr, shape):
        self.data, self.indices, self.indptr, self.shape = data, indices, indptr, shape

    dtype = property(lambda self: self.data.dtype)

    def tocsr(self):
        return self


def special(rng, shape, dtype):
    return wild(rng, shape, dtype, 0.02)


# ---- Malformed arguments --------------------------------------------------------------------------------------------


def no_array(c, _):
    return c.pick((None, "x", 3, 1.5, [[1.0]], (), {}, object(), b"x", np.float32(1), range(3), np.ma, type))


def bad_dtype(c, a):
    kind = c.pick((np.int32, np.int64, np.float16, np.longdouble, np.complex64, object, bool, "swapped", "U3", "M8[s]"))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "swapped":
            return a.astype(a.dtype.newbyteorder())
        return np.zeros(a.shape, kind) if kind in ("M8[s]", "U3") else np.nan_to_num(a).astype(kind)


def other_float(c, a):
    return a.astype(np.float64 if a.dtype == np.float32 else np.float32)


def longer(c, a):
    """One more (or fewer) in an axis."""
    axis = int(c.rng.integers(a.ndim))
    shape = list(a.shape)
    shape[axis] += 1 if shape[axis] == 0 or c.chance(0.5) else -1
    return np.zeros(shape, a.dtype)


def last_longer(c, a):
    shape = (*a.shape[:-1], a.shape[-1] + (1 if a.shape[-1] == 0 or c.chance(0.5) else -1))
    return np.zeros(shape, a.dtype)


def more_axes(c, a):
    return a[None] if c.chance(0.5) or a.ndim == 0 else np.zeros(a.shape[1:], a.dtype)


def no_axes(c, a):
    return np.zeros((), a.dtype)


def read_only(c, a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def itself(c, a):
    """One that lies on itself; only where it can."""
    if not a.ndim or a.shape[0] < 2 or not a.size:
        return read_only(c, a)
    plain = np.zeros(a.shape, a.dtype)
    return np.lib.stride_tricks.as_strided(plain, a.shape, (0, *plain.strides[1:]))


ARRAY = (no_array, bad_dtype)
FLAG = (lambda c, v: c.pick((1, 0, None, "yes", 0.0, [])),)
THREADS = (lambda c, v: c.pick((0, -1, -(2**70), 1.5, "2", True, [], float("nan"), np.float32(2), b"1", {})),)
ACTIVATION = (
    lambda c, v: c.pick(
        (
            "rely",
            "ReLU",
            "",
            3,
            ["relu"],
            ("relu", 1.0),
            ("leaky_relu", "a"),
            ("leaky_relu", float("nan")),
            ("softplus", -1.0),
            ("softplus", 0),
            ("elu", float("inf")),
            ("elu", 1.0, 2),
            (),
            b"relu",
            abs,
            {},
            ("elu", True),
            ("elu", None),
            np.zeros(2),
            ("gelu", 1.0),
            (1, 2),
        )
    ),
)


def bad_csr(c, given):
    """A structure that lies, as scipy's class lets it pass; or a matrix in another form."""
    data, indices, indptr, (rows, cols) = (
        np.array(given.data),
        np.array(given.indices),
        np.array(given.indptr),
        given.shape,
    )
    kind = c.pick(
        ("start", "falls", "overruns", "high", "negative", "length", "rows", "dtype", "floats", "format", "axes")
    )
    nnz = int(indptr[-1])
    if kind in ("high", "negative") and not nnz or kind == "falls" and not (rows > 1 and nnz):
        kind = "rows"
    if kind == "start":
        indptr[0] = c.pick((1, -1, 7))
    elif kind == "falls":
        indptr[c.rng.integers(1, rows)] = nnz + 1 if c.chance(0.5) else -1
    elif kind == "overruns":
        indptr[-1] = len(indices) + c.pick((1, 5, 2**30))
    elif kind == "high":
        indices[c.rng.integers(nnz)] = cols + c.pick((0, 1, 2**30))
    elif kind == "negative":
        indices[c.rng.integers(nnz)] = -c.pick((1, 2, 2**31 - 1))
    elif kind == "length":
        data = data[:-1] if len(data) else np.zeros(1, data.dtype)
    elif kind == "rows":
        indptr = np.append(indptr, indptr[-1])
    elif kind == "dtype":
        data = data.astype(c.pick((np.int32, np.float16, object, np.complex64)))
    elif kind == "floats":
        indices = indices.astype(np.float32) if len(indices) else indices.astype(np.float32)
    elif kind == "axes":
        data = data[None]
    out = Scipy(data, indices, indptr, (rows, cols))
    if kind == "format":
        out.format = c.pick(("coo", "csc", "bsr", None, 3))
    return out


# ---- Products -------------------------------------------------------------------------------------------------------


def operands(c):
    """(x, weight, their parts where sparse, m or leading axes, n, k): of each kind."""
    n, k = c.size(), c.size(60)
    kind = c.pick(("dense", "dense", "packed", "csr weight", "csr x"))
    leading = (c.size(),) if kind == "csr x" else c.leading()
    parts = None
    if kind == "csr x":
        x, parts = c.csr(leading[0], k)
        weight = c.array((n, k))
        if c.chance(0.3):
            weight = fastfc.pack(weight)
    else:
        x = c.array((*leading, k))
        if kind == "csr weight":
            weight, parts = c.csr(n, k)
        else:
            weight = c.array((n, k))
            if kind == "packed":
                weight = fastfc.pack(weight)
    return kind, x, weight, parts, leading, n, k


def dense_of(weight):
    return weight.unpack() if isinstance(weight, fastfc.PackedWeight) else weight


def malformed_operands(kind, x, weight):
    bad_x = (bad_csr,) if kind == "csr x" else (*ARRAY, last_longer, other_float, no_axes)
    if kind == "csr weight":
        bad_w = (bad_csr,)
    elif isinstance(weight, fastfc.PackedWeight):
        bad_w = (
            no_array,
            lambda c, w: fastfc.pack(np.zeros((w.shape[0], w.shape[1] + 1), w.dtype)),
            lambda c, w: fastfc.pack(other_float(c, w.unpack())),
        )
    else:
        bad_w = (*ARRAY, last_longer, other_float, more_axes, no_axes)
    return {"x": bad_x, "weight": bad_w}


def linear(c):
    kind, x, weight, parts, leading, n, k = operands(c)
    shape = (*leading, n)
    arguments = {"x": x, "weight": weight}
    if c.chance(0.6):
        arguments["bias"] = c.array((n,))
    if c.chance(0.3):
        arguments["residual"] = c.array(shape)
    if c.chance(0.6):
        arguments["activation"] = c.pick(ACTIVATIONS)
    if c.chance(0.3):
        arguments["out"] = output(c.pick(list(OUTPUTS)), shape, c.dtype)
    if c.chance(0.3):
        arguments["threads"] = c.pick((1, 2, 3, 8, None, np.int64(2), 5000))
    if c.chance(0.3):
        arguments["return_preactivation"] = c.chance(0.7)

    def check(result):
        y, z = result if arguments.get("return_preactivation") else (result, None)
        expect(type(y) is np.ndarray or y is arguments.get("out"), f"y is a {type(y)}")
        expect(y.shape == shape and y.dtype == c.dtype, f"y is {y.dtype} {y.shape}, expected {c.dtype} {shape}")
        if "out" in arguments:
            expect(y is arguments["out"], "out is not what came back")
        activation, m = arguments.get("activation"), math.prod(leading)
        bias, residual = arguments.get("bias"), arguments.get("residual")
        residual = None if residual is None else np.array(residual).reshape(m, n)
        rows = x if kind == "csr x" else np.array(x).reshape(m, k)
        if c.isa in FMA_ISAS:
            gate = "relu" if activation == "relu" else None
            if kind == "csr x":
                one, raw = CANONICAL.linear_csr_x(parts, dense_of(weight), bias, residual, gate)
            elif kind == "csr weight":
                one, raw = CANONICAL.linear_csr_weight(rows, parts, bias, residual, gate)
            else:
                one, raw = CANONICAL.linear(rows, dense_of(weight), bias, residual, gate)
            same(z, raw, shape)
            if activation not in (None, "relu"):
                one = activated(activation, raw)
            same(y, one, shape)
        elif c.values in (gaussian, integers) and activation in (None, "relu") and "csr" not in kind:
            reference.assert_close(
                np.array(y).reshape(m, n),
                *reference.linear(rows, np.array(dense_of(weight)), bias, residual, activation),
            )

    malformed = malformed_operands(kind, x, weight)
    malformed |= {
        "bias": (*ARRAY[1:], longer, more_axes, other_float),
        "activation": ACTIVATION,
        "threads": THREADS,
        "residual": (bad_dtype, longer, more_axes, other_float),
        "return_preactivation": FLAG,
        "out": (bad_dtype, longer, more_axes, other_float, read_only, itself),
    }
    return fastfc.linear, arguments, malformed, check


def linear_backward(c):
    kind, x, weight, parts, leading, n, k = operands(c)
    weight = dense_of(weight)
    shape = (*leading, n)
    arguments = {"grad_y": c.array(shape), "x": x, "weight": weight}
    needs = ("x", "weight", "bias")
    if c.chance(0.5):
        arguments["activation"] = c.pick(ACTIVATIONS)
        arguments["preactivation"] = c.array(shape)
    if c.chance(0.4):
        needs = arguments["needs"] = tuple(need for need in needs if c.chance(0.6))
    if c.chance(0.2):
        arguments["threads"] = c.pick((1, 2, 3, None))
    wanted = [need in needs for need in ("x", "weight", "bias")]
    if kind == "csr x":
        wanted[0] = False
    shapes = ((*leading, k), (len(parts[0]),) if kind == "csr weight" else (n, k), (n,))
    accumulate = c.chance(0.3)
    olds = [None] * 3
    if accumulate or c.chance(0.3):
        arguments["out"] = tuple(
            output(c.pick(list(OUTPUTS)), s, c.dtype) if want and c.chance(0.7) else None
            for want, s in zip(wanted, shapes, strict=True)
        )
        for out in arguments["out"]:
            if out is not None and accumulate:
                out[...] = integers(c.rng, out.shape, c.dtype)
        olds = [None if out is None else np.array(out) for out in arguments["out"]]
    if accumulate:
        arguments["accumulate"] = True

    def check(result):
        grad = np.array(arguments["grad_y"]).reshape(-1 if n else math.prod(leading), n)
        activation = arguments.get("activation")
        gate = activation
        z = None
        if activation is not None:
            z = np.array(arguments["preactivation"]).reshape(grad.shape)
            if activation != "relu":
                grad, gate = gradient_of(activation, grad, z), None
        for g, want, s in zip(result, wanted, shapes, strict=True):
            expect((g is not None) == want, "gradients are there that are not needed, or the other way round")
            expect(g is None or g.shape == s and g.dtype == c.dtype, "a gradient has another shape or dtype")
        if c.isa not in FMA_ISAS:
            return
        rows = x if kind == "csr x" else np.array(x).reshape(len(grad), k)
        if kind == "csr x":
            expected = [None, *CANONICAL.backward_csr_x(grad, parts, z, gate)]
        elif kind == "csr weight":
            expected = list(CANONICAL.backward_csr_weight(grad, rows, parts, z, gate))
        else:
            expected = list(CANONICAL.backward(grad, rows, weight, z, gate))
        for i, (g, want) in enumerate(zip(result, expected, strict=True)):
            if g is None:
                continue
            if accumulate and i and olds[i] is not None:
                with np.errstate(all="ignore"):
                    want = want.reshape(g.shape) + olds[i]
                if kind == "csr weight" and i == 1:
                    want[int(parts[2][-1]) :] = olds[1][int(parts[2][-1]) :]
            elif kind == "csr weight" and i == 1:
                g, want = g[: int(parts[2][-1])], want[: int(parts[2][-1])]
            same(g, want, g.shape)

    malformed = malformed_operands(kind, x, weight)
    malformed |= {
        "grad_y": (*ARRAY, longer, more_axes, other_float),
        "threads": THREADS,
        "accumulate": FLAG,
        "activation": ACTIVATION,
        "preactivation": (no_array, bad_dtype, longer, other_float, more_axes),
        "needs": (
            lambda c, v: c.pick((("y",), "x", "weight", 3, None, ("x", "y"), (1,), ([],), {"x": 1}, ("x", ["y"]))),
        ),
        "out": (
            lambda c, v: c.pick(((None, None), (None,) * 4, 3, "abc", {}, [None])),
            lambda c, v: tuple("x" for _ in v),
        ),
    }
    if arguments.get("activation") is None:
        malformed.pop("preactivation")
    return fastfc.linear_backward, arguments, malformed, check


def activated(activation, x):
    name, *value = activation if isinstance(activation, tuple) else (activation,)
    return getattr(fastfc.activations, name)(x, *value)


def gradient_of(activation, grad, z):
    name, *value = activation if isinstance(activation, tuple) else (activation,)
    return getattr(fastfc.activations, name + "_grad")(grad, z, *value)


def pack(c):
    weight = c.array((c.size(), c.size(200)))

    def check(packed):
        same(packed.unpack(), weight, weight.shape)
        expect(packed.shape == weight.shape and packed.nbytes >= weight.nbytes, repr(packed))
        if c.chance(0.1):
            same(pickle.loads(pickle.dumps(packed)).unpack(), weight, weight.shape)

    return fastfc.pack, {"weight": weight}, {"weight": (*ARRAY, more_axes, no_axes)}, check


def bad_entries(c, given):
    """A structure that lies, in no other form: for what takes those too."""
    while True:
        out = bad_csr(c, given)
        if getattr(out, "format", None) == "csr":
            return out


def exact(parts):
    """The matrix in float64."""
    data, indices, indptr, shape = parts
    full = np.zeros(shape)
    for row in range(shape[0]):
        np.add.at(full[row], indices[indptr[row] : indptr[row + 1]], data[indptr[row] : indptr[row + 1]])
    return full


def same_as_its_csr(c, x, parts, packed, y):
    """y is x times the packed sparse weight, made of `parts`; so it is row by row, and from a copy."""
    m, n = y.shape
    if c.values is integers:
        same(y, (x.astype(float) @ exact(parts).T).astype(c.dtype) + 0, (m, n))
    for row in range(min(m, 3)):
        same(fastfc.linear(x[row : row + 1], packed), y[row : row + 1], (1, n))
    same(fastfc.linear(x, pickle.loads(pickle.dumps(packed))), y, (m, n))


def packed_sparse(c):
    n, k, m = c.size(100), c.size(100), c.size()
    given, parts = c.csr(n, k)
    x = c.array((m, k))
    threads = c.pick((1, 2, 3))

    def call(weight, x):
        return fastfc.pack(weight), fastfc.linear(x, fastfc.pack(weight), threads=threads)

    def check(result):
        packed, y = result
        expect(packed.shape == (n, k) and y.shape == (m, n), repr(packed))
        expect(packed.nnz == parts[2][-1] == packed.unpack().nnz, repr(packed))
        same_as_its_csr(c, x, parts, packed, y)

    return call, {"weight": given, "x": x}, {"weight": (bad_entries,), "x": (*ARRAY, last_longer, other_float)}, check


def packed_blocks(c):
    """A random structure in a layout of blocks, which are filled up, or refused."""
    format = c.pick(("16x1", "1x16", "2:4", "1:4"))
    n, k, m = c.size(100), c.size(20) * c.pick((4, 16, 16, 16, 1)), c.size()
    given, parts = c.csr(n, k)
    x = c.array((m, k))
    threads = c.pick((1, 2, 3))
    refused = False

    def call(weight, x):
        nonlocal refused
        try:
            packed = fastfc.pack(weight, format=format)
        except ValueError as error:
            if f"does not go into format {format!r}" not in str(error):
                raise
            refused = True
            packed = fastfc.pack(weight)
        return packed, fastfc.linear(x, packed, threads=threads)

    def check(result):
        packed, y = result
        expect(packed.shape == (n, k) and y.shape == (m, n) and (refused or packed.format == format), repr(packed))
        same_as_its_csr(c, x, parts, packed, y)

    return call, {"weight": given, "x": x}, {"weight": (bad_entries,), "x": (*ARRAY, last_longer, other_float)}, check


def sparse_product(c):
    m, k, n = c.size(), c.size(100), c.size()
    left = c.chance(0.5)
    given, parts = c.csr(*((m, k) if left else (k, n)))
    dense = c.array((k, n) if left else (m, k))
    a, b = (given, dense) if left else (dense, given)

    def check(y):
        if c.values is integers:
            full = exact(parts)
            same(y, (full @ dense if left else dense @ full).astype(c.dtype) + 0, (m, n))
        same(fastfc.sparse_matmul(a, b, threads=1), y, (m, n))

    malformed = {
        "a" if left else "b": (bad_entries,),
        "b" if left else "a": (bad_dtype, other_float, lambda c, a: a[None]),
    }
    return fastfc.sparse_matmul, {"a": a, "b": b, "threads": c.pick((1, 2, 3, None))}, malformed, check


def csr(c):
    _, (data, indices, indptr, shape) = c.csr(c.size(), c.size())

    def make(data, indices, indptr, shape):
        return fastfc.CSR(data, indices, indptr, shape)

    def check(made):
        expect(made.shape == shape and made.nnz == indptr[-1] and made.dtype == data.dtype, repr(made))

    arguments = {"data": data, "indices": indices, "indptr": indptr, "shape": shape}
    malformed = {
        "data": (lambda c, a: c.pick((None, "x", 3, {}, object(), a[None], np.append(a, 1), a.astype(np.int8)))),
        "indices": (
            lambda c, a: c.pick((None, "x", 3, {}, object(), a[None], np.append(a, 0), a + 0.5, a.astype(bool)[:0]))
        ),
        "indptr": (
            lambda c, a: c.pick(
                (None, "x", 3, {}, object(), a[None], np.append(a, a[-1:]), a + 1, a - 1, a + 0.5, a[:0])
            )
        ),
        "shape": (
            lambda c, s: c.pick(
                (
                    None,
                    3,
                    "ab",
                    (1,),
                    (1, 2, 3),
                    (-1, 2),
                    (1, -2),
                    ("a", 1),
                    (None, None),
                    (float("nan"), 1),
                    (float("inf"), 1),
                )
            )
        ),
    }
    malformed = {name: (maker,) for name, maker in malformed.items()}
    if not len(indices):
        malformed.pop("indices")  # an empty one of another dtype may pass
    return make, arguments, malformed, check


def activation(c):
    name = c.pick([name for name in ACTIVATIONS if isinstance(name, str)])
    grad = c.chance(0.5)
    x = c.array(c.leading() + (c.size(),))
    function = getattr(fastfc.activations, name + ("_grad" if grad else ""))
    arguments = {"grad_y": c.array(x.shape), "x": x} if grad else {"x": x}
    if c.chance(0.4):
        arguments["out"] = output(c.pick(list(OUTPUTS)), x.shape, c.dtype)
    if c.chance(0.2):
        arguments["threads"] = c.pick((1, 2, 3))
    parameter = {"leaky_relu": "slope", "elu": "alpha", "softplus": "beta"}.get(name)
    if parameter and c.chance(0.5):
        arguments[parameter] = c.pick((0.5, 1, 2.0, np.float32(0.25), 1e-3))

    def check(y):
        expect(y.shape == x.shape and y.dtype == x.dtype, "shape or dtype")
        flat = function(
            **{
                k: np.array(v, order="C") if isinstance(v, np.ndarray) else v
                for k, v in arguments.items()
                if k != "out"
            }
        )
        same(y, flat, x.shape)
        if name == "tanh" and not grad:
            with np.errstate(all="ignore"):
                expect(np.allclose(y, np.tanh(x.astype(np.float64)), 1e-5, 1e-30, equal_nan=True), "tanh")

    malformed = {
        "x": (*ARRAY, *((longer, other_float) if grad else ())),
        "threads": THREADS,
        "out": (bad_dtype, longer, other_float, read_only, itself),
    }
    if grad:
        malformed["grad_y"] = (*ARRAY, longer, other_float)
    if parameter:
        malformed[parameter] = (lambda c, v: c.pick((float("nan"), float("inf"), "a", True, [], {}, 1j, np.zeros(2))),)
    return function, arguments, malformed, check


# ---- Losses, layers, optimisers -------------------------------------------------------------------------------------


def loss(c):
    c.values = gaussian
    kind = c.pick(
        ("CrossEntropyLoss", "NLLLoss", "MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss", "BCEWithLogitsLoss")
    )
    reduction = c.pick(("mean", "sum", "none"))
    labels = kind in ("CrossEntropyLoss", "NLLLoss")
    rows, classes = c.size(), 1 + c.size()
    made = getattr(fastfc, kind)(reduction=reduction)
    shape = (rows, classes) if labels else c.leading() + (classes,)
    prediction = c.array(shape)
    target = (
        c.rng.integers(0, classes, rows).astype(c.pick((np.int16, np.int32, np.int64, np.uint16)))
        if labels
        else c.array(shape)
    )
    first = (
        "log_probs" if kind == "NLLLoss" else "logits" if kind in ("CrossEntropyLoss", "BCEWithLogitsLoss") else "pred"
    )

    def call(**given):
        return made.vjp(given[first], given["target"])

    def check(result):
        value, backward = result
        p, t = (np.asarray(a, np.float64 if a.dtype.kind == "f" else np.int64) for a in (prediction, target))
        with np.errstate(all="ignore"):
            if kind == "CrossEntropyLoss":
                shifted = p - p.max(1, keepdims=True)
                each = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(rows), t]
            elif kind == "NLLLoss":
                each = -p[np.arange(rows), t]
            elif kind == "MSELoss":
                each = (p - t) ** 2
            elif kind == "L1Loss":
                each = np.abs(p - t)
            elif kind == "BCEWithLogitsLoss":
                each = (1 - t) * np.logaddexp(0, p) + t * np.logaddexp(0, -p)
            else:
                d = np.abs(p - t)
                each = np.where(d <= 1, d * d / 2, d - 0.5)
            want = each if reduction == "none" else each.sum() if reduction == "sum" or not each.size else each.mean()
            if reduction == "mean" and not each.size:
                want = np.nan
        size = 1 + np.abs(each).sum()
        expect(np.allclose(value, want, 1e-4, 1e-5 * size, equal_nan=True), f"{kind}: {value} instead of {want}")
        g = backward(np.ones_like(value)) if reduction == "none" else backward()
        expect(g.shape == prediction.shape and g.dtype == prediction.dtype, "gradient")

    wrong_labels = (
        lambda c, a: c.pick(
            (
                a.astype(np.float32),
                a[None],
                np.append(a, 0),
                np.full(len(a) or 1, classes),
                np.full(len(a) or 1, -1),
                None,
                "x",
                {},
                a.astype(object),
            )
        ),
    )
    # Of two shapes that disagree, it is the target's that is wrong.
    wrong_last = (more_axes,) if labels else ()
    malformed = {first: (*ARRAY, *wrong_last), "target": wrong_labels if labels else (*ARRAY, longer, other_float)}
    return call, {first: prediction, "target": target}, malformed, check


def layers_of(c):
    """(layer, shape of x) of a kind at random; small."""
    n, k = 1 + c.size(12), 1 + c.size(12)
    act = c.pick(ACTIVATIONS)
    options = {"dtype": c.dtype, "rng": int(c.rng.integers(100))}
    kind = c.pick(
        (
            "Linear",
            "SparseLinear",
            "LowRankLinear",
            "GroupedLinear",
            "MaskedLinear",
            "LayerNorm",
            "RMSNorm",
            "Softmax",
            "LogSoftmax",
            "FeedForward",
            "Sequential",
            "Flatten",
            "GELU",
            "SeparableLinear",
        )
    )
    leading = c.leading()
    if kind == "Linear":
        return fastfc.Linear(k, n, c.chance(0.7), activation=act, **options), (*leading, k)
    if kind == "SparseLinear":
        return fastfc.SparseLinear(k, n, c.chance(0.7), sparsity=float(c.rng.random()), **options), (*leading, k)
    if kind == "LowRankLinear":
        return fastfc.LowRankLinear(k, n, rank=1 + int(c.rng.integers(min(n, k))), activation=act, **options), (
            *leading,
            k,
        )
    if kind == "GroupedLinear":
        return fastfc.GroupedLinear(2 * k, 2 * n, 2, activation=act, **options), (*leading, 2 * k)
    if kind == "SeparableLinear":
        return fastfc.SeparableLinear(2 * k, n, 2, **options), (*leading, 2 * k)
    if kind == "MaskedLinear":
        return fastfc.MaskedLinear(k, n, activation=act, **options), (*leading, k)
    if kind == "LayerNorm":
        return fastfc.LayerNorm(k, elementwise_affine=c.chance(0.7), dtype=c.dtype), (*leading, k)
    if kind == "RMSNorm":
        return fastfc.RMSNorm(k, elementwise_affine=c.chance(0.7), dtype=c.dtype), (*leading, k)
    if kind in ("Softmax", "LogSoftmax"):
        return getattr(fastfc, kind)(), (*leading, k)
    if kind == "FeedForward":
        return fastfc.FeedForward(k, n, 0.0, gated=c.chance(0.5), recompute=c.chance(0.3), **options), (*leading, k)
    if kind == "Flatten":
        return fastfc.Flatten(), (*leading, k, n)
    if kind == "GELU":
        return fastfc.GELU(), (*leading, k)
    hidden = 1 + c.size(12)
    middle = (c.pick((fastfc.ReLU, fastfc.Tanh, fastfc.SiLU))(),) if c.chance(0.8) else ()
    norm = (fastfc.LayerNorm(hidden, dtype=c.dtype),) if c.chance(0.4) else ()
    model = fastfc.Sequential(fastfc.Linear(k, hidden, **options), *middle, *norm, fastfc.Linear(hidden, n, **options))
    return model, (*leading, k)


def layer(c):
    c.values = gaussian
    made, shape = layers_of(c)
    x = c.array(shape)

    def call(x):
        return made.vjp(x)

    def check(result):
        y, backward = result
        expect(isinstance(y, np.ndarray) and y.dtype == c.dtype, f"y is a {type(y)}")
        same(made(x), y, y.shape)
        grad = c.array(y.shape, layout="c")
        gx = backward(grad)
        expect(gx.shape == x.shape and gx.dtype == x.dtype, "gradient of x")
        if c.dtype == np.float64 and x.size and not isinstance(made, fastfc.Flatten):
            along, h = gaussian(c.rng, x.shape, x.dtype), 1e-6
            slope = ((made(x + h * along) - made(x - h * along)) * grad).sum() / (2 * h)
            size = 1e-2 + np.abs(gx * along).sum()
            # A kink between the two points costs as much as it is steep.
            if abs(slope - (gx * along).sum()) > 1e-4 * size:
                one = ((made(x + h * along) - y) * grad).sum() / h
                other = ((y - made(x - h * along)) * grad).sum() / h
                expect(abs(one - other) > 1e-5 * size, f"{made}: slope {slope}, gradient {(gx * along).sum()}")
        made.eval()
        same(made(x), y, y.shape)
        made.train()
        same(made(x), y, y.shape)

    malformed = {"x": ARRAY}
    if not isinstance(made, (fastfc.Flatten, fastfc.Softmax, fastfc.LogSoftmax, fastfc.GELU)):
        malformed["x"] = (*ARRAY, last_longer, no_axes, other_float)
    elif isinstance(made, fastfc.Flatten):
        malformed["x"] = (lambda c, a: c.pick((None, "x", 3, {}, object())),)
    if isinstance(made, (fastfc.LayerNorm, fastfc.RMSNorm)) and made.weight is None:
        malformed["x"] = (*ARRAY, last_longer, no_axes)
    return call, {"x": x}, malformed, check


def embedding(c):
    rows, dim = 1 + c.size(), c.size(12)
    bag = c.chance(0.5)
    made = (
        fastfc.EmbeddingBag(rows, dim, mode=c.pick(("mean", "sum", "max")), dtype=c.dtype, rng=0)
        if bag
        else fastfc.Embedding(rows, dim, sparse=c.chance(0.5), dtype=c.dtype, rng=0)
    )
    shape = (c.size(8), c.size(8)) if bag else c.leading()
    x = c.rng.integers(0, rows, shape).astype(c.pick((np.int32, np.int64, np.uint8 if rows < 256 else np.int64)))

    def call(x):
        return made.vjp(x)

    def check(result):
        y, backward = result
        table = made.weight.data[np.asarray(x, np.int64)]
        if bag:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                want = (
                    {"mean": np.mean, "sum": np.sum, "max": np.max}[made.mode](table, 1)
                    if x.shape[1]
                    else np.zeros((x.shape[0], dim))
                )
            expect(np.allclose(y, want, 1e-4, 1e-5), "EmbeddingBag")
        else:
            same(y, table, table.shape)
        backward(np.ones_like(y))

    def bad(c, a):
        beyond = np.array(a, np.int64)
        if beyond.size:
            beyond.reshape(-1)[int(c.rng.integers(beyond.size))] = c.pick((rows, -1, 2**40, -(2**40)))
            return beyond
        return np.zeros(a.shape, np.float32)

    return (
        call,
        {"x": x},
        {"x": (bad, lambda c, a: c.pick((None, "x", 1.5, {}, np.zeros(3), np.zeros((2, 2), complex))))},
        check,
    )


def optimiser(c):
    c.values = gaussian
    kind = c.pick(("SGD", "Adam", "AdamW", "Adagrad", "RMSprop"))
    arrays = [c.array((c.size(), c.size()), layout="c").copy() for _ in range(1 + c.size(3))]
    arguments = {"lr": c.pick((0.1, 0.01, 0.0, 1, np.float32(0.5))), "weight_decay": c.pick((0.0, 0.1))}
    parameters = [fastfc.Parameter(a.copy()) for a in arrays]
    for p in parameters:
        p.grad = c.array(p.shape)
    state = {}

    def call(**options):
        state["opt"] = opt = getattr(fastfc.optim, kind)(parameters, **options)
        for _ in range(2):
            opt.step()
        return opt

    def check(opt):
        for p, before in zip(parameters, arrays, strict=True):
            expect(p.data.shape == before.shape and np.isfinite(p.data).all(), "a parameter is not finite")
            if kind == "SGD":
                lr, decay = (before.dtype.type(arguments[name]) for name in ("lr", "weight_decay"))
                want = before.astype(np.float64)
                for _ in range(2):
                    want = want - float(lr) * (p.grad + float(decay) * want)
                expect(np.allclose(p.data, want, 1e-5, 1e-5), "SGD")
        saved = opt.state_dict()
        opt.load_state_dict(saved)

    number = lambda c, v: c.pick((-1.0, float("nan"), "a", None, [], float("inf"), {}))  # noqa: E731
    return call, arguments, {"lr": (number,), "weight_decay": (number,)}, check


def clip(c):
    c.values = gaussian
    parameters = [fastfc.Parameter(np.zeros((c.size(), c.size()), c.dtype)) for _ in range(1 + c.size(3))]
    for p in parameters:
        p.grad = np.array(c.array(p.shape))
    grads = [p.grad.copy() for p in parameters]
    norm = c.chance(0.5)
    bound = c.pick((0.0, 0.5, 1, 100.0))
    name = "max_norm" if norm else "clip_value"

    def call(parameters, **options):
        return (fastfc.clip_grad_norm_ if norm else fastfc.clip_grad_value_)(parameters, options[name])

    def check(result):
        flat = np.concatenate([g.ravel() for g in grads]).astype(np.float64)
        if norm:
            total = math.sqrt((flat**2).sum())
            expect(math.isclose(result, total, rel_tol=1e-5, abs_tol=1e-30), f"norm {result}, expected {total}")
        for p, g in zip(parameters, grads, strict=True):
            if norm:
                factor = min(1.0, bound / (total + 1e-6))
                expect(np.allclose(p.grad, g * factor, 1e-4, 1e-6), "clip_grad_norm_")
            else:
                same(p.grad, np.clip(g, -c.dtype.type(bound), c.dtype.type(bound)), g.shape)

    bad = lambda c, v: c.pick((-1.0, float("nan"), "a", None, [], {}))  # noqa: E731
    wrong = lambda c, v: c.pick((3, None, [1], [None], ["a"], (np.zeros(2),), object()))  # noqa: E731
    return call, {"parameters": parameters, name: bound}, {name: (bad,), "parameters": (wrong,)}, check


def dropout(c):
    x = c.array(c.leading() + (c.size(),))
    p = c.pick((0, 0.0, 0.5, 1, 0.999))

    def call(x, p):
        return fastfc.Dropout(p, rng=3)(x)

    def check(y):
        kept = (y != 0) & np.isfinite(x)
        with np.errstate(all="ignore"):
            scaled = x / c.dtype.type(1 - p) if p < 1 else x
            expect(np.allclose(y[kept], scaled[kept], 1e-5, 1e-30, equal_nan=True), "Dropout")

    bad = lambda c, v: c.pick((-0.1, 1.1, float("nan"), "a", None, [], True, float("inf")))  # noqa: E731
    return call, {"x": x, "p": p}, {"x": ARRAY, "p": (bad,)}, check


def sparse_grad(c):
    rows, dim, n = 1 + c.size(), c.size(8), c.size()
    indices, values = c.rng.integers(0, rows, n), c.array((n, dim))
    c.values = integers

    def check(grad):
        want = np.zeros((rows, dim), c.dtype)
        with np.errstate(all="ignore"):
            np.add.at(want, indices, values)
        expect(
            np.allclose(grad.to_dense(), want, 1e-3, 1e-3, equal_nan=True)
            or not np.isfinite(want).all()
            or c.values is not integers,
            "to_dense",
        )

    malformed = {
        "indices": (lambda c, a: c.pick((None, "x", a[None], a + rows, -1 - a, a + 0.5, {})),),
        "values": (no_array, bad_dtype, longer, more_axes),
        "shape": (lambda c, s: c.pick((None, 3, (1,), (-1, dim), (rows, dim + 1), ("a", "b"), (rows, float("nan")))),),
    }
    if not n:
        malformed.pop("indices")
    return fastfc.SparseGrad, {"indices": indices, "values": values, "shape": (rows, dim)}, malformed, check


def initialiser(c):
    name = c.pick(
        (
            "uniform_",
            "normal_",
            "trunc_normal_",
            "kaiming_uniform_",
            "kaiming_normal_",
            "xavier_uniform_",
            "xavier_normal_",
            "zeros_",
            "ones_",
            "eye_",
            "orthogonal_",
            "sparse_",
        )
    )
    array = output(c.pick(list(OUTPUTS)), (1 + c.size(20), 1 + c.size(20)), c.dtype)
    arguments = {"array": array}
    if name == "sparse_":
        arguments["sparsity"] = 0.5
    if name not in ("zeros_", "ones_", "eye_"):
        arguments["rng"] = 0

    def check(result):
        expect(result is array and np.isfinite(array).all(), name)

    malformed = {
        "array": (no_array, bad_dtype, read_only),
        "rng": (lambda c, v: c.pick(("a", 1.5, [object()], -1, {})),),
        "sparsity": (lambda c, v: c.pick((-1, 2, float("nan"), "a", None)),),
    }
    return getattr(fastfc.init, name), arguments, malformed, check


def archive(c):
    """A file with bytes changed, cut or added, or with a header that lies."""
    suffix = c.pick((".npz", ".safetensors"))
    arrays = {f"a{i}": c.array((c.size(6), c.size(6)), layout="c") for i in range(c.size(4))}
    if suffix == ".npz":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as z:
            for name, a in arrays.items():
                member = io.BytesIO()
                np.save(member, a)
                z.writestr(name + ".npy", member.getvalue())
        raw = bytearray(file.getvalue())
    else:
        at, header = 0, {}
        for name, a in arrays.items():
            header[name] = {
                "dtype": "F32" if a.dtype == np.float32 else "F64",
                "shape": list(a.shape),
                "data_offsets": [at, at + a.nbytes],
            }
            at += a.nbytes
        text = repr(header).replace("'", '"').encode()
        raw = bytearray(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in arrays.values()))
    damage = c.pick((None, "bytes", "cut", "longer", "digit"))
    for _ in range(int(c.rng.integers(1, 4))):
        at = int(c.rng.integers(len(raw) + 1))
        if damage == "bytes":
            raw[at : at + 1] = bytes([int(c.rng.integers(256))])
        elif damage == "cut":
            del raw[at:]
        elif damage == "longer":
            raw[at:at] = bytes(int(c.rng.integers(40)))
        elif damage == "digit":
            places = [i for i, b in enumerate(raw[:400]) if 48 <= b < 58]
            if places:
                raw[c.pick(places)] = int(c.rng.integers(48, 58))
    path = good = os.path.join(FOLDER, "x" + suffix)
    with open(path, "wb") as file:
        file.write(raw)

    def call(path):
        try:
            return fastfc.load(path)
        except ValueError as error:
            if path != good:
                raise
            expect(damage is not None, f"a sound file is refused: {error}")
            expect(path in str(error), f"the message does not say which file: {error}")
            return None

    def check(state):
        if state is not None:
            expect(sum(a.nbytes for a in state.values()) <= 2 * len(raw), "more than the file holds")
            if damage is None:
                expect(state.keys() == arrays.keys(), "names")
                for name, a in arrays.items():
                    same(state[name], a, a.shape)

    return call, {"path": path}, {"path": (lambda c, v: c.pick((3.5, None, "x.pt", "", "x", [], {})),)}, check


def thread_counts(c):
    n = int(c.rng.integers(1, 9))

    def call(n):
        before = fastfc.get_num_threads()
        with fastfc.num_threads(n):
            now = fastfc.get_num_threads()
        expect(fastfc.get_num_threads() == before, "num_threads does not restore")
        return now

    return call, {"n": n}, {"n": THREADS}, lambda now: expect(now == n, f"{now} threads instead of {n}")


# ---- Anything at all ------------------------------------------------------------------------------------------------

#: Public things that are not called with arguments at random, and why.
NOT_AT_RANDOM = {
    "fit": "runs as long as it is told",
    "save": "writes where it is told",
    "checkpoint": "takes any module",
    "spectral_norm": "iterates as often as it is told",
    "Module": "a base",
    "History": "what fit returns",
    "NonFiniteLoss": "an exception",
    "LRScheduler": "a base",
    "Optimizer": "a base",
    "LambdaLR": "calls what it is given, whose errors are its own",
    "PackedWeight": "made by pack",
    "PackedSparse": "made by pack",
    "Report": "made by report",
    "report": "measures",
}


def public():
    found = {}
    for space in (fastfc, fastfc.optim, fastfc.init, fastfc.activations, fastfc.prune):
        for name in space.__all__:
            thing = getattr(space, name)
            if callable(thing) and name not in NOT_AT_RANDOM:
                found[f"{space.__name__}.{name}"] = thing
    return dict(sorted(found.items()))


def anything(c):
    name = c.pick(list(PUBLIC))
    function = PUBLIC[name]
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        parameters = []
    arguments = {}
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        if p.default is p.empty or c.chance(0.4):
            arguments[p.name] = some(c)
    labels = [p.name for p in parameters]
    call_too = c.chance(0.5)

    def call(**given):
        positional = [given.pop(p.name) for p in parameters if p.kind == p.POSITIONAL_ONLY and p.name in given]
        try:
            made = function(*positional, **given)
        except REFUSALS as error:
            text = str(error)
            if text in TOO_LARGE:
                return
            expect(
                any(re.search(rf"\b{label}", text) for label in labels) or not labels,
                f"{name}: the message names no argument: {type(error).__name__}: {text}",
            )
            return
        if call_too and isinstance(made, fastfc.Module):
            try:
                made(some(c))
            except REFUSALS:
                pass

    def quiet(**given):
        with contextlib.redirect_stdout(io.StringIO()):
            return call(**given)

    quiet.__name__ = name
    return quiet, arguments, {}, lambda result: None


#: What numpy says of a shape that no memory holds.
TOO_LARGE = (
    "Maximum allowed dimension exceeded",
    "array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum possible size.",
)


def some(c):
    """A value of any kind, of a size that does no harm."""
    return c.pick(SOME)(c)


SOME = [
    lambda c: c.array((c.size(5), c.size(5))),
    lambda c: c.array((c.size(6),)),
    lambda c: c.array((2, c.size(4), 3)),
    lambda c: np.zeros((), c.dtype),
    lambda c: c.rng.integers(-2, 6, c.size(6)),
    lambda c: np.zeros(3, c.pick(("?", "b", "h", "O", "S3", "U3", "F", "g", "M8[s]"))),
    lambda c: int(c.rng.integers(-3, 9)),
    lambda c: int(c.rng.integers(1, 5)),
    lambda c: float(c.rng.random()),
    lambda c: c.pick((float("nan"), float("inf"), -1.5, 1e300, 5e-324, 0.0)),
    lambda c: None,
    lambda c: c.chance(0.5),
    lambda c: c.pick(("", "relu", "mean", "sum", "none", "weight", "max", "fan_in", "tanh", "\0", "π")),
    lambda c: c.pick((b"", b"relu", [], {}, (), set(), object(), print, int, np, ..., 1j)),
    lambda c: [some(c) for _ in range(c.size(3))],
    lambda c: tuple(some(c) for _ in range(c.size(3))),
    lambda c: {c.pick(("params", "lr", "a")): some(c)},
    lambda c: c.csr(c.size(5), c.size(5))[0],
    lambda c: fastfc.pack(c.array((c.size(5), c.size(5)))),
    lambda c: fastfc.Parameter(np.zeros((2, 3), c.dtype)),
    lambda c: [fastfc.Parameter(np.zeros((c.size(3), 2), c.dtype))],
    lambda c: fastfc.Linear(3, 2, rng=0),
    lambda c: c.pick((np.float32, np.float64, "f4", "int8", np.dtype(object), "nonsense", ">f4")),
    lambda c: c.pick((2**62, -(2**62), 2**200, np.int8(3), np.uint64(2**63), np.float16(0.5), np.bool_(True))),
    lambda c: np.random.default_rng(0),
    lambda c: fastfc.optim.SGD([fastfc.Parameter(np.zeros(2, c.dtype))], 0.1),
    lambda c: (c.size(4), c.size(4)),
    lambda c: np.array([["a", None]], object),
    lambda c: lambda *a: 0.5,
]

#: Each with its weight.
TARGETS = {
    linear: 30,
    linear_backward: 20,
    pack: 4,
    csr: 6,
    packed_sparse: 6,
    packed_blocks: 6,
    sparse_product: 6,
    activation: 8,
    loss: 8,
    layer: 10,
    embedding: 4,
    optimiser: 3,
    clip: 3,
    dropout: 2,
    sparse_grad: 3,
    initialiser: 3,
    archive: 1,
    thread_counts: 1,
    anything: 20,
}
PUBLIC = public()
WEIGHTS = np.cumsum(list(TARGETS.values())) / sum(TARGETS.values())
NAMES = list(TARGETS)


# ---- A case ---------------------------------------------------------------------------------------------------------


def expect(condition, message):
    if not condition:
        raise Wrong(message)


def same(actual, expected, shape):
    if actual is None:
        return
    actual, expected = np.array(actual), np.asarray(expected)
    if actual.shape != tuple(shape):
        raise Wrong(f"shape {actual.shape}, expected {tuple(shape)}")
    reference.assert_same_bits(actual, expected.reshape(shape))


def run(seed, number, only=None):
    """The case's target; raises what is wrong."""
    c = Case(seed, number)
    target = NAMES[int(np.searchsorted(WEIGHTS, c.rng.random(), side="right"))]
    if only is not None:
        target = next(target for target in NAMES if target.__name__ == only)
    _core.select_isa(c.isa)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        one(c, target)
    return target.__name__


def one(c, target):
    try:
        call, arguments, malformed, check = target(c)
        bad = None
        candidates = [name for name in arguments if name in malformed]
        if candidates and c.chance(0.35):
            bad = c.pick(candidates)
            arguments = dict(arguments)
            arguments[bad] = c.pick(malformed[bad])(c, arguments[bad])
        attempt(c, call, arguments, bad, check)
    except Wrong as error:
        raise Wrong(f"{target.__name__}: {error}") from error


def attempt(c, call, arguments, bad, check):
    out = arguments.get("out")
    outs = [a for a in (out if isinstance(out, tuple) else (out,)) if isinstance(a, np.ndarray)]
    before = [a.tobytes() for a in outs]
    try:
        result = call(**arguments)
    except REFUSALS as error:
        if bad is None:
            raise Wrong(f"refused: {type(error).__name__}: {error}\n{describe(arguments)}") from error
        expect(
            re.search(rf"\b{bad}", str(error)),
            f"{bad} is malformed, the message does not name it: {type(error).__name__}: {error}\n{describe(arguments)}",
        )
        expect(all(a.tobytes() == b for a, b in zip(outs, before, strict=True)), f"out was written, then: {error}")
        c.unchanged()
        return
    except Wrong:
        raise
    except MemoryError:
        # Of a number that asks for more than there is.
        expect(call.__name__ in PUBLIC, "MemoryError")
        return
    except Exception as error:
        raise Wrong(f"{call.__name__}: {type(error).__name__}: {error}\n{describe(arguments)}") from error
    if bad is not None:
        raise Wrong(f"{bad} is malformed and was taken\n{describe(arguments)}")
    if call.__name__ not in PUBLIC:  # an initialiser, say, is there to change its array
        c.unchanged()
    try:
        check(result)
    except Wrong:
        raise
    except Exception as error:
        raise Wrong(f"{type(error).__name__}: {error}\n{describe(arguments)}") from error


def describe(arguments):
    def text(value):
        if isinstance(value, np.ndarray):
            return f"{value.dtype}{value.shape} strides {value.strides}"
        return repr(value)[:120].replace("\n", " ")

    return "\n".join(f"        {name} = {text(value)}" for name, value in arguments.items())


# ---- Many cases -----------------------------------------------------------------------------------------------------


def resident():
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def worker(seed, start, stop, place, only):
    """Cases from start to stop; writes each number to the file `place` before it begins."""
    faulthandler.enable()
    seen, memory = {}, None
    settled = start + (stop - start) // 2
    with open(place, "r+b", buffering=0) as file:
        for number in range(start, stop):
            os.pwrite(file.fileno(), struct.pack("<q", number), 0)
            if number == settled:
                memory = resident()
            try:
                run(seed, number, only)
            except Wrong as error:
                kind = re.sub(r"[\d.]+", "#", str(error).splitlines()[0])[:90]
                seen[kind] = seen.get(kind, 0) + 1
                if seen[kind] == 1:
                    print(f"WRONG case {number}: {error}", flush=True)
    for kind, count in seen.items():
        if count > 1:
            print(f"WRONG {count} times: {kind}", flush=True)
    growth = resident() - memory if memory is not None else 0
    print(f"GROWTH {growth} {(stop - settled)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", choices=[target.__name__ for target in NAMES], help="calls of this kind only")
    parser.add_argument("--case", type=int, help="run this one only, here")
    parser.add_argument("--piece", type=int, default=25_000, help="cases for each process")
    parser.add_argument("--stall", type=float, default=120, help="seconds after which a case counts as hanging")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        start, stop, place = options.worker
        worker(options.seed, int(start), int(stop), place, options.only)
        return 0
    if options.case is not None:
        try:
            print(run(options.seed, options.case, options.only), "is as it should be")
        except Wrong:
            traceback.print_exc()
            return 1
        return 0
    return drive(options)


def drive(options):
    begin, number, wrong = time.monotonic(), options.start, 0
    end = options.start + options.calls
    with tempfile.NamedTemporaryFile() as place:
        while number < end:
            stop = min(number + options.piece, end)
            place.seek(0)
            place.write(struct.pack("<q", number))
            place.flush()
            # -I like this process, if it is: what is tested is what is installed.
            flags = ["-I"] if sys.flags.isolated else []
            command = [
                sys.executable,
                *flags,
                os.path.abspath(__file__),
                "--seed",
                str(options.seed),
                "--worker",
                str(number),
                str(stop),
                place.name,
                *(["--only", options.only] if options.only else []),
            ]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            last, since, hung = number, time.monotonic(), False
            lines = []
            reader = threading.Thread(target=lambda p=process, to=lines: to.extend(p.stdout))
            reader.start()
            while process.poll() is None:
                time.sleep(0.2)
                at = struct.unpack("<q", os.pread(place.fileno(), 8, 0))[0]
                if at != last:
                    last, since = at, time.monotonic()
                elif time.monotonic() - since > options.stall:
                    hung = True
                    process.kill()
                    process.wait()
            reader.join()
            at = struct.unpack("<q", os.pread(place.fileno(), 8, 0))[0]
            for line in lines:
                if line.startswith("GROWTH"):
                    growth, calls = map(int, line.split()[1:])
                    if growth > max(4 << 20, 40 * calls):
                        wrong += 1
                        print(f"WRONG memory: {growth >> 10} KiB more after {calls} calls, in cases up to {stop}")
                else:
                    print(line, end="")
                    wrong += line.startswith("WRONG case")
            if process.returncode:
                wrong += 1
                how = "hangs" if hung else f"ends the process with status {process.returncode}"
                print(f"WRONG case {at}: {how}; again: --seed {options.seed} --case {at}", flush=True)
                number = at + 1
            else:
                number = stop
            done = number - options.start
            print(
                f"{done} of {options.calls} calls, {wrong} wrong, {done / (time.monotonic() - begin):.0f} a second",
                flush=True,
            )
    return 1 if wrong else 0


def set_up(folder):
    global CANONICAL, FOLDER
    CANONICAL, FOLDER = Canonical(folder), folder


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        set_up(made)
        sys.exit(main())
