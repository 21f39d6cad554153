"""The coreset of Huggins, Campbell and Broderick: candidates drawn by bounds on their sensitivity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tercet.designs.criteria.objective import OneShot
from tercet.designs.pairs.pair_objectives import OfPairs
from tercet.designs.pairs.pool import PairPool


class Clusters(NamedTuple):
    """Rows in k clusters: which one [m], sizes [k], means [k, p], distances [m, k] of rows to means."""

    label: Int[np.ndarray, " m"]
    size: Float[np.ndarray, " k"]
    mean: Float[np.ndarray, "k p"]
    distance: Float[np.ndarray, "m k"]


@dataclass(frozen=True)
class Coreset(OfPairs, OneShot[PairPool]):
    """A bound on the sensitivity of each candidate, in proportion to which candidates are to be drawn (`WeightedDraw`).

    With the differences d_n in k clusters G_i,

        m_n = N / (1 + sum_i |G_i without n| exp(-radius |mean of G_i without n - d_n|))

    bounds the share of the log likelihood of all N candidates that d_n alone can make up, over weights in a ball of
    this radius; it is large for differences far from all others. Reads features only: neither answers nor the
    posterior. Pairs are taken the way round they are listed, as in the paper's code (the theorem is about signed rows
    y d, and y is not known yet). Gains are sensitivities, so a batch may gain less than a random one.

    Parameters
    ----------
    clusters : k, at most
    rounds : of Lloyd's algorithm after a k-means++ start; the paper used one
    radius : R

    References
    ----------
    Huggins, Campbell, Broderick (2016), Coresets for scalable Bayesian logistic regression, NeurIPS, lemma 3.1; as a
    design in Shen, Sun, Ton (2025), arXiv 2502.04354.
    """

    clusters: int = 10
    rounds: int = 1
    radius: float = 1.0

    def scores(self, pool: PairPool, rng: np.random.Generator) -> Float[np.ndarray, " m"]:
        if len(pool) == 0:
            return np.empty(0)
        return sensitivity(cluster(pool, min(self.clusters, len(pool)), self.rounds, rng), self.radius)


def sensitivity(clusters: Clusters, radius: float) -> Float[np.ndarray, " m"]:
    """Upper bound m_n of the sensitivity of each row."""
    rows = np.arange(len(clusters.label))
    size, distance = np.tile(clusters.size, (len(rows), 1)), clusters.distance.copy()
    own = clusters.size[clusters.label]
    size[rows, clusters.label] -= 1.0
    # Without row n the mean of its own cluster is (s mean - d_n) / (s - 1): farther from d_n by s / (s - 1).
    distance[rows, clusters.label] *= own / np.maximum(own - 1.0, 1.0)
    return np.asarray(len(rows) / (1.0 + (size * np.exp(-radius * distance)).sum(axis=1)))


def cluster(pool: PairPool, k: int, rounds: int, rng: np.random.Generator) -> Clusters:
    """Cluster the differences: k-means++, then Lloyd's rounds. Rows are read through products with the centres only."""
    squares = pool.squared_norms(np.eye(len(pool.root)))
    centers = _spread_centers(pool, squares, k, rng)
    label = _squared_distances(pool, squares, centers).argmin(axis=1)
    for _ in range(rounds - 1):
        label = _squared_distances(pool, squares, _means(pool, label)[1]).argmin(axis=1)
    size, means = _means(pool, label)
    return Clusters(np.unique(label, return_inverse=True)[1], size, means,
                    np.sqrt(_squared_distances(pool, squares, means)))  # fmt: skip


def _spread_centers(pool: PairPool, squares: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Rows drawn one after the other with probability in proportion to the squared distance to those before."""
    centers, nearest = np.empty((0, len(pool.root))), np.ones(len(pool))
    while len(centers) < k and nearest.sum() > 0:
        new = pool.row(int(rng.choice(len(pool), p=nearest / nearest.sum())))
        centers = np.vstack([centers, new])
        distances = _squared_distances(pool, squares, new[None])[:, 0]
        nearest = distances if len(centers) == 1 else np.minimum(nearest, distances)
    return centers


def _squared_distances(pool: PairPool, squares: np.ndarray, centers: np.ndarray) -> Float[np.ndarray, "m k"]:
    columns = [squares - 2.0 * pool.along(pool.levels(center)) + center @ center for center in centers]
    distances = np.stack(columns, axis=1)
    # Squares that cancel leave rounding: the distance of a row to itself is exactly zero.
    distances[distances < 1e-12 * (1.0 + squares[:, None])] = 0.0
    return distances


def _means(pool: PairPool, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes [k] and means [k, p] of the clusters that hold any row."""
    used, size = np.unique(label, return_counts=True)
    sums = [pool.rmatvec((label == i).astype(np.float64)) for i in used]
    return size.astype(np.float64), np.stack(sums) / size[:, None]
