"""What a posterior says about rewards: of items, of differences, of who would win."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tercet.inference.posteriors.evaluation import Draws
from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.inference.posteriors.posterior import Posterior
from tercet.models._blocks import in_blocks
from tercet.models._inputs import as_pairs
from tercet.models.items.embeddings import Embeddings, map_features
from tercet.models.items.items import Items, replace_features
from tercet.models.items.projection import FeatureMap, blocks_of, over_blocks
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.heads import AbilityHead, LinearInParameters
from tercet.models.preferences.mlp_head import HiddenFeatures

WIDE = 2048  # pairs whose whitened differences are held at once, in a core's cache
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
    features : array [n, p], embeddings on disk, or None for one ability an item (the identity)
    mean : array [n]
    root : array [p, k], root root' the covariance of the head's parameters
    order : mean and row of the root of the order effect, where the model has one
    """

    features: Float[np.ndarray, "n p"] | Embeddings | None
    mean: Float[np.ndarray, " n"]
    root: Float[np.ndarray, "p k"]
    order: tuple[float, np.ndarray] | None = None

    @cached_property
    def whitened(self) -> Float[np.ndarray, "n k"]:
        """Rows z_i with Cov(r_i, r_j) = z_i . z_j."""
        if isinstance(self.features, Embeddings):
            raise ValueError(
                f"the features of these {len(self.mean):,} items are on disk, and this question holds all of them in "
                "memory; ask it of some items, items.loaded(positions)."
            )
        return self.root if self.features is None else self.features @ self.root

    @cached_property
    def variance(self) -> Float[np.ndarray, " n"]:
        """Variance of each reward."""
        if not isinstance(self.features, Embeddings):
            return np.einsum("ij,ij->i", self.whitened, self.whitened)
        return np.concatenate(over_blocks(self.features, partial(_squared_norms, self.root)))

    def difference(self, pairs: Int[np.ndarray, "m 2"], order: bool = False) -> Moments:
        """Mean and variance of r(first) - r(second) (plus the order effect where asked)."""
        mean = self.mean[pairs[:, 0]] - self.mean[pairs[:, 1]]
        shift = self.order[1] if order and self.order is not None else 0.0
        if order and self.order is not None:
            mean = mean + self.order[0]
        return Moments(mean, squared_gaps(self.whitened, pairs[:, 0], pairs[:, 1], shift))


def squared_gaps(rows: np.ndarray, first: np.ndarray, second: np.ndarray, shift: Any = 0.0) -> Float[np.ndarray, " m"]:
    """|rows[first] - rows[second] + shift|^2, a few pairs at a time."""
    blocks = in_blocks(lambda part: _squared_gaps(rows[first[part]], rows[second[part]], shift), len(first), WIDE)
    return np.concatenate([np.empty(0), *blocks])


def _squared_gaps(gap: np.ndarray, second: np.ndarray, shift: Any) -> np.ndarray:
    gap -= second
    gap += shift
    return np.einsum("ij,ij->i", gap, gap)


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
    if isinstance(model.head, AbilityHead):
        return given  # features play no part; the number of items is checked with the rewards
    return in_features_of(posterior.context.projection, given)


def in_features_of(projection: FeatureMap | None, given: Items) -> Items:
    """Items in the features of a fit whose items were projected like this: raw embeddings are projected."""
    if projection is None or (given.projection is not None and projection.same_as(given.projection)):
        return given
    if isinstance(projection, HiddenFeatures) and projection.starts_from(given.projection):
        return replace_features(given, map_features(given.features, projection.after), projection)
    if given.projection is not None:
        raise ValueError("these items were projected differently from those of the fit; pass the raw items.")
    return replace_features(given, map_features(given.features, projection), projection)


def reward_gaussian(posterior: Posterior, items: Items | ArrayLike) -> RewardGaussian:
    """Rewards of items as a Gaussian: exact under a Gaussian posterior, by moments of the draws otherwise."""
    model, known = comparison_model(posterior), as_items(posterior, items)
    if not isinstance(model.head, LinearInParameters):
        return _moments_of_draws(posterior, model, known)
    features = None if isinstance(model.head, AbilityHead) else known.features
    if isinstance(features, np.ndarray):
        features = features.astype(np.float64)
    center, root, order = _head_moments(posterior, model, model.head.site)
    if (known.features.shape[1] if features is not None else len(known)) != len(center):
        raise ValueError(
            f"the posterior has {len(center)} abilities and there are {len(known)} items: abilities belong to the "
            "items of the fit; unseen items need a head on features, such as LinearHead."
            if features is None
            else f"items have {known.features.shape[1]} features, the posterior has {len(center)} weights; pass items "
            "with the features (or raw embeddings) of the fit."
        )
    if features is None:
        return RewardGaussian(None, center, root, order)
    mean = np.concatenate(over_blocks(features, partial(_levels, center)))
    return RewardGaussian(features, mean, root, order)


