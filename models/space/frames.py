"""Coordinate frames of surfaces over sites: centred, scaled to [-1, 1], projected where sites are on the sphere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tercet.models._partition import ModelPytree
from tercet.models._storable import Storable
from tercet.models.space.geometry import EARTH_RADIUS, as_sites, check_same_space, positions
from tercet.models.space.sites import Metric, Sites

LARGEST_ANGLE = 60.0
"""Sites within so many degrees of their centre are projected (Lambert's equal-area); others stay on the unit sphere."""


@dataclass(frozen=True)
class Frame(ModelPytree, Storable):
    """Map sites to coordinates [n, q] with absolute values of at most 1 for the sites that it was built from.

    Parameters
    ----------
    metric : of the sites
    center : on the plane the middle [d] of their bounding box, on the sphere a unit vector [3]
    scale : units of the metric per unit of the frame
    flat : False for sites on the sphere that are not projected: unit vectors, q = 3
    """

    metric: Metric
    center: tuple[float, ...]
    scale: float
    flat: bool = True

    @classmethod
    def around(cls, *sites: Sites | ArrayLike) -> Frame:
        """Build the frame of all these sites together."""
        given = [as_sites("sites", each) for each in sites]
        for other in given[1:]:
            check_same_space(given[0], other)
        metric, points = given[0].metric, np.concatenate([positions(each) for each in given])
        if metric == "plane":
            low, high = points.min(axis=0), points.max(axis=0)
            return cls(metric, tuple((low + high) / 2), float((high - low).max() / 2) or 1.0)
        center = points.mean(axis=0)
        length = float(np.linalg.norm(center))
        if length < 0.1 or (points @ (center / length)).min() < np.cos(np.radians(LARGEST_ANGLE)):
            return cls(metric, (0.0, 0.0, 0.0), EARTH_RADIUS, flat=False)
        center = center / length
        return cls(metric, tuple(center), float(np.abs(_lambert(points, center)).max()) or 1.0)

    @property
    def dim(self) -> int:
        """Number of coordinates q."""
        return len(self.center) if self.metric == "plane" else 2 if self.flat else 3

    def coordinates(self, sites: Sites | ArrayLike) -> np.ndarray:
        """Coordinates [n, q] of sites."""
        known = as_sites("sites", sites, self.metric)
        if known.metric != self.metric:
            raise ValueError(f"the surface lives on the {self.metric}, the sites on the {known.metric}.")
        points, center = positions(known), np.asarray(self.center)
        if self.metric == "plane":
            return np.asarray((points - center) / self.scale)
        return _lambert(points, center) / self.scale if self.flat else points


def _lambert(points: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Kilometres east and north [n, 2] in Lambert's azimuthal equal-area projection about a unit vector."""
    pole = np.array([0.0, 0.0, 1.0]) if abs(center[2]) < 0.999 else np.array([1.0, 0.0, 0.0])
    east = np.cross(pole, center)
    east /= np.linalg.norm(east)
    north = np.cross(center, east)
    stretch = np.sqrt(2 / np.maximum(1 + points @ center, 1e-12))
    return np.asarray(EARTH_RADIUS * stretch[:, None] * np.stack([points @ east, points @ north], axis=1))
