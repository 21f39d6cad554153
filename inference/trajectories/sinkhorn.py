"""Static Schroedinger bridges of Gaussian transitions by Sinkhorn in the log domain (ott), annealed down to epsilon 1.

One program solves all intervals, one after the other; particles that only fill up a snapshot have weight zero.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tercet.inference.trajectories.tiled_geometry import TransitionGeometry, geometry, log_sum_exp, over_tiles
from tercet.models._inputs import as_jax

LOOSE = 0.05  # marginal error at which an annealed level hands on
GENTLE = 200.0  # spread of costs that needs no annealing
FACTOR = 4.0  # from one level to the next
CHUNK = 200  # iterations in one call of ott: one compiled program whatever the limit


class Solution(NamedTuple):
    """Potentials f [K, n], g [K, m] with P_ij = a_i b_j exp(f_i + g_j) p(y_j | x_i), rows exact; one entry an interval.

    `objective` [K] is sum_ij P_ij log(P_ij / (a_i b_j p_ij)); `error` [K] the L1 error of the column sums; `iterations`
    [K]; `mean` [K, n, d] and `scatter` [K, n, d, d] are those of the end points of each start under P; `factors` are
    those of log p.
    """

    f: Any
    g: Any
    objective: Any
    error: Any
    iterations: Any
    mean: Any
    scatter: Any
    factors: Any = None


def solve(
    left: Any,
    right: Any,
    weights: tuple[Any, Any],
    points: Any,
    tolerance: float,
    max_iterations: int,
    tile: int | None,
    start: Any = None,
) -> Solution:
    """Solve K bridges: factors [K, n, p], [K, m, p], weights [K, n], [K, m] (each sums to 1), ends [K, m, d].

    `start`, potentials (f, g) of a nearby problem, is tried first without annealing.
    """
    a, b = weights
    tries = [(jnp.zeros_like(a), jnp.zeros_like(b), True)]
    if start is not None:
        tries.insert(0, (*as_jax(start), False))
    for f, g, anneal in tries:
        found = _solve(left, right, a, b, points, f, g, jnp.asarray(anneal), tolerance, max_iterations, tile)
        found = jax.tree.map(np.asarray, found)
        if (found.error < tolerance).all():
            break
    return found._replace(factors=(np.asarray(left), np.asarray(right)))


@partial(jax.jit, static_argnums=10)
def _solve(
    left: Any,
    right: Any,
    a: Any,
    b: Any,
    points: Any,
    f: Any,
    g: Any,
    anneal: Any,
    tolerance: Any,
    max_iterations: Any,
    tile: int | None,
) -> Solution:
    def one(given: tuple[Any, Any, Any, Any, Any, Any, Any]) -> Solution:
        left, right, a, b, points, f, g = given
        return _interval(left, right, a, b, points, f, g, anneal, tolerance, max_iterations, tile)

    return jax.lax.map(one, (left, right, a, b, points, f, g))


def _interval(
    left: Any,
    right: Any,
    a: Any,
    b: Any,
    points: Any,
    f: Any,
    g: Any,
    anneal: Any,
    tolerance: Any,
    max_iterations: Any,
    tile: int | None,
) -> Solution:
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    n, m = len(left), len(right)
    rows = tile or n
    log_a, log_b = jnp.log(a), jnp.log(b)
    cost = None if tile else -left @ right.T  # made once, not once a level

    def chunk(carry: Any) -> Any:
        f, g, eps, count, _ = carry
        space = geometry.Geometry(cost, epsilon=eps) if tile is None else TransitionGeometry(left, right, tile, eps)
        last = eps <= 1.0
        goal = jnp.where(last, tolerance, jnp.maximum(LOOSE, tolerance))
        solver: Any = sinkhorn.Sinkhorn(threshold=goal, max_iterations=CHUNK)  # type: ignore[arg-type]
        found: Any = solver(linear_problem.LinearProblem(space, a, b), init=(f, g))
        count = count + 10 * (found.errors >= 0).sum()
        over = found.converged | (count >= max_iterations) | ~jnp.isfinite(found.f[0])
        return found.f, found.g, jnp.maximum(eps / FACTOR, 1.0), count, last & over

    spread = _spread(left, right, a, b)
    eps = jnp.where(anneal, jnp.maximum(spread / GENTLE, 1.0), 1.0)
    begin = (f + log_a, g + log_b, eps, jnp.asarray(0), jnp.asarray(False))
    f, g, _, count, _ = jax.lax.while_loop(lambda carry: ~carry[-1], chunk, begin)
    g = jnp.where(b > 0, g - log_b, 0.0)
    # Whatever ott reached, rows are made exact and columns are checked, here.
    f = -log_sum_exp(left, right, jnp.maximum(g + log_b, -1e30), 1.0, rows)
    columns = log_sum_exp(right, left, jnp.maximum(f + log_a, -1e30), 1.0, tile or m)
    error = (b * jnp.abs(jnp.expm1(g + columns))).sum()
    objective = (a * f).sum() + (b * g).sum()
    mean, scatter = _ends(left, right, f, g + log_b, points, rows)
    return Solution(f, g, objective, error, count, mean, scatter)


def _spread(left: Any, right: Any, a: Any, b: Any) -> Any:
    """Range of the costs of a sample of the starts."""
    some = jnp.linspace(0, len(left) - 1, min(len(left), 64)).astype(int)
    cost = -left[some] @ right.T
    used = (a[some] > 0)[:, None] & (b > 0)[None]
    return jnp.where(used, cost, -jnp.inf).max() - jnp.where(used, cost, jnp.inf).min()


def _ends(left: Any, right: Any, f: Any, shift: Any, points: Any, tile: int) -> tuple[Any, Any]:
    """Mean [n, d] and scatter [n, d, d] of the end points of each start under the coupling."""
    middle = points.mean(axis=0)
    away = points - middle

    def row_tile(given: Any) -> Any:
        rows, own = given
        share = jnp.exp(rows @ right.T + own[:, None] + jnp.maximum(shift, -1e30)[None])
        mean = share @ away
        d = away.shape[1]
        second = (share @ (away[:, :, None] * away[:, None]).reshape(-1, d * d)).reshape(-1, d, d)
        return mean + middle, second - mean[:, :, None] * mean[:, None]

    return over_tiles(row_tile, (left, f), tile)
