"""What pruning has brought: a table of the layers."""

import copy
import time

import numpy as np

from fastfc.layers import Linear, MaskedLinear, SparseLinear
from fastfc.packing import pack
from fastfc.prune.tree import module_of, places, whole
from fastfc.rows import Rows

__all__ = ["Report", "report"]

# Of the rate of multiply-adds of the dense kernels, what a packed sparse weight's reach with a batch, by layout; and
# the number of rows below which bytes from memory count.
RATES, FEW_ROWS = {"tiled": 0.5, "16x1": 0.75, "1x16": 0.4, "2:4": 0.45, "1:4": 0.35}, 8


class Report(Rows):
    """A row a layer; prints as a table.

    ``report["zeros"]`` is the column of that name, ``report[0]`` the first layer as a dict. Columns: ``layer``,
    ``shape``, ``zeros`` (share of the weight), ``format`` (``dense``, ``masked``, or what the packed form says),
    ``bytes`` (of the weight as inference uses it, its index included), ``dense_bytes``, ``expected`` and ``measured``
    (speed against a dense, packed layer of the same widths; above 1 is faster).

    Attributes
    ----------
    rows : list of dict
    batch : int
    """

    def __init__(self, rows, batch):
        super().__init__(rows)
        self.batch = batch

    def __repr__(self):
        cells = [["layer", "out x in", "zeros", "format", "bytes", "of dense", "expected", "measured"]]
        for row in self.rows:
            cells.append([row["layer"], f"{row['shape'][0]} x {row['shape'][1]}", f"{row['zeros']:.1%}", row["format"],
                          _size(row["bytes"]), _share(row["bytes"], row["dense_bytes"]), _speed(row["expected"]),
                          _speed(row["measured"])])
        total, dense = sum(self["bytes"]), sum(self["dense_bytes"])
        weights = sum(out * into for out, into in self["shape"])
        zeros = sum(row["zeros"] * row["shape"][0] * row["shape"][1] for row in self.rows)
        zeros = f"{zeros / weights if weights else 0:.1%}"
        cells.append(["all", "", zeros, "", _size(total), _share(total, dense), "", ""])
        columns = [[text.ljust(max(map(len, column))) if i in (0, 3) else text.rjust(max(map(len, column)))
                    for text in column] for i, column in enumerate(zip(*cells, strict=True))]
        lines = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
        return "\n".join([*lines, f"speed against dense at batch {self.batch}"])


def report(model, *, batch=64, measure=True, seconds=0.05, threads=None):
    """A table of the `Linear`, `MaskedLinear` and `SparseLinear` layers of a model.

    Parameters
    ----------
    model : Module
        It is not changed; with `measure` copies of its layers are packed, one after the other.
    batch : int >= 1
        Rows of x for which speeds are given.
    measure : bool
        False: the column ``measured`` is None throughout.
    seconds : float > 0
        How long to measure each layer.
    threads : int, optional

    Returns
    -------
    Report
        Expected speeds are an estimate from counts alone: the multiply-adds that are left, at half the rate of dense
        ones (three quarters where 16 outputs share their inputs, less than half for 1x16 and n:4); for less than 8
        rows the bytes.

    Raises
    ------
    TypeError, ValueError
        If `model` is no Module or has no such layer, or `batch` is no integer >= 1.

    Examples
    --------
    >>> import fastfc
    >>> from fastfc import prune
    >>> model = fastfc.Sequential(fastfc.Linear(64, 128, rng=0), fastfc.ReLU(), fastfc.Linear(128, 10, rng=1))
    >>> prune.report(prune.to_sparse(prune.l1_unstructured(model, 0.9, layers=["0"])), measure=False)
    layer  out x in  zeros  format     bytes  of dense  expected  measured
    0      128 x 64  90.0%  tiled    5.3 KiB     16.4%      5.0x         -
    2      10 x 128   0.0%  dense    5.0 KiB    100.0%      1.0x         -
    all              77.8%          10.3 KiB     27.7%
    speed against dense at batch 64
    """
    model = module_of("report", model)
    batch = whole("report", "batch", batch)
    rows = []
    for place in places("report", model, None, (Linear, MaskedLinear, SparseLinear)):
        layer = place.layer
        shape = layer.out_features, layer.in_features
        size, dtype = shape[0] * shape[1], layer.weight.dtype
        kept = _kept(layer)
        form, used = _form(layer)
        dense = size * dtype.itemsize
        expected = 1.0
        if isinstance(layer, SparseLinear):
            expected = dense / max(used, 1) if batch < FEW_ROWS else RATES[form] * size / max(kept, 1)
        rows.append({"layer": place.name, "shape": shape, "zeros": 1 - kept / size if size else 0.0, "format": form,
                     "bytes": used, "dense_bytes": dense, "expected": expected,
                     "measured": _measured(layer, batch, seconds, threads) if measure and size else None})
    return Report(rows, batch)


def _kept(layer):
    if isinstance(layer, SparseLinear):
        return layer.weight.data.size
    return int(layer.mask.sum()) if isinstance(layer, MaskedLinear) else layer.weight.data.size


def _form(layer):
    """Name and bytes of the form in which inference has the weight."""
    if isinstance(layer, (Linear, MaskedLinear)):
        return "dense" if isinstance(layer, Linear) else "masked", layer.weight.data.nbytes
    packed = pack(layer._operand())
    return packed.format, packed.nbytes


def _measured(layer, batch, seconds, threads):
    """Speed of the layer against a dense one of its widths, both in eval, timed in turn."""
    from fastfc.runtime import num_threads  # it imports what imports this

    dtype = layer.weight.dtype
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, layer.in_features)).astype(dtype)
    layer = copy.deepcopy(layer).eval()
    dense = Linear(layer.in_features, layer.out_features, layer.bias is not None, dtype=dtype, rng=rng).eval()
    best = {layer: np.inf, dense: np.inf}

    def turn():
        for one in best:
            start = time.perf_counter()
            one(x)
            best[one] = min(best[one], time.perf_counter() - start)

    if threads is None:
        _repeat(turn, seconds)
    else:
        with num_threads(threads):
            _repeat(turn, seconds)
    return best[dense] / best[layer]


def _repeat(turn, seconds):
    end = time.perf_counter() + seconds
    for _ in range(3):
        turn()
    while time.perf_counter() < end:
        turn()


def _size(count):
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _share(used, dense):
    return f"{used / dense:.1%}" if dense else "-"


def _speed(value):
    return "-" if value is None else f"{value:.1f}x"
