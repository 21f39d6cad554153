"""Simulated layouts of the infill check: denser sites in the manner of given ones, and smooth surfaces over them."""

from __future__ import annotations

import numpy as np

from tercet.inference.space.neighbours import Neighbours
from tercet.models.space.geometry import EARTH_RADIUS
from tercet.models.space.sites import Sites

FEATURES = 40
"""Random Fourier features of a surface."""
LENGTH = 0.4
"""Length scale of the surfaces, in half extents of the sites."""
NEIGHBOURS = 4
"""New sites are scattered around given ones as far as their fourth neighbour."""


def densified(sites: Sites, size: int, rng: np.random.Generator) -> Sites:
    """The given sites, then others around them, `size` in all: a smoothed bootstrap of the layout."""
    extra = size - len(sites)
    if extra <= 0:
        return sites
    k = min(NEIGHBOURS, len(sites) - 1)
    origin = rng.integers(0, len(sites), extra)
    distance = Neighbours(sites).nearest_others(k)[0][:, -1][origin]
    array = np.asarray(sites.coordinates, dtype=np.float64)
    steps = rng.standard_normal((extra, array.shape[1])) * (distance / np.sqrt(array.shape[1]))[:, None]
    if sites.metric == "sphere":  # kilometres north and east
        latitude = np.radians(array[origin, 0])
        steps = np.degrees(steps / EARTH_RADIUS)
        steps[:, 1] /= np.maximum(np.cos(latitude), 0.05)
    moved = array[origin] + steps
    if sites.metric == "sphere":
        moved = np.stack([np.clip(moved[:, 0], -90, 90), (moved[:, 1] + 180) % 360 - 180], axis=1)
    return Sites(np.concatenate([array, moved]), sites.metric)


def smooth_surface(
    coordinates: np.ndarray, rng: np.random.Generator, *, lipschitz: float | None, margin: float
) -> np.ndarray:
    """A random smooth surface [n] at coordinates [n, q], within [margin, 1 - margin], no steeper than `lipschitz`."""
    frequency = rng.standard_normal((FEATURES, coordinates.shape[1])) / LENGTH
    phase, weight = rng.uniform(0, 2 * np.pi, FEATURES), rng.standard_normal(FEATURES)
    angle = coordinates @ frequency.T + phase
    values = np.cos(angle) @ weight
    steepest = np.linalg.norm((np.sin(angle) * weight) @ frequency, axis=1).max()
    amplitude = (0.5 - margin) / max(np.abs(values - values.mean()).max(), 1e-12)
    if lipschitz is not None:
        amplitude = min(amplitude, lipschitz / max(steepest, 1e-12))
    return np.asarray(0.5 + amplitude * (values - values.mean()))
