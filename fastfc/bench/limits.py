"""What the machine can do at all: its FMA peak and its read bandwidth, measured beside everything else.

A limit is one more entrant in the rounds of a cell, in windows as long as a burst: then a neighbour that
slows the cell slows its roof as well, and the fraction of the roof means something.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .cases import Case, empty
from .measure import BURST, largest_cache

PEAK, READ = "limit peak", "limit read"


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
    buffer = empty((max(nbytes // 4, 1024 * case.threads),), np.float32)
    buffer.fill(1)  # a page that was never written is the system's page of zeros, in the caches for all of them

    def peak() -> float:
        return 1 / fma(char, window, case.threads, window=window)

    def bandwidth() -> float:
        # As few passes as can be: with each more of a buffer larger than the last cache stays in it.
        return 1 / read(buffer, window, case.threads, window=window)

    peak(), bandwidth()  # the first window of several threads pays for starting them
    return {PEAK: peak, READ: bandwidth}


def roofline(flops: float, nbytes: float, peak: float, read: float) -> float:
    """Attainable GFLOP/s: ``min(peak, flops / (nbytes / read))``, `peak` in GFLOP/s and `read` in GB/s.

    References
    ----------
    S. Williams, A. Waterman, D. Patterson: Roofline, Communications of the ACM 52(4), 2009.
    """
    return min(peak, flops / nbytes * read)
