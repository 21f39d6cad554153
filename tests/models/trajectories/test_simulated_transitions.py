"""Simulated transitions: geometric Brownian motion in closed form, the limit of small noise, smoothness, explosions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
from numpyro.handlers import substitute, trace

from tercet.models.trajectories.families import lotka_volterra, ornstein_uhlenbeck
from tercet.models.trajectories.linear_noise import linear_noise_moments
from tercet.models.trajectories.reference_sdes import Drift, ReferenceSDE
from tercet.models.trajectories.simulated_transitions import last_steps, simulated_moments
from tercet.models.trajectories.snapshot_model import SnapshotModel
from tercet.models.trajectories.snapshots import Snapshots
from tercet.models.trajectories.volatilities import constant_volatility, proportional_volatility

LV = ReferenceSDE(lotka_volterra(), proportional_volatility())
RATES = {"alpha": 0.9, "beta": 0.4, "gamma": 0.5, "delta": 0.2, "volatility": 0.3}
GROWTH = 0.1
TIMES = np.array([0.0, 0.5, 1.2])
GBM = ReferenceSDE(Drift(lambda theta, x, t: GROWTH * x, {}, ["x"]), proportional_volatility())


def log_likelihood(model: SnapshotModel, snapshots: Snapshots) -> Callable[..., Any]:
    """Of the observed site as a function of the latent ones."""

    def total(sites: Any, weights: Any = None) -> Any:
        site = trace(substitute(model, data=sites)).get_trace(snapshots, weights)["snapshots"]
        return (site["fn"].log_prob(site["value"]) * (1.0 if site["scale"] is None else site["scale"])).sum()

    return total


def arrays(sites: Any) -> Any:
    """Values as arrays of the precision in force."""
    return jax.tree.map(
        lambda v: jnp.asarray(v, jnp.zeros(()).dtype), sites, is_leaf=lambda v: isinstance(v, (list, np.ndarray))
    )


def lognormal(times: np.ndarray, count: int, volatility: float = 0.5) -> Snapshots:
    """Quantiles of the law from 20 starts near 1: nothing random."""
    starts = np.exp(0.05 * scipy.stats.norm.ppf((np.arange(20) + 0.5) / 20))
    scores = scipy.stats.norm.ppf((np.arange(count) + 0.5) / count)
    drift, wide = GROWTH - volatility**2 / 2, volatility**2
    clouds = [np.exp(drift * t + np.sqrt(wide * t + 0.05**2) * scores) for t in times[1:]]
    return Snapshots([starts[:, None], *(cloud[:, None] for cloud in clouds)], times)


def exact(volatility: float, snapshots: Snapshots, anchor: str) -> float:
    total, clouds = 0.0, [cloud[:, 0] for cloud in snapshots.particles]
    for k in range(1, len(clouds)):
        source = 0 if anchor == "first" else k - 1
        gap = snapshots.times[k] - snapshots.times[source]
        median = clouds[source] * np.exp((GROWTH - volatility**2 / 2) * gap)
        logs = scipy.stats.lognorm.logpdf(clouds[k][:, None], volatility * np.sqrt(gap), scale=median)
        total += scipy.special.logsumexp(logs, axis=1, b=1 / len(median)).sum()
    return float(total)


@pytest.mark.parametrize("anchor", ["first", "consecutive"])
def test_large_proportional_noise(anchor: str, seed: int) -> None:
    """Log likelihood and the volatility that maximises it: far nearer to the exact ones than those of linear noise.

    The margins are several times the Monte Carlo error over keys.
    """
    times = np.array([0.0, 4.0]) if anchor == "first" else np.array([0.0, 1.0, 2.0])
    snapshots, grid = lognormal(times, 80 if anchor == "first" else 20), np.linspace(0.4, 0.7, 13)
    curves = [np.array([exact(volatility, snapshots, anchor) for volatility in grid])]
    for paths in (0, 100):
        total = log_likelihood(SnapshotModel(GBM, anchor, paths=paths, path_key=seed), snapshots)
        run = jax.jit(lambda grid, total=total: jax.lax.map(lambda v: total({"volatility": v}), grid))
        curves.append(np.asarray(run(jnp.asarray(grid))))
    truth, linear, simulated = curves
    error = np.abs(np.array([linear, simulated]) - truth)
    assert (error[1] < error[0] / 4).all(), error
    if anchor == "first":
        best = [grid[curve.argmax()] for curve in curves]
        assert abs(best[2] - best[0]) < abs(best[1] - best[0]), best


@pytest.fixture
def cells(rng: np.random.Generator) -> Snapshots:
    return Snapshots([rng.uniform(2.0, 4.0, (count, 2)) for count in (3, 5, 2)], TIMES)


@pytest.mark.parametrize("anchor", ["first", "consecutive"])
def test_likelihood_is_the_mixture_over_starts_and_paths(anchor: str, cells: Snapshots, rng: Any, seed: int) -> None:
    """Weighted, unequal counts, against a loop; gradient by finite differences; finite where rates are 1e6 or 1e-6."""
    paths, steps = 3, 4
    model = SnapshotModel(LV, anchor, paths=paths, path_steps=steps, path_key=seed)
    both = jax.jit(jax.value_and_grad(log_likelihood(model, cells)))
    theta, weights = arrays(RATES), arrays(tuple(rng.uniform(0.5, 2.0, count) for count in cells.counts))

    @jax.jit
    def laws(theta: Any) -> list[Any]:
        first = anchor == "first"
        starts = np.concatenate(cells.particles[:1] if first else cells.particles[:2])
        owner = np.repeat([0, 1], cells.counts[:2])
        clock = TIMES if first else np.stack([TIMES[owner], TIMES[owner + 1]])
        found = simulated_moments(
            LV, theta, jnp.asarray(starts), clock, paths, steps=steps, key=seed, scale=cells.magnitude
        )
        return list(found[:2])

    means, spreads = (np.asarray(part) for part in laws(theta))
    total = 0.0
    for k in (1, 2):
        if anchor == "first":
            rows, w = (k - 1, slice(0, 9)), np.repeat(weights[0], paths)
        else:
            rows, w = (0, slice(0, 9) if k == 1 else slice(9, 24)), np.repeat(weights[k - 1], paths)
        parts = zip(means[rows], spreads[rows], strict=True)
        p = np.array([scipy.stats.multivariate_normal(m, S).pdf(cells.particles[k]) for m, S in parts])
        total += float(weights[k] @ np.log(w / w.sum() @ p))
    value, gradient = both(theta, weights)
    np.testing.assert_allclose(value, total, rtol=1e-8)
    for site in theta:
        ahead, behind = (both(theta | {site: theta[site] + h}, weights)[0] for h in (1e-6, -1e-6))
        np.testing.assert_allclose(gradient[site], (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-4)
    for signs in (np.ones(5), -np.ones(5), rng.choice([-1.0, 1.0], 5)):
        absurd = both(arrays({site: 1e6**sign for site, sign in zip(theta, signs, strict=True)}), weights)
        assert all(np.isfinite(part).all() for part in jax.tree.leaves(absurd))


@lru_cache
def mixture(sde: ReferenceSDE, paths: int, steps: int) -> Callable[..., Any]:
    """Moments over the paths of each start, [K, n, ...]: of the components' means, their covariances added."""

    @jax.jit
    def run(theta: Any, starts: Any, key: Any, factor: Any) -> Any:
        found = simulated_moments(sde, theta, starts, TIMES, paths, steps=steps, key=key, start_factor=factor)
        n, d = starts.shape
        means = found.mean.reshape(2, n, paths, d)
        spread = found.covariance.reshape(2, n, paths, d, d).mean(axis=2)
        off = means - means.mean(axis=2, keepdims=True)
        return means.mean(axis=2), spread + jnp.einsum("knpa,knpb->knab", off, off) / (paths - 1)

    return run


