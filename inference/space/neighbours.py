"""Exact nearest neighbours of sites by a k-d tree, ties in distance broken by index, in bounded memory; averages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from tercet.models.space.geometry import check_same_space, from_chord, positions
from tercet.models.space.sites import Sites


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Nearest neighbours among n sites.

    On the sphere the k-d tree holds unit vectors: chord lengths order pairs of sites as great circles do.

    Parameters
    ----------
    sites : Sites
    entries : neighbours held in memory at once; two million take 50 MB, sorting included
    """

    sites: Sites
    entries: int = 2**21

    @cached_property
    def tree(self) -> cKDTree:
        """The k-d tree of the sites' Cartesian coordinates."""
        return cKDTree(positions(self.sites))

    def blocks(self, others: Sites, k: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Blocks of the m other sites: their rows, the distances [b, k] and indices [b, k] of the k nearest sites.

        Neighbours at equal distance are ordered by index, and of those tied for the k-th rank the lowest indices are
        taken.
        """
        check_same_space(self.sites, others)
        size = max(1, self.entries // (k + 1))
        for begin in range(0, len(others), size):
            rows = slice(begin, min(begin + size, len(others)))
            chord, index = self._nearest(positions(others.take(rows)), k)
            yield rows, from_chord(self.sites.metric, chord), index

    def nearest(self, others: Sites, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Distances [m, k] and indices [m, k] of the k nearest sites of each other site, nearest first."""
        parts = [(distance, index) for _, distance, index in self.blocks(others, k)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def nearest_others(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances [n, k] and indices [n, k] of the k nearest *other* sites of each site."""
        distance, index = self.nearest(self.sites, k + 1)
        return without_self(np.arange(len(index)), distance, index)

    @cached_property
    def nearest_other(self) -> tuple[np.ndarray, np.ndarray]:
        """Distance [n] and index [n] of the nearest other site of each site."""
        distance, index = self.nearest_others(1)
        return distance[:, 0], index[:, 0]

    def _nearest(self, points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Chords and indices [m, k]; k + 1 are queried, so that ties for the k-th rank are seen."""
        chord, index = _query(self.tree, points, min(k + 1, self.tree.n))
        tied = np.flatnonzero((chord[:, 1:] == chord[:, :-1]).any(axis=1))
        if tied.size:
            chord[tied], index[tied] = _by_index(chord[tied], index[tied])
        if chord.shape[1] > k:
            cut = np.flatnonzero(chord[:, k - 1] == chord[:, k])
            chord, index = chord[:, :k], index[:, :k]
            if cut.size:
                chord, index = chord.copy(), index.copy()
                for rows in np.array_split(cut, max(1, 4 * k * len(cut) // self.entries)):
                    chord[rows], index[rows] = self._nearest_of_ties(points[rows], k)
        return chord, index

    def _nearest_of_ties(self, points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Chords and indices [m, k] where others tie with the k-th: query more until the tie ends, then sort."""
        chord, index = np.empty((len(points), k)), np.empty((len(points), k), dtype=np.int64)
        pending, queried = np.arange(len(points)), k + 1
        while pending.size:
            queried = min(2 * queried, self.tree.n)
            for rows in np.array_split(pending, max(1, queried * len(pending) // self.entries)):
                d, i = _query(self.tree, points[rows], queried)
                done = (d[:, -1] > d[:, k - 1]) | (queried == self.tree.n)
                d, i = _by_index(d[done], i[done])
                chord[rows[done]], index[rows[done]] = d[:, :k], i[:, :k]
                index[rows[~done], 0] = -1
            pending = pending[index[pending, 0] < 0]
        return chord, index


class NeighbourAverage(NamedTuple):
    """The estimator that averages k neighbours: its weights [n], and mean and largest distance of the neighbours."""

    k: int
    weights: np.ndarray
    mean_distance: float
    max_distance: float


def neighbour_averages(
    tree: Neighbours, test: Sites, test_weights: np.ndarray, ks: list[int]
) -> Iterator[NeighbourAverage]:
    """One average for each k, in increasing order; the neighbours of the first three come from one query."""
    n, done = len(tree.sites), 0
    counts, distance = np.zeros(n), 0.0
    while done < len(ks):
        batch = ks[done : done + (3 if done == 0 else 1)]
        edges = [ks[done - 1] if done else 0, *batch]
        added = [np.zeros(n) for _ in batch]
        length, farthest = np.zeros(len(batch)), np.zeros(len(batch))
        for rows, gap, index in tree.blocks(test, batch[-1]):
            for j, (low, high) in enumerate(pairwise(edges)):
                weight = np.repeat(test_weights[rows], high - low)
                added[j] += np.bincount(index[:, low:high].ravel(), weight, n)
                length[j] += float(weight @ gap[:, low:high].ravel())
                farthest[j] = max(farthest[j], float(gap[:, high - 1].max()))
        for j, k in enumerate(batch):
            counts, distance = counts + added[j], distance + length[j]
            yield NeighbourAverage(k, counts / k, float(distance / k), float(farthest[j]))
        done += len(batch)


def without_self(own: np.ndarray, distance: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours [b, k - 1] of b sites without the site itself, whose index is `own` [b].

    Where more than k sites coincide with it, it may not be among them: the last neighbour is dropped instead.
    """
    dropped = index == own[:, None]
    dropped[:, -1] |= ~dropped.any(axis=1)
    return distance[~dropped].reshape(len(index), -1), index[~dropped].reshape(len(index), -1)


def _query(tree: cKDTree, points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    chord, index = tree.query(points, k=k, workers=-1)
    return chord.reshape(len(points), k), index.reshape(len(points), k)


def _by_index(chord: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((index, chord), axis=-1)
    return np.take_along_axis(chord, order, axis=1), np.take_along_axis(index, order, axis=1)
