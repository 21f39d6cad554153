"""EPIG: what an answer is expected to tell about the answers to target pairs, under a Gaussian posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import eval_hermitenorm, gammaln

from tercet.designs.criteria.candidates import Candidates
from tercet.designs.criteria.criterion import Criterion, OneShot, as_pair_candidates
from tercet.designs.criteria.greedy import GreedyD, GreedyState
from tercet.designs.pairs.answers import NODES, TINY, WEIGHTS, shared_information
from tercet.designs.pairs.targets import TargetedPool, targeted_pool
from tercet.models.preferences.comparison_models import ComparisonModel

DEGREE = 16
"""Hermite functions in which the probability of an answer is written."""
_ORDERS = np.arange(DEGREE + 1)[:, None]
_BASIS = (eval_hermitenorm(_ORDERS, NODES) * np.exp(-0.5 * gammaln(_ORDERS + 1.0)) * WEIGHTS).T
GREEDY = GreedyD()
"""How the covariance falls after a pick."""
BLOCK = 256
"""Candidates that meet the targets at once: their tables stay in the cache."""
NEGLIGIBLE = 1e-12
"""Terms of Mehler's formula below this are left out."""


class EPIGState(NamedTuple):
    """The greedy state, and what links candidates to targets.

    cross : covariances [m, t] of candidates and targets
    spread : variances [t] of the targets
    listed : which candidates [m] are still scored
    """

    greedy: GreedyState
    cross: np.ndarray
    spread: np.ndarray
    listed: np.ndarray


@dataclass(frozen=True)
class EPIG(Criterion):
    """Expected predictive information gain, without twins: mean over target pairs of I(answer; answer to the target).

    Both answers depend on logits that are jointly normal. With p_a(r) = sum_k f_ak h_k(z) in normalised Hermite
    functions of the standardised logit (32 nodes of Gauss-Hermite, degree 16), Mehler's formula gives the joint law of
    two answers whose logits have correlation rho,

        P(a, b) = sum_k rho^k f_ak g_bk,

    and from it the mutual information in nats (error below 1e-7 at sd 1, 3e-4 at 2). The answer to a target is one
    without order effect. After a pick covariances fall as in "greedy D" while means stay.

    Parameters
    ----------
    targets : target pairs at most, drawn from the target
    key : seed of that draw
    shortlist : candidates that are scored anew for later picks, the best of the first; give `len(candidates)` for all

    References
    ----------
    Bickford Smith, Kirsch, Farquhar, Gal, Foster, Rainforth (2023), Prediction-oriented Bayesian active learning,
    AISTATS, equation 3; Mehler (1866), Journal für die reine und angewandte Mathematik 66.
    """

    targets: int = 100
    key: int = 0
    shortlist: int = 2000
    name = "EPIG"
    sequential = True

    def pool(self, candidates: Candidates, posterior: Any, target: Any) -> TargetedPool:
        return targeted_pool(as_pair_candidates(self, candidates), posterior, target, self.targets, self.key)

    def begin(self, pool: TargetedPool, rng: np.random.Generator) -> EPIGState:
        return EPIGState(GREEDY.begin(pool, rng), *against_targets(pool), np.ones(len(pool), dtype=bool))

    def score(self, state: EPIGState) -> np.ndarray:
        return self._gains(state, np.arange(len(state.listed)))

    def gain_of(self, state: EPIGState, index: int) -> float:
        return float(self._gains(state, np.array([index]))[0])

    def choose(self, state: EPIGState, free: np.ndarray, price: np.ndarray | None) -> tuple[int, float] | None:
        """The next pick of those on the shortlist, which the first call draws up, in place; of all once it is empty."""
        left = np.flatnonzero(free & state.listed)
        left = left if len(left) else np.flatnonzero(free)
        gains = self._gains(state, left)
        worth = gains if price is None else gains / price[left]
        if state.listed.all() and len(left) > self.shortlist:
            state.listed[:] = False
            state.listed[left[np.argsort(-worth, kind="stable")[: self.shortlist]]] = True
        best = int(worth.argmax())
        return int(left[best]), float(gains[best])

    def update(self, state: EPIGState, index: int) -> EPIGState:
        greedy, cross, spread, _ = state
        pool: Any = greedy.pool
        covariance, q, v = greedy.covariance, greedy.q, greedy.v
        u = covariance @ pool.row(index)
        g, there = v[index] / (1.0 + v[index] * q[index]), pool.target_rows @ u
        cross = cross - np.outer(g * pool.along(pool.levels(u)), there)
        return EPIGState(GREEDY.update(greedy, index), cross, np.maximum(spread - g * there**2, 0.0), state.listed)

    def _gains(self, state: EPIGState, some: np.ndarray) -> np.ndarray:
        pool: Any = state.greedy.pool
        return predictive_information(pool.take(some), state.greedy.q[some], state.cross[some], state.spread)


