"""How time is taken: short bursts in turn, a pause between them, the minimum over the rounds.

On a shared machine only ratios inside one interleaved run mean anything: a neighbour can halve the clock for
seconds, and does so to all entrants alike when they take turns every few milliseconds. The minimum over the
rounds is the time the code needs when nobody is in the way. Between two turns the process comes to rest, so that the
threads that one runtime leaves spinning do not sit on the next one's cores.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import pathlib
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Length of one burst in seconds: long against the clock's resolution, short against a neighbour's mood.
BURST = 0.002
#: Sleep between two turns of one thread each; nobody has a team that spins.
PAUSE = 0.0005
#: Longest wait for spinning threads to go to sleep: OpenBLAS's do so after some 100 ms, libgomp's after some ms.
REST = 0.25


@dataclass
class Task:
    """What is timed: one statement of Python, as a user would write it, and the names it uses.

    A statement and not a function, so that a call of microseconds is not timed together with a wrapper of its
    own (as `timeit` does it), and so that a report can show what ran.

    Parameters
    ----------
    statement
        What is timed, for example ``"y = linear(x, w, b)"``.
    result
        The expression that holds the answer afterwards: ``"y"``, or ``"gx, gw, gb"``.
    names
        The values of the names in `statement` and `result`.
    convert
        Turns each part of the result into an array of the case's layout.
    """

    statement: str
    result: str
    names: dict[str, Any]
    convert: Callable[[Any], np.ndarray] = np.asarray
    _run: Callable | None = field(default=None, repr=False)

    def _call(self, calls: int):
        if self._run is None:
            # The names become locals, as in a function that a user would write.
            arguments = "".join(f", {name}={name}" for name in self.names)
            source = (
                f"def run(_calls{arguments}):\n"
                f"    _start = _clock()\n"
                f"    for _ in _repeat(None, _calls):\n"
                f"        {self.statement}\n"
                f"    return _clock() - _start, ({self.result},)\n"
            )
            scope = {**self.names, "_repeat": itertools.repeat, "_clock": time.perf_counter}
            exec(compile(source, "<timed statement>", "exec"), scope)
            self._run = scope["run"]
        return self._run(calls)

    def burst(self, calls: int) -> float:
        """Run the statement `calls` times; return the seconds that took."""
        return self._call(calls)[0]

    def call(self) -> Callable[[], Any]:
        """The statement as a function of no arguments, for harnesses that time functions."""
        self.once()
        return functools.partial(self._run, 1)

    def once(self) -> tuple[np.ndarray, ...]:
        """Run the statement once; return its answer as arrays."""
        return tuple(self.convert(part) for part in self._call(1)[1])


@dataclass
class Timing:
    """Samples of one entrant: seconds a call (or, for a limit, a unit of 10⁹), one a round."""

    samples: list[float]
    calls: int = 1

    @property
    def best(self) -> float:
        return min(self.samples)

    def to_json(self) -> dict:
        return {
            "min": self.best,
            "median": statistics.median(self.samples),
            "rounds": len(self.samples),
            "calls": self.calls,
        }


class Burst:
    """An entrant that repeats a task for about `seconds` a turn."""

    def __init__(self, task: Task, seconds: float = BURST):
        self.task, self.seconds = task, seconds
        task.burst(1)  # pages, packs, thread start-up
        self.best = task.burst(1)

    @property
    def calls(self) -> int:
        """Calls a turn, from the best seen so far: a first turn that a neighbour slowed settles nothing."""
        return max(1, min(math.ceil(self.seconds / max(self.best, 1e-8)), 100_000))

    def __call__(self) -> float:
        calls = self.calls
        if self.best < 2.5 * self.seconds:
            self.task.burst(1)  # wakes the team, and brings back what the others pushed out of the caches
        sample = self.task.burst(calls) / calls
        self.best = min(self.best, sample)
        return sample


class Single(Burst):
    """An entrant that runs its task once a turn, right after `before` (which evicts the caches)."""

    def __init__(self, task: Task, before: Callable[[], None]):
        super().__init__(task)
        self.seconds, self.before = 0.0, before

    def __call__(self) -> float:
        self.before()
        return self.task.burst(1)


def rest(most: float = REST) -> None:
    """Sleep until the other threads of this process have stopped using the CPU, some `most` seconds at the most."""
    end, quiet = time.perf_counter() + most, 0
    while quiet < 2 and time.perf_counter() < end:
        time.sleep(0.001)
        running = _others_run()
        if running is None:  # some systems count a running thread's time only at ticks of 10 ms
            cpu, wall = time.process_time(), time.perf_counter()
            time.sleep(0.02)
            running = time.process_time() - cpu > 0.1 * (time.perf_counter() - wall)
        quiet = 0 if running else quiet + 1


def _others_run() -> bool | None:
    """Whether any other thread of this process runs or waits for a CPU; None where the system does not tell."""
    own = threading.get_native_id()
    try:
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                stat = pathlib.Path("/proc/self/task", thread, "stat").read_text()
                if int(thread) != own and stat.rpartition(")")[2].split()[0] == "R":
                    return True
    except (OSError, ValueError):
        return None
    return False


class Apart:
    """Context in which the main thread has a CPU of its own and all other threads of the process share the rest.

    Some kernels wake a worker on the very CPU where the main thread waits for it, spinning, and leave the two there
    for a scheduler's tick or many: a parallel call of 70 µs then takes 8 ms, today for one runtime and tomorrow for
    another. This is ``OMP_PROC_BIND`` for everybody's teams alike. It does nothing where it cannot.
    """

    def __init__(self, wanted: bool = True):
        self.cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self.wanted = wanted and len(self.cpus) > 1 and os.path.isdir("/proc/self/task")

    def __enter__(self):
        self.moved: set[int] = set()
        if self.wanted:
            self.main = threading.get_native_id()
            self.own = max(self.cpus)  # 0, the least, is where interrupts like to go
            os.sched_setaffinity(0, {self.own})
            self.settle()
        return self

    def settle(self) -> None:
        """Move threads that are new since the last call: they were born with the main thread's one CPU."""
        if self.wanted:
            for thread in {int(name) for name in os.listdir("/proc/self/task")} - self.moved - {self.main}:
                self._place(thread, self.cpus - {self.own})

    def _place(self, thread: int, cpus: set[int]) -> None:
        with contextlib.suppress(OSError):  # it may have ended
            os.sched_setaffinity(thread, cpus)
            self.moved.add(thread)

    def __exit__(self, *exception):
        if self.wanted:
            for thread in (self.main, *self.moved):
                self._place(thread, self.cpus)


