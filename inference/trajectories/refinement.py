"""Iterative reference refinement: bridges given the reference, and the reference given bridges, until both settle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from scipy.optimize import minimize

from tercet.inference.trajectories.bridge_paths import MultimarginalBridge
from tercet.inference.trajectories.bridge_problem import BridgeProblem, ExplodedError
from tercet.models._inputs import as_jax, as_key
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta
from tercet.models.trajectories.snapshots import Snapshots
from tercet.models.trajectories.transitions import inverse_and_log_det

COPIES = 4  # paths to each particle
WHOLE = 8  # whole steps of the alternation, before steps of 1 / 2, 1 / 3, ... (stochastic approximation)
HALVINGS = 5  # of a step that leads where no bridge can be made
FAILED = 1e12  # objective where the moments explode: finite, so that a line search turns round


@dataclass(frozen=True)
class Refinement:
    """A refined reference.

    Parameters
    ----------
    theta : values of all parameters
    history : DataFrame, one row an iteration
        `objective` (summed bridge objective in nats, each interval times its number of targets, minus the log prior),
        the parameters, and `held_out` (mean 2-Wasserstein distance) where held-out snapshots were given.
    converged : whether it settled within the tolerance
    reason : why it stopped
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
    theta: Mapping[str, Any],
    *,
    method: str = "alternate",
    iterations: int = 30,
    tolerance: float = 1e-4,
    held_out: Snapshots | None = None,
    path_steps: int = 10,
    substeps: int = 10,
    max_iterations: int = 5000,
    key: Any = 0,
) -> Refinement:
    """Learn the reference and the bridges together.

    Both methods lower J(theta) = sum_k m_k min_P KL(P | a b' p_theta) - log prior, m_k the particles of the later
    snapshot (an upper bound, up to constants, of minus the log likelihood of consecutive snapshots).

    - "alternate": bridges at theta, four paths to each particle, cut into `path_steps` steps; then the drift that
      explains the steps best, min sum |dX - int b dt|^2_{(s s')^-1} / (2 dt) - log prior. It **cannot learn the
      volatility**: paths of a bridge have the quadratic variation of the reference they were drawn from, so a
      regression only ever returns the volatility it was given (to 1 - 1 / path_steps): it is held at its value.
    - "bridge": the gradient of J itself by the envelope theorem, L-BFGS on unconstrained parameters; learns the
      volatility too, but overstates it (every particle is also a centre). `fit_reference` does not.

    Parameters
    ----------
    sde, snapshots : the reference and the populations
    theta : values of all parameters to start from
    method : "alternate" or "bridge"
    iterations : at most
    tolerance : settled when J changes by less than this for each particle, in nats, twice running ("bridge": L-BFGS
        stops at a relative gain of 1e-2 times this)
    held_out : snapshots at other times within the horizon, scored at every iteration
    path_steps : steps of the sampled paths an interval
    substeps : Runge-Kutta steps of the moments an interval
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
    >>> found = refine_reference(sde, cells, {"rate": [1.0], "level": [1.0]})
    >>> found.converged, sorted(found.theta)
    (True, ['level', 'rate'])
    """
    if method not in ("alternate", "bridge"):
        raise ValueError(f'method must be "alternate" or "bridge", got {method!r}.')
    if iterations < 1 or path_steps < 2 or not tolerance > 0:
        raise ValueError(
            "iterations must be at least 1, path_steps at least 2 and tolerance positive; got "
            f"{iterations}, {path_steps}, {tolerance}."
        )
    problem = BridgeProblem(sde, snapshots, None, 1e-3 if method == "alternate" else 1e-5, max_iterations, substeps)
    _check_held_out(snapshots, held_out)
    search = _Search(problem, parameters(sde, theta), method == "alternate", held_out, key)
    if method == "alternate":
        converged, reason = _alternate(search, iterations, tolerance, path_steps)
    else:
        converged, reason = _descend(search, iterations, tolerance)
    if not converged:
        warnings.warn(f"the refinement has not converged: {reason}", stacklevel=2)
    return search.result(converged, reason)


