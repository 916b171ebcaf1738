"""linear() on dense operands: right at every tile edge, on every target, from any memory."""

import ctypes

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from layouts import INPUTS, OUTPUTS, output
from reference import assert_close, assert_same_bits
from samples import K_EDGES, gaussian, integers, wild

import fastfc


def operands(rng, m, n, k, dtype, values=gaussian):
    return values(rng, (m, k), dtype), values(rng, (n, k), dtype), values(rng, (n,), dtype), values(rng, (m, n), dtype)


# ---- Sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_integers_at_all_tile_edges(isa, dtype, edges, rng, packed):
    """Every m by every n, bit for bit what int64 says; a result past its tile would be seen in the next size."""
    for k in (1, 3, 17, 193):
        x, weight, bias, _ = operands(rng, edges.m[-1], edges.n[-1], k, dtype, integers)
        exact = x.astype(np.int64) @ weight.astype(np.int64).T + bias.astype(np.int64)
        for n in edges.n:
            w = fastfc.pack(weight[:n]) if packed else weight[:n]
            for m in edges.m:
                y = fastfc.linear(x[:m], w, bias[:n])
                assert y.dtype == dtype and y.shape == (m, n)
                assert np.array_equal(y, exact[:m, :n]), (m, n, k)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_within_the_bound_around_numeric_blocks(isa, dtype, edges, rng, packed):
    m, n = 7, 2 * edges.lanes + 1
    for k in K_EDGES:
        x, weight, bias, residual = operands(rng, m, n, k, dtype)
        y = fastfc.linear(x, fastfc.pack(weight) if packed else weight, bias, residual=residual)
        assert_close(y, *reference.linear(x, weight, bias, residual))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_chunks_of_k(isa, dtype, edges, rng, packed, canonical):
    """K around the chunk that L2 holds, where sums go on from call to call of the kernel."""
    for k in (edges.chunk - 1, edges.chunk, edges.chunk + 1, 2 * edges.chunk + 193):
        for m, n in ((1, 1), (edges.m[-1], edges.lanes + 1), (3, edges.panel + 1)):
            if isa in ("scalar", "baseline"):
                m = min(m, 14)
            x, weight, bias, residual = operands(rng, m, n, k, dtype)
            y, z = fastfc.linear(
                x,
                fastfc.pack(weight) if packed else weight,
                bias,
                residual=residual,
                activation="relu",
                return_preactivation=True,
            )
            assert_close(y, *reference.linear(x, weight, bias, residual, "relu"))
            assert_close(z, *reference.linear(x, weight, bias, residual))
            if isa != "baseline":
                expected = canonical.linear(x, weight, bias, residual, "relu")
                assert_same_bits(y, expected[0], (m, n, k))
                assert_same_bits(z, expected[1], (m, n, k))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_blocks_of_rows(isa, dtype, edges, rng, packed, threads):
    """So many rows that the totals of a chunked k are cut too."""
    m = 2000 if isa in ("avx512", "avx2") else 1000
    x, weight, bias, _ = operands(rng, m, 2, edges.chunk + 3, dtype, integers)
    x[:] = x[0]
    x[:, 0] = np.arange(m) % 5
    exact = x[:5].astype(np.int64) @ weight.astype(np.int64).T + bias.astype(np.int64)
    y = fastfc.linear(x, fastfc.pack(weight) if packed else weight, bias, threads=threads)
    assert np.array_equal(y, exact[np.arange(m) % 5])


def test_threads_share_all_of_a_large_result(isa, dtype, rng, threads):
    """Enough work for two threads, cut along n, along m, and along both."""
    for m, n, k in ((3, 1000, 700), (600, 5, 700), (151, 133, 257)):
        x, weight, bias, _ = operands(rng, m, n, k, dtype, integers)
        exact = x.astype(np.int64) @ weight.astype(np.int64).T + bias.astype(np.int64)
        for w in (weight, fastfc.pack(weight)):
            assert np.array_equal(fastfc.linear(x, w, bias, threads=threads), exact)


def test_a_batch_that_is_packed_in_place_of_the_weight(isa, dtype, rng, threads):
    """Batches that fill vectors, beside a weight of more rows than meet them at once, whose rows may crowd into sets of
    L1; and more columns than are packed at once. A packed weight, which goes another way, gives the same bits."""
    slow = isa in ("scalar", "baseline")
    for m, n, k in ((7, 390, 30), (8, 13, 1024), (16, 211, 200), (31, 40, 4999), (64, 200, 1024), (126, 200, 400)):
        if slow and m * n * k > 3e6:
            continue
        x, weight, bias, residual = operands(rng, m, n, k, dtype)
        wide = np.full((n, k + 24), np.nan, dtype)
        wide[:, 11 : 11 + k] = weight
        options = {"residual": residual, "activation": "gelu", "return_preactivation": True}
        expected = fastfc.linear(x, fastfc.pack(weight), bias, **options)
        for w in (weight, wide[:, 11 : 11 + k], weight[::-1].copy()[::-1]):
            for one, other in zip(fastfc.linear(x, w, bias, **options, threads=threads), expected, strict=True):
                assert_same_bits(one, other, (m, n, k))
        assert_close(fastfc.linear(x, weight, bias, threads=threads), *reference.linear(x, weight, bias))


