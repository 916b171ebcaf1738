"""Initial values: of `fastfc.init`, and those of the layers.

Seeds are fixed, so each comparison with a distribution can fail only if the code does.
"""

import math

import numpy as np
import pytest
from gradients import state_of

import fastfc
from fastfc import init

DRAWS = 100_000


def check_uniform(values, bound):
    """Moments and Kolmogorov-Smirnov for U(-bound, bound). Seeds are fixed: each can fail only if the code does."""
    stats = pytest.importorskip("scipy.stats")
    values = np.asarray(values, dtype=np.float64).ravel()
    n, variance = values.size, bound**2 / 3
    assert np.abs(values).max() <= bound * (1 + 1e-6)
    assert abs(values.mean()) < 4 * math.sqrt(variance / n)
    # The variance of u² is 4/45 of bound⁴.
    assert abs((values**2).mean() - variance) < 4 * bound**2 * math.sqrt(4 / 45 / n)
    assert abs((values**3).mean()) < 4 * bound**3 / math.sqrt(7 * n)
    assert stats.kstest(values, "uniform", (-bound, 2 * bound)).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_is_initialised_as_torchs(dtype):
    layer = fastfc.Linear(50, DRAWS // 50, dtype=dtype, rng=0)
    check_uniform(layer.weight.data, 1 / math.sqrt(50))
    check_uniform(fastfc.Linear(7, DRAWS, dtype=dtype, rng=1).bias.data, 1 / math.sqrt(7))


def test_sparse_linear_is_initialised_as_the_masked_dense_layer():
    layer = fastfc.SparseLinear(500, 2 * DRAWS // 500, sparsity=0.5, rng=0)
    assert layer.weight.data.size == DRAWS
    check_uniform(layer.weight.data, 1 / math.sqrt(500))
    check_uniform(fastfc.SparseLinear(7, DRAWS, sparsity=0.99, rng=1).bias.data, 1 / math.sqrt(7))


@pytest.mark.parametrize(("a", "bound"), [(0, math.sqrt(6 / 40)), (1, math.sqrt(3 / 40)), (5**0.5, 40**-0.5)])
def test_kaiming_bound(a, bound):
    check_uniform(init.kaiming_uniform_(np.empty((DRAWS // 40, 40)), a, rng=2), bound)
    check_uniform(init.kaiming_uniform_(np.empty(DRAWS), a, fan_in=40, rng=3), bound)


def test_uniform_bounds_and_layouts():
    check_uniform(init.uniform_(np.empty(DRAWS, np.float32), 2, 6, rng=0) - 4, 2)
    contiguous = init.uniform_(np.empty((20, 30)), -1, 1, rng=5)
    strided = init.uniform_(np.empty((30, 20)).T, -1, 1, rng=5)
    np.testing.assert_array_equal(contiguous, strided)
    assert init.uniform_(np.empty((0, 3)), rng=0).shape == (0, 3)
    assert (init.uniform_(np.empty(3), 2, 2, rng=0) == 2).all()


def check_normal(values, mean, std):
    """Moments and Kolmogorov-Smirnov for N(mean, std²)."""
    stats = pytest.importorskip("scipy.stats")
    values = (np.asarray(values, dtype=np.float64).ravel() - mean) / std
    n = values.size
    assert abs(values.mean()) < 4 / math.sqrt(n)
    assert abs((values**2).mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs((values**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert stats.kstest(values, "norm").pvalue > 1e-3


@pytest.mark.parametrize("kind", [fastfc.LowRankLinear, fastfc.MaskedLinear, fastfc.LazyLinear, fastfc.GroupedLinear,
                                  fastfc.SeparableLinear, fastfc.Bilinear, fastfc.Embedding, fastfc.EmbeddingBag])
def test_the_other_layers_are_initialised_as_torchs(kind, dtype):
    options = {"dtype": dtype, "rng": 0}
    if kind is fastfc.LowRankLinear:
        layer = kind(200, 500, 200, **options)
        check_uniform(layer.A.weight.data, 200**-0.5)
        check_uniform(layer.B.weight.data, 200**-0.5)
    elif kind is fastfc.MaskedLinear:
        check_uniform(kind(50, DRAWS // 50, **options).weight.data, 50**-0.5)
    elif kind is fastfc.LazyLinear:
        layer = kind(DRAWS // 50, **options)
        layer(np.empty((0, 50), dtype))
        check_uniform(layer.weight.data, 50**-0.5)
        check_uniform(layer.bias.data, 50**-0.5)
    elif kind is fastfc.GroupedLinear:  # as Conv1d: each output has in_features / groups inputs
        layer = kind(200, DRAWS // 50, 4, **options)
        check_uniform(layer.weight.data, 50**-0.5)
        check_uniform(layer.bias.data, 50**-0.5)
    elif kind is fastfc.SeparableLinear:
        layer = kind(500, 10, 50, 200, **options)
        check_uniform(layer.depthwise.weight.data, 10**-0.5)
        check_uniform(layer.pointwise.weight.data, 10_000**-0.5)
    elif kind is fastfc.Bilinear:
        layer = kind(20, 50, 100, **options)
        check_uniform(layer.weight.data, 20**-0.5)
        check_uniform(kind(20, 1, DRAWS, **options).bias.data, 20**-0.5)
    else:
        check_normal(kind(1000, 100, **options).weight.data, 0, 1)


@pytest.mark.parametrize("make", [
    lambda rng: fastfc.Linear(5, 4, rng=rng), lambda rng: fastfc.SparseLinear(5, 4, rng=rng)])
def test_rng_is_a_seed_a_generator_or_none(make):
    assert state_of(make(3)) == state_of(make(3)) == state_of(make(np.random.default_rng(3)))
    assert state_of(make(3)) == state_of(make(np.int64(3)))
    assert state_of(make(3)) != state_of(make(4))
    assert state_of(make(None)) != state_of(make(None))
    generator = np.random.default_rng(3)
    assert state_of(make(generator)) != state_of(make(generator))


@pytest.mark.parametrize(("mode", "fan"), [("fan_in", 40), ("fan_out", 2500)])
@pytest.mark.parametrize(("nonlinearity", "gain"), [("relu", 2**0.5), ("tanh", 5 / 3), ("linear", 1), ("selu", 0.75)])
def test_kaiming_by_mode_and_nonlinearity(mode, fan, nonlinearity, gain, dtype):
    std = gain / math.sqrt(fan)
    array = init.kaiming_uniform_(np.empty((2500, 40), dtype), 0, mode, nonlinearity, rng=1)
    check_uniform(array, math.sqrt(3) * std)
    check_normal(init.kaiming_normal_(np.empty((2500, 40), dtype), 0, mode, nonlinearity, rng=2), 0, std)


def test_xavier(dtype):
    check_uniform(init.xavier_uniform_(np.empty((2500, 40), dtype), 1.5, rng=0), 1.5 * math.sqrt(6 / 2540))
    check_normal(init.xavier_normal_(np.empty((2500, 40), dtype), 1.5, rng=0), 0, 1.5 * math.sqrt(2 / 2540))


def test_fans_of_more_axes():
    check_uniform(init.kaiming_uniform_(np.empty((DRAWS // 40, 10, 4)), 1, rng=2), math.sqrt(3 / 40))
    check_uniform(init.kaiming_uniform_(np.empty((10, DRAWS // 40, 4)), 1, "fan_out", rng=2), math.sqrt(3 / 40))
    check_normal(init.xavier_normal_(np.empty((50, 20, 100)), rng=2), 0, math.sqrt(2 / 7000))


def test_normal(dtype):
    check_normal(init.normal_(np.empty(DRAWS, dtype), 3, 0.5, rng=0), 3, 0.5)
    assert (init.normal_(np.empty(3), 3, 0, rng=0) == 3).all()


@pytest.mark.parametrize(("mean", "std", "a", "b"), [
    (0, 1, -2, 2), (0, 0.02, -2, 2), (0, 1, -0.1, 0.3), (1, 2, 1, 9), (0, 1, 5, 6), (0, 1, 5, math.inf),
    (0, 1, -math.inf, -4), (3, 0.5, -math.inf, math.inf), (0, 1, 40, 41), (-100, 1, -2, 2), (0, 1, 0.5, 50),
])
def test_trunc_normal(mean, std, a, b, dtype):
    stats = pytest.importorskip("scipy.stats")
    values = init.trunc_normal_(np.empty(DRAWS, dtype), mean, std, a, b, rng=0)
    assert ((a <= values) & (values <= b)).all()
    low, high = (a - mean) / std, (b - mean) / std
    if mean == -100:  # far beyond: an exponential from the bound
        scale = (values.astype(np.float64) - a) * low
        assert stats.kstest(scale[::100], "expon").pvalue > 1e-3
        return
    scaled = (values.astype(np.float64) - mean) / std
    # float32 has few values near a bound that is far away; then a sample is all that KS can bear.
    some = scaled if dtype == np.float64 or abs(low) < 3 else scaled[::100]
    sign = -1 if low < 0 and high < 0 else 1  # the tail that scipy knows to more digits
    low, high = (-high, -low) if sign < 0 else (low, high)
    assert stats.kstest(sign * some, stats.truncnorm(low, high).cdf).pvalue > 1e-3


def test_trunc_normal_of_nothing_and_of_a_point():
    assert init.trunc_normal_(np.empty((0, 3)), rng=0).shape == (0, 3)
    assert (init.trunc_normal_(np.empty(3), a=1.5, b=1.5, rng=0) == 1.5).all()
    for mean, expected in ((0, 0), (5, 2), (-5, -2)):
        assert (init.trunc_normal_(np.empty(3), mean, 0, rng=0) == expected).all()


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (4, 2, 3), (1, 1), (0, 3), (3, 0)])
def test_orthogonal(shape, dtype):
    array = init.orthogonal_(np.empty(shape, dtype), 2, rng=0)
    if array.size:
        flat = array.reshape(shape[0], -1).astype(np.float64)
        gram = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
        np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-6 if dtype == np.float32 else 1e-14)


def test_orthogonal_is_uniform():
    """Of an orthogonal 2×2 matrix the angle of the first row is uniform, and half are reflections."""
    stats = pytest.importorskip("scipy.stats")
    matrices = [init.orthogonal_(np.empty((2, 2)), rng=seed) for seed in range(2000)]
    angles = [math.atan2(*m[0]) for m in matrices]
    assert stats.kstest(angles, "uniform", (-math.pi, 2 * math.pi)).pvalue > 1e-3
    assert abs(sum(np.linalg.det(m) > 0 for m in matrices) - 1000) < 4 * math.sqrt(500)


@pytest.mark.parametrize("sparsity", [0, 0.1, 0.25, 0.5, 1])
def test_sparse(sparsity, dtype):
    array = init.sparse_(np.empty((10, 20_000), dtype), sparsity, 0.5, rng=0)
    zeros = math.ceil(sparsity * 10)
    assert ((array == 0).sum(axis=0) == zeros).all()
    if zeros < 10:
        check_normal(array[array != 0], 0, 0.5)
    expected, kept = 2000 * zeros, (array == 0).sum(axis=1)
    assert np.abs(kept - expected).max() <= 4.5 * math.sqrt(20_000 * zeros / 10 * (1 - zeros / 10))


def test_values_with_a_structure(dtype):
    np.testing.assert_array_equal(init.eye_(np.full((2, 3), np.nan, dtype)), np.eye(2, 3))
    np.testing.assert_array_equal(init.zeros_(np.full(3, np.nan, dtype)), np.zeros(3))
    np.testing.assert_array_equal(init.ones_(np.full((2, 0), np.nan, dtype)), np.ones((2, 0)))
    np.testing.assert_array_equal(init.constant_(np.full((2, 2), np.nan, dtype).T, 3), np.full((2, 2), 3))


FILLS = {
    "uniform_": lambda w, rng: init.uniform_(w, rng=rng),
    "normal_": lambda w, rng: init.normal_(w, rng=rng),
    "trunc_normal_": lambda w, rng: init.trunc_normal_(w, rng=rng),
    "kaiming_uniform_": lambda w, rng: init.kaiming_uniform_(w, rng=rng),
    "kaiming_normal_": lambda w, rng: init.kaiming_normal_(w, rng=rng),
    "xavier_uniform_": lambda w, rng: init.xavier_uniform_(w, rng=rng),
    "xavier_normal_": lambda w, rng: init.xavier_normal_(w, rng=rng),
    "orthogonal_": lambda w, rng: init.orthogonal_(w, rng=rng),
    "sparse_": lambda w, rng: init.sparse_(w, 0.3, rng=rng),
}


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_a_seed_fixes_the_values_in_any_layout(fill, dtype):
    values = fill(np.empty((6, 4), dtype), 3)
    for array in (np.empty((4, 6), dtype).T, np.empty((12, 8), dtype)[::2, ::2], np.empty((6, 4), dtype)[::-1]):
        assert fill(array, 3) is array
        np.testing.assert_array_equal(array, values)
    generator = np.random.default_rng(3)
    np.testing.assert_array_equal(fill(np.empty((6, 4), dtype), generator), values)
    assert not np.array_equal(fill(np.empty((6, 4), dtype), generator), values)
    assert not np.array_equal(fill(np.empty((6, 4), dtype), None), fill(np.empty((6, 4), dtype), None))
    read_only = np.ones((6, 4), dtype)
    read_only.flags.writeable = False
    for bad in (read_only, np.ones((6, 4), int), [[1.0]]):
        with pytest.raises(TypeError, match=r"_\(\): array must be"):
            fill(bad, 0)


def test_every_public_function_is_tested_for_its_seed():
    assert {*FILLS, "calculate_gain", "constant_", "eye_", "ones_", "zeros_"} == set(init.__all__)


@pytest.mark.parametrize(("arguments", "gain"), [
    (("linear",), 1), (("sigmoid",), 1), (("tanh",), 5 / 3), (("relu",), 2**0.5), (("selu",), 0.75),
    (("leaky_relu",), (2 / 1.0001) ** 0.5), (("leaky_relu", 0.2), (2 / 1.04) ** 0.5), (("leaky_relu", 0), 2**0.5)])
def test_gains(arguments, gain):
    assert math.isclose(init.calculate_gain(*arguments), gain, rel_tol=1e-15)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: init.uniform_(np.empty(3, int)), TypeError, r"uniform_\(\): array must be a float32 or float64"),
    (lambda: init.uniform_([1.0]), TypeError, r"got list"),
    (lambda: init.uniform_(np.empty(3), 1, 0), ValueError, r"expected finite a <= b, got a=1, b=0"),
    (lambda: init.uniform_(np.empty(3), 0, math.inf), ValueError, r"expected finite a <= b"),
    (lambda: init.kaiming_uniform_(np.empty(3)), ValueError,
     r"kaiming_uniform_\(\): array must have two axes or more, or fan_in given; got 1-D"),
    (lambda: init.kaiming_normal_(np.empty((3, 2)), mode="fan"), ValueError, r'mode must be "fan_in" or'),
    (lambda: init.kaiming_normal_(np.empty((3, 2)), nonlinearity="gelu"), ValueError,
     r"nonlinearity must be one of 'leaky_relu', 'linear', 'relu', 'selu', 'sigmoid', 'tanh', got 'gelu'"),
    (lambda: init.calculate_gain("leaky_relu", "0.1"), TypeError, r"param must be a number, got str"),
    (lambda: init.kaiming_normal_(np.empty((3, 2)), math.inf), ValueError, r"normal_\(\): a must be finite, got inf"),
    (lambda: init.kaiming_normal_(np.empty((3, 2)), 10**400), ValueError, r"a must be a number that a float holds"),
    (lambda: init.kaiming_normal_(np.empty(3), fan_in="x"), TypeError, r"fan_in must be a number, got str"),
    (lambda: init.kaiming_normal_(np.empty(3), fan_in=np.ones(2)), TypeError, r"fan_in must be a number, got ndarray"),
    (lambda: init.kaiming_normal_(np.empty(3), fan_in=math.nan), ValueError, r"fan_in must be finite and .* got nan"),
    (lambda: init.kaiming_normal_(np.empty(3), fan_in=-5), ValueError, r"fan_in must be finite and >= 0, got -5"),
    (lambda: init.xavier_uniform_(np.empty(3)), ValueError, r"xavier_uniform_\(\): array must have two axes or more"),
    (lambda: init.xavier_normal_(np.empty((3, 3)), -1), ValueError, r"gain must be finite and >= 0, got -1"),
    (lambda: init.normal_(np.empty(3), std=-1), ValueError, r"normal_\(\): std must be finite and >= 0, got -1.0"),
    (lambda: init.normal_(np.empty(3), math.nan), ValueError, r"normal_\(\): mean must be finite, got nan"),
    (lambda: init.trunc_normal_(np.empty(3), a=1, b=0), ValueError, r"trunc_normal_\(\): expected a <= b, got a=1"),
    (lambda: init.trunc_normal_(np.empty(3), a=math.nan), ValueError, r"expected a <= b, got a=nan"),
    (lambda: init.orthogonal_(np.empty(3)), ValueError, r"orthogonal_\(\): array must have two axes or more; got 1-D"),
    (lambda: init.orthogonal_(np.empty((3, 3)), math.inf), ValueError, r"gain must be finite, got inf"),
    (lambda: init.sparse_(np.empty((3, 3)), 1.5), ValueError, r"sparse_\(\): sparsity must be in \[0, 1\], got 1.5"),
    (lambda: init.sparse_(np.empty(3), 0.5), ValueError, r"sparse_\(\): array must be 2-D, got 1-D"),
    (lambda: init.eye_(np.empty((2, 2, 2))), ValueError, r"eye_\(\): array must be 2-D, got 3-D"),
    (lambda: init.constant_(np.empty(3), "1"), TypeError, r"constant_\(\): val must be a number, got str"),
    (lambda: init.zeros_(np.empty(3, int)), TypeError, r"array must be a float32 or float64 ndarray, got int64"),
    (lambda: init.kaiming_uniform_(np.broadcast_to(1.0, (3, 3))), TypeError, r"got a read-only array"),
])
def test_init_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("a, b", [(1e300, np.inf), (np.inf, np.inf), (-np.inf, -1e160), (1e7, 2e7), (5e307, 1e308)])
def test_trunc_normal_far_from_the_mean_ends(a, b):
    w = init.trunc_normal_(np.empty(100), std=1e-3, a=a, b=b, rng=0)
    assert ((w >= a) & (w <= b)).all()
