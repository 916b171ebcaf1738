"""Test data, and the sizes at which the code changes its ways."""

import os
import threading

import numpy as np

import fastfc

FMA_ISAS = [name for name in fastfc.available_isas() if name != "baseline"]


class Edges:
    """Sizes at which a target changes its ways. The lanes are read off a packed weight's padding, `panel` is the
    widest tile, four vectors; the rest mirrors src_c/gemm.c, and only decides which sizes are worth a test."""

    def __init__(self, dtype):
        self.itemsize = np.dtype(dtype).itemsize
        self.lanes = fastfc.pack(np.ones((1, 1), dtype)).nbytes // self.itemsize
        self.panel = 4 * self.lanes

    @property
    def n(self):
        """0, 1, and around each number of vectors in a panel, and two panels."""
        sizes = {0, 1}
        for vectors in (1, 2, 3, 4, 5, 8):
            sizes |= {vectors * self.lanes + d for d in (-1, 0, 1)}
        return sorted(sizes)

    @property
    def m(self):
        """Every remainder of tiles of 1 to 12 rows, and around three tiles, where a plain weight stops being read in
        place."""
        return [*range(15), 17, 18, 19, 20, 23, 24, 25, 26, 35, 36, 37, 38, 48, 49]

    @property
    def chunk(self):
        """Steps of k after which sums leave the registers of a call: a panel in a quarter of L2, at most 6 blocks."""
        try:
            l2 = os.sysconf("SC_LEVEL2_CACHE_SIZE")
        except (ValueError, OSError):
            l2 = 0
        l2 = l2 if l2 >= 128 << 10 else 512 << 10
        return min(max(l2 // 4 // (self.panel * self.itemsize) // 192 * 192, 192), 6 * 192)


# Around one, two and three numeric blocks, and within each.
K_EDGES = [0, 1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 33, 191, 192, 193, 383, 384, 385, 577]


def gaussian(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def integers(rng, shape, dtype, high=8):
    """Small integers: every sum of their products is exact in both dtypes."""
    return rng.integers(-high, high + 1, shape).astype(dtype)


def wild(rng, shape, dtype, specials=0.0):
    """Exponents over half the type's range, so that sums and products cancel, overflow and underflow; of all elements a
    share `specials` is ±0, denormal, ±Inf, NaN or the largest number."""
    info = np.finfo(dtype)
    exponents = rng.integers(info.minexp // 2 - 8, info.maxexp // 2 + 2, shape)
    a = np.ldexp(rng.standard_normal(shape), exponents).astype(dtype)
    chosen = rng.random(shape) < specials
    tiny = info.smallest_subnormal
    values = [0.0, -0.0, tiny, -tiny, 5 * tiny, info.tiny / 2, -info.tiny, info.max, -info.max, np.inf, -np.inf, np.nan]
    a[chosen] = rng.choice(np.array(values, dtype), int(chosen.sum()))
    return a


def random_csr(rng, shape, dtype, density=0.3, *, index=np.int32, repeats=False, values=gaussian, capacity=0):
    """(data, indices, indptr, shape): unsorted, with empty rows and explicit zeros; with `repeats`, entries that occur
    twice; with `capacity`, so many unused places behind the last entry, filled with garbage."""
    rows, cols = shape
    chosen = []
    for r in range(rows):
        count = 0 if r % 5 == 3 or not cols else rng.binomial(cols, density)
        row = rng.choice(cols, count, replace=repeats) if count else np.zeros(0, int)
        chosen.append(row)
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in chosen])]).astype(index)
    indices = np.concatenate([*chosen, np.full(capacity, 2**31 - 1)]).astype(index)
    data = values(rng, len(indices), dtype)
    data[: indptr[-1]][::7] = 0
    data[indptr[-1] :] = np.nan
    return data, indices, indptr, shape


def in_threads(count, work):
    """Run work() on `count` threads at once."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def at_once(*work):
    """Run each of these at once, on a thread of its own; raises the first error of any."""
    problems = []

    def run(one):
        try:
            one()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert not problems, problems[0]