def test_a_batch_beside_few_outputs(isa, dtype, rng, threads):
    """Lanes along the batch, or along numeric blocks; rows of y that stand without a gap are finished as one. A row
    alone, which goes another way, gives the same bits."""
    for n in range(1, 13):
        for m, k in ((9, 12 * n), (24, 193), (75, 300), (130, 512), (300 if n < 4 else 40, 1024)):
            x, weight, bias, residual = operands(rng, m, n, k, dtype)
            for b, r in ((bias, residual), (bias, None), (None, residual), (None, None)):
                options = {"activation": "silu", "return_preactivation": True}
                rows = [None] * m if r is None else r
                expected = [fastfc.linear(x[i], weight, b, residual=rows[i], **options) for i in range(m)]
                apart = np.zeros((m, 2 * n), dtype)[:, :n]
                for w in (weight, fastfc.pack(weight)):
                    for out in (None, apart):
                        y, z = fastfc.linear(x, w, b, residual=r, out=out, threads=threads, **options)
                        assert_same_bits(y, np.stack([e[0] for e in expected]), (m, n, k))
                        assert_same_bits(z, np.stack([e[1] for e in expected]), (m, n, k))
                gap = None if r is None else np.concatenate((r, r), axis=1)[:, :n]
                assert_same_bits(fastfc.linear(x, weight, b, residual=gap, **options)[0], y, (m, n, k))


# ---- Arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("use_residual", [False, True])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_epilogues(isa, dtype, edges, rng, use_bias, use_residual, activation):
    for n in (1, edges.lanes - 1, edges.lanes, edges.panel + 1):
        x, weight, bias, residual = operands(rng, 5, n, 20, dtype)
        y, z = fastfc.linear(
            x,
            weight,
            bias if use_bias else None,
            residual=residual if use_residual else None,
            activation=activation,
            return_preactivation=True,
        )
        expected = (bias if use_bias else None, residual if use_residual else None)
        assert_close(y, *reference.linear(x, weight, *expected, activation))
        assert_close(z, *reference.linear(x, weight, *expected))
        one = fastfc.linear(x, weight, expected[0], residual=expected[1], activation=activation)
        assert_same_bits(one, y)


@pytest.mark.parametrize(
    "leading", [(), (1,), (0,), (3,), (2, 3), (2, 0, 3), (1, 2, 1, 3), (1,) * 31, (1,) * 40, (2,) + (1,) * 62]
)
def test_leading_axes(dtype, rng, leading):
    weight, bias = gaussian(rng, (5, 4), dtype), gaussian(rng, (5,), dtype)
    x, residual = gaussian(rng, (*leading, 4), dtype), gaussian(rng, (*leading, 5), dtype)
    rows = fastfc.linear(x.reshape(-1, 4), weight, bias, residual=residual.reshape(-1, 5))
    out = np.full((*leading, 5), np.nan, dtype)
    for given_out in (None, out):
        y = fastfc.linear(x, weight, bias, residual=residual, out=given_out)
        assert_same_bits(y, rows.reshape(*leading, 5))
    assert y is out
    y, z = fastfc.linear(x, weight, bias, residual=residual, return_preactivation=True)
    assert_same_bits(z, rows.reshape(*leading, 5))


@pytest.mark.parametrize("m, n, k", [(0, 0, 0), (0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 0), (0, 0, 5), (300, 70, 0)])
def test_empty(isa, dtype, m, n, k):
    """K = 0 gives +0, to which bias and residual are added."""
    x, weight = np.ones((m, k), dtype), np.ones((n, k), dtype)
    bias = np.full(n, -0.0, dtype)
    for w in (weight, fastfc.pack(weight)):
        assert_same_bits(fastfc.linear(x, w), np.zeros((m, n), dtype))
        assert_same_bits(fastfc.linear(x, w, bias), np.zeros((m, n), dtype))
        assert_same_bits(fastfc.linear(x, w, bias + 2, residual=np.ones((m, n), dtype)), np.full((m, n), 3, dtype))


