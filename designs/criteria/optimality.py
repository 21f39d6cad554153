"""D-, A- and V-optimality under a Gaussian posterior: each pick takes its expected information off the covariance."""

from __future__ import annotations

import abc
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from tercet.designs.criteria.objective import ALL, Objective, Part, Pick, Picker
from tercet.designs.criteria.pools import LinearPool
from tercet.designs.criteria.roots import symmetric_root
from tercet.designs.criteria.stale_variances import StaleVariances
from tercet.designs.criteria.tile import Tile, TiledPool
from tercet.models._blocks import in_blocks


@dataclass(frozen=True, eq=False)
class GaussianState:
    """Candidates under the covariance that the picks so far are expected to leave.

    Attributes
    ----------
    pool : the candidates
    covariance : A [p, p]
    q : d' A d [m]
    c : d' A S A d [m]; empty where the objective knows no target
    plug_in : of the objective
    """

    pool: LinearPool
    covariance: np.ndarray
    q: np.ndarray
    c: np.ndarray
    plug_in: bool

    @property
    def v(self) -> np.ndarray:
        """Information of a label [m]; fixed within a batch, as posterior means are."""
        return self.pool.information if self.plug_in else self.pool.expected_information


@dataclass(frozen=True)
class GaussianObjective(Objective[LinearPool, GaussianState]):
    """After a pick A becomes A - g u u', u = A d, g = v / (1 + v q), at the cost of items, not of pairs.

    Parameters
    ----------
    plug_in : bool
        Use the information at the posterior mean instead of its average over the posterior (worse in studies).
    """

    plug_in: bool = False
    targeted: ClassVar[bool] = False
    """Whether `gain` reads c."""

    @abc.abstractmethod
    def gain(self, state: GaussianState, some: Part) -> Float[np.ndarray, " b"]:
        """Gain of picking each of some candidates next: a new array."""

    def order(self, state: GaussianState, some: Part) -> Float[np.ndarray, " b"]:
        """A new array that grows with the gain, where there is one for less work."""
        return self.gain(state, some)

    def target_root(self, pool: LinearPool | TiledPool) -> Float[np.ndarray, "p k"]:
        """R with R R' = S."""
        return pool.target_root

    def toward(self, pool: LinearPool, direction: np.ndarray) -> Float[np.ndarray, " p"]:
        """Product S . direction."""
        return pool.toward(direction)

    def begin(self, pool: LinearPool, rng: np.random.Generator) -> GaussianState:
        covariance = pool.covariance
        return GaussianState(pool, covariance, pool.variance, self._c(pool, covariance), self.plug_in)

    def of_others(self, pool: LinearPool, state: GaussianState | None) -> GaussianState:
        """The state of other candidates after the same picks (None: none)."""
        if state is None:
            return self.begin(pool, np.random.default_rng(0))
        q = pool.squared_norms(symmetric_root(state.covariance))
        return GaussianState(pool, state.covariance, q, self._c(pool, state.covariance), self.plug_in)

    def _c(self, pool: LinearPool, covariance: np.ndarray) -> np.ndarray:
        return pool.squared_norms(covariance @ self.target_root(pool)) if self.targeted else np.empty(0)

    def update(self, state: GaussianState, index: int) -> GaussianState:
        return self._moved(state, index, 1.0)

    def remove(self, state: GaussianState, index: int) -> GaussianState:
        return self._moved(state, index, -1.0)

    def _moved(self, state: GaussianState, index: int, sign: float) -> GaussianState:
        pool, covariance = state.pool, state.covariance
        u, v = covariance @ pool.row(index), sign * state.v[index]
        g = v / (1.0 + v * state.q[index])
        su = self.toward(pool, u) if self.targeted else u
        step = _Step(
            g, 0.5 * g * float(u @ su), pool.levels(u), pool.levels(covariance @ su) if self.targeted else None
        )
        q, c = np.empty_like(state.q), np.empty_like(state.c)  # filled block by block, before anybody sees them
        in_blocks(partial(_move, state, step, q, c), len(q))
        return GaussianState(pool, covariance - g * np.outer(u, u), q, c, state.plug_in)

    def choose(self, state: GaussianState, free: np.ndarray, price: np.ndarray | None = None) -> Pick | None:
        best = in_blocks(partial(self._best, state, free, price), len(state.v))  # v: computed before threads start
        index = -max(best)[1]
        return index, float(self.gain(state, slice(index, index + 1))[0])

    def _best(self, state: GaussianState, free: np.ndarray, price: np.ndarray | None, part: slice) -> tuple[float, int]:
        """The best free candidate of a part: its worth, and minus its position, so that of equals the first is best."""
        worth = self.order(state, part) if price is None else self.gain(state, part) / price[part]
        worth[~free[part]] = -np.inf
        best = int(worth.argmax())
        return float(worth[best]), -(part.start + best)

    def score(self, state: GaussianState, some: Part = ALL) -> Float[np.ndarray, " b"]:
        if isinstance(some, slice) and some == ALL:
            return np.concatenate([np.empty(0), *in_blocks(partial(self.gain, state), len(state.v))])
        return self.gain(state, some)


class _Step(NamedTuple):
    """What takes the candidates from one state to the next: g, g u'S u / 2, and the levels of u and of A S u."""

    g: float
    bend: float
    along_u: np.ndarray
    along_y: np.ndarray | None


