"""What a posterior says about rewards: of items, of differences, of who would win."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tercet.inference.posteriors.evaluation import Draws
from tercet.inference.posteriors.gaussian import GaussianPosterior, SiteGaussian
from tercet.inference.posteriors.posterior import Posterior
from tercet.models._inputs import as_pairs
from tercet.models.items.features import Features, InMemory
from tercet.models.items.items import Items
from tercet.models.items.projection import FeatureMap
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.differences import GraphDifferences
from tercet.models.preferences.heads import LinearInParameters
from tercet.models.preferences.mlp_head import HiddenFeatures

PREDICTIVE_DRAWS = 1000
READ = 4096  # pairs whose items are read from disk at once
NETWORK_DRAWS = 200  # forward passes behind the moments of a network's rewards


class Moments(NamedTuple):
    """Posterior mean [n] and variance [n]."""

    mean: np.ndarray
    variance: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """Posterior standard deviation [n]."""
        return np.sqrt(self.variance)


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

    def difference(self, pairs: Int[np.ndarray, "m 2"], covariates: Float[np.ndarray, "m c"] | None = None) -> Moments:
        """Mean and variance of r(first) - r(second), plus the effects of covariates where these are given."""
        return self.moments(self.rows(pairs, covariates))

    def moments(self, rows: GraphDifferences) -> Moments:
        """Mean and variance of each row D theta."""
        return Moments(self.mean_of(rows), rows.squared_gaps(self.whitened, self.root))

    def mean_of(self, rows: GraphDifferences) -> Float[np.ndarray, " m"]:
        """Mean of each row D theta."""
        return rows.along(np.append(self.mean, self.effects))


def _squared_norms(rows: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    return np.asarray(np.einsum("ij,ij->i", rows, rows))


def comparison_model(posterior: Any) -> ComparisonModel:
    """The comparison model behind a posterior, or an error."""
    if not isinstance(posterior, Posterior):
        raise ValueError(
            f"expected a posterior (of laplace, nuts or svi), got {type(posterior).__name__}; the order of arguments "
            "is select_pairs(items, posterior, budget) and reward(posterior, items)."
        )
    model = posterior.context.model
    if not isinstance(model, ComparisonModel):
        raise ValueError(
            "rewards belong to a posterior of BradleyTerry, Thurstone or Davidson itself, got the model "
            f"{model!r}; of a wrapped model use posterior.draws() and the head's rewards(...)."
        )
    return model


def as_items(posterior: Any, items: Items | ArrayLike) -> Items:
    """Items in the features the posterior was fitted on: raw embeddings are projected."""
    model = comparison_model(posterior)
    given = items if isinstance(items, Items) else Items(items)
    if model.head.per_item:
        return given  # features play no part; the number of items is checked with the rewards
    return in_features_of(posterior.context.projection, given)


def in_features_of(projection: FeatureMap | None, given: Items) -> Items:
    """Items in the features of a fit whose items were projected like this: raw embeddings are projected."""
    if projection is None or (given.projection is not None and projection.same_as(given.projection)):
        return given
    if isinstance(projection, HiddenFeatures) and projection.starts_from(given.projection):
        return given.mapped(projection.after, projection)
    if given.projection is not None:
        raise ValueError("these items were projected differently from those of the fit; pass the raw items.")
    return given.mapped(projection, projection)


def reward_gaussian(posterior: Posterior, items: Items | ArrayLike) -> RewardGaussian:
    """Rewards of items as a Gaussian: exact under a Gaussian posterior, by moments of the draws otherwise."""
    model, known = comparison_model(posterior), as_items(posterior, items)
    if not isinstance(model.head, LinearInParameters):
        return _moments_of_draws(posterior, model, known)
    features = model.head.features(known).in_double()
    center, root, effects = _head_moments(posterior, model, model.head.site)
    if features.shape[1] != len(center):
        raise ValueError(
            f"the posterior has {len(center)} abilities and there are {len(known)} items: abilities belong to the "
            "items of the fit; unseen items need a head on features, such as LinearHead."
            if model.head.per_item
            else f"items have {features.shape[1]} features, the posterior has {len(center)} weights; pass items "
            "with the features (or raw embeddings) of the fit."
        )
    return RewardGaussian(features, features @ center, root, effects)


def _moments_of_draws(posterior: Posterior, model: ComparisonModel, items: Items) -> RewardGaussian:
    """Heads that are not linear: the Gaussian of the mean and covariance of the rewards over draws.

    r = mean + root xi is linear in xi ~ Normal(0, I): there are as many parameters as draws, not as items.
    """
    draws = some_draws(posterior, NETWORK_DRAWS)
    parts = (items,) if model.head.per_item else (Items(block) for _, block in items.operator.blocks())
    rewards = np.concatenate([np.asarray(model.head.rewards(draws, part)) for part in parts], axis=1)
    rewards = rewards - rewards.mean(axis=1, keepdims=True)  # each network has an origin of its own
    effects, scale = _effects(draws, model, len(rewards)), np.sqrt(len(rewards) - 1.0)
    root = np.vstack([np.eye(len(rewards)), (effects - effects.mean(axis=0)).T / scale])
    features = InMemory((rewards - rewards.mean(axis=0)).T / scale)
    return RewardGaussian(features, rewards.mean(axis=0), root, effects.mean(axis=0))


def _effects(draws: Draws, model: ComparisonModel, count: int) -> Float[np.ndarray, "s c"]:
    """Draws of the effects of covariates."""
    return np.stack([draws[name] for name in model.effects], axis=1) if model.effects else np.empty((count, 0))


def some_draws(posterior: Posterior, most: int) -> Draws:
    """All draws of chains (or members of an ensemble) where they are few, else a random sample of them."""
    samples = getattr(posterior, "samples", None)
    available = most if samples is None else int(np.prod(next(iter(samples.values())).shape[:2]))
    return posterior.draws(min(most, available), key=0)


def _head_moments(posterior: Posterior, model: ComparisonModel, site: str) -> tuple[Any, Any, Any]:
    """Means of the head's parameters, root of the covariance of these and of the effects, means of the effects."""
    if isinstance(posterior, GaussianPosterior) and site in posterior.slices:
        rows = np.r_[posterior.slices[site], *(posterior.slices[name] for name in model.effects)]
        center, root = posterior.center[rows], posterior.root[rows]
    else:
        draws = some_draws(posterior, 4000)
        sites = np.column_stack([draws[site], _effects(draws, model, len(draws[site]))])
        center = sites.mean(axis=0)
        root = (sites - center).T / np.sqrt(len(sites) - 1)
    size = len(center) - len(model.effects)
    return center[:size], root, center[size:]


