"""Dropout: its random numbers word by word, the same mask everywhere, scaling, state, and arguments."""

import copy
import pickle

import numpy as np
import pytest
from layouts import INPUTS
from reference import assert_same_bits
from samples import gaussian

import fastfc
from fastfc import _core

MASK32, MASK64 = 2**32 - 1, 2**64 - 1


def philox(counter, key):
    """Philox4x32-10, a counter of four words, a key of two."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & MASK32, (p0 >> 32) ^ c[3] ^ k1, p0 & MASK32]
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return c


def test_the_reference_gives_the_published_answers():
    """Of the authors' Random123."""
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([MASK32] * 4, [MASK32] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]
    assert philox(*pi) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def words(n, seed, call):
    """The word of each of n elements, as kernels/dropout.inc says."""
    out = np.zeros((n + 31) // 32 * 32, np.uint32)
    for b in range(len(out) // 4):
        w = philox([b & MASK32, b >> 32, call & MASK32, call >> 32], [seed & MASK32, seed >> 32])
        at = b // 8 * 32 + b % 8 * 2
        out[at : at + 2], out[at + 16 : at + 18] = w[:2], w[2:]
    return out[:n]


@pytest.mark.parametrize("seed, call", [(0, 0), (MASK64, 1), (0x0123456789ABCDEF, 2**40 + 3)])
def test_every_word(isa, dtype, seed, call):
    """p in steps as fine as the words: whether an element stays says where its word lies."""
    expected = words(333, seed, call)
    x = np.ones(333, dtype)
    for n in (0, 1, 7, 31, 32, 33, 63, 64, 65, 333):
        for p in (0.25, 0.5, 0.9):
            y = _core.dropout(x[:n], p, seed, call)
            scale = dtype(1 / (1 - p))
            assert_same_bits(y, np.where(expected[:n] >= p * 2**32, scale, 0).astype(dtype))
    for i in (0, 5, 40, 64, 332):  # the threshold between this word and the next
        for step, stays in ((0, True), (1, False)):
            assert bool(_core.dropout(x, (int(expected[i]) + step) / 2**32, seed, call)[i]) == stays


def test_the_same_mask_for_threads_dtypes_and_targets(isa):
    x = np.ones((1100, 1021))  # work enough to wake a thread
    expected = _core.dropout(x, 0.3, 5, 6)
    _core.select_isa(fastfc.available_isas()[0])
    with fastfc.num_threads(2):
        assert_same_bits(_core.dropout(x, 0.3, 5, 6), expected)
    single = _core.dropout(x.astype(np.float32), 0.3, 5, 6)
    np.testing.assert_array_equal(single == 0, expected == 0)
    np.testing.assert_array_equal(_core.dropout(x[:7], 0.3, 5, 6), expected[:7])


@pytest.mark.parametrize("layout", INPUTS)
def test_any_layout(dtype, rng, layout):
    x = gaussian(rng, (9, 21), dtype)
    layers = fastfc.Dropout(0.4, rng=1), fastfc.Dropout(0.4, rng=1)
    assert_same_bits(layers[0](INPUTS[layout](x)), layers[1](x))


def test_scaling_and_backward(dtype, rng):
    x, grad_y = gaussian(rng, (50, 33), dtype), gaussian(rng, (50, 33), dtype)
    layer = fastfc.Dropout(0.2, rng=3)
    y, backward = layer.vjp(x)
    layer(x)  # another call between the passes
    kept = y != 0
    scale = dtype(1 / (1 - 0.2))
    assert_same_bits(y[kept], x[kept] * scale)
    gx = backward(grad_y)
    assert_same_bits(gx, np.where(kept, grad_y * scale, grad_y * 0))
    assert_same_bits(backward(grad_y), gx)
    assert backward(grad_y, needs_input_grad=False) is None


def test_p_of_0_and_1(isa, dtype):
    x = np.array([1.0, -2.0, np.nan, np.inf], dtype)
    assert_same_bits(fastfc.Dropout(0)(x), x)
    assert_same_bits(fastfc.Dropout(1)(x), np.array([0.0, -0.0, np.nan, np.nan], dtype))
    y, backward = fastfc.Dropout(1.0).vjp(x)
    assert (backward(np.ones_like(x)) == 0).all()
    assert (fastfc.Dropout(1 - 2**-40)(np.ones(4096, dtype)) == 0).mean() > 0.99


def test_frequencies():
    """Of 10^6 elements, within 5 standard deviations: over all, each place in a group of 64, and pairs."""
    n, p = 1 << 20, 0.3
    layer = fastfc.Dropout(p, rng=7)
    drops = [layer(np.ones(n, np.float32)) == 0 for _ in range(2)]
    for drop in drops:
        for part in (drop, *drop.reshape(-1, 64).T):
            assert abs(part.mean() - p) < 5 * np.sqrt(p * (1 - p) / part.size)
        for lag in (1, 2, 16, 32, 64):
            assert abs((drop[lag:] & drop[:-lag]).mean() - p * p) < 5 * np.sqrt(p * p * (1 - p * p) * 2 / n)
    assert abs((drops[0] & drops[1]).mean() - p * p) < 5 * np.sqrt(p * p * (1 - p * p) / n)


def test_eval_is_the_identity(dtype, rng):
    x, layer = gaussian(rng, (3, 4), dtype), fastfc.Dropout(0.5).eval()
    assert layer(x) is x
    y, backward = layer.vjp(x)
    assert y is x and backward(x) is x and layer.calls == 0
    assert backward(x, needs_input_grad=False) is None


def test_the_counter_and_the_seed_are_the_state(rng):
    x = np.ones(1000, np.float32)
    layer, same = fastfc.Dropout(0.5, rng=11), fastfc.Dropout(0.5, rng=11)
    first, second = layer(x), layer(x)
    assert (first != second).any() and layer.calls == 2
    assert_same_bits(same(x), first)
    for other in (copy.deepcopy(same), pickle.loads(pickle.dumps(same))):
        assert_same_bits(other(x), second)
    layer.calls = 0
    assert_same_bits(layer(x), first)
    assert layer.state_dict() == {} and not list(layer.parameters())
    generator = np.random.default_rng(0)
    assert fastfc.Dropout(rng=generator).seed != fastfc.Dropout(rng=generator).seed
    assert repr(fastfc.Dropout(0.3)) == "Dropout(p=0.3)"


@pytest.mark.parametrize("make, error, message", [
    (lambda: fastfc.Dropout(-0.1), ValueError, r"Dropout\(\): p must be in \[0, 1\], got -0.1"),
    (lambda: fastfc.Dropout(1.5), ValueError, r"Dropout\(\): p must be in \[0, 1\], got 1.5"),
    (lambda: fastfc.Dropout(float("nan")), ValueError, r"Dropout\(\): p must be in \[0, 1\], got nan"),
    (lambda: fastfc.Dropout("0.5"), TypeError, r"Dropout\(\): p must be a number, got str"),
    (lambda: fastfc.Dropout(rng="x"), TypeError, "rng must be a numpy.random.Generator"),
    (lambda: fastfc.Dropout()(np.ones(3, int)), TypeError, "Dropout: x must be a float32 or float64 array, got int64"),
    (lambda: fastfc.Dropout()([1.0]), TypeError, "Dropout: x must be a float32 or float64 array, got list"),
    (lambda: fastfc.Dropout().vjp(np.ones(3))[1](np.ones(4)), ValueError,
     r"Dropout backward: grad_y must be float64 of shape \(3,\), got float64 of shape \(4,\)"),
    (lambda: fastfc.Dropout().vjp(np.ones(3))[1](np.ones(3, np.float32)), ValueError,
     r"Dropout backward: grad_y must be float64 of shape \(3,\), got float32 of shape \(3,\)"),
])
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
