"""Simulated preferences with known truth."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from tercet.models._inputs import as_generator
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons


class SimulatedPreferences(NamedTuple):
    """Items, answered comparisons, and the weights [d] and rewards [n] behind them."""

    items: Items
    comparisons: Comparisons
    weights: np.ndarray
    rewards: np.ndarray


def simulated_preferences(
    n_items: int = 500, dim: int = 16, n_comparisons: int = 2000, difference_sd: float = 2.0, key: Any = 0
) -> SimulatedPreferences:
    """Draw items x ~ Normal(0, I), weights, and Bradley-Terry answers to random pairs.

    Parameters
    ----------
    n_items, dim, n_comparisons : sizes
    difference_sd : standard deviation of the reward difference of two random items, in logits
    key : int seed or JAX key

    Examples
    --------
    >>> from tercet.datasets import simulated_preferences
    >>> simulated_preferences(50, 4, 100).items.features.shape
    (50, 4)
    """
    if n_items < 2 or dim < 1 or n_comparisons < 1 or not 0 <= difference_sd < np.inf:
        raise ValueError(
            "need n_items >= 2, dim >= 1, n_comparisons >= 1 and a finite difference_sd >= 0, got "
            f"{n_items}, {dim}, {n_comparisons}, {difference_sd}."
        )
    rng = as_generator(key)
    features = rng.standard_normal((n_items, dim))
    weights = rng.standard_normal(dim)
    weights *= difference_sd / np.sqrt(2.0 * np.square(weights).sum())
    rewards = features @ weights
    first = rng.integers(n_items, size=n_comparisons)
    second = (first + rng.integers(1, n_items, size=n_comparisons)) % n_items
    outcome = (rng.random(n_comparisons) < expit(rewards[first] - rewards[second])).astype(float)
    return SimulatedPreferences(Items(features), Comparisons(first, second, outcome), weights, rewards)
