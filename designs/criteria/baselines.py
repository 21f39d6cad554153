"""Objectives of any candidates that are scored once: at random, and by posterior variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tercet.designs.criteria.objective import OneShot
from tercet.designs.criteria.pools import LinearPool, Pool
from tercet.designs.criteria.tile import Tile, TiledPool


@dataclass(frozen=True)
class Random(OneShot[Pool]):
    """Candidates at random: the baseline. Gains are uniform numbers without meaning."""

    def scores(self, pool: Pool, rng: np.random.Generator) -> Float[np.ndarray, " m"]:
        return rng.random(len(pool))


@dataclass(frozen=True)
class PosteriorVariance(OneShot[LinearPool]):
    """The posterior variance q = d' A d of the reward difference (of the surface).

    References
    ----------
    MacKay (1992), Information-based objective functions for active data selection, Neural Computation 4.
    """

    def scores(self, pool: LinearPool, rng: np.random.Generator) -> Float[np.ndarray, " m"]:
        return pool.variance

    def tile(self, pool: TiledPool) -> Tile[LinearPool, np.ndarray] | None:
        return Tile(lambda _: pool.ranking(_itself, {"now": pool.root}, float, "nothing"), self.of_others)


def _itself(square: Any) -> Any:
    return square
