"""The mode of a reference's posterior, searched from draws of its prior: moments first, then the model itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from tercet.inference.posteriors.minimise import LEAST_BARRIER, Solution, minimise
from tercet.inference.posteriors.problem import Problem
from tercet.inference.posteriors.sites import prior_draw
from tercet.models._inputs import KeyLike, as_jax, as_key
from tercet.models.trajectories.linear_noise import TransitionMoments, linear_noise_moments
from tercet.models.trajectories.reference_sdes import Theta
from tercet.models.trajectories.snapshot_model import JITTER, SnapshotModel
from tercet.models.trajectories.snapshots import Snapshots

SAME_MODE = 1e-2  # two modes are one where their log posteriors differ by less
REFINED = 2  # distinct modes of the moment-matching posterior that are refined,
MARGIN = 0.25  # the second only where it is worse by less than this many nats per particle
MOST_SUBSTEPS = 320
ACCURACY = 0.1  # integration error allowed, in posterior standard deviations (an upper bound)


class MomentMatch(NamedTuple):
    """Where moment matching ended: unconstrained, as sites, and its potential."""

    z: np.ndarray
    sites: dict[str, np.ndarray]
    potential: float


class MultistartMode(NamedTuple):
    """The best mode of several searches.

    Attributes
    ----------
    model : SnapshotModel with enough substeps
    problem : its posterior
    solution : where the search of the mode ended
    agree : how many starts lead to it
    """

    model: SnapshotModel
    problem: Problem
    solution: Solution
    agree: int


def multistart_mode(
    model: SnapshotModel,
    snapshots: Snapshots,
    *,
    starts: int,
    key: KeyLike,
    max_steps: int,
    stop_below: float,
    advance: Callable[[], object],
) -> MultistartMode:
    """Search from draws of the prior, each search until ten steps gain less than `stop_below` nats.

    Parameters
    ----------
    model, snapshots : the model and its data
    starts : number of draws of the prior
    key : int seed or JAX key of the draws
    max_steps : L-BFGS iterations of each search
    stop_below : see above
    advance : called after each of `starts` + 1 stages
    """
    search = partial(
        minimise, max_steps=max_steps, value_tolerance=1e-13, gradient_tolerance=1e-5, stop_below=stop_below
    )
    matching = _matching_problem(model, snapshots, key)
    matches = _match_moments(matching, starts=starts, key=key, search=search, advance=advance)
    if matches[0].potential > 1e5 * sum(snapshots.counts):
        raise ValueError(
            f"none of {starts} starts drawn from the prior gives finite moments from one snapshot to the next; give "
            "priors in the units of the data and of its times (drift.with_priors(...))."
        )
    model = with_enough_substeps(model, snapshots, matches[0].sites)
    problem = Problem(model, (snapshots,), {}, key, x64=True, differences=True)
    solution, agree = _refine(problem, matching, matches, search, MARGIN * sum(snapshots.counts))
    advance()
    return MultistartMode(model, problem, solution, agree)


def prior_draws(problem: Problem, count: int, key: KeyLike) -> Float[np.ndarray, "n p"]:
    """Unconstrained draws [count, p] of the prior."""
    with problem.precision():
        return np.asarray(_prior_draws(problem.model, jax.random.split(as_key(key), count), problem.args), np.float64)


@partial(jax.jit, static_argnums=0)
def _prior_draws(model: SnapshotModel, keys: Array, data: tuple[Snapshots, ...]) -> Array:
    return jax.vmap(lambda key: ravel_pytree(prior_draw(model, key, *data))[0])(keys)


def _matching_problem(model: SnapshotModel, snapshots: Snapshots, key: KeyLike) -> Problem:
    """The posterior given means and covariances of the snapshots only: cheap, and smooth."""
    anchor: Literal["consecutive", "first"] = "consecutive" if all(snapshots.observed) else "first"
    simple = replace(model, anchor=anchor, start="summary", jackknife=False, paths=0)
    return Problem(simple, (snapshots,), {}, key, x64=True, differences=True)


def _match_moments(
    problem: Problem, *, starts: int, key: KeyLike, search: Callable[..., Solution], advance: Callable[[], object]
) -> list[MomentMatch]:
    """Where moment matching ends from each draw of the prior, best first."""
    draws = prior_draws(problem, 64 + starts, key)
    low, high = draws.min(axis=0), draws.max(axis=0)
    bounds = np.stack([low - (high - low), high + (high - low)], axis=1)
    matches = []
    for start in draws[:starts]:
        solution = search(problem.value_and_gradient, start, bounds=bounds)
        sites = {name: np.asarray(value[0]) for name, value in problem.constrain(solution.point[None]).items()}
        matches.append(MomentMatch(solution.point, sites, solution.value))
        advance()
    return sorted(matches, key=lambda match: match.potential)


def with_enough_substeps(model: SnapshotModel, snapshots: Snapshots, sites: Mapping[str, np.ndarray]) -> SnapshotModel:
    """The model with substeps doubled until the integrator's error is small beside the posterior's own spread.

    An error of delta transition sds in every mean moves the estimates by at most delta sqrt(particles) of their sds.
    """
    limit = ACCURACY / np.sqrt(sum(snapshots.counts[1:]))
    particles = [cloud.copy() for cloud in snapshots.subsample(16).particles[:-1]]
    if not all(snapshots.observed):
        particles = particles[:1]
        particles[0][:, ~np.asarray(snapshots.observed)] = sites["start_mean"]
    owner = np.repeat(np.arange(len(particles)), [len(cloud) for cloud in particles])
    with jax.enable_x64(True):
        theta = as_jax({site: sites[site] for site in model.sde.priors})
        starts, times, size = as_jax(np.concatenate(particles)), as_jax(snapshots.times), snapshots.magnitude
        begin, end = times[owner], times[owner + 1]
        state = TransitionMoments(starts, jnp.zeros((*starts.shape, starts.shape[1])))
        while model.substeps < MOST_SUBSTEPS:
            run = partial(_end_moments, model, theta, scale=size)
            whole = run(state, jnp.stack([begin, end]))
            half = run(state, jnp.stack([begin, (begin + end) / 2.0]))
            fine = run(half, jnp.stack([(begin + end) / 2.0, end]))
            variance = jnp.maximum(jnp.diagonal(fine.covariance, axis1=-2, axis2=-1), JITTER * size**2)
            bias = jnp.abs(fine.mean - whole.mean) / jnp.sqrt(variance)
            excess = jnp.abs(jnp.diagonal(fine.covariance - whole.covariance, axis1=-2, axis2=-1)) / variance
            if not float(jnp.maximum(bias, excess).mean()) > limit:
                return model
            model = replace(model, substeps=2 * model.substeps)
    warnings.warn(
        f"the drift is stiff: the error of {MOST_SUBSTEPS} integration steps between snapshots is not negligible; "
        "check the units of times and rates.",
        stacklevel=3,
    )
    return model


@partial(jax.jit, static_argnums=0)
def _end_moments(
    model: SnapshotModel, theta: Theta, start: TransitionMoments, clock: Array, scale: float | Array
) -> TransitionMoments:
    moments = linear_noise_moments(
        model.sde, theta, start.mean, clock, substeps=model.substeps, covariance=start.covariance, scale=scale
    )
    return TransitionMoments(moments.mean[0], moments.covariance[0])


def _refine(
    problem: Problem, matching: Problem, matches: list[MomentMatch], search: Callable[..., Solution], margin: float
) -> tuple[Solution, int]:
    """The best mode of the model itself, and how many starts lead to it.

    It is searched from the best distinct moment matches, the second where it is worse by less than `margin` nats.
    """
    groups: list[list[MomentMatch]] = []
    for match in matches:
        if groups and match.potential - groups[-1][0].potential < SAME_MODE * max(1.0, 1e-3 * abs(match.potential)):
            groups[-1].append(match)
        else:
            groups.append([match])
    ends: list[tuple[Solution, int]] = []
    for group in groups[:REFINED]:
        if ends and group[0].potential > groups[0][0].potential + margin:
            break
        start, root = _start_and_root(problem, matching, group[0].z)
        solution = search(problem.value_and_gradient, start, root=root)
        if solution.value < LEAST_BARRIER:
            ends.append((solution, len(group)))
    if not ends:
        raise ValueError(
            "no start gives finite moments over the whole horizon; tighter priors may help, or closer snapshots."
        )
    best = min((solution for solution, _ in ends), key=lambda solution: solution.value)
    return best, sum(count for solution, count in ends if solution.value - best.value < SAME_MODE)


def _start_and_root(problem: Problem, matching: Problem, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start [p] and root [p, p] of the search, from a match z of a problem that may have fewer sites."""
    same = problem.latent == matching.latent  # then there is no need to compile the prior's medians
    with problem.precision():
        default = problem.unravel(jnp.asarray(z if same else problem.start))
        matched = matching.unravel(jnp.asarray(z))
        start = np.asarray(ravel_pytree({name: matched.get(name, value) for name, value in default.items()})[0])
    known = np.concatenate([np.full(np.size(value), name in matched) for name, value in sorted(default.items())])
    root = np.diag(np.where(known, 0.0, 0.1))
    root[np.ix_(known, known)] = _inverse_root(matching.hessian(z))
    return start, root


def _inverse_root(hessian: np.ndarray) -> np.ndarray:
    """R with R R' the inverse of a Hessian whose eigenvalues are made positive: in its units a search is easy."""
    spectrum, basis = np.linalg.eigh(np.where(np.isfinite(hessian), hessian, 0.0))
    root: np.ndarray = basis / np.sqrt(np.maximum(np.abs(spectrum), 1e-8 * max(np.abs(spectrum).max(), 1e-8)))
    return root