def _levels(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return rows @ weights


def _squared_norms(root: np.ndarray, rows: np.ndarray) -> np.ndarray:
    whitened = rows @ root
    return np.einsum("ij,ij->i", whitened, whitened)


def _moments_of_draws(posterior: Posterior, model: ComparisonModel, items: Items) -> RewardGaussian:
    """Heads that are not linear: the Gaussian of the mean and covariance of the rewards over draws."""
    draws = some_draws(posterior, NETWORK_DRAWS)
    parts = (Items(block) for _, block in blocks_of(items.features))
    rewards = np.concatenate([np.asarray(model.head.rewards(draws, part)) for part in parts], axis=1)
    rewards = rewards - rewards.mean(axis=1, keepdims=True)  # each network has an origin of its own
    order = np.asarray(draws["order_effect"]) if model.order_effect else None
    root = np.sqrt(len(rewards) - 1.0)
    return RewardGaussian(
        None,
        rewards.mean(axis=0),
        (rewards - rewards.mean(axis=0)).T / root,
        None if order is None else (float(order.mean()), (order - order.mean()) / root),
    )


def some_draws(posterior: Posterior, most: int) -> Draws:
    """All draws of chains (or members of an ensemble) where they are few, else a random sample of them."""
    samples = getattr(posterior, "samples", None)
    available = most if samples is None else int(np.prod(next(iter(samples.values())).shape[:2]))
    return posterior.draws(min(most, available), key=0)


def _head_moments(posterior: Posterior, model: ComparisonModel, site: str) -> tuple[Any, Any, Any]:
    if isinstance(posterior, GaussianPosterior) and site in (places := _places(posterior)):
        rows = places[site]
        order = None
        if model.order_effect:
            place = places["order_effect"].start
            order = (float(posterior.center[place]), posterior.root[place])
        return posterior.center[rows], posterior.root[rows], order
    draws = some_draws(posterior, 4000)
    sites = np.column_stack([draws[site], draws["order_effect"]]) if model.order_effect else draws[site]
    center = sites.mean(axis=0)
    root = (sites - center).T / np.sqrt(len(sites) - 1)
    if model.order_effect:
        return center[:-1], root[:-1], (float(center[-1]), root[-1])
    return center, root, None


def _places(posterior: GaussianPosterior) -> dict[str, slice]:
    positions = posterior.unravel(np.arange(float(len(posterior.center))))
    return {
        name: slice(int(np.min(where)), int(np.max(where)) + 1) for name, where in positions.items() if np.size(where)
    }


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
    known = as_items(posterior, items)
    if isinstance(known.features, Embeddings):
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
    if isinstance(known.features, Embeddings):
        given = pairs if isinstance(pairs, Comparisons) else index
        return np.concatenate([win_probability(posterior, *part, order) for part in _read_pairs(known, given)])
    gaussian = isinstance(posterior, GaussianPosterior) and posterior.layout is not None
    if gaussian and model.link is not None and not model.annotators:
        moments = reward_gaussian(posterior, known).difference(index, order)
        return model.link.integrate(moments.mean, moments.variance)
    who = pairs.annotator if isinstance(pairs, Comparisons) and model.annotators else None
    return _average_outcome(posterior, model, known, index, order, who)


def _average_outcome(
    posterior: Posterior, model: ComparisonModel, items: Items, pairs: np.ndarray, order: bool, who: Any
) -> np.ndarray:
    draws = some_draws(posterior, PREDICTIVE_DRAWS)
    total, count = np.zeros(len(pairs)), len(next(iter(draws.values())))
    for k in range(count):
        sites = {name: values[k] for name, values in draws.items()}
        rewards = np.asarray(model.head.rewards(sites, items))
        logit = rewards[pairs[:, 0]] - rewards[pairs[:, 1]]
        if order and model.order_effect:
            logit = logit + sites["order_effect"]
        if who is not None:
            logit = logit * sites["precision"][who]
        total += model.expected_outcome(logit, sites)
    return total / count
