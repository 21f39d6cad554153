"""The contract of an objective: what each candidate would add to a batch, given the picks before it.

Notation of all objectives: d is the row of a candidate (x_first - x_second for a pair, the basis of the loss surface at
a site), A the posterior covariance of the parameters, q = d' A d the variance of what a label measures (the logit of an
answer; the surface at the site), v the Fisher information of one label about it, p (1 - p) for Bradley-Terry, and
S = E[d d'] the second moment of the target rows (S = t t' where t' w is the risk).
"""

from __future__ import annotations

import abc
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from tercet.designs.criteria.pools import Pool
from tercet.designs.criteria.tile import Tile, TiledPool

P = TypeVar("P", bound=Pool)
S = TypeVar("S")
Part = slice | np.ndarray
"""Some of the candidates: a slice, or their positions."""
ALL = slice(None)
Pick = tuple[int, float]
"""Position of a candidate, and its gain."""


@runtime_checkable
class HasPool(Protocol):
    """What an objective needs of `Candidates`."""

    def pool(self, posterior: Any, target: Any) -> Any:
        """These candidates under a posterior."""
        ...


@runtime_checkable
class Picker(Protocol):
    """Greedy picks of one search, one by one: the only thing that changes while a search runs."""

    def best(self, free: np.ndarray) -> Pick | None:
        """The pick among the free candidates (booleans [m]); None ends the batch."""
        ...

    def take(self, index: int) -> None:
        """Candidate `index` has been picked."""
        ...


class Objective(abc.ABC, Generic[P, S]):
    """The value of a batch of candidates, as the sum of the gains of its picks.

    A subclass writes three methods, on a pool of m candidates and a state of its own:

        state = objective.begin(pool, rng)        # no pick yet
        gains = objective.score(state, some)      # what each candidate (or each of some) would add to the batch
        state = objective.update(state, index)    # candidate `index` is in the batch

    Objectives are frozen, and nothing writes into a state: `update` returns another one. A search finds the batch
    (`tercet.designs.criteria.search`); the two together are a `Criterion`. The other methods have defaults that always
    hold; an objective overrides those that it can do faster:

    - `pool`: another reading of the candidates than a linear Gaussian one (draws, for instance);
    - `choose`: the best candidate without the gains of all;
    - `remove`: the state without one of its picks, for exchange;
    - `stale_gains`: gains that are brought up to date only where they could be the best, for lazy greedy;
    - `batch_gain`: the gain of a whole batch;
    - `tile`: scores of all pairs of many items, which are never listed.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass that changes what is scored would inherit tiles that rank by something else.
        if {"begin", "score", "update", "gain", "order", "scores"} & set(vars(cls)) and "tile" not in vars(cls):
            cls.tile = Objective.tile  # type: ignore[method-assign]

    def pool(self, candidates: HasPool, posterior: Any, target: Any) -> P:
        """The candidates as this objective reads them."""
        pool: P = candidates.pool(posterior, target)
        return pool

    @abc.abstractmethod
    def begin(self, pool: P, rng: np.random.Generator) -> S:
        """The state before the first pick."""

    @abc.abstractmethod
    def score(self, state: S, some: Part = ALL) -> Float[np.ndarray, " b"]:
        """Gain of picking each candidate, or each of some, next."""

    @abc.abstractmethod
    def update(self, state: S, index: int) -> S:
        """The state after candidate `index` has been picked."""

    def choose(self, state: S, free: np.ndarray, price: np.ndarray | None = None) -> Pick | None:
        """The free candidate (booleans [m]) of the largest gain, or gain per price [m]; of equals the first.

        None ends the batch, where an objective finds nothing left to gain.
        """
        gains = self.score(state)
        worth = gains if price is None else gains / price
        index = int(np.where(free, worth, -np.inf).argmax())
        return index, float(gains[index])

    def remove(self, state: S, index: int) -> S | None:
        """The state as if candidate `index`, one of the picks, had not been picked; None: not known."""
        return None

    def stale_gains(self, state: S, block: int, memory: int) -> Picker | None:
        """Greedy picks that refresh `block` candidates at a time, only where they could be the best.

        Must give the picks of `choose` and `update`; `memory` bounds the bytes it keeps of picks that some candidates
        have not been updated for. None: `LazyGreedy` calls `score` on those candidates.
        """
        return None

    def batch_gain(self, pool: P, rng: np.random.Generator) -> float:
        """What all candidates of a pool gain together."""
        state, total = self.begin(pool, rng), 0.0
        for index in range(len(pool)):
            total += float(self.score(state, slice(index, index + 1))[0])
            state = self.update(state, index)
        return total

    def tile(self, pool: TiledPool) -> Tile[P, S] | None:
        """How this objective scores candidates that are too many to list; None where it needs a list of them.

        Belongs to the gain: a subclass that changes `begin`, `score` or `update` (`gain`, `scores`) has tiles only if
        it says which.
        """
        return None


class OneShot(Objective[P, np.ndarray]):
    """An objective whose gains do not depend on the picks before: batches may hold near duplicates."""

    @abc.abstractmethod
    def scores(self, pool: P, rng: np.random.Generator) -> Float[np.ndarray, " m"]:
        """Gain of each candidate."""

    def begin(self, pool: P, rng: np.random.Generator) -> np.ndarray:
        return self.scores(pool, rng)

    def score(self, state: np.ndarray, some: Part = ALL) -> Float[np.ndarray, " b"]:
        return state[some]

    def update(self, state: np.ndarray, index: int) -> np.ndarray:
        return state

    def of_others(self, pool: P, state: np.ndarray | None) -> np.ndarray:
        """The state of other candidates: their scores (drawn ones have no tiles)."""
        return self.scores(pool, np.random.default_rng(0))
