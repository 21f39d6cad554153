"""Candidate pairs under a posterior: everything a criterion reads, through the items, not the pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from tercet.designs.criteria.pools import LinearPool
from tercet.designs.pairs.target_moments import SecondMoment
from tercet.inference.preferences.rewards import Moments, RewardGaussian, squared_gaps
from tercet.models._blocks import in_blocks
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.linear_form import design_rows
from tercet.models.preferences.links import gauss_hermite


@dataclass(frozen=True, eq=False)
class PairPool(LinearPool):
    """m candidate pairs among n items, p parameters (the order effect last, where there is one).

    Attributes
    ----------
    items, pairs : the candidates
    model : their likelihood
    sites : typical values of the sites the likelihood needs beside the logit
    rewards : Gaussian of the rewards
    asked : pairs [k, 2] answered so far; None where the posterior was loaded without them
    target : S [p, p] = E[d d'] over the pairs that matter
    """

    items: Items
    pairs: Int[np.ndarray, "m 2"]
    model: ComparisonModel
    sites: dict[str, np.ndarray]
    rewards: RewardGaussian
    asked: Int[np.ndarray, "k 2"] | None
    target: SecondMoment

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, index: np.ndarray) -> PairPool:
        """The pool of these candidates only."""
        return replace(self, pairs=self.pairs[index])

    def sample(self, index: np.ndarray) -> PairPool:
        """A pool of these candidates and of their items alone, nothing asked: costs what it holds."""
        return self.of(self.pairs[index])

    def of(self, pairs: np.ndarray) -> PairPool:
        """A pool of these pairs and of their items alone, nothing asked."""
        nothing = np.empty((0, 2), dtype=np.int64)
        return replace(self, pairs=pairs, asked=nothing).narrowed()

    def narrowed(self) -> PairPool:
        """The same pool with only the items of its pairs and of those asked; their features are read, if on disk."""
        features, size = self.rewards.features, len(self.items)
        if features is None:
            return self
        # Answers about other items than these (a fit on a part of them, say) have no place here.
        asked = self.asked if self.asked is None or self.asked.max(initial=-1) < size else None
        ends = self.pairs if asked is None else np.concatenate([self.pairs, asked])
        used, codes = np.unique(ends, return_inverse=True)
        pairs = codes.reshape(-1, 2)
        rows = np.asarray(features[used], np.float64) if len(used) else np.empty((0, len(self.rewards.root)))
        rewards = replace(self.rewards, features=rows, mean=self.rewards.mean[used])
        return replace(
            self,
            items=self.items.take(used) if len(used) else self.items,
            pairs=pairs[: len(self)],
            rewards=rewards,
            asked=None if asked is None else pairs[len(self) :],
        )

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """First and second items, each contiguous: gathers through them are what a pick costs."""
        return np.ascontiguousarray(self.pairs[:, 0]), np.ascontiguousarray(self.pairs[:, 1])

    @cached_property
    def difference(self) -> Moments:
        """Posterior mean and variance [m] of each candidate's logit."""
        return self.rewards.difference(self.pairs, order=True)

    @property
    def variance(self) -> Float[np.ndarray, " m"]:
        """Posterior variance [m] of each candidate's logit."""
        return self.difference.variance

    @cached_property
    def information(self) -> Float[np.ndarray, " m"]:
        """Information of one answer at the posterior mean: p (1 - p) for Bradley-Terry."""
        return self.model.information(self.difference.mean, self.sites)

    @cached_property
    def expected_information(self) -> Float[np.ndarray, " m"]:
        """Information of one answer averaged over the posterior of its logit."""
        mean, variance = self.difference
        blocks = in_blocks(lambda part: self._averaged_information(mean[part], variance[part]), len(self))
        return np.concatenate([np.empty(0), *blocks])

    def _averaged_information(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
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

    @property
    def covariance(self) -> Float[np.ndarray, "p p"]:
        """Posterior covariance of the parameters."""
        root = self.rewards.root
        if self.rewards.order is not None:
            root = np.vstack([root, self.rewards.order[1]])
        return root @ root.T

    @property
    def target_root(self) -> Float[np.ndarray, "p p"]:
        """R with R R' = S."""
        return self.target.root

    def toward(self, direction: np.ndarray) -> Float[np.ndarray, " p"]:
        """Product S . direction."""
        return self.target.matrix @ direction

    def levels(self, direction: np.ndarray) -> Float[np.ndarray, " n"]:
        """Products x . direction of the items; for the order effect, an entry more."""
        own = direction[:-1] if self.rewards.order is not None else direction
        features = self.rewards.features
        # Not `@`: threads of BLAS go on spinning after a product this short, and take the cores from `in_blocks`.
        levels = own if features is None else np.einsum("ij,j->i", np.asarray(features), own)
        return levels if self.rewards.order is None else np.append(levels, direction[-1])

    def along(self, levels: np.ndarray, part: slice | np.ndarray = slice(None)) -> Float[np.ndarray, " b"]:
        """Product d . direction for the candidates of a part, d = x_first - x_second (then 1 for the order effect)."""
        first, second = self.ends
        along = levels.take(first[part], mode="clip")  # no index is out of range: do not look
        along -= levels.take(second[part], mode="clip")
        return along if self.rewards.order is None else along + levels[-1]

    def row(self, index: int) -> Float[np.ndarray, " p"]:
        """The difference d of one candidate."""
        first, second = self.pairs[index]
        features = self.rewards.features
        if features is None:
            own = np.zeros(len(self.rewards.root))
            own[first], own[second] = 1.0, -1.0
        else:
            own = features[first] - features[second]
        return own if self.rewards.order is None else np.append(own, 1.0)

    def squared_norms(self, root: np.ndarray) -> Float[np.ndarray, " m"]:
        """Squared norm |root' d|^2 of every candidate, root [p, k]: differences of whitened items, block by block."""
        ordered = self.rewards.order is not None
        own, shift = (root[:-1], root[-1]) if ordered else (root, 0.0)
        features = self.rewards.features
        whitened = own if features is None else features @ own
        return squared_gaps(whitened, *self.ends, shift)

    def pull(self, weights: np.ndarray) -> Float[np.ndarray, " p"]:
        """Sum over the candidates of weight d."""
        first, second = self.ends
        size = len(self.rewards.mean)
        each = np.bincount(first, weights, size) - np.bincount(second, weights, size)
        features = self.rewards.features
        own = each if features is None else each @ np.asarray(features)
        return own if self.rewards.order is None else np.append(own, weights.sum())

    def gram(self, pairs: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Sum over pairs of weight d d'."""
        if len(pairs) == 0:
            return np.zeros((len(self.target),) * 2)
        ordered = self.rewards.order is not None
        rows = design_rows(self.rewards.features, len(self.items), pairs[:, 0], pairs[:, 1], ordered)
        return rows.gram(weights)
