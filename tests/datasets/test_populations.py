"""Simulated populations: closed forms of their laws, a solver of differential equations, and independence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from scipy.integrate import solve_ivp

from tercet.datasets.populations import (
    double_well_snapshots,
    lotka_volterra_snapshots,
    population_snapshots,
    repressilator_snapshots,
    spring_snapshots,
    vortex_snapshots,
)
from tercet.models.trajectories.families import brownian, ornstein_uhlenbeck
from tercet.models.trajectories.reference_sdes import ReferenceSDE
from tercet.models.trajectories.volatilities import constant_volatility

FALSE_ALARM = 1e-6
OU = ReferenceSDE(ornstein_uhlenbeck(2), constant_volatility(0.5))
THETA = {"rate": [0.5, 1.5], "level": [1.0, -1.0]}


def start(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(3.0, 0.2, size=(n, 2))


def assert_normal(sample: np.ndarray, mean: np.ndarray, variance: np.ndarray, tests: int) -> None:
    """Mean and variance of a normal sample [n, d], all at false alarm FALSE_ALARM / tests."""
    n, tail = len(sample), FALSE_ALARM / (4 * tests * sample.shape[1])
    assert (np.abs(sample.mean(axis=0) - mean) < scipy.stats.norm.isf(tail) * np.sqrt(variance / n)).all()
    low, high = scipy.stats.chi2.ppf([tail, 1 - tail], n - 1)
    ratio = (n - 1) * sample.var(axis=0, ddof=1) / variance
    assert ((low < ratio) & (ratio < high)).all()


def test_snapshots_have_ornstein_uhlenbecks_moments(seed: int) -> None:
    """Mean decays to the level, variance to s^2 / 2a, at every time and size."""
    times, sizes = np.array([1.0, 1.5, 3.0]), [300, 2000, 700]
    truth = population_snapshots(OU, THETA, start, times, particles=sizes, step=0.002, key=seed)
    rate, level = np.array(THETA["rate"]), np.array(THETA["level"])
    assert [len(cloud) for cloud in truth.snapshots.particles] == sizes
    for t, cloud in zip(times - times[0], truth.snapshots.particles, strict=True):
        assert cloud.dtype == np.float64
        decay = np.exp(-rate * t)
        variance = 0.2**2 * decay**2 + 0.5**2 * (1 - decay**2) / (2 * rate)
        assert_normal(cloud, level + decay * (3.0 - level), variance, tests=3)


def test_populations_share_no_particles(seed: int) -> None:
    """A path seen twice would give a rank correlation near 1 here."""
    sde = ReferenceSDE(brownian(1), constant_volatility(0.01))
    truth = population_snapshots(
        sde, {}, lambda rng, n: rng.normal(size=(n, 1)), [0, 1, 2], particles=300, step=1.0, key=seed
    )
    clouds = [cloud[:, 0] for cloud in truth.particles]
    for j in range(3):
        for k in range(j):
            assert scipy.stats.spearmanr(clouds[j], clouds[k]).pvalue > FALSE_ALARM / 3


def test_start_from_rows(seed: int) -> None:
    """Rows are used once while they last, and drawn again beyond; at times[0] they are the snapshot."""
    rows = np.arange(12.0).reshape(6, 2)
    truth = population_snapshots(OU, THETA, rows, [0.0, 0.1], particles=[6, 4], key=seed)
    np.testing.assert_array_equal(np.sort(truth.particles[0], axis=0), rows)
    many = population_snapshots(OU, THETA, rows, [0.0], particles=60, key=seed).particles[0]
    assert {tuple(row) for row in many} <= {tuple(row) for row in rows}


def predators(t: float, x: np.ndarray) -> list[float]:
    return [x[0] - 0.4 * x[0] * x[1], 0.1 * x[0] * x[1] - 0.4 * x[1]]


def genes(t: float, x: np.ndarray) -> np.ndarray:
    return 10.0 / (1.0 + x[[2, 0, 1]] ** 3) - x


def genes_with_proteins(t: float, x: np.ndarray) -> np.ndarray:
    return np.r_[10.0 / (1.0 + x[[5, 3, 4]] ** 3) - x[:3], x[:3] - x[3:]]


@pytest.mark.parametrize(
    ("simulator", "options", "drift", "corner"),
    [
        (lotka_volterra_snapshots, {}, predators, [5.0, 4.0]),
        (repressilator_snapshots, {}, genes, [1.0, 1.0, 2.0]),
        (repressilator_snapshots, {"protein": True}, genes_with_proteins, [1.0, 1.0, 2.0, 1.0, 1.0, 2.0]),
    ],
)
def test_benchmarks_start_and_move_as_published(
    simulator: Any, options: dict[str, Any], drift: Any, corner: list[float], seed: int
) -> None:
    """The start fills its box; without noise the path from a corner is that of the equations, to Euler's error."""
    truth = simulator(particles=100, times=[0.0], key=seed, **options)
    seen = sum(truth.snapshots.observed)
    place = (truth.particles[0] - corner)[:, :seen] / 0.1
    assert scipy.stats.kstest(place.ravel(), "uniform").pvalue > FALSE_ALARM
    quiet = truth.theta | {"volatility": 0.0}
    end = population_snapshots(truth.sde, quiet, [corner], [0, 2], particles=1, step=0.001).particles[1][0]
    np.testing.assert_allclose(end, solve_ivp(drift, (0.0, 2.0), corner, rtol=1e-8).y[:, -1], rtol=0.005)