@pytest.mark.parametrize("case", ["small noise", "affine, random starts"])
def test_moments_are_those_of_linear_noise_where_these_are_right(case: str, rng: Any, seed: int) -> None:
    """Every direction's mean within 6 standard errors, variance within 6 * sqrt(2 / paths) (false alarm below 1e-6)."""
    sde, theta, root = LV, RATES | {"volatility": 1e-4}, np.zeros((2, 2))
    if case != "small noise":
        sde = ReferenceSDE(ornstein_uhlenbeck(2), constant_volatility())
        theta, root = {"rate": [0.6, 1.4], "level": [2.0, 3.0], "volatility": 0.8}, rng.normal(size=(2, 2))
    starts, paths = rng.uniform(2.0, 4.0, (2, 2)), 400
    values = sde.parameters(theta)
    run = mixture(sde, paths, 40)
    mean, spread = run(values, jnp.asarray(starts), jax.random.key(seed), jnp.asarray(root))
    exact = jax.jit(
        lambda: linear_noise_moments(
            sde, values, jnp.asarray(starts), jnp.asarray(TIMES), substeps=40, covariance=jnp.asarray(root @ root.T)
        )
    )
    truth = exact()
    for k in range(2):
        for i in range(2):
            sd = np.sqrt(np.diag(truth.covariance[k, i]))
            assert (np.abs(mean[k, i] - truth.mean[k, i]) < 6 * sd / np.sqrt(paths)).all()
            ratio = scipy.linalg.eigvalsh(spread[k, i], truth.covariance[k, i])
            assert (np.abs(ratio - 1.0) < 6 * np.sqrt(2 / paths)).all(), ratio
    again = run(values, jnp.asarray(starts), jax.random.key(seed), jnp.asarray(root))
    other = run(values, jnp.asarray(starts), jax.random.key(seed + 1), jnp.asarray(root))
    np.testing.assert_array_equal(mean, again[0])
    assert (mean != other[0]).all()


