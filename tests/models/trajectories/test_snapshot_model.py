"""The snapshot likelihood against double loops and closed forms, its invariances, absurd parameters, refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
from numpyro.handlers import substitute, trace

from tercet.inference.posteriors.problem import Problem
from tercet.models.trajectories.families import coupled_springs, lotka_volterra, ornstein_uhlenbeck
from tercet.models.trajectories.linear_noise import linear_noise_moments
from tercet.models.trajectories.reference_sdes import (
    Drift,
    ReferenceSDE,
)
from tercet.models.trajectories.snapshot_model import SnapshotModel
from tercet.models.trajectories.snapshots import Snapshots
from tercet.models.trajectories.volatilities import (
    constant_volatility,
    diagonal_volatility,
    proportional_volatility,
)

LV = ReferenceSDE(lotka_volterra(), proportional_volatility())
OU = ReferenceSDE(ornstein_uhlenbeck(2), constant_volatility())
SPRING = ReferenceSDE(coupled_springs(1), diagonal_volatility(2, [0.0, 0.5]))
THETA = {
    LV.names: {"alpha": 0.9, "beta": 0.4, "gamma": 0.5, "delta": 0.2, "volatility": 0.3},
    OU.names: {"rate": np.array([0.6, 1.4]), "level": np.array([2.0, 3.0]), "volatility": 0.8},
}
TIMES = np.array([0.0, 0.5, 1.2])
COUNTS = {"equal": (4, 4, 4), "unequal": (3, 5, 2)}


def cells(rng: np.random.Generator, counts: tuple[int, ...] = COUNTS["unequal"]) -> Snapshots:
    return Snapshots([rng.uniform(1.0, 5.0, (count, 2)) for count in counts], TIMES)


def log_likelihood(model: SnapshotModel, snapshots: Snapshots) -> Callable[..., Any]:
    """Of the observed sites, weights included, as one program of the latent sites on their own scale."""

    def total(sites: Any, weights: Any = None) -> Any:
        found = trace(substitute(model, data=sites)).get_trace(snapshots, weights)
        observed = [site for site in found.values() if site["type"] == "sample" and site["is_observed"]]
        logs = [site["fn"].log_prob(site["value"]) for site in observed]
        scales = [1.0 if site["scale"] is None else site["scale"] for site in observed]
        return sum((scale * log).sum() for scale, log in zip(scales, logs, strict=True))

    return jax.jit(total)


def arrays(sites: Any) -> Any:
    """Values as arrays of the precision in force."""
    return jax.tree.map(lambda value: jnp.asarray(value, jnp.zeros(()).dtype), sites)


@lru_cache
def program(sde: ReferenceSDE) -> Callable[..., Any]:
    return jax.jit(lambda *given: linear_noise_moments(sde, *given, substeps=5)[:2])


def transitions(sde: ReferenceSDE, theta: Any, starts: np.ndarray, times: np.ndarray) -> list[Any]:
    """Law of each start at the last of the times."""
    with jax.enable_x64(True):
        clock = np.tile(times[:, None], (1, len(starts)))
        mean, spread = program(sde)(sde.parameters(theta), jnp.asarray(starts), jnp.asarray(clock))
    return [scipy.stats.multivariate_normal(m, S) for m, S in zip(mean[-1], spread[-1], strict=True)]


def brute_force(model: SnapshotModel, theta: Any, snapshots: Snapshots) -> float:
    """Snapshot by snapshot, centre by centre."""
    total = 0.0
    for k in range(1, len(snapshots)):
        source = 0 if model.anchor == "first" else k - 1
        laws = transitions(model.sde, theta, snapshots.particles[source], snapshots.times[source : k + 1])
        logs, n = np.array([law.logpdf(snapshots.particles[k]).reshape(-1) for law in laws]), len(laws)
        each = scipy.special.logsumexp(logs, axis=0, b=1 / n)
        total += each.sum()
        if model.jackknife:
            total += 0.5 * (np.square(np.exp(logs - each) - 1.0) / n).sum() / (n - 1)
    return float(total)


CASES: dict[str, tuple[SnapshotModel, str]] = {
    "first": (SnapshotModel(LV), "unequal"),
    "consecutive": (SnapshotModel(LV, "consecutive"), "unequal"),
    "consecutive, equal": (SnapshotModel(LV, "consecutive"), "equal"),
    "affine, first": (SnapshotModel(OU), "unequal"),
    "affine, consecutive": (SnapshotModel(OU, "consecutive"), "unequal"),
    "jackknife": (SnapshotModel(OU, "consecutive", jackknife=True), "unequal"),
}


@pytest.mark.parametrize("case", CASES)
def test_likelihood_is_the_double_loop(case: str, rng: np.random.Generator) -> None:
    model, counts = CASES[case]
    theta, snapshots = THETA[model.sde.names], cells(rng, COUNTS[counts])
    found = log_likelihood(model, snapshots)(arrays(theta))
    np.testing.assert_allclose(found, brute_force(model, theta, snapshots), rtol=1e-8)


@pytest.mark.parametrize("anchor", ["first", "consecutive"])
def test_order_and_origin_of_time_do_not_matter(anchor: str, rng: np.random.Generator) -> None:
    model, theta, snapshots = SnapshotModel(LV, anchor), THETA[LV.names], cells(rng)
    shuffled = Snapshots([rng.permutation(cloud) for cloud in snapshots.particles], TIMES + 50.0)
    found = log_likelihood(model, shuffled)(arrays(theta))
    np.testing.assert_allclose(found, brute_force(model, theta, snapshots), rtol=1e-8)


@pytest.mark.parametrize("anchor", ["first", "consecutive"])
def test_whole_weights_are_repeated_particles(anchor: str, rng: np.random.Generator) -> None:
    """As data and as centres; and weights of one change nothing."""
    model, theta, snapshots = SnapshotModel(LV, anchor), THETA[LV.names], cells(rng)
    weights = [rng.integers(1, 4, len(cloud)) for cloud in snapshots.particles]
    repeated = [np.repeat(cloud, w, axis=0) for cloud, w in zip(snapshots.particles, weights, strict=True)]
    weighted = log_likelihood(model, snapshots)
    for counts, equal in ((weights, Snapshots(repeated, TIMES)), ([w // w for w in weights], snapshots)):
        found = weighted(arrays(theta), arrays(tuple(counts)))
        np.testing.assert_allclose(found, brute_force(model, theta, equal), rtol=1e-8)


def test_unobserved_coordinates_are_integrated_out(rng: np.random.Generator) -> None:
    """A spring whose velocity is not seen: with flow P and noise S, position ~ N((P x)_0, (P diag(0, sd^2) P' + S)_00).

    The filler is of no account, be it far larger than all that is seen.
    """
    theta = {"stiffness": 0.7, "damping": 0.4, "rest": np.array([0.3])}
    clouds = [rng.normal(size=(count, 2)) for count in (3, 2, 2)]
    given = [np.column_stack([cloud[:, 0], np.full(len(cloud), 1e7)]) for cloud in clouds]
    model = SnapshotModel(SPRING, substeps=20)
    start = {"start_mean": np.array([0.8]), "start_sd": np.array([0.6])}
    found = log_likelihood(model, Snapshots(given, TIMES, observed=[True, False]))(arrays(theta | start))
    pull = np.array([[0.0, 1.0], [-2.0 * 0.7, -0.4]])
    total = 0.0
    for t, cloud in zip(TIMES[1:], clouds[1:], strict=True):
        # Van Loan: the noise's covariance and the flow out of one matrix exponential.
        block = np.block([[-pull, np.diag([0.0, 0.25])], [np.zeros((2, 2)), pull.T]])
        whole = scipy.linalg.expm(block * t)
        flow = whole[2:, 2:].T
        wide = flow @ whole[:2, 2:] + flow @ np.diag([0.0, 0.36]) @ flow.T
        rest = np.array([0.3, 0.0])
        means = [(rest + flow @ (np.array([x, 0.8]) - rest))[0] for x in clouds[0][:, 0]]
        logs = [scipy.stats.norm(m, np.sqrt(wide[0, 0])).logpdf(cloud[:, 0]) for m in means]
        total += scipy.special.logsumexp(logs, axis=0, b=1 / 3).sum()
    np.testing.assert_allclose(found, total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("start", ["gaussian", "summary"])
def test_clouds_that_start_gaussian(start: str, rng: np.random.Generator) -> None:
    """Ornstein-Uhlenbeck from N(m, C): N(level + e^(m - level), e C e + noise), the first cloud counting if learned."""
    theta, snapshots = THETA[OU.names], cells(rng)
    points = snapshots.particles
    if start == "gaussian":
        mean, sd, r = np.array([2.0, 3.5]), np.array([1.5, 0.8]), 0.4
        factor = np.array([[1.0, 0.0], [r, np.sqrt(1 - r**2)]])
        sites = {"cloud_mean": mean, "cloud_sd": sd, "cloud_correlation": factor}
        spread = sd[:, None] * factor @ factor.T * sd
        total = scipy.stats.multivariate_normal(mean, spread).logpdf(points[0]).sum()
    else:
        sites, total = {}, 0.0
        mean, spread = points[0].mean(axis=0), np.cov(points[0].T, bias=True)
    rate, level = theta["rate"], theta["level"]
    for t, cloud in zip(TIMES[1:], points[1:], strict=True):
        decay = np.exp(-rate * t)
        noise = np.diag(0.64 * (1 - decay**2) / (2 * rate))
        law = scipy.stats.multivariate_normal(level + decay * (mean - level), np.outer(decay, decay) * spread + noise)
        total += law.logpdf(cloud).sum()
    found = log_likelihood(SnapshotModel(OU, start=start, substeps=20), snapshots)(arrays(theta | sites))
    np.testing.assert_allclose(found, total, rtol=1e-5)


@pytest.mark.parametrize("case", ["first", "affine, consecutive"])
def test_absurd_parameters_have_a_finite_potential_and_gradient(case: str, rng: np.random.Generator) -> None:
    """Rates and volatilities of 1e6 and 1e-6, in any combination, a level of 1e6."""
    model = CASES[case][0]
    both = jax.jit(jax.value_and_grad(log_likelihood(model, cells(rng))))
    theta = THETA[model.sde.names]
    for signs in (np.ones(5), -np.ones(5), rng.choice([-1.0, 1.0], 5)):
        absurd = {site: np.full(np.shape(v), 1e6**sign) for (site, v), sign in zip(theta.items(), signs, strict=False)}
        value, gradient = both(arrays(absurd))
        assert np.isfinite(value)
        assert all(np.isfinite(part).all() for part in jax.tree.leaves(gradient))


@pytest.mark.parametrize("case", ["consecutive", "spring"])
def test_single_precision_is_good_to_four_digits(case: str, rng: np.random.Generator) -> None:
    """Value; the gradient is finite, at absurd parameters too. A spring's position has no noise of its own."""
    theta = THETA | {SPRING.names: {"stiffness": 0.7, "damping": 0.4, "rest": np.array([0.3])}}
    model, snapshots = SnapshotModel(SPRING) if case == "spring" else CASES[case][0], cells(rng)
    expected = brute_force(model, theta[model.sde.names], snapshots)
    with jax.enable_x64(False):
        both = jax.jit(jax.value_and_grad(log_likelihood(model, snapshots)))
        value, gradient = both(arrays(theta[model.sde.names]))
        far = both(arrays({site: np.full(np.shape(v), 1e6) for site, v in theta[model.sde.names].items()}))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-3)
    assert all(np.isfinite(part).all() for part in jax.tree.leaves((gradient, far)))


def test_problem_of_a_hidden_start(rng: np.random.Generator) -> None:
    """Potential on the free scale: minus likelihood, priors (one's own of the start) and Jacobian of the logarithms.

    Its gradient, forwards through the moments and backwards through the mixture, is that of finite differences.
    """
    hidden = Snapshots(cells(rng).particles, TIMES, observed=[True, False])
    priors = {"start_mean": dist.Normal(7.0, 2.0), "start_sd": dist.LogNormal(0.0, 0.1)}
    model = SnapshotModel(LV, substeps=2, **priors)
    problem = Problem(model, (hidden,), {})
    assert set(problem.latent) == {*LV.priors, "start_mean", "start_sd"}
    z = problem.start + 0.1 * rng.normal(size=7)
    value, gradient = problem.value_and_gradient(z)
    free = problem.unravel(jnp.asarray(z))
    sites = {site: v if site == "start_mean" else jnp.exp(v) for site, v in free.items()}
    prior = sum(p.log_prob(sites[site]).sum() for site, p in (LV.priors | priors).items())
    jacobian = sum(v.sum() for site, v in free.items() if site != "start_mean")
    np.testing.assert_allclose(-value, log_likelihood(model, hidden)(sites) + prior + jacobian, rtol=1e-8)
    steps = 1e-5 * np.eye(7)
    numeric = [(problem.value_and_gradient(z + e)[0] - problem.value_and_gradient(z - e)[0]) / 2e-5 for e in steps]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5)