class _Prior:
    """Priors of the free parameters on the unconstrained scale, where the search goes; Jacobian included."""

    def __init__(self, priors: Mapping[str, Any], theta: Theta) -> None:
        self.priors = dict(priors)
        with jax.enable_x64(True):
            values = {n: biject_to(prior.support).inv(jnp.asarray(theta[n])) for n, prior in self.priors.items()}
            flat, self.unravel = ravel_pytree(values)
        self.start = np.asarray(flat)
        if not np.isfinite(self.start).all():
            raise ValueError(f"theta lies outside the support of its prior: {dict(theta)}.")
        self.constrain = jax.jit(lambda z: self._split(z)[0])
        self.potential = jax.jit(lambda z: self._split(z)[1])
        self.pull_back = jax.jit(self._pull_back)

    def _split(self, z: Any) -> tuple[Theta, Any]:
        """Parameters and minus their log prior density."""
        theta, potential = {}, 0.0
        for site, free in self.unravel(z).items():
            map_to = biject_to(self.priors[site].support)
            theta[site] = map_to(free)
            potential -= self.priors[site].log_prob(theta[site]).sum()
            potential -= map_to.log_abs_det_jacobian(free, theta[site]).sum()
        return theta, potential

    def _pull_back(self, z: Any, gradient: Theta) -> tuple[Any, Any]:
        """Minus the log prior, and the gradient in z of it plus a function of theta whose gradient is given."""

        def linear(z: Any) -> tuple[Any, Any]:
            theta, potential = self._split(z)
            return sum((value * gradient[site]).sum() for site, value in theta.items()) + potential, potential

        (_, potential), found = jax.value_and_grad(linear, has_aux=True)(z)
        return potential, found


class _Search:
    """Where the refinement stands: bridges, objective, history."""

    def __init__(
        self, problem: BridgeProblem, theta: Theta, fixed_volatility: bool, held_out: Snapshots | None, key: Any
    ) -> None:
        self.problem, self.held_out, self.key = problem, held_out, as_key(key)
        self.sde = problem.sde
        self.fixed = {site: theta[site] for site in self.sde.volatility.priors} if fixed_volatility else {}
        if not set(self.sde.priors) - set(self.fixed):
            raise ValueError(
                "there is nothing to learn: the drift has no parameters"
                + (', and method="alternate" cannot learn the volatility.' if self.fixed else ".")
            )
        self.prior = _Prior({site: prior for site, prior in self.sde.priors.items() if site not in self.fixed}, theta)
        self.counts = np.array(problem.snapshots.counts[1:], dtype=np.float64)
        self.rows: list[dict[str, Any]] = []
        self.solution: Any = None
        self.move(self.prior.start)

    def constrain(self, z: np.ndarray) -> Theta:
        """All parameters at an unconstrained vector."""
        with jax.enable_x64(True):
            free = {site: np.asarray(value) for site, value in self.prior.constrain(jnp.asarray(z)).items()}
        return free | self.fixed

    def evaluate(self, z: np.ndarray) -> tuple[float, Theta, Any]:
        """J, theta and the solved bridges; raises where they cannot be solved."""
        theta = self.constrain(z)
        warm = None if self.solution is None else (self.solution.f, self.solution.g)
        solution = self.problem.solve(theta, warm)
        if not self.problem.converged(solution):
            raise RuntimeError(self.problem.complaint(solution))
        with jax.enable_x64(True):
            prior = float(self.prior.potential(jnp.asarray(z)))
        return float(self.counts @ solution.objective) + prior, theta, solution

    def move(self, z: np.ndarray) -> None:
        """Go to z and write it down; raises where the bridges cannot be solved there."""
        objective, theta, solution = self.evaluate(z)
        self.z, self.theta, self.solution, self.objective = z, theta, solution, objective
        row = {"objective": objective} | {n: np.asarray(theta[n]).tolist() for n in self.sde.priors}
        if self.held_out is not None:
            row["held_out"] = self._score()
        self.rows.append(row)

    def bridge(self) -> MultimarginalBridge:
        """The bridges where the search stands."""
        bridges = bridges_of(self.problem, self.theta, self.solution)
        return MultimarginalBridge(self.problem.snapshots, bridges, self.problem.substeps)

    def _score(self) -> float:
        from tercet.inference.trajectories.distances import wasserstein

        whole, held = self.bridge(), self.held_out
        assert held is not None
        scores = [
            wasserstein(whole.marginal(float(t), max(len(cloud), 200), self.key), cloud)
            for t, cloud in zip(held.times, held.particles, strict=True)
        ]
        return float(np.mean(scores))

    def result(self, converged: bool, reason: str) -> Refinement:
        theta = {site: np.asarray(value) for site, value in self.theta.items()}
        return Refinement(theta, pd.DataFrame(self.rows), converged, reason, self.bridge())


