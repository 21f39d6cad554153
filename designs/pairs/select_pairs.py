"""Which pairs of items people should compare next."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tercet.designs.criteria.criterion import Criterion, as_criterion
from tercet.designs.criteria.tile import Tile
from tercet.designs.pairs.candidates import Scheme, as_mask, count_pairs
from tercet.designs.pairs.pair_candidates import PairCandidates, pair_candidates
from tercet.designs.pairs.pool import PairPool
from tercet.designs.pairs.registry import CRITERIA
from tercet.designs.pairs.target_moments import Target
from tercet.designs.pairs.tiled.all_pairs import AllPairsPool, choose_from_all
from tercet.designs.pairs.tiled.pair_scores import AllPairs
from tercet.designs.pairs.tiled.tiles import TILING, Tiling
from tercet.designs.select import DEFAULT, RANDOM_BATCHES, Selection, check_budget, expected_random, select
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.reward_view import RewardView, on
from tercet.models._inputs import KeyLike, as_generator, as_pairs
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.links import Logistic


def select_pairs(
    items: Items | ArrayLike,
    posterior: Posterior | RewardView,
    budget: int | float,
    *,
    candidates: Scheme | int | ArrayLike = "random",
    criterion: str | Criterion = DEFAULT,
    target: Target = None,
    cost: ArrayLike | None = None,
    exclude: Comparisons | ArrayLike | None = None,
    annotators: Literal["all"] | Sequence[Hashable] | None = None,
    key: KeyLike = 0,
    random_batches: int = RANDOM_BATCHES,
    tiling: Tiling = TILING,
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
        criteria, "BatchBALD", "posterior variance", "max difference", "entropy", "XtX" and the published D-optimal ones
        (these three not under a mask, the last two in memory only) of Bradley-Terry, and by any criterion whose
        objective has a `tile`: the same picks, a pass over all pairs for each shortlist (greedy D) or each pick (greedy
        A and V). Each pass reads features that are not in memory once or twice: `persist()` a Dask array whose chunks
        are slow to make
    criterion : "greedy V" (default: it did best in our studies), any other name in `tercet.designs.CRITERIA` (compared
        in docs/strategies.md), or a Criterion: an objective and a search (docs/extending.md)
    target : None (differences of two random items), "in-prompt", Items, or pairs [t, 2]
    cost : array [m] for an explicit array of candidates; with annotators also [m, a]
    exclude : pairs [k, 2] or Comparisons that are not to be asked (again), of any annotator
    annotators : choose whom to ask as well: "all" that the fit knows, or a of their names. For models with
        annotators=True and a criterion by posterior draws ("BALD (draws)", "EPIG (draws)", "BatchBALD (joint entropy)")
    key : int seed or JAX key, for random candidates and random picks
    random_batches : random batches behind `expected_random`
    tiling : sizes for candidates that are too many to list; the picks do not depend on it

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
    view = on(posterior, items)
    mask = as_mask(candidates, len(view.items))
    if cost is not None and (isinstance(candidates, (str, int, np.integer)) or mask is not None or exclude is not None):
        raise ValueError("cost needs an explicit array of candidates, one entry a row, and no exclude.")
    rule = as_criterion(criterion, CRITERIA)
    whole = isinstance(candidates, str) and candidates in ("all", "cross-prompt")
    if cost is None and annotators is None and (whole or mask is not None):
        scheme: Any = candidates if mask is None else mask
        available = count_pairs(view.items, scheme, exclude)
        if available > tiling.listed:
            check_budget(budget, available)
            size = min(random_batches * max(1, int(budget)), available)

            def sample() -> PairPool:
                return pair_candidates(view, scheme, exclude, key, size).pool_of_items(view, target)

            pool = _all_pairs(view, scheme, exclude, sample=sample, tiling=tiling)
            tile = rule.tile(pool) if _has_tiles(view) else None
            if tile is not None:
                return _select_in_tiles(rule, tile, pool, int(budget), key=key, random_batches=random_batches)
            _check_may_be_listed(view.items, available, rule)
    chosen_from = pair_candidates(view, candidates, exclude, key)
    if annotators is not None:
        single = len(chosen_from)
        chosen_from = chosen_from.asking(view, annotators)
        cost = None if cost is None else _cost_of_each(cost, single, len(chosen_from) // max(single, 1))
    return select(
        chosen_from, view, budget,
        criterion=rule, target=target, cost=cost, key=key, random_batches=random_batches,
    )  # fmt: skip


def _has_tiles(view: RewardView) -> bool:
    """Whether tiles know the information of an answer: that of Bradley-Terry without covariates."""
    return isinstance(view.model.link, Logistic) and not view.model.effects


def _all_pairs(
    view: RewardView, scheme: Any, exclude: Comparisons | ArrayLike | None, *, sample: Callable[[], PairPool],
    tiling: Tiling,
) -> AllPairsPool:  # fmt: skip
    """All pairs of a scheme or a mask."""
    excluded = None
    if exclude is not None:
        excluded = as_pairs(exclude.pairs if isinstance(exclude, Comparisons) else exclude, len(view.items))
    mask = None if isinstance(scheme, str) else scheme
    return AllPairsPool(AllPairs(view.items, mask is None and scheme == "cross-prompt", excluded, mask), sample, tiling)


def _select_in_tiles(
    rule: Criterion, tile: Tile[PairPool, Any], pool: AllPairsPool, budget: int, *, key: KeyLike, random_batches: int
) -> Selection:
    """The same selection, from pairs that are scored in tiles."""
    pairs, gains = choose_from_all(rule, tile, pool, budget)
    sample, rng = pool.sample.of(pool.sample.pairs), as_generator(key).spawn(1)[0]
    start = tile.state(sample, None)
    expected = expected_random(rule, sample, start, len(pairs), batches=random_batches, rng=rng)
    chosen = PairCandidates(pool.candidates.items, pairs)
    return Selection(pairs, gains, expected, chosen.table(np.arange(len(pairs)), pool.sample.of(pairs), gains))


def _check_may_be_listed(items: Items, pairs: int, rule: Criterion) -> None:
    """Raise where listing these pairs would bring all features of a Dask array or a file into memory."""
    if not items.operator.in_memory:
        raise ValueError(
            f"criterion {rule.name!r} has to list all {pairs:,} pairs, and the features of these {len(items):,} items "
            "are not in memory; score all pairs by 'posterior variance', 'max difference', 'entropy', 'XtX', 'greedy "
            "D', 'greedy A' or 'greedy V' of Bradley-Terry without an order effect, or choose from a sample: "
            'candidates="random", or a number of pairs.'
        )


def _cost_of_each(cost: ArrayLike, pairs: int, annotators: int) -> np.ndarray:
    """Costs [pairs * annotators], pair after pair, from [pairs] or [pairs, annotators]."""
    price = np.asarray(cost)
    price = price[:, None] if price.ndim == 1 else price
    if price.ndim != 2 or len(price) != pairs or price.shape[1] not in (1, annotators):
        raise ValueError(f"cost must have shape [{pairs}] or [{pairs}, {annotators}], got {np.shape(cost)}.")
    return np.broadcast_to(price, (pairs, annotators)).reshape(-1)
