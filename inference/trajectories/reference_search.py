"""The mode of a reference's posterior from several draws of its prior: moments matched first, then the model itself."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from numpyro.handlers import seed, trace

from tercet.inference.posteriors.problem import Problem
from tercet.models._inputs import as_jax, as_key
from tercet.models.trajectories.linear_noise import linear_noise_moments as moments
from tercet.models.trajectories.snapshot_model import JITTER, SnapshotModel
from tercet.models.trajectories.snapshots import Snapshots

SAME = 1e-2  # two modes are one where their log posteriors differ by less
POLISHED = 2  # distinct rough modes that are followed up,
HOPELESS = 0.25  # the second only where it is worse by less than this many nats a particle
MOST_SUBSTEPS = 320
MOST_STEPS = 500
ENOUGH = 0.1  # integration error allowed, in posterior standard deviations (an upper bound)


class Search(NamedTuple):
    """Where one start led: unconstrained, as sites, and the potential there."""

    z: np.ndarray
    sites: dict[str, Any]
    potential: float


class Found(NamedTuple):
    """The model with enough substeps, its problem, a point at its mode, how many starts lead there.

    `finished` is False where the limit of steps came first.
    """

    model: SnapshotModel
    problem: Problem
    near: np.ndarray
    agree: int
    finished: bool


def find_mode(model: SnapshotModel, snapshots: Snapshots, starts: int, key: Any, bar: Any, gain: float) -> Found:
    """Search from draws of the prior, each descent until ten steps gain less than `gain` nats."""
    matched, rough = _rough_modes(model, snapshots, starts, key, bar, gain)
    model = _fine_enough(model, snapshots, rough[0])
    problem = Problem(model, (snapshots,), {}, key, x64=True, differences=True)
    near, agree, finished = _polish(problem, matched, rough, gain)
    bar.update()
    return Found(model, problem, near, agree, finished)


def _rough_modes(
    model: SnapshotModel, snapshots: Snapshots, starts: int, key: Any, bar: Any, gain: float
) -> tuple[Problem, list[Search]]:
    """Match moments from each start: the problem of doing so, and where each start led, best first."""
    anchor = "consecutive" if all(snapshots.observed) else "first"
    simple = _variant(model, anchor=anchor, start="summary", jackknife=False, paths=0)
    problem = Problem(simple, (snapshots,), {}, key, x64=True, differences=True)
    draws = prior_draws(problem, 64 + starts, key)
    low, high = draws.min(axis=0), draws.max(axis=0)
    bounds = np.stack([low - (high - low), high + (high - low)], axis=1)
    found = []
    for start in draws[:starts]:
        z, potential, _ = _descend(problem, start, bounds, None, gain)
        sites = {name: value[0] for name, value in problem.constrain(z[None]).items()}
        found.append(Search(z, sites, potential))
        bar.update()
    if min(search.potential for search in found) > 1e5 * sum(snapshots.counts):
        raise ValueError(
            f"none of {starts} starts drawn from the prior gives finite moments from one snapshot to the next; give "
            "priors in the units of the data and of its times (drift.with_priors(...))."
        )
    return problem, sorted(found, key=lambda search: search.potential)


def _root(hessian: np.ndarray) -> np.ndarray:
    """R with R R' the inverse of a Hessian whose eigenvalues are taken positive: units in which a search is easy."""
    spectrum, basis = np.linalg.eigh(np.where(np.isfinite(hessian), hessian, 0.0))
    return basis / np.sqrt(np.maximum(np.abs(spectrum), 1e-8 * max(np.abs(spectrum).max(), 1e-8)))


@lru_cache(maxsize=64)
def _variant(model: SnapshotModel, **changes: Any) -> SnapshotModel:
    """The same object whenever the same changes are asked for: what was compiled for it serves again."""
    return replace(model, **changes)


def prior_draws(problem: Problem, count: int, key: Any) -> np.ndarray:
    """Unconstrained draws [count, p] of the prior."""
    with problem.precision():
        keys = jax.random.split(as_key(key), count)
        return np.asarray(_draw_program(problem.model)(keys, (problem.args, problem.kwargs)), dtype=np.float64)


@lru_cache(maxsize=64)
def _draw_program(model: SnapshotModel) -> Any:
    def draw(key: Any, data: Any) -> Any:
        sites = trace(seed(model, key)).get_trace(*data[0], **data[1])
        latent = {n: s for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}
        return ravel_pytree({n: biject_to(s["fn"].support).inv(s["value"]) for n, s in latent.items()})[0]

    return jax.jit(jax.vmap(draw, (0, None)))


