"""Greedy picks where gains only fall: candidates are brought up to date when they could be the best, and no sooner."""

from __future__ import annotations

from typing import Any

import numpy as np

BLOCK = 4096
"""Candidates that are brought up to date together."""
MEMORY = 128_000_000  # bytes of what candidates have not heard of: each pick is a number an item


class LazyGreedy:
    """Candidates in blocks, the most promising first, each with a bound on its v q.

    What only falls is bounded by what it was: a block whose best was below the best of another need not hear of the
    picks since. Every candidate hears of all of them in order before it is picked, so that picks and gains are those of
    updates after each pick, to the last digit (Minoux, 1978, Optimization Techniques, Springer, 234-243).

    Parameters
    ----------
    pool : LinearPool of m candidates
    covariance, q, v : at the start; A [p, p], q = d' A d [m], information [m]
    """

    def __init__(self, pool: Any, covariance: np.ndarray, q: np.ndarray, v: np.ndarray) -> None:
        self.order = np.argsort(-(v * q), kind="stable")
        self.pool, self.covariance = pool, covariance
        self.q, self.v, self.free = q[self.order], v[self.order], np.ones(len(q), bool)
        self.parts = [slice(start, min(start + BLOCK, len(q))) for start in range(0, len(q), BLOCK)]
        self.heard = np.zeros(len(self.parts), int)
        self.bound = np.array([self._best(part) for part in self.parts])
        self.steps: list[tuple[float, np.ndarray]] = []

    def pick(self) -> tuple[int, float]:
        """The candidate with the largest v q (of equals the first), and its v q; it is taken."""
        while True:
            top = float(self.bound.max())
            leading = np.flatnonzero(self.bound == top)
            behind = leading[self.heard[leading] < len(self.steps)]
            if len(behind) == 0:
                break
            for block in behind.tolist():
                self._hear(block)
        places = np.concatenate([self._places(self.parts[block], top) for block in leading.tolist()])
        place = int(places[self.order[places].argmin()])
        self._take(place, top)
        return int(self.order[place]), top

    def _take(self, place: int, worth: float) -> None:
        u = self.covariance @ self.pool.row(int(self.order[place]))
        g = float(self.v[place]) / (1.0 + worth)
        self.covariance = self.covariance - g * np.outer(u, u)
        self.free[place] = False
        self.steps.append((g, self.pool.levels(u)))
        if len(self.steps) * self.steps[-1][1].nbytes > MEMORY:
            for block in range(len(self.parts)):
                self._hear(block)
            self.steps.clear()
            self.heard[:] = 0

    def _hear(self, block: int) -> None:
        """Bring one block up to date."""
        part = self.parts[block]
        who = self.order[part]
        for g, levels in self.steps[self.heard[block] :]:
            t = self.pool.along(levels, who)
            t *= t
            t *= g
            np.maximum(np.subtract(self.q[part], t, out=t), 0.0, out=self.q[part])
        self.heard[block], self.bound[block] = len(self.steps), self._best(part)

    def _best(self, part: slice) -> float:
        return float(np.max(self.v[part] * self.q[part], where=self.free[part], initial=-np.inf))

    def _places(self, part: slice, worth: float) -> np.ndarray:
        return part.start + np.flatnonzero(self.free[part] & (self.v[part] * self.q[part] == worth))
