"""What a candidate is worth under a posterior: small frozen objects with `begin`, `score` and `update`.

Notation: d = x_first - x_second, A the posterior covariance, q = d' A d the variance of the reward difference,
v = p (1 - p) the information of one answer (its counterpart for other likelihoods), S = E[d d'] over target pairs.
For sites d is the basis of the loss surface at the site, v the information of one loss, S = t t' with t' w the risk.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy.linalg

from tercet.designs.contract import Candidates, LinearPool, Pool
from tercet.designs.pool import PairCandidates, PairPool


class State(NamedTuple):
    """What a criterion knows of a pool while a batch grows."""

    pool: LinearPool
    scores: np.ndarray


class GreedyState(NamedTuple):
    """State of the sequential criteria: covariance A, q = d' A d, c = d' A S A d, information v."""

    pool: LinearPool
    covariance: np.ndarray
    q: np.ndarray
    c: np.ndarray
    v: np.ndarray


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

    def choose(self, state: Any, free: np.ndarray, price: np.ndarray | None) -> tuple[int, float] | None:
        """The next pick among the free candidates [m] (ties: the lowest index) and its gain; None ends the batch."""
        scores = self.score(state)
        worth = scores if price is None else scores / price
        index = int(np.where(free, worth, -np.inf).argmax())
        return index, float(scores[index])

    def batch_gain(self, pool: Any, rng: np.random.Generator) -> float:
        """What all candidates of a pool gain together."""
        state, total = self.begin(pool, rng), 0.0
        for index in range(len(pool)):
            total += float(self.score(state)[index])
            state = self.update(state, index)
        return total


@dataclass(frozen=True)
class _OneShot(Criterion):
    """Scores once and takes the best: batches may hold near twins."""

    @abc.abstractmethod
    def _scores(self, pool: Any, rng: np.random.Generator) -> np.ndarray: ...

    def begin(self, pool: LinearPool, rng: np.random.Generator) -> State:
        return State(pool, self._scores(pool, rng))

    def score(self, state: State) -> np.ndarray:
        return state.scores

    def update(self, state: State, index: int) -> State:
        return state


@dataclass(frozen=True)
class RandomPairs(_OneShot):
    """Candidates at random: the baseline. Gains are uniform numbers without meaning."""

    name = "random"

    def _scores(self, pool: Pool, rng: np.random.Generator) -> np.ndarray:
        return rng.random(len(pool))


@dataclass(frozen=True)
class PublishedD(_OneShot):
    """D-optimality as published: v d' M^-1 d, M = ridge I + sum over the *candidate pool* of v d d'.

    The score is the derivative of log det M in the weight of a candidate. What has been asked before plays no part.

    References
    ----------
    Shen, Sun, Ton (2025), Active Reward Modeling, arXiv 2502.04354, equation 7.
    """

    ridge: float = 1e-6
    name = "D-optimal (published)"

    def pool(self, candidates: Candidates, posterior: Any, target: Any) -> PairPool:
        if not isinstance(candidates, PairCandidates):
            raise ValueError(f"criterion {self.name!r} is for pairs only; for other candidates use 'greedy D'.")
        return candidates.pool(posterior, target)

    def _matrix(self, pool: PairPool) -> np.ndarray:
        return pool.gram(pool.pairs, pool.information) + self.ridge * np.eye(len(pool.target))

    def _scores(self, pool: PairPool, rng: np.random.Generator) -> np.ndarray:
        factor = scipy.linalg.cholesky(self._matrix(pool), lower=True)
        inverse = scipy.linalg.solve_triangular(factor, np.eye(len(factor)), lower=True)
        return pool.information * pool.squared_norms(inverse.T)


@dataclass(frozen=True)
class PastAwareD(PublishedD):
    """The published D-optimality with the information of the pairs asked so far added to M."""

    name = "D-optimal (past-aware)"

    def _matrix(self, pool: PairPool) -> np.ndarray:
        if pool.asked is None:
            raise ValueError(
                "this posterior was loaded without its answers, which past-aware D-optimality needs; load it with "
                "load(path, items, comparisons), or use a criterion that reads the posterior, such as 'greedy D'."
            )
        logit = pool.rewards.difference(pool.asked, order=True).mean
        return super()._matrix(pool) + pool.gram(pool.asked, pool.model.information(logit, pool.sites))


@dataclass(frozen=True)
class PosteriorVariance(_OneShot):
    """The largest posterior variances q = d' A d of the reward difference (of the surface), best n at once."""

    name = "posterior variance"

    def _scores(self, pool: LinearPool, rng: np.random.Generator) -> np.ndarray:
        return pool.variance


