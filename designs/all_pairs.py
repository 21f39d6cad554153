"""Batches chosen from all pairs of all items, which are never listed: one pass of tiles for each shortlist."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tercet.designs.candidates import pair_code
from tercet.designs.criterion import Criterion
from tercet.designs.greedy import Greedy, GreedyA, GreedyD, GreedyState, GreedyV
from tercet.designs.one_shot import PosteriorVariance
from tercet.designs.pool import PairPool
from tercet.designs.roots import symmetric_root
from tercet.designs.tiles import Leaders, TileScore, leading_pairs
from tercet.models.data import Items
from tercet.models.embeddings import Embeddings
from tercet.models.links import MIXTURE, SCALES, Logistic
from tercet.models.projection import near_mean, over_blocks

SHORTLIST = 4096
"""Pairs that a pass of tiles brings for greedy D: picks come from them for as long as no other pair can be better."""
ROUNDING = 200.0 * float(np.finfo(np.float32).eps)  # of a score in 32 bit, as a share of the largest there can be


@dataclass(frozen=True, eq=False)
class AllPairs:
    """All pairs of n items, less those of one prompt (`across`) and those excluded [x, 2]."""

    items: Items
    across: bool = False
    exclude: np.ndarray | None = None

    @property
    def prompt(self) -> np.ndarray | None:
        """Prompt of each item, where pairs of one prompt are left out."""
        return self.items.prompt if self.across else None


def has_tiles(rule: Criterion, pool: PairPool) -> bool:
    """Whether this criterion can score all pairs in tiles: Bradley-Terry without an order effect."""
    known = type(rule) in (PosteriorVariance, GreedyD, GreedyV, GreedyA)
    plain = not isinstance(rule, Greedy) or not rule.plug_in
    return known and plain and isinstance(pool.model.link, Logistic) and pool.rewards.order is None


def choose_from_all(
    rule: Criterion, candidates: AllPairs, pool: PairPool, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose `budget` pairs [b, 2] and their gains [b]: those that `rule` would choose from a list of all pairs.

    One-shot scores take one pass. Greedy D is submodular: its gains only fall, so that the pairs that a pass brings are
    all that matter until the best gain left is below what any other pair had in that pass. Greedy V is not: it takes a
    pass a pick.

    Parameters
    ----------
    rule : a criterion that `has_tiles`
    candidates : AllPairs
    pool : any pool of pairs of these items under the posterior (its pairs play no part)
    budget : at most the number of pairs
    """
    if not isinstance(rule, Greedy):
        found = _pass(_variance(pool), budget, candidates)
        exact = pool.of(found.pairs).variance
        best = np.lexsort((pair_code(found.pairs, len(candidates.items)), -exact))[:budget]
        return found.pairs[best], exact[best]
    covariance, chosen, gains = pool.covariance, np.empty((0, 2), np.int64), np.empty(0)
    lazy = isinstance(rule, GreedyD)
    while len(chosen) < budget:
        taken = chosen if candidates.exclude is None else np.concatenate([candidates.exclude, chosen])
        left = replace(candidates, exclude=taken)
        score = _information_gain(pool, covariance, None if lazy else rule._root(pool))
        found = _pass(score, SHORTLIST if lazy else 1, left)
        more, gained, covariance = _from_shortlist(rule, pool, found, covariance, budget - len(chosen), lazy)
        chosen, gains = np.concatenate([chosen, more]), np.append(gains, gained)
    return chosen, gains