def reward(posterior: Any, items: Items | ArrayLike) -> Moments:
    """Posterior mean and variance of the reward of each item.

    E r_i = x_i . E w, Var r_i = x_i' Cov(w) x_i. Only differences of rewards have a meaning of their own: the
    variance of r_i - r_j is `reward_difference`, not a sum of these.

    Parameters
    ----------
    posterior : of a comparison model
    items : Items, or raw features [n, d]
        Raw embeddings are projected as those of the fit were.

    Returns
    -------
    Moments
        mean [n] and variance [n], in logits (Bradley-Terry, Davidson) or probits (Thurstone).

    Examples
    --------
    >>> from tercet.datasets import american_league_1987
    >>> from tercet.inference import laplace, reward
    >>> from tercet.models import AbilityHead, BradleyTerry
    >>> teams, games = american_league_1987()
    >>> reward(laplace(BradleyTerry(AbilityHead(1.0)), teams, games), teams).mean.round(2).tolist()[0]
    0.48
    """
    rewards = reward_gaussian(posterior, items)
    return Moments(rewards.mean, rewards.variance)


def reward_difference(posterior: Any, items: Items | ArrayLike, pairs: ArrayLike) -> Moments:
    """Posterior mean and variance of the reward difference r(first) - r(second) of each pair.

    Var(r_i - r_j) = (x_i - x_j)' Cov(w) (x_i - x_j).

    Parameters
    ----------
    posterior : of a comparison model
    items : Items, or raw features [n, d]
    pairs : int array [m, 2]

    Returns
    -------
    Moments
        mean [m] and variance [m].
    """
    known, per_item = as_items(posterior, items), comparison_model(posterior).head.per_item
    if not (per_item or known.operator.in_memory):
        found = [reward_difference(posterior, *part) for part in _read_pairs(known, as_pairs(pairs, len(known)))]
        return Moments(*(np.concatenate(values) for values in zip(*found, strict=True)))
    return reward_gaussian(posterior, known).difference(as_pairs(pairs, len(known)))


