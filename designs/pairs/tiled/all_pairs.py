"""Batches chosen from all pairs of all items, which are never listed: one pass of tiles for each shortlist."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tercet.designs.criteria.criterion import Criterion
from tercet.designs.criteria.greedy import Greedy, GreedyA, GreedyD, GreedyState, GreedyV
from tercet.designs.criteria.roots import symmetric_root
from tercet.designs.pairs.candidates import pair_code
from tercet.designs.pairs.pool import PairPool
from tercet.designs.pairs.published import PublishedD, PublishedXtX
from tercet.designs.pairs.tiled.one_shot_tiles import ONE_SHOT
from tercet.designs.pairs.tiled.pair_scores import AllPairs, distance, quarter, tile_score
from tercet.designs.pairs.tiled.tiles import Leaders, TileScore
from tercet.models.preferences.links import Logistic

SHORTLIST = 16384
"""Pairs that a pass of tiles brings for greedy D: picks come from them for as long as no other pair can be better."""
NORMALS = ((1.0532806, 0.19005553), (1.62306514, 0.57687113), (2.57101441, 0.23307334))
"""Standard deviations and weights of the three normal laws whose mixture is nearest to the logistic one in density."""
OFF = 7.2e-5  # by at most so much; averaging over rewards only lowers it


def has_tiles(rule: Criterion, pool: PairPool) -> bool:
    """Whether this criterion can score all pairs in tiles: Bradley-Terry without an order effect."""
    plain = isinstance(pool.model.link, Logistic) and not pool.model.effects
    if isinstance(rule, PublishedD) and not isinstance(rule, PublishedXtX):
        return plain and pool.rewards.features.in_memory  # M takes all pairs of features
    return plain and may_have_tiles(rule)


def may_have_tiles(rule: Criterion) -> bool:
    """Whether this criterion can under some posterior."""
    if isinstance(rule, Greedy):
        return type(rule) in (GreedyD, GreedyV, GreedyA) and not rule.plug_in
    return type(rule) in ONE_SHOT


def greedy_from_all(rule: Greedy, candidates: AllPairs, pool: PairPool, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose `budget` pairs [b, 2] and their gains [b]: those that `rule` would choose from a list of all pairs.

    Greedy D is submodular: its gains only fall, so that the pairs that a pass brings are all that matter until the best
    gain left is below what any other pair had in that pass. Greedy V is not: it takes a pass a pick.

    Parameters
    ----------
    rule : "greedy D", "greedy V" or "greedy A"
    candidates : AllPairs
    pool : any pool of pairs of these items under the posterior (its pairs play no part)
    budget : at most the number of pairs
    """
    covariance, chosen, gains = pool.covariance, np.empty((0, 2), np.int64), np.empty(0)
    lazy = isinstance(rule, GreedyD)
    while len(chosen) < budget:
        taken = chosen if candidates.exclude is None else np.concatenate([candidates.exclude, chosen])
        left = replace(candidates, exclude=taken)
        score = _information_gain(pool, covariance, None if lazy else rule._root(pool))
        found = left.leading(score, SHORTLIST if lazy else 1)
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


def _information_gain(pool: PairPool, covariance: np.ndarray, target: np.ndarray | None) -> TileScore:
    """Odds of greedy D, v q, or the gain of greedy V, v c / (1 + v q); v as it was before the batch."""
    roots = {"before": pool.rewards.root, "now": symmetric_root(covariance)}
    if target is None:
        return tile_score(pool, _odds, roots, _most_odds, OFF)
    return tile_score(pool, _fall, roots | {"aim": covariance @ target}, quarter, OFF)


def _expected_information(left: dict[str, Any], right: dict[str, Any]) -> Any:
    """E p (1 - p) of Bradley-Terry, to within `OFF`: the density of the logistic as normal ones, each widened."""
    variance = distance("before", left, right)
    total: Any = 0.0  # of no precision: 32 bit stay so
    square = -0.5 * jnp.square(left["mean"][:, None] - right["mean"])
    for sd, weight in NORMALS:
        narrow = jax.lax.rsqrt(sd**2 + variance)
        total = total + weight / math.sqrt(2.0 * math.pi) * jnp.exp(square * narrow * narrow) * narrow
    return total


def _odds(left: dict[str, Any], right: dict[str, Any]) -> Any:
    return _expected_information(left, right) * distance("now", left, right)


def _most_odds(square: float) -> float:
    """At equal rewards, where the posterior variance is as it was before the batch: either could only lower it."""
    return square * sum(weight / math.sqrt(2.0 * math.pi * (sd**2 + square)) for sd, weight in NORMALS)


def _fall(left: dict[str, Any], right: dict[str, Any]) -> Any:
    v = _expected_information(left, right)
    return v * distance("aim", left, right) / (1.0 + v * distance("now", left, right))
