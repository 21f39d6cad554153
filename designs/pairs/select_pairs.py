"""The one design grammar: select(candidates, posterior, budget)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from tercet.designs.criteria.candidates import Candidates
from tercet.designs.criteria.criterion import OneShot
from tercet.designs.criteria.greedy import Greedy
from tercet.designs.pairs.candidates import Scheme, as_mask, count_pairs, listed_pairs
from tercet.designs.pairs.pair_candidates import PairCandidates
from tercet.designs.pairs.published import PublishedD
from tercet.designs.pairs.registry import CRITERIA, Criterion, as_criterion
from tercet.designs.pairs.tiled.all_pairs import greedy_from_all, has_tiles, may_have_tiles
from tercet.designs.pairs.tiled.one_shot_tiles import one_shot_tiles
from tercet.designs.pairs.tiled.pair_scores import AllPairs
from tercet.designs.sites.k_centre import SITE_CRITERIA
from tercet.inference.preferences.reward_view import on
from tercet.models._inputs import as_floats, as_generator, as_pairs
from tercet.models.items.items import Items

if TYPE_CHECKING:
    import pandas as pd

RANDOM_BATCHES = 20  # batches behind `expected_random`
DEFAULT = "greedy V"
LISTED = 1_000_000  # pairs; more are scored in tiles, by criteria that can


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
    key: Any = 0,
) -> Selection:
    """Choose the candidates to measure next.

    Parameters
    ----------
    candidates : what could be measured, PairCandidates or SiteCandidates
    posterior : what is known (None for sites by "k-centre", which needs places only)
    budget : number of picks, or their total cost where `cost` is given
    criterion : name or object, see `tercet.designs.CRITERIA` and, for sites, `tercet.designs.SITE_CRITERIA`
    target : what the model will be used on (None: differences of two random items; all candidate sites)
    cost : positive array [m], optional; the gain per cost then decides
    key : int seed or JAX key

    Returns
    -------
    Selection
    """
    rule = as_criterion(criterion, CRITERIA | SITE_CRITERIA)
    price = None if cost is None else _as_cost(cost, len(candidates))
    _check_budget(budget, len(candidates), price)
    pool = rule.pool(candidates, posterior, target)
    rng = as_generator(key).spawn(1)[0]  # not the stream that random candidates were drawn from
    start = rule.begin(pool, rng)
    chosen, gains = _run(rule, start, len(pool), budget, price)
    if len(chosen):
        chosen, gains = rule.revise(start, chosen, gains, price, float(budget))
    expected = _expected_random(rule, pool, start, len(chosen), rng)
    table = candidates.table(chosen, pool, gains)
    return Selection(candidates.picks(chosen), gains, expected, table, candidates.who(chosen))


def select_pairs(
    items: Items | ArrayLike,
    posterior: Any,
    budget: int | float,
    *,
    candidates: Scheme | int | ArrayLike = "random",
    criterion: str | Criterion = DEFAULT,
    target: Any = None,
    cost: ArrayLike | None = None,
    exclude: Any = None,
    annotators: str | Sequence[Hashable] | None = None,
    key: Any = 0,
) -> Selection:
    """Choose which pairs of items people should compare next.

    Parameters
    ----------
    items : Items or raw features [n, d], also on disk (`open_embeddings`) or in a Dask array (extra `dask`). Only the
        items of listed pairs are read; with "all" and "cross-prompt" tiles of a Dask array are tasks of its scheduler
        (threads, or the active distributed client, whose workers have tercet installed) and its features stay where
        they are: the picks are the same
    posterior : of a comparison model fitted on the answers so far (of a part of the items, say)
    budget : number of pairs (or total cost, with `cost`)
    candidates : "random" (20,000 of all), a number of random pairs, "all", "in-prompt", "cross-prompt", or an
        explicit array [m, 2], taken as it is, or a mask, bool [n, n], of the pairs that may be asked, either way round.
        More than a million pairs ("all", "cross-prompt", a mask) are never listed but scored in tiles by the greedy
        criteria, "posterior variance", "max difference", "entropy", "XtX" and the published D-optimal ones (these three
        not under a mask, the last two in memory only) of Bradley-Terry: the same picks, a pass over all pairs for each
        shortlist (greedy D) or each pick (greedy A and V). Each pass reads features that are not in memory once or
        twice: `persist()` a Dask array whose chunks are slow to make
    criterion : "greedy V" (default: it did best in our studies), any other name in `tercet.designs.CRITERIA` (compared
        in docs/strategies.md), or a Criterion
    target : None (differences of two random items), "in-prompt", Items, or pairs [t, 2]
    cost : array [m] for an explicit array of candidates; with annotators also [m, a]
    exclude : pairs [k, 2] or Comparisons that are not to be asked (again), of anybody
    annotators : choose whom to ask as well: "all" that the fit knows, or a of their names. For models with
        annotators=True and a criterion by posterior draws ("BALD (draws)", "EPIG (draws)", "BatchBALD (joint entropy)")
    key : int seed or JAX key, for random candidates and random picks

    Returns
    -------
    Selection
        chosen [b, 2] (positions), gains, expected_random, table with ids, annotator [b] where that was chosen.

    References
    ----------
    Chaloner and Verdinelli (1995), Statistical Science 10; Shen, Sun, Ton (2025), arXiv 2502.04354.

    Examples
    --------
    >>> from tercet.datasets import simulated_preferences
    >>> from tercet.designs import select_pairs
    >>> from tercet.inference import laplace
    >>> from tercet.models import BradleyTerry
    >>> data = simulated_preferences(100, 8, 200)
    >>> fit = laplace(BradleyTerry(), data.items, data.comparisons)
    >>> picked = select_pairs(data.items, fit, 5, exclude=data.comparisons)
    >>> picked.chosen.shape, bool(picked.gains.sum() > picked.expected_random)
    ((5, 2), True)
    """
    known = on(posterior, items).items
    mask = as_mask(candidates, len(known))
    if cost is not None and (isinstance(candidates, (str, int, np.integer)) or mask is not None or exclude is not None):
        raise ValueError("cost needs an explicit array of candidates, one entry a row, and no exclude.")
    rule = as_criterion(criterion)
    whole = isinstance(candidates, str) and candidates in ("all", "cross-prompt")
    if cost is None and annotators is None and (whole or mask is not None):
        scheme = candidates if mask is None else mask
        found = _from_all(known, posterior, budget, scheme, rule, target, exclude, key)
        if found is not None:
            return found
    chosen_from = pair_candidates(items, posterior, candidates, exclude, key)
    if annotators is not None:
        single = len(chosen_from)
        chosen_from = chosen_from.asking(posterior, annotators)
        cost = None if cost is None else _cost_of_each(cost, single, len(chosen_from) // max(single, 1))
    return select(chosen_from, posterior, budget, criterion=rule, target=target, cost=cost, key=key)


def _from_all(
    items: Items, posterior: Any, budget: int | float, scheme: Any, rule: Criterion, target: Any, exclude: Any,
    key: Any,
) -> Selection | None:  # fmt: skip
    """The same picks from more pairs than are worth listing; None where there are few, or a list is needed."""
    available = count_pairs(items, scheme, exclude)
    if available <= LISTED:
        return None
    pooled = isinstance(rule, PublishedD) and not isinstance(scheme, str)  # its matrix is a sum over a mask's pairs
    if pooled or not may_have_tiles(rule):
        _check_listed(items, available, rule)
        return None
    sample = pair_candidates(
        items, posterior, scheme, exclude, key, min(RANDOM_BATCHES * max(1, int(budget)), available)
    )
    everything = sample.pool_of_items(posterior, target)
    if not has_tiles(rule, everything):
        _check_listed(items, available, rule)
        return None
    _check_budget(budget, available, None)
    taken = None if exclude is None else as_pairs(getattr(exclude, "pairs", exclude), len(items))
    mask = None if isinstance(scheme, str) else scheme
    left, rng = AllPairs(items, mask is None and scheme == "cross-prompt", taken, mask), as_generator(key).spawn(1)[0]
    chosen, gains, expected = np.empty((0, 2), np.int64), np.empty(0), 0.0
    if budget and isinstance(rule, Greedy):
        chosen, gains = greedy_from_all(rule, left, everything, int(budget))
        expected = _expected_random(rule, everything.of(sample.pairs), None, len(chosen), rng)
    elif budget:
        assert isinstance(rule, OneShot)
        scored = one_shot_tiles(rule, left, everything)
        chosen, gains = scored.best(everything, int(budget))
        expected = len(chosen) * float(scored.exact(everything.of(sample.pairs)).mean())
    table = PairCandidates(items, chosen).table(np.arange(len(chosen)), everything.of(chosen), gains)
    return Selection(chosen, gains, expected, table)


def _check_listed(items: Items, pairs: int, rule: Criterion) -> None:
    """Raise where listing these pairs would bring all features of a Dask array or a file into memory."""
    if not items.operator.in_memory:
        raise ValueError(
            f"criterion {rule.name!r} has to list all {pairs:,} pairs, and the features of these {len(items):,} items "
            "are not in memory; score all pairs by 'posterior variance', 'max difference', 'entropy', 'XtX', 'greedy "
            "D', 'greedy A' or 'greedy V' of Bradley-Terry without an order effect, or choose from a sample: "
            'candidates="random", or a number of pairs.'
        )


def pair_candidates(
    items: Items | ArrayLike, posterior: Any, candidates: Scheme | int | ArrayLike, exclude: Any, key: Any,
    n: int | None = None,
) -> PairCandidates:  # fmt: skip
    """The candidates of `select_pairs`: the same arguments give the same pairs."""
    known = on(posterior, items).items
    return PairCandidates(known, listed_pairs(known, candidates, key, exclude, n))


def _cost_of_each(cost: ArrayLike, pairs: int, annotators: int) -> np.ndarray:
    """Costs [pairs * annotators], pair after pair, from [pairs] or [pairs, annotators]."""
    price = np.asarray(cost)
    price = price[:, None] if price.ndim == 1 else price
    if price.ndim != 2 or len(price) != pairs or price.shape[1] not in (1, annotators):
        raise ValueError(f"cost must have shape [{pairs}] or [{pairs}, {annotators}], got {np.shape(cost)}.")
    return np.broadcast_to(price, (pairs, annotators)).reshape(-1)


def _run(
    rule: Criterion, state: Any, size: int, budget: int | float, price: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if not rule.sequential and price is None:
        scores = rule.score(state)
        best = np.argsort(-rule.worth(state, scores), kind="stable")[: int(budget)]
        return best, scores[best]
    whole = rule.batch(state, int(budget)) if price is None else None
    if whole is not None:
        return whole
    chosen: list[int] = []
    gains: list[float] = []
    free = np.ones(size, dtype=bool)
    left = float(budget)
    while True:
        free &= (price if price is not None else 1.0) <= left + 1e-12
        if not free.any():
            return np.array(chosen, dtype=np.int64), np.array(gains)
        pick = rule.choose(state, free, price)
        if pick is None:
            return np.array(chosen, dtype=np.int64), np.array(gains)
        index, gain = pick
        chosen.append(index)
        gains.append(gain)
        free[index] = False
        left -= 1.0 if price is None else float(price[index])
        state = rule.update(state, index)


def _expected_random(rule: Criterion, pool: Any, start: Any, size: int, rng: np.random.Generator) -> float:
    if size == 0:
        return 0.0
    if not rule.sequential:
        return float(size * rule.score(start).mean())
    batches = (pool.sample(rng.choice(len(pool), size=size, replace=False)) for _ in range(RANDOM_BATCHES))
    return float(np.mean([rule.batch_gain(batch, rng) for batch in batches]))


def _as_cost(cost: ArrayLike, size: int) -> np.ndarray:
    price = as_floats("cost", cost, 1)
    if len(price) != size or price.min() <= 0:
        raise ValueError(f"cost must hold {size} positive numbers, one a candidate; got {len(price)}.")
    return price


def _check_budget(budget: int | float, available: int, price: np.ndarray | None) -> None:
    if price is None and not (0 <= budget <= available and budget == int(budget)):
        raise ValueError(
            f"budget must be a whole number between 0 and the {available:,} candidates left, got {budget}."
        )
    if price is not None and not budget >= 0:
        raise ValueError(f"budget (a total cost) must not be negative, got {budget}.")
