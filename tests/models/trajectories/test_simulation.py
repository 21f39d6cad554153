"""Simulated paths: the exact law of the discretised process, closed forms, order of the error, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

from tercet.models.trajectories.families import brownian, ornstein_uhlenbeck
from tercet.models.trajectories.reference_sdes import (
    Drift,
    ReferenceSDE,
    Volatility,
)
from tercet.models.trajectories.simulation import simulate
from tercet.models.trajectories.volatilities import constant_volatility, proportional_volatility

FALSE_ALARM = 1e-6
RATE, LEVEL, SD = np.array([0.7, 2.0]), np.array([1.0, -2.0]), 0.6
THETA = {"rate": RATE, "level": LEVEL}
TIMES = np.array([0.5, 1.0, 1.7, 2.0])


def ou(volatility: float = SD) -> ReferenceSDE:
    return ReferenceSDE(ornstein_uhlenbeck(2), constant_volatility(volatility))


def drift_of(function: Any, dim: int = 1) -> Drift:
    return Drift(function, {}, [f"x{i}" for i in range(dim)])


def assert_normal(sample: np.ndarray, mean: np.ndarray, variance: np.ndarray, tests: int = 1) -> None:
    """Mean and variance of a normal sample [n, d], each at false alarm FALSE_ALARM / tests."""
    n, tail = len(sample), FALSE_ALARM / (4 * tests * sample.shape[1])
    z = (sample.mean(axis=0) - mean) / np.sqrt(variance / n)
    assert (np.abs(z) < scipy.stats.norm.isf(tail)).all(), z
    ratio = (n - 1) * sample.var(axis=0, ddof=1) / variance
    low, high = scipy.stats.chi2.ppf([tail, 1 - tail], n - 1)
    assert ((ratio > low) & (ratio < high)).all(), ratio


def test_law_is_exactly_that_of_the_recursion(seed: int) -> None:
    """Affine drift: X_{l+1} - c = P(a h)(X_l - c) + s sqrt(h) Z, P the Taylor polynomial of exp(-a h), is normal."""
    start = np.array([3.0, 0.5])
    paths = simulate(ou(), THETA, np.tile(start, (4000, 1)), TIMES, step=0.2, key=seed)
    assert paths.shape == (4, 4000, 2)
    np.testing.assert_array_equal(paths[0], np.tile(start, (4000, 1)))
    mean, variance = start - LEVEL, np.zeros(2)
    for k, (substeps, gap) in enumerate([(3, 0.5), (4, 0.7), (2, 0.3)], start=1):
        for _ in range(substeps):
            u = RATE * gap / substeps
            shrink = 1.0 - u + u**2 / 2 - u**3 / 6 + u**4 / 24
            mean, variance = shrink * mean, shrink**2 * variance + SD**2 * gap / substeps
        assert_normal(paths[k], LEVEL + mean, variance, tests=3)


def test_moments_approach_ornstein_uhlenbecks(seed: int) -> None:
    """Mean and variance of the continuous process, the error of the step far below 1 / n."""
    start = np.array([3.0, 0.5])
    end = simulate(ou(), THETA, np.tile(start, (2000, 1)), [0.0, 1.5], step=1e-3, key=seed)[-1]
    decay = np.exp(-RATE * 1.5)
    assert_normal(end, LEVEL + decay * (start - LEVEL), SD**2 * (1 - decay**2) / (2 * RATE))


def test_error_of_the_mean_is_of_fourth_order() -> None:
    """With next to no noise the path is its mean: halving the step takes 15 of 16 parts of the error."""
    exact = LEVEL + np.exp(-RATE * 2.0) * (3.0 - LEVEL)
    steps = (0.125, 0.0625, 0.03125, 0.015625)
    error = [np.abs(simulate(ou(1e-30), THETA, np.full((1, 2), 3.0), [0, 2], step=h)[-1, 0] - exact) for h in steps]
    ratios = np.array(error[:-1]) / np.array(error[1:])
    assert (np.abs(ratios - 16.0) < 6.0).all()
    assert (np.abs(ratios[-1] - 16.0) < np.abs(ratios[0] - 16.0)).all()


def test_noise_is_independent_between_particles_and_intervals(seed: int) -> None:
    """Brownian increments over sqrt(dt): normal, and so are their scaled sums over particles and over intervals."""
    times = np.cumsum(np.arange(1, 41)) / 10.0
    paths = simulate(
        ReferenceSDE(brownian(2), constant_volatility(1.0)), {}, np.zeros((50, 2)), times, step=0.5, key=seed
    )
    z = np.diff(paths, axis=0) / np.sqrt(np.diff(times))[:, None, None]
    for values in (z, z.sum(axis=0) / np.sqrt(39), z.sum(axis=1) / np.sqrt(50), z.sum(axis=2) / np.sqrt(2)):
        assert scipy.stats.kstest(values.ravel(), "norm").pvalue > FALSE_ALARM / 4


def test_correlated_noise_of_more_sources_than_coordinates(seed: int) -> None:
    """X = R W: covariance R R' t. The Wishart statistic n tr(S^-1 C) has a chi-square law."""
    root = np.array([[1.0, 0.5, -0.3], [0.2, 0.7, 0.4]])
    level = Volatility(lambda theta, x, t: jnp.asarray(root.astype(x.dtype)), {}, state_free=True)
    end = simulate(ReferenceSDE(brownian(2), level), {}, np.zeros((3000, 2)), [0.0, 4.0], step=1.0, key=seed)[-1]
    whitened = end @ np.linalg.inv(np.linalg.cholesky(4.0 * root @ root.T)).T
    low, high = scipy.stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 3000)
    for direction in ([1, 0], [0, 1], [0.6, 0.8], [0.8, -0.6]):
        assert low < np.square(whitened @ direction).sum() < high


