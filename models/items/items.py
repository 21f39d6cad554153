"""Items: what is compared, one row of features each, with names, prompts and how the features were made."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.models._inputs import as_floats, as_ids, same_length
from tercet.models._pytree import Container, pytree
from tercet.models.items.dask_features import is_dask, open_dask
from tercet.models.items.embeddings import Embeddings, map_features
from tercet.models.items.projection import FeatureMap, Projection, fit_projection


@pytree("ids")
@dataclass(frozen=True)
class Items(Container):
    """What is compared: one row of features an item.

    Parameters
    ----------
    features : array [n, d], Dask array [n, d], or Embeddings
        Frozen embeddings or any covariates, without missing values. Half precision becomes single. What is too large
        for memory stays on disk (`open_embeddings`) or in its Dask array, and becomes Embeddings: read block by block
        when it is needed, checked when it is read.
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

    features: np.ndarray | Embeddings
    ids: tuple[Hashable, ...] | None = None
    prompt: np.ndarray | None = None
    projection: FeatureMap | None = None

    def __init__(
        self,
        features: ArrayLike | Embeddings,
        ids: Sequence[Hashable] | None = None,
        prompt: ArrayLike | None = None,
        projection: FeatureMap | None = None,
    ) -> None:
        streamed = open_dask(features) if is_dask(features) else features
        array = streamed if isinstance(streamed, Embeddings) else as_floats("features", streamed, 2)
        prompt = array.prompt if prompt is None and isinstance(array, Embeddings) else prompt
        codes = None if prompt is None else np.unique(np.asarray(prompt), return_inverse=True)[1].reshape(-1)
        same_length(features=array, prompt=codes)
        object.__setattr__(self, "features", array)
        object.__setattr__(self, "ids", as_ids("ids", ids, len(array)))
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

    def take(self, positions: ArrayLike) -> Items:
        """The items at these positions (int or boolean array), with ids, prompts and projection."""
        index = np.arange(len(self))[np.asarray(positions)]
        return Items(
            self.features.take(index) if isinstance(self.features, Embeddings) else self.features[index],
            ids=None if self.ids is None else [self.ids[i] for i in index],
            prompt=None if self.prompt is None else self.prompt[index],
            projection=self.projection,
        )

    def loaded(self, positions: ArrayLike) -> Items:
        """The items at these positions with their features in memory, read where they were not."""
        taken = self.take(positions)
        return replace_features(taken, taken.features[:], self.projection)


def project(items: Items, components: int | Projection | None) -> Items:
    """Project features on principal components with one common scale, or only centre and scale them (None).

    z = (x - center) V / s, with V the leading right singular vectors of the centred features and s the root
    mean variance of the components, so that the spread of one component against another is kept. The
    projection travels with the items and with every posterior fitted on them: raw embeddings given to
    `tercet.inference.reward` are projected in the same way.

    Parameters
    ----------
    items : Items
        Raw features [n, d].
    components : int, Projection or None
        Number of components k <= min(n, d), or a projection fitted elsewhere; None keeps all d features, z = (x -
        center) / s.

    Returns
    -------
    Items
        Features [n, k].

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.models import Items, project
    >>> items = project(Items(np.random.default_rng(0).normal(size=(50, 8))), 3)
    >>> items.features.shape, round(float(items.features.var(0).mean()), 6)
    ((50, 3), 1.0)
    """
    if items.projection is not None:
        raise ValueError("these items are projected already; project the raw items instead.")
    fitted = components if isinstance(components, Projection) else fit_projection(items.features, components)
    return replace_features(items, map_features(items.features, fitted), fitted)


def replace_features(items: Items, features: np.ndarray | Embeddings, projection: FeatureMap | None) -> Items:
    """The same items (ids, prompts) with other features."""
    return Items(features, ids=items.ids, prompt=items.prompt, projection=projection)


def check_in_memory(items: Items) -> None:
    """Raise where features are on disk, or in a Dask array, and a NumPyro model wants all of them at once."""
    if isinstance(items.features, Embeddings):
        raise ValueError(
            f"these {len(items):,} items have their features on disk (or in a Dask array): they are read by laplace "
            "(linear heads, and networks), ensemble, reward, reward_difference, win_probability and select_pairs. For "
            "other questions (nuts, svi, log likelihoods) load what is needed: items.loaded(positions)."
        )
