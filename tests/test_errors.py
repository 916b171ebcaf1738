"""Every mistake raises TypeError or ValueError that names the argument, what was expected and what came, before
anything is written."""

import numpy as np
import pytest
from reference import assert_same_bits

import fastfc

x = np.ones((3, 4), np.float32)
w = np.ones((5, 4), np.float32)
b = np.ones(5, np.float32)
y = np.ones((3, 5), np.float32)
packed = fastfc.pack(w)
sparse = fastfc.CSR(np.ones(2, np.float32), [0, 3], [0, 1, 1, 2, 2, 2], (5, 4))


def array(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def read_only(*shape):
    a = array(*shape)
    a.flags.writeable = False
    return a


class Scipy:
    """What fastfc looks at in a sparse matrix of scipy; scipy itself would refuse to make most of these."""

    format = "csr"

    def __init__(self, data, indices, indptr, shape, format="csr"):
        self.data, self.shape, self.format = np.asarray(data, np.float32), shape, format
        self.indices, self.indptr = np.asarray(indices), np.asarray(indptr)

    def tocsr(self):
        raise AssertionError("fastfc converts nothing")


def refuse(error, parts, function, *arguments, **options):
    """The call raises `error` (that very type) with all parts in its message, and leaves every array as it was."""
    outs = options.get("out")
    outs = [a for a in (outs if isinstance(outs, (tuple, list)) else [outs]) if isinstance(a, np.ndarray)]
    before = [a.copy() for a in outs]
    with pytest.raises((TypeError, ValueError)) as caught:
        function(*arguments, **options)
    assert caught.type is error, caught.value
    for part in [parts] if isinstance(parts, str) else parts:
        assert part in str(caught.value), str(caught.value)
    for one, other in zip(outs, before, strict=True):
        assert np.array_equal(one, other, equal_nan=True) if one.dtype.kind == "f" else (one == other).all()


# ---- linear ---------------------------------------------------------------------------------------------------------

LINEAR = {
    "last axis": (
        ValueError,
        "linear(): x has 128 features in its last axis, weight expects 256",
        (array(3, 128), array(5, 256)),
        {},
    ),
    "last axis, packed": (
        ValueError,
        "linear(): x has 6 features in its last axis, weight expects 4",
        (array(3, 6), packed),
        {},
    ),
    "last axis, csr": (
        ValueError,
        "linear(): x has 6 features in its last axis, weight expects 4",
        (array(3, 6), sparse),
        {},
    ),
    "last axis, csr x": (
        ValueError,
        "linear(): x has 4 features in its last axis, weight expects 6",
        (sparse, array(2, 6)),
        {},
    ),
    "x 0-D": (ValueError, ["linear(): x", "0-D"], (np.array(1, np.float32), w), {}),
    "weight 1-D": (ValueError, ["linear(): weight must be 2-D", "(4,)"], (x, w[0]), {}),
    "weight 3-D": (ValueError, ["linear(): weight must be 2-D", "(1, 5, 4)"], (x, w[None]), {}),
    "weight 0-D": (ValueError, ["linear(): weight must be 2-D", "()"], (x, np.array(1, np.float32)), {}),
    "x list": (TypeError, ["linear(): x must be a numpy array", "list"], (x.tolist(), w), {}),
    "x None": (TypeError, ["linear(): x must be a numpy array", "NoneType"], (None, w), {}),
    "x scalar": (TypeError, ["linear(): x must be a numpy array", "float"], (1.0, w), {}),
    "x numpy scalar": (TypeError, ["linear(): x must be a numpy array", "float32"], (np.float32(1), w), {}),
    "x packed": (TypeError, ["linear(): x must be a numpy array", "PackedWeight"], (packed, w), {}),
    "weight list": (TypeError, ["linear(): weight must be a numpy array", "list"], (x, w.tolist()), {}),
    "weight None": (TypeError, ["linear(): weight must be a numpy array", "NoneType"], (x, None), {}),
    "x int": (TypeError, ["linear(): x must be float32 or float64", "int64"], (x.astype(np.int64), w), {}),
    "x half": (TypeError, ["linear(): x must be float32 or float64", "float16"], (x.astype(np.float16), w), {}),
    "x long double": (
        TypeError,
        ["linear(): x must be float32 or float64", str(np.dtype(np.longdouble))],
        (x.astype(np.longdouble), w),
        {},
    ),
    "x complex": (TypeError, ["linear(): x must be float32 or float64", "complex64"], (x.astype(np.complex64), w), {}),
    "x bool": (TypeError, ["linear(): x must be float32 or float64", "bool"], (x.astype(bool), w), {}),
    "x object": (TypeError, ["linear(): x must be float32 or float64", "object"], (x.astype(object), w), {}),
    "x text": (TypeError, ["linear(): x must be float32 or float64", "<U"], (x.astype(str), w), {}),
    "x swapped": (TypeError, ["linear(): x", "native byte order", ">f4"], (x.astype(">f4"), w), {}),
    "weight swapped": (TypeError, ["linear(): weight", "native byte order", ">f4"], (x, w.astype(">f4")), {}),
    "weight int": (TypeError, ["linear(): weight must be float32 or float64", "int32"], (x, w.astype(np.int32)), {}),
    "weight object": (TypeError, ["linear(): weight must be float32 or float64", "object"], (x, w.astype(object)), {}),
    "mixed": (TypeError, ["linear(): weight is float64, x is float32", "mixed"], (x, w.astype(np.float64)), {}),
    "mixed the other way": (TypeError, ["linear(): weight is float32, x is float64"], (x.astype(np.float64), w), {}),
    "mixed, packed": (TypeError, ["linear(): weight is float32, x is float64"], (x.astype(np.float64), packed), {}),
    "mixed, csr": (TypeError, ["linear(): weight is float32, x is float64"], (x.astype(np.float64), sparse), {}),
    "bias length": (ValueError, ["linear(): bias has shape (4,)", "(5,)"], (x, w, b[:4]), {}),
    "bias 2-D": (ValueError, ["linear(): bias has shape (1, 5)", "(5,)"], (x, w, b[None]), {}),
    "bias 0-D": (ValueError, ["linear(): bias has shape ()", "(5,)"], (x, w, np.array(1, np.float32)), {}),
    "bias mixed": (TypeError, ["linear(): bias is float64, x is float32"], (x, w, b.astype(np.float64)), {}),
    "bias int": (TypeError, ["linear(): bias must be float32 or float64", "int64"], (x, w, b.astype(np.int64)), {}),
    "bias list": (TypeError, ["linear(): bias must be a numpy array", "list"], (x, w, [1.0] * 5), {}),
    "bias number": (TypeError, ["linear(): bias must be a numpy array", "int"], (x, w, 0), {}),
    "residual shape": (ValueError, ["linear(): residual has shape (5,)", "(3, 5)"], (x, w), {"residual": b}),
    "residual transposed": (ValueError, ["linear(): residual has shape (5, 3)", "(3, 5)"], (x, w), {"residual": y.T}),
    "residual mixed": (
        TypeError,
        "linear(): residual is float64, x is float32",
        (x, w),
        {"residual": y.astype(np.float64)},
    ),
    "residual list": (
        TypeError,
        "linear(): residual must be a numpy array, got list",
        (x, w),
        {"residual": y.tolist()},
    ),
    "activation unknown": (
        ValueError,
        ["linear(): activation must be one of", "'relu'", "'rely'"],
        (x, w),
        {"activation": "rely"},
    ),
    "activation case": (ValueError, ["linear(): activation must be one of", "'ReLU'"], (x, w), {"activation": "ReLU"}),
    "activation pair": (ValueError, ["linear(): activation", "('rely', 0.2)"], (x, w), {"activation": ("rely", 0.2)}),
    "activation function": (TypeError, ["linear(): activation", "builtin_function"], (x, w), {"activation": abs}),
    "activation list": (TypeError, ["linear(): activation", "list"], (x, w), {"activation": ["relu"]}),
    "activation number": (TypeError, ["linear(): activation", "int"], (x, w), {"activation": 0}),
    "threads 0": (ValueError, "linear(): threads must be at least 1, got 0", (x, w), {"threads": 0}),
    "threads negative": (ValueError, "linear(): threads must be at least 1, got -2", (x, w), {"threads": -2}),
    "threads float": (TypeError, "linear(): threads must be an integer, got float", (x, w), {"threads": 2.0}),
    "threads text": (TypeError, "linear(): threads must be an integer, got str", (x, w), {"threads": "2"}),
    "threads bool": (TypeError, "linear(): threads must be an integer, got bool", (x, w), {"threads": True}),
    "flag": (TypeError, "linear(): return_preactivation must be a bool, got int", (x, w), {"return_preactivation": 1}),
    "both sparse": (TypeError, "linear(): x and weight are both sparse", (sparse, sparse), {}),
    "out shape": (ValueError, ["linear(): out has shape (5, 3)", "(3, 5)"], (x, w), {"out": array(5, 3)}),
    "out too long": (ValueError, ["linear(): out has shape (4, 5)", "(3, 5)"], (x, w), {"out": array(4, 5)}),
    "out rank": (ValueError, ["linear(): out has shape (15,)", "(3, 5)"], (x, w), {"out": array(15)}),
    "out dtype": (TypeError, ["linear(): out must be float32", "float64"], (x, w), {"out": y.astype(np.float64)}),
    "out swapped": (TypeError, ["linear(): out must be float32", ">f4"], (x, w), {"out": y.astype(">f4")}),
    "out int": (TypeError, ["linear(): out must be float32", "int32"], (x, w), {"out": array(3, 5, dtype=np.int32)}),
    "out read-only": (ValueError, "linear(): out is read-only", (x, w), {"out": read_only(3, 5)}),
    "out list": (TypeError, "linear(): out must be a numpy array, got list", (x, w), {"out": y.tolist()}),
    "out tuple": (TypeError, "linear(): out must be a numpy array, got tuple", (x, w), {"out": (array(3, 5),)}),
    "out itself": (
        ValueError,
        "linear(): out overlaps itself",
        (x, w),
        {"out": np.lib.stride_tricks.as_strided(array(5), (3, 5), (0, 4))},
    ),
}


@pytest.mark.parametrize("case", LINEAR)
def test_linear(case):
    error, parts, arguments, options = LINEAR[case]
    refuse(error, parts, fastfc.linear, *arguments, **options)
    if "out" not in options:
        # Nothing has been written when the mistake is elsewhere.
        for shape in ((3, 5), (5, 2)):
            refuse(error, parts, fastfc.linear, *arguments, **options, out=np.full(shape, np.nan, np.float32))


def test_options_are_keyword_only():
    for function, arguments in ((fastfc.linear, (x, w, b, "relu")), (fastfc.linear_backward, (y, x, w, "relu"))):
        with pytest.raises(TypeError, match="positional"):
            function(*arguments)


def overlapping(kind):
    """(x, weight, options, name): out lies over the operand of that name."""
    square = array(4, 4)
    buffer = np.ones(40, np.float32)
    return {
        "x": lambda: (square, array(4, 4), {"out": square}),
        "x, one row": lambda: (buffer[:16].reshape(4, 4), array(4, 4), {"out": buffer[12:28].reshape(4, 4)}),
        "x, reversed": lambda: (buffer[:16].reshape(4, 4)[::-1], array(4, 4), {"out": buffer[12:28].reshape(4, 4)}),
        "weight": lambda: (array(4, 4), square, {"out": square}),
        "weight, transposed": lambda: (array(4, 4), square.T, {"out": square}),
        "bias": lambda: (array(4, 4), array(4, 4), {"bias": square[0], "out": square}),
        "residual": lambda: (array(4, 4), array(4, 4), {"residual": square, "out": square}),
        "residual, strided out": lambda: (
            array(3, 4),
            array(4, 4),
            {"residual": buffer[:24:2].reshape(3, 4), "out": buffer[2:26:2].reshape(3, 4)},
        ),
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    ["x", "x, one row", "x, reversed", "weight", "weight, transposed", "bias", "residual", "residual, strided out"],
)
@pytest.mark.parametrize("threads", [None, 1])
def test_out_may_not_overlap_an_input(kind, threads):
    left, right, options = overlapping(kind)
    refuse(
        ValueError,
        f"linear(): out overlaps {kind.split(',')[0]}",
        fastfc.linear,
        left,
        right,
        threads=threads,
        **options,
    )


def test_out_may_not_overlap_a_csr():
    data, buffer = np.ones(4, np.float32), np.ones(60, np.float32)
    left = fastfc.CSR(buffer[:4], [0, 1, 2, 3], [0, 4], (1, 4))
    refuse(ValueError, "out overlaps weight", fastfc.linear, array(3, 4), left, out=buffer[2:5].reshape(3, 1))
    refuse(ValueError, "out overlaps x", fastfc.linear, left, array(3, 4), out=buffer[2:5].reshape(1, 3))
    theirs = Scipy(data, [0, 1, 2, 3], [0, 4], (1, 4))
    refuse(ValueError, "out overlaps weight", fastfc.linear, array(3, 4), theirs, out=theirs.data[1:].reshape(3, 1))


def test_out_between_the_elements_of_an_input_is_no_overlap():
    """Interleaved views share a range of memory but no element."""
    buffer = np.ones((8, 8), np.float32)
    left, out = buffer[:, ::2], buffer[:, 1::2]
    assert fastfc.linear(left, array(4, 4), out=out) is out
    assert np.array_equal(out, np.full((8, 4), 4)) and np.array_equal(left, np.ones((8, 4)))
    rows = np.ones((4, 16), np.float32)
    assert np.array_equal(fastfc.linear(rows[:, :4], array(4, 4), out=rows[:, 4:8]), np.full((4, 4), 4))


def test_nan_and_infinity_are_no_mistakes():
    bad = np.full((3, 4), np.nan, np.float32)
    assert np.isnan(fastfc.linear(bad, w)).all()
    assert np.isposinf(fastfc.linear(np.full((3, 4), np.inf, np.float32), w)).all()
    assert np.isnan(fastfc.CSR(np.full(1, np.nan, np.float32), [0], [0, 1], (1, 1)).data).all()


# ---- linear_backward ------------------------------------------------------------------------------------------------

g = array(3, 5)
BACKWARD = {
    "packed": (TypeError, ["linear_backward(): weight is packed", "array"], (g, x, packed), {}),
    "last axis": (
        ValueError,
        "linear_backward(): x has 6 features in its last axis, weight expects 4",
        (g, array(3, 6), w),
        {},
    ),
    "grad_y shape": (ValueError, ["linear_backward(): grad_y has shape (3, 4)", "(3, 5)"], (x, x, w), {}),
    "grad_y batch": (ValueError, ["linear_backward(): grad_y has shape (2, 5)", "(3, 5)"], (g[:2], x, w), {}),
    "grad_y rank": (ValueError, ["linear_backward(): grad_y has shape (1, 3, 5)", "(3, 5)"], (g[None], x, w), {}),
    "grad_y mixed": (TypeError, "linear_backward(): grad_y is float64, x is float32", (g.astype(np.float64), x, w), {}),
    "grad_y int": (
        TypeError,
        ["linear_backward(): grad_y must be float32 or float64", "int64"],
        (g.astype(int), x, w),
        {},
    ),
    "grad_y list": (TypeError, "linear_backward(): grad_y must be a numpy array, got list", (g.tolist(), x, w), {}),
    "weight mixed": (TypeError, "linear_backward(): weight is float64, x is float32", (g, x, w.astype(np.float64)), {}),
    "weight 1-D": (ValueError, "linear_backward(): weight must be 2-D", (g, x, w[0]), {}),
    "x 0-D": (ValueError, ["linear_backward(): x", "0-D"], (g, np.array(1, np.float32), w), {}),
    "both sparse": (TypeError, "linear_backward(): x and weight are both sparse", (g, sparse, sparse), {}),
    "activation": (
        ValueError,
        ["linear_backward(): activation must be one of", "'rely'"],
        (g, x, w),
        {"activation": "rely"},
    ),
    "no preactivation": (
        ValueError,
        ["linear_backward(): preactivation is required", "'relu'"],
        (g, x, w),
        {"activation": "relu"},
    ),
    "preactivation shape": (
        ValueError,
        ["linear_backward(): preactivation has shape (3, 4)", "(3, 5)"],
        (g, x, w),
        {"activation": "relu", "preactivation": x},
    ),
    "preactivation mixed": (
        TypeError,
        "linear_backward(): preactivation is float64, x is float32",
        (g, x, w),
        {"activation": "relu", "preactivation": g.astype(np.float64)},
    ),
    "preactivation list": (
        TypeError,
        "linear_backward(): preactivation must be a numpy array",
        (g, x, w),
        {"activation": "relu", "preactivation": g.tolist()},
    ),
    "needs text": (ValueError, ["linear_backward(): needs must be", "'x'"], (g, x, w), {"needs": "x"}),
    "needs unknown": (ValueError, ["linear_backward(): needs must be", "'input'"], (g, x, w), {"needs": ("input",)}),
    "out array": (
        TypeError,
        ["linear_backward(): out must be a tuple of three", "ndarray"],
        (g, x, w),
        {"out": array(3, 4)},
    ),
    "out two": (TypeError, "linear_backward(): out must be a tuple of three", (g, x, w), {"out": (None, None)}),
    "out None": (TypeError, ["linear_backward(): out must be a tuple of three", "NoneType"], (g, x, w), {"out": None}),
    "accumulate": (TypeError, "linear_backward(): accumulate must be a bool, got int", (g, x, w), {"accumulate": 1}),
    "threads 0": (ValueError, "linear_backward(): threads must be at least 1, got 0", (g, x, w), {"threads": 0}),
    "threads float": (
        TypeError,
        "linear_backward(): threads must be an integer, got float",
        (g, x, w),
        {"threads": 1.5},
    ),
    "out[0] shape": (
        ValueError,
        ["linear_backward(): out[0] has shape (4, 3)", "(3, 4)"],
        (g, x, w),
        {"out": (array(4, 3), None, None)},
    ),
    "out[1] shape": (
        ValueError,
        ["linear_backward(): out[1] has shape (4, 5)", "(5, 4)"],
        (g, x, w),
        {"out": (None, array(4, 5), None)},
    ),
    "out[2] shape": (
        ValueError,
        ["linear_backward(): out[2] has shape (1, 5)", "(5,)"],
        (g, x, w),
        {"out": (None, None, array(1, 5))},
    ),
    "out[1] csr shape": (
        ValueError,
        ["linear_backward(): out[1] has shape (5, 4)", "(2,)"],
        (g, x, sparse),
        {"out": (None, array(5, 4), None)},
    ),
    "out[1] dtype": (
        TypeError,
        ["linear_backward(): out[1] must be float32", "float64"],
        (g, x, w),
        {"out": (array(3, 4), array(5, 4, dtype=np.float64), None)},
    ),
    "out[2] read-only": (
        ValueError,
        "linear_backward(): out[2] is read-only",
        (g, x, w),
        {"out": (array(3, 4), array(5, 4), read_only(5))},
    ),
    "out[2] list": (
        TypeError,
        "linear_backward(): out[2] must be a numpy array, got list",
        (g, x, w),
        {"out": (array(3, 4), array(5, 4), [0] * 5)},
    ),
    "out not needed": (
        ValueError,
        ["linear_backward(): out[1]", "not computed"],
        (g, x, w),
        {"needs": ("x",), "out": (None, array(5, 4), None)},
    ),
    "out[0] with a csr x": (
        ValueError,
        ["linear_backward(): out[0]", "not computed"],
        (array(5, 2), sparse, array(2, 4)),
        {"out": (array(5, 4), None, None)},
    ),
    "out[0] itself": (
        ValueError,
        "linear_backward(): out[0] overlaps itself",
        (g, x, w),
        {"out": (np.lib.stride_tricks.as_strided(array(4), (3, 4), (0, 4)), None, None)},
    ),
}


@pytest.mark.parametrize("case", BACKWARD)
def test_linear_backward(case):
    error, parts, arguments, options = BACKWARD[case]
    refuse(error, parts, fastfc.linear_backward, *arguments, **options)
    if "out" not in options:
        out = tuple(np.full(s, np.nan, np.float32) for s in ((3, 4), (5, 4), (5,)))
        refuse(error, parts, fastfc.linear_backward, *arguments, **options, out=out)


def test_out_of_backward_may_not_overlap():
    buffer = np.ones(200, np.float32)
    square = buffer[:16].reshape(4, 4)
    beside = buffer[8:24].reshape(4, 4)
    for i, name in enumerate(("grad_y", "x", "weight")):
        for place in (0, 1):
            arguments = [array(4, 4) for _ in range(3)]
            arguments[i] = square
            out = [None, None, None]
            out[place] = beside
            refuse(ValueError, f"out[{place}] overlaps {name}", fastfc.linear_backward, *arguments, out=tuple(out))
    arguments = [array(4, 4) for _ in range(3)]
    refuse(
        ValueError,
        "out[0] overlaps preactivation",
        fastfc.linear_backward,
        *arguments,
        activation="relu",
        preactivation=square,
        out=(beside, None, None),
    )
    refuse(ValueError, "out[1] overlaps out[0]", fastfc.linear_backward, *arguments, out=(square, beside, None))
    refuse(ValueError, "out[2] overlaps out[1]", fastfc.linear_backward, *arguments, out=(None, square, square[0]))
    weight = fastfc.CSR(buffer[:4], [0, 1, 2, 3], [0, 4], (1, 4))
    refuse(
        ValueError,
        "out[1] overlaps weight",
        fastfc.linear_backward,
        array(3, 1),
        array(3, 4),
        weight,
        out=(None, buffer[2:6], None),
    )


@pytest.mark.parametrize("needs", [None, 3, True])
def test_needs_of_a_wrong_type_is_named(needs):
    refuse(TypeError, "linear_backward(): needs", fastfc.linear_backward, g, x, w, needs=needs)


# ---- pack, threads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, parts, weight",
    [
        (ValueError, ["pack(): weight must be 2-D", "(4,)"], w[0]),
        (ValueError, ["pack(): weight must be 2-D", "()"], np.array(1.0)),
        (TypeError, "pack(): weight must be float32 or float64 in native byte order, got int64", w.astype(np.int64)),
        (TypeError, ["pack(): weight", ">f8"], w.astype(">f8")),
        (TypeError, "pack(): weight must be a numpy array, got list", w.tolist()),
        (TypeError, "pack(): weight must be a numpy array, got PackedWeight", packed),
        (TypeError, "pack(): weight must be a numpy array, got NoneType", None),
    ],
)
def test_pack(error, parts, weight):
    refuse(error, parts, fastfc.pack, weight)