def test_out_is_returned_and_filled(dtype, rng):
    x, weight, bias, residual = operands(rng, 6, 33, 20, dtype)
    expected = fastfc.linear(x, weight, bias, residual=residual, activation="relu")
    for name in OUTPUTS:
        out = output(name, (6, 33), dtype)
        y = fastfc.linear(x, weight, bias, residual=residual, activation="relu", out=out)
        assert y is out
        assert_same_bits(np.array(out), expected, name)


def test_results_are_fresh_c_ordered_arrays(dtype):
    x, weight = np.asfortranarray(np.ones((3, 4), dtype)), np.ones((5, 4), dtype)
    y, z = fastfc.linear(x, weight, return_preactivation=True)
    assert y.flags.c_contiguous and z.flags.c_contiguous and y.flags.owndata
    assert not np.shares_memory(y, z)


def test_large_results_begin_at_a_cache_line_and_are_ordinary_arrays(dtype):
    x, weight = np.ones((100, 70), dtype), np.ones((90, 70), dtype)
    y, z = fastfc.linear(x, weight, return_preactivation=True)
    gx, gw, _ = fastfc.linear_backward(y, x, weight)
    turned = fastfc.linear(np.asfortranarray(x), weight)
    several = fastfc.linear(x.reshape(5, 20, 70), weight)
    layer = fastfc.Linear(70, 90, dtype=dtype)
    for a in (y, z, gx, gw, turned, several, layer.weight.data, layer.eval().train().weight.data):
        assert a.ctypes.data % 64 == 0
        assert a.flags.owndata or a.base.flags.owndata
        assert a.flags.writeable
    del z
    for rows in (100, 400, 1001, 5000, 7, 300):
        kept = min(len(y), rows)
        y[:] = np.arange(y.size).reshape(y.shape)
        y.resize((rows, 90), refcheck=False)
        assert np.array_equal(y[:kept], np.arange(kept * 90).reshape(kept, 90)) and not y[kept:].any()


def test_numpy_makes_its_own_arrays_as_before(dtype):
    get_handler_name = (np._core if hasattr(np, "_core") else np.core).multiarray.get_handler_name
    before = get_handler_name()
    y = fastfc.linear(np.ones((100, 70), dtype), np.ones((90, 70), dtype))
    assert get_handler_name(y) == "fastfc" and get_handler_name() == before
    with pytest.raises((MemoryError, ValueError)):
        fastfc.arrays.empty((1 << 40, 1 << 20), dtype)
    assert get_handler_name() == before == get_handler_name(np.empty(1000))


