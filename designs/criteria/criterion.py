"""The contract of a criterion: a small frozen object with `begin`, `score` and `update`.

Notation of all criteria: d = x_first - x_second, A the posterior covariance, q = d' A d the variance of the logit of an
answer, v = p (1 - p) the information of one answer (its counterpart for other likelihoods), S = E[d d'] over target
pairs. For sites d is the basis of the loss surface at the site, v the information of one loss, S = t t' with t' w the
risk.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tercet.designs.criteria.candidates import Candidates
from tercet.designs.criteria.pools import Pool
from tercet.designs.pairs.pair_candidates import PairCandidates


class State(NamedTuple):
    """What a criterion that scores once knows of a pool."""

    pool: Pool
    scores: np.ndarray


@dataclass(frozen=True)
class Criterion(abc.ABC):
    """A rule that scores candidates. `sequential` ones score anew after each pick, others once."""

    name: ClassVar[str] = ""
    sequential: ClassVar[bool] = False

    def pool(self, candidates: Candidates, posterior: Any, target: Any) -> Pool:
        """The candidates as this criterion reads them."""
        return candidates.pool(posterior, target)

    @abc.abstractmethod
    def begin(self, pool: Any, rng: np.random.Generator) -> Any:
        """The state before the first pick."""

    @abc.abstractmethod
    def score(self, state: Any) -> np.ndarray:
        """Gain [m] of asking each candidate next."""

    @abc.abstractmethod
    def update(self, state: Any, index: int) -> Any:
        """The state after candidate `index` has been picked."""

    def worth(self, state: Any, scores: np.ndarray) -> np.ndarray:
        """What candidates are ranked by [m]: their scores, unless the rule draws them at random."""
        return scores

    def choose(self, state: Any, free: np.ndarray, price: np.ndarray | None) -> tuple[int, float] | None:
        """The next pick among the free candidates [m] (ties: the lowest index) and its gain; None ends the batch."""
        scores = self.score(state)
        worth = self.worth(state, scores)
        worth = worth if price is None else worth / price
        index = int(np.where(free, worth, -np.inf).argmax())
        return index, float(scores[index])

    def batch(self, state: Any, budget: int) -> tuple[np.ndarray, np.ndarray] | None:
        """A whole batch and its gains, where the rule has a faster way to the same picks than one `choose` a pick."""
        return None

    def revise(
        self, state: Any, chosen: np.ndarray, gains: np.ndarray, price: np.ndarray | None, budget: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """A whole batch and its gains once it is full, improved where the rule knows how; `state` is the first."""
        return chosen, gains

    def gain_of(self, state: Any, index: int) -> float:
        """The gain of one candidate."""
        return float(self.score(state)[index])

    def batch_gain(self, pool: Any, rng: np.random.Generator) -> float:
        """What all candidates of a pool gain together."""
        state, total = self.begin(pool, rng), 0.0
        for index in range(len(pool)):
            total += self.gain_of(state, index)
            state = self.update(state, index)
        return total


@dataclass(frozen=True)
class OneShot(Criterion):
    """Scores once and takes the best: batches may hold near twins."""

    @abc.abstractmethod
    def _scores(self, pool: Any, rng: np.random.Generator) -> np.ndarray: ...

    def begin(self, pool: Pool, rng: np.random.Generator) -> State:
        return State(pool, self._scores(pool, rng))

    def score(self, state: State) -> np.ndarray:
        return state.scores

    def update(self, state: State, index: int) -> State:
        return state


def as_pair_candidates(criterion: Criterion, candidates: Candidates) -> PairCandidates:
    """The candidates, where they are pairs; an error otherwise."""
    if not isinstance(candidates, PairCandidates):
        raise ValueError(f"criterion {criterion.name!r} is for pairs only; for other candidates use 'greedy D'.")
    return candidates