@dataclass(frozen=True)
class _Greedy(Criterion):
    """Sequential: after a pick A becomes A - g u u', u = A d, g = v / (1 + v q), at the cost of items, not pairs.

    Parameters
    ----------
    plug_in : bool
        Use the information at the posterior mean instead of its average over the posterior (worse in studies).
    """

    plug_in: bool = False
    sequential = True
    targeted: ClassVar[bool] = False

    def begin(self, pool: LinearPool, rng: np.random.Generator) -> GreedyState:
        covariance = pool.covariance
        v = pool.information if self.plug_in else pool.expected_information
        c = np.empty(0)
        if self.targeted:
            c = pool.squared_norms(covariance @ pool.target_root)
        return GreedyState(pool, covariance, pool.variance, c, v)

    def update(self, state: GreedyState, index: int) -> GreedyState:
        pool, covariance, q, c, v = state
        u = covariance @ pool.row(index)
        g = v[index] / (1.0 + v[index] * q[index])
        t = pool.along(u)
        if self.targeted:
            su = pool.toward(u)
            y = pool.along(covariance @ su)
            y -= (0.5 * g * (u @ su)) * t  # in place from here on: a million candidates are memory traffic
            y *= t
            y *= 2.0 * g
            c = np.maximum(np.subtract(c, y, out=y), 0.0, out=y)
        t *= t
        t *= g
        q = np.maximum(np.subtract(q, t, out=t), 0.0, out=t)
        return GreedyState(pool, covariance - g * np.outer(u, u), q, c, v)


@dataclass(frozen=True)
class GreedyD(_Greedy):
    """Greedy Bayesian D-optimality: gain log(1 + v q), the fall of the log volume of the posterior.

    References
    ----------
    Chaloner and Verdinelli (1995), Statistical Science 10, section 2.2; Krause and Guestrin (2005), UAI.
    """

    name = "greedy D"

    def score(self, state: GreedyState) -> np.ndarray:
        return np.log1p(state.v * state.q)


@dataclass(frozen=True)
class GreedyV(_Greedy):
    """Greedy and target-aware (V- or I-optimal): gain v d' A S A d / (1 + v q).

    The gain is the fall of the average variance of the reward differences the model will be used on; for sites, of the
    variance of the risk at the test sites.

    References
    ----------
    Chaloner and Verdinelli (1995), section 2.3; Atkinson, Donev, Tobias (2007), Optimum Experimental Designs, 10.
    """

    name = "greedy V"
    targeted = True

    def score(self, state: GreedyState) -> np.ndarray:
        return state.v * state.c / (1.0 + state.v * state.q)


CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (RandomPairs(), PublishedD(), PastAwareD(), PosteriorVariance(), GreedyD(), GreedyV())
}
"""Every criterion under the name by which `select_pairs` knows it."""


def as_criterion(criterion: str | Criterion, known: Mapping[str, Criterion] = CRITERIA) -> Criterion:
    """A criterion by name, or itself."""
    if isinstance(criterion, Criterion):
        return criterion
    if criterion not in known:
        raise ValueError(f"criterion must be one of {sorted(known)} or a Criterion, got {criterion!r}.")
    return known[criterion]
