"""The mode of a reference's posterior, searched from draws of its prior: moments first, then the model itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from tercet.inference.posteriors.minimise import LEAST_BARRIER, Solution, minimise
from tercet.inference.posteriors.problem import Problem
from tercet.inference.posteriors.programs import Programs
from tercet.inference.posteriors.sharing import compiled_once
from tercet.inference.posteriors.sites import prior_draw
from tercet.models._inputs import KeyLike, as_jax, as_key
from tercet.models._size_classes import padded, size_class
from tercet.models.trajectories.linear_noise import TransitionMoments, linear_noise_moments
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta
from tercet.models.trajectories.snapshot_model import JITTER, SnapshotModel
from tercet.models.trajectories.snapshots import FilledSnapshots, Snapshots

SAME_MODE = 1e-2  # two modes are one where their log posteriors differ by less
REFINED = 2  # distinct modes of the moment-matching posterior that are refined,
MARGIN = 0.25  # the second only where it is worse by less than this many nats per particle
MOST_SUBSTEPS = 320
FEW = 12  # parameters up to which moments are differentiated forwards, and matching them is quick
FEW_PAIRS = 4096  # of particles of neighbouring snapshots up to which the likelihood is
ACCURACY = 0.1  # integration error allowed, in posterior standard deviations (an upper bound)


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
    draws = prior_draws(_matching_model(model, snapshots), snapshots, 64 + starts, key)
    matches = _match_moments(matching, draws, starts=starts, search=search, advance=advance)
    if matches[0].value > 1e5 * sum(snapshots.counts):
        raise ValueError(
            f"none of {starts} starts drawn from the prior gives finite moments from one snapshot to the next; give "
            "priors in the units of the data and of its times (drift.with_priors(...))."
        )
    sites = {name: np.asarray(value[0]) for name, value in matching.constrain(matches[0].point[None]).items()}
    model = with_enough_substeps(model, snapshots, sites)
    problem = QuickProblem(model, (snapshots,), {}, key, x64=True, differences=True)
    solution, agree = _refine(problem, matching, matches, search, MARGIN * sum(snapshots.counts))
    advance()
    return MultistartMode(model, problem, solution, agree)


def prior_draws(model: SnapshotModel, snapshots: Snapshots, count: int, key: KeyLike) -> Float[np.ndarray, "n p"]:
    """Unconstrained draws [count, p] of the prior, in 64 bit."""
    # Of the data only the first snapshot enters a prior, and that only where its law is learned.
    first, *_ = snapshots.particles
    first = first if model.start == "gaussian" else first[:1]
    few = Snapshots([first, first[:1]], snapshots.times[:2], snapshots.names, snapshots.observed)
    prior = replace(model, paths=0, jackknife=False)
    with jax.enable_x64(True):
        return np.asarray(_prior_program(count)(*as_jax((prior, as_key(key), FilledSnapshots(few)))))


@lru_cache(maxsize=64)
def _prior_program(count: int) -> Callable[..., Array]:
    return compiled_once(partial(_prior_draws, count))


def _prior_draws(count: int, model: SnapshotModel, key: Array, snapshots: Snapshots) -> Array:
    return jax.vmap(lambda key: ravel_pytree(prior_draw(model, key, snapshots))[0])(jax.random.split(key, count))


def _matching_model(model: SnapshotModel, snapshots: Snapshots) -> SnapshotModel:
    """The model of means and covariances of the snapshots only."""
    anchor: Literal["consecutive", "first"] = "consecutive" if all(snapshots.observed) else "first"
    return replace(model, anchor=anchor, start="summary", jackknife=False, paths=0)


def _matching_problem(model: SnapshotModel, snapshots: Snapshots, key: KeyLike) -> Problem:
    """The posterior given means and covariances of the snapshots only: cheap, and smooth."""
    simple = _matching_model(model, snapshots)
    return QuickProblem(simple, (snapshots,), {}, key, x64=True, differences=True)


def _match_moments(
    problem: Problem,
    draws: Float[np.ndarray, "n p"],
    *,
    starts: int,
    search: Callable[..., Solution],
    advance: Callable[[], object],
) -> list[Solution]:
    """Where moment matching ends from each of the first `starts` draws of the prior, best first."""
    low, high = draws.min(axis=0), draws.max(axis=0)
    bounds = np.stack([low - (high - low), high + (high - low)], axis=1)
    matches = []
    for start in draws[:starts]:
        matches.append(search(problem.value_and_gradient, start, bounds=bounds))
        advance()
    return sorted(matches, key=lambda match: match.value)


class QuickProblem(Problem):
    """A problem that, where it is small, is run by a program without optimisation: compiled four times as quickly.

    The runs of a search then take less time than that saves: moments are matched without regard to how many particles
    there are, and few particles have few pairs.
    """

    @cached_property
    def _small(self) -> bool:
        model: Any = self.model
        counts = FilledSnapshots(self.args[0]).counts  # type: ignore[arg-type]
        sources = counts[:1] * (len(counts) - 1) if model.anchor == "first" else counts[:-1]
        pairs = 0 if model.start == "summary" else max(1, model.paths) * np.dot(sources, counts[1:])
        return self.size <= FEW and bool(pairs <= FEW_PAIRS)

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, Float[np.ndarray, " p"]]:
        """Potential at z [p], and its gradient [p]."""
        if not self._small:
            return super().value_and_gradient(z)
        with self.precision():
            value, gradient = _quick_program(self.programs)(as_jax(z), self.sharing.numbers)
            return float(value), np.asarray(gradient)


@lru_cache(maxsize=64)
def _quick_program(programs: Programs) -> Callable[..., tuple[Array, Array]]:
    return compiled_once(jax.value_and_grad(programs.potential_at))


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
    starts, begin, end = np.concatenate(particles), snapshots.times[owner], snapshots.times[owner + 1]
    rows = np.minimum(np.arange(size_class(len(starts))), len(starts) - 1)
    share = padded(np.full(len(starts), 1.0 / len(starts)), len(rows))
    with jax.enable_x64(True):
        theta = {site: sites[site] for site in model.sde.priors}
        given = as_jax((model.sde, theta, starts[rows], begin[rows], end[rows], share, np.asarray(snapshots.magnitude)))
        error = _error_program()
        while model.substeps < MOST_SUBSTEPS:
            if not float(error(model.substeps, *given)) > limit:
                return model
            model = replace(model, substeps=2 * model.substeps)
    warnings.warn(
        f"the drift is stiff: the error of {MOST_SUBSTEPS} integration steps between snapshots is not negligible; "
        "check the units of times and rates.",
        stacklevel=3,
    )
    return model


@cache
def _error_program() -> Callable[..., Array]:
    return compiled_once(_integration_error)


def _integration_error(
    substeps: int | Array,
    sde: ReferenceSDE,
    theta: Theta,
    starts: Array,
    begin: Array,
    end: Array,
    share: Array,
    size: Array,
) -> Array:
    """Mean change of mean and variance, in transition sds, where twice as many steps are taken; one program for all."""

    def run(state: TransitionMoments, begin: Array, end: Array) -> TransitionMoments:
        clock = jnp.stack([begin, end])
        moments = linear_noise_moments(
            sde, theta, state.mean, clock, substeps=jnp.asarray(substeps), covariance=state.covariance, scale=size
        )
        return TransitionMoments(moments.mean[0], moments.covariance[0])

    state, middle = TransitionMoments(starts, jnp.zeros((*starts.shape, starts.shape[1]))), (begin + end) / 2.0
    whole, fine = run(state, begin, end), run(run(state, begin, middle), middle, end)
    variance = jnp.maximum(jnp.diagonal(fine.covariance, axis1=-2, axis2=-1), JITTER * size**2)
    bias = jnp.abs(fine.mean - whole.mean) / jnp.sqrt(variance)
    excess = jnp.abs(jnp.diagonal(fine.covariance - whole.covariance, axis1=-2, axis2=-1)) / variance
    each: Array = jnp.maximum(bias, excess).mean(axis=1)
    return share @ each


def _refine(
    problem: Problem, matching: Problem, matches: list[Solution], search: Callable[..., Solution], margin: float
) -> tuple[Solution, int]:
    """The best mode of the model itself, and how many starts lead to it.

    It is searched from the best distinct moment matches, the second where it is worse by less than `margin` nats.
    """
    groups: list[list[Solution]] = []
    for match in matches:
        if groups and match.value - groups[-1][0].value < SAME_MODE * max(1.0, 1e-3 * abs(match.value)):
            groups[-1].append(match)
        else:
            groups.append([match])
    ends: list[tuple[Solution, int]] = []
    for group in groups[:REFINED]:
        if ends and group[0].value > groups[0][0].value + margin:
            break
        start, root = _start_and_root(problem, matching, group[0].point)
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
    if problem.latent == matching.latent:  # then there is no need to compile the prior's medians
        return z, _inverse_root(matching.hessian(z))
    with problem.precision():
        default = problem.unravel(jnp.asarray(problem.start))
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
