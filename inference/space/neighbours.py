"""Exact nearest neighbours of sites by a k-d tree, ties in distance by the lowest index, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from tercet.models.space.geometry import check_same_space, from_chord, positions
from tercet.models.space.sites import Sites

ENTRIES = 2**21
"""Neighbours held at once: 50 MB with what sorting needs."""


class Neighbours:
    """A k-d tree over n sites.

    On the sphere it stands on unit vectors: chords order pairs as great circles do.
    """

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self.tree = cKDTree(positions(sites))

    def blocks(self, others: Sites, k: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Blocks of the m other sites: their rows, the distances [b, k] and indices [b, k] of the k nearest sites.

        Neighbours at the same distance come in the order of their index, also where only some of them are among the
        k nearest.
        """
        check_same_space(self.sites, others)
        size = max(1, ENTRIES // (k + 1))
        for begin in range(0, len(others), size):
            rows = slice(begin, min(begin + size, len(others)))
            points = positions(Sites(others.coordinates[rows], others.metric))
            chord, index = _nearest(self.tree, points, k)
            yield rows, from_chord(self.sites.metric, chord), index

    def nearest(self, others: Sites, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Distances [m, k] and indices [m, k] of the k nearest sites of each other site, nearest first."""
        parts = [(distance, index) for _, distance, index in self.blocks(others, k)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    @cached_property
    def spacing(self) -> tuple[np.ndarray, np.ndarray]:
        """Distance [n] and index [n] of the nearest other site of each site."""
        distance, index = self.within(1)
        return distance[:, 0], index[:, 0]

    def within(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances [n, k] and indices [n, k] of the k nearest *other* sites of each site."""
        distance, index = self.nearest(self.sites, k + 1)
        own = index == np.arange(len(index))[:, None]
        own[:, -1] |= ~own.any(axis=1)  # so many duplicates that the site itself is not among them
        return distance[~own].reshape(len(index), k), index[~own].reshape(len(index), k)


def _nearest(tree: cKDTree, points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Chords and indices [m, k]: the tree gives one more, so that ties across the k-th place are seen."""
    n = tree.n
    asked = min(k + 1, n)
    chord, index = (part.reshape(len(points), asked) for part in tree.query(points, k=asked, workers=-1))
    order = np.where((chord[:, 1:] == chord[:, :-1]).any(axis=1))[0]
    if order.size:
        chord[order], index[order] = _by_index(chord[order], index[order])
    if asked > k:
        open_ended = np.where(chord[:, k - 1] == chord[:, k])[0]
        chord, index = chord[:, :k], index[:, :k]
        if open_ended.size:
            chord, index = chord.copy(), index.copy()
            for rows in np.array_split(open_ended, max(1, 4 * k * len(open_ended) // ENTRIES)):
                chord[rows], index[rows] = _resolve(tree, points[rows], k)
    return chord, index


def _resolve(tree: cKDTree, points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest where others lie as far as the k-th: ask for more until the tie ends, then sort."""
    chord, index = np.empty((len(points), k)), np.empty((len(points), k), dtype=np.int64)
    left, asked = np.arange(len(points)), k + 1
    while left.size:
        asked = min(2 * asked, tree.n)
        for rows in np.array_split(left, max(1, asked * len(left) // ENTRIES)):
            d, i = (part.reshape(len(rows), asked) for part in tree.query(points[rows], k=asked, workers=-1))
            done = (d[:, -1] > d[:, k - 1]) | (asked == tree.n)
            d, i = _by_index(d[done], i[done])
            chord[rows[done]], index[rows[done]] = d[:, :k], i[:, :k]
            index[rows[~done], 0] = -1
        left = left[index[left, 0] < 0]
    return chord, index


def _by_index(chord: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((index, chord), axis=-1)
    return np.take_along_axis(chord, order, axis=1), np.take_along_axis(index, order, axis=1)
