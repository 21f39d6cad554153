"""Precision, seeds and a compilation cache for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Before JAX: most of a short test is compilation, and without XLA's optimisation that takes a third of the time. The
# demo, the notebooks and the benchmarks run optimised programs; so do the tests with another JAX, whose XLA would stop
# at an option that it does not know, and with XLA_FLAGS set to anything else.
if version("jax").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

import jax
import matplotlib
import numpy as np
import pytest
import runtime_types

matplotlib.use("Agg")
# Most of a short test is compilation: keep what XLA compiled between runs and between workers.
CACHE = Path(os.environ.get("TERCET_TEST_CACHE", Path(__file__).parents[1] / ".cache" / "jax"))


def pytest_sessionstart() -> None:
    # Not earlier: jaxtyping checks the types of what is imported after it has been set up.
    from tercet import enable_compilation_cache

    enable_compilation_cache(CACHE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="tests must pass for any value of this")
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: pass --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("precision"):
        metafunc.parametrize("bits", [64, 32], indirect=True)


@pytest.fixture
def bits(request: pytest.FixtureRequest) -> int:
    """JAX's precision: 64, and for tests marked `precision` also 32."""
    return getattr(request, "param", 64)


@pytest.fixture(autouse=True)
def _checked_types() -> None:
    runtime_types.renew()


@pytest.fixture(autouse=True)
def _precision(bits: int) -> Iterator[None]:
    with jax.enable_x64(bits == 64):
        yield


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Seed of the run, from --seed: draw everything random in a test from it."""
    return int(request.config.getoption("--seed"))


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """Generator of the run."""
    return np.random.default_rng(seed)
