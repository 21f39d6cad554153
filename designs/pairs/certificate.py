"""How far a batch is from the best one: Frank-Wolfe on the relaxed D criterion, and its duality gap as certificate."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
from jaxtyping import Float
from numpy.typing import ArrayLike

from tercet.designs.pairs.candidates import Scheme
from tercet.designs.pairs.pair_candidates import pair_candidates
from tercet.designs.pairs.pool import PairPool
from tercet.designs.select import Selection
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.reward_view import RewardView, on
from tercet.models._inputs import KeyLike, as_pairs
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons


class Relaxation(NamedTuple):
    """Weights of candidates near the best D-optimal design of a size.

    Attributes
    ----------
    weights : array [m] in [0, 1] with the sum `budget`
    value : f(weights), in the units of "greedy D": log det of the posterior precision, less what it is now
    gap : duality gap at the weights, at least zero
    bound : smallest value + gap met on the way: no batch of this size gains more
    """

    weights: np.ndarray
    value: float
    gap: float
    bound: float


class OptimalityGap(NamedTuple):
    """A certificate for a batch.

    Attributes
    ----------
    value : what the batch gains in all, in the units of "greedy D"
    bound : no batch of its size gains more
    efficiency : share value / bound of the best that the batch has for certain, in [0, 1]
    """

    value: float
    bound: float
    efficiency: float


def relaxation(
    items: Items | ArrayLike,
    posterior: Posterior | RewardView,
    budget: int,
    *,
    candidates: Scheme | int | ArrayLike = "random",
    exclude: Comparisons | ArrayLike | None = None,
    key: KeyLike = 0,
    steps: int = 100,
    tolerance: float = 0.005,
) -> Relaxation:
    """Maximise f(w) = log det(I + sum_i w_i v_i R' d_i d_i' R), R R' = A, over 0 <= w_i <= 1, sum_i w_i = budget.

    Batches are the weights that are all 0 or 1, so that the maximum is at least that of any batch. f is concave: with
    g its gradient and s the weights that put 1 on the `budget` largest entries of g, the gap g'(s - w) is at least
    what f(w) lacks. Each step moves towards s as far as f rises (exact line search). v is the information averaged
    over the posterior and held fixed, as in "greedy D".

    Parameters
    ----------
    items, posterior, budget, candidates, exclude, key : as in `select_pairs`; the same arguments, the same candidates
    steps : at most
    tolerance : stop where the gap is below this share of the value

    Returns
    -------
    Relaxation

    References
    ----------
    Frank, Wolfe (1956), Naval Research Logistics Quarterly 3; Jaggi (2013), ICML, for the gap; Pukelsheim (2006),
    Optimal Design of Experiments, chapter 11, for designs with bounded weights.

    Examples
    --------
    >>> from tercet.datasets import simulated_preferences
    >>> from tercet.designs import relaxation, select_pairs
    >>> from tercet.inference import laplace
    >>> from tercet.models import BradleyTerry
    >>> data = simulated_preferences(50, 4, 100)
    >>> fit = laplace(BradleyTerry(), data.items, data.comparisons)
    >>> best = relaxation(data.items, fit, 10, candidates="all")
    >>> picked = select_pairs(data.items, fit, 10, candidates="all", criterion="greedy D")
    >>> bool(picked.gains.sum() <= best.bound)
    True
    """
    view = on(posterior, items)
    pool = pair_candidates(view, candidates, exclude, key).pool(view, None)
    if not (0 <= budget <= len(pool) and budget == int(budget)):
        raise ValueError(f"budget must be a whole number between 0 and the {len(pool):,} candidates, got {budget}.")
    return _frank_wolfe(pool, int(budget), steps, tolerance)


def optimality_gap(
    selection: Selection | ArrayLike,
    items: Items | ArrayLike,
    posterior: Posterior | RewardView,
    *,
    candidates: Scheme | int | ArrayLike = "random",
    exclude: Comparisons | ArrayLike | None = None,
    key: KeyLike = 0,
    steps: int = 100,
    tolerance: float = 0.005,
) -> OptimalityGap:
    """Bound how far a batch of pairs is from the best batch of its size, by the D criterion.

    Parameters
    ----------
    selection : Selection of `select_pairs` by any criterion, or pairs [b, 2]
    items, posterior, candidates, exclude, key : as they were given to `select_pairs`
    steps, tolerance : of `relaxation`

    Returns
    -------
    OptimalityGap
        The best batch gains `bound` at most, this one `value`. Greedy batches are seldom below .95; the gap may be
        that of the bound, which allows fractions of pairs.

    References
    ----------
    Frank, Wolfe (1956), Naval Research Logistics Quarterly 3; Jaggi (2013), ICML.
    """
    view = on(posterior, items)
    listed = pair_candidates(view, candidates, exclude, key)
    pairs = as_pairs(selection.chosen if isinstance(selection, Selection) else selection, len(listed.items))
    batch = [tuple(pair) for pair in pairs.tolist()]
    position = {tuple(pair): k for k, pair in enumerate(listed.pairs.tolist())}
    others = [pair for pair in batch if pair not in position]
    if others or len(set(batch)) < len(batch):
        raise ValueError(
            f"the batch must be different pairs among the candidates, got {others[0] if others else 'one twice'}; "
            "pass the candidates, exclude and key that were given to select_pairs."
        )
    pool = listed.pool(view, None)
    weights = np.zeros(len(pool))
    weights[[position[pair] for pair in batch]] = 1.0
    value = float(np.linalg.slogdet(_information(pool, weights))[1])
    bound = max(_frank_wolfe(pool, len(batch), steps, tolerance, weights).bound, value)  # up to rounding
    return OptimalityGap(value, bound, value / bound if bound > 0 else 1.0)


def _frank_wolfe(
    pool: PairPool, budget: int, steps: int, tolerance: float, batch: np.ndarray | None = None
) -> Relaxation:
    """Starts from even weights; a batch gives a first bound of its own."""
    if budget == 0:
        return Relaxation(np.zeros(len(pool)), 0.0, 0.0, 0.0)
    bound = np.inf
    if batch is not None:
        value, gap, _ = _certificate(pool, batch, budget)
        bound = value + gap
    weights = np.full(len(pool), budget / len(pool))
    for _ in range(steps):
        value, gap, vertex = _certificate(pool, weights, budget)
        bound = min(bound, value + gap)
        if gap <= tolerance * value:
            break
        weights = weights + _line_search(pool, weights, vertex) * (vertex - weights)
    return Relaxation(weights, value, gap, bound)


def _certificate(pool: PairPool, weights: np.ndarray, budget: int) -> tuple[float, float, np.ndarray]:
    """Value, duality gap and the vertex [m] that the gradient points to."""
    factor = scipy.linalg.cholesky(_information(pool, weights), lower=True)
    root = scipy.linalg.solve_triangular(factor, pool.root.T, lower=True).T
    gradient = pool.expected_information * pool.squared_norms(root)
    vertex = np.zeros(len(pool))
    vertex[np.argpartition(-gradient, budget - 1)[:budget]] = 1.0
    return 2.0 * float(np.log(factor.diagonal()).sum()), max(float(gradient @ (vertex - weights)), 0.0), vertex


def _line_search(pool: PairPool, weights: np.ndarray, vertex: np.ndarray) -> float:
    """The step in [0, 1] that maximises f: f is sum_k log(1 + step l_k) along it, l eigenvalues of the difference."""
    current = _information(pool, weights)
    change = scipy.linalg.eigh(_information(pool, vertex) - current, current, eigvals_only=True)

    def slope(step: float) -> float:
        return float((change / (1.0 + step * change)).sum())

    if slope(1.0 - 1e-9) >= 0:
        return 1.0
    return float(scipy.optimize.brentq(slope, 0.0, 1.0 - 1e-9)) if slope(0.0) > 0 else 0.0


def _information(pool: PairPool, weights: np.ndarray) -> Float[np.ndarray, "k k"]:
    """Posterior precision in units of what it is now: I + R' (sum_i w_i v_i d_i d_i') R."""
    root, kept = pool.root, np.flatnonzero(weights)
    gram = pool.gram(pool.pairs[kept], weights[kept] * pool.expected_information[kept])
    return np.asarray(np.eye(root.shape[1]) + root.T @ gram @ root)
