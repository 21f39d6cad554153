"""Averages over the k nearest validation sites of every test site, for a growing sequence of k."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tercet.inference.space.neighbours import Neighbours
from tercet.models.space.sites import Sites


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
