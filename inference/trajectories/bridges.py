"""Schroedinger bridges between snapshots: the coupling nearest to the reference that carries one onto the next.

The static problem min KL(P | a_i b_j p_theta(y_j | x_i)) over couplings P of the two snapshots is entropic optimal
transport with cost -log p_theta(y_j | x_i) and **epsilon = 1**. For a Brownian reference with volatility sigma over a
time dt this is epsilon = sigma^2 dt with the cost |x - y|^2 / 2, hence epsilon = **2 sigma^2 dt** with the |x - y|^2 of
ott's PointCloud and of POT (`brownian_epsilon`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.trajectories.bridge_paths import MultimarginalBridge
from tercet.inference.trajectories.bridge_problem import BridgeProblem, Parameters, bridge_problem, checked_parameters
from tercet.inference.trajectories.couplings import Bridge
from tercet.inference.trajectories.sinkhorn import SinkhornSolution
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Values
from tercet.models.trajectories.snapshots import Snapshots


def brownian_epsilon(volatility: float, duration: float) -> float:
    """Epsilon 2 sigma^2 dt, with which entropic transport with cost |x - y|^2 is the bridge of a Brownian reference.

    For ott's `PointCloud` (its default cost) and POT's `ot.dist`; with the cost |x - y|^2 / 2 it is half of this.

    Parameters
    ----------
    volatility : sigma, in data units / sqrt(time unit)
    duration : dt between the two snapshots

    References
    ----------
    Leonard (2014), A survey of the Schroedinger problem and some of its connections with optimal transport.

    Examples
    --------
    >>> from tercet.inference import brownian_epsilon
    >>> brownian_epsilon(0.5, 2.0)
    1.0
    """
    if not (volatility > 0 and duration > 0 and np.isfinite(volatility * duration)):
        raise ValueError(f"volatility and duration must be positive, got {volatility} and {duration}.")
    return 2.0 * float(volatility) ** 2 * float(duration)


def sinkhorn_bridge(
    sde: ReferenceSDE,
    theta: Values,
    source: ArrayLike,
    target: ArrayLike,
    *,
    start: float,
    stop: float,
    weights: tuple[ArrayLike | None, ArrayLike | None] | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
    substeps: int = 10,
    tile: int | None = None,
) -> Bridge:
    """Static Schroedinger bridge of the linearised reference between two clouds of particles.

    Parameters
    ----------
    sde, theta : the reference and the values of its parameters
    source, target : arrays [n, d], [m, d]; n and m may differ
    start, stop : their times
    weights : weights of source and target particles, default equal
    tolerance : L1 error of the marginal at which Sinkhorn stops
    max_iterations : of Sinkhorn, annealing included
    substeps : Runge-Kutta steps of the linear-noise moments
    tile : rows of the cost held at once; by default all up to 30 million pairs, 16 beyond

    Returns
    -------
    Bridge
        With a warning, and `converged` false, where the tolerance was not reached.

    Raises
    ------
    ValueError
        Shapes that do not fit; parameters at which the moments explode.

    References
    ----------
    Shen, Berlinghieri, Broderick (2024), arXiv 2408.06277; Peyre and Cuturi (2019), Computational Optimal Transport.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import sinkhorn_bridge
    >>> from tercet.models import ReferenceSDE, brownian, constant_volatility
    >>> sde = ReferenceSDE(brownian(1), constant_volatility(1.0))
    >>> bridge = sinkhorn_bridge(sde, {}, [[0.0], [1.0]], [[0.0], [1.0], [2.0]], start=0.0, stop=1.0)
    >>> bridge.coupling.shape, bridge.converged, bridge.coupling.sum(axis=1).round(6).tolist()
    ((2, 3), True, [0.5, 0.5])
    """
    return multimarginal_bridge(
        sde,
        theta,
        Snapshots([source, target], [start, stop]),
        weights=weights,
        tolerance=tolerance,
        max_iterations=max_iterations,
        substeps=substeps,
        tile=tile,
    ).bridges[0]


def multimarginal_bridge(
    sde: ReferenceSDE,
    theta: Values,
    snapshots: Snapshots,
    *,
    weights: Sequence[ArrayLike | None] | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
    substeps: int = 10,
    tile: int | None = None,
) -> MultimarginalBridge:
    """Bridges through all snapshots: one between each two neighbours, chained by the Markov property.

    Parameters
    ----------
    sde, theta : the reference and the values of its parameters
    snapshots : Snapshots
    weights : weights of the particles, one entry a snapshot; default equal
    tolerance : L1 error of the marginals at which Sinkhorn stops
    max_iterations : of Sinkhorn, annealing included
    substeps : Runge-Kutta steps of the linear-noise moments
    tile : rows of the cost held at once; by default all up to 30 million pairs, 16 beyond

    Returns
    -------
    MultimarginalBridge
        `.bridges`, `.objective` (their sum), `.converged`, and whole paths: `.paths`, `.marginal`, `.bands`.

    References
    ----------
    Shen, Berlinghieri, Broderick (2024), arXiv 2408.06277, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import multimarginal_bridge
    >>> from tercet.models import ReferenceSDE, Snapshots, constant_volatility, ornstein_uhlenbeck
    >>> rng = np.random.default_rng(0)
    >>> cells = Snapshots([rng.normal(k, 1.0, (40 + k, 1)) for k in range(3)], times=[0.0, 1.0, 2.0])
    >>> sde = ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility(1.0))
    >>> whole = multimarginal_bridge(sde, {"rate": [0.3], "level": [2.0]}, cells)
    >>> whole.paths([0.0, 0.5, 1.0, 2.0], n=7).shape, whole.converged
    ((7, 4, 1), True)
    """
    problem = bridge_problem(
        sde,
        snapshots,
        weights=weights,
        tolerance=tolerance,
        max_iterations=max_iterations,
        substeps=substeps,
        tile=tile,
    )
    values = checked_parameters(sde, theta)
    solution = problem.solve(values)
    bridge = bridge_of(problem, values, solution)
    if not bridge.converged:
        warnings.warn(problem.failure(solution), stacklevel=2)
    return bridge


def bridge_of(problem: BridgeProblem, theta: Parameters, solution: SinkhornSolution) -> MultimarginalBridge:
    """The bridges of a solution, without what filled up the snapshots."""
    clouds, times = problem.snapshots.particles, problem.snapshots.times
    bridges = []
    for k, (source, target) in enumerate(pairwise(clouds)):
        n, m = len(source), len(target)
        bridge = Bridge(
            problem.sde,
            dict(theta),
            source.astype(np.float64),
            target.astype(np.float64),
            float(times[k]),
            float(times[k + 1]),
            problem.weights[k],
            problem.weights[k + 1],
            solution.f[k, :n],
            solution.g[k, :m],
            float(solution.objective[k]),
            float(solution.error[k]),
            int(solution.iterations[k]),
            bool(solution.error[k] < problem.tolerance),
            (solution.factors[0][k, :n], solution.factors[1][k, :m]),
        )
        bridges.append(bridge)
    return MultimarginalBridge(problem.snapshots, tuple(bridges), problem.substeps)


class BridgeObjective(NamedTuple):
    """The bridge objective and its gradient.

    Attributes
    ----------
    value : V(theta) in nats
    gradient : dict of site name to array, dV / dtheta
    """

    value: float
    gradient: dict[str, np.ndarray]


def bridge_objective(
    sde: ReferenceSDE,
    theta: Values,
    snapshots: Snapshots,
    *,
    weights: Sequence[ArrayLike | None] | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 5000,
    substeps: int = 10,
    tile: int | None = None,
) -> BridgeObjective:
    """V(theta) = sum_k min_P KL(P | a b' p_theta) over consecutive snapshots, and its gradient in theta.

    By the envelope theorem dV / dtheta = -sum_ij P_ij d log p_theta(y_j | x_i) / dtheta, which holds at the optimal P
    only: away from it this is not the gradient of V, so an unconverged Sinkhorn is an error.

    Parameters
    ----------
    sde, theta : the reference and the values of its parameters
    snapshots : Snapshots
    weights : weights of the particles, one entry a snapshot; default equal
    tolerance : L1 error of the marginals at which Sinkhorn stops; the error of the gradient is in proportion
    max_iterations : of Sinkhorn, annealing included
    substeps : Runge-Kutta steps of the linear-noise moments
    tile : rows of the cost held at once; by default all up to 30 million pairs, 16 beyond

    Raises
    ------
    RuntimeError
        Sinkhorn has not converged.
    ValueError
        Input that does not fit; moments that explode.

    References
    ----------
    Milgrom and Segal (2002), Envelope theorems for arbitrary choice sets, Econometrica 70; arXiv 2408.06277.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference.trajectories import bridge_objective
    >>> from tercet.models import ReferenceSDE, Snapshots, constant_volatility, ornstein_uhlenbeck
    >>> rng = np.random.default_rng(0)
    >>> cells = Snapshots([rng.normal(k, 1.0, (40, 1)) for k in range(3)], times=[0.0, 1.0, 2.0])
    >>> sde = ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility())
    >>> objective = bridge_objective(sde, {"rate": [0.3], "level": [2.0], "volatility": 1.0}, cells)
    >>> sorted(objective.gradient), objective.gradient["rate"].shape
    (['level', 'rate', 'volatility'], (1,))
    """
    problem = bridge_problem(
        sde,
        snapshots,
        weights=weights,
        tolerance=tolerance,
        max_iterations=max_iterations,
        substeps=substeps,
        tile=tile,
    )
    values = checked_parameters(sde, theta)
    solution = problem.solve(values)
    if not problem.converged(solution):
        raise RuntimeError(problem.failure(solution))
    _, gradient = problem.expected_cost(values, solution, np.ones(len(snapshots) - 1))
    return BridgeObjective(float(solution.objective.sum()), gradient)