def _read_pairs(items: Items, pairs: np.ndarray | Comparisons) -> Iterator[tuple[Items, Any]]:
    """Some pairs at a time, each time with their items alone, read from disk."""
    for start in range(0, len(pairs), READ):
        rows = np.arange(start, min(start + READ, len(pairs)))
        ends = (pairs.pairs if isinstance(pairs, Comparisons) else pairs)[rows]
        used, codes = np.unique(ends, return_inverse=True)
        own, index = Items(items.features[used], projection=items.projection), codes.reshape(-1, 2)
        if isinstance(pairs, Comparisons):
            yield own, replace(pairs.take(rows), first=index[:, 0], second=index[:, 1])
        else:
            yield own, index


def win_probability(
    posterior: Any, items: Items | ArrayLike, pairs: ArrayLike | Comparisons, order: bool = False
) -> Float[np.ndarray, " m"]:
    """Posterior predictive probability that the first of each pair is preferred (a tie counts as half).

    p = E F(r_first - r_second) over the posterior: from the Gaussian of the difference (closed for the probit link,
    exact to 1e-9 for the logistic), or the average over draws where the posterior is not Gaussian in the rewards.
    With annotators, that of one of precision 1, or of the annotator named by each row of `Comparisons`.

    Parameters
    ----------
    posterior : of a comparison model
    items : Items, or raw features [n, d]
    pairs : int array [m, 2], or Comparisons (outcomes are not used)
    order : include the order effect, as when the first of each pair is really shown first

    Returns
    -------
    array [m] in [0, 1]
    """
    model = comparison_model(posterior)
    known = as_items(posterior, items)
    index = as_pairs(pairs.pairs if isinstance(pairs, Comparisons) else pairs, len(known))
    if not (model.head.per_item or known.operator.in_memory):
        given = pairs if isinstance(pairs, Comparisons) else index
        return np.concatenate([win_probability(posterior, *part, order) for part in _read_pairs(known, given)])
    gaussian = isinstance(posterior, SiteGaussian)
    if gaussian and model.link is not None and not model.annotators:
        covariates = model.covariates(len(index)) if order else None
        moments = reward_gaussian(posterior, known).difference(index, covariates)
        return model.link.integrate(moments.mean, moments.variance)
    who = pairs.annotator if isinstance(pairs, Comparisons) and model.annotators else None
    return _average_outcome(posterior, model, known, index, order, who)


def _average_outcome(
    posterior: Posterior, model: ComparisonModel, items: Items, pairs: np.ndarray, order: bool, who: Any
) -> np.ndarray:
    draws, covariates = some_draws(posterior, PREDICTIVE_DRAWS), model.covariates(len(pairs))
    total, count = np.zeros(len(pairs)), len(next(iter(draws.values())))
    for k in range(count):
        sites = {name: values[k] for name, values in draws.items()}
        rewards = np.asarray(model.head.rewards(sites, items))
        logit = rewards[pairs[:, 0]] - rewards[pairs[:, 1]]
        if order and covariates is not None:
            logit = logit + covariates @ np.array([sites[name] for name in model.effects])
        if who is not None:
            logit = logit * sites["precision"][who]
        total += model.expected_outcome(logit, sites)
    return total / count
