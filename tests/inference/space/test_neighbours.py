"""Nearest neighbours and fill distances against every pair."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.inference.space import Neighbours, fill_distance
from tercet.inference.space.fill_distances import bisected_fill, relative_fill
from tercet.models import Sites, distances


def oracle(sites: Sites, others: Sites, k: int) -> tuple[np.ndarray, np.ndarray]:
    gap = distances(others, sites)
    index = np.argsort(gap, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(gap, index, axis=1), index


def layouts(rng: np.random.Generator) -> dict[str, tuple[Sites, Sites]]:
    whole = rng.integers(0, 4, (60, 2)).astype(float)  # ties everywhere, duplicates among them
    globe = np.stack([rng.uniform(-90, 90, 80), rng.uniform(-180, 360, 80)], axis=1)
    return {
        "line": (Sites(rng.normal(size=(50, 1))), Sites(rng.normal(size=(30, 1)))),
        "plane": (Sites(rng.normal(size=(70, 2))), Sites(rng.normal(size=(40, 2)))),
        "five dimensions": (Sites(rng.normal(size=(60, 5))), Sites(rng.normal(size=(20, 5)))),
        "lattice": (Sites(whole), Sites(rng.integers(0, 4, (25, 2)).astype(float))),
        "one location": (Sites(np.zeros((40, 2))), Sites(np.ones((3, 2)))),
        "sphere": (Sites(globe[:50], "sphere"), Sites(globe[50:], "sphere")),
    }


@pytest.mark.parametrize("name", ["line", "plane", "five dimensions", "lattice", "one location", "sphere"])
def test_neighbours_are_those_of_every_pair(name, rng):
    sites, others = layouts(rng)[name]
    for tree in (Neighbours(sites), Neighbours(sites, entries=64)):  # at once, and in many small blocks
        for k in (1, 2, 7, len(sites)):
            gap, index = tree.nearest(others, k)
            wanted, who = oracle(sites, others, k)
            np.testing.assert_array_equal(index, who)
            np.testing.assert_allclose(gap, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["plane", "lattice", "one location"])
def test_a_site_is_not_its_own_neighbour(name, rng):
    sites, _ = layouts(rng)[name]
    gap, index = Neighbours(sites).nearest_others(3)
    everywhere = distances(sites, sites)
    np.fill_diagonal(everywhere, np.inf)
    assert (index != np.arange(len(sites))[:, None]).all()
    assert all(len(set(row)) == 3 for row in index.tolist())
    np.testing.assert_allclose(gap, np.sort(everywhere, axis=1)[:, :3], atol=1e-12)


def test_fill_distance_is_the_farthest_place(rng):
    for sites, others in layouts(rng).values():
        assert fill_distance(sites, others) == pytest.approx(distances(others, sites).min(axis=1).max())


@pytest.mark.parametrize("d", [1, 2, 3])
def test_bisection_brackets_the_fill_distance(d, rng):
    """R is a power of two with h / sqrt(d) <= r <= 4 h, h by a fine lattice of the cube."""
    side = {1: 4001, 2: 161, 3: 41}[d]
    lattice = np.stack(np.meshgrid(*[np.linspace(0, 1, side)] * d), axis=-1).reshape(-1, d)
    for n in (1, 5, 50, 400):
        points = rng.uniform(size=(n, d))
        r, h = bisected_fill(points, np.zeros(d), np.ones(d)), fill_distance(points, lattice)
        assert np.log2(r) == round(np.log2(r))
        assert (h - 1 / side) / np.sqrt(d) <= r <= 4 * (h + np.sqrt(d) / side)


def test_bisection_by_hand():
    corners = [[0.1, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]]
    assert bisected_fill(corners, [0, 0], [1, 1]) == 0.5
    assert bisected_fill(corners[:3], [0, 0], [1, 1]) == 1.0
    assert bisected_fill([*corners, [7.0, 7.0]], [0, 0], [1, 1]) == 0.5  # outside: left out
    assert bisected_fill([[0.2, 5.0], [0.7, 5.0]], [0, 5], [1, 5]) == 0.5  # a flat axis does not count


def test_relative_fill_has_no_units(rng):
    sites, others = rng.uniform(size=(300, 2)), rng.uniform(size=(20, 2))
    r = relative_fill(Sites(sites), Sites(others))
    assert r == relative_fill(Sites(1e3 * sites + 5e5), Sites(1e3 * others + 5e5))
    globe = np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, 4000))), rng.uniform(-180, 180, 4000)], axis=1)
    few, many = (relative_fill(Sites(globe[:n], "sphere"), Sites(globe[:50], "sphere")) for n in (40, 4000))
    assert 0 < many < few <= 1
    turned = np.stack([globe[:, 0], (globe[:, 1] + 257) % 360 - 180], axis=1)
    again = relative_fill(Sites(turned, "sphere"), Sites(turned[:50], "sphere"))
    assert again == pytest.approx(many, rel=0.1)
    assert relative_fill(Sites([[0.0, 0.0], [0.0, 0.0]]), Sites([[0.0, 0.0]])) == 1.0
    assert relative_fill(Sites([[5.0, 5.0], [5.0, 5.0]], "sphere"), Sites([[5.0, 5.0]], "sphere")) == 1.0
