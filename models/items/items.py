"""Items: what is compared, one row of features each, with names, prompts and how the features were made."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.models._inputs import as_floats, as_ids, same_length
from tercet.models._pytree import Container, pytree
from tercet.models.items.chunked import is_dask, open_dask
from tercet.models.items.features import Features, InMemory
from tercet.models.items.projection import FeatureMap


@pytree("ids")
@dataclass(frozen=True)
class Items(Container):
    """What is compared: one row of features an item.

    Parameters
    ----------
    features : array [n, d], Dask array [n, d], or Features
        Frozen embeddings or any covariates, without missing values. Half precision becomes single. What is too large
        for memory stays on disk (`open_embeddings`) or in its Dask array, as Features that are read block by block
        when they are needed, and checked when they are read.
    ids : sequence of n unique names, optional
        Become the coordinates of ArviZ output and the rows of tables.
    prompt : int or str array [n], optional
        The prompt (group) each item answers; pairs can be kept within or across prompts.
    projection : Projection or HiddenFeatures, optional
        Set by `project` and by trained networks: how raw embeddings became these features.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.models import Items
    >>> items = Items(np.eye(3), ids=["a", "b", "c"])
    >>> len(items), items.names
    (3, ('a', 'b', 'c'))
    """

    features: np.ndarray | Features
    ids: tuple[Hashable, ...] | None = None
    prompt: np.ndarray | None = None
    projection: FeatureMap | None = None

    def __init__(
        self,
        features: ArrayLike | Features,
        ids: Sequence[Hashable] | None = None,
        prompt: ArrayLike | None = None,
        projection: FeatureMap | None = None,
    ) -> None:
        known = _as_features(features)
        prompt = known.prompt if prompt is None else prompt
        codes = None if prompt is None else np.unique(np.asarray(prompt), return_inverse=True)[1].reshape(-1)
        same_length(features=known, prompt=codes)
        object.__setattr__(self, "features", known.public)
        object.__setattr__(self, "ids", as_ids("ids", ids, len(known)))
        object.__setattr__(self, "prompt", codes)
        object.__setattr__(self, "projection", projection)

    @classmethod
    def named(cls, ids: Sequence[Hashable]) -> Items:
        """Items known by name only (no features), for a model with one ability an item."""
        return cls(np.ones((len(ids), 1)), ids=ids)

    @classmethod
    def from_frame(cls, frame: Any, features: Sequence[str], id: str | None = None, prompt: str | None = None) -> Items:
        """Build from a DataFrame: feature columns, and optionally the columns of names and prompts."""
        return cls(
            frame[list(features)].to_numpy(),
            ids=None if id is None else frame[id].tolist(),
            prompt=None if prompt is None else frame[prompt].to_numpy(),
        )

    def __len__(self) -> int:
        return int(self.features.shape[0])

    @property
    def names(self) -> tuple[Hashable, ...]:
        """The ids, or positions 0..n-1 where none were given."""
        return tuple(range(len(self))) if self.ids is None else self.ids

    @property
    def coords(self) -> dict[str, list[Hashable]]:
        """The names along plate `item`."""
        return {"item": list(self.names)}

    def nameless(self) -> Items:
        """The features alone."""
        return Items(self.features)

    @property
    def operator(self) -> Features:
        """The features as an operator, in memory or not: their products, moments and blocks."""
        return self.features if isinstance(self.features, Features) else InMemory(self.features)

    def take(self, positions: ArrayLike) -> Items:
        """The items at these positions (int or boolean array), with ids, prompts and projection."""
        index = np.arange(len(self))[np.asarray(positions)]
        return Items(
            self.operator.take(index),
            ids=None if self.ids is None else [self.ids[i] for i in index],
            prompt=None if self.prompt is None else self.prompt[index],
            projection=self.projection,
        )

    def loaded(self, positions: ArrayLike) -> Items:
        """The items at these positions with their features in memory, read where they were not."""
        taken = self.take(positions)
        return Items(taken.features[:], taken.ids, taken.prompt, self.projection)

    def mapped(self, feature_map: FeatureMap, projection: FeatureMap | None) -> Items:
        """The same items with features after this map; `projection` says how raw embeddings become them."""
        return Items(self.operator.mapped(feature_map), self.ids, self.prompt, projection)


def _as_features(values: ArrayLike | Features) -> Features:
    if is_dask(values):
        return open_dask(values)
    given = values.public if isinstance(values, Features) else values
    return given if isinstance(given, Features) else InMemory(as_floats("features", given, 2))


def check_in_memory(items: Items) -> None:
    """Raise where features are on disk, or in a Dask array, and a NumPyro model wants all of them at once."""
    if not items.operator.in_memory:
        raise ValueError(
            f"these {len(items):,} items have their features on disk (or in a Dask array): they are read by laplace "
            "(linear heads, and networks), ensemble, reward, reward_difference, win_probability and select_pairs. For "
            "other questions (nuts, svi, log likelihoods) load what is needed: items.loaded(positions)."
        )
