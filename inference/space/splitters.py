"""What spatial splitters for scikit-learn's `cv=` share: their interface, balanced folds, distances between folds."""

from __future__ import annotations

import abc
import heapq
from collections.abc import Iterator, Sized

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from tercet.models.space.geometry import from_chord, positions, to_chord
from tercet.models.space.sites import Sites

SAME_LOCATION = 1e-12
"""Chords of the unit sphere (6 micrometres) by which one location differs when written as -10 and as 350 degrees."""
Split = Iterator[tuple[np.ndarray, np.ndarray]]
"""Pairs of training and validation row numbers."""
Rows = Sized | None
"""Data that scikit-learn hands over; no more than their number is read."""


class Splitter(abc.ABC):
    """The interface of scikit-learn's `cv` objects; the sites are given once, to the splitter."""

    sites: Sites
    buffer: float

    @abc.abstractmethod
    def get_n_splits(self, X: Rows = None, y: Rows = None, groups: Rows = None) -> int:
        """Return the number of splits; the arguments are scikit-learn's and not read."""

    @abc.abstractmethod
    def split(self, X: Rows = None, y: Rows = None, groups: Rows = None) -> Split:
        """Pairs of training and validation row numbers; the number of rows of X is checked."""

    @property
    def buffer_chord(self) -> float:
        """The buffer as a chord length, with what rounding may add to a distance."""
        chord = float(to_chord(self.sites.metric, self.buffer)) * (1 + SAME_LOCATION)
        return chord if self.sites.metric == "plane" else chord + SAME_LOCATION

    def check_rows(self, X: Rows) -> None:
        """Raise where the data have another number of rows than the splitter has sites."""
        rows = None if X is None else X.shape[0] if hasattr(X, "shape") else len(X)
        if rows is not None and rows != len(self.sites):
            raise ValueError(
                f"the splitter was built for {len(self.sites)} sites, the data have {rows} rows; build it from the "
                "sites of these rows (inside another cross-validation, from those of its training rows)."
            )

    def __repr__(self) -> str:
        more = f", buffer = {self.buffer:g}" if self.buffer else ""
        return f"{type(self).__name__}({len(self.sites)} sites, {self.get_n_splits()} splits{more})"


class FoldSplitter(Splitter):
    """Splits by the fold [n] of each site; training sites within `buffer` of the validation fold are left out."""

    folds: np.ndarray

    def get_n_splits(self, X: Rows = None, y: Rows = None, groups: Rows = None) -> int:
        return int(self.folds.max()) + 1

    def split(self, X: Rows = None, y: Rows = None, groups: Rows = None) -> Split:
        self.check_rows(X)
        points = positions(self.sites)
        for fold in range(self.get_n_splits()):
            inside = self.folds == fold
            train = np.flatnonzero(~inside)
            if self.buffer > 0:
                train = train[nearest_chord(points[inside], points[train])[0] > self.buffer_chord]
            if not train.size:
                raise ValueError(
                    f"no training site is left outside the buffer of {self.buffer:g} of fold {fold}; lower the buffer."
                )
            yield train, np.flatnonzero(inside)


def checked_buffer(buffer: float) -> float:
    """A finite buffer, not negative."""
    if not (np.isfinite(buffer) and buffer >= 0):
        raise ValueError(f"buffer must be a distance of zero or more, got {buffer}.")
    return float(buffer)


def check_n_splits(n_splits: int, locations: int) -> None:
    """Raise unless every fold can have a location."""
    if not (2 <= n_splits <= locations and n_splits == int(n_splits)):
        raise ValueError(f"n_splits must be a number from 2 to the {locations} distinct location(s), got {n_splits}.")


def distinct_locations(sites: Sites) -> tuple[np.ndarray, np.ndarray]:
    """One row of each distinct location, and the location [n] of each site."""
    points = positions(sites) + 0.0  # a zero without sign
    distinct, first, location = np.unique(points, axis=0, return_index=True, return_inverse=True)
    location = location.reshape(-1)
    if sites.metric == "sphere":
        pairs = cKDTree(distinct).query_pairs(SAME_LOCATION, output_type="ndarray")
        links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(first), len(first)))
        joined = connected_components(links, directed=False)[1]
        first, location = first[np.unique(joined, return_index=True)[1]], joined[location]
    return first, location


def balanced_folds(group: np.ndarray, n_splits: int, rng: np.random.Generator) -> np.ndarray:
    """Fold labels [n]: whole groups, the largest first, each assigned to the fold with the fewest sites."""
    names, code, size = np.unique(group, return_inverse=True, return_counts=True)
    if len(names) < n_splits:
        raise ValueError(f"{len(names)} block(s) cannot fill {n_splits} folds; give a shorter side, or fewer splits.")
    order = rng.permutation(len(names))
    order = order[np.argsort(-size[order], kind="stable")]
    fold = np.empty(len(names), dtype=np.int64)
    heap = [(0, label) for label in range(n_splits)]  # sites of each fold so far
    for name, more in zip(order.tolist(), size[order].tolist(), strict=True):
        filled, fold[name] = heap[0]
        heapq.heapreplace(heap, (filled + more, heap[0][1]))
    return fold[code.reshape(-1)]


def distance_to_other_folds(sites: Sites, folds: np.ndarray) -> np.ndarray:
    """Distance [n] of each site to the nearest site of another fold."""
    points, chord = positions(sites), np.empty(len(sites))
    for fold in np.unique(folds):
        inside = folds == fold
        chord[inside] = nearest_chord(points[~inside], points[inside])[0]
    return from_chord(sites.metric, chord)


def nearest_chord(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chord [m] to, and row [m] of, the nearest of n points; in threads where that outweighs starting them."""
    chord, row = cKDTree(points).query(others, workers=-1 if len(others) > 5_000 else 1)
    return chord, row