def interleave(
    entrants: Mapping[str, Callable[[], float]],
    *,
    seconds: float,
    rounds: tuple[int, int] = (4, 60),
    parallel: bool = False,
    subject: str | None = None,
    settled: float = 4.0,
) -> dict[str, Timing]:
    """Let the entrants take turns until the time or the rounds are used up.

    Parameters
    ----------
    entrants
        Callables that run one short burst and return a time; smaller is better.
    seconds
        Budget. At least ``rounds[0]`` rounds are run even so (two, where they take four times the budget), and at
        most ``rounds[1]``.
    parallel
        Whether entrants have teams of threads: then everybody waits until the last one's sleep.
    subject, settled
        An entrant that after the least rounds is `settled` times slower than the entrant `subject` sits out three
        rounds of four: it is the slow ones that eat the budget, and their figures decide nothing.

    Returns
    -------
    dict
        A `Timing` for each entrant.
    """
    samples: dict[str, list[float]] = {name: [] for name in entrants}
    with Apart(parallel) as apart:
        _rounds(entrants, samples, seconds, rounds, parallel, subject, settled, apart)
    return {name: Timing(times, getattr(entrants[name], "calls", 1)) for name, times in samples.items()}


def _rounds(entrants, samples, seconds, rounds, parallel, subject, settled, apart):
    rest()
    deadline = time.perf_counter() + seconds
    for turn in range(rounds[1]):
        late = time.perf_counter() - deadline
        if late > 0 and (turn >= rounds[0] or (turn >= 2 and late > 3 * seconds)):
            break
        running = list(entrants)
        if turn >= rounds[0] and turn % 4 and subject in samples:
            bar = settled * min(samples[subject])
            running = [name for name in running if name.startswith("limit ") or min(samples[name]) <= bar]
        # There and back again, so that nobody always follows the same neighbour.
        for name in running if turn % 2 == 0 else reversed(running):
            if parallel:
                apart.settle()
                rest()
            else:
                time.sleep(PAUSE)
            samples[name].append(entrants[name]())


class Evictor:
    """Pushes everything else out of the caches of all CPUs this process may use: ``evict()``.

    Each CPU reads a buffer of its own, on a thread pinned to it: a level-3 cache that holds victims (AMD's)
    is emptied through the level-2 caches, and one core's reading does not touch its neighbour's.
    """

    def __init__(self, nbytes: int | None = None):
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
        self.cpus = cpus[:64]
        self.nbytes = nbytes or max(64 << 20, 2 * largest_cache())
        each = max(self.nbytes // len(self.cpus), 8 << 20)
        self.buffers = [np.ones(each // 8) for _ in self.cpus]

    def __call__(self) -> None:
        threads = [threading.Thread(target=self._walk, args=pair) for pair in zip(self.cpus, self.buffers, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @staticmethod
    def _walk(cpu, buffer):
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})  # of this thread only
        buffer.max()


class Neighbours:
    """CPUs that other processes of the machine keep busy: ``neighbours()`` gives the mean since the last call.

    ``None`` where the system does not tell.
    """

    def __init__(self):
        self.last = self._now()

    def __call__(self) -> float | None:
        before, self.last = self.last, self._now()
        if not before or not self.last:
            return None
        busy, own, wall = (new - old for new, old in zip(self.last, before, strict=True))
        return max(busy - own, 0.0) / wall if wall > 0 else None

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        try:
            fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        # user, nice, system, idle, iowait, irq, softirq, steal: a CPU that the host took away is busy as well.
        busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
        return busy, time.process_time(), time.perf_counter()


def caches() -> dict[str, int]:
    """Bytes of CPU 0's caches by name (``"L1d"``, ``"L2"``, ``"L3"``); empty where the system does not tell."""
    found = {}
    root = "/sys/devices/system/cpu/cpu0/cache"
    try:
        for entry in sorted(os.listdir(root)):
            if not entry.startswith("index"):
                continue
            level, kind, size = (
                pathlib.Path(root, entry, name).read_text().strip() for name in ("level", "type", "size")
            )
            suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
            found[f"L{level}{suffix}"] = int(size.rstrip("KMG")) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[size[-1]]
    except (OSError, ValueError, KeyError):
        pass
    return found


def largest_cache() -> int:
    return max(caches().values(), default=32 << 20)
