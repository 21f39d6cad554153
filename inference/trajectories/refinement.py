"""Iterative reference refinement: bridges given the reference, and the reference given bridges, in turn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import numpy as np
import pandas as pd

from tercet.inference.posteriors.minimise import minimise
from tercet.inference.trajectories.bridge_paths import MultimarginalBridge
from tercet.inference.trajectories.bridge_problem import (
    BridgeProblem,
    ExplodedError,
    Parameters,
    bridge_problem,
    checked_parameters,
)
from tercet.inference.trajectories.bridges import bridge_of
from tercet.inference.trajectories.distances import wasserstein
from tercet.inference.trajectories.path_regression import fit_drift, sample_steps
from tercet.inference.trajectories.sinkhorn import SinkhornSolution
from tercet.inference.trajectories.unconstrained_prior import UnconstrainedPrior
from tercet.models._inputs import KeyLike, as_key
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Values
from tercet.models.trajectories.snapshots import Snapshots

FULL_STEPS = 8  # of the alternation, before steps of 1 / 2, 1 / 3, ... (stochastic approximation)
HALVINGS = 5  # of a step that leads to a reference without bridges


@dataclass(frozen=True)
class Refinement:
    """A refined reference.

    Attributes
    ----------
    theta : dict of site name to array, all parameters
    history : DataFrame, one row an iteration
        `objective` (summed bridge objective in nats, each interval times its number of targets, minus the log prior),
        the parameters, and `held_out` (mean 2-Wasserstein distance) where held-out snapshots were given.
    converged : whether the objective settled within the tolerance
    reason : why the refinement stopped
    bridge : MultimarginalBridge at theta
    """

    theta: dict[str, np.ndarray]
    history: pd.DataFrame
    converged: bool
    reason: str
    bridge: MultimarginalBridge


def refine_reference(
    sde: ReferenceSDE,
    snapshots: Snapshots,
    theta: Values,
    *,
    method: Literal["alternate", "bridge"] = "alternate",
    iterations: int = 30,
    tolerance: float = 1e-4,
    held_out: Snapshots | None = None,
    path_steps: int = 10,
    substeps: int = 10,
    max_iterations: int = 5000,
    key: KeyLike = 0,
) -> Refinement:
    """Learn the reference and the bridges together.

    Both methods lower J(theta) = sum_k m_k min_P KL(P | a b' p_theta) - log prior, m_k the particles of the later
    snapshot (an upper bound, up to constants, of minus the log likelihood of consecutive snapshots).

    - "alternate": bridges at theta, four paths to each particle, cut into `path_steps` steps; then the drift that fits
      the steps best, min sum |dX - int b dt|^2_{(s s')^-1} / (2 dt) - log prior. It **cannot learn the volatility**:
      paths of a bridge have the quadratic variation of the reference they were drawn from, so a regression returns
      the volatility it was given (times 1 - 1 / path_steps); the volatility is held fixed.
    - "bridge": the gradient of J itself by the envelope theorem, L-BFGS on unconstrained parameters; learns the
      volatility too, but overestimates it (every particle is also a mixture component). `fit_reference` does not.

    Parameters
    ----------
    sde, snapshots : the reference and the populations
    theta : values of all parameters, where the search starts
    method : "alternate" or "bridge"
    iterations : at most
    tolerance : settled when J changes by less than this for each particle, in nats, twice running ("bridge": L-BFGS
        stops at a relative gain of 1e-2 times this)
    held_out : snapshots at other times within the horizon, scored at every iteration
    path_steps : steps of the sampled paths per interval
    substeps : Runge-Kutta steps of the moments per interval
    max_iterations : of Sinkhorn
    key : int seed or JAX key

    Returns
    -------
    Refinement
        With a warning, and `converged` false, where it stopped before it settled.

    Raises
    ------
    ValueError
        Nothing to learn; input that does not fit; moments that explode at the start.
    RuntimeError
        Sinkhorn does not converge at the start.

    References
    ----------
    Shen, Berlinghieri, Broderick (2024), arXiv 2408.06277, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import refine_reference
    >>> from tercet.models import ReferenceSDE, Snapshots, constant_volatility, ornstein_uhlenbeck
    >>> rng = np.random.default_rng(0)
    >>> cells = Snapshots([np.exp(-0.5 * t) + rng.normal(0, 0.3, (60, 1)) for t in range(4)], times=range(4))
    >>> sde = ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility(0.3))
    >>> refined = refine_reference(sde, cells, {"rate": [1.0], "level": [1.0]})
    >>> refined.converged, sorted(refined.theta)
    (True, ['level', 'rate'])
    """
    if method not in ("alternate", "bridge"):
        raise ValueError(f'method must be "alternate" or "bridge", got {method!r}.')
    if iterations < 1 or path_steps < 2 or not tolerance > 0:
        raise ValueError(
            "iterations must be at least 1, path_steps at least 2 and tolerance positive; got "
            f"{iterations}, {path_steps}, {tolerance}."
        )
    _check_held_out(snapshots, held_out)
    alternate = method == "alternate"
    problem = bridge_problem(
        sde, snapshots, tolerance=1e-3 if alternate else 1e-5, max_iterations=max_iterations, substeps=substeps
    )
    objective = _Objective.of(problem, checked_parameters(sde, theta), alternate, held_out, as_key(key))
    begin = objective.evaluate(objective.prior.start, None)
    if alternate:
        end = _alternate(objective, begin, iterations, tolerance, path_steps)
    else:
        end = _descend(objective, begin, iterations, tolerance)
    if not end.converged:
        warnings.warn(f"the refinement has not converged: {end.reason}", stacklevel=2)
    last, history = end.iterate, pd.DataFrame(end.rows)
    bridge = bridge_of(problem, last.theta, last.solution)
    return Refinement(dict(last.theta), history, end.converged, end.reason, bridge)


class _Iterate(NamedTuple):
    """A point of the search: unconstrained, as parameters; its bridges and objective."""

    z: np.ndarray
    theta: Parameters
    solution: SinkhornSolution
    value: float

    @property
    def potentials(self) -> tuple[np.ndarray, np.ndarray]:
        """Where Sinkhorn may start at a point nearby."""
        return self.solution.f, self.solution.g


@dataclass(frozen=True, eq=False)
class _Objective:
    """J as a function of the unconstrained free parameters.

    Attributes
    ----------
    problem : the bridges
    prior : of the free parameters
    fixed : parameters that are held at their values
    counts : targets of each interval
    held_out : snapshots that are scored, or None
    key : of the paths
    """

    problem: BridgeProblem
    prior: UnconstrainedPrior
    fixed: Parameters
    counts: np.ndarray
    held_out: Snapshots | None
    key: jax.Array

    @classmethod
    def of(
        cls,
        problem: BridgeProblem,
        theta: Parameters,
        volatility_fixed: bool,
        held_out: Snapshots | None,
        key: jax.Array,
    ) -> _Objective:
        sde = problem.sde
        fixed = {site: theta[site] for site in sde.volatility.priors} if volatility_fixed else {}
        free = {site: prior for site, prior in sde.priors.items() if site not in fixed}
        if not free:
            raise ValueError(
                "there is nothing to learn: the drift has no parameters"
                + (', and method="alternate" cannot learn the volatility.' if fixed else ".")
            )
        counts = np.array(problem.snapshots.counts[1:], dtype=np.float64)
        return cls(problem, UnconstrainedPrior.of(free, theta), fixed, counts, held_out, key)

    def constrain(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """All parameters at an unconstrained vector."""
        return {**self.prior.constrain(z), **self.fixed}

    def evaluate(self, z: np.ndarray, near: _Iterate | None) -> _Iterate:
        """Solve the bridges at z, from the potentials of a point nearby; raises where they cannot be solved."""
        theta = self.constrain(z)
        solution = self.problem.solve(theta, None if near is None else near.potentials)
        if not self.problem.converged(solution):
            raise RuntimeError(self.problem.failure(solution))
        return _Iterate(z, theta, solution, float(self.counts @ solution.objective) + self.prior.potential(z))

    def row(self, iterate: _Iterate) -> dict[str, object]:
        """A row of the history."""
        row: dict[str, object] = {"objective": iterate.value}
        row |= {site: np.asarray(iterate.theta[site]).tolist() for site in self.problem.sde.priors}
        if self.held_out is None:
            return row
        whole = bridge_of(self.problem, iterate.theta, iterate.solution)
        distances = [
            wasserstein(whole.marginal(float(t), max(len(cloud), 200), self.key), cloud)
            for t, cloud in zip(self.held_out.times, self.held_out.particles, strict=True)
        ]
        return row | {"held_out": float(np.mean(distances))}


class _End(NamedTuple):
    """Where a search ended: the last iterate, rows of the history, whether it converged and why it stopped."""

    iterate: _Iterate
    rows: list[dict[str, object]]
    converged: bool
    reason: str


def _alternate(objective: _Objective, begin: _Iterate, iterations: int, tolerance: float, path_steps: int) -> _End:
    """Regress, move, and again; the steps shrink once the noise of the paths is all that is left."""
    last, rows = begin, [objective.row(begin)]
    settled, limit, change = 0, tolerance * float(objective.counts.sum()), np.inf
    for k in range(iterations):
        old = last
        whole = bridge_of(objective.problem, old.theta, old.solution)
        steps = sample_steps(whole, path_steps, jax.random.fold_in(objective.key, k))
        target = fit_drift(objective.problem.sde, steps, objective.prior, objective.fixed, old.z)
        z = old.z + (target - old.z) / max(1, k + 1 - FULL_STEPS)
        for _ in range(HALVINGS):
            try:
                last = objective.evaluate(z, old)
                break
            except (ExplodedError, RuntimeError) as error:
                why, z = str(error), (old.z + z) / 2.0
        else:
            return _End(last, rows, False, f"the regression led to a reference without bridges ({why})")
        rows.append(objective.row(last))
        change = abs(last.value - old.value)
        settled = settled + 1 if change < limit else 0
        if settled == 2:
            reason = f"settled: the objective changed by {change:.2g} nats, twice running below {limit:.2g}"
            return _End(last, rows, True, reason)
    reason = f"{iterations} iterations, the last of which still changed the objective by {change:.2g} nats"
    return _End(last, rows, False, reason)


def _descend(objective: _Objective, begin: _Iterate, iterations: int, tolerance: float) -> _End:
    """L-BFGS on J; every evaluation starts Sinkhorn from the potentials of the last accepted point."""
    last, rows, failures = begin, [objective.row(begin)], list[str]()

    def value_and_gradient(z: np.ndarray) -> tuple[float, np.ndarray]:
        try:
            trial = objective.evaluate(z, last)
        except (ExplodedError, RuntimeError) as error:
            failures.append(str(error))
            return np.inf, np.zeros_like(z)
        _, gradient = objective.problem.expected_cost(trial.theta, trial.solution, objective.counts)
        return trial.value, objective.prior.gradient(z, gradient)

    def accept(z: np.ndarray) -> None:
        nonlocal last
        last = objective.evaluate(z, last)
        rows.append(objective.row(last))

    try:
        solution = minimise(
            value_and_gradient,
            begin.z,
            max_steps=iterations,
            value_tolerance=1e-2 * tolerance,
            gradient_tolerance=1e-6 * abs(begin.value),
            callback=accept,
        )
    except (ExplodedError, RuntimeError) as error:
        return _End(last, rows, False, str(error))
    if not np.array_equal(solution.point, last.z):
        accept(solution.point)
    reason = solution.reason
    if failures and not solution.converged:
        reason += f"; {len(failures)} trial steps could not be solved, the last: {failures[-1]}"
    return _End(last, rows, solution.converged, reason)


def _check_held_out(snapshots: Snapshots, held_out: Snapshots | None) -> None:
    if held_out is None:
        return
    if not isinstance(held_out, Snapshots) or held_out.dim != snapshots.dim:
        raise ValueError(f"held_out must be Snapshots of {snapshots.dim} coordinates.")
    first, last = snapshots.times[[0, -1]]
    if held_out.times[0] < first or held_out.times[-1] > last:
        raise ValueError(
            f"held-out times must be within [{first:g}, {last:g}], got {held_out.times.tolist()}; score a forecast by "
            "simulating the reference."
        )
