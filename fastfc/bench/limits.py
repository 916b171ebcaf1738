"""What the machine can do at all: its FMA peak and its read bandwidth, measured beside everything else.

A limit is one more entrant in the rounds of a cell, in windows as long as a burst: then a neighbour that
slows the cell slows its roof as well, and the fraction of the roof means something.
"""

from __future__ import annotations

from collections.abc import Callable

from .cases import Case
from .measure import BURST, largest_cache

PEAK, READ = "limit peak", "limit read"
#: A pass over a buffer of this many bytes is assumed to take no longer than 1/LEAST_BANDWIDTH seconds a byte.
LEAST_BANDWIDTH = 10e9


def probes():
    """The two probes of the compiled module, or ``None`` where this build has none."""
    try:
        from fastfc import _core

        return _core.probe_fma, _core.probe_read
    except (ImportError, AttributeError):
        return None


def entrants(case: Case, window: float = BURST) -> dict[str, Callable[[], float]]:
    """The limits of a case as entrants: seconds for 10⁹ flops, seconds for 10⁹ bytes of the weight's
    footprint.
    """
    found = probes()
    if found is None:
        return {}
    fma, read = found
    char = {"float32": "f", "float64": "d"}[case.dtype]
    # Cold weights come from memory: what counts is the bandwidth of a buffer that no cache holds. Beyond four times
    # the largest cache all buffers are memory's alike, and a larger one would only take seconds to set up.
    largest = largest_cache()
    nbytes = max(case.traffic_bytes, 2 * largest) if case.cold else min(case.traffic_bytes, 4 * largest)
    seconds = max(window, 3 * nbytes / LEAST_BANDWIDTH)  # large buffers: at least a few passes

    def peak() -> float:
        return 1 / fma(char, window, case.threads, window=window)

    def bandwidth() -> float:
        return 1 / read(nbytes, seconds, case.threads, window=window)

    peak(), bandwidth()  # the first window of several threads pays for starting them
    return {PEAK: peak, READ: bandwidth}


def roofline(flops: float, nbytes: float, peak: float, read: float) -> float:
    """Attainable GFLOP/s: ``min(peak, flops / (nbytes / read))``, `peak` in GFLOP/s and `read` in GB/s.

    References
    ----------
    S. Williams, A. Waterman, D. Patterson: Roofline, Communications of the ACM 52(4), 2009.
    """
    return min(peak, flops / nbytes * read)
