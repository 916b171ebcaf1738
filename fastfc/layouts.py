"""Which layout a packed sparse weight gets: a function of its shape, its number of entries and their pattern."""

from __future__ import annotations

from typing import NamedTuple

from fastfc import _core

__all__ = ["BLOCKS", "best", "packed", "refusal"]


class Blocks(NamedTuple):
    """What a layout of blocks asks for, and why one would want it."""

    outputs: int  # of a panel: their number is rounded up to its multiples
    inputs: int  # that are counted together: their number must be a multiple
    most: float  # of all places, the share of entries up to which it beats dense with a batch
    why: str


# In order of preference.
BLOCKS = {
    "16x1": Blocks(16, 1, 0.75, "16 outputs share the inputs that they store, so a loaded x serves them all"),
    "1x16": Blocks(1, 16, 0.35, "16 inputs stand together, so one index serves them all"),
    "2:4": Blocks(32, 4, 0.55, "2 of each 4 inputs, whose places take 2 bits an entry"),
    "1:4": Blocks(32, 4, 0.55, "1 of each 4 inputs, whose place takes 2 bits"),
}


def best(csr):
    """The layout that a CSR of sound structure fills without a zero added, or "tiled"."""
    n, k = csr.shape
    if csr.nnz * 400 < n * k:  # looking for blocks would take longer than packing
        return "tiled"
    for name, blocks in BLOCKS.items():
        padded = -(-n // blocks.outputs) * blocks.outputs
        if padded <= 1.25 * n and k % blocks.inputs == 0 and _fit(csr, name) == 2:
            return name
    return "tiled"


def packed(csr, name, **options):
    """A CSR of sound structure that fits the layout, as a PackedSparse."""
    arrays = csr.data, csr.indices, csr.indptr, csr.shape
    return _core.pack_sparse(*arrays, **options) if name == "tiled" else _core.pack_blocks(*arrays, name, **options)


def refusal(csr, name):
    """Why a CSR does not go into a layout, or None."""
    inputs = BLOCKS[name].inputs
    if csr.shape[1] % inputs:
        return f"{csr.shape[1]} inputs, expected a multiple of {inputs}"
    if _fit(csr, name) == 0:
        return f"more than {name[0]} entries in 4 inputs that follow each other" if ":" in name else "too many inputs"
    return None


def _fit(csr, name):
    return _core.blocks_fit(csr.data, csr.indices, csr.indptr, csr.shape, name)
