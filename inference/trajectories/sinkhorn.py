"""Static Schroedinger bridges of Gaussian transitions by Sinkhorn in the log domain (ott), annealed down to epsilon 1.

One program solves all intervals, one after the other; particles that only fill up a snapshot have weight zero.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tercet.inference.trajectories.ott import Geometry, run_sinkhorn
from tercet.inference.trajectories.tiled_geometry import NO_WEIGHT, TransitionGeometry, log_sum_exp, over_tiles
from tercet.models._inputs import as_jax

LOOSE = 0.05  # marginal error at which one level of annealing ends
GENTLE = 200.0  # range of costs that needs no annealing
FACTOR = 4.0  # from one level to the next
CHUNK = 200  # iterations in one call of ott: one compiled program whatever the limit


class TransportProblems(NamedTuple):
    """Static problems, one for each interval.

    Attributes
    ----------
    left, right : factors [K, n, p] and [K, m, p] of log p(y_j | x_i)
    source_weights, target_weights : a [K, n] and b [K, m], each of sum 1
    ends : array [K, m, d]
    """

    left: Array
    right: Array
    source_weights: Array
    target_weights: Array
    ends: Array


class SinkhornSolution(NamedTuple):
    """Potentials f [K, n], g [K, m] with P_ij = a_i b_j exp(f_i + g_j) p(y_j | x_i), rows exact; one entry an interval.

    Attributes
    ----------
    f, g : arrays [K, n], [K, m]
    objective : array [K], sum_ij P_ij log(P_ij / (a_i b_j p_ij))
    error : array [K], L1 error of the column sums
    iterations : array [K]
    mean, scatter : arrays [K, n, d], [K, n, d, d] of the end points of each start under P
    factors : arrays [K, n, p], [K, m, p] of log p(y_j | x_i)
    """

    f: np.ndarray
    g: np.ndarray
    objective: np.ndarray
    error: np.ndarray
    iterations: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray
    factors: tuple[np.ndarray, np.ndarray]


def solve(
    problems: TransportProblems,
    *,
    tolerance: float,
    max_iterations: int,
    tile: int | None,
    rows: int,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> SinkhornSolution:
    """Solve K static problems, `tile` rows of the cost at a time.

    `start`, potentials (f, g) of a similar problem, is tried first, without annealing. `rows` is the largest number of
    starts, those left out that only fill up.
    """
    cold = (np.zeros(problems.source_weights.shape), np.zeros(problems.target_weights.shape))
    attempts = [(cold, True)] if start is None else [(start, False), (cold, True)]
    for trial, anneal in attempts:
        potentials, *limits = as_jax((trial, *map(np.asarray, (anneal, tolerance, max_iterations, rows))))
        f, g, objective, error, iterations, mean, scatter = map(
            np.asarray, _solve(problems, potentials, Limits(*limits), tile)
        )
        if (error < tolerance).all():
            break
    factors = (np.asarray(problems.left), np.asarray(problems.right))
    return SinkhornSolution(f, g, objective, error, iterations, mean, scatter, factors)


class Limits(NamedTuple):
    """Whether to anneal, tolerance, most iterations, and the number of starts that do not only fill up."""

    anneal: Array
    tolerance: Array
    iterations: Array
    rows: Array


@partial(jax.jit, static_argnums=3)
def _solve(
    problems: TransportProblems, potentials: tuple[Array, Array], limits: Limits, tile: int | None
) -> tuple[Array, ...]:
    def one(given: tuple[TransportProblems, tuple[Array, Array]]) -> tuple[Array, ...]:
        return _interval(*given, limits, tile)

    arrays: tuple[Array, ...] = jax.lax.map(one, (problems, potentials))
    return arrays


def _interval(
    problem: TransportProblems, potentials: tuple[Array, Array], limits: Limits, tile: int | None
) -> tuple[Array, ...]:
    left, right, a, b, _ = problem
    anneal, tolerance, max_iterations, count = limits
    rows, columns = (tile or len(left)), (tile or len(right))
    log_a, log_b = jnp.log(a), jnp.log(b)
    cost = None if tile else -left @ right.T  # made once, not once a level

    def chunk(carry: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array, Array]:
        f, g, eps, count, _ = carry
        space = Geometry(cost, epsilon=eps) if tile is None else TransitionGeometry(left, right, tile, eps)  # type: ignore[arg-type]
        last = eps <= 1.0
        goal = jnp.where(last, tolerance, jnp.maximum(LOOSE, tolerance))
        f, g, iterations, converged = run_sinkhorn(space, (a, b), (f, g), goal, CHUNK)
        count = count + iterations
        over = converged | (count >= max_iterations) | ~jnp.isfinite(f[0])
        return f, g, jnp.maximum(eps / FACTOR, 1.0), count, last & over

    eps = jnp.where(anneal, jnp.maximum(_cost_range(problem, count) / GENTLE, 1.0), 1.0)
    begin = (potentials[0] + log_a, potentials[1] + log_b, eps, jnp.asarray(0), jnp.asarray(False))
    f, g, _, count, _ = jax.lax.while_loop(lambda carry: ~carry[-1], chunk, begin)
    g = jnp.where(b > 0, g - log_b, 0.0)
    # Whether or not ott converged: rows are made exact and the error of the columns is measured.
    f = -log_sum_exp(left, right, g + log_b, 1.0, rows)
    excess = log_sum_exp(right, left, f + log_a, 1.0, columns)
    # Of a column without weight the potential is no multiplier: it may be far from its row.
    error = (b * jnp.abs(jnp.expm1(jnp.where(b > 0, g + excess, 0.0)))).sum()
    objective = (a * f).sum() + (b * g).sum()
    return f, g, objective, error, count, *_end_moments(problem, f, g + log_b, rows)


def _cost_range(problem: TransportProblems, count: Array) -> Array:
    """Range of the costs of a sample of the first `count` starts."""
    left, right, a, b, _ = problem
    most = min(len(left), 64)
    sample = ((count - 1) * (np.arange(most) / max(most - 1, 1))).astype(int)
    cost = -left[sample] @ right.T
    used = (a[sample] > 0)[:, None] & (b > 0)[None]
    return jnp.where(used, cost, -jnp.inf).max() - jnp.where(used, cost, jnp.inf).min()


def _end_moments(problem: TransportProblems, f: Array, shift: Array, tile: int) -> tuple[Array, Array]:
    """Mean [n, d] and scatter [n, d, d] of the end points of each start under the coupling."""
    middle = problem.ends.mean(axis=0)
    offset = problem.ends - middle
    d = offset.shape[1]

    def row_tile(given: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, own = given
        share = jnp.exp(rows @ problem.right.T + own[:, None] + jnp.maximum(shift, NO_WEIGHT)[None])
        mean = share @ offset
        second = (share @ (offset[:, :, None] * offset[:, None]).reshape(-1, d * d)).reshape(-1, d, d)
        return mean + middle, second - mean[:, :, None] * mean[:, None]

    return over_tiles(row_tile, (problem.left, f), tile)
