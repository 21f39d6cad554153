"""Objectives that read the predicted answer to each pair alone, scored once: how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tercet.designs.criteria.objective import OneShot
from tercet.designs.criteria.tile import Tile, TiledPool
from tercet.designs.pairs.answers import entropy, predictive
from tercet.designs.pairs.pair_objectives import OfPairs
from tercet.designs.pairs.pool import PairPool


@dataclass(frozen=True)
class MaxDifference(OfPairs, OneShot[PairPool]):
    """|E r_first - E r_second| (plus the order effect, where there is one): the surest answers.

    References
    ----------
    Shen, Sun, Ton (2025), Active Reward Modeling, arXiv 2502.04354 ("maxdiff"), as a baseline.
    """

    def scores(self, pool: PairPool, rng: np.random.Generator) -> Float[np.ndarray, " m"]:
        return np.asarray(np.abs(pool.difference.mean))

    def tile(self, pool: TiledPool) -> Tile[PairPool, np.ndarray] | None:
        return Tile(lambda _: pool.ranking(jnp.abs, {}, None, "mean"), self.of_others)


@dataclass(frozen=True)
class Entropy(OfPairs, OneShot[PairPool]):
    """Entropy of the answer at the posterior mean, H(p(E r)), in nats.

    With two answers the largest is the smallest |E r_first - E r_second|, which is how the paper's code picks
    ("entropy", "level set"). With ties or graded answers it is the entropy of all of them.

    References
    ----------
    Settles (2009), Active learning literature survey, section 3.1; Shen, Sun, Ton (2025), arXiv 2502.04354.
    """

    def scores(self, pool: PairPool, rng: np.random.Generator) -> Float[np.ndarray, " m"]:
        return entropy(pool.model.probabilities(pool.difference.mean, pool.sites))

    def tile(self, pool: TiledPool) -> Tile[PairPool, np.ndarray] | None:
        return Tile(lambda _: pool.ranking(_closeness, {}, None, "mean"), self.of_others)


@dataclass(frozen=True)
class PredictiveEntropy(OfPairs, OneShot[PairPool]):
    """Entropy of the answer with the posterior integrated out, H(E p), in nats.

    Unlike `Entropy` it counts the uncertainty of the rewards as well; `BALD` is this less the expected entropy given w.

    References
    ----------
    Houlsby, Huszár, Ghahramani, Lengyel (2011), arXiv 1112.5745, the first term of equation 2.
    """

    def scores(self, pool: PairPool, rng: np.random.Generator) -> Float[np.ndarray, " m"]:
        return entropy(predictive(pool.model, pool.sites, *pool.difference))


def _closeness(mean: Any) -> Any:
    return -jnp.abs(mean)
