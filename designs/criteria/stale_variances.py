"""Variances of candidates that are updated for the picks so far only where the candidate could be the best."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tercet.designs.criteria.pools import LinearPool


class StaleVariances:
    """Candidates in blocks, the most promising first, each block with a bound on its v q.

    A pick lowers every q, so that a block whose best v q was below the best of another cannot hold the next pick, and
    need not be updated. Each candidate is updated for all picks in their order before it is picked: picks and gains are
    those of updates after each pick, to the last digit.

    Parameters
    ----------
    pool : of m candidates
    covariance, q, v : before the first pick; A [p, p], q = d' A d [m], information [m]
    gain : of v q; grows
    block : candidates that are updated together
    memory : bytes that may be kept of picks that some blocks are not updated for (each is a number an item)
    """

    def __init__(
        self, pool: LinearPool, *, covariance: np.ndarray, q: np.ndarray, v: np.ndarray,
        gain: Callable[[float], float], block: int, memory: int,
    ) -> None:  # fmt: skip
        self.order = np.argsort(-(v * q), kind="stable")
        self.pool, self.covariance, self.gain, self.memory = pool, covariance, gain, memory
        self.q, self.v, self.free = q[self.order], v[self.order], np.ones(len(q), bool)
        self.parts = [slice(start, min(start + block, len(q))) for start in range(0, len(q), block)]
        self.applied = np.zeros(len(self.parts), int)  # number of the updates below that each block has had
        self.bound = np.array([self._largest(part) for part in self.parts])
        self.updates: list[tuple[float, np.ndarray]] = []
        self.leader = -1  # rank in `order` of the candidate that `best` found

    def best(self, free: np.ndarray) -> tuple[int, float]:
        """The candidate with the largest v q (of equals the first), and its gain."""
        while True:
            top = float(self.bound.max())
            leading = np.flatnonzero(self.bound == top)
            stale = leading[self.applied[leading] < len(self.updates)]
            if len(stale) == 0:
                break
            for block in stale.tolist():
                self._update(block)
        equals = np.concatenate([self._ranks(self.parts[block], top) for block in leading.tolist()])
        self.leader = int(equals[self.order[equals].argmin()])
        return int(self.order[self.leader]), self.gain(top)

    def take(self, index: int) -> None:
        """The candidate that `best` found is picked."""
        rank = self.leader
        u = self.covariance @ self.pool.row(index)
        g = float(self.v[rank]) / (1.0 + float(self.v[rank] * self.q[rank]))
        self.covariance = self.covariance - g * np.outer(u, u)
        self.free[rank] = False
        self.updates.append((g, self.pool.levels(u)))
        if len(self.updates) * self.updates[-1][1].nbytes > self.memory:
            for block in range(len(self.parts)):
                self._update(block)
            self.updates.clear()
            self.applied[:] = 0

    def _update(self, block: int) -> None:
        part = self.parts[block]
        candidates = self.order[part]
        for g, levels in self.updates[self.applied[block] :]:
            t = self.pool.along(levels, candidates)
            t *= t
            t *= g
            np.maximum(np.subtract(self.q[part], t, out=t), 0.0, out=self.q[part])
        self.applied[block], self.bound[block] = len(self.updates), self._largest(part)

    def _largest(self, part: slice) -> float:
        return float(np.max(self.v[part] * self.q[part], where=self.free[part], initial=-np.inf))

    def _ranks(self, part: slice, worth: float) -> np.ndarray:
        ranks: np.ndarray = part.start + np.flatnonzero(self.free[part] & (self.v[part] * self.q[part] == worth))
        return ranks
