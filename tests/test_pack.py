"""PackedWeight: one copy plus padding, the same bits as the array, immutable, and usable under any target."""

import copy
import pickle

import numpy as np
import pytest
from layouts import INPUTS
from reference import assert_same_bits
from samples import FMA_ISAS, Edges, gaussian

import fastfc
from fastfc import _core


def test_one_copy_plus_padding_to_the_lanes(isa, dtype, edges):
    """Of one to three outputs in a last panel, if they fill no vector, there is padding at the end alone."""
    panel = edges.lanes * (2 if isa in ("avx2", "baseline") else 4)
    for n in {*edges.n, 2, 3, edges.panel + 3}:
        for k in (0, 1, 50):
            left = n % panel
            if 0 < left <= 3 and left < edges.lanes:
                elements = n * k + (edges.lanes - left if k else 0)
            else:
                elements = -(-n // edges.lanes) * edges.lanes * k
            assert fastfc.pack(np.ones((n, k), dtype)).nbytes == elements * np.dtype(dtype).itemsize, (n, k)


def test_lanes_divide_a_cache_line(isa, dtype, edges):
    """What `edges` reads off the padding is a vector length: a packed weight wastes less than a line for each k."""
    assert edges.lanes * np.dtype(dtype).itemsize in (np.dtype(dtype).itemsize, 16, 32, 64)


@pytest.mark.parametrize("layout", INPUTS)
def test_unpack_gives_the_weight_back(isa, dtype, edges, rng, layout):
    for n in (0, 1, edges.lanes + 1, edges.panel, 2 * edges.panel + 3):
        for k in (0, 1, 5, 40):
            weight = gaussian(rng, (n, k), dtype)
            packed = fastfc.pack(INPUTS[layout](weight))
            assert_same_bits(packed.unpack(), weight)


def test_pack_on_two_threads(isa, dtype, rng):
    weight = gaussian(rng, (1003, 517), dtype)
    with fastfc.num_threads(2):
        packed = fastfc.pack(weight)
    assert_same_bits(packed.unpack(), weight)


def test_attributes(isa, dtype):
    packed = fastfc.pack(np.ones((3, 4), dtype))
    assert packed.shape == (3, 4) and packed.ndim == 2 and packed.dtype == dtype and packed.isa == isa
    assert "PackedWeight" in repr(packed) and "(3, 4)" in repr(packed)
    for name in ("shape", "dtype", "nbytes", "isa", "ndim"):
        with pytest.raises(AttributeError):
            setattr(packed, name, None)


def test_is_a_copy(dtype):
    weight = np.ones((3, 4), dtype)
    packed = fastfc.pack(weight)
    weight[:] = 5
    packed.unpack()[:] = 6
    assert_same_bits(fastfc.linear(np.ones(4, dtype), packed), np.full(3, 4, dtype))


def test_only_pack_makes_one():
    with pytest.raises(TypeError, match=r"fastfc\.pack\(weight\)"):
        fastfc.PackedWeight()
    with pytest.raises(TypeError):
        type("Child", (fastfc.PackedWeight,), {})


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_copies_and_pickles(dtype, rng, clone):
    weight = gaussian(rng, (37, 20), dtype)
    packed = fastfc.pack(weight)
    other = clone(packed)
    assert (other.shape, other.dtype, other.nbytes, other.isa) == (
        packed.shape,
        packed.dtype,
        packed.nbytes,
        packed.isa,
    )
    assert_same_bits(other.unpack(), weight)


def test_outlives_a_change_of_target(dtype, rng):
    """A packed weight keeps the kernels it was packed for, dense and with a CSR x; a pickle takes the current ones."""
    weight, x = gaussian(rng, (150, 200), dtype), gaussian(rng, (50, 200), dtype)
    sparse = fastfc.CSR(gaussian(rng, 60, dtype), rng.integers(0, 200, 60), np.arange(61), (60, 200))
    before = fastfc.current_isa()
    try:
        for packer in FMA_ISAS:
            _core.select_isa(packer)
            packed, expected, rows = fastfc.pack(weight), fastfc.linear(x, weight), fastfc.linear(sparse, weight)
            for runner in FMA_ISAS:
                _core.select_isa(runner)
                assert packed.isa == packer
                assert_same_bits(fastfc.linear(x, packed), expected)
                assert_same_bits(fastfc.linear(sparse, packed), rows)
                assert_same_bits(packed.unpack(), weight)
                assert pickle.loads(pickle.dumps(packed)).isa == runner
                assert (
                    pickle.loads(pickle.dumps(packed)).nbytes
                    == -(-150 // Edges(dtype).lanes) * Edges(dtype).lanes * 200 * np.dtype(dtype).itemsize
                )
    finally:
        _core.select_isa(before)


def test_objects_with_the_array_interface(dtype):
    class Wrapper:
        def __array__(self, dtype=None, copy=None):
            return np.ones((2, 3), np.float32)

    assert fastfc.pack(Wrapper()).shape == (2, 3)