def _alternate(search: _Search, iterations: int, tolerance: float, path_steps: int) -> tuple[bool, str]:
    """Regress, move, and again; the steps shrink once the paths' own noise is all that is left."""
    quiet, limit, change = 0, tolerance * float(search.counts.sum()), np.inf
    for k in range(iterations):
        old, before = search.z, search.objective
        target = _regress(search, sample_steps(search.bridge(), path_steps, jax.random.fold_in(search.key, k)))
        z = old + (target - old) / max(1, k + 1 - WHOLE)
        for _ in range(HALVINGS):
            try:
                search.move(z)
                break
            except (ExplodedError, RuntimeError) as error:
                why, z = str(error), (old + z) / 2.0
        else:
            return False, f"the regression led to a reference without bridges ({why})"
        change = abs(search.objective - before)
        quiet = quiet + 1 if change < limit else 0
        if quiet == 2:
            return True, f"settled: the objective changed by {change:.2g} nats, twice less than {limit:.2g}"
    return False, f"{iterations} iterations, the last of which still changed the objective by {change:.2g} nats"


def _descend(search: _Search, iterations: int, tolerance: float) -> tuple[bool, str]:
    last: dict[str, Any] = {"failures": 0}

    def value_and_gradient(z: np.ndarray) -> tuple[float, np.ndarray]:
        try:
            objective, theta, solution = search.evaluate(z)
        except (ExplodedError, RuntimeError) as error:
            last["failures"], last["why"] = last["failures"] + 1, str(error)
            return FAILED, np.zeros_like(z)
        _, gradient = search.problem.expected_cost(theta, solution, search.counts)
        with jax.enable_x64(True):
            _, found = search.prior.pull_back(jnp.asarray(z), gradient)
        return objective, np.asarray(found)

    try:
        found = minimize(
            value_and_gradient,
            search.z,
            jac=True,
            method="L-BFGS-B",
            callback=search.move,
            options={"maxiter": iterations, "ftol": 1e-2 * tolerance, "gtol": 1e-6 * abs(search.objective)},
        )
    except (ExplodedError, RuntimeError) as error:
        return False, str(error)
    if not np.array_equal(found.x, search.z):
        search.move(found.x)
    if last["failures"] and not found.success:
        return False, f"{found.message}; {last['failures']} trial steps could not be solved, the last: {last['why']}"
    return bool(found.success), str(found.message)


