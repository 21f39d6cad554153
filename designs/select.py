"""The one design grammar: select(candidates, posterior, budget)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from tercet.designs.criteria.candidates import Candidates
from tercet.designs.criteria.criterion import Criterion, as_criterion
from tercet.designs.criteria.pools import Pool
from tercet.designs.criteria.search import Limits
from tercet.models._inputs import KeyLike, as_floats, as_generator

if TYPE_CHECKING:
    import pandas as pd

DEFAULT = "greedy V"
RANDOM_BATCHES = 20


class Selection(NamedTuple):
    """What to measure next.

    Attributes
    ----------
    chosen : the picks, best first: pairs [b, 2] for `select_pairs`, positions [b] for `select_sites`
    gains : gain [b] of each pick, in the units of the criterion, given the picks before it
    expected_random : what a random batch of the same size gains in all, on average
    table : DataFrame, one row a pick
    annotator : who should answer each pick [b], positions among the annotators of the fit; None unless that was chosen
    """

    chosen: Int[np.ndarray, "b ..."]
    gains: np.ndarray
    expected_random: float
    table: pd.DataFrame
    annotator: np.ndarray | None = None


def select(
    candidates: Candidates,
    posterior: Any,
    budget: int | float,
    *,
    criterion: str | Criterion = DEFAULT,
    target: Any = None,
    cost: ArrayLike | None = None,
    key: KeyLike = 0,
    random_batches: int = RANDOM_BATCHES,
) -> Selection:
    """Choose the candidates to measure next.

    Parameters
    ----------
    candidates : what could be measured, PairCandidates or SiteCandidates
    posterior : of the model of these candidates (None for sites by "k-centre", which reads positions only)
    budget : number of picks, or their total cost where `cost` is given
    criterion : one of the names that the candidates know (`tercet.designs.CRITERIA` for pairs,
        `tercet.designs.SITE_CRITERIA` for sites), or a Criterion: an objective and a search
    target : what the model will be used on (None: differences of two random items; all candidate sites)
    cost : positive array [m], optional; the gain per cost then decides
    key : int seed or JAX key
    random_batches : random batches behind `expected_random`

    Returns
    -------
    Selection
    """
    rule = as_criterion(criterion, candidates.criteria)
    price = None if cost is None else _as_cost(cost, len(candidates))
    check_budget(budget, len(candidates), price)
    pool = rule.objective.pool(candidates, posterior, target)
    rng = as_generator(key).spawn(1)[0]  # not the stream that random candidates were drawn from
    start = rule.objective.begin(pool, rng)
    chosen, gains = rule.search.run(rule.objective, start, Limits(len(pool), float(budget), price), rng)
    expected = expected_random(rule, pool, start, len(chosen), batches=random_batches, rng=rng)
    table = candidates.table(chosen, pool, gains)
    return Selection(candidates.picks(chosen), gains, expected, table, candidates.annotators(chosen))


def expected_random(
    rule: Criterion, pool: Pool, start: Any, size: int, *, batches: int, rng: np.random.Generator
) -> float:
    """What a random batch of this size gains, on average.

    Parameters
    ----------
    rule : the criterion
    pool, start : the candidates, and the state of the objective before the first pick
    size : of the batch
    batches : random batches to average over, where gains depend on the picks before
    rng : they are drawn from
    """
    if size == 0:
        return 0.0
    if not rule.search.sequential:
        return float(size * rule.objective.score(start).mean())
    drawn = (pool.sample(rng.choice(len(pool), size=size, replace=False)) for _ in range(batches))
    return float(np.mean([rule.objective.batch_gain(batch, rng) for batch in drawn]))


def _as_cost(cost: ArrayLike, size: int) -> np.ndarray:
    price = as_floats("cost", cost, 1)
    if len(price) != size or price.min() <= 0:
        raise ValueError(f"cost must hold {size} positive numbers, one a candidate; got {len(price)}.")
    return price


def check_budget(budget: int | float, available: int, price: np.ndarray | None = None) -> None:
    """Raise where this is no number of picks (no total cost, with prices)."""
    if price is None and not (0 <= budget <= available and budget == int(budget)):
        raise ValueError(
            f"budget must be a whole number between 0 and the {available:,} candidates left, got {budget}."
        )
    if price is not None and not budget >= 0:
        raise ValueError(f"budget (a total cost) must not be negative, got {budget}.")