@pytest.mark.precision
def test_explosions_stay_finite(bits: int, seed: int) -> None:
    """X' = x^3 from 1 leaves at t = 1/2, for good; from 0.1 it hardly moves; derivatives are finite."""
    sde = ReferenceSDE(Drift(lambda theta, x, t: theta["pace"] * x**3, {}, ["x"]), constant_volatility(1e-3))
    starts = arrays([[0.1], [1.0], [-30.0]])

    @jax.jit
    def run(pace: Any) -> Any:
        def means(pace: Any) -> Any:
            return simulated_moments(sde, {"pace": pace}, starts, TIMES, 2, steps=4, key=seed)[:2]

        return jax.jvp(means, (pace,), (jnp.ones_like(pace),))

    for pace in (1.0, 1e6):
        assert all(np.isfinite(part).all() for part in jax.tree.leaves(run(arrays(pace))))
    mean = run(arrays(1.0))[0][0]
    assert mean.dtype == (jnp.float64 if bits == 64 else jnp.float32)
    np.testing.assert_allclose(mean[:, :2, 0], 0.1, atol=0.02)
    assert (np.abs(mean[1, 2:, 0]) > 100.0).all()


def test_gaussian_and_hidden_starts(cells: Snapshots, seed: int) -> None:
    """Only one coordinate seen, its start's law learned: finite, and every site of the start has a gradient."""
    hidden = Snapshots(cells.particles, TIMES, observed=[True, False])
    model = SnapshotModel(LV, start="gaussian", paths=3, path_steps=4, path_key=seed)
    sites = RATES | {"start_mean": [3.0], "start_sd": [0.5], "cloud_mean": [3.0], "cloud_sd": [0.6]}
    value, gradient = jax.jit(jax.value_and_grad(log_likelihood(model, hidden)))(arrays(sites))
    assert np.isfinite(value)
    assert all(np.isfinite(part).all() and (part != 0.0).all() for part in jax.tree.leaves(gradient))


def test_last_step_by_scotts_rate() -> None:
    """The step is T M^(-2 / (d + 4)) in whole steps, from one to the interval; T counts from the first time."""
    clock = np.array([0.0, 1.0, 2.0, 2.5])[:, None]
    np.testing.assert_array_equal(last_steps(jnp.asarray(clock), 64, 20, 2)[:, 0], [5, 10, 20])
    np.testing.assert_array_equal(last_steps(jnp.asarray(clock), 1, 20, 2)[:, 0], 20)
    np.testing.assert_array_equal(last_steps(jnp.asarray(clock), 10**9, 20, 1)[:, 0], 1)
