"""Fixtures over what the promises range over: targets, dtypes, thread counts."""

import numpy as np
import pytest
from canonical import Canonical
from hypothesis import HealthCheck, settings
from samples import FMA_ISAS, Edges

import fastfc
from fastfc import _core

settings.register_profile(
    "fastfc",
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("fastfc")

DTYPES = [np.float32, np.float64]


def _switched(name):
    before = fastfc.current_isa()
    _core.select_isa(name)
    yield name
    _core.select_isa(before)


@pytest.fixture(params=fastfc.available_isas())
def isa(request):
    """Each target in turn; those of this CPU that have no FMA included."""
    yield from _switched(request.param)


@pytest.fixture(params=FMA_ISAS)
def fma_isa(request):
    """Each target that keeps the canonical bits."""
    yield from _switched(request.param)


@pytest.fixture
def in_turn():
    """Walks over targets within a test, for what is computed once for all; the one in use before comes back."""
    before = fastfc.current_isa()

    def walk(isas):
        for name in isas:
            _core.select_isa(name)
            print("target", name)  # shown where a test fails
            yield name

    yield walk
    _core.select_isa(before)


@pytest.fixture
def best_fma_isa():
    """For what is stated of targets with FMA, whichever is in use: the fastest one."""
    yield from _switched(FMA_ISAS[0])


@pytest.fixture(params=DTYPES, ids=["f32", "f64"])
def dtype(request):
    return request.param


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request):
    return request.param


@pytest.fixture(scope="session")
def canonical(tmp_path_factory):
    return Canonical(tmp_path_factory.mktemp("canonical"))


@pytest.fixture
def rng():
    return np.random.default_rng(20240601)


@pytest.fixture
def edges(isa, dtype):
    return Edges(dtype)
