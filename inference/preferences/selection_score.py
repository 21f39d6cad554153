"""Scores by which the best of several items is chosen: posterior mean rewards, or pessimistic ones."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.posteriors.sampled import SampledPosterior
from tercet.inference.preferences.reward_view import on
from tercet.models._inputs import KeyLike, as_generator
from tercet.models.items.items import Items

RULES = ("mean", "lower bound", "minimum")


def selection_score(
    posterior: Posterior,
    items: Items | ArrayLike,
    rule: Literal["mean", "lower bound", "minimum"] = "mean",
    *,
    k: float = 1.0,
    draws: int = 8,
    key: KeyLike = 0,
) -> Float[np.ndarray, " n"]:
    """Score of each item for choosing the best of its prompt.

    "mean" is E r_i; "lower bound" E r_i - k sd(r_i - r_bar); "minimum" E r_bar + min_s (r_i^s - r_bar^s) over draws s
    of the posterior (all members of an ensemble). r_bar is the mean reward of the item's prompt, or of all items
    without prompts: only differences of rewards are identified, and the origin differs between members of an ensemble.

    Parameters
    ----------
    posterior : of a comparison model
    items : Items (with prompts, where there are several), or raw features [n, d]
    rule : "mean", "lower bound" or "minimum"
    k : number of standard deviations below the mean, for the lower bound
    draws : number of draws of the minimum, where the posterior is not an ensemble
    key : int seed or JAX key of these draws

    Returns
    -------
    array [n]

    Raises
    ------
    ValueError
        An unknown rule, a negative k, no draws.

    References
    ----------
    Sun, Shen, Ton, van der Schaar (2025), Reusing embeddings, section 4 (rules for ensembles).

    Examples
    --------
    >>> from tercet.datasets import american_league_1987
    >>> from tercet.inference import laplace, selection_score
    >>> from tercet.models import AbilityHead, BradleyTerry
    >>> teams, games = american_league_1987()
    >>> fit = laplace(BradleyTerry(AbilityHead()), teams, games)
    >>> bool((selection_score(fit, teams, "lower bound") < selection_score(fit, teams)).all())
    True
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}.")
    if not k >= 0 or draws < 1:
        raise ValueError(f"k must not be negative and draws at least 1, got k={k} and draws={draws}.")
    view = on(posterior, items)
    known, rewards = view.items, view.gaussian
    if rule == "mean":
        return np.asarray(rewards.mean)
    if rule == "lower bound":
        centred = _centred(rewards.whitened, known)
        return np.asarray(rewards.mean - k * np.sqrt(np.einsum("ij,ij->i", centred, centred)))
    if isinstance(posterior, SampledPosterior):
        count = int(posterior.diagnostics["members"]) if posterior.kind == "ensemble" else draws
        sample = view.rewards(posterior.draws(count, key)).T
    else:
        noise = as_generator(key).standard_normal((rewards.root.shape[1], draws))
        sample = rewards.mean[:, None] + rewards.whitened @ noise
    prompt_mean = rewards.mean - _centred(rewards.mean[:, None], known)[:, 0]
    return np.asarray(prompt_mean + _centred(sample, known).min(axis=1))


def _centred(values: Float[np.ndarray, "n k"], items: Items) -> Float[np.ndarray, "n k"]:
    """Rows minus the mean row of their prompt."""
    if items.prompt is None:
        return np.asarray(values - values.mean(axis=0))
    order = np.argsort(items.prompt, kind="stable")
    counts = np.bincount(items.prompt)
    means = np.add.reduceat(values[order], np.r_[0, np.cumsum(counts)[:-1]], axis=0) / counts[:, None]
    return np.asarray(values - means[items.prompt])
