"""Cross-validation whose folds are as far from training sites as prediction sites are from all sites (kNNDM)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import itemgetter

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import wasserstein_distance

from tercet.inference.space.splitters import (
    FoldSplitter,
    balanced_folds,
    check_n_splits,
    distance_to_other_folds,
    distinct_locations,
    nearest_chord,
)
from tercet.models._inputs import as_generator
from tercet.models.space.geometry import as_sites, check_same_space, from_chord, positions
from tercet.models.space.sites import Sites

CLUSTERINGS = 12
"""Numbers of clusters that are tried, besides folds at random."""
SPLIT_SHARES = (0.0, 0.25, 0.5, 0.75)
"""Shares of the clusters whose locations are assigned one by one: distances between those of clusters and locations."""
SPREAD_STARTS = 256
"""Clusters up to which the first centres of k-means are spread out (k-means++), at a cost of n each."""
QUANTILES = 20_000
"""Quantiles at most by which the distribution of the prediction distances is represented."""


class NearestNeighbourMatching(FoldSplitter):
    """Folds whose distances from validation to training match those from prediction sites to all sites (kNNDM).

    Candidates are folds at random and folds made of k-means clusters: from as many clusters as folds to one for every
    two locations, whole or with a share of them split into locations, assigned to folds of about the same size, no fold
    with more than half of the sites (of two folds, three quarters). The one with the smallest Wasserstein distance W1
    between the two distributions of nearest-neighbour distances is taken. Sites at one location stay together. The
    published algorithm generates its candidates in another way.

    Parameters
    ----------
    sites : Sites or array [n, d], the rows of the data to be split
    prediction : Sites or array [m, d], where the model will be used
    n_splits : number of folds
    key : int seed or JAX key

    Attributes
    ----------
    folds : int array [n], the fold in which each site is validated
    mismatch : W1 that is left, in the units of the distances (kilometres on the sphere)
    random_mismatch : W1 of the folds at random

    Raises
    ------
    ValueError
        Where there are fewer distinct locations than splits, or `prediction` has another metric or dimension.

    References
    ----------
    Linnenbrink, Milà, Ludwig, Meyer (2024), Geoscientific Model Development 17, 5897-5912.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import NearestNeighbourMatching
    >>> sites = np.random.default_rng(0).uniform(size=(60, 2))
    >>> folds = NearestNeighbourMatching(sites, sites + 5.0, 3)
    >>> folds.get_n_splits(), folds.mismatch < folds.random_mismatch
    (3, True)
    """

    def __init__(
        self,
        sites: Sites | ArrayLike,
        prediction: Sites | ArrayLike,
        n_splits: int = 5,
        *,
        key: int | jax.Array = 0,
    ) -> None:
        self.sites, self.buffer = as_sites("sites", sites), 0.0
        targets = as_sites("prediction", prediction, self.sites.metric)
        check_same_space(self.sites, targets)
        first, location = distinct_locations(self.sites)
        check_n_splits(n_splits, len(first))
        chord = np.sort(nearest_chord(positions(self.sites), positions(targets))[0])
        if len(chord) > QUANTILES:
            chord = chord[np.linspace(0, len(chord) - 1, QUANTILES).round().astype(int)]
        wanted = from_chord(self.sites.metric, chord)
        points, rng = positions(self.sites.take(first)), as_generator(key)
        candidates = _candidate_folds(points, location, n_splits, rng)
        scored = ((self._mismatch(folds, wanted), folds) for folds in candidates)
        at_random = next(scored)
        self.random_mismatch = at_random[0]
        self.mismatch, self.folds = min(chain([at_random], scored), key=itemgetter(0))

    def _mismatch(self, folds: np.ndarray, wanted: np.ndarray) -> float:
        return float(wasserstein_distance(distance_to_other_folds(self.sites, folds), wanted))


def _candidate_folds(
    points: np.ndarray, location: np.ndarray, n_splits: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Fold labels [n] of sites at these locations: at random, then from clusters, from as few as folds to many."""
    n = len(location)
    yield balanced_folds(location, n_splits, rng)
    most = max(n // 2, -(-3 * n // (2 * n_splits)))  # half of the sites; of two folds three quarters
    for number in np.unique(np.geomspace(n_splits, max(n_splits, len(points) // 2), CLUSTERINGS).astype(int)):
        cluster = _k_means(points, int(number), rng)
        rank = rng.random(number)[cluster]
        for share in SPLIT_SHARES:
            label = np.where(rank < share, number + np.arange(len(points)), cluster)[location]
            if np.unique(label).size >= n_splits:
                folds = balanced_folds(label, n_splits, rng)
                if np.bincount(folds).max() <= most:
                    yield folds


def _k_means(points: np.ndarray, number: int, rng: np.random.Generator, rounds: int = 10) -> np.ndarray:
    """Cluster labels [n], by a k-d tree of the centres so that thousands of them are affordable."""
    first = rng.choice(len(points), number, replace=False)
    if number <= SPREAD_STARTS:
        squared = np.square(points - points[first[0]]).sum(axis=1)
        for j in range(1, number):
            if not squared.sum() > 0:
                break
            first[j] = rng.choice(len(points), p=squared / squared.sum())
            squared = np.minimum(squared, np.square(points - points[first[j]]).sum(axis=1))
    centres = points[first]
    for _ in range(rounds):
        label = nearest_chord(centres, points)[1]
        size = np.bincount(label, minlength=number)
        total = np.stack([np.bincount(label, column, number) for column in points.T], axis=1)
        centres = np.where(size[:, None] > 0, total / np.maximum(size, 1)[:, None], centres)
    return label
