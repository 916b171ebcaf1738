"""The roofline as a picture: one panel a shape and thread count, arithmetic intensity against GFLOP/s.

All shapes have the same intensities (batch ÷ 2 for float32), so one panel for all would pile the points on
each other; and each shape has a roof of its own, because the read bandwidth is that of a buffer of its size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from .cases import KINDS
from .report import BARE, case_of, disturbed, groups
from .rivals import SUBJECT

#: Colour and marker; relatives share a colour and differ in marker and line.
_STYLE = {
    "numpy": ("#1f77b4", "s"),
    "scipy": ("#17becf", "D"),
    "scipy.sparse": ("#1f77b4", "s"),
    "torch": ("#ff7f0e", "^"),
    "torch.compile": ("#d62728", "v"),
    "onednn": ("#8c564b", "v"),
    "torch.sparse": ("#ff7f0e", "^"),
    "onnxruntime": ("#2ca02c", "P"),
    "openvino": ("#9467bd", "X"),
    "mkl": ("#7f7f7f", "<"),
    "mkl-packed": ("#404040", ">"),
    "mkl.sparse": ("#7f7f7f", "<"),
}


def draw(cells: Sequence[dict], path: str, subtitle: str = "") -> list[str]:
    """Draw the cells and return the files written: `path` for the first kind and dtype, ``path-kind…`` for
    others.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    from matplotlib.figure import Figure

    pictures: dict[tuple, dict[tuple, list[dict]]] = {}
    for (kind, dtype, threads, cold), members in groups(cells).items():
        if kind not in ("call", *BARE):
            for cell in members:
                if disturbed(cell):
                    continue
                panels = pictures.setdefault((kind, dtype, cold), {})
                panels.setdefault((threads, case_of(cell).label), []).append(cell)
    folder, (stem, extension) = os.path.dirname(path), os.path.splitext(os.path.basename(path))
    if folder:
        os.makedirs(folder, exist_ok=True)
    written = []
    for (kind, dtype, cold), panels in pictures.items():
        suffix = "" if not written else f"-{kind}-{dtype}" + ("-cold" if cold else "")
        file = os.path.join(folder, stem + suffix + (extension or ".png"))
        heading = f"fastfc: {KINDS[kind]} · {dtype}" + (" · cold weights" if cold else "")
        _figure(Figure, panels, heading, subtitle).savefig(file, dpi=110)
        written.append(file)
    return written


def _figure(figure_class, panels, heading, subtitle):
    # One row a thread count while that stays readable; the legend has a strip of its own below.
    counts = sorted({threads for threads, _ in panels})
    labels = list(dict.fromkeys(label for _, label in panels))
    columns = min(4, len(labels))
    bands = -(-len(labels) // columns)
    rows = bands * len(counts)
    height = 2.75 * rows + 2.1
    figure = figure_class(figsize=(max(3.9 * columns, 7.5), height))
    top, bottom = 1 - 0.95 / height, 1.3 / height
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.95 / figure.get_figwidth(), right=0.985, top=top, bottom=bottom, hspace=0.46, wspace=0.2
    )
    handles: dict[str, object] = {}
    for band, count in enumerate(counts):
        for place in range(bands * columns):
            axes = grid[band * bands + place // columns][place % columns]
            members = panels.get((count, labels[place])) if place < len(labels) else None
            if members is None:
                axes.set_visible(False)
                continue
            _panel(axes, sorted(members, key=lambda cell: cell["case"]["m"]), handles)
            axes.set_title(f"{labels[place]} · {count} thread{'s' * (count > 1)}", fontsize=10, fontweight="bold")
            if place % columns == 0:
                axes.set_ylabel("GFLOP/s")
    figure.suptitle(heading, fontsize=14, fontweight="bold", y=1 - 0.22 / height)
    figure.text(0.5, 1 - 0.56 / height, subtitle, ha="center", fontsize=9, color="#444444")
    figure.text(
        0.5,
        0.68 / height,
        "arithmetic intensity, flops a byte of weight (below it the batch size M)",
        ha="center",
    )
    order = [SUBJECT, *[name for name in handles if name != SUBJECT]]
    shown = [name for name in order if name in handles]
    figure.legend(
        [handles[name] for name in shown], shown, loc="lower center", ncols=min(len(shown), 3 + columns),
        fontsize=9.5, frameon=False,
    )  # fmt: skip
    return figure


def _panel(axes, members, handles):
    from matplotlib.ticker import FuncFormatter, NullLocator

    cases = [case_of(cell) for cell in members]
    intensity = [case.intensity for case in cases]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    speeds = []
    names = list(dict.fromkeys(name for cell in members for name in cell["times"] if name in _STYLE))
    for name in [*names, SUBJECT]:
        points = [
            (case.intensity, case.flops / cell["times"][name]["min"] / 1e9)
            for case, cell in zip(cases, members, strict=True)
            if name in cell["times"]
        ]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        speeds += y
        if name == SUBJECT:
            look = {"color": "#d62728", "marker": "o", "markersize": 6.5, "linewidth": 1.8, "zorder": 5}
        else:
            colour, marker = _STYLE[name]
            look = {
                "color": colour, "marker": marker, "markersize": 5, "linewidth": 0.7, "alpha": 0.85,
                "markerfacecolor": "none", "zorder": 4,
            }  # fmt: skip
        handles[name] = axes.plot(x, y, label=name, **look)[0]
    known = [cell for cell in members if cell["peak"] and cell["read"]]
    if known:
        # The best seen in any cell of the panel: a roof does not move with the batch.
        peak, read = max(cell["peak"] for cell in known), max(cell["read"] for cell in known)
        low, high = min(intensity) / 1.6, max(intensity) * 1.6
        ridge = min(max(peak / read, low), high)
        handles["measured roof: read bandwidth, FMA peak"] = axes.plot(
            [low, ridge, high], [min(peak, low * read), min(peak, ridge * read), min(peak, high * read)],
            color="black", linewidth=1.6, zorder=3,
        )[0]  # fmt: skip
        axes.text(
            0.97, 0.05, f"FMA peak {peak:.0f} GFLOP/s\nread {read:.0f} GB/s", transform=axes.transAxes,
            fontsize=8, ha="right", va="bottom", bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none"},
        )  # fmt: skip
        speeds += [peak]
        axes.set_xlim(low, high)
    # A rival far below fastfc may leave the panel; the rest needs the room.
    own = [case.flops / cell["times"][SUBJECT]["min"] / 1e9 for case, cell in zip(cases, members, strict=True)
           if SUBJECT in cell["times"]]  # fmt: skip
    axes.set_ylim(max(min(speeds), min(own, default=0) / 12) / 1.5, max(speeds) * 1.6)
    labels, last = [], 0.0
    for case in cases:
        # A label needs an eighth of the panel.
        room = case.intensity > last * (max(intensity) / min(intensity)) ** (1 / 8)
        labels.append(f"{case.intensity:.3g}\nM {case.m}" if room else "")
        last = case.intensity if room else last
    axes.set_xticks(intensity, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(labelsize=8)
    axes.grid(True, which="major", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