@pytest.mark.parametrize(("noise", "sd"), [("proportional", [0.02 * 3.0, 0.02 * 7.0]), ("constant", [0.1, 0.1])])
def test_benchmark_noise(noise: str, sd: list[float], seed: int) -> None:
    """One Euler step from one known point is exactly normal: x + b h with sd s(x) sqrt(h)."""
    truth = lotka_volterra_snapshots(particles=2, times=[0, 1], noise=noise, key=seed)
    point, h = np.array([3.0, 7.0]), 0.01
    settings = {"particles": [1, 2000], "step": h, "key": seed}
    moved = population_snapshots(truth.sde, truth.theta, [point], [0, h], **settings).particles[1]
    drift = np.array([1.0 * 3 - 0.4 * 21, 0.1 * 21 - 0.4 * 7])
    assert_normal(moved, point + h * drift, h * np.square(sd), tests=2)


def test_hidden_proteins_are_simulated_but_not_shown(seed: int) -> None:
    truth = repressilator_snapshots(particles=[5, 40], times=[0, 1], protein=True, key=seed)
    assert truth.snapshots.observed == (True,) * 3 + (False,) * 3
    assert truth.theta["rate"] == 1.0
    np.testing.assert_array_equal(truth.particles[0][:, 3:], np.tile([1.0, 1.0, 2.0], (5, 1)))
    for shown, full in zip(truth.snapshots.particles, truth.particles, strict=True):
        np.testing.assert_array_equal(shown[:, :3], full[:, :3])
        assert (shown[:, 3:] == 0).all()
    assert (truth.particles[1][:, 3:] > 0.3).all()
    assert np.ptp(truth.particles[1][:, 3:], axis=0).min() > 0


def test_double_well_splits_as_its_closed_form(seed: int) -> None:
    """Without noise x(t) = x / sqrt(x^2 + (1 - x^2) e^{-2t}), y(t) = y e^{-t}: the clouds' extremes and signs."""
    truth = double_well_snapshots(particles=100, times=[0, 2], volatility=0.0, step=0.001, key=seed)
    x, y = np.array([-0.1, 0.1]), np.array([0.9, 1.1])
    low, high = x / np.sqrt(x**2 + (1 - x**2) * np.exp(-4.0))
    end = truth.particles[1]
    assert ((end[:, 0] > low - 1e-3) & (end[:, 0] < high + 1e-3)).all()
    assert ((end[:, 1] > y[0] * np.exp(-2) - 1e-3) & (end[:, 1] < y[1] * np.exp(-2) + 1e-3)).all()
    noisy = double_well_snapshots(particles=400, times=[0, 5], key=seed).particles[1][:, 0]
    # by symmetry half of the particles fall to each side; few are still near the top
    assert scipy.stats.binomtest(int((noisy > 0).sum()), 400).pvalue > FALSE_ALARM
    assert (np.abs(noisy) > 0.5).mean() > 0.8


