"""Sequential criteria under a Gaussian posterior: each pick takes its expected information off the covariance."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from tercet.designs.criteria.criterion import Criterion
from tercet.designs.criteria.lazy_greedy import LazyGreedy
from tercet.designs.criteria.pools import LinearPool
from tercet.models._blocks import in_blocks


class GreedyState(NamedTuple):
    """State of the sequential criteria: covariance A, q = d' A d, c = d' A S A d, information v."""

    pool: LinearPool
    covariance: np.ndarray
    q: np.ndarray
    c: np.ndarray
    v: np.ndarray


@dataclass(frozen=True)
class Greedy(Criterion, abc.ABC):
    """Sequential: after a pick A becomes A - g u u', u = A d, g = v / (1 + v q), at the cost of items, not pairs.

    Parameters
    ----------
    plug_in : bool
        Use the information at the posterior mean instead of its average over the posterior (worse in studies).
    """

    plug_in: bool = False
    sequential = True
    targeted: ClassVar[bool] = False

    def _root(self, pool: LinearPool) -> np.ndarray:
        """R with R R' = S."""
        return pool.target_root

    def _toward(self, pool: LinearPool, direction: np.ndarray) -> np.ndarray:
        """Product S . direction."""
        return pool.toward(direction)

    def begin(self, pool: LinearPool, rng: np.random.Generator) -> GreedyState:
        covariance = pool.covariance
        v = pool.information if self.plug_in else pool.expected_information
        c = np.empty(0)
        if self.targeted:
            c = pool.squared_norms(covariance @ self._root(pool))
        return GreedyState(pool, covariance, pool.variance, c, v)

    def update(self, state: GreedyState, index: int) -> GreedyState:
        return self.moved(state, index, 1.0)

    def moved(self, state: GreedyState, index: int, sign: float) -> GreedyState:
        """The state with candidate `index` asked (sign 1), or with one that was asked taken back (sign -1)."""
        pool, covariance, q, c, v = state
        u = covariance @ pool.row(index)
        g = sign * v[index] / (1.0 + sign * v[index] * q[index])
        su = self._toward(pool, u) if self.targeted else u
        step = _Step(
            g, 0.5 * g * float(u @ su), pool.levels(u), pool.levels(covariance @ su) if self.targeted else None
        )
        after = GreedyState(pool, covariance - g * np.outer(u, u), np.empty_like(q), np.empty_like(c), v)
        in_blocks(lambda part: _move(state, after, step, part), len(q))
        return after

    def choose(self, state: GreedyState, free: np.ndarray, price: np.ndarray | None) -> tuple[int, float] | None:
        best = in_blocks(lambda part: self._best(state, free, price, part), len(free))
        index = -max(best)[1]
        return index, self.gain_of(state, index)

    def _best(self, state: GreedyState, free: np.ndarray, price: np.ndarray | None, part: slice) -> tuple[float, int]:
        """The worth of the best free candidate of a part, and minus its place: of equals the first is the largest."""
        worth = self._order(state, part) if price is None else self.gains(state, part) / price[part]
        worth[~free[part]] = -np.inf
        place = int(worth.argmax())
        return float(worth[place]), -(part.start + place)

    def gain_of(self, state: GreedyState, index: int) -> float:
        return float(self.gains(state, slice(index, index + 1))[0])

    def score(self, state: GreedyState) -> np.ndarray:
        return np.concatenate([np.empty(0), *in_blocks(lambda part: self.gains(state, part), len(state.q))])

    @abc.abstractmethod
    def gains(self, state: GreedyState, part: slice) -> np.ndarray:
        """Gain [b] of asking each candidate of a part next: a new array."""

    def _order(self, state: GreedyState, part: slice) -> np.ndarray:
        """A new array [b] that grows with the gain."""
        return self.gains(state, part)


class _Step(NamedTuple):
    """What takes the candidates from one state to the next: g, g u'S u / 2, and the levels of u and of A S u."""

    g: float
    bend: float
    along_u: np.ndarray
    along_y: np.ndarray | None