def sample_steps(whole: MultimarginalBridge, path_steps: int, key: Any) -> dict[str, np.ndarray]:
    """Paths to each particle of each later snapshot, as their steps: before, after [N, S, d], begin, length [N, S]."""
    keys = jax.random.split(as_key(key), len(whole.bridges) + 1)
    width = COPIES * max(len(bridge.target) for bridge in whole.bridges)
    source, target, clocks, ends = [], [], [], []
    for k, bridge in enumerate(whole.bridges):
        # Columns repeat where snapshots are of unequal size: one program for all; the repeats are dropped below.
        columns = np.arange(width) % len(bridge.target)
        source.append(bridge.source[bridge.sources(columns, keys[k])])
        target.append(bridge.target[columns])
        ends.append([bridge.start, bridge.stop])
        clocks.append(np.linspace(bridge.start, bridge.stop, path_steps + 1))
    first = whole.bridges[0]
    paths = between(
        first.sde, first.theta, np.stack(source), np.stack(target), np.array(ends), clocks, 0, path_steps, keys[-1]
    )
    kept = [path[: COPIES * len(bridge.target)] for path, bridge in zip(paths, whole.bridges, strict=True)]
    counts = [len(path) for path in kept]
    return {
        "before": np.concatenate([path[:, :-1] for path in kept]),
        "after": np.concatenate([path[:, 1:] for path in kept]),
        "begin": np.repeat([clock[:-1] for clock in clocks], counts, axis=0),
        "length": np.repeat([np.diff(clock) for clock in clocks], counts, axis=0),
    }


def _regress(search: _Search, steps: dict[str, np.ndarray]) -> np.ndarray:
    """Unconstrained drift parameters that explain the steps best, the prior included."""
    with jax.enable_x64(True):
        data = as_jax(steps)
        theta = {site: jnp.asarray(value) for site, value in search.theta.items()}
        weight, sound = _precision(search.sde.b, theta, data)
        if not np.asarray(sound).all():
            raise ValueError(
                "the regression of increments needs noise on every coordinate in every state; use method='bridge'."
            )
        prior = search.prior

        def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
            at = jnp.asarray(z)
            theta = as_jax(search.constrain(z))
            value, gradient = _misfit(search.sde.b, theta, data, weight)
            potential, pulled = prior.pull_back(at, gradient)
            total = float(value) + float(potential)
            return (total, np.asarray(pulled)) if np.isfinite(total) else (FAILED, np.zeros_like(z))

        found = minimize(objective, search.z, jac=True, method="L-BFGS-B", options={"maxiter": 200, "ftol": 1e-12})
    return np.asarray(found.x)


@partial(jax.jit, static_argnums=0)
def _precision(b: Callable[..., Any], theta: Theta, data: dict[str, Any]) -> tuple[Any, Any]:
    """(s s')^-1 [N, S, d, d] at the start of each step, and whether there is one."""
    sde = b.__self__  # type: ignore[attr-defined]
    spread = jax.vmap(jax.vmap(partial(sde.diffusion, theta)))(data["before"], data["begin"])
    inverse, _, sound = inverse_and_log_det(spread)
    return inverse, sound > 0


@partial(jax.jit, static_argnums=0)
def _misfit(b: Callable[..., Any], theta: Theta, data: dict[str, Any], weight: Any) -> Any:
    """Sum |dX - int b dt|^2 / (2 dt) and its gradient; the drift's flow over a step by one Runge-Kutta step.

    With b dt in its place (Euler) the rates would be off by about half of (rate times dt).
    """
    sde = b.__self__  # type: ignore[attr-defined]

    def misfit(theta: Theta) -> Any:
        drift = jax.vmap(jax.vmap(partial(sde.b, theta)))
        x, t, h = data["before"], data["begin"], data["length"]
        wide = h[..., None]
        k1 = drift(x, t)
        k2 = drift(x + wide / 2 * k1, t + h / 2)
        k3 = drift(x + wide / 2 * k2, t + h / 2)
        k4 = drift(x + wide * k3, t + h)
        away = data["after"] - x - wide * (k1 + 2 * k2 + 2 * k3 + k4) / 6
        return 0.5 / COPIES * (((weight @ away[..., None])[..., 0] * away).sum(axis=-1) / h).sum()

    return jax.value_and_grad(misfit)(theta)


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
