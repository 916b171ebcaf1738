"""The same numbers in every kind of memory that numpy can point at."""

import tempfile

import numpy as np


def _garbage(shape, dtype):
    """NaN, or -1."""
    return np.full((*shape[:-1], shape[-1] * np.dtype(dtype).itemsize), 255, np.uint8).view(dtype)


def _c(a):
    return np.array(a, order="C")


def _fortran(a):
    return np.array(a, order="F")


def _spread(a):
    """Every axis with a gap, garbage between."""
    big = _garbage([2 * d + 1 for d in a.shape], a.dtype)
    view = big[tuple(slice(1, 1 + 2 * d, 2) for d in a.shape)]
    view[...] = a
    return view


def _wide_rows(a):
    """Contiguous rows, garbage between them: a slice of a wider matrix."""
    big = _garbage((*a.shape[:-1], a.shape[-1] + 3), a.dtype)
    view = big[..., 1 : 1 + a.shape[-1]]
    view[...] = a
    return view


def _negative(a):
    flip = tuple(slice(None, None, -1) for _ in a.shape)
    return _c(a[flip])[flip]


def _negative_rows(a):
    return _c(a[::-1])[::-1] if a.ndim else _c(a)


def _unaligned(a):
    buffer = np.full(a.nbytes + 1, 255, np.uint8)
    view = np.ndarray(a.shape, a.dtype, buffer, offset=1)
    view[...] = a
    return view


def _field(a):
    """A field of a packed record: strides of 5 or 9 bytes, which no element size divides."""
    records = np.zeros(a.shape, np.dtype([("tag", np.uint8), ("value", a.dtype)]))
    records["tag"] = 255
    records["value"] = a
    return records["value"]


def _read_only(a):
    a = _c(a)
    a.flags.writeable = False
    return a


def _mapped(a):
    if not a.size:
        return _read_only(a)
    with tempfile.TemporaryFile() as file:
        file.write(b"0123" + a.tobytes())
        file.flush()
        return np.memmap(file, a.dtype, "r", offset=4, shape=a.shape)


class Child(np.ndarray):
    pass


def _subclass(a):
    return _c(a).view(Child)


INPUTS = {
    "c": _c,
    "fortran": _fortran,
    "spread": _spread,
    "wide_rows": _wide_rows,
    "negative": _negative,
    "negative_rows": _negative_rows,
    "unaligned": _unaligned,
    "field": _field,
    "read_only": _read_only,
    "mapped": _mapped,
    "subclass": _subclass,
}
# Where results can be written.
OUTPUTS = {name: INPUTS[name] for name in INPUTS if name not in ("read_only", "mapped")}


def output(name, shape, dtype):
    """An array to write into, full of NaN."""
    return OUTPUTS[name](np.full(shape, np.nan, dtype))
