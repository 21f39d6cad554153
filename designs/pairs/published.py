"""The D-optimal designs of the active reward modelling paper: scored once, against the candidate pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.designs.criteria.objective import OneShot
from tercet.designs.criteria.tile import Reads, Tile, TiledPool
from tercet.designs.pairs.pair_objectives import OfPairs
from tercet.designs.pairs.pool import PairPool


@dataclass(frozen=True)
class PublishedD(OfPairs, OneShot[PairPool]):
    """D-optimality as published: v d' M^-1 d, M = ridge I + sum over the *candidate pool* of v d d'.

    The score is the derivative of log det M in the weight of a candidate. What has been asked before plays no part.

    Parameters
    ----------
    ridge : added to the diagonal of M, in squared inverse units of the features

    References
    ----------
    Shen, Sun, Ton (2025), Active Reward Modeling, arXiv 2502.04354, equation 7.
    """

    ridge: float = 1e-6
    reads: ClassVar[Reads] = "information at the mean"

    def scores(self, pool: PairPool, rng: np.random.Generator) -> Float[np.ndarray, " m"]:
        return self._scores(pool, self._root(pool, pool.gram(pool.pairs, self._information(pool))))

    def tile(self, pool: TiledPool) -> Tile[PairPool, np.ndarray] | None:
        gram = pool.gram(self.reads)
        if gram is None:
            return None
        root = self._root(pool.sample, gram)
        return Tile(lambda _: self._ranking(pool, root), lambda some, _: self._scores(some, root))

    def _ranking(self, pool: TiledPool, root: np.ndarray) -> Any:
        return pool.ranking(_product, {"M": root}, _quarter, self.reads)

    def _scores(self, pool: PairPool, root: np.ndarray) -> Float[np.ndarray, " m"]:
        return np.asarray(self._information(pool) * pool.squared_norms(root))

    def _information(self, pool: PairPool) -> Float[np.ndarray, " m"]:
        return pool.information

    def _matrix(self, pool: PairPool, gram: np.ndarray) -> Float[np.ndarray, "p p"]:
        return np.asarray(gram + self.ridge * np.eye(len(gram)))

    def _root(self, pool: PairPool, gram: np.ndarray) -> Float[np.ndarray, "p p"]:
        """R with R R' = M^-1, given the sum over all candidates of v d d'."""
        try:
            factor = scipy.linalg.cholesky(self._matrix(pool, gram), lower=True)
        except np.linalg.LinAlgError as error:
            name = type(self).__name__
            raise ValueError(
                f"the matrix M of {name} is not positive definite with ridge={self.ridge:g}: the candidates do not "
                f"span all features; raise it, {name}(ridge=1e-3), or use 'greedy D'."
            ) from error
        return np.asarray(scipy.linalg.solve_triangular(factor, np.eye(len(factor)), lower=True).T)


@dataclass(frozen=True)
class PastAwareD(PublishedD):
    """The published D-optimality with the information of the pairs asked so far added to M.

    Parameters
    ----------
    ridge : added to the diagonal of M

    References
    ----------
    Shen, Sun, Ton (2025), arXiv 2502.04354 ("past-aware D-opt").
    """

    def _matrix(self, pool: PairPool, gram: np.ndarray) -> Float[np.ndarray, "p p"]:
        if pool.asked is None:
            raise ValueError(
                "this posterior was loaded without its answers, which past-aware D-optimality needs; load it with "
                "load(path, items, comparisons), or use a criterion that reads the posterior, such as 'greedy D'."
            )
        logit = pool.rewards.difference(pool.asked, pool.model.covariates(len(pool.asked))).mean
        answered = pool.gram(pool.asked, pool.model.information(logit, pool.sites))
        return np.asarray(super()._matrix(pool, gram) + answered)


@dataclass(frozen=True)
class PublishedXtX(PublishedD):
    """The published D-optimality as if answers were numbers, v = 1: d' (ridge I + sum over the pool of d d')^-1 d.

    Parameters
    ----------
    ridge : added to the diagonal of the matrix

    References
    ----------
    Shen, Sun, Ton (2025), arXiv 2502.04354 ("det(XtX)"), as a baseline; statistical leverage of linear regression.
    """

    reads: ClassVar[Reads] = "nothing"

    def _ranking(self, pool: TiledPool, root: np.ndarray) -> Any:
        return pool.ranking(_itself, {"M": root}, float, self.reads)

    def _information(self, pool: PairPool) -> Float[np.ndarray, " m"]:
        return np.ones(len(pool))


def _product(v: Any, square: Any) -> Any:
    return v * square


def _itself(square: Any) -> Any:
    return square


def _quarter(square: float) -> float:
    return 0.25 * square  # p (1 - p) is no larger