X = np.ones((3, 2))
TWO = Snapshots([X, X + 1.0], [0.0, 1.0])
HIDDEN = Snapshots([X, X], [0.0, 1.0], observed=[True, False])
ONE = Snapshots([X[:1], X], [0.0, 1.0])
WIDE = ReferenceSDE(Drift(lambda theta, x, t: -x, {}, ["u", "v", "w"]), constant_volatility())
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "anchor": (lambda: SnapshotModel(LV, "last"), 'anchor must be "first" or "consecutive", got \'last\''),
    "start": (lambda: SnapshotModel(LV, start="known"), "start must be \"given\".* got 'known'"),
    "consecutive gaussian": (lambda: SnapshotModel(LV, "consecutive", "gaussian"), 'goes with anchor="first"'),
    "jackknife of the first": (lambda: SnapshotModel(LV, jackknife=True), 'pass anchor="consecutive" with it'),
    "jackknife of summaries": (
        lambda: SnapshotModel(LV, "consecutive", "summary", jackknife=True),
        "jackknife corrects the composite",
    ),
    "jackknife of paths": (lambda: SnapshotModel(LV, "consecutive", jackknife=True, paths=5), "pass paths=0"),
    "substeps": (lambda: SnapshotModel(LV, substeps=0), "substeps must be at least 1, got 0"),
    "paths": (lambda: SnapshotModel(LV, paths=-1), "paths must be at least 0 and path_steps at least 2, got -1 and 20"),
    "path steps": (lambda: SnapshotModel(LV, paths=5, path_steps=1), "got 5 and 1"),
    "path key": (lambda: SnapshotModel(LV, paths=5, path_key="a"), "key must be an int seed"),
    "one snapshot": (lambda: SnapshotModel(LV)(Snapshots([X], [0.0])), "give at least two"),
    "dimensions": (
        lambda: SnapshotModel(WIDE)(TWO),
        r"moves 3 coordinates \('u', 'v', 'w'\), the snapshots have 2; .*observed=False",
    ),
    "unobserved": (lambda: SnapshotModel(LV, "consecutive")(HIDDEN), 'unobserved coordinates need anchor="first"'),
    "lone centre": (lambda: SnapshotModel(LV, "consecutive", jackknife=True)(ONE), "at least two particles"),
    "nan": (lambda: Snapshots([X, X * np.nan], [0, 1]), r"particles\[1\] has NaN or infinite values in 3 row"),
    "times": (lambda: Snapshots([X, X], [1.0, 0.0]), "times must increase"),
    "widths": (lambda: Snapshots([X, X[:, :1]], [0.0, 1.0]), r"widths \[1, 2\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        build()
