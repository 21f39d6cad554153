"""Candidate pairs under a posterior: everything a criterion reads, through the items, not the pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from tercet.designs.criteria.pools import LinearPool, SecondMoment
from tercet.inference.preferences.reward_gaussian import RewardGaussian, RewardMoments
from tercet.models._blocks import in_blocks
from tercet.models.items.features import InMemory
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.differences import GraphDifferences
from tercet.models.preferences.links import gauss_hermite

AnyPairPool = TypeVar("AnyPairPool", bound="PairPool")  # not typing.Self: beartype reads methods one by one


@dataclass(frozen=True, eq=False, kw_only=True)
class PairPool(LinearPool):
    """m candidate pairs among n items; made by `PairCandidates.pool`.

    Attributes
    ----------
    rows : differences of the features of two items, then the covariates of the comparison (that of the order effect)
    items : among which the pairs are
    model : their likelihood
    sites : typical values of the sites the likelihood needs beside the logit
    rewards : Gaussian of the rewards of the items
    asked : pairs [a, 2] answered so far; None where the posterior was loaded without them
    """

    rows: GraphDifferences
    target: SecondMoment
    items: Items
    model: ComparisonModel
    sites: dict[str, np.ndarray]
    rewards: RewardGaussian
    asked: Int[np.ndarray, "a 2"] | None

    @cached_property
    def pairs(self) -> Int[np.ndarray, "m 2"]:
        """First and second item of each candidate."""
        return np.stack([self.rows.first, self.rows.second], axis=1)

    def take(self: AnyPairPool, index: np.ndarray) -> AnyPairPool:
        """The pool of these candidates only."""
        return replace(self, rows=self.rows.take(index), information=self.information[index])

    def sample(self: AnyPairPool, index: np.ndarray) -> AnyPairPool:
        """A pool of these candidates and of their items alone, nothing asked."""
        return self.of(self.pairs[index])

    def of(self: AnyPairPool, pairs: Int[np.ndarray, "b 2"]) -> AnyPairPool:
        """A pool of these pairs and of their items alone, nothing asked."""
        return self._among(self.items, self.rewards, pairs, np.empty((0, 2), dtype=np.int64)).narrowed()

    def narrowed(self: AnyPairPool) -> AnyPairPool:
        """The same pool with only the items of its pairs and of those asked; their features are read, if on disk."""
        # Answers about other items than these (of a fit on a part of them, say) are left out.
        known = self.asked is not None and self.asked.max(initial=-1) < len(self.items)
        asked = self.asked if known and self.asked is not None else np.empty((0, 2), np.int64)
        used, codes = np.unique(np.concatenate([self.pairs, asked]), return_inverse=True)
        features = self.rewards.features
        features = features.take(used).loaded() if len(used) else InMemory(np.empty((0, features.shape[1])))
        rewards = replace(self.rewards, features=features, mean=self.rewards.mean[used])
        items, pairs = self.items.take(used) if len(used) else self.items, codes.reshape(-1, 2)
        return self._among(items, rewards, pairs[: len(self)], pairs[len(self) :] if known else None)

    def _among(
        self: AnyPairPool,
        items: Items,
        rewards: RewardGaussian,
        pairs: Int[np.ndarray, "m 2"],
        asked: Int[np.ndarray, "a 2"] | None,
    ) -> AnyPairPool:
        rows = rewards.rows(pairs, self.model.covariates(len(pairs)))
        information = self.model.information(rewards.mean_of(rows), self.sites)
        return replace(self, rows=rows, information=information, items=items, rewards=rewards, asked=asked)

    @cached_property
    def difference(self) -> RewardMoments:
        """Posterior mean and variance [m] of each candidate's logit."""
        return self.rewards.moments(self.rows)

    @property
    def variance(self) -> Float[np.ndarray, " m"]:
        """Posterior variance [m] of each candidate's logit."""
        return self.difference.variance

    @cached_property
    def expected_information(self) -> Float[np.ndarray, " m"]:
        """Information of one answer averaged over the posterior of its logit."""
        mean, variance = self.difference
        blocks = in_blocks(lambda part: self._averaged_information(mean[part], variance[part]), len(self))
        return np.concatenate([np.empty(0), *blocks])

    def _averaged_information(self, mean: np.ndarray, variance: np.ndarray) -> Float[np.ndarray, " b"]:
        if self.model.link is not None:
            return self.model.link.integrate_information(mean, variance)
        return gauss_hermite(lambda r: self.model.information(r, self.sites), mean, variance)

    @property
    def expected_outcome(self) -> Float[np.ndarray, " m"]:
        """Posterior predictive probability that the first is preferred, ties counted as half."""
        mean, variance = self.difference
        if self.model.link is not None:
            return self.model.link.integrate(mean, variance)
        return gauss_hermite(lambda r: self.model.expected_outcome(r, self.sites), mean, variance)

    def gram(self, pairs: Int[np.ndarray, "b 2"], weights: Float[np.ndarray, " b"]) -> Float[np.ndarray, "p p"]:
        """Sum over pairs of the items of weight d d'."""
        if len(pairs) == 0:
            return np.zeros((self.rows.shape[1],) * 2)
        return self.rewards.rows(pairs, self.model.covariates(len(pairs))).compact().gram(weights)
