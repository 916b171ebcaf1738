"""What the times mean: ratios, fractions of the roofline, tables, the JSON file, and the comparison of two of
them.

A *cell* is what one `Case` gave, as a dict that goes to JSON as it is::

    {"case": {...}, "flops": ..., "traffic_bytes": ..., "peak": GFLOP/s or None, "read": GB/s or None,
     "times": {"fastfc": {"min": s, "median": s, "rounds": r, "calls": c}, "numpy": ...},
     "neighbours": CPUs that other processes kept busy meanwhile, or None,
     "wrong": {"rival": "what is wrong"}, "statements": {"fastfc": "y = linear(x, w, b, out=out)", ...}}
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Sequence

from . import limits, measure
from .cases import BLOCKS, KINDS, Case
from .rivals import BLAS, SUBJECT, VARIANTS

#: Kinds of which the point is what they cost over the bare product.
BARE = ("epilogue", *BLOCKS)

#: Of the JSON file; raised when a reader of the old form would misread the new.
FORMAT = 1


def make_cell(
    case: Case, timings: dict, wrong: dict[str, str], statements: dict[str, str], neighbours: float | None = None
) -> dict:
    """A cell from the timings of its entrants, limits included."""
    times = {name: timing.to_json() for name, timing in timings.items()}
    peak, read = times.pop(limits.PEAK, None), times.pop(limits.READ, None)
    return {
        "case": {**dataclasses.asdict(case), "hidden": list(case.hidden)},  # as JSON has it
        "flops": case.flops,
        "traffic_bytes": case.traffic_bytes,
        "peak": peak and 1 / peak["min"],
        "read": read and 1 / read["min"],
        "times": times,
        "neighbours": neighbours,
        "wrong": wrong,
        "statements": statements,
    }


def case_of(cell: dict) -> Case:
    return Case(**cell["case"])


@dataclasses.dataclass
class Row:
    """The figures of a cell. Ratios are speeds: above 1 fastfc is faster. ``None`` where there is nothing to
    say.
    """

    case: Case
    seconds: float | None
    gflops: float | None
    blas: str | None
    blas_ratio: float | None
    best: str | None
    best_ratio: float | None
    roof: float | None
    roof_fraction: float | None
    peak_fraction: float | None
    speedup: float | None
    over_dense: float | None

    @property
    def bound(self) -> str:
        """Which roof is the lower one."""
        return "" if self.roof is None else "peak" if self.roof_fraction == self.peak_fraction else "read"

    @property
    def weighty(self) -> bool:
        """Large enough for its fraction of the roofline to mean kernels and not calls (issue 3's rule)."""
        return self.case.m >= 4 and self.case.flops >= 2e6 * self.case.threads


def row_of(cell: dict) -> Row:
    """The figures of a cell."""
    case, times = case_of(cell), {name: timing["min"] for name, timing in cell["times"].items()}
    own = times.get(SUBJECT)
    rivals = {name: seconds for name, seconds in times.items() if name != SUBJECT and name not in VARIANTS}
    blas = min((name for name in rivals if name in BLAS), key=rivals.get, default=None)
    best = min(rivals, key=rivals.get, default=None)
    gflops = own and case.flops / own / 1e9
    roof = None
    if cell["peak"] and cell["read"]:
        roof = limits.roofline(case.flops, case.traffic_bytes, cell["peak"], cell["read"])
    serial, dense = times.get("fastfc-1t"), times.get("fastfc-dense")
    return Row(
        case=case,
        seconds=own,
        gflops=gflops,
        blas=blas,
        blas_ratio=rivals[blas] / own if own and blas else None,
        best=best,
        best_ratio=rivals[best] / own if own and best else None,
        roof=roof,
        roof_fraction=gflops / roof if gflops and roof else None,
        peak_fraction=gflops / cell["peak"] if gflops and cell["peak"] else None,
        speedup=serial / own if own and serial else None,
        over_dense=dense / own if own and dense else None,
    )


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of what there is; ``None`` of nothing."""
    logs = [math.log(value) for value in values if value]
    return math.exp(sum(logs) / len(logs)) if logs else None


def groups(cells: Sequence[dict]) -> dict[tuple, list[dict]]:
    """Cells by (kind, dtype, threads, cold), in order of appearance."""
    found: dict[tuple, list[dict]] = {}
    for cell in cells:
        case = case_of(cell)
        found.setdefault((case.kind, case.dtype, case.threads, case.cold), []).append(cell)
    return found


def _number(value, form="{:.2f}", none="–"):
    return none if value is None else form.format(value)


def _ratio(value):
    return _number(value, "{:.2f}×")


def _percent(value):
    return "–" if value is None else f"{100 * value:.0f}%"


def _time(seconds):
    if seconds is None:
        return "–"
    return f"{1e6 * seconds:.2f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Plain text, columns aligned; those in `left` to the left."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells):
        aligned = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return "  ".join(aligned).rstrip()

    return "\n".join([line(header), "  ".join("─" * width for width in widths), *map(line, rows)])


def title(kind: str, dtype: str, threads: int, cold: bool) -> str:
    count = "1 thread" if threads == 1 else f"{threads} threads"
    return f"{KINDS[kind]} · {dtype} · {count}" + (" · cold weights" if cold else "")


def render(cells: Sequence[dict]) -> str:
    """All tables and their means, as one text."""
    parts = []
    for key, members in groups(cells).items():
        render_group = _render_calls if key[0] == "call" else _render_against_bare if key[0] in BARE else _render_group
        parts.append(f"{title(*key)}\n\n{render_group(members)}")
    return "\n\n".join(parts)


LEGEND = (
    "GF/s: 10⁹ floating-point operations a second (multiply and add: two). Ratios are speeds: above 1 fastfc is\n"
    "faster. BLAS: the faster of numpy and scipy (for CSR: scipy.sparse). Roof: min(FMA peak, flops ÷ (weight\n"
    "bytes ÷ read bandwidth)), both measured in the same rounds as the cell; bound says which of the two it is.\n"
    "Means of the roof are over cells from batch 4 and 2 MFLOP a thread up, where kernels and not calls count."
)


def _render_group(members):
    rows = [row_of(cell) for cell in members]
    scaling, sparse = any(row.speedup for row in rows), case_of(members[0]).sparse
    beside_dense = any(row.over_dense for row in rows)
    name = "weight N×K"
    header = [name, "batch", "time", "GF/s", "× BLAS", "× best rival", "", "roof GF/s", "bound", "of roof"]
    if beside_dense:
        header.append("× own dense")
    if scaling:
        header.append("× 1 thread")
    noisy = any(map(disturbed, members))
    if noisy:
        header.append("")
    lines, last = [], None
    for row, cell in zip(rows, members, strict=True):
        line = [
            row.case.label if row.case.label != last else "",
            str(row.case.m),
            "wrong" if SUBJECT in cell["wrong"] else _time(row.seconds),
            _number(row.gflops, "{:.1f}"),
            _ratio(row.blas_ratio),
            _ratio(row.best_ratio),
            row.best or "",
            _number(row.roof, "{:.1f}"),
            row.bound,
            _percent(row.roof_fraction),
        ]
        if beside_dense:
            line.append(_ratio(row.over_dense))
        if scaling:
            line.append(_ratio(row.speedup))
        if noisy:
            line.append("disturbed" if disturbed(cell) else "")
        lines.append(line)
        last = row.case.label
    text = table(header, lines, left=(0, 6, 8, *([len(header) - 1] if noisy else [])))
    rows = [row for row, cell in zip(rows, members, strict=True) if not disturbed(cell)]
    blas = [row.blas_ratio for row in rows if row.blas_ratio]
    best = [row.best_ratio for row in rows if row.best_ratio]
    roof = [row.roof_fraction for row in rows if row.weighty and row.roof_fraction]
    means = []
    if blas:
        means.append(
            ("scipy.sparse" if sparse else "BLAS") + f" {_ratio(geometric_mean(blas))} (least {_ratio(min(blas))})"
        )
    if best:
        behind = sum(ratio < 1 / NOISE for ratio in best)
        means.append(
            f"best rival {_ratio(geometric_mean(best))} (least {_ratio(min(best))}; "
            f"behind by over {100 * (NOISE - 1):.0f} % in {behind} of {len(best)} cells)"
        )
    if roof:
        means.append(f"of the roof {_percent(geometric_mean(roof))} (least {_percent(min(roof))})")
    return text + ("\n\ngeometric mean: " + " · ".join(means) if means else "")


def _render_calls(members):
    names = list(dict.fromkeys(name for cell in members for name in cell["times"]))
    lines = []
    for cell in members:
        times, case = cell["times"], case_of(cell)
        base = times.get("numpy", {}).get("min")
        lines.append([case.shape, str(case.m)])
        for name in names:
            seconds = times.get(name, {}).get("min")
            share = f" ({seconds / base:.2f})" if seconds and base and name != "numpy" else ""
            lines[-1].append(_time(seconds) + share)
    return table(["weight N×K", "batch", *names], lines) + "\n\nin brackets: time as a share of numpy's x @ W.T + b"


def _render_against_bare(members):
    lines = []
    for cell in members:
        case, full = case_of(cell), cell["times"].get(SUBJECT, {}).get("min")
        bare = cell["times"].get("fastfc-bare", {}).get("min")
        cost = f"{100 * (full / bare - 1):+.1f}%" if full and bare else "–"
        lines.append([case.label, str(case.m), _time(bare), _time(full), cost])
    return table(["weight N×K", "batch", "bare", "in full", "cost"], lines)


#: A ratio within this factor of 1 is a draw.
NOISE = 1.03
#: CPUs kept busy by other processes from which on a cell is called disturbed.
DISTURBED = 0.15


def disturbed(cell: dict) -> bool:
    """Whether neighbours were in the way: one busy CPU stalls teams of threads, a single thread finds another."""
    return cell["case"]["threads"] > 1 and (cell["neighbours"] or 0) > DISTURBED


def disturbance(cells: Sequence[dict]) -> str:
    """A word on the neighbours, or nothing if they were quiet."""
    busy = [cell["neighbours"] for cell in cells if disturbed(cell)]
    if not busy:
        return ""
    return (
        f"note: other processes kept {sum(busy) / len(busy):.1f} CPUs busy in {len(busy)} of {len(cells)} cells, "
        "marked 'disturbed':\nthose of several threads say nothing then, and are left out of means and pictures. "
        "Run again on an idle machine."
    )


def wrong_answers(cells: Iterable[dict]) -> dict[str, list[str]]:
    """What was wrong, by entrant."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        case = case_of(cell)
        for name, what in cell["wrong"].items():
            where = f"{case.kind} {case.label} batch {case.m} {case.dtype}, {case.threads} threads"
            found.setdefault(name, []).append(f"{where}: {what}")
    return found


# -------------------- the file


def cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.lower().startswith(("model name", "cpu model", "hardware")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict:
    """What ran: CPU, caches, system, Python."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cpus": affinity,
        "caches": measure.caches(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def save(path: str, result: dict) -> None:
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    # Beside it and then renamed: who reads an older result never meets half a file.
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1, default=str)
        file.write("\n")
    os.replace(partial, path)


def load(path: str) -> dict:
    """Read a result, or raise `ValueError` with what is wrong about the file."""
    try:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(result, dict) or result.get("format") != FORMAT or "cells" not in result:
        raise ValueError(f"{path} is not a result of `fastfc bench` in format {FORMAT}")
    return result


# -------------------- comparison


@dataclasses.dataclass
class Change:
    """One cell in two results; `ratio` is new time over old, each times its own run's FMA peak where known."""

    case: Case
    old: float
    new: float
    ratio: float


def compare(old: dict, new: dict) -> list[Change]:
    """The cells that both results have, worst change first.

    A time is multiplied by the FMA peak measured in the same cell, so that a slower clock on the day of one
    run is not taken for slower code. Where one of the two lacks the peak, plain times are compared.
    """
    before = {case_of(cell).key: cell for cell in old["cells"]}
    changes = []
    for cell in new["cells"]:
        case = case_of(cell)
        other = before.get(case.key)
        if other is None or SUBJECT not in cell["times"] or SUBJECT not in other["times"]:
            continue
        then, now = other["times"][SUBJECT]["min"], cell["times"][SUBJECT]["min"]
        scale = cell["peak"] / other["peak"] if cell["peak"] and other["peak"] else 1.0
        changes.append(Change(case, then, now, now / then * scale))
    return sorted(changes, key=lambda change: -change.ratio)


def render_comparison(changes: Sequence[Change], threshold: float, old: dict, new: dict) -> str:
    """The comparison as a text. `threshold` is a fraction: 0.1 flags what takes over 10 % longer."""
    if not changes:
        return "compare: the two results have no cell in common"
    lines = []
    if old["machine"]["cpu"] != new["machine"]["cpu"]:
        lines.append(f"note: the old result is of another CPU ({old['machine']['cpu']})")
    slower = [change for change in changes if change.ratio > 1 + threshold]
    faster = [change for change in changes if change.ratio < 1 / (1 + threshold)]
    mean = geometric_mean(change.ratio for change in changes)
    lines.append(
        f"compare: {len(changes)} cells in both; time new ÷ old, both in units of the peak of their run: "
        f"geometric mean {mean:.3f}, {len(slower)} slower and {len(faster)} faster by more than {100 * threshold:.0f} %"
    )
    shown = [*slower, *reversed(faster)]
    if shown:
        lines.append("")
        rows = [
            [
                change.case.kind, change.case.label, str(change.case.m), change.case.dtype,
                str(change.case.threads), _time(change.old), _time(change.new), f"{change.ratio:.2f}",
                "REGRESSION" if change.ratio > 1 else "faster",
            ]
            for change in shown
        ]  # fmt: skip
        header = ["kind", "weight N×K", "batch", "dtype", "threads", "old", "new", "new ÷ old", ""]
        lines.append(table(header, rows, left=(0, 1, 3, 8)))
    return "\n".join(lines)


def regressions(changes: Iterable[Change], threshold: float) -> list[Change]:
    return [change for change in changes if change.ratio > 1 + threshold]


def command_line() -> str:
    return "python -m fastfc " + " ".join(sys.argv[1:])
