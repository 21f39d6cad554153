"""Fedorov exchange: a greedy batch, improved by swapping single picks until no swap helps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercet.designs.criteria.greedy import Greedy, GreedyD, GreedyState, GreedyV

BETTER = 1e-9
"""Share of its gain by which a swap must be better: smaller differences are rounding."""


@dataclass(frozen=True)
class Exchange(Greedy):
    """From the greedy batch, each pick in turn is taken back and the best candidate asked in its place.

    Sweeps over the batch until none changes it, or `sweeps` of them. The batch never gets worse than the greedy one,
    and no single swap improves where it ends; that bounds nothing: see `optimality_gap`. With costs a pick gives way to
    those that the budget still allows. Gains are those of the picks one after the other.

    References
    ----------
    Fedorov (1972), Theory of Optimal Experiments, section 3.2; Cook, Nachtsheim (1980), Technometrics 22, for sweeps
    over one pick at a time.
    """

    sweeps: int = 20

    def revise(
        self, state: GreedyState, chosen: np.ndarray, gains: np.ndarray, price: np.ndarray | None, budget: float
    ) -> tuple[np.ndarray, np.ndarray]:
        batch, total = chosen.tolist(), float(gains.sum())
        cost = np.ones(len(state.q)) if price is None else price
        for _ in range(self.sweeps):
            swapped = self._sweep(self._after(state, batch), list(batch), cost, budget)
            swapped, after = self._best_first(state, swapped)
            if after.sum() <= total * (1.0 + BETTER):
                break
            batch, gains, total = swapped, after, float(after.sum())
        return np.array(batch, dtype=np.int64), gains

    def _sweep(self, full: GreedyState, batch: list[int], cost: np.ndarray, budget: float) -> list[int]:
        """The batch after each of its picks has been up for exchange once; `full` knows all of them."""
        free = np.ones(len(full.q), dtype=bool)
        free[batch] = False
        for place, old in enumerate(batch):
            without = self.moved(full, old, -1.0)
            left = budget - cost[batch].sum() + cost[old] + 1e-12
            scores = self.score(without)
            new = int(np.where(free & (cost <= left), scores, -np.inf).argmax())
            if free[new] and cost[new] <= left and scores[new] > scores[old] * (1.0 + BETTER):
                batch[place], free[old], free[new] = new, True, False
                full = self.update(without, new)
        return batch

    def _after(self, state: GreedyState, batch: list[int]) -> GreedyState:
        for index in batch:
            state = self.update(state, index)
        return state

    def _best_first(self, state: GreedyState, batch: list[int]) -> tuple[list[int], np.ndarray]:
        """The same picks in greedy order, and the gain of each given those before."""
        order, gains, left = [], [], sorted(batch)
        while left:
            scores = self.score(state)[left]
            best = int(scores.argmax())
            gains.append(float(scores[best]))
            order.append(left.pop(best))
            state = self.update(state, order[-1])
        return order, np.array(gains)


@dataclass(frozen=True)
class ExchangeD(Exchange, GreedyD):
    """Fedorov exchange of the objective of `GreedyD`: log det of the posterior precision.

    References
    ----------
    Fedorov (1972), Theory of Optimal Experiments, section 3.2; Cook, Nachtsheim (1980), Technometrics 22.
    """

    name = "Fedorov exchange D"


@dataclass(frozen=True)
class ExchangeV(Exchange, GreedyV):
    """Fedorov exchange of the objective of `GreedyV`: the average variance over target pairs.

    References
    ----------
    Fedorov (1972), Theory of Optimal Experiments, section 3.2; Cook, Nachtsheim (1980), Technometrics 22.
    """

    name = "Fedorov exchange V"
