"""What objectives about the answers to pairs have in common: they read candidates that are pairs, and refuse others."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from jaxtyping import Int

from tercet.designs.criteria.candidates import Candidates
from tercet.designs.criteria.objective import HasPool
from tercet.designs.pairs.draw_pool import DrawPool
from tercet.designs.pairs.pool import PairPool
from tercet.models.items.items import Items


class AbstractPairCandidates(Candidates):
    """Candidates that are pairs of items.

    Attributes
    ----------
    items, pairs : the candidates
    """

    items: Items
    pairs: Int[np.ndarray, "m 2"]

    @abc.abstractmethod
    def pool(self, posterior: Any, target: Any) -> PairPool:
        """These candidates under the Gaussian of the rewards."""

    @abc.abstractmethod
    def draw_pool(self, posterior: Any, draws: int) -> DrawPool:
        """These candidates under at most this many draws of a posterior."""


def as_pair_candidates(objective: object, candidates: HasPool) -> AbstractPairCandidates:
    """The candidates, where they are pairs; an error otherwise."""
    if not isinstance(candidates, AbstractPairCandidates):
        raise ValueError(f"{type(objective).__name__} is for pairs only; for other candidates use 'greedy D'.")
    return candidates


class OfPairs:
    """An objective that reads a `PairPool`."""

    def pool(self, candidates: HasPool, posterior: Any, target: Any) -> PairPool:
        """The candidates as this objective reads them."""
        return as_pair_candidates(self, candidates).pool(posterior, target)


class OfPairsByDraws:
    """An objective that reads a `DrawPool` of at most `draws` draws."""

    draws: int

    def pool(self, candidates: HasPool, posterior: Any, target: Any) -> DrawPool:
        """The candidates as this objective reads them."""
        return as_pair_candidates(self, candidates).draw_pool(posterior, self.draws)
