"""Criteria that score once, over all pairs: roughly in tiles, exactly where that decides.

The published designs need M, the sum of v d d' over all candidates, before they score any. With V [n, n] of the v_ij,
zero where i and j are no candidate,

    sum over pairs of v d d' = X' (diag(V 1) - V) X,

one more pass over all pairs; for v = 1 that is n X'X - (X'1)(X'1)', less the pairs that are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tercet.designs.criteria.criterion import OneShot
from tercet.designs.criteria.one_shot import Entropy, MaxDifference, PosteriorVariance
from tercet.designs.pairs.candidates import pair_code
from tercet.designs.pairs.pool import PairPool
from tercet.designs.pairs.published import PastAwareD, PublishedD, PublishedXtX
from tercet.designs.pairs.target_moments import within_prompts
from tercet.designs.pairs.tiled.pair_scores import AllPairs, distance, quarter, tile_score
from tercet.designs.pairs.tiled.tiles import TileScore

ONE_SHOT = (PosteriorVariance, MaxDifference, Entropy, PublishedXtX, PublishedD, PastAwareD)
"""The criteria of one score a pair that have tiles."""
SIDE = 1024  # items on a side of a block of V, in 64 bit


@dataclass(frozen=True, eq=False)
class OneShotTiles:
    """One score of all pairs.

    Attributes
    ----------
    candidates : AllPairs
    tile : what ranks pairs as the score does, in 32 bit
    exact : the scores [m] of the pairs of a pool
    """

    candidates: AllPairs
    tile: TileScore
    exact: Callable[[PairPool], np.ndarray]

    def best(self, pool: PairPool, budget: int) -> tuple[np.ndarray, np.ndarray]:
        """The best pairs [b, 2] and their scores [b] (ties: the first pair)."""
        found = self.candidates.leading(self.tile, budget)
        exact = self.exact(pool.of(found.pairs))
        best = np.lexsort((pair_code(found.pairs, len(pool.items)), -exact))[:budget]
        return found.pairs[best], exact[best]


def one_shot_tiles(rule: OneShot, candidates: AllPairs, pool: PairPool) -> OneShotTiles:
    """How a rule of `ONE_SHOT` scores all pairs.

    Parameters
    ----------
    rule : a criterion that `has_tiles`
    candidates : AllPairs
    pool : any pool of pairs of these items under the posterior
    """

    def plain(some: PairPool) -> np.ndarray:
        return rule._scores(some, np.random.default_rng(0))

    if isinstance(rule, MaxDifference):
        return OneShotTiles(candidates, tile_score(pool, _gap, {}, None), plain)
    if isinstance(rule, Entropy):
        return OneShotTiles(candidates, tile_score(pool, _closeness, {}, None), plain)
    if not isinstance(rule, PublishedD):
        return OneShotTiles(candidates, tile_score(pool, _distance_now, {"now": pool.rewards.root}, float), plain)
    linear = isinstance(rule, PublishedXtX)
    root = rule.root(pool, scatter_of_all(candidates, pool) if linear else information_of_all(candidates, pool))

    def published(some: PairPool) -> np.ndarray:
        return rule._weights(some) * some.squared_norms(root)

    function, ceiling = (_distance_now, float) if linear else (_odds_at_mean, quarter)
    return OneShotTiles(candidates, tile_score(pool, function, {"now": root}, ceiling), published)


def scatter_of_all(candidates: AllPairs, pool: PairPool) -> Float[np.ndarray, "p p"]:
    """Sum of d d' over all candidates: in closed form, less the pairs that are left out."""
    features = pool.rewards.features
    total = len(pool.items) * features.scatter()[1]
    if candidates.prompt is not None:
        total -= within_prompts(features, candidates.prompt)
    out = _left_out(candidates)
    return total - pool.gram(out, np.ones(len(out)))


def information_of_all(candidates: AllPairs, pool: PairPool) -> Float[np.ndarray, "p p"]:
    """Sum of v d d' over all candidates, v the information at the posterior mean; in 64 bit, block by block."""
    features, mean, prompt = pool.rewards.features, pool.rewards.mean, candidates.prompt
    assert features.in_memory
    rows = features[:] - features.near_mean
    degree, crossed = np.zeros(len(mean)), np.zeros((rows.shape[1],) * 2)
    starts = range(0, len(mean), SIDE)
    for start in starts:
        here = slice(start, start + SIDE)
        for other in range(start, len(mean), SIDE):
            there = slice(other, other + SIDE)
            v = pool.model.information(mean[here, None] - mean[there], pool.sites)
            if prompt is not None:
                v[prompt[here, None] == prompt[there]] = 0.0
            if start == other:
                np.fill_diagonal(v, 0.0)
            half = rows[here].T @ (v @ rows[there])
            degree[here] += v.sum(axis=1)
            if start < other:
                degree[there] += v.sum(axis=0)
                half = half + half.T
            crossed += half
    out = _left_out(candidates)
    logit = mean[out[:, 0]] - mean[out[:, 1]]
    total = (rows * degree[:, None]).T @ rows - crossed
    return total - pool.gram(out, pool.model.information(logit, pool.sites))


def _left_out(candidates: AllPairs) -> Int[np.ndarray, "x 2"]:
    """The excluded pairs, each once, that would be candidates otherwise."""
    if candidates.exclude is None or len(candidates.exclude) == 0:
        return np.empty((0, 2), np.int64)
    size, prompt = len(candidates.items), candidates.prompt
    codes = np.unique(pair_code(candidates.exclude, size))
    out = np.stack([codes // size, codes % size], axis=1)
    return out if prompt is None else out[prompt[out[:, 0]] != prompt[out[:, 1]]]


def _gap(left: dict[str, Any], right: dict[str, Any]) -> Any:
    return jnp.abs(left["mean"][:, None] - right["mean"])


def _closeness(left: dict[str, Any], right: dict[str, Any]) -> Any:
    return -_gap(left, right)


def _distance_now(left: dict[str, Any], right: dict[str, Any]) -> Any:
    return distance("now", left, right)


def _odds_at_mean(left: dict[str, Any], right: dict[str, Any]) -> Any:
    probability = jax.nn.sigmoid(left["mean"][:, None] - right["mean"])
    return probability * (1.0 - probability) * distance("now", left, right)
