"""Fedorov exchange: a batch, improved by swapping single picks until no swap helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tercet.designs.criteria.objective import Objective
from tercet.designs.criteria.search import GREEDY, ROUNDING, Limits, Picks, Search

S = TypeVar("S")
BETTER = 1e-9
"""Share of its gain by which a swap must be better: smaller differences are rounding."""


@dataclass(frozen=True)
class Exchange(Search):
    """From a first batch, each pick in turn gives way to the best candidate in its place.

    Sweeps over the batch until none changes it, or `sweeps` of them. The batch never gets worse than the first one, and
    no single swap improves where it ends; that bounds nothing: see `optimality_gap`. With costs a pick gives way to
    those that the budget still allows. Gains are those of the picks one after the other, the largest first.

    Parameters
    ----------
    sweeps : at most
    start : search of the first batch

    References
    ----------
    Fedorov (1972), Theory of Optimal Experiments, section 3.2; Cook, Nachtsheim (1980), Technometrics 22, for sweeps
    over one pick at a time.
    """

    sweeps: int = 20
    start: Search = GREEDY

    def run(self, objective: Objective[Any, S], state: S, limits: Limits, rng: np.random.Generator) -> Picks:
        best = self.start.run(objective, state, limits, rng)
        for _ in range(self.sweeps if len(best.chosen) else 0):
            batch = _best_first(objective, state, _sweep(objective, state, best.chosen.tolist(), limits))
            if batch.gains.sum() <= best.gains.sum() * (1.0 + BETTER):
                break
            best = batch
        return best


def _sweep(objective: Objective[Any, S], start: S, batch: list[int], limits: Limits) -> list[int]:
    """The batch after each of its picks has been up for exchange once."""
    full = _after(objective, start, batch)
    free, price = np.ones(limits.size, bool), np.ones(limits.size) if limits.price is None else limits.price
    free[batch] = False
    for position, old in enumerate(batch):
        without = objective.remove(full, old)
        if without is None:
            without = _after(objective, start, [index for index in batch if index != old])
        left = limits.budget - price[batch].sum() + price[old] + ROUNDING
        gains = objective.score(without)
        new = int(np.where(free & (price <= left), gains, -np.inf).argmax())
        if free[new] and price[new] <= left and gains[new] > gains[old] * (1.0 + BETTER):
            batch[position], free[old], free[new] = new, True, False
            full = objective.update(without, new)
    return batch


def _after(objective: Objective[Any, S], state: S, batch: Sequence[int]) -> S:
    for index in batch:
        state = objective.update(state, index)
    return state


def _best_first(objective: Objective[Any, S], state: S, batch: Sequence[int]) -> Picks:
    """The same picks in greedy order."""
    chosen, gains, left = [], [], np.sort(batch)
    while len(left):
        scores = objective.score(state, left)
        best = int(scores.argmax())
        chosen.append(int(left[best]))
        gains.append(float(scores[best]))
        left = np.delete(left, best)
        state = objective.update(state, chosen[-1])
    return Picks(np.array(chosen, dtype=np.int64), np.array(gains))
