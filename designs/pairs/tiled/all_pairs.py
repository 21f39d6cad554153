"""Batches chosen from all pairs of all items, which are never listed: one pass of tiles for each shortlist."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tercet.designs.criteria.criterion import Criterion
from tercet.designs.criteria.search import Limits, Picks
from tercet.designs.criteria.tile import Reads, Tile, TiledPool
from tercet.designs.pairs.candidates import pair_code
from tercet.designs.pairs.pool import PairPool
from tercet.designs.pairs.tiled.pair_scores import AllPairs, distance, tile_score
from tercet.designs.pairs.tiled.sums_over_pairs import information_of_all, scatter_of_all
from tercet.designs.pairs.tiled.tiles import TileScore, Tiling

NORMALS = ((1.0532806, 0.19005553), (1.62306514, 0.57687113), (2.57101441, 0.23307334))
"""Standard deviations and weights of the mixture of three normal densities nearest to the logistic density."""
OFF = 7.2e-5  # by at most so much; averaging over rewards only lowers it


@dataclass(frozen=True, eq=False)
class AllPairsPool(TiledPool):
    """All pairs of items under a posterior of Bradley-Terry without an order effect.

    Parameters
    ----------
    candidates : which pairs
    make_sample : makes a pool of some of them whose features stay where they are; called where an objective has tiles
    tiling : sizes of tiles
    """

    candidates: AllPairs
    make_sample: Callable[[], PairPool]
    tiling: Tiling

    @cached_property
    def sample(self) -> PairPool:
        """A pool of some of the candidates that knows all items."""
        return self.make_sample()

    @property
    def covariance(self) -> Float[np.ndarray, "p p"]:
        """Posterior covariance A of the parameters."""
        return self.sample.covariance

    @property
    def root(self) -> Float[np.ndarray, "p k"]:
        """R with R R' = A."""
        return self.sample.root

    @property
    def target_root(self) -> Float[np.ndarray, "p p"]:
        """R with R R' = S, the second moment of the target rows."""
        return self.sample.target_root

    @staticmethod
    def most_information(variance: float) -> float:
        """Expected p (1 - p) at equal expected rewards, the largest at this variance; falls with it."""
        return sum(weight / math.sqrt(2.0 * math.pi * (sd**2 + variance)) for sd, weight in NORMALS)

    def gram(self, reads: Reads) -> Float[np.ndarray, "p p"] | None:
        """Sum over all candidates of v d d'; None where they would have to be listed, or features are not in memory."""
        if self.candidates.mask is not None:
            return None
        if reads == "nothing":
            return scatter_of_all(self.candidates, self.sample)
        if reads != "information at the mean" or not self.sample.rewards.features.in_memory:
            return None
        return information_of_all(self.candidates, self.sample, self.tiling.side)

    def ranking(
        self,
        score: Callable[..., Any],
        roots: Mapping[str, np.ndarray],
        ceiling: Callable[[float], float] | None,
        reads: Reads = "expected information",
    ) -> TileScore:
        """A score of every pair, see `TiledPool.ranking`."""
        function = PairScore(score, tuple(roots), reads)
        if reads != "expected information":
            return tile_score(self.sample, function, dict(roots), ceiling)
        return tile_score(self.sample, function, {"start": self.root, **roots}, ceiling, OFF)


@dataclass(frozen=True)
class PairScore:
    """A score of the pairs of a tile. Equal ones are compiled once: hashed by what they are."""

    score: Callable[..., Any]
    names: tuple[str, ...]
    reads: Reads

    def __call__(self, left: dict[str, Any], right: dict[str, Any]) -> Any:
        """Scores [a, b] of two blocks of items."""
        squares = [distance(name, left, right) for name in self.names]
        if self.reads == "nothing":
            return self.score(*squares)
        gap = left["mean"][:, None] - right["mean"]
        if self.reads == "mean":
            return self.score(gap, *squares)
        if self.reads == "expected information":
            return self.score(expected_information(gap, distance("start", left, right)), *squares)
        probability = jax.nn.sigmoid(gap)
        return self.score(probability * (1.0 - probability), *squares)


def expected_information(mean: Any, variance: Any) -> Any:
    """E p (1 - p) of Bradley-Terry, to within `OFF`: the logistic density as normal ones, each widened."""
    total: Any = 0.0  # weakly typed: 32-bit arrays stay so
    square = -0.5 * jnp.square(mean)
    for sd, weight in NORMALS:
        narrow = jax.lax.rsqrt(sd**2 + variance)
        total = total + weight / math.sqrt(2.0 * math.pi) * jnp.exp(square * narrow * narrow) * narrow
    return total


def choose_from_all(
    rule: Criterion, tile: Tile[PairPool, Any], pool: AllPairsPool, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs [b, 2] and gains [b] that a criterion would choose from a list of all pairs (ties: the first pair).

    A pass of tiles brings the pairs that lead after the picks so far, and the search goes on among these, their gains
    exact, for as long as no other pair can be better.

    Parameters
    ----------
    rule : the criterion
    tile : of its objective, for these pairs
    pool : all pairs
    budget : at most the number of pairs
    """
    pairs, gains, state = np.empty((0, 2), np.int64), np.empty(0), None
    while len(pairs) < budget:
        excluded = pairs if pool.candidates.exclude is None else np.concatenate([pool.candidates.exclude, pairs])
        wanted = rule.search.leaders(budget - len(pairs), pool.tiling.shortlist)
        assert wanted is not None
        best = replace(pool.candidates, exclude=excluded).best(tile.ranking(state), wanted, pool.tiling)
        leaders = best.pairs[np.argsort(pair_code(best.pairs, len(pool.candidates.items)), kind="stable")]
        state = tile.state(pool.sample.of(leaders), state)
        limits = Limits(len(leaders), budget - len(pairs))
        picks: Picks
        picks, state = rule.search.extend(rule.objective, state, limits, tile.gain(best.rest))
        pairs, gains = np.concatenate([pairs, leaders[picks.chosen]]), np.append(gains, picks.gains)
    return pairs, gains
