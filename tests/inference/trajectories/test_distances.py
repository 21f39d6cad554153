"""Distances of clouds: closed forms, all permutations, copies up to the least common multiple, loops, POT."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from scipy.spatial.distance import cdist

from tercet.inference.trajectories import distances as module
from tercet.inference.trajectories.distances import mmd_squared, sliced_wasserstein, transport_plan, wasserstein

ALL = [wasserstein, sliced_wasserstein, mmd_squared]


def clouds(rng: np.random.Generator, n: int, m: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(n, dim)), 0.5 + 1.3 * rng.normal(size=(m, dim))


def by_copies(x: np.ndarray, y: np.ndarray) -> float:
    """W2^2 by copying particles to equal numbers and trying every permutation."""
    copies = int(np.lcm(len(x), len(y)))
    a, b = np.repeat(x, copies // len(x), axis=0), np.repeat(y, copies // len(y), axis=0)
    return min(np.square(a - b[list(order)]).sum(axis=1).mean() for order in itertools.permutations(range(copies)))


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 2), (5, 5), (6, 6), (2, 3), (3, 6), (1, 4), (4, 2)])
def test_wasserstein_is_the_best_of_all_permutations(n: int, m: int, dim: int, rng: np.random.Generator) -> None:
    x, y = clouds(rng, n, m, dim)
    assert wasserstein(x, y) ** 2 == pytest.approx(by_copies(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(7, 11), (12, 30), (40, 23), (1, 50)])
def test_routes_for_unequal_sizes_agree(n: int, m: int, rng: np.random.Generator) -> None:
    """Copies and the linear programme, at any scale of the data; the plan keeps the mass of every particle."""
    x, y = clouds(rng, n, m, 3)
    copies = int(np.lcm(n, m))
    costs = cdist(np.repeat(x, copies // n, axis=0), np.repeat(y, copies // m, axis=0), "sqeuclidean")
    copied = np.sqrt(costs[scipy.optimize.linear_sum_assignment(costs)].mean())
    assert wasserstein(x, y) == pytest.approx(copied, rel=1e-7)  # by whichever is quicker
    for scale in (1.0, 1e-6, 1e6):
        assert wasserstein(scale * x, scale * y, max_copies=0) == pytest.approx(scale * copied, rel=1e-7)
    plan = transport_plan(x, y, max_copies=0)
    np.testing.assert_allclose(np.bincount(plan.first, plan.weight, n), 1 / n)
    np.testing.assert_allclose(np.bincount(plan.second, plan.weight, m), 1 / m)
    assert len(plan.weight) <= n + m - 1
    assert (plan.weight > 0).all()


def test_clouds_that_coincide_in_part(rng: np.random.Generator) -> None:
    """Ties and point masses by the linear programme: half of the mass stays, half moves by 5."""
    point = rng.normal(size=2)
    assert wasserstein([point] * 4, [point] * 3, max_copies=0) == 0.0
    halves = point + np.array([[0, 0], [0, 0], [3, 4], [3, 4]])
    assert wasserstein(halves, [point] * 3, max_copies=0) == pytest.approx(np.sqrt(12.5))


@pytest.mark.parametrize("dim", [1, 3])
def test_translations(dim: int, rng: np.random.Generator) -> None:
    """W2 is the length of the shift; sliced, along u, |v . u|: in the mean over directions |v|^2 / d."""
    x, shift = rng.normal(size=(60, dim)), 10.0 * rng.normal(size=dim)
    length = np.linalg.norm(shift)
    assert wasserstein(x, x + shift) == pytest.approx(length)
    sliced = sliced_wasserstein(x, x + shift, directions=4000, key=int(rng.integers(2**31)))
    # (u . v)^2 / |v|^2 is Beta(1/2, (d - 1) / 2) with mean 1/d; five and a half standard errors
    sd = 0.0 if dim == 1 else scipy.stats.beta(0.5, (dim - 1) / 2).std()
    assert sliced**2 / length**2 == pytest.approx(1 / dim, abs=5.5 * sd / np.sqrt(4000) + 1e-12)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 45), (17, 29)])
def test_one_coordinate_by_quantile_functions(n: int, m: int, rng: np.random.Generator) -> None:
    """Integral of (F^-1 - G^-1)^2 on the finest common grid; both distances are exact there, at any key."""
    x, y = clouds(rng, n, m, 1)
    middles = (np.arange(n * m) + 0.5) / (n * m)
    gap = np.sort(x[:, 0])[(middles * n).astype(int)] - np.sort(y[:, 0])[(middles * m).astype(int)]
    exact = np.sqrt(np.square(gap).mean())
    assert wasserstein(x, y) == pytest.approx(exact, rel=1e-12)
    assert sliced_wasserstein(x, y, directions=3, key=int(rng.integers(99))) == pytest.approx(exact, rel=1e-12)


def test_sliced_is_at_most_exact_and_kept_by_its_key(rng: np.random.Generator, seed: int) -> None:
    x, y = clouds(rng, 40, 50, 4)
    assert sliced_wasserstein(x, y, key=seed) <= wasserstein(x, y)
    assert sliced_wasserstein(x, y, key=seed) == sliced_wasserstein(x, y, key=seed)
    assert sliced_wasserstein(x, y, key=seed) != sliced_wasserstein(x, y, key=seed + 1)


@pytest.mark.parametrize("bandwidth", [0.5, 1.0, 3.0])
def test_mmd_is_the_triple_of_loops(bandwidth: float, rng: np.random.Generator) -> None:
    x, y = clouds(rng, 9, 14, 3)

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[np.exp(-np.sum((p - q) ** 2) / (2 * bandwidth**2)) for q in b] for p in a]))

    looped = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    assert mmd_squared(x, y, bandwidth) == pytest.approx(looped, rel=1e-10)
    for block_size in (1, 20, 40):  # rows of 1 and 2, and a last block that is not full
        assert mmd_squared(x, y, bandwidth, block_size=block_size) == pytest.approx(looped, rel=1e-10)


def test_mmd_of_two_points_and_of_two_normals(rng: np.random.Generator) -> None:
    """2 - 2 exp(-r^2 / 2 h^2); for N(0, 1) and N(c, 1) the kernel's means are sqrt(h^2 / (h^2 + 2)) exp(...)."""
    assert mmd_squared([[0.0, 0.0]], [[3.0, 4.0]], 2.0) == pytest.approx(2 - 2 * np.exp(-25 / 8))
    x = scipy.stats.norm.ppf((np.arange(2000) + rng.random()) / 2000)[:, None]
    x = x[np.isfinite(x[:, 0])]
    exact = 2 * np.sqrt(1 / 3) * (1 - np.exp(-1 / 6))
    assert mmd_squared(x, x + 1.0) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("dim", [1, 3])