@pytest.mark.parametrize(
    "n, error",
    [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("2", TypeError), (None, TypeError), (True, TypeError)],
)
def test_set_num_threads(n, error):
    before = fastfc.get_num_threads()
    refuse(error, "set_num_threads(): n must be", fastfc.set_num_threads, n)
    with pytest.raises(error, match="n must be"):
        with fastfc.num_threads(n):
            pass
    assert fastfc.get_num_threads() == before


# ---- CSR ------------------------------------------------------------------------------------------------------------

ones = np.ones(3, np.float32)
CSR = {
    "index high": (ValueError, ["indices[1] is 4", "out of range for 4 columns"], (ones, [0, 4, 1], [0, 2, 3], (2, 4))),
    "index far": (ValueError, ["indices[2] is 2147483647", "4 columns"], (ones, [0, 3, 2**31 - 1], [0, 2, 3], (2, 4))),
    "index beyond 32 bits": (
        ValueError,
        ["indices[2] is 4294967296", "4 columns"],
        (ones, [0, 3, 2**32], [0, 2, 3], (2, 4)),
    ),
    "index negative": (ValueError, ["indices[0] is -1", "4 columns"], (ones, [-1, 0, 1], [0, 2, 3], (2, 4))),
    "index, no columns": (ValueError, ["indices[0] is 0", "0 columns"], (ones, [0, 0, 0], [0, 2, 3], (2, 0))),
    "indptr falls": (ValueError, ["indptr falls from 2 to 1 at row 1"], (ones, [0, 1, 2], [0, 2, 1, 3], (3, 4))),
    "indptr falls below": (ValueError, ["indptr falls from 0 to -5 at row 0"], (ones, [0, 1, 2], [0, -5, 3], (2, 4))),
    "indptr overruns": (ValueError, ["indptr[2] is 4", "3 stored entries"], (ones, [0, 1, 2], [0, 2, 4], (2, 4))),
    "indptr overruns far": (
        ValueError,
        ["indptr[1] is 9223372036854775807"],
        (ones, [0, 1, 2], [0, 2**63 - 1, 3], (2, 4)),
    ),
    "indptr start": (ValueError, ["indptr starts at 1", "expected 0"], (ones, [0, 1, 2], [1, 2, 3], (2, 4))),
    "indptr start negative": (ValueError, ["indptr starts at -1"], (ones, [0, 1, 2], [-1, 2, 3], (2, 4))),
    "indptr short": (ValueError, ["indptr has length 3", "rows + 1 = 4"], (ones, [0, 1, 2], [0, 2, 3], (3, 4))),
    "indptr long": (ValueError, ["indptr has length 3", "rows + 1 = 2"], (ones, [0, 1, 2], [0, 2, 3], (1, 4))),
    "indptr empty": (ValueError, ["indptr has length 0", "rows + 1 = 1"], (ones, [0, 1, 2], [], (0, 4))),
    "lengths": (ValueError, ["indices has length 2", "data has 3"], (ones, [0, 1], [0, 1, 2], (2, 4))),
    "lengths the other way": (
        ValueError,
        ["indices has length 3", "data has 2"],
        (ones[:2], [0, 1, 2], [0, 1, 3], (2, 4)),
    ),
    "data 2-D": (ValueError, ["data must be 1-D", "(1, 3)"], (ones[None], [0, 1, 2], [0, 2, 3], (2, 4))),
    "indices 2-D": (ValueError, ["indices must be 1-D", "(1, 3)"], (ones, [[0, 1, 2]], [0, 2, 3], (2, 4))),
    "indptr 0-D": (ValueError, ["indptr must be 1-D", "()"], (ones, [0, 1, 2], 0, (2, 4))),
    "data int": (
        TypeError,
        ["data must be float32 or float64", "int64"],
        (ones.astype(np.int64), [0, 1, 2], [0, 2, 3], (2, 4)),
    ),
    "data swapped": (
        TypeError,
        ["data", "native byte order", ">f4"],
        (ones.astype(">f4"), [0, 1, 2], [0, 2, 3], (2, 4)),
    ),
    "indices float": (TypeError, ["indices must hold integers", "float64"], (ones, [0.0, 1.0, 2.0], [0, 2, 3], (2, 4))),
    "indptr float": (TypeError, ["indptr must hold integers", "float64"], (ones, [0, 1, 2], [0.0, 2.0, 3.0], (2, 4))),
    "indices bool": (TypeError, ["indices must hold integers", "bool"], (ones, [False, True, True], [0, 2, 3], (2, 4))),
    "indices huge": (
        ValueError,
        ["indices", "18446744073709551615"],
        (ones, np.array([0, 1, 2**64 - 1], np.uint64), [0, 2, 3], (2, 4)),
    ),
    "shape of one": (TypeError, ["shape must be two integers", "(2,)"], (ones, [0, 1, 2], [0, 2, 3], (2,))),
    "shape None": (TypeError, ["shape must be two integers", "None"], (ones, [0, 1, 2], [0, 2, 3], None)),
    "shape infinite": (TypeError, ["shape must be two integers", "inf"], (ones, [0, 1, 2], [0, 2, 3], (np.inf, 4))),
    "shape beyond 64 bits": (ValueError, ["shape must fit", "bits"], (ones, [0, 1, 2], [0, 2, 3], (2, 2**70))),
    "shape negative": (ValueError, ["shape must not be negative"], (ones, [0, 1, 2], [0, 2, 3], (2, -4))),
}