def test_a_memory_handler_that_somebody_has_set_serves_our_arrays_too(dtype):
    multiarray = (np._core if hasattr(np, "_core") else np.core).multiarray
    pointer_of, capsule_of = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_New
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    capsule_of.restype, capsule_of.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    table = ctypes.cast(pointer_of(multiarray._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[304])  # PyDataMem_SetHandler
    default = ctypes.PYFUNCTYPE(ctypes.py_object)(table[305])()  # PyDataMem_GetHandler
    # numpy's own functions under another name: 127 bytes of it, a version, 5 pointers.
    other = ctypes.create_string_buffer(ctypes.string_at(pointer_of(default, b"mem_handler"), 127 + 1 + 5 * 8))
    other[:6] = b"other\0"
    set_handler(capsule_of(ctypes.addressof(other), b"mem_handler", None))
    try:
        y = fastfc.linear(np.ones((100, 70), dtype), np.ones((90, 70), dtype))
        assert multiarray.get_handler_name(y) == multiarray.get_handler_name() == "other"
    finally:
        set_handler(default)
        y = None  # freed while the functions are still there


def test_numpy_integers_and_strings_as_options(dtype):
    x, weight = np.ones((3, 4), dtype), np.ones((5, 4), dtype)
    y = fastfc.linear(x, weight, activation=np.str_("relu"), threads=np.int64(2), return_preactivation=np.bool_(False))
    assert np.array_equal(y, np.full((3, 5), 4))


def test_objects_with_the_array_interface():
    torch = pytest.importorskip("torch")
    x, weight = torch.ones(3, 4), torch.ones(5, 4)
    y = fastfc.linear(x, weight, torch.ones(5))
    assert type(y) is np.ndarray and np.array_equal(y, np.full((3, 5), 5))


# ---- Memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", INPUTS)
@pytest.mark.parametrize("m", [1, 4, 21])
def test_any_memory_for_each_operand(isa, dtype, rng, layout, m):
    x, weight, bias, residual = operands(rng, m, 37, 50, dtype)
    expected = fastfc.linear(x, weight, bias, residual=residual)
    change = INPUTS[layout]
    assert_same_bits(fastfc.linear(change(x), weight, bias, residual=residual), expected, "x")
    assert_same_bits(fastfc.linear(x, change(weight), bias, residual=residual), expected, "weight")
    assert_same_bits(fastfc.linear(x, fastfc.pack(change(weight)), bias, residual=residual), expected, "packed")
    assert_same_bits(fastfc.linear(x, weight, change(bias), residual=residual), expected, "bias")
    assert_same_bits(fastfc.linear(x, weight, bias, residual=change(residual)), expected, "residual")
    changed = fastfc.linear(change(x), change(weight), change(bias), residual=change(residual))
    assert_same_bits(changed, expected, "all")
    if m == 21:
        x, residual, expected = (a.reshape(3, 7, -1) for a in (x, residual, expected))
        changed = fastfc.linear(change(x), weight, bias, residual=change(residual))
        assert_same_bits(changed, expected, "more axes")


def test_broadcast_operands(isa, dtype, rng):
    """Strides of zero."""
    x, weight, bias, residual = operands(rng, 30, 40, 50, dtype)
    for axis in (0, 1):
        x0, w0, r0 = (a[:1] if axis == 0 else a[:, :1] for a in (x, weight, residual))
        x1, w1, r1 = (
            np.broadcast_to(x0, x.shape),
            np.broadcast_to(w0, weight.shape),
            np.broadcast_to(r0, residual.shape),
        )
        b1 = np.broadcast_to(bias[:1], bias.shape)
        expected = fastfc.linear(x1.copy(), w1.copy(), b1.copy(), residual=r1.copy())
        assert_same_bits(fastfc.linear(x1, w1, b1, residual=r1), expected)
    x3 = np.broadcast_to(x[:, None], (30, 2, 50))
    assert_same_bits(fastfc.linear(x3, weight), fastfc.linear(x3.copy(), weight))
    x3 = np.broadcast_to(x, (2, 30, 50))
    assert_same_bits(fastfc.linear(x3, weight), fastfc.linear(x3.copy(), weight))


def test_inputs_stay_as_they_were(isa, dtype, rng):
    arrays = operands(rng, 21, 37, 50, dtype)
    copies = [a.copy() for a in arrays]
    x, weight, bias, residual = arrays
    fastfc.linear(x, weight, bias, residual=residual, activation="relu")
    fastfc.linear(x, fastfc.pack(weight), bias, residual=residual, return_preactivation=True)
    for array, copy in zip(arrays, copies, strict=True):
        assert_same_bits(array, copy)


shapes = st.tuples(
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.integers(0, 70),
    st.one_of(st.integers(0, 40), st.integers(188, 200)),
)


@given(
    shape=shapes,
    dtype=st.sampled_from([np.float32, np.float64]),
    memory=st.lists(st.sampled_from(sorted(INPUTS)), min_size=4, max_size=4),
    out=st.sampled_from([None, *sorted(OUTPUTS)]),
    use=st.tuples(*[st.booleans()] * 4),
    threads=st.sampled_from([None, 1, 2]),
    special=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_call(canonical, shape, dtype, memory, out, use, threads, special, seed):
    leading, n, k = shape
    use_bias, use_residual, relu, packed = use
    rng = np.random.default_rng(seed)
    m = int(np.prod(leading))
    values = (lambda *a: wild(*a, 0.02)) if special else gaussian
    x, weight, bias, residual = operands(rng, m, n, k, dtype, values)
    bias, residual = bias if use_bias else None, residual if use_residual else None
    activation = "relu" if relu else None
    y, z = canonical.linear(x, weight, bias, residual, activation)
    change = [INPUTS[name] for name in memory]
    target = None if out is None else output(out, (*leading, n), dtype)
    arguments = {
        "bias": None if bias is None else change[2](bias),
        "residual": None if residual is None else change[3](residual.reshape(*leading, n)),
        "activation": activation,
        "threads": threads,
        "out": target,
    }
    w = change[1](weight)
    got = fastfc.linear(change[0](x.reshape(*leading, k)), fastfc.pack(w) if packed else w, **arguments)
    if fastfc.current_isa() == "baseline":
        canonical_or_close = assert_close if not special else (lambda *_: None)
        canonical_or_close(got.reshape(m, n), *reference.linear(x, weight, bias, residual, activation))
        return
    assert target is None or got is target
    assert_same_bits(np.array(got).reshape(m, n), y)
    got, pre = fastfc.linear(x.reshape(*leading, k), weight, return_preactivation=True, **arguments)
    assert_same_bits(np.array(got).reshape(m, n), y)
    assert_same_bits(pre.reshape(m, n), z)
