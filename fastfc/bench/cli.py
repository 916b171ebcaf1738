"""``python -m fastfc bench``: options, budget, progress."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import sys
import time

from . import cases, check, limits, measure, report, rivals

#: Seconds for all measurements together; training, drawing and setting up come on top.
TOTAL_SECONDS = 420
QUICK_SECONDS = 32

EPILOG = """\
examples:
  python -m fastfc bench                                   the main job: train, infer, measure, draw
  python -m fastfc bench --quick                           the same within a minute
  python -m fastfc bench --no-digits --no-backward --no-sparse --shapes 3072x768 --batches 1,4,16
  python -m fastfc bench --rivals numpy,onnxruntime --threads 2 --scaling
  python -m fastfc bench --kinds call,epilogue             what a small call and an epilogue cost
  python -m fastfc bench --kinds train --threads 1,2       a training step against numpy and torch
  python -m fastfc bench --compare results/before.json     is anything slower than it was?

Rivals that are not installed are left out. Figures mean something on an idle machine only; ratios survive
some noise.
"""


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in _list(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas between, got {text!r}") from None
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers of at least 1, got {text!r}")
    return counts


def _shapes(text: str):
    try:
        return cases.parse_shapes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _choices(*allowed: str):
    def parse(text: str) -> list[str]:
        chosen = _list(text)
        for name in chosen:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(allowed)}")
        return chosen

    return parse


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench``."""
    parser.description = (
        "Train a small network on handwritten digits, run it, and measure fully connected layers, forward "
        "and backward, dense and sparse, against BLAS, other engines and the limits of this machine."
    )
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_argument_group("what is measured")
    what.add_argument("--quick", action="store_true", help="few cells, few rounds: within a minute in total")
    what.add_argument(
        "--shapes",
        type=_shapes,
        metavar="NxK,…",
        help="weights, out_features x in_features, e.g. 128x256,3072x768",
    )
    what.add_argument("--batches", type=_counts, metavar="M,…", help="batch sizes, e.g. 1,4,16")
    what.add_argument(
        "--dtypes", type=_choices("float32", "float64"), default=["float32"], metavar="D,…",
        help="float32 (default), float64",
    )  # fmt: skip
    what.add_argument("--threads", type=_counts, metavar="T,…", help="thread counts (default: 1 and fastfc's own)")
    what.add_argument(
        "--rivals", type=_list, metavar="R,…",
        help=f"which rivals (default: all that are installed), of {', '.join(rivals.DEFAULT)}",
    )  # fmt: skip
    what.add_argument(
        "--kinds", type=_choices(*cases.KINDS), metavar="K,…",
        help=f"exactly these kinds of work, instead of the switches below, of {', '.join(cases.KINDS)}",
    )  # fmt: skip
    switch = argparse.BooleanOptionalAction
    what.add_argument("--forward", action=switch, default=True, help="forward, weight packed")
    what.add_argument("--backward", action=switch, default=True, help="all three gradients")
    what.add_argument(
        "--sparse", action=switch,
        help="CSR weights, forward and, with --backward, backward (default: on unless --shapes or --batches say "
        "what to measure)",
    )  # fmt: skip
    what.add_argument("--plain", action=switch, default=False, help="forward on weights that are not packed")
    what.add_argument("--calls", action=switch, default=False, help="small calls in microseconds")
    what.add_argument("--epilogue", action=switch, default=False, help="bias, residual, activation: what they cost")
    what.add_argument("--scaling", action="store_true", help="fastfc on one thread beside the several of a cell")
    what.add_argument("--cold", action="store_true", help="evict the weights from all caches before each call")
    what.add_argument(
        "--densities", type=lambda t: [_positive(part) for part in _list(t)], default=list(cases.DENSITIES),
        metavar="D,…", help="shares of stored entries of CSR weights (default 0.2,0.1,0.05)",
    )  # fmt: skip
    what.add_argument("--digits", action=switch, default=True, help="train on handwritten digits first")
    budget = parser.add_argument_group("how long")
    budget.add_argument(
        "--seconds", type=_positive, metavar="S",
        help=f"for all cells together (default {TOTAL_SECONDS}, quick {QUICK_SECONDS}); what a cell leaves goes "
        "to the others",
    )  # fmt: skip
    budget.add_argument("--seconds-per-cell", type=_positive, metavar="S", help="for each cell, instead of --seconds")
    budget.add_argument("--rounds", type=_counts, default=[60], metavar="R", help="most rounds of a cell (default 60)")
    out = parser.add_argument_group("what comes of it")
    out.add_argument(
        "--json", metavar="FILE", default=os.path.join("results", "bench.json"), help="default: %(default)s"
    )
    out.add_argument(
        "--picture", metavar="FILE", default=os.path.join("results", "bench.png"),
        help="roofline picture; further kinds go to FILE-kind… (default: %(default)s; '' for none)",
    )  # fmt: skip
    out.add_argument("--compare", metavar="OLD.json", help="an earlier result: show what became slower or faster")
    out.add_argument("--threshold", type=_positive, default=10, metavar="PERCENT", help="for --compare (default 10)")
    out.add_argument("--fail-on-regression", action="store_true", help="with --compare: exit status 2 if there is one")
    parser.set_defaults(run=main)


