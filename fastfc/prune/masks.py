"""Masks from scores: arrays in, arrays out, nothing of layers."""

import math

import numpy as np

__all__ = ["Units", "keep_highest", "n_of_m"]


def keep_highest(scores, count):
    """Mask of the `count` highest scores; of equal ones those that come first."""
    flat = scores.reshape(-1)
    if count >= flat.size:
        return np.ones(scores.shape, bool)
    if count == 0:
        return np.zeros(scores.shape, bool)
    least = np.partition(flat, flat.size - count)[flat.size - count]
    mask = flat > least
    mask[np.flatnonzero(flat == least)[:count - np.count_nonzero(mask)]] = True
    return mask.reshape(scores.shape)


def n_of_m(scores, n, m, shared):
    """Mask of the n highest of each m scores that follow each other in a row, one choice for `shared` rows."""
    rows, cols = scores.shape
    starts = np.arange(0, rows, shared)
    sums = np.add.reduceat(scores, starts, axis=0).reshape(-1, m) if rows else scores.reshape(-1, m)
    order = np.argsort(-sums, axis=1, kind="stable")
    mask = np.zeros(sums.shape, bool)
    np.put_along_axis(mask, order[:, :n], True, axis=1)
    return np.repeat(mask.reshape(len(starts), cols), shared, axis=0)[:rows]


class Units:
    """What is pruned as one: blocks of `height` × `width` weights (None: all of that axis); those at the edges may be
    smaller. A unit's score is the mean of its weights' scores, or their maximum."""

    def __init__(self, height=1, width=1, largest=False):
        self.height, self.width, self.join = height, width, np.maximum if largest else np.add

    def reduce(self, scores):
        """One score a unit."""
        height, width = self._sizes(scores.shape)
        if height == width == 1 or scores.size == 0:
            return scores
        rows, cols = np.arange(0, scores.shape[0], height), np.arange(0, scores.shape[1], width)
        joined = self.join.reduceat(self.join.reduceat(scores, rows, axis=0), cols, axis=1)
        if self.join is np.maximum:
            return joined
        heights, widths = np.diff(rows, append=scores.shape[0]), np.diff(cols, append=scores.shape[1])
        return joined / (heights[:, None] * widths)

    def expand(self, mask, shape):
        """The mask of all weights from that of the units."""
        height, width = self._sizes(shape)
        if height == width == 1 or math.prod(shape) == 0:
            return mask
        return np.repeat(np.repeat(mask, height, axis=0), width, axis=1)[:shape[0], :shape[1]]

    def _sizes(self, shape):
        return self.height or max(shape[0], 1), self.width or max(shape[1], 1)
