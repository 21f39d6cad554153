"""BALD: what an answer is expected to tell about the parameters, under a Gaussian posterior of its logit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float
from scipy.special import entr, ndtr

from tercet.designs.criteria.objective import OneShot, Part
from tercet.designs.criteria.optimality import GaussianObjective, GaussianState
from tercet.designs.criteria.pools import LinearPool
from tercet.designs.pairs.answers import mutual_information
from tercet.designs.pairs.pair_objectives import OfPairs
from tercet.designs.pairs.pool import PairPool
from tercet.models.preferences.links import Probit


@dataclass(frozen=True)
class BALD(OfPairs, GaussianObjective):
    """BALD: I(answer; w) = H(E p) - E H(p) in nats, by quadrature over the logit.

    An answer depends on the parameters through its logit alone, which is normal under a Gaussian posterior: 32 nodes
    of one dimension do. With ties or graded answers p has all of them, at the posterior mean of tie strength or cuts.
    After a pick the covariance falls by the expected information of the pick, as under D-optimality, while means stay
    as they are.

    Parameters
    ----------
    plug_in : use the information of a pick at the posterior mean instead of its average over the posterior

    References
    ----------
    Houlsby, Huszár, Ghahramani, Lengyel (2011), Bayesian active learning for classification and preference learning,
    arXiv 1112.5745, equation 2.
    """

    def gain(self, state: GaussianState, some: Part) -> Float[np.ndarray, " b"]:
        pool = state.pool
        assert isinstance(pool, PairPool)
        return mutual_information(pool.model, pool.sites, pool.difference.mean[some], state.q[some])

    def batch_gain(self, pool: LinearPool, rng: np.random.Generator) -> float:
        """What all candidates of a pool gain together: a Cholesky factor has the variance that those before leave."""
        assert isinstance(pool, PairPool)
        v = pool.information if self.plug_in else pool.expected_information
        rows = np.stack([pool.row(index) for index in range(len(pool))])
        scaled = np.sqrt(v)[:, None] * rows
        joint = rows @ pool.covariance @ scaled.T
        factor = scipy.linalg.cholesky(np.eye(len(v)) + np.sqrt(v)[:, None] * joint, lower=True)
        taken = np.square(scipy.linalg.solve_triangular(factor, joint.T, lower=True))
        left = pool.variance - np.triu(taken, 1).sum(axis=0)
        return float(mutual_information(pool.model, pool.sites, pool.difference.mean, np.maximum(left, 0.0)).sum())


@dataclass(frozen=True)
class ClosedFormBALD(OfPairs, OneShot[PairPool]):
    """BALD by Houlsby's closed form for the probit link, in nats, clipped at zero.

    h(Phi(m / sqrt(1 + s^2))) - C exp(-m^2 / (2 (s^2 + C^2))) / sqrt(s^2 + C^2) log 2, h the entropy of a coin and C^2 =
    pi log(2) / 2. For a logistic link m and s are scaled by sqrt(pi / 8) first. It replaces the entropy of an answer by
    a Gaussian bump, and may be negative: off by up to .002 nats (probit) or .025 (logistic), where `BALD` is right at
    little more cost.

    References
    ----------
    Houlsby, Huszár, Ghahramani, Lengyel (2011), arXiv 1112.5745, equation 3.
    """

    def scores(self, pool: PairPool, rng: np.random.Generator) -> Float[np.ndarray, " m"]:
        if pool.model.link is None:
            raise ValueError(
                f"{type(self).__name__} is for Bradley-Terry and Thurstone, got {type(pool.model).__name__}; use "
                "'BALD', which integrates over any likelihood."
            )
        mean, variance = pool.difference
        scale = 1.0 if isinstance(pool.model.link, Probit) else np.pi / 8.0
        square, variance = scale * np.square(mean), scale * variance
        p, bump = ndtr(np.sqrt(square / (1.0 + variance))), 0.5 * np.pi * np.log(2.0)
        noise = np.log(2.0) * np.sqrt(bump / (variance + bump)) * np.exp(-0.5 * square / (variance + bump))
        return np.asarray(np.maximum(entr(p) + entr(1.0 - p) - noise, 0.0))
