"""What a posterior says about rewards: of items, of differences, of who would win."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.reward_gaussian import RewardMoments
from tercet.inference.preferences.reward_view import READ, RewardView, on
from tercet.models._inputs import as_pairs
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons

PREDICTIVE_DRAWS = 1000


def reward(posterior: Posterior | RewardView, items: Items | ArrayLike) -> RewardMoments:
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
    RewardMoments
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
    rewards = on(posterior, items).gaussian
    return RewardMoments(rewards.mean, rewards.variance)


def reward_difference(
    posterior: Posterior | RewardView, items: Items | ArrayLike, pairs: ArrayLike, *, chunk: int = READ
) -> RewardMoments:
    """Posterior mean and variance of the reward difference r(first) - r(second) of each pair.

    Var(r_i - r_j) = (x_i - x_j)' Cov(w) (x_i - x_j).

    Parameters
    ----------
    posterior : of a comparison model
    items : Items, or raw features [n, d]
    pairs : int array [m, 2]
    chunk : pairs whose items are read at once, where features are on disk

    Returns
    -------
    RewardMoments
        mean [m] and variance [m].
    """
    view = on(posterior, items)
    index = as_pairs(pairs, len(view.items))
    if view.listed:
        return view.gaussian.difference(index)
    parts = [part.gaussian.difference(own) for part, own in view.parts(index, chunk)]
    return RewardMoments(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def win_probability(
    posterior: Posterior | RewardView,
    items: Items | ArrayLike,
    pairs: ArrayLike | Comparisons,
    order: bool = False,
    *,
    chunk: int = READ,
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
    chunk : pairs whose items are read at once, where features are on disk

    Returns
    -------
    array [m] in [0, 1]
    """
    view = on(posterior, items)
    index = as_pairs(pairs.pairs if isinstance(pairs, Comparisons) else pairs, len(view.items))
    if view.listed:
        return _win_probability(view, index, pairs.annotator if isinstance(pairs, Comparisons) else None, order)
    given = pairs if isinstance(pairs, Comparisons) else index
    return np.concatenate([win_probability(part, part.items, own, order) for part, own in view.parts(given, chunk)])


def _win_probability(view: RewardView, pairs: np.ndarray, annotator: np.ndarray | None, order: bool) -> np.ndarray:
    model = view.model
    if view.exact and model.link is not None and not model.annotators:
        moments = view.gaussian.difference(pairs, model.covariates(len(pairs)) if order else None)
        return model.link.integrate(moments.mean, moments.variance)
    draws = view.draws(PREDICTIVE_DRAWS)
    total, count = np.zeros(len(pairs)), len(next(iter(draws.values())))
    for k in range(count):
        sites = {name: values[k] for name, values in draws.items()}
        rewards = view.rewards(sites)
        logit = rewards[pairs[:, 0]] - rewards[pairs[:, 1]]
        if order:
            logit = logit + model.shift(len(pairs), sites)
        if annotator is not None and model.annotators:
            logit = logit * sites["precision"][annotator]
        total += model.expected_outcome(logit, sites)
    return total / count
