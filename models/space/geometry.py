"""Distances between sites, in the units of their metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tercet.models.space.sites import Metric, Sites

EARTH_RADIUS = 6371.0088
"""Mean radius of the Earth in kilometres (IUGG)."""


def positions(sites: Sites) -> np.ndarray:
    """Cartesian coordinates [n, d] of the sites: as given on the plane, unit vectors [n, 3] on the sphere.

    Their straight-line (chord) distances order pairs of sites as the metric does.
    """
    array = np.asarray(sites.coordinates, dtype=np.float64)
    if sites.metric == "plane":
        return array
    latitude, longitude = np.radians(array).T
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )


def from_chord(metric: Metric, chord: float | np.ndarray) -> np.ndarray:
    """Distances in the units of the metric (great-circle kilometres on the sphere) from chord lengths."""
    length = np.asarray(chord)
    return length if metric == "plane" else np.asarray(2 * EARTH_RADIUS * np.arcsin(np.minimum(length / 2, 1.0)))


def to_chord(metric: Metric, distance: float | np.ndarray) -> np.ndarray:
    """Chord lengths from distances in the units of the metric."""
    length = np.asarray(distance)
    return length if metric == "plane" else np.asarray(2 * np.sin(np.minimum(length / EARTH_RADIUS, np.pi) / 2))


def distances(first: Sites | ArrayLike, second: Sites | ArrayLike) -> np.ndarray:
    """Distance matrix [n, m]: Euclidean, or great-circle kilometres on the sphere.

    Parameters
    ----------
    first : Sites or array [n, d]
    second : Sites or array [m, d]

    Examples
    --------
    >>> from tercet.models import Sites, distances
    >>> float(distances(Sites([[0.0, 0.0]], "sphere"), Sites([[0.0, 90.0]], "sphere"))[0, 0].round(1))
    10007.6
    """
    a, b = as_sites("first", first), as_sites("second", second)
    check_same_space(a, b)
    x, y = positions(a), positions(b)
    squared = np.zeros((len(x), len(y)))
    for axis in range(x.shape[1]):
        squared += np.square(x[:, axis, None] - y[None, :, axis])
    return from_chord(a.metric, np.sqrt(squared))


def as_sites(name: str, sites: Sites | ArrayLike, metric: Metric = "plane") -> Sites:
    """Sites as they are; an array [n, d] as sites with this metric."""
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
    """Raise where two sets of sites differ in metric or in number of coordinates."""
    if first.metric != second.metric:
        raise ValueError(
            f"sites have different metrics, {first.metric!r} and {second.metric!r}; build both with the same one."
        )
    d, other = first.coordinates.shape[1], second.coordinates.shape[1]
    if d != other:
        raise ValueError(f"sites have {d} and {other} coordinates; both need the same.")


def shortest_arc(longitude: np.ndarray) -> tuple[float, float]:
    """Western end and width, in degrees, of the shortest arc of a parallel that holds every longitude [n]."""
    east = np.unique(longitude % 360)
    gaps = np.diff(east, append=east[0] + 360)
    widest = int(gaps.argmax())
    return float(east[(widest + 1) % len(east)]), float(360 - gaps[widest])
