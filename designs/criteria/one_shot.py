"""Criteria that read one number of each candidate and take the best n at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.designs.criteria.candidates import Candidates
from tercet.designs.criteria.criterion import OneShot, as_pair_candidates
from tercet.designs.criteria.pools import LinearPool, Pool
from tercet.designs.pairs.answers import entropy, predictive
from tercet.designs.pairs.pool import PairPool


@dataclass(frozen=True)
class RandomPairs(OneShot):
    """Candidates at random: the baseline. Gains are uniform numbers without meaning."""

    name = "random"

    def _scores(self, pool: Pool, rng: np.random.Generator) -> np.ndarray:
        return rng.random(len(pool))


@dataclass(frozen=True)
class PosteriorVariance(OneShot):
    """The largest posterior variances q = d' A d of the reward difference (of the surface), best n at once."""

    name = "posterior variance"

    def _scores(self, pool: LinearPool, rng: np.random.Generator) -> np.ndarray:
        return pool.variance


@dataclass(frozen=True)
class _OfPairs(OneShot):
    def pool(self, candidates: Candidates, posterior: Any, target: Any) -> PairPool:
        return as_pair_candidates(self, candidates).pool(posterior, target)


@dataclass(frozen=True)
class MaxDifference(_OfPairs):
    """The largest |E r_first - E r_second| (plus the order effect, where there is one): the surest answers.

    References
    ----------
    Shen, Sun, Ton (2025), Active Reward Modeling, arXiv 2502.04354 ("maxdiff"), as a baseline.
    """

    name = "max difference"

    def _scores(self, pool: PairPool, rng: np.random.Generator) -> np.ndarray:
        return np.abs(pool.difference.mean)


@dataclass(frozen=True)
class Entropy(_OfPairs):
    """The largest entropy of the answer at the posterior mean, H(p(E r)), in nats.

    With two answers that is the smallest |E r_first - E r_second|, which is how the paper's code picks ("entropy",
    "level set"). With ties or graded answers it is the entropy of all of them.

    References
    ----------
    Settles (2009), Active learning literature survey, section 3.1; Shen, Sun, Ton (2025), arXiv 2502.04354.
    """

    name = "entropy"

    def _scores(self, pool: PairPool, rng: np.random.Generator) -> np.ndarray:
        return entropy(pool.model.probabilities(pool.difference.mean, pool.sites))


@dataclass(frozen=True)
class PredictiveEntropy(_OfPairs):
    """The largest entropy of the answer with the posterior integrated out, H(E p), in nats.

    Unlike "entropy" it counts what is not known of the rewards as well; `BALD` is this less what no label can teach.

    References
    ----------
    Houlsby, Huszár, Ghahramani, Lengyel (2011), arXiv 1112.5745, the first term of equation 2.
    """

    name = "predictive entropy"

    def _scores(self, pool: PairPool, rng: np.random.Generator) -> np.ndarray:
        return entropy(predictive(pool.model, pool.sites, *pool.difference))