def _descend(
    problem: Problem, start: np.ndarray, bounds: np.ndarray | None, root: np.ndarray | None, gain: float
) -> tuple[np.ndarray, float, bool]:
    """L-BFGS from a start, in the units of `root`; potentials that are not finite are a wall.

    Gives the point, the potential there, and False where the limit of steps came first.
    """
    unit = np.eye(len(start)) if root is None else root

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        with problem.precision():
            value, gradient = (np.asarray(part) for part in problem.value_and_gradient(jnp.asarray(base + unit @ u)))
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e12, np.zeros_like(u)
        return float(value), unit.T @ gradient

    values: list[float] = []

    def watch(intermediate_result: Any) -> None:
        values.append(intermediate_result.fun)
        if len(values) > 10 and values[-11] - values[-1] < gain:
            raise StopIteration

    base = start if root is not None else np.zeros_like(start)
    begin = np.zeros_like(start) if root is not None else np.clip(start, *np.asarray(bounds).T)
    found = scipy.optimize.minimize(
        objective,
        begin,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        callback=watch,
        options={"maxiter": MOST_STEPS, "ftol": 1e-13},
    )
    return base + unit @ found.x, float(found.fun), len(values) < MOST_STEPS


def _fine_enough(model: SnapshotModel, snapshots: Snapshots, rough: Search) -> SnapshotModel:
    """The model with substeps doubled until the integrator's error is small beside the posterior's own spread.

    An error of delta transition sds in every mean moves the estimates by at most delta sqrt(particles) of their sds.
    """
    limit = ENOUGH / np.sqrt(sum(snapshots.counts[1:]))
    particles = [cloud.copy() for cloud in snapshots.subsample(16).particles[:-1]]
    if not all(snapshots.observed):
        particles = particles[:1]
        particles[0][:, ~np.asarray(snapshots.observed)] = rough.sites["start_mean"]
    with jax.enable_x64(True):
        theta = {site: jnp.asarray(rough.sites[site]) for site in model.sde.priors}
        clouds, times, size = as_jax(particles), as_jax(snapshots.times), snapshots.magnitude
        owner = np.repeat(np.arange(len(clouds)), [len(cloud) for cloud in clouds])
        starts, begin, end = jnp.concatenate(clouds), times[owner], times[owner + 1]

        def run(x: Any, spread: Any, begin: Any, end: Any) -> Any:
            return _moment_program(model)(theta, x, spread, jnp.stack([begin, end]), size)

        none, middle = jnp.zeros((*starts.shape, starts.shape[1])), (begin + end) / 2.0
        while model.substeps < MOST_SUBSTEPS:
            whole = run(starts, none, begin, end)
            half = run(starts, none, begin, middle)
            fine = run(half.mean, half.covariance, middle, end)
            variance = jnp.maximum(jnp.diagonal(fine.covariance, axis1=-2, axis2=-1), JITTER * size**2)
            off = jnp.abs(fine.mean - whole.mean) / jnp.sqrt(variance)
            wide = jnp.abs(jnp.diagonal(fine.covariance - whole.covariance, axis1=-2, axis2=-1)) / variance
            if not float(jnp.maximum(off, wide).mean()) > limit:
                return model
            model = _variant(model, substeps=2 * model.substeps)
    warnings.warn(
        f"the drift is stiff: {MOST_SUBSTEPS} integration steps between snapshots leave an error that matters; check "
        "the units of times and rates.",
        stacklevel=3,
    )
    return model


@lru_cache(maxsize=64)
def _moment_program(model: SnapshotModel) -> Any:
    def run(theta: Any, x: Any, spread: Any, clock: Any, size: Any) -> Any:
        return jax.tree.map(lambda a: a[0], moments(model.sde, theta, x, clock, model.substeps, spread, size))

    return jax.jit(run)


def _polish(problem: Problem, matched: Problem, rough: list[Search], gain: float) -> tuple[np.ndarray, int, bool]:
    """The best mode of the model itself from the distinct best rough ones, how many starts lead there, found or not."""
    groups: list[list[Search]] = []
    for search in rough:
        if groups and search.potential - groups[-1][0].potential < SAME * max(1.0, 1e-3 * abs(search.potential)):
            groups[-1].append(search)
        else:
            groups.append([search])
    ends: list[tuple[float, int, np.ndarray, bool]] = []
    hopeless = groups[0][0].potential + HOPELESS * sum(problem.args[0].counts)
    for group in groups[:POLISHED]:
        if ends and group[0].potential > hopeless:
            break
        start, root = _lift(problem, matched, group[0].z)
        z, potential, finished = _descend(problem, start, None, root, gain)
        if potential < 1e12:
            ends.append((potential, len(group), z, finished))
    if not ends:
        raise ValueError(
            "no start gives finite moments over the whole horizon; tighter priors may help, or closer snapshots."
        )
    best = min(ends, key=lambda end: end[0])
    return best[2], sum(count for value, count, *_ in ends if value - best[0] < SAME), best[3]


def _lift(problem: Problem, matched: Problem, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start [p] and root [p, p] of a problem that may have more sites than the one in which z was found."""
    same = problem.latent == matched.latent  # then there is no need to compile the prior's medians
    default = problem.unravel(jnp.asarray(z if same else problem.start))
    with matched.precision():
        free = matched.unravel(jnp.asarray(z))
        found = _root(matched.hessian(z))
    with problem.precision():
        start = np.asarray(ravel_pytree({name: free.get(name, value) for name, value in default.items()})[0])
    known = np.concatenate([np.full(np.size(value), name in free) for name, value in sorted(default.items())])
    root = np.diag(np.where(known, 0.0, 0.1))
    root[np.ix_(known, known)] = found
    return start, root