def chosen_cases(options: argparse.Namespace) -> list[cases.Case]:
    """The cells that the options ask for, in the order they are measured."""
    import fastfc

    kinds = options.kinds
    if kinds is None:
        sparse = options.sparse
        if sparse is None:
            sparse = not (options.shapes or options.batches)
        switches = {
            "forward": options.forward,
            "plain": options.plain,
            "backward": options.backward,
            "sparse": sparse,
            "csr": sparse,
            "csr-backward": sparse and options.backward,
            "call": options.calls,
            "epilogue": options.epilogue,
        }
        kinds = [kind for kind, wanted in switches.items() if wanted]
    threads = options.threads or sorted({1, fastfc.get_num_threads()})
    found = []
    for kind in kinds:
        own = kind in cases.SPARSE_KINDS or kind in ("call", "epilogue", "train", *cases.BLOCKS)
        shapes, batches = options.shapes, options.batches
        if options.quick and not own:
            shapes, batches = shapes or cases.QUICK_SHAPES, batches or cases.QUICK_BATCHES
        elif options.quick:
            batches = batches or dict.fromkeys((*cases.SPARSE_KINDS, "epilogue"), (64,)).get(kind)
        # scipy.sparse has one thread; who asks for more gets more.
        counts = threads if options.threads or kind not in cases.SPARSE_KINDS else threads[:1]
        some = cases.cases(kind, shapes, batches, options.dtypes, counts, options.densities, options.cold)
        if options.quick and kind == "train":
            some = [case for case in some if case.flops < 1e9]
        found += some
    subject = rivals.RIVALS[rivals.SUBJECT]()
    return [case for case in found if subject.supports(case)]


def measure_case(
    case: cases.Case,
    entrants: list[rivals.Rival],
    seconds: float,
    rounds: int = 60,
    evict=None,
) -> dict:
    """Check, then time, everybody who can do `case`; return its cell (see `fastfc.bench.report`).

    Whoever answers wrong, or fails, is named in ``cell["wrong"]`` and not timed.
    """
    start = time.perf_counter()
    data = cases.make_data(case)
    turns, wrong, statements = {}, {}, {}
    for rival in entrants:
        if not rival.supports(case):
            continue
        try:
            rival.set_threads(case.threads)
            task = rival.prepare(case, data)
            if case.kind == "train":
                task.burst(cases.STEPS - 1)
            answer = task.once()
            if rival.name != rivals.FastfcBare.name:  # computes less, on purpose
                check.check(case, data, answer)
            turns[rival.name] = measure.Single(task, evict) if evict else measure.Burst(task)
            statements[rival.name] = task.statement
        except check.Wrong as error:
            wrong[rival.name] = str(error)
        except Exception as error:  # a rival's trouble must not end the run
            wrong[rival.name] = f"{type(error).__name__}: {error}".splitlines()[0]
    turns |= limits.entrants(case)
    neighbours = measure.Neighbours()
    timings = measure.interleave(
        turns,
        seconds=max(seconds - (time.perf_counter() - start), 0),
        rounds=(4, max(4, rounds)),
        parallel=case.threads > 1,
        subject=rivals.SUBJECT,
    )
    return report.make_cell(case, timings, wrong, statements, neighbours())


class _Lines:
    """Progress without rich or without a terminal: a line now and then."""

    def __init__(self, total: int, every: float = 10.0):
        self.total, self.every, self.last, self.done = total, every, time.perf_counter(), 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def advance(self, text: str) -> None:
        self.done += 1
        if time.perf_counter() - self.last >= self.every or self.done == self.total:
            self.last = time.perf_counter()
            print(f"[{self.done}/{self.total}] {text}", file=sys.stderr, flush=True)


class _Bar:
    """Progress with rich."""

    def __init__(self, total: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        # Refreshed by hand: a drawing thread would run beside what is timed.
        self.progress = Progress(*columns, console=Console(stderr=True), auto_refresh=False)
        self.task = self.progress.add_task("", total=total)

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *exception):
        self.progress.stop()

    def advance(self, text: str) -> None:
        self.progress.update(self.task, advance=1, description=text, refresh=True)


def _progress(total: int):
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            return _Bar(total)
    return _Lines(total)


def _say(text: str = "") -> None:
    print(text, flush=True)