def test_time_runs_through_equal_substeps() -> None:
    """Drift e^t: Runge-Kutta is Simpson's rule; 0.3 at a step of 0.1 is three substeps, long steps are cut to fit."""
    sde = ReferenceSDE(drift_of(lambda theta, x, t: jnp.full(1, jnp.exp(t))), constant_volatility(1e-12))

    def simpson(begin: float, end: float, cuts: int) -> float:
        ends = np.linspace(begin, end, cuts + 1)
        middles = (ends[1:] + ends[:-1]) / 2
        return float(((np.exp(ends[1:]) + np.exp(ends[:-1]) + 4 * np.exp(middles)) / 6).sum() * (end - begin) / cuts)

    paths = simulate(sde, {}, [[0.0]], [1.0, 1.0 + 3 * 0.1, 2.3], step=0.1)[:, 0, 0]
    np.testing.assert_allclose(np.diff(paths), [simpson(1.0, 1.3, 3), simpson(1.3, 2.3, 10)], 1e-9)
    coarse = simulate(sde, {}, [[0.0]], [1.0, 1.3, 2.3], step=7.0)[:, 0, 0]
    np.testing.assert_allclose(np.diff(coarse), [simpson(1.0, 1.3, 1), simpson(1.3, 2.3, 1)], rtol=1e-9)


def test_proportional_noise_scales_with_the_state(seed: int) -> None:
    sde = ReferenceSDE(brownian(2), proportional_volatility())
    start = np.array([2.0, -30.0])
    end = simulate(sde, {"volatility": 0.1}, np.tile(start, (2000, 1)), [0, 0.25], step=0.25, key=seed)[-1]
    assert_normal(end, start, np.square(0.1 * start) * 0.25)


@pytest.mark.precision
def test_answer_is_that_of_the_key_whatever_the_precision(seed: int, bits: int) -> None:
    """Same key, same 64-bit paths from 32-bit code too, and the caller's setting stays as it was."""
    starts = np.ones((3, 2))
    one, again, other = (simulate(ou(), THETA, starts, TIMES, step=0.1, key=key) for key in (seed, seed, seed + 1))
    with jax.enable_x64(True):
        wide = simulate(ou(), THETA, starts, TIMES, step=0.1, key=jax.random.key(seed))
    assert one.dtype == np.float64
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one, wide)
    assert (one[1:] != other[1:]).all()
    assert jnp.asarray(0.5).dtype == (jnp.float64 if bits == 64 else jnp.float32)


def test_first_time_alone_gives_the_start() -> None:
    np.testing.assert_array_equal(simulate(ou(), THETA, [[1, 2]], [0.0]), [[[1.0, 2.0]]])


def test_explosions_are_told(seed: int) -> None:
    """Drift x^3: from 1 leaves at t = 1/2, from -1.2 at 0.35; from 0.1 it would at t = 50."""
    sde = ReferenceSDE(drift_of(lambda theta, x, t: x**3), constant_volatility(1e-3))
    with pytest.raises(ValueError, match=r"2 of 3 particles ran off to infinity by time 1: .*step=0\.01"):
        simulate(sde, {}, [[1.0], [0.1], [-1.2]], [0.0, 0.25, 1.0, 2.0], key=seed)
    quiet = simulate(sde, {}, [[1.0], [0.1], [-1.0]], [0.0, 0.25], key=seed)
    assert np.isfinite(quiet).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"starts": [1.0, 2.0]}, "starts must have 2 dimension"),
        (
            {"starts": [[1.0, 2.0, 3.0]]},
            r"starts must be \[n, 2\], one column for each of \['x0', 'x1'\], got \(1, 3\)",
        ),
        ({"starts": [[1.0, np.nan]]}, "starts has NaN"),
        ({"times": [0.0, 1.0, 1.0]}, "times must increase"),
        ({"times": []}, "times is empty"),
        ({"step": 0.0}, "step must be positive"),
        ({"step": np.inf}, "step must be positive"),
        ({"theta": {"rate": RATE}}, r"theta lacks \['level'\]"),
        ({"theta": {"rate": 1.0, "level": LEVEL}}, r"theta\['rate'\] must have shape \(2,\)"),
        ({"key": "0"}, "key must be"),
    ],
)
def test_questions_without_an_answer_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"theta": THETA, "starts": [[1.0, 2.0]], "times": TIMES} | change
    with pytest.raises(ValueError, match=message):
        simulate(ou(), **given)


def test_own_family_with_learned_parameters(seed: int) -> None:
    """Parameters reach drift and volatility by their sites."""
    drift = Drift(lambda theta, x, t: theta["pace"] * jnp.ones_like(x), {"pace": dist.Normal(0.0, 1.0)}, ["x"])
    sde = ReferenceSDE(drift, constant_volatility())
    end = simulate(sde, {"pace": 3.0, "volatility": 2.0}, np.zeros((2000, 1)), [0, 4], step=1.0, key=seed)[-1]
    assert_normal(end, np.array([12.0]), np.array([16.0]))