@dataclass(frozen=True)
class TopEPIG(OneShot):
    """Expected predictive information gain (see `EPIG`), best n at once.

    Parameters
    ----------
    targets : target pairs at most, drawn from the target
    key : seed of that draw

    References
    ----------
    Bickford Smith, Kirsch, Farquhar, Gal, Foster, Rainforth (2023), AISTATS, equation 3.
    """

    targets: int = 100
    key: int = 0
    name = "EPIG (top-k)"

    def pool(self, candidates: Candidates, posterior: Any, target: Any) -> TargetedPool:
        return targeted_pool(as_pair_candidates(self, candidates), posterior, target, self.targets, self.key)

    def _scores(self, pool: TargetedPool, rng: np.random.Generator) -> np.ndarray:
        return predictive_information(pool, pool.variance, *against_targets(pool))


def against_targets(pool: TargetedPool) -> tuple[Float[np.ndarray, "m t"], Float[np.ndarray, " t"]]:
    """Covariances d' A d* of candidates with targets, and variances of the targets."""
    pulled = pool.target_rows @ pool.covariance
    cross = np.empty((len(pool), len(pulled)))
    for column, direction in enumerate(pulled):
        cross[:, column] = pool.along(pool.levels(direction))
    return cross, np.einsum("tp,tp->t", pulled, pool.target_rows)


def predictive_information(
    pool: TargetedPool, variance: np.ndarray, cross: np.ndarray, spread: np.ndarray
) -> Float[np.ndarray, " m"]:
    """Mean over targets of the information that the answers to candidate and target share."""
    there = hermite_coefficients(pool.model, pool.sites, pool.target_mean, spread)
    cells, margins = there.shape[1], there[..., 0]
    sd, scale = np.sqrt(np.maximum(variance, TINY)), np.sqrt(np.maximum(spread, TINY))
    gain = np.empty(len(variance))
    for start in range(0, len(variance), BLOCK):
        block = slice(start, start + BLOCK)
        here = hermite_coefficients(pool.model, pool.sites, pool.difference.mean[block], variance[block])
        rho = np.clip(cross[block] / scale / sd[block, None], -1.0, 1.0)
        covariance = [[answer_covariance(here[:, a], there[:, b], rho) for b in range(cells)] for a in range(cells)]
        gain[block] = shared_information(here[..., 0], margins, covariance).mean(axis=1)
    return gain


def hermite_coefficients(
    model: ComparisonModel, sites: dict[str, Any], mean: np.ndarray, variance: np.ndarray
) -> Float[np.ndarray, "m a n"]:
    """Coefficients f_ak [m, K - 1, degree + 1] of all answers but the last, r ~ Normal(mean, variance)."""
    logit = mean[:, None] + np.sqrt(variance)[:, None] * NODES
    if model.link is not None:
        return (model.link.probability(-logit) @ _BASIS)[:, None]
    return np.moveaxis(model.probabilities(logit, sites)[..., :-1], -1, 1) @ _BASIS


def answer_covariance(f: np.ndarray, g: np.ndarray, rho: np.ndarray) -> Float[np.ndarray, "m t"]:
    """Sum over k > 0 of rho^k f_k g_k by Horner's rule, from the last term that can matter."""
    orders = np.arange(f.shape[1])
    sizes = np.abs(rho).max(initial=0.0) ** orders * np.abs(f).max(axis=0, initial=0.0) * np.abs(g).max(axis=0)
    last = max(1, int(np.flatnonzero(sizes > NEGLIGIBLE).max(initial=1)))
    total, term = np.multiply.outer(f[:, last], g[:, last]), np.empty(rho.shape)
    for k in range(last - 1, 0, -1):
        total *= rho
        total += np.multiply.outer(f[:, k], g[:, k], out=term)
    total *= rho
    return total
