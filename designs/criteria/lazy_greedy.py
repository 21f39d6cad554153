"""Lazy greedy search, for gains that only fall: candidates are scored anew only where they could be the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tercet.designs.criteria.objective import Objective, Pick
from tercet.designs.criteria.search import GREEDY, Eager, Limits, Picks, Search, one_by_one

S = TypeVar("S")


@dataclass(frozen=True)
class LazyGreedy(Search):
    """Greedy picks of an objective whose gains never rise as the batch grows (submodular ones): the picks of `Greedy`.

    A gain is then bounded by what it was when the candidate was last scored, and a candidate whose bound is below the
    best gain need not be scored.

    Parameters
    ----------
    block : candidates that are scored anew together
    memory : bytes that may be kept of picks that some candidates have not been updated for, for objectives that
        update gains (`Objective.stale_gains`)

    References
    ----------
    Minoux (1978), Optimization Techniques, Springer, 234-243.
    """

    block: int = 4096
    memory: int = 128_000_000

    def run(self, objective: Objective[Any, S], state: S, limits: Limits, rng: np.random.Generator) -> Picks:
        updated = objective.stale_gains(state, self.block, self.memory)
        if updated is None:
            return one_by_one(_StaleGains(objective, state, limits, self.block), limits)
        if limits.price is None:
            return one_by_one(updated, limits)
        return GREEDY.run(objective, state, limits, rng)  # those are ranked by gain, not by gain per price

    def leaders(self, budget: int, shortlist: int) -> int | None:
        return shortlist

    def extend(self, objective: Objective[Any, S], state: S, limits: Limits, rest: float) -> tuple[Picks, S]:
        picks = one_by_one(picker := Eager(objective, state, limits), limits, least=rest)
        return picks, picker.state


class _StaleGains:
    """Gains of all candidates, each as it was when it was last scored: a bound on what it is."""

    def __init__(self, objective: Objective[Any, Any], state: Any, limits: Limits, block: int) -> None:
        self.objective, self.state, self.block = objective, state, block
        self.price = np.ones(limits.size) if limits.price is None else limits.price
        self.bound = np.full(limits.size, np.inf)

    def best(self, free: np.ndarray) -> Pick | None:
        order = np.argsort(-np.where(free, self.bound / self.price, -np.inf), kind="stable")
        best, index = -np.inf, -1
        for start in range(0, len(order), self.block):
            some = order[start : start + self.block]
            if not free[some[0]] or self.bound[some[0]] / self.price[some[0]] < best:
                break
            some = np.sort(some[free[some]])
            self.bound[some] = self.objective.score(self.state, some)
            worth = self.bound[some] / self.price[some]
            top = int(worth.argmax())
            if worth[top] > best or (worth[top] == best and some[top] < index):
                best, index = float(worth[top]), int(some[top])
        return index, float(self.bound[index])

    def take(self, index: int) -> None:
        self.state = self.objective.update(self.state, index)
