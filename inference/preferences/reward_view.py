"""A posterior as seen from some items, opened once: their features in the fit, and what it says of their rewards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tercet.inference.posteriors.evaluation import Draws
from tercet.inference.posteriors.gaussian import GaussianPosterior, SiteGaussian
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.posteriors.sampled import SampledPosterior
from tercet.inference.preferences.reward_gaussian import RewardGaussian
from tercet.models.items.features import InMemory
from tercet.models.items.items import Items
from tercet.models.items.projection import FeatureMap
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.heads import LinearInParameters
from tercet.models.preferences.mlp_head import HiddenFeatures

MOMENT_DRAWS = 4000  # behind the moments of a linear head that is not Gaussian
NETWORK_DRAWS = 200  # forward passes behind the moments of a network's rewards
READ = 4096  # pairs whose items are read from disk at once


@dataclass(frozen=True, eq=False)
class RewardView:
    """A posterior of a comparison model and some items in the features of its fit; made by `on`, and passed on.

    Attributes
    ----------
    posterior : of a comparison model
    model : the comparison model
    items : in the features of the fit
    """

    posterior: Posterior
    model: ComparisonModel
    items: Items

    @property
    def listed(self) -> bool:
        """Whether all features of the items can be held in memory at once (or none are needed)."""
        return self.model.head.per_item or self.items.operator.in_memory

    @property
    def exact(self) -> bool:
        """Whether rewards are exactly Gaussian under this posterior."""
        return isinstance(self.posterior, SiteGaussian) and isinstance(self.model.head, LinearInParameters)

    @property
    def answers(self) -> Comparisons | None:
        """The answered comparisons of the fit, where they are at hand."""
        return self.posterior.comparisons

    @cached_property
    def gaussian(self) -> RewardGaussian:
        """Rewards as a Gaussian: exact under a Gaussian posterior, by moments of the draws otherwise."""
        head = self.model.head
        if not isinstance(head, LinearInParameters):
            return self._of_draws()
        features = head.features(self.items).in_double()
        center, root, effects = self._moments_of(head.site)
        if features.shape[1] != len(center):
            raise ValueError(
                f"the posterior has {len(center)} abilities and there are {len(self.items)} items: abilities belong to "
                "the items of the fit; unseen items need a head on features, such as LinearHead."
                if head.per_item
                else f"items have {features.shape[1]} features, the posterior has {len(center)} weights; pass items "
                "with the features (or raw embeddings) of the fit."
            )
        return RewardGaussian(features, features @ center, root, effects)

    def draws(self, most: int) -> Draws:
        """All draws of chains (or members of an ensemble) where they are few, else a random sample of them."""
        posterior = self.posterior
        if isinstance(posterior, SampledPosterior):
            most = min(most, int(np.prod(next(iter(posterior.samples.values())).shape[:2])))
        return posterior.draws(most, key=0)

    def rewards(self, sites: Mapping[str, Any]) -> np.ndarray:
        """Rewards [..., n] of the items under draws of the head's sites."""
        return np.asarray(self.model.head.rewards(sites, self.items))

    def of(self, items: Items | ArrayLike) -> RewardView:
        """The same posterior as seen from other items."""
        return on(self.posterior, items)

    def parts(self, pairs: np.ndarray | Comparisons, size: int = READ) -> Iterator[tuple[RewardView, Any]]:
        """So many pairs at a time, each time with a view of their items alone, read from disk."""
        for start in range(0, len(pairs), size):
            rows = np.arange(start, min(start + size, len(pairs)))
            ends = (pairs.pairs if isinstance(pairs, Comparisons) else pairs)[rows]
            used, codes = np.unique(ends, return_inverse=True)
            own, index = replace(self, items=self.items.loaded(used)), codes.reshape(-1, 2)
            if isinstance(pairs, Comparisons):
                yield own, replace(pairs.take(rows), first=index[:, 0], second=index[:, 1])
            else:
                yield own, index

    def _of_draws(self) -> RewardGaussian:
        """Heads that are not linear: the Gaussian of the mean and covariance of the rewards over draws.

        r = mean + root xi is linear in xi ~ Normal(0, I): there are as many parameters as draws, not as items.
        """
        draws = self.draws(NETWORK_DRAWS)
        per_item = self.model.head.per_item
        parts = (self.items,) if per_item else (Items(block) for _, block in self.items.operator.blocks())
        rewards = np.concatenate([np.asarray(self.model.head.rewards(draws, part)) for part in parts], axis=1)
        rewards = rewards - rewards.mean(axis=1, keepdims=True)  # each network has an origin of its own
        effects, scale = self._effects(draws), np.sqrt(len(rewards) - 1.0)
        root = np.vstack([np.eye(len(rewards)), (effects - effects.mean(axis=0)).T / scale])
        features = InMemory((rewards - rewards.mean(axis=0)).T / scale)
        return RewardGaussian(features, rewards.mean(axis=0), root, effects.mean(axis=0))

    def _moments_of(self, site: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means of the head's parameters, root of the covariance of these and of the effects, means of the effects."""
        posterior, names = self.posterior, self.model.effects
        if isinstance(posterior, GaussianPosterior) and site in posterior.slices:
            rows = np.r_[posterior.slices[site], *(posterior.slices[name] for name in names)]
            center, root = posterior.center[rows], posterior.root[rows]
        else:
            draws = self.draws(MOMENT_DRAWS)
            sites = np.column_stack([draws[site], self._effects(draws)])
            center = sites.mean(axis=0)
            root = (sites - center).T / np.sqrt(len(sites) - 1)
        size = len(center) - len(names)
        return center[:size], root, center[size:]

    def _effects(self, draws: Draws) -> Float[np.ndarray, "s c"]:
        """Draws of the effects of covariates."""
        names = self.model.effects
        count = len(next(iter(draws.values())))
        return np.stack([draws[name] for name in names], axis=1) if names else np.empty((count, 0))


def on(posterior: Any, items: Items | ArrayLike) -> RewardView:
    """The view of a posterior from some items: raw embeddings go through the projection of the fit.

    Parameters
    ----------
    posterior : of a comparison model; a view of one is looked through
    items : Items, or raw features [n, d]

    Raises
    ------
    ValueError
        No posterior of a comparison model; items projected differently from those of the fit.

    Examples
    --------
    >>> from tercet.datasets import american_league_1987
    >>> from tercet.inference import laplace
    >>> from tercet.inference.preferences import on
    >>> from tercet.models import AbilityHead, BradleyTerry
    >>> teams, games = american_league_1987()
    >>> on(laplace(BradleyTerry(AbilityHead(1.0)), teams, games), teams).gaussian.mean.argmax()  # Milwaukee
    np.int64(0)
    """
    if isinstance(posterior, RewardView):
        if items is posterior.items:
            return posterior
        posterior = posterior.posterior
    model = comparison_model(posterior)
    given = items if isinstance(items, Items) else Items(items)
    # Where each item has a parameter of its own features play no part; the number of items is checked with the rewards.
    known = given if model.head.per_item else in_features_of(posterior.context.projection, given)
    return RewardView(posterior, model, known)


def comparison_model(posterior: Any) -> ComparisonModel:
    """The comparison model behind a posterior, or an error."""
    if not isinstance(posterior, Posterior):
        raise ValueError(
            f"expected a posterior (of laplace, nuts or svi), got {type(posterior).__name__}; the order of arguments "
            "is select_pairs(items, posterior, budget) and reward(posterior, items)."
        )
    model = posterior.model
    if not isinstance(model, ComparisonModel):
        raise ValueError(
            "rewards belong to a posterior of BradleyTerry, Thurstone or Davidson itself (or another ComparisonModel), "
            f"got the model {model!r}; of a wrapped model use posterior.draws() and the head's rewards(...)."
        )
    return model


def in_features_of(projection: FeatureMap | None, given: Items) -> Items:
    """Items in the features of a fit whose items were projected like this: raw embeddings are projected."""
    if projection is None or (given.projection is not None and projection.same_as(given.projection)):
        return given
    if isinstance(projection, HiddenFeatures) and projection.starts_from(given.projection):
        return given.mapped(projection.after, projection)
    if given.projection is not None:
        raise ValueError("these items were projected differently from those of the fit; pass the raw items.")
    return given.mapped(projection, projection)
