"""Folds of sites: distinct locations, groups assigned to balanced folds, distances between folds."""

from __future__ import annotations

import heapq

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from tercet.models.space.geometry import from_chord, positions
from tercet.models.space.sites import Sites

SAME_LOCATION = 1e-12
"""Chords of the unit sphere (6 micrometres) by which one location differs when written as -10 and as 350 degrees."""


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