# Not inside `moved`: type checks of tests would be made anew for each pick.
def _move(before: GreedyState, after: GreedyState, step: _Step, part: slice) -> None:
    """Fill q and c of a part of the candidates, in place: a million candidates are memory traffic."""
    t = before.pool.along(step.along_u, part)
    if step.along_y is not None:
        y = before.pool.along(step.along_y, part)
        y -= step.bend * t
        y *= t
        y *= 2.0 * step.g
        np.maximum(np.subtract(before.c[part], y, out=y), 0.0, out=after.c[part])
    t *= t
    t *= step.g
    np.maximum(np.subtract(before.q[part], t, out=t), 0.0, out=after.q[part])


@dataclass(frozen=True)
class GreedyD(Greedy):
    """Greedy Bayesian D-optimality: gain log(1 + v q), the fall of the log volume of the posterior.

    References
    ----------
    Chaloner and Verdinelli (1995), Statistical Science 10, section 2.2; Krause and Guestrin (2005), UAI.
    """

    name = "greedy D"

    def batch(self, state: GreedyState, budget: int) -> tuple[np.ndarray, np.ndarray] | None:
        lazy = LazyGreedy(state.pool, state.covariance, state.q, state.v)  # gains only fall
        picks = [lazy.pick() for _ in range(budget)]
        chosen = np.array([index for index, _ in picks], dtype=np.int64)
        worth = np.array([worth for _, worth in picks], dtype=np.float64)
        return chosen, self.gains(state._replace(q=worth, v=np.ones(budget)), slice(None))

    def gains(self, state: GreedyState, part: slice) -> np.ndarray:
        return np.log1p(self._order(state, part))

    def _order(self, state: GreedyState, part: slice) -> np.ndarray:
        return state.v[part] * state.q[part]


@dataclass(frozen=True)
class BatchBALD(GreedyD):
    """BatchBALD in its Gaussian form: gain log(1 + v q) / 2, summing to log det(I + V^1/2 D A D' V^1/2) / 2 of a batch.

    That is the information in nats that all answers of the batch hold together about the parameters, were each answer
    its logit plus normal noise of variance 1 / v. By the matrix determinant lemma the picks are those of "greedy D", at
    half its gains; v is the information averaged over the posterior. "BatchBALD (joint entropy)" makes no Gaussian
    assumption; while posterior sds of a logit are up to 1 it finds no better batch (of 8 and 9 pairs: this one holds 99
    to 101 % of the joint information of that one, and its gains are right to 1 %).

    References
    ----------
    Kirsch, van Amersfoort, Gal (2019), BatchBALD, NeurIPS; Holzmüller, Zaverkin, Kästner, Steinwart (2023), JMLR 24,
    section 4.1 (the log-determinant form).
    """

    name = "BatchBALD"

    def gains(self, state: GreedyState, part: slice) -> np.ndarray:
        return 0.5 * super().gains(state, part)


@dataclass(frozen=True)
class GreedyV(Greedy):
    """Greedy and target-aware (V- or I-optimal): gain v d' A S A d / (1 + v q).

    The gain is the fall of the average variance of the reward differences the model will be used on; for sites, of the
    variance of the risk at the test sites.

    References
    ----------
    Chaloner and Verdinelli (1995), section 2.3; Atkinson, Donev, Tobias (2007), Optimum Experimental Designs, 10.
    """

    name = "greedy V"
    targeted = True

    def gains(self, state: GreedyState, part: slice) -> np.ndarray:
        fall, spread = state.v[part] * state.c[part], state.v[part] * state.q[part]
        spread += 1.0
        return np.divide(fall, spread, out=fall)


@dataclass(frozen=True)
class GreedyA(GreedyV):
    """Greedy Bayesian A-optimality: gain v d' A A d / (1 + v q), the fall of the trace of A.

    "greedy V" with S = I: every parameter counts alike, whatever the scale of its feature and whether or not targets
    depend on it. `target` plays no part.

    References
    ----------
    Chaloner and Verdinelli (1995), Statistical Science 10, section 2.3.
    """

    name = "greedy A"

    def _root(self, pool: LinearPool) -> np.ndarray:
        return np.eye(len(pool.covariance))

    def _toward(self, pool: LinearPool, direction: np.ndarray) -> np.ndarray:
        return direction
