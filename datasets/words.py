"""Bundled real preferences: 4,000 words, ten human ratings of each, MiniLM embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.models._inputs import as_generator, as_pairs
from tercet.models.items.items import Items
from tercet.models.items.principal_components import project
from tercet.models.preferences.comparisons import Comparisons


@dataclass(frozen=True, eq=False)
class RatedItems:
    """Items rated by several people, which makes real preferences.

    Attributes
    ----------
    items : Items [n] with raw embeddings and ids
    ratings : int array [n, raters]
    """

    items: Items
    ratings: np.ndarray

    @property
    def mean_rating(self) -> np.ndarray:
        """Mean rating [n]: what a reward should rank like."""
        return self.ratings.mean(axis=1)

    def answer(self, pairs: ArrayLike, key: Any = 0) -> Comparisons:
        """Answer pairs by people: one random rating of each item, the higher wins, equal ones are real ties (0.5)."""
        index = as_pairs(pairs, len(self.items))
        rng = as_generator(key)
        raters = rng.integers(self.ratings.shape[1], size=index.shape)
        first, second = self.ratings[index[:, 0], raters[:, 0]], self.ratings[index[:, 1], raters[:, 1]]
        return Comparisons(index[:, 0], index[:, 1], 0.5 * (1.0 + np.sign(first.astype(int) - second)))

    def expected_outcome(self, pairs: ArrayLike) -> np.ndarray:
        """Mean outcome [m] of `answer` over all choices of raters: test labels without sampling noise."""
        index = as_pairs(pairs, len(self.items))
        gap = self.ratings[index[:, 0]][:, :, None].astype(int) - self.ratings[index[:, 1]][:, None, :]
        return 0.5 * (1.0 + np.sign(gap).mean(axis=(1, 2)))

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
