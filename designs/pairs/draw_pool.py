"""Candidate pairs under posterior draws: any posterior, any likelihood, each annotator with their own precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tercet.designs.criteria.pools import Pool
from tercet.designs.pairs.answers import entropy
from tercet.inference.preferences.reward_gaussian import RewardMoments
from tercet.inference.preferences.reward_view import RewardView
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel

NUMBERS_AT_ONCE = 250_000
"""Numbers (candidates x draws) that are held at once: they stay in the cache."""
ITEMS_AT_ONCE = 256
"""Items that go through a network at once: its hidden layers hold draws x items x units numbers."""


@dataclass(frozen=True, eq=False)
class DrawPool(Pool):
    """m candidates under s draws of the posterior.

    Attributes
    ----------
    pairs : int [m, 2], positions among the rewards
    model : the likelihood
    rewards : draws of the rewards of the items that occur, an item a row
    sites : draws of the other sites, by name
    annotator : int [m], who would answer each (None: an annotator of precision 1)
    ordered : whether the first of a pair is shown first (targets are not)
    target : target pairs under the same draws, for criteria that read them
    """

    pairs: Int[np.ndarray, "m 2"]
    model: ComparisonModel
    rewards: Float[np.ndarray, "n s"]
    sites: dict[str, np.ndarray]
    annotator: Int[np.ndarray, " m"] | None
    ordered: bool = True
    target: DrawPool | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def draws(self) -> int:
        """Number of draws."""
        return int(self.rewards.shape[1])

    def take(self, index: np.ndarray) -> DrawPool:
        """The pool of these candidates only."""
        return replace(
            self, pairs=self.pairs[index], annotator=None if self.annotator is None else self.annotator[index]
        )

    def sample(self, index: np.ndarray) -> DrawPool:
        """A pool of these candidates alone: rewards are shared, and cost nothing."""
        return self.take(index)

    def logit(self, block: slice) -> Float[np.ndarray, "b s"]:
        """Draws of the logits of some candidates."""
        pairs = self.pairs[block]
        logit = self.rewards[pairs[:, 0]] - self.rewards[pairs[:, 1]]
        if self.ordered and self.model.effects:
            logit += self.model.shift(len(pairs), self.sites)
        if self.annotator is not None:
            logit *= self.sites["precision"].T[self.annotator[block]]
        return np.asarray(logit)

    def blocks(self) -> Iterator[slice]:
        """Candidates, some at a time."""
        size = max(1, NUMBERS_AT_ONCE // self.draws)
        return (slice(start, start + size) for start in range(0, len(self), size))

    def probabilities(self, block: slice) -> Float[np.ndarray, "b s K"]:
        """Draws of the probabilities of all answers to some candidates."""
        return np.asarray(self.model.probabilities(self.logit(block), self.sites))

    def averages(self, block: slice) -> tuple[Float[np.ndarray, "b K"], Float[np.ndarray, " b"]]:
        """Means over the draws of the probabilities of all answers to some candidates, and of their entropy."""
        logit, link = self.logit(block), self.model.link
        if link is None:
            p = np.asarray(self.model.probabilities(logit, self.sites))
            return p.mean(axis=1), entropy(p).mean(axis=1)
        first = link.probability(logit).mean(axis=1)
        return np.stack([1.0 - first, first], axis=-1), link.entropy(logit).mean(axis=1)

    def all_but_last(self, block: slice) -> Float[np.ndarray, "K b s"]:
        """Draws of the probabilities of all answers but the last to some candidates."""
        if self.model.link is not None:
            return self.model.link.probability(-self.logit(block))[None]
        return np.ascontiguousarray(np.moveaxis(self.probabilities(block)[..., :-1], -1, 0))

    @property
    def difference(self) -> RewardMoments:
        """Mean and variance over the draws of the logit [m] of each candidate's answer."""
        logits = [self.logit(block) for block in self.blocks()]
        means = [np.mean(logit, axis=1) for logit in logits] or [np.empty(0)]
        variances = [np.var(logit, axis=1, ddof=1) for logit in logits] or [np.empty(0)]
        return RewardMoments(np.concatenate(means), np.concatenate(variances))

    @property
    def expected_outcome(self) -> Float[np.ndarray, " m"]:
        """Predictive probability [m] that the first is preferred, ties counted as half."""
        expected = (self.model.expected_outcome(self.logit(block), self.sites) for block in self.blocks())
        return np.concatenate([np.mean(block, axis=1) for block in expected] or [np.empty(0)])


def draw_pool(view: RewardView, pairs: np.ndarray, annotator: np.ndarray | None, draws: int) -> DrawPool:
    """Pairs of items under at most this many draws; the rewards of other items are not computed."""
    model, known, sites = view.model, view.items, view.draws(draws)
    if model.head.per_item:
        codes, parts = pairs, iter([known])  # abilities are those of all items at once
    else:
        used, codes = np.unique(pairs, return_inverse=True)
        features: Any = known.features[used] if len(used) else np.empty((0, 1))  # read at once, where they are on disk
        parts = (Items(features[start : start + ITEMS_AT_ONCE]) for start in range(0, len(used), ITEMS_AT_ONCE))
    rewards = [np.asarray(model.head.rewards(sites, part), np.float64).T for part in parts]
    count = len(next(iter(sites.values())))
    joined = np.concatenate([np.empty((0, count)), *rewards])
    if len(joined):
        joined -= joined.mean(axis=0)  # each draw of a network has an origin of its own, which cancels in pairs
    others = {name: np.asarray(values, np.float64) for name, values in sites.items()}
    return DrawPool(codes.reshape(-1, 2), model, joined, others, annotator)