@pytest.mark.parametrize("case", CSR)
def test_csr(case):
    error, parts, arguments = CSR[case]
    parts = [parts] if isinstance(parts, str) else parts
    refuse(error, ["CSR(): ", *parts], fastfc.CSR, *arguments)


NOT_SCIPYS = ("data int", "data swapped", "shape of one", "shape None", "shape infinite", "shape beyond 64 bits")


@pytest.mark.parametrize("case", [case for case in CSR if case not in NOT_SCIPYS])
def test_csr_of_scipy_is_checked_by_each_call(case):
    """scipy checks little, and its arrays can have changed since."""
    error, parts, arguments = CSR[case]
    theirs = Scipy(*arguments)
    rows, cols = arguments[3]
    out = np.full((2, abs(rows)), np.nan, np.float32)
    refuse(error, ["linear(): weight.", *parts], fastfc.linear, array(2, abs(cols)), theirs, out=out)
    refuse(error, ["linear(): x.", *parts], fastfc.linear, theirs, array(2, abs(cols)))
    refuse(
        error,
        ["linear_backward(): weight.", *parts],
        fastfc.linear_backward,
        array(2, abs(rows)),
        array(2, abs(cols)),
        theirs,
    )
    refuse(
        error,
        ["linear_backward(): x.", *parts],
        fastfc.linear_backward,
        array(abs(rows), 2),
        theirs,
        array(2, abs(cols)),
    )


