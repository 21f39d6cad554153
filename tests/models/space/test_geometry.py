"""Distances, positions and the frames surfaces live in."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.models import Sites, distances
from tercet.models.space import Frame
from tercet.models.space.geometry import EARTH_RADIUS, as_sites, from_chord, positions, to_chord


def globe(rng: np.random.Generator, n: int) -> Sites:
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    return Sites(np.stack([latitude, rng.uniform(-180, 180, n)], axis=1), "sphere")


def haversine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    (p, u), (q, v) = np.radians(a).T, np.radians(b).T
    h = np.sin((p[:, None] - q) / 2) ** 2 + np.cos(p)[:, None] * np.cos(q) * np.sin((u[:, None] - v) / 2) ** 2
    return 2 * EARTH_RADIUS * np.arcsin(np.sqrt(h))


def test_great_circles(rng):
    a, b = globe(rng, 40), globe(rng, 30)
    np.testing.assert_allclose(distances(a, b), haversine(a.coordinates, b.coordinates), rtol=1e-9, atol=1e-6)
    assert distances(Sites([[90.0, 10.0]], "sphere"), Sites([[90.0, -70.0]], "sphere"))[0, 0] < 1e-6
    near = distances(Sites([[0.0, 179.9]], "sphere"), Sites([[0.0, -179.9], [0.0, 180.1]], "sphere"))[0]
    np.testing.assert_allclose(near, np.radians(0.2) * EARTH_RADIUS, rtol=1e-9)
    antipodes = distances(Sites([[30.0, 20.0]], "sphere"), Sites([[-30.0, -160.0]], "sphere"))[0, 0]
    assert antipodes == pytest.approx(np.pi * EARTH_RADIUS)


def test_plane_is_euclidean_in_any_dimension(rng):
    x, y = rng.normal(size=(12, 5)), rng.normal(size=(9, 5))
    np.testing.assert_allclose(distances(x, y), np.linalg.norm(x[:, None] - y, axis=-1), rtol=1e-12)


def test_chords_and_back(rng):
    gap = rng.uniform(0, np.pi * EARTH_RADIUS, 20)
    np.testing.assert_allclose(from_chord("sphere", to_chord("sphere", gap)), gap, rtol=1e-6)
    assert to_chord("plane", 3.0) == 3.0 == from_chord("plane", 3.0)
    assert to_chord("sphere", 1e9) == 2.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: distances([[0.0, 0.0]], Sites([[0.0, 0.0]], "sphere")), "different metrics"),
        (lambda: distances([[0.0, 0.0]], [[0.0]]), "2 and 1 coordinates"),
        (lambda: as_sites("test", []), "test is empty"),
        (lambda: as_sites("test", [0.0, 1.0]), r"sites on a line are \[n, 1\]"),
        (lambda: as_sites("test", [[0.0, np.nan]]), "NaN"),
        (lambda: Sites([[12.5, 51.0], [139.7, 35.7]], "sphere"), "look swapped: pass latitude first"),
        (lambda: Sites([[12.5, 410.0]], "sphere"), r"longitude must be within \[-180, 360\]"),
        (lambda: Sites([[12.5, 10.0, 3.0]], "sphere"), "latitude and longitude"),
    ],
)
def test_bad_sites(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_frame_of_the_plane_is_a_box(rng):
    sites, more = rng.uniform(10, 20, (50, 2)), rng.uniform(12, 30, (50, 2))
    frame = Frame.around(sites, more)
    coordinates = np.concatenate([frame.coordinates(sites), frame.coordinates(more)])
    assert np.abs(coordinates).max() == pytest.approx(1.0)
    assert distances(sites[:1], more[:1])[0, 0] == pytest.approx(
        frame.scale * np.linalg.norm(frame.coordinates(sites[:1]) - frame.coordinates(more[:1]))
    )


def test_frame_of_a_country_keeps_distances_and_areas(rng):
    """A country near the date line: kilometres to a percent, equal areas by the determinant of the projection."""
    longitude = (rng.uniform(172, 188, 60) + 180) % 360 - 180
    sites = Sites(np.stack([rng.uniform(-45, -35, 60), longitude], axis=1), "sphere")
    frame = Frame.around(sites)
    coordinates = frame.coordinates(sites)
    flat = frame.scale * np.linalg.norm(coordinates[:, None] - coordinates, axis=-1)
    true = distances(sites, sites)
    off = ~np.eye(60, dtype=bool)
    np.testing.assert_allclose(flat[off] / true[off], 1.0, atol=0.01)
    assert frame.dim == 2
    assert np.abs(coordinates).max() == pytest.approx(1.0)
    step = 1e-3
    corner = np.array([[-40.0, 178.0], [-40.0 + step, 178.0], [-40.0, 178.0 + step]])
    edges = np.diff(frame.scale * frame.coordinates(Sites(corner, "sphere")), axis=0)
    area = abs(np.linalg.det(np.stack([edges[0], edges[0] + edges[1]])))
    assert area == pytest.approx((EARTH_RADIUS * np.radians(step)) ** 2 * np.cos(np.radians(40.0)), rel=1e-3)


def test_frame_of_the_globe_is_the_ball(rng):
    sites = globe(rng, 200)
    frame = Frame.around(sites)
    assert frame.dim == 3
    np.testing.assert_allclose(frame.coordinates(sites), positions(sites))
    with pytest.raises(ValueError, match="lives on the sphere"):
        frame.coordinates(Sites([[0.0, 0.0]]))
