"""The four containers: items, comparisons, snapshots, sites. Frozen, checked once, pytrees of NumPy arrays.

They hold NumPy arrays rather than JAX ones so that 64-bit data stay 64-bit whatever JAX is set to.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from tercet.models._inputs import (
    as_floats,
    as_generator,
    as_indices,
    check_distinct,
    check_range,
    is_concrete,
    same_length,
)
from tercet.models._pytree import pytree
from tercet.models.dask_features import is_dask, open_dask
from tercet.models.embeddings import Embeddings, map_features
from tercet.models.projection import FeatureMap, Projection, fit_projection


def _as_ids(name: str, ids: Sequence[Hashable] | None, size: int) -> tuple[Hashable, ...] | None:
    if ids is None:
        return None
    values = tuple(np.asarray(ids).tolist() if isinstance(ids, np.ndarray) else ids)
    if len(values) != size:
        raise ValueError(f"{name} has {len(values)} name(s) for {size} row(s); give one name a row.")
    if len(set(values)) != size:
        raise ValueError(f"{name} has {size - len(set(values))} repeated name(s); names must be unique.")
    return values


def _codes(name: str, values: Any, names: tuple[Hashable, ...]) -> np.ndarray:
    position = {value: i for i, value in enumerate(names)}
    unknown = [value for value in values if value not in position]
    if unknown:
        raise ValueError(
            f"{name} holds {len(unknown)} unknown name(s), for example {unknown[0]!r}; known are "
            f"{len(names)} ids such as {names[0]!r}."
        )
    return np.array([position[value] for value in values], dtype=np.int64)


@pytree("ids")
@dataclass(frozen=True)
class Items:
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
        object.__setattr__(self, "ids", _as_ids("ids", ids, len(array)))
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


@pytree("annotator_ids")
@dataclass(frozen=True)
class Comparisons:
    """Answered comparisons of two items; outcome 1 means that the first is preferred.

    Parameters
    ----------
    first, second : int array [m]
        Positions of the two items. A pair may occur more than once; each counts.
    outcome : array [m] in [0, 1]
        1 first preferred, 0 second preferred, 0.5 a tie, anything between a soft outcome.
    weight : positive array [m], optional
        Each comparison counts this many times.
    annotator : int array [m], optional
        Who answered, 0..k-1.
    annotator_ids : sequence of k unique names, optional

    Examples
    --------
    >>> from tercet.models import Comparisons
    >>> answers = Comparisons(first=[0, 1], second=[1, 2], outcome=[1, 0.5])
    >>> len(answers), answers.swap().outcome.tolist()
    (2, [0.0, 0.5])
    """

    first: np.ndarray
    second: np.ndarray
    outcome: np.ndarray
    weight: np.ndarray | None = None
    annotator: np.ndarray | None = None
    annotator_ids: tuple[Hashable, ...] | None = None

    def __init__(
        self,
        first: ArrayLike,
        second: ArrayLike,
        outcome: ArrayLike,
        weight: ArrayLike | None = None,
        annotator: ArrayLike | None = None,
        annotator_ids: Sequence[Hashable] | None = None,
    ) -> None:
        i, j = as_indices("first", first), as_indices("second", second)
        y = as_floats("outcome", outcome, 1).astype(np.float64)
        w = None if weight is None else as_floats("weight", weight, 1).astype(np.float64)
        who = None if annotator is None else as_indices("annotator", annotator)
        same_length(first=i, second=j, outcome=y, weight=w, annotator=who)
        check_distinct(i, j)
        if y.min() < 0 or y.max() > 1:
            at = int(np.flatnonzero((y < 0) | (y > 1))[0])
            raise ValueError(
                f"outcome[{at}] = {y[at]} is outside [0, 1]; 1 means the first is preferred, 0 the second, "
                "0.5 a tie (outcomes coded -1/1 become (outcome + 1) / 2)."
            )
        if w is not None and w.min() <= 0:
            raise ValueError(f"weight must be positive, got a smallest of {w.min()}; drop rows of weight 0.")
        if who is None and annotator_ids is not None:
            raise ValueError("annotator_ids was given without annotator; give both or neither.")
        size = None if who is None else (len(annotator_ids) if annotator_ids else int(who.max()) + 1)
        if who is not None:
            check_range("annotator", who, size)
        names = None if size is None else _as_ids("annotator_ids", annotator_ids or range(size), size)
        fields = {"first": i, "second": j, "outcome": y, "weight": w, "annotator": who, "annotator_ids": names}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        items: Items,
        first: str = "first",
        second: str = "second",
        outcome: str = "outcome",
        weight: str | None = None,
        annotator: str | None = None,
    ) -> Comparisons:
        """Build from a DataFrame whose first and second columns hold ids of `items` (or positions)."""
        who = None if annotator is None else list(dict.fromkeys(frame[annotator].tolist()))
        return cls(
            _codes(first, frame[first].tolist(), items.names),
            _codes(second, frame[second].tolist(), items.names),
            frame[outcome].to_numpy(),
            weight=None if weight is None else frame[weight].to_numpy(),
            annotator=None if who is None else _codes(str(annotator), frame[annotator].tolist(), tuple(who)),
            annotator_ids=who,
        )

    @classmethod
    def from_wins(cls, wins: ArrayLike) -> Comparisons:
        """Build from a square table: wins[i, j] games that i won against j. Equal games become one weighted row."""
        table = as_floats("wins", wins, 2)
        if table.shape[0] != table.shape[1] or np.any(np.diag(table) != 0) or table.min() < 0:
            raise ValueError(f"wins must be square, non-negative, with a zero diagonal; got shape {table.shape}.")
        first, second = np.nonzero(table)
        return cls(first, second, np.ones(len(first)), weight=table[first, second])

    def __len__(self) -> int:
        return int(self.first.shape[0])

    @property
    def weights(self) -> np.ndarray:
        """How often each comparison counts [m]: `weight`, or ones where none was given."""
        return np.ones(len(self)) if self.weight is None else self.weight

    @property
    def pairs(self) -> np.ndarray:
        """Int array [m, 2] of first and second."""
        return np.stack([self.first, self.second], axis=1)

    def swap(self) -> Comparisons:
        """The same answers with first and second exchanged: a comparison means the same either way."""
        return replace(self, first=self.second, second=self.first, outcome=1.0 - self.outcome)

    def take(self, rows: ArrayLike) -> Comparisons:
        """The comparisons at these rows (int or boolean array)."""
        index = np.arange(len(self))[np.asarray(rows)]
        kept: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[index]
            for name in ("first", "second", "outcome", "weight", "annotator")
        }
        return Comparisons(**kept, annotator_ids=self.annotator_ids)

    def extend(self, other: Comparisons) -> Comparisons:
        """These comparisons followed by `other` (both with annotators, named alike, or both without)."""
        if self.annotator_ids != other.annotator_ids:
            raise ValueError("both sets of comparisons must have the same annotator_ids.")
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("first", "second", "outcome")
        }
        if self.weight is not None or other.weight is not None:
            joined["weight"] = np.concatenate([self.weights, other.weights])
        if self.annotator is not None and other.annotator is not None:
            joined["annotator"] = np.concatenate([self.annotator, other.annotator])
        return Comparisons(**joined, annotator_ids=self.annotator_ids)


def check_compared(items: Items, comparisons: Comparisons) -> None:
    """Raise where a comparison names an item that is not there (skipped while JAX traces)."""
    if is_concrete(comparisons.first, comparisons.second):
        check_range("first", comparisons.first, len(items))
        check_range("second", comparisons.second, len(items))


def check_in_memory(items: Items) -> None:
    """Raise where features are on disk, or in a Dask array, and a NumPyro model wants all of them at once."""
    if isinstance(items.features, Embeddings):
        raise ValueError(
            f"these {len(items):,} items have their features on disk (or in a Dask array): they are read by laplace "
            "(linear heads, and networks), ensemble, reward, reward_difference, win_probability and select_pairs. For "
            "other questions (nuts, svi, log likelihoods) load what is needed: items.loaded(positions)."
        )


@pytree("names", "observed")
@dataclass(frozen=True)
class Snapshots:
    """Populations of particles seen at some times, without identity from one time to the next.

    Parameters
    ----------
    particles : sequence of arrays [n_k, d], or one array [K, n, d]
        One a time; the numbers n_k may differ.
    times : increasing array [K]
    names : d unique names of the coordinates, optional (default x0, x1, ...)
    observed : d booleans, optional
        Which coordinates are seen (default all); the others may hold any finite filler, such as zeros.
    """

    particles: tuple[np.ndarray, ...]
    times: np.ndarray
    names: tuple[Hashable, ...]
    observed: tuple[bool, ...]

    def __init__(
        self,
        particles: Sequence[ArrayLike] | np.ndarray,
        times: ArrayLike,
        names: Sequence[Hashable] | None = None,
        observed: Sequence[bool] | None = None,
    ) -> None:
        clouds = tuple(as_floats(f"particles[{k}]", cloud, 2) for k, cloud in enumerate(particles))
        clock = as_floats("times", times, 1).astype(np.float64)
        same_length(particles=clouds, times=clock)
        widths = {cloud.shape[1] for cloud in clouds}
        if len(widths) != 1:
            raise ValueError(f"every snapshot must have the same coordinates, got widths {sorted(widths)}.")
        if np.any(np.diff(clock) <= 0):
            raise ValueError(f"times must increase, got {clock.tolist()}; sort the snapshots by time.")
        width = widths.pop()
        labels = _as_ids("names", names or [f"x{i}" for i in range(width)], width)
        seen = (True,) * width if observed is None else tuple(bool(v) for v in observed)
        if len(seen) != width or not any(seen):
            raise ValueError(f"observed must have {width} booleans, at least one true; got {seen}.")
        for name, value in {"particles": clouds, "times": clock, "names": labels, "observed": seen}.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def dim(self) -> int:
        """Number of coordinates d, unobserved ones included."""
        return len(self.names)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of particles of each snapshot."""
        return tuple(len(cloud) for cloud in self.particles)

    @property
    def center(self) -> np.ndarray:
        """Mean [d] over all particles of all times."""
        return np.concatenate(self.particles).mean(axis=0)

    @property
    def scale(self) -> np.ndarray:
        """Standard deviation [d] over all particles of all times (1 where a coordinate never varies)."""
        spread = np.concatenate(self.particles).std(axis=0)
        return np.where(spread > 0, spread, 1.0)

    @property
    def magnitude(self) -> Any:
        """Largest absolute observed coordinate (1 where all are zero)."""
        seen = np.flatnonzero(self.observed)
        if not is_concrete(*self.particles):
            largest = jnp.stack([jnp.abs(cloud[:, seen]).max() for cloud in self.particles]).max()
            return jnp.where(largest > 0, largest, 1.0)
        return float(max(np.abs(cloud[:, seen]).max() for cloud in self.particles)) or 1.0

    def take(self, which: Sequence[int]) -> Snapshots:
        """Give the snapshots at these positions, in order of time."""
        index = sorted(int(k) for k in as_indices("which", np.asarray(which), len(self)))
        return Snapshots([self.particles[k] for k in index], self.times[index], self.names, self.observed)

    def subsample(self, particles: int, key: Any = 0) -> Snapshots:
        """Keep at most this many particles a snapshot, drawn without repetition."""
        if particles < 1:
            raise ValueError(f"particles must be at least 1, got {particles}.")
        rng = as_generator(key)
        kept = [
            cloud[np.sort(rng.choice(len(cloud), particles, replace=False))] if len(cloud) > particles else cloud
            for cloud in self.particles
        ]
        return Snapshots(kept, self.times, self.names, self.observed)