# Not inside `_moved`: type checks of tests would be made anew for each pick.
def _move(before: GaussianState, step: _Step, q: np.ndarray, c: np.ndarray, part: slice) -> None:
    """Fill q and c of a part of the candidates, in place: a million candidates are memory traffic."""
    t = before.pool.along(step.along_u, part)
    if step.along_y is not None:
        y = before.pool.along(step.along_y, part)
        y -= step.bend * t
        y *= t
        y *= 2.0 * step.g
        np.maximum(np.subtract(before.c[part], y, out=y), 0.0, out=c[part])
    t *= t
    t *= step.g
    np.maximum(np.subtract(before.q[part], t, out=t), 0.0, out=q[part])


@dataclass(frozen=True)
class DOptimality(GaussianObjective):
    """Bayesian D-optimality: gain log(1 + v q), the fall of the log determinant of the covariance. Gains only fall.

    References
    ----------
    Chaloner and Verdinelli (1995), Statistical Science 10, section 2.2; Krause and Guestrin (2005), UAI.
    """

    unit: ClassVar[float] = 1.0

    def gain(self, state: GaussianState, some: Part) -> Float[np.ndarray, " b"]:
        return np.asarray(self.unit * np.log1p(self.order(state, some)))

    def order(self, state: GaussianState, some: Part) -> Float[np.ndarray, " b"]:
        return np.asarray(state.v[some] * state.q[some])

    def stale_gains(self, state: GaussianState, block: int, memory: int) -> Picker | None:
        return StaleVariances(
            state.pool, covariance=state.covariance, q=state.q, v=state.v,
            gain=self._of_ratio, block=block, memory=memory,
        )  # fmt: skip

    def tile(self, pool: TiledPool) -> Tile[LinearPool, GaussianState] | None:
        if self.plug_in:
            return None
        ceiling = partial(_largest_ratio, pool.most_information)

        def ranking(state: GaussianState | None) -> Any:
            covariance = pool.covariance if state is None else state.covariance
            return pool.ranking(_information_ratio, {"now": symmetric_root(covariance)}, ceiling)

        return Tile(ranking, self.of_others, self._of_ratio)

    def _of_ratio(self, ratio: float) -> float:
        return self.unit * float(np.log1p(max(ratio, 0.0)))


@dataclass(frozen=True)
class BatchBALD(DOptimality):
    """BatchBALD in its Gaussian form: gain log(1 + v q) / 2, summing to log det(I + V^1/2 D A D' V^1/2) / 2 of a batch.

    That is the information in nats that all answers of the batch hold together about the parameters, were each answer
    its logit plus normal noise of variance 1 / v. By the matrix determinant lemma the picks are those of D-optimality,
    at half its gains; v is the information averaged over the posterior. `JointEntropy` makes no Gaussian assumption;
    while posterior sds of a logit are up to 1 it finds no better batch (of 8 and 9 pairs: this one holds 99 to 101 % of
    the joint information of that one, and its gains are right to 1 %).

    References
    ----------
    Kirsch, van Amersfoort, Gal (2019), BatchBALD, NeurIPS; Holzmüller, Zaverkin, Kästner, Steinwart (2023), JMLR 24,
    section 4.1 (the log-determinant form).
    """

    unit: ClassVar[float] = 0.5


@dataclass(frozen=True)
class VOptimality(GaussianObjective):
    """Target-aware (V- or I-optimality): gain v d' A S A d / (1 + v q). Gains may rise after a pick.

    The gain is the fall of the average variance of the reward differences the model will be used on; for sites, of the
    variance of the risk at the test sites.

    References
    ----------
    Chaloner and Verdinelli (1995), section 2.3; Atkinson, Donev, Tobias (2007), Optimum Experimental Designs, 10.
    """

    targeted: ClassVar[bool] = True

    def gain(self, state: GaussianState, some: Part) -> Float[np.ndarray, " b"]:
        v = state.v[some]
        fall, spread = v * state.c[some], v * state.q[some]
        spread += 1.0
        return np.asarray(np.divide(fall, spread, out=fall))

    def tile(self, pool: TiledPool) -> Tile[LinearPool, GaussianState] | None:
        if self.plug_in:
            return None
        target, ceiling = self.target_root(pool), partial(operator.mul, pool.most_information(0.0))

        def ranking(state: GaussianState | None) -> Any:
            covariance = pool.covariance if state is None else state.covariance
            roots = {"now": symmetric_root(covariance), "target": covariance @ target}
            return pool.ranking(_fall_of_variance, roots, ceiling)

        return Tile(ranking, self.of_others)


@dataclass(frozen=True)
class AOptimality(VOptimality):
    """Bayesian A-optimality: gain v d' A A d / (1 + v q), the fall of the trace of A.

    V-optimality with S = I: every parameter counts alike, whatever the scale of its feature and whether or not targets
    depend on it. `target` plays no part.

    References
    ----------
    Chaloner and Verdinelli (1995), Statistical Science 10, section 2.3.
    """

    def target_root(self, pool: LinearPool | TiledPool) -> Float[np.ndarray, "p k"]:
        return np.eye(len(pool.covariance))

    def toward(self, pool: LinearPool, direction: np.ndarray) -> Float[np.ndarray, " p"]:
        return direction


# At the top of the module: tiles are compiled for them, and workers are sent them.
def _largest_ratio(most_information: Callable[[float], float], q: float) -> float:
    return q * most_information(q)  # v is highest where the variance is still q: before the batch it was no smaller


def _information_ratio(v: Any, q: Any) -> Any:
    return v * q


def _fall_of_variance(v: Any, q: Any, c: Any) -> Any:
    return v * c / (1.0 + v * q)
