"""Candidate sites by their positions alone: what the fill distance needs of them."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from tercet.designs.criteria.candidates import Candidates
from tercet.designs.criteria.pools import Pool
from tercet.models.space.geometry import from_chord
from tercet.models.space.sites import Metric

THREADED = 10_000
"""Queries below which starting threads costs more than they save."""


@dataclass(frozen=True, eq=False)
class FillPool(Pool):
    """m candidate and n target sites by their positions (unit vectors on the sphere), for straight-line distances.

    Attributes
    ----------
    metric : of the sites
    points, targets : positions [m, q] and [n, q]
    start : straight-line distance [n] of each target to its nearest labelled site; infinite where there is none
    reach : what an infinite distance counts as, in the units of the metric
    """

    metric: Metric
    points: Float[np.ndarray, "m q"]
    targets: Float[np.ndarray, "n q"]
    start: Float[np.ndarray, " n"]
    reach: float

    def __len__(self) -> int:
        return len(self.points)

    def sample(self, index: np.ndarray) -> FillPool:
        """A pool of these candidates alone."""
        return replace(self, points=self.points[index])

    @cached_property
    def nearest(self) -> Float[np.ndarray, " n"]:
        """Straight-line distance of each target to its nearest candidate."""
        return self.nearest_of(np.ones(len(self), dtype=bool))

    def nearest_of(self, some: np.ndarray) -> Float[np.ndarray, " n"]:
        """Straight-line distance of each target to the nearest of some candidates (booleans [m])."""
        if not some.any():
            return np.full(len(self.targets), np.inf)
        return nearest_distances(self.points[some], self.targets)

    def length(self, chord: Any) -> Any:
        """Straight-line distances in the units of the metric, at most `reach`."""
        return np.minimum(from_chord(self.metric, chord), self.reach)

    def columns(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Fill distance after each pick."""
        distance, after = self.start, []
        for index in chosen:
            distance = np.minimum(distance, straight(self.points[index], self.targets))
            after.append(self.length(distance.max()))
        return {"fill_distance": np.array(after, dtype=np.float64)}


def nearest_distances(points: np.ndarray, others: np.ndarray) -> Float[np.ndarray, " n"]:
    """Straight-line distance of each of the other positions to the nearest point."""
    return np.asarray(cKDTree(points).query(others, workers=-1 if len(others) > THREADED else 1)[0])


def straight(point: np.ndarray, others: np.ndarray) -> Float[np.ndarray, " n"]:
    """Straight-line distances of one position [q] to others [n, q], axis by axis: no temporary of n x q."""
    total = np.zeros(len(others))
    for own, other in zip(point, others.T, strict=True):
        total += np.square(other - own)
    return np.sqrt(total)


class AbstractSiteCandidates(Candidates):
    """Candidates that are sites."""

    @abc.abstractmethod
    def fill_pool(self, posterior: Any, target: Any) -> FillPool:
        """These candidates by position; of the posterior only the sites it was fitted on are read."""