def main(options: argparse.Namespace) -> int:
    """Run the command; return its exit status: 1 if fastfc was wrong, 2 for a regression that must not be."""
    import fastfc

    try:
        old = report.load(options.compare) if options.compare else None
        found, missing = rivals.find(options.rivals)
        todo = chosen_cases(options)
    except ValueError as error:
        print(f"fastfc bench: {error}", file=sys.stderr)
        return 2
    variants = [rivals.FastfcOut(), rivals.FastfcBare(), rivals.FastfcDense()]
    if options.scaling:
        variants.append(rivals.FastfcSerial())
    entrants = [found[0], *variants, *found[1:]]

    machine, config = report.machine(), dict(fastfc.show_config())
    versions = {rival.name: rival.version() for rival in found}
    _say(
        f"fastfc {versions[rivals.SUBJECT]} on {machine['cpu']}, {machine['cpus']} CPUs, "
        f"kernels: {fastfc.current_isa()}"
    )
    _say("rivals: " + (", ".join(f"{r.name} {versions[r.name]}" for r in found[1:]) or "none installed"))
    if missing:
        reasons = dict.fromkeys(missing.values())
        named = {reason: ", ".join(name for name in missing if missing[name] == reason) for reason in reasons}
        _say("left out: " + "; ".join(f"{names} ({reason})" for reason, names in named.items()))
    told = os.environ.get("OPENBLAS_CORETYPE")
    if told:
        _say(f"note: OPENBLAS_CORETYPE={told} is set: numpy and scipy use these kernels, which may not be the best for "
             "this CPU; unset it to measure against what they choose")
    if limits.probes() is None:
        _say("no roofline: this build of fastfc has no probes")
    most = max((case.threads for case in todo), default=1)
    if most > machine["cpus"]:
        _say(f"note: {most} threads share {machine['cpus']} CPUs; such cells say little")

    status, trained = 0, None
    if options.digits:
        from . import digits

        try:
            trained = digits.run()
        except ImportError as error:
            _say(f"no training: {error.name or error} is not installed (pip install scikit-learn)")
        else:
            _say(digits.describe(trained))
            if trained["accuracy"] < digits.LEAST_ACCURACY:
                print(f"fastfc bench: accuracy is below {100 * digits.LEAST_ACCURACY:.0f} %", file=sys.stderr)
                status = 1

    cells, interrupted = _measure_all(options, todo, entrants)
    result = {
        "format": report.FORMAT,
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": report.command_line(),
        "machine": machine,
        "fastfc": {"version": versions[rivals.SUBJECT], "isa": fastfc.current_isa(), "config": config},
        "versions": versions,
        "missing": missing,
        "digits": trained,
        "interrupted": interrupted,
        "cells": cells,
    }
    if cells:
        _say()
        _say(report.render(cells))
        _say()
        _say(report.LEGEND)
        if report.disturbance(cells):
            _say(report.disturbance(cells))
    wrong = report.wrong_answers(cells)
    for name, cases_ in wrong.items():
        kind = "FAILURE" if name == rivals.SUBJECT or name in rivals.VARIANTS else "left out where it was wrong"
        _say(f"\n{kind}: {name}, {len(cases_)} cells, the first: {cases_[0]}")
    if any(name == rivals.SUBJECT or name in rivals.VARIANTS for name in wrong):
        status = 1
    _say()
    if options.json:
        report.save(options.json, result)
        _say(f"written: {options.json}")
    if options.picture and cells:
        from . import picture

        subtitle = f"{machine['cpu']} · {fastfc.current_isa()} · fastfc {versions[rivals.SUBJECT]}"
        try:
            for file in picture.draw(cells, options.picture, subtitle):
                _say(f"written: {file}")
        except ImportError:
            _say("no picture: matplotlib is not installed (pip install matplotlib)")
    if old is not None:
        threshold = options.threshold / 100
        changes = report.compare(old, result)
        _say()
        _say(report.render_comparison(changes, threshold, old, result))
        if options.fail_on_regression and report.regressions(changes, threshold):
            status = status or 2
    return 130 if interrupted and not status else status


def _measure_all(options, todo, entrants):
    """All cells within the budget, which is dealt out as it is used: what a cell leaves goes to the next
    ones.
    """
    total = options.seconds or (QUICK_SECONDS if options.quick else TOTAL_SECONDS)
    evict = measure.Evictor() if options.cold else None
    end = time.perf_counter() + total
    cells = []
    with _progress(len(todo)) as progress:
        try:
            for place, case in enumerate(todo):
                if not options.seconds_per_cell and time.perf_counter() > end + total / 4:
                    # A slow or busy machine: even the least rounds of the largest cells do not fit.
                    _say(f"out of time: {len(todo) - place} cells were not measured; --seconds gives more")
                    break
                left = max(end - time.perf_counter(), 0) / (len(todo) - place)
                cell = measure_case(case, entrants, options.seconds_per_cell or left, options.rounds[0], evict)
                cells.append(cell)
                row = report.row_of(cell)
                speed = "failed" if row.gflops is None else f"{row.gflops:.1f} GF/s"
                versus = f", {row.best_ratio:.2f}× {row.best}" if row.best_ratio else ""
                progress.advance(
                    f"{case.kind} {case.label} batch {case.m} {case.dtype} {case.threads}t: {speed}{versus}"
                )
        except KeyboardInterrupt:
            # What was measured is shown and written all the same.
            return cells, True
    return cells, False
