"""Where sites lie: straight-line positions, distances in the metric's own units, the box that holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.models.space.sites import Sites

EARTH_RADIUS = 6371.0088
"""Mean radius of the Earth in kilometres (IUGG)."""


def positions(sites: Sites) -> np.ndarray:
    """Points [n, d] whose straight-line distances order pairs as the metric does: unit vectors [n, 3] on the sphere."""
    array = np.asarray(sites.coordinates, dtype=np.float64)
    if sites.metric == "plane":
        return array
    latitude, longitude = np.radians(array).T
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )


def from_chord(metric: str, chord: Any) -> Any:
    """Distances in the units of the metric (kilometres on the sphere) of straight-line ones."""
    return chord if metric == "plane" else 2 * EARTH_RADIUS * np.arcsin(np.minimum(np.asarray(chord) / 2, 1.0))


def to_chord(metric: str, distance: Any) -> Any:
    """Straight-line distances of those in the units of the metric."""
    if metric == "plane":
        return distance
    return 2 * np.sin(np.minimum(np.asarray(distance) / EARTH_RADIUS, np.pi) / 2)


def distances(first: Sites | ArrayLike, second: Sites | ArrayLike) -> np.ndarray:
    """Distance matrix [n, m]: Euclidean, or great-circle kilometres on the sphere.

    Examples
    --------
    >>> from tercet.models import Sites, distances
    >>> float(distances(Sites([[0.0, 0.0]], "sphere"), Sites([[0.0, 90.0]], "sphere"))[0, 0].round(1))
    10007.6
    """
    a, b = as_sites("first", first), as_sites("second", second)
    check_same_space(a, b)
    x, y = positions(a), positions(b)
    gap = np.zeros((len(x), len(y)))
    for axis in range(x.shape[1]):
        gap += np.square(x[:, axis, None] - y[None, :, axis])
    return from_chord(a.metric, np.sqrt(gap))


def as_sites(name: str, sites: Sites | ArrayLike, metric: str = "plane") -> Sites:
    """Sites as they are; an array [n, d] as sites of the plane (or of `metric`)."""
    if isinstance(sites, Sites):
        return sites
    array = np.asarray(sites)
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); give at least one site.")
    if array.ndim == 1:
        raise ValueError(
            f"{name} must have shape [n, d], got {array.shape}; sites on a line are [n, 1], one site is [1, d]."
        )
    return Sites(array, metric)


def check_same_space(first: Sites, second: Sites) -> None:
    """Raise where two sets of sites cannot be compared."""
    if first.metric != second.metric:
        raise ValueError(
            f"sites have different metrics, {first.metric!r} and {second.metric!r}; build both with the same one."
        )
    d, other = first.coordinates.shape[1], second.coordinates.shape[1]
    if d != other:
        raise ValueError(f"sites have {d} and {other} coordinates; both need the same.")
