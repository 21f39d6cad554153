"""Rewards of items as a Gaussian: means, a root of their covariance, and the same for differences of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tercet.models.items.features import Features
from tercet.models.preferences.differences import GraphDifferences


class RewardMoments(NamedTuple):
    """Posterior mean [n] and variance [n] of rewards, or of their differences."""

    mean: np.ndarray
    variance: np.ndarray

    @property
    def sd(self) -> Float[np.ndarray, " n"]:
        """Posterior standard deviation."""
        return np.asarray(np.sqrt(self.variance))


@dataclass(frozen=True, eq=False)
class RewardGaussian:
    """Rewards of items as a Gaussian: r = mean + whitened @ xi, xi standard normal.

    Attributes
    ----------
    features : Features X [n, p], what the parameters of the head are multiplied by
    mean : array [n]
    root : array [p + c, k], root root' the covariance of the head's parameters and of the effects of the covariates
    effects : array [c], posterior means of these effects (see `ComparisonModel.effects`)
    """

    features: Features
    mean: Float[np.ndarray, " n"]
    root: Float[np.ndarray, "q k"]
    effects: Float[np.ndarray, " c"]

    @property
    def head_root(self) -> Float[np.ndarray, "p k"]:
        """The rows of the root that belong to the head's parameters."""
        return self.root[: len(self.root) - len(self.effects)]

    @cached_property
    def whitened(self) -> Float[np.ndarray, "n k"]:
        """Rows z_i with Cov(r_i, r_j) = z_i . z_j."""
        if not self.features.in_memory:
            raise ValueError(
                f"the features of these {len(self.mean):,} items are on disk, and this question holds all of them in "
                "memory; ask it of some items, items.loaded(positions)."
            )
        return self.features @ self.head_root

    @cached_property
    def variance(self) -> Float[np.ndarray, " n"]:
        """Variance of each reward."""
        if self.features.in_memory:
            return _squared_norms(self.whitened)
        return np.concatenate(self.features.map_products(self.head_root, _squared_norms))

    def rows(
        self, pairs: Int[np.ndarray, "m 2"], covariates: Float[np.ndarray, "m c"] | None = None
    ) -> GraphDifferences:
        """D [m, p + c]: the logits of pairs are D theta, or without covariates their reward differences [m, p]."""
        first, second = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
        return GraphDifferences(self.features, first, second, covariates)

    def difference(
        self, pairs: Int[np.ndarray, "m 2"], covariates: Float[np.ndarray, "m c"] | None = None
    ) -> RewardMoments:
        """Mean and variance of r(first) - r(second), plus the effects of covariates where these are given."""
        return self.moments(self.rows(pairs, covariates))

    def moments(self, rows: GraphDifferences) -> RewardMoments:
        """Mean and variance of each row D theta."""
        return RewardMoments(self.mean_of(rows), rows.squared_gaps(self.whitened, self.root))

    def mean_of(self, rows: GraphDifferences) -> Float[np.ndarray, " m"]:
        """Mean of each row D theta."""
        return rows.along(np.append(self.mean, self.effects))


def _squared_norms(rows: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    return np.asarray(np.einsum("ij,ij->i", rows, rows))