def test_csr_index_is_found_wherever_it_stands():
    """The check reads blocks of entries; the last of each counts."""
    for count in (1, 4095, 4096, 4097, 9000):
        for at in {0, count // 2, count - 1}:
            for kind in (np.int32, np.int64):
                indices = np.zeros(count, kind)
                indices[at] = 7
                refuse(
                    ValueError,
                    f"indices[{at}] is 7",
                    fastfc.CSR,
                    np.ones(count, np.float32),
                    indices,
                    np.array([0, count], kind),
                    (1, 7),
                )
    # Beyond indptr's end indices mean nothing.
    assert fastfc.CSR(np.ones(3, np.float32), [0, 1, 99], [0, 2], (1, 2)).nnz == 2


@pytest.mark.parametrize("kind", ["coo", "csc", "bsr", "dia", "lil", "dok"])
def test_other_sparse_formats_are_named(kind):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    theirs = scipy_sparse.csr_array(np.eye(4, dtype=np.float32)).asformat(kind)
    refuse(TypeError, ["linear(): weight", kind, ".tocsr()"], fastfc.linear, x, theirs)
    refuse(TypeError, ["linear(): x", kind, ".tocsr()"], fastfc.linear, theirs, w)


def test_csr_with_other_values_put_in_is_not_read_out_of_bounds():
    """`data` can be assigned; what no longer fits the structure is refused by the assignment or by the call."""
    for values in (np.ones(1, np.float32), np.ones((2, 1), np.float32), np.ones(2, np.int32), [1.0, 1.0]):
        mine = fastfc.CSR(np.ones(2, np.float32), [0, 3], [0, 1, 1, 2, 2, 2], (5, 4))
        with pytest.raises((TypeError, ValueError, AttributeError)):
            mine.data = values
            fastfc.linear(x, mine)


def test_csr_structure_cannot_be_replaced():
    mine = fastfc.CSR(np.ones(2, np.float32), [0, 3], [0, 1, 1, 2, 2, 2], (5, 4))
    for name, value in (
        ("indices", np.array([0, 10**6], np.int32)),
        ("indptr", np.arange(6) * 1000),
        ("shape", (500, 4)),
    ):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            setattr(mine, name, value)
            fastfc.linear(x, mine)


def test_csr_structure_cannot_be_made_writeable():
    mine = fastfc.CSR(np.ones(2, np.float32), [0, 3], [0, 1, 1, 2, 2, 2], (5, 4))
    for part in (mine.indices, mine.indptr):
        with pytest.raises(ValueError):
            part.flags.writeable = True


# ---- After a mistake everything goes on -----------------------------------------------------------------------------


def test_mistakes_leave_nothing_behind():
    expected = fastfc.linear(x, w, b)
    for case in LINEAR.values():
        with pytest.raises((TypeError, ValueError)):
            fastfc.linear(*case[2], **case[3])
    assert_same_bits(fastfc.linear(x, w, b), expected)

def test_what_is_no_array_is_named():
    ragged = [[1, 2], [3]]
    layer = fastfc.Linear(2, 2)
    for call, name in (
        (lambda: fastfc.CSR(ragged, [0], [0, 1, 1], (2, 2)), r"CSR\(\): data"),
        (lambda: fastfc.CSR(np.ones(1, np.float32), ragged, [0, 1, 1], (2, 2)), r"CSR\(\): indices"),
        (lambda: fastfc.CrossEntropyLoss()(np.ones((2, 2), np.float32), ragged), "CrossEntropyLoss: target"),
        (lambda: fastfc.NLLLoss()(np.ones((2, 2), np.float32), ragged), "NLLLoss: target"),
        (lambda: fastfc.Embedding(3, 2)(ragged), "Embedding: x"),
        (lambda: fastfc.EmbeddingBag(3, 2)([0, 1], ragged), "EmbeddingBag: offsets"),
        (lambda: fastfc.MaskedLinear(2, 2, mask=ragged), "MaskedLinear: mask"),
        (lambda: fastfc.prune.custom_from_mask(layer, ragged), r"custom_from_mask\(\): layer Linear: .*mask"),
        (lambda: fastfc.prune.global_unstructured(layer, 0.5, scores=lambda _: ragged), "scores"),
        (lambda: fastfc.SparseGrad(ragged, np.ones((1, 2), np.float32), (3, 2)), r"SparseGrad\(\): indices"),
        (lambda: layer.load_state_dict({"weight": ragged, "bias": np.ones(2, np.float32)}), "weight is no array"),
    ):
        with pytest.raises(ValueError, match=name):
            call()


def test_an_error_of_another_kind_in_making_an_array_is_named_too():
    class Odd:
        def __array__(self, *args, **kwargs):
            b"\xff".decode()

    with pytest.raises(ValueError, match="Embedding: x is no array"):
        fastfc.Embedding(3, 2)(Odd())
