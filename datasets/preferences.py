"""Preferences: human ratings of words and games of a baseball league, both bundled, and a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from tercet.models._inputs import as_generator, as_pairs
from tercet.models.items.items import Items
from tercet.models.items.principal_components import project
from tercet.models.preferences.comparisons import Comparisons

TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
WINS = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
)
"""Games won by the row's team against the column's; every two teams played 13."""


def american_league_1987() -> tuple[Items, Comparisons]:
    """Seven baseball teams and their 273 games against each other.

    Returns
    -------
    items : Items, named, without features
    comparisons : Comparisons, one weighted row for each ordered pair of teams

    References
    ----------
    Agresti (1990), Categorical Data Analysis, table 10.10.

    Examples
    --------
    >>> from tercet.datasets import american_league_1987
    >>> teams, games = american_league_1987()
    >>> len(teams), float(games.weight.sum())
    (7, 273.0)
    """
    return Items.named(TEAMS), Comparisons.from_wins(WINS)


@dataclass(frozen=True, eq=False)
class RatedItems:
    """Items rated by several people, from which real preferences are drawn.

    Attributes
    ----------
    items : Items [n] with raw embeddings and ids
    ratings : int array [n, raters]
    """

    items: Items
    ratings: np.ndarray

    @property
    def mean_rating(self) -> np.ndarray:
        """Mean rating [n], which rewards should rank like."""
        return np.asarray(self.ratings.mean(axis=1))

    def answer(self, pairs: ArrayLike, key: int | jax.Array = 0) -> Comparisons:
        """Answer pairs [m, 2]: of one random rating of each item the higher wins, equal ones are a real tie (0.5)."""
        index = as_pairs(pairs, len(self.items))
        rng = as_generator(key)
        raters = rng.integers(self.ratings.shape[1], size=index.shape)
        first, second = self.ratings[index[:, 0], raters[:, 0]], self.ratings[index[:, 1], raters[:, 1]]
        return Comparisons(index[:, 0], index[:, 1], 0.5 * (1.0 + np.sign(first.astype(int) - second)))

    def expected_outcome(self, pairs: ArrayLike) -> np.ndarray:
        """Mean outcome [m] of `answer` over all choices of raters: test labels without sampling noise."""
        index = as_pairs(pairs, len(self.items))
        difference = self.ratings[index[:, 0]][:, :, None].astype(int) - self.ratings[index[:, 1]][:, None, :]
        return np.asarray(0.5 * (1.0 + np.sign(difference).mean(axis=(1, 2))))

    def take(self, positions: ArrayLike) -> RatedItems:
        """The items at these positions, with their ratings."""
        return RatedItems(self.items.take(positions), self.ratings[np.asarray(positions)])


def word_valence(components: int | None = None) -> RatedItems:
    """Load the bundled words: ten ratings of each from -4 (very negative) to 4 (very positive).

    Parameters
    ----------
    components : project the embeddings on so many principal components (None: raw)

    Returns
    -------
    RatedItems
        4,000 ordinary words, embeddings [4000, 384] (unit norm, stored in half precision). Many are inflections of
        one another, so held-out words are not independent of the others. Provenance and licences: WORD_VALENCE.md
        beside the file.

    Examples
    --------
    >>> from tercet.datasets import word_valence
    >>> words = word_valence()
    >>> words.items.features.shape, words.ratings.shape
    ((4000, 384), (4000, 10))
    """
    source = resources.files("tercet.datasets").joinpath("word_valence.npz")
    with source.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        words, ratings, embeddings = file["words"], file["ratings"], file["embeddings"]
    items = Items(embeddings.astype(np.float32), ids=words.tolist())
    return RatedItems(items if components is None else project(items, components), ratings)


class SimulatedPreferences(NamedTuple):
    """Items, answered comparisons, and the weights [d] and rewards [n] behind them."""

    items: Items
    comparisons: Comparisons
    weights: np.ndarray
    rewards: np.ndarray


def simulated_preferences(
    n_items: int = 500,
    dim: int = 16,
    n_comparisons: int = 2000,
    difference_sd: float = 2.0,
    key: int | jax.Array = 0,
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