@pytest.mark.parametrize(("masses", "dim"), [(1, 1), (2, 3)])
def test_springs_have_the_moments_of_their_linear_system(masses: int, dim: int, seed: int) -> None:
    """Euler's recursion m <- (I + hA) m, P <- (I + hA) P (I + hA)' + hQ is exact, from the uniform start's moments."""
    size, steps, n = masses * dim, 50, 500
    truth = spring_snapshots(masses, dim, particles=n, times=[0.0, 1.0], volatility=0.4, step=1 / steps, key=seed)
    chain = 2 * np.eye(masses) - np.eye(masses, k=1) - np.eye(masses, k=-1)
    zero, one = np.zeros((size, size)), np.eye(size)
    linear = np.block([[zero, one], [-np.kron(chain, np.eye(dim)), -0.2 * one]])
    move = np.eye(2 * size) + linear / steps
    mean, covariance = np.repeat([0.5, 0.0], size), 0.2**2 / 12 * np.eye(2 * size)
    for _ in range(steps):
        mean = move @ mean
        covariance = move @ covariance @ move.T + scipy.linalg.block_diag(zero, 0.4**2 * one) / steps
    rest = np.r_[np.repeat(np.arange(1.0, masses + 1), dim), np.zeros(size)]
    end, spread = truth.particles[1], np.diag(covariance)
    assert (np.abs(end.mean(axis=0) - rest - mean) < 5.8 * np.sqrt(spread / n)).all()
    error = np.sqrt((np.outer(spread, spread) + covariance**2) / n)
    assert (np.abs(np.cov(end.T) - covariance) < 7.0 * error).all()
    assert truth.snapshots.observed == (True,) * size + (False,) * size
    np.testing.assert_array_equal(truth.snapshots.particles[1], np.c_[end[:, :size], np.zeros((n, size))])


def test_vortices_turn_about_their_centre(seed: int) -> None:
    """Without noise: distance e^{-t/10} of the start's in the big vortex, unchanged in Lamb and Oseen's."""
    center = np.array([0.5, -0.3])
    for kind, shrink in (("big_vortex", np.exp(-0.3)), ("lamb_oseen", 1.0)):
        truth = vortex_snapshots(50, [0.0, 3.0], volatility=0.0, kind=kind, step=0.001, key=seed)
        away = truth.particles[1] - center
        radius = np.hypot(*away.T) / shrink
        assert ((radius > 0.999 * 1.0) & (radius < 1.01 * np.hypot(1.5, 0.3))).all()
        angle = np.arctan2(away[:, 1], away[:, 0])
        speed = 1.0 if kind == "big_vortex" else (1 - np.exp(-4 * radius**2)) / radius**2
        begin = np.mod(angle - 3.0 * speed + np.pi, 2 * np.pi) - np.pi
        assert ((begin > np.arctan2(-0.2, 1.0) - 0.01) & (begin < np.arctan2(0.3, 1.0) + 0.01)).all()


def test_keys(seed: int) -> None:
    one, again, other = (vortex_snapshots(5, [0, 1], key=key) for key in (seed, seed, seed + 1))
    for k in (0, 1):
        np.testing.assert_array_equal(one.particles[k], again.particles[k])
        assert not (one.particles[k] == other.particles[k]).any()
    assert one.sde == again.sde
    assert hash(one.sde) == hash(again.sde)  # compiled once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"particles": 0}, "at least one particle"),
        ({"particles": [3, 3, 3]}, "one for each of 2 times"),
        ({"particles": [2.5, 2.5]}, "whole number"),
        ({"times": [1, 0]}, "times must increase"),
        ({"start": [1.0, 2.0]}, "start must have 2 dimension"),
        ({"start": [[1.0, 2.0, 3.0]]}, r"start must give \[n, d\] = \[2, 2\]"),
        ({"start": lambda rng, n: np.zeros((n + 1, 2))}, r"\[2, 2\] particles, got \(3, 2\)"),
        ({"observed": [True]}, "observed must have 2 booleans"),
        ({"theta": {}}, "theta lacks"),
    ],
)
def test_impossible_populations_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"theta": THETA, "start": start, "times": [0, 1], "particles": 2, "step": 0.5} | change
    with pytest.raises(ValueError, match=message):
        population_snapshots(OU, **given)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"noise must be one of .*'constant'"):
        lotka_volterra_snapshots(noise="none")
    with pytest.raises(ValueError, match="volatility must be at least 0"):
        repressilator_snapshots(volatility=-1.0)
    with pytest.raises(ValueError, match=r"kind must be one of .*'lamb_oseen'"):
        vortex_snapshots(kind="tornado")