def _from_shortlist(
    rule: Greedy, pool: PairPool, found: Leaders, covariance: np.ndarray, most: int, lazy: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Greedy picks from the pairs of a pass, for as long as they are sure to be the best of all."""
    short = pool.of(found.pairs)
    root = symmetric_root(covariance)
    c = short.squared_norms(covariance @ rule._root(pool)) if rule.targeted else np.empty(0)
    state = GreedyState(short, covariance, short.squared_norms(root), c, short.expected_information)
    free = np.ones(len(short), bool)
    picked: list[int] = []
    gains: list[float] = []
    order = np.argsort(pair_code(found.pairs, len(pool.items)), kind="stable")  # ties: the first pair
    while free.any() and len(picked) < (most if lazy else 1):
        scores = np.where(free, rule.score(state), -np.inf)
        index = int(order[scores[order].argmax()])
        if picked and np.expm1(scores[index]) < found.rest:
            break  # a pair outside the shortlist may be better by now: another pass
        picked.append(index)
        gains.append(float(scores[index]))
        free[index] = False
        state = rule.update(state, index)
    return found.pairs[picked], np.array(gains), state.covariance


def _pass(score: TileScore, n: int, candidates: AllPairs) -> Leaders:
    if isinstance(score.numbers, np.ndarray):
        return leading_pairs(score, n, candidates.prompt, candidates.exclude)
    from tercet.designs.dask_tiles import leading_pairs_by_tasks

    return leading_pairs_by_tasks(score, n, candidates.prompt, candidates.exclude)


def _variance(pool: PairPool) -> TileScore:
    return _score(pool, _distance_now, {"now": pool.rewards.root}, 4.0)


def _information_gain(pool: PairPool, covariance: np.ndarray, target: np.ndarray | None) -> TileScore:
    """Odds of greedy D, v q, or the gain of greedy V, v c / (1 + v q); v as it was before the batch."""
    roots = {"before": pool.rewards.root, "now": symmetric_root(covariance)}
    if target is None:
        return _score(pool, _odds, roots, 1.0)
    return _score(pool, _fall, roots | {"aim": covariance @ target}, 1.0)


def _score(pool: PairPool, function: Any, roots: dict[str, np.ndarray], most: float) -> TileScore:
    """A score of the rows x root of items, never above `most` times the largest square of the last of them."""
    features, mean = pool.rewards.features, pool.rewards.mean
    level = (mean - mean.mean()).astype(np.float32)
    columns = [("mean", 0)] + [
        part for name, root in roots.items() for part in ((name, root.shape[1]), (f"{name} squared", 0))
    ]
    width = sum(max(1, size) for _, size in columns)
    matrices = tuple(roots.values())
    if features is None:
        numbers: Any = _item_numbers(matrices, tuple(root.mean(axis=0) for root in matrices), None, level)
    else:
        center = near_mean(features)
        of_block = partial(_item_numbers, matrices, tuple(center @ root for root in matrices))
        if isinstance(features, Embeddings) and features.chunked is not None:
            from tercet.models.dask_features import rows_by_chunk

            numbers = rows_by_chunk(features, of_block, width, level).persist()  # where the chunks are
        else:
            numbers = np.concatenate(over_blocks(features, of_block, level))
    return TileScore(numbers, tuple(columns), function, ROUNDING * most * float(numbers[:, -1].max()))


def _item_numbers(
    roots: tuple[np.ndarray, ...], shifts: tuple[np.ndarray, ...], features: np.ndarray | None, level: np.ndarray
) -> Float[np.ndarray, "n c"]:
    """In 32 bit: the level of each item, then x root - shift and its square for every root; x = identity if None.

    Shifts are rows near the mean: the differences are the same, and 32 bit lose nothing to what all items share.
    """
    numbers = np.empty((len(level), 1 + sum(root.shape[1] + 1 for root in roots)), np.float32)
    numbers[:, 0], column = level, 1
    for root, shift in zip(roots, shifts, strict=True):
        rows = (root if features is None else features @ root) - shift
        numbers[:, column : column + rows.shape[1]] = rows
        column += rows.shape[1] + 1
        numbers[:, column - 1] = np.square(rows).sum(axis=1)
    return numbers


def _distance(name: str, left: dict[str, Any], right: dict[str, Any]) -> Any:
    crossed = left[name] @ right[name].T
    squares = left[f"{name} squared"][:, None] + right[f"{name} squared"]
    return jnp.maximum(squares - 2.0 * crossed, 0.0)


def _distance_now(left: dict[str, Any], right: dict[str, Any]) -> Any:
    return _distance("now", left, right)


def _expected_information(left: dict[str, Any], right: dict[str, Any]) -> Any:
    """E p (1 - p) of Bradley-Terry: the density of the logistic as a mixture of normal ones, each widened."""
    variance, total = _distance("before", left, right), 0.0
    square = -0.5 * jnp.square(left["mean"][:, None] - right["mean"])
    for scale, weight in zip(SCALES.tolist(), MIXTURE.tolist(), strict=True):  # not NumPy scalars: 32 bit stay so
        spread = 1.0 / (4.0 * scale**2 + variance)
        total = total + weight * jnp.exp(square * spread) * jnp.sqrt(spread / (2.0 * math.pi))
    return total


def _odds(left: dict[str, Any], right: dict[str, Any]) -> Any:
    return _expected_information(left, right) * _distance("now", left, right)


def _fall(left: dict[str, Any], right: dict[str, Any]) -> Any:
    v = _expected_information(left, right)
    return v * _distance("aim", left, right) / (1.0 + v * _distance("now", left, right))
