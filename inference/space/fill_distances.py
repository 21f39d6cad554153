"""Fill distance: the largest distance from a point of a domain to its nearest site; absolute and relative."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.neighbours import Neighbours
from tercet.models.space.geometry import EARTH_RADIUS, as_sites, shortest_arc
from tercet.models.space.sites import Sites

LATTICE = 20_000
"""Points of the lattice over a domain on the sphere: the fill distance is accurate to a hundredth of its side."""


def fill_distance(sites: Sites | ArrayLike, domain: Sites | ArrayLike) -> float:
    """Largest distance from a site of the domain to its nearest site, h = max over t of min over n of d(t, s_n).

    Parameters
    ----------
    sites : Sites or array [n, d]
    domain : Sites or array [m, d], the points that matter

    Returns
    -------
    float, in the units of the plane or in kilometres

    References
    ----------
    Wendland (2004), Scattered Data Approximation, definition 1.4.

    Examples
    --------
    >>> from tercet.inference import fill_distance
    >>> fill_distance([[0.0], [1.0]], [[0.2], [3.0]])
    2.0
    """
    known = as_sites("sites", sites)
    return float(Neighbours(known).nearest(as_sites("domain", domain, known.metric))[0].max())


def relative_fill(validation: Sites, test: Sites) -> float:
    """Fill distance of the validation sites over the bounding box of all sites, per side of that box; at most 1.

    On the plane a power of two r with h / sqrt(d) <= r <= 4 h, h per box side, by recursive bisection of the box. On
    the sphere the great-circle fill distance of the box in longitude and latitude, divided by the square root of the
    box's area.
    """
    both = np.concatenate([validation.coordinates, test.coordinates]).astype(np.float64)
    if validation.metric == "sphere":
        return _on_sphere(validation, both[:, 0], both[:, 1])
    return bisected_fill(validation.coordinates, both.min(axis=0), both.max(axis=0))


def bisected_fill(points: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> float:
    """Side r = 2^-j of the smallest cells of the box, all halved j times, each of which holds a point.

    The box is halved along its axes in turn; points outside it are left out. r is per box side: with h the fill
    distance of the unit cube, h / sqrt(d) <= r <= 4 h.
    """
    low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
    wide = high > low
    unit = (np.asarray(points, dtype=np.float64)[:, wide] - low[wide]) / (high - low)[wide]
    unit = unit[((unit >= 0) & (unit <= 1)).all(axis=1)]
    d = unit.shape[1]
    if d == 0 or len(unit) == 0:
        return 1.0
    depth = 0
    while 2 ** (depth + 1) <= len(unit) and _every_cell_holds_a_point(unit, depth + 1):
        depth += 1
    return float(2.0 ** -(depth // d))


def _every_cell_holds_a_point(unit: np.ndarray, depth: int) -> bool:
    """Whether points [n, d] of the unit cube are in every one of its 2^depth cells."""
    d = unit.shape[1]
    cell = np.zeros(len(unit), dtype=np.int64)
    for axis in range(d):
        parts = 2 ** ((depth - axis + d - 1) // d)
        cell = cell * parts + np.minimum((unit[:, axis] * parts).astype(np.int64), parts - 1)
    return len(np.unique(cell)) == 1 << depth


def _on_sphere(validation: Sites, latitude: np.ndarray, longitude: np.ndarray) -> float:
    """Fill distance over a Fibonacci lattice in the box of these latitudes and longitudes, relative to its side."""
    west, width = shortest_arc(longitude)
    south, north = np.sin(np.radians([latitude.min(), latitude.max()]))
    side = EARTH_RADIUS * np.sqrt(np.radians(width) * (north - south))
    if side == 0:
        return 1.0
    step = np.arange(LATTICE) + 0.5
    east = (west + width * step / LATTICE + 180) % 360 - 180
    height = south + (north - south) * (step * (np.sqrt(5) - 1) / 2 % 1)
    lattice = Sites(np.stack([np.degrees(np.arcsin(height)), east], axis=1), "sphere")
    return min(1.0, float(fill_distance(validation, lattice) / side))
