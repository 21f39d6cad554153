"""The D-optimal designs of the active reward modelling paper: scored once, against the candidate pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.designs.criteria.candidates import Candidates
from tercet.designs.criteria.criterion import OneShot, as_pair_candidates
from tercet.designs.pairs.pool import PairPool


@dataclass(frozen=True)
class PublishedD(OneShot):
    """D-optimality as published: v d' M^-1 d, M = ridge I + sum over the *candidate pool* of v d d'.

    The score is the derivative of log det M in the weight of a candidate. What has been asked before plays no part.

    References
    ----------
    Shen, Sun, Ton (2025), Active Reward Modeling, arXiv 2502.04354, equation 7.
    """

    ridge: float = 1e-6
    name = "D-optimal (published)"

    def pool(self, candidates: Candidates, posterior: Any, target: Any) -> PairPool:
        return as_pair_candidates(self, candidates).pool(posterior, target)

    def _weights(self, pool: PairPool) -> np.ndarray:
        return pool.information

    def _matrix(self, pool: PairPool, information: np.ndarray) -> np.ndarray:
        return information + self.ridge * np.eye(len(information))

    def _scores(self, pool: PairPool, rng: np.random.Generator) -> np.ndarray:
        root = self.root(pool, pool.gram(pool.pairs, self._weights(pool)))
        return self._weights(pool) * pool.squared_norms(root)

    def root(self, pool: PairPool, information: np.ndarray) -> Float[np.ndarray, "p p"]:
        """R with R R' = M^-1, given the sum over all candidates of v d d'."""
        try:
            factor = scipy.linalg.cholesky(self._matrix(pool, information), lower=True)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                f"the matrix M of {self.name!r} is not positive definite with ridge={self.ridge:g}: the candidates do "
                f"not span all features; raise it, {type(self).__name__}(ridge=1e-3), or use 'greedy D'."
            ) from error
        return scipy.linalg.solve_triangular(factor, np.eye(len(factor)), lower=True).T


@dataclass(frozen=True)
class PastAwareD(PublishedD):
    """The published D-optimality with the information of the pairs asked so far added to M.

    References
    ----------
    Shen, Sun, Ton (2025), arXiv 2502.04354 ("past-aware D-opt").
    """

    name = "D-optimal (past-aware)"

    def _matrix(self, pool: PairPool, information: np.ndarray) -> np.ndarray:
        if pool.asked is None:
            raise ValueError(
                "this posterior was loaded without its answers, which past-aware D-optimality needs; load it with "
                "load(path, items, comparisons), or use a criterion that reads the posterior, such as 'greedy D'."
            )
        logit = pool.rewards.difference(pool.asked, pool.model.covariates(len(pool.asked))).mean
        return super()._matrix(pool, information) + pool.gram(pool.asked, pool.model.information(logit, pool.sites))


@dataclass(frozen=True)
class PublishedXtX(PublishedD):
    """The published D-optimality as if answers were numbers, v = 1: d' (ridge I + sum over the pool of d d')^-1 d.

    References
    ----------
    Shen, Sun, Ton (2025), arXiv 2502.04354 ("det(XtX)"), as a baseline; statistical leverage of linear regression.
    """

    name = "XtX"

    def _weights(self, pool: PairPool) -> np.ndarray:
        return np.ones(len(pool))