@pytree("metric", "ids")
@dataclass(frozen=True)
class Sites:
    """Places: where labels are, or where predictions matter.

    Parameters
    ----------
    coordinates : array [n, d]
        For the sphere [n, 2]: latitude in [-90, 90] and longitude in [-180, 360], degrees, in this order.
    metric : "plane" or "sphere"
        Distances are in the units of the coordinates, or in kilometres on the sphere.
    ids : sequence of n unique names, optional
    """

    coordinates: np.ndarray
    metric: Literal["plane", "sphere"] = "plane"
    ids: tuple[Hashable, ...] | None = None

    def __init__(
        self,
        coordinates: ArrayLike,
        metric: str = "plane",
        ids: Sequence[Hashable] | None = None,
    ) -> None:
        array = as_floats("coordinates", coordinates, 2)
        if metric not in ("plane", "sphere"):
            raise ValueError(f'metric must be "plane" or "sphere", got {metric!r}.')
        if metric == "sphere":
            _check_degrees(array)
        object.__setattr__(self, "coordinates", array)
        object.__setattr__(self, "metric", metric)
        object.__setattr__(self, "ids", _as_ids("ids", ids, len(array)))

    def __len__(self) -> int:
        return int(self.coordinates.shape[0])


def _check_degrees(array: np.ndarray) -> None:
    if array.shape[1] != 2:
        raise ValueError(f"on the sphere coordinates are latitude and longitude [n, 2], got {array.shape}.")
    latitude, longitude = array[:, 0], array[:, 1]
    if np.abs(latitude).max() > 90:
        swapped = " They look swapped: pass latitude first." if np.abs(longitude).max() <= 90 else ""
        raise ValueError(f"latitude must be within [-90, 90], got up to {np.abs(latitude).max()}.{swapped}")
    if longitude.min() < -180 or longitude.max() > 360:
        raise ValueError(f"longitude must be within [-180, 360] degrees, got {longitude.min()} to {longitude.max()}.")