def test_invariances(distance: Any, dim: int, rng: np.random.Generator) -> None:
    """Order of particles, order of clouds, copies of all particles and shifts of both do not matter."""
    x, y = clouds(rng, 12, 20, dim)
    value = distance(x, y)
    assert value > 0
    assert distance(rng.permutation(x), rng.permutation(y)) == pytest.approx(value, rel=1e-9)
    assert distance(y, x) == pytest.approx(value, rel=1e-9)
    assert distance(np.repeat(x, 2, axis=0), y) == pytest.approx(value, rel=1e-9)
    assert distance(x + 3.0, y + 3.0) == pytest.approx(value, rel=1e-9)
    assert distance(x, rng.permutation(x)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (31, 47)])
def test_wasserstein_is_pots(n: int, m: int, rng: np.random.Generator) -> None:
    ot = pytest.importorskip("ot")
    x, y = clouds(rng, n, m, 2)
    assert wasserstein(x, y) ** 2 == pytest.approx(ot.emd2([], [], ot.dist(x, y)), rel=1e-7)


def test_clouds_too_large_are_sent_to_slices(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"clouds of 5001 and 5001 .* use sliced_wasserstein, or fewer"):
        wasserstein(np.zeros((5001, 2)), np.zeros((5001, 2)))
    with pytest.raises(ValueError, match="clouds of 501 and 500"):
        wasserstein(np.zeros((501, 2)), np.zeros((500, 2)))
    assert wasserstein(np.zeros((5001, 1)), np.ones((5000, 1))) == pytest.approx(1.0)


def test_a_failed_programme_is_an_error(rng: np.random.Generator, monkeypatch: Any) -> None:
    failed = scipy.optimize.OptimizeResult(status=1, message="time is up", x=None)
    monkeypatch.setattr(module, "linprog", lambda *args, **kwargs: failed)
    with pytest.raises(RuntimeError, match="programme failed: time is up; use sliced_wasserstein"):
        wasserstein(*clouds(rng, 3, 4, 2), max_copies=0)


@pytest.mark.parametrize("distance", ALL)
def test_impossible_clouds_are_refused(distance: Any) -> None:
    for x, y, message in (
        ([[1.0, 2.0]], [[1.0]], "same coordinates, got widths 2 and 1"),
        ([1.0], [[1.0]], "first must have 2 dimension"),
        ([[1.0]], np.empty((0, 1)), "second is empty"),
        ([[np.nan]], [[1.0]], "first has NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            distance(x, y)
    with pytest.raises(ValueError, match="directions must be at least 1"):
        sliced_wasserstein([[1.0]], [[2.0]], directions=0)
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        mmd_squared([[1.0]], [[2.0]], bandwidth=0.0)
