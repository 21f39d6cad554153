"""The contract of a search, and two that need nothing but gains: the best k at once, and greedy."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from tercet.designs.criteria.objective import Objective, Pick, Picker

S = TypeVar("S")
ROUNDING = 1e-12
"""What a budget may be exceeded by: sums of prices are rounded."""


class Limits(NamedTuple):
    """What a batch may hold: picks among `size` candidates, `budget` in all at these prices [m] (None: 1 each)."""

    size: int
    budget: float
    price: np.ndarray | None = None


class Picks(NamedTuple):
    """Positions [b] of the picks, and their gains [b] given the picks before them."""

    chosen: np.ndarray
    gains: np.ndarray


class Search(abc.ABC):
    """How a batch of large total gain is found. Small and frozen, like objectives.

    A subclass writes `run`. One that can work from the best few of candidates that are never listed writes `leaders`
    and `extend` as well.

    Attributes
    ----------
    sequential : whether a pick is scored given the picks before it
    """

    sequential: ClassVar[bool] = True

    @abc.abstractmethod
    def run(self, objective: Objective[Any, S], state: S, limits: Limits, rng: np.random.Generator) -> Picks:
        """The picks of a batch, `state` being that before the first."""

    def leaders(self, budget: int, shortlist: int) -> int | None:
        """How many leading candidates `extend` wants of those that are never listed; None: it needs a list of all."""
        return None

    def extend(self, objective: Objective[Any, S], state: S, limits: Limits, rest: float) -> tuple[Picks, S]:
        """Picks from the leading candidates, in the order of ties, for as long as none of the others can be better.

        Parameters
        ----------
        state : of the leading candidates, after the picks so far
        limits : how many of them there are, and how many picks are left
        rest : no other candidate gains more

        Returns
        -------
        At least one pick, and the state after the last.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a list of all candidates.")


@dataclass(frozen=True)
class TopK(Search):
    """The candidates of the largest gains, scored once: as published, batches may hold near duplicates."""

    sequential: ClassVar[bool] = False

    def run(self, objective: Objective[Any, S], state: S, limits: Limits, rng: np.random.Generator) -> Picks:
        gains = objective.score(state)
        worth = self.worth(gains, rng)
        if limits.price is None:
            chosen = np.argsort(-worth, kind="stable")[: int(limits.budget)]
        else:
            chosen = _affordable(np.argsort(-worth / limits.price, kind="stable"), limits.price, limits.budget)
        return Picks(chosen, gains[chosen])

    def worth(self, gains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What candidates are ranked by [m]."""
        return gains

    def leaders(self, budget: int, shortlist: int) -> int | None:
        return budget

    def extend(self, objective: Objective[Any, S], state: S, limits: Limits, rest: float) -> tuple[Picks, S]:
        return TopK.run(self, objective, state, limits, np.random.default_rng(0)), state


@dataclass(frozen=True)
class WeightedDraw(TopK):
    """Candidates drawn without replacement, each in proportion to its gain among those left.

    References
    ----------
    Efraimidis, Spirakis (2006), Information Processing Letters 97.
    """

    def worth(self, gains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return gains / rng.standard_exponential(len(gains))

    def leaders(self, budget: int, shortlist: int) -> int | None:
        return None


@dataclass(frozen=True)
class Greedy(Search):
    """The candidate of the largest gain (per price), again and again: no near duplicates in a batch.

    Parameters
    ----------
    shortlist : candidates that are scored anew for later picks, the best of the first (once they are used up, all
        others); None: all
    """

    shortlist: int | None = None

    def run(self, objective: Objective[Any, S], state: S, limits: Limits, rng: np.random.Generator) -> Picks:
        if self.shortlist is not None:
            return one_by_one(_Shortlisted(objective, state, limits, self.shortlist), limits)
        return one_by_one(Eager(objective, state, limits), limits)

    def leaders(self, budget: int, shortlist: int) -> int | None:
        return 1 if self.shortlist is None else None

    def extend(self, objective: Objective[Any, S], state: S, limits: Limits, rest: float) -> tuple[Picks, S]:
        picker = Eager(objective, state, limits)
        return one_by_one(picker, limits._replace(budget=1.0)), picker.state


GREEDY = Greedy()


def one_by_one(picker: Picker, limits: Limits, least: float = -np.inf) -> Picks:
    """Picks until the budget is spent, nothing is left to gain, or a pick after the first would gain below `least`."""
    chosen: list[int] = []
    gains: list[float] = []
    free, left = np.ones(limits.size, bool), float(limits.budget)
    while True:
        free &= (1.0 if limits.price is None else limits.price) <= left + ROUNDING
        pick = picker.best(free) if free.any() else None
        if pick is None or (chosen and pick[1] < least):
            return Picks(np.array(chosen, dtype=np.int64), np.array(gains))
        index, gain = pick
        chosen.append(index)
        gains.append(gain)
        free[index] = False
        left -= 1.0 if limits.price is None else float(limits.price[index])
        picker.take(index)


class Eager:
    """All candidates are scored anew for each pick."""

    def __init__(self, objective: Objective[Any, Any], state: Any, limits: Limits) -> None:
        self.objective, self.state, self.price = objective, state, limits.price

    def best(self, free: np.ndarray) -> Pick | None:
        return self.objective.choose(self.state, free, self.price)

    def take(self, index: int) -> None:
        self.state = self.objective.update(self.state, index)


class _Shortlisted(Eager):
    """The best of the first pick are scored anew for later ones, and once none of them is left, all others."""

    def __init__(self, objective: Objective[Any, Any], state: Any, limits: Limits, size: int) -> None:
        super().__init__(objective, state, limits)
        self.size, self.listed = size, np.ones(limits.size, bool)

    def best(self, free: np.ndarray) -> Pick | None:
        left = np.flatnonzero(free & self.listed)
        left = left if len(left) else np.flatnonzero(free)
        gains = self.objective.score(self.state, left)
        worth = gains if self.price is None else gains / self.price[left]
        if self.listed.all() and len(left) > self.size:
            self.listed[:] = False
            self.listed[left[np.argsort(-worth, kind="stable")[: self.size]]] = True
        best = int(worth.argmax())
        return int(left[best]), float(gains[best])


def _affordable(order: np.ndarray, price: np.ndarray, budget: float) -> np.ndarray:
    """Those of the candidates, in this order, that the budget still allows when their turn comes."""
    chosen, left = [], budget
    for index in order.tolist():
        if price[index] <= left + ROUNDING:
            chosen.append(index)
            left -= float(price[index])
    return np.array(chosen, dtype=np.int64)
