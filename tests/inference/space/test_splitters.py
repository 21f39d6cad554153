"""Spatial splits: nothing leaks (brute-force distances, a random splitter as negative control), inside scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.utils.validation import check_random_state

from tercet.inference import BufferedLeaveOneOut, NearestNeighbourMatching, SpatialBlocks
from tercet.inference.space.splitters import distance_to_other_folds
from tercet.models import Sites, distances
from tercet.models.space.geometry import EARTH_RADIUS

METRICS = ["plane", "sphere"]


def clustered(rng: np.random.Generator, metric: str, copies: int = 2) -> Sites:
    """60 locations in 12 clusters, each location `copies` times, in random order; on the sphere about the date line."""
    centres = rng.uniform(size=(12, 2))
    locations = np.repeat(centres, 5, axis=0) + 0.02 * rng.normal(size=(60, 2))
    sites = np.repeat(locations, copies, axis=0)
    if metric == "sphere":
        sites = np.stack([-20 + 40 * sites[:, 0], (180 + 40 * (sites[:, 1] - 0.5) + 180) % 360 - 180], axis=1)
        again = rng.permutation(len(sites))[: len(sites) // 2]
        sites[again, 1] %= 360  # the same locations, written from 0 to 360
    return Sites(rng.permutation(sites), metric)


def splitters(sites: Sites, key: int) -> dict[str, Any]:
    km = 1.0 if sites.metric == "plane" else 40 * np.pi / 180 * EARTH_RADIUS  # the same share of the region
    targets = Sites(sites.coordinates[:7] * 0.5, sites.metric)
    return {
        "blocks": SpatialBlocks(sites, 4, key=key),
        "small blocks": SpatialBlocks(sites, 3, side=0.01 * km, key=key),
        "blocks, buffer": SpatialBlocks(sites, 4, side=0.2 * km, buffer=0.03 * km, key=key),
        "leave one out": BufferedLeaveOneOut(sites),
        "leave one out, buffer": BufferedLeaveOneOut(sites, 0.2 * km),
        "leave some out": BufferedLeaveOneOut(sites, 0.1 * km, most=9, key=key),
        "matching": NearestNeighbourMatching(sites, targets, 4, key=key),
        "matching in two": NearestNeighbourMatching(sites, sites, 2, key=key),
    }


def leaks(sites: Sites, split: Any, buffer: float) -> int:
    """Training sites as near as the buffer to a validation site, over all folds; by the whole matrix of distances.

    On the sphere a nanometre more: a location written in two ways.
    """
    gap = distances(sites, sites)
    return sum(int((gap[np.ix_(train, test)].min(axis=1) <= buffer + 1e-9).sum()) for train, test in split)


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_leaks(metric: str, seed: int, rng: np.random.Generator) -> None:
    """No site, no duplicate and nothing within the buffer in both parts; each site is validated exactly once."""
    sites = clustered(rng, metric)
    n = len(sites)
    for name, splitter in splitters(sites, seed).items():
        split = list(splitter.split())
        assert len(split) == splitter.get_n_splits() == splitter.get_n_splits(sites.coordinates), name
        assert leaks(sites, split, splitter.buffer) == 0, name
        for train, test in split:
            assert not np.intersect1d(train, test).size, name
            assert train.size, name
            assert test.size, name
            assert np.unique(train).size == train.size, name
        tested = np.concatenate([test for _, test in split])
        if name == "leave some out":
            assert (np.sort(tested) == splitter.held_out).all()
            assert len(tested) == 9
        else:
            assert (np.sort(tested) == np.arange(n)).all(), name
        if isinstance(splitter, (SpatialBlocks, NearestNeighbourMatching)) and not splitter.buffer:
            assert all(len(train) + len(test) == n for train, test in split), name
    assert leaks(sites, KFold(4, shuffle=True, random_state=check_random_state(seed)).split(np.arange(n)), 0.0) > 0


@pytest.mark.parametrize("metric", METRICS)
def test_the_buffer_empties_the_ring_and_no_more(metric: str, rng: np.random.Generator) -> None:
    """Training sites are those farther than the buffer, one by one, by brute force; also half round the globe."""
    sites = clustered(rng, metric)
    gap = distances(sites, sites)
    for buffer in (0.0, *np.quantile(gap[gap > 1e-6], [0.01, 0.3, 0.5])):
        for site, (train, test) in enumerate(BufferedLeaveOneOut(sites, buffer).split()):
            assert test.tolist() == [site]
            assert train.tolist() == np.flatnonzero(gap[site] > buffer + 1e-6).tolist()
    buffer = 0.5 * np.quantile(gap, 0.1)
    blocks = SpatialBlocks(sites, 3, side=np.quantile(gap, 0.2), buffer=buffer)
    for fold, (train, test) in enumerate(blocks.split()):
        assert (np.flatnonzero(blocks.folds == fold) == test).all()
        assert train.tolist() == np.flatnonzero(gap[:, test].min(axis=1) > buffer).tolist()


def test_buffers_on_a_lattice_leave_out_sites_at_the_very_distance() -> None:
    """Steps of 0.1 that rounding makes unequal: all four neighbours at 0.3 go."""
    lattice = 0.1 * np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=2).reshape(-1, 2)
    gap = np.abs(lattice[:, None] - lattice[None]) / 0.1
    steps = np.round(np.sqrt(np.square(gap).sum(axis=2)), 6)
    for site, (train, _) in enumerate(BufferedLeaveOneOut(lattice, 0.3).split()):
        assert train.tolist() == np.flatnonzero(steps[site] > 3).tolist()


def test_a_place_on_the_globe_has_many_names() -> None:
    """Both poles at any longitude, both sides of the date line, degrees from -180 or from 0: one location each."""
    names = [[90, 0], [90, 77.7], [90, -180], [-90, 3], [-90, 200], [10.1, -180], [10.1, 180], [-3.3, -10.1]]
    sites = Sites([*names, [-3.3, 349.9], [0.0, 0.0], [-0.0, 360.0], [-0.0, -0.0]], "sphere")
    groups = [[0, 1, 2], [3, 4], [5, 6], [7, 8], [9, 10, 11]]
    for splitter in (
        SpatialBlocks(sites, 5),
        SpatialBlocks(sites, 3, side=1e-3),
        NearestNeighbourMatching(sites, sites, 5),
    ):
        assert all(np.unique(splitter.folds[group]).size == 1 for group in groups)
    for train, test in BufferedLeaveOneOut(sites).split():
        group = next(group for group in groups if test[0] in group)
        assert train.tolist() == sorted(set(range(12)) - set(group))
    with pytest.raises(ValueError, match=r"from 2 to the 5 distinct location\(s\), got 6"):
        SpatialBlocks(sites, 6)


@pytest.mark.parametrize("side", [0.05, 0.11, 0.5])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_blocks_of_the_plane_are_cells_of_a_lattice(side: float, dim: int, rng: np.random.Generator) -> None:
    """Sites of one cell, counted from the least coordinates, are never parted."""
    sites = rng.uniform(-7, -6, size=(400, dim))
    cell = np.floor((sites - sites.min(axis=0)) / side).astype(int)
    folds = SpatialBlocks(sites, 2, side=side, key=int(rng.integers(100))).folds
    for one in np.unique(cell, axis=0):
        assert np.unique(folds[(cell == one).all(axis=1)]).size == 1


def one_cell_a_fold(sites: Sites, side: float) -> SpatialBlocks:
    splitter = SpatialBlocks(sites, 2, side=side)
    while True:
        try:
            splitter = SpatialBlocks(sites, splitter.get_n_splits() + 1, side=side)
        except ValueError:  # no cell is left for another fold
            return splitter


@pytest.mark.parametrize("region", ["globe", "pacific", "arctic", "meridian"])
def test_blocks_of_the_sphere_are_no_larger_than_their_side(region: str, rng: np.random.Generator) -> None:
    """One cell to a fold, as many folds as cells: within a fold latitudes span at most the side, parallels too.

    About the date line the cells are those of the same sites turned to Greenwich.
    """
    u = rng.uniform(size=(120, 2))
    low, high, west, span = {
        "globe": (-90, 90, -180, 360),
        "pacific": (-30, 30, 160, 40),
        "arctic": (60, 90, -180, 360),
        "meridian": (-80, 80, 180, 0),
    }[region]
    latitude, longitude = low + (high - low) * u[:, 0], (west + span * u[:, 1] + 180) % 360 - 180
    sites, side = Sites(np.stack([latitude, longitude], axis=1), "sphere"), 1500.0
    splitter = one_cell_a_fold(sites, side)
    for fold in range(splitter.get_n_splits()):
        inside = splitter.folds == fold
        assert np.ptp(latitude[inside]) * np.pi / 180 * EARTH_RADIUS <= side * (1 + 1e-9)
        turn = np.sort(longitude[inside] % 360)
        span = 360 - np.diff(turn, append=turn[0] + 360).max()
        widest = np.cos(np.radians(np.abs(latitude[inside]).min()))
        assert span * np.pi / 180 * widest * EARTH_RADIUS <= side * (1 + 1e-9)
    if region == "pacific":
        turned = Sites(np.stack([latitude, (longitude % 360) - 180], axis=1), "sphere")
        assert (one_cell_a_fold(turned, side).folds == splitter.folds).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_splits", [2, 5, 10])
def test_default_blocks_fill_all_folds_alike(metric: str, n_splits: int, rng: np.random.Generator) -> None:
    """Sites all over: no fold is half as large or twice as large as another; two distant towns: folds all the same."""
    u = rng.uniform(size=(400, 2))
    sites = u if metric == "plane" else np.stack([np.degrees(np.arcsin(2 * u[:, 0] - 1)), 360 * u[:, 1]], axis=1)
    splitter = SpatialBlocks(Sites(sites, metric), n_splits)
    sizes = np.bincount(splitter.folds)
    assert len(sizes) == n_splits
    assert sizes.max() < 2 * sizes.min()
    area = 1.0 if metric == "plane" else 4 * np.pi * EARTH_RADIUS**2
    assert 0.3 < splitter.side / np.sqrt(area / (10 * n_splits)) < 2
    towns = np.concatenate([[10.0, 20.0] + 1e-3 * u[:30], [50.0, 100.0] + 1e-3 * u[30:60]])
    assert np.unique(SpatialBlocks(Sites(towns, metric), n_splits).folds).size == n_splits


def region(rng: np.random.Generator, metric: str) -> tuple[Sites, Sites]:
    """400 sites in 8 clusters and a grid of 625; on the sphere about the date line."""
    centres = rng.uniform(size=(8, 2))
    sites = centres[rng.integers(8, size=400)] + 0.02 * rng.normal(size=(400, 2))
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 25)] * 2), axis=2).reshape(-1, 2)
    if metric == "sphere":
        sites, grid = (np.stack([40 * s[:, 0], (160 + 40 * s[:, 1] + 180) % 360 - 180], axis=1) for s in (sites, grid))
    return Sites(sites, metric), Sites(grid, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_matching_beats_folds_at_random_where_predictions_are_far(metric: str, rng: np.random.Generator) -> None:
    """Clustered sites, predictions on a grid: a quarter of the mismatch in the mean of six layouts, with sd 0.04."""
    key = int(rng.integers(100))
    tried = [NearestNeighbourMatching(*region(rng, metric), 5, key=key) for _ in range(6)]
    assert np.mean([each.mismatch / each.random_mismatch for each in tried]) < 0.45


@pytest.mark.parametrize("metric", METRICS)
def test_mismatch_is_the_distance_of_two_laws(metric: str, rng: np.random.Generator) -> None:
    """W1 by quantile functions on a grid common to 400 and 625, of distances by brute force."""
    sites, targets = region(rng, metric)
    matching = NearestNeighbourMatching(sites, targets, 5, key=int(rng.integers(100)))
    gap, same = distances(sites, sites), matching.folds[:, None] == matching.folds
    to_others = np.where(same, np.inf, gap).min(axis=1)
    np.testing.assert_allclose(distance_to_other_folds(sites, matching.folds), to_others, rtol=1e-6)
    wanted = distances(targets, sites).min(axis=1)
    levels = (np.arange(10_000) + 0.5) / 10_000
    one, other = (np.quantile(sample, levels, method="inverted_cdf") for sample in (to_others, wanted))
    w1 = np.abs(one - other).mean()
    assert matching.mismatch == pytest.approx(w1, rel=1e-6)
    assert np.bincount(matching.folds).max() <= len(sites) / 2


def test_matching_keeps_folds_at_random_where_predictions_are_like_the_sites(rng: np.random.Generator) -> None:
    """The same distribution: distances to training stay those of folds at random, and nothing is gained by clusters.

    Three of the distances of 500 sites to training; a median moves by some per cent between two folds at random.
    """
    sites, targets = Sites(rng.uniform(size=(500, 2))), rng.uniform(size=(500, 2))
    matching = NearestNeighbourMatching(sites, targets, 5, key=int(rng.integers(100)))
    assert matching.mismatch <= matching.random_mismatch
    at_random = np.median(distance_to_other_folds(sites, rng.permutation(500) % 5))
    assert np.median(distance_to_other_folds(sites, matching.folds)) == pytest.approx(at_random, rel=0.25)
    blocks = SpatialBlocks(sites, 5, side=0.3)  # the control: blocks are another thing
    assert np.median(distance_to_other_folds(sites, blocks.folds)) > 1.5 * at_random


@pytest.mark.parametrize("metric", METRICS)
def test_matching_is_never_worse_than_folds_at_random(metric: str, rng: np.random.Generator) -> None:
    for k in range(5):
        sites, shift = clustered(rng, metric), rng.uniform(0, 0.3)
        targets = Sites(sites.coordinates[rng.integers(120, size=50)] * (1 - shift), metric)
        matching = NearestNeighbourMatching(sites, targets, int(rng.integers(2, 9)), key=k)
        assert matching.mismatch <= matching.random_mismatch


def test_the_same_key_gives_the_same_folds(seed: int, rng: np.random.Generator) -> None:
    sites = clustered(rng, "plane")
    one, again, other = (splitters(sites, key) for key in (seed, seed, seed + 1))
    for name in one:
        for (train, test), (train_again, test_again) in zip(one[name].split(), again[name].split(), strict=True):
            np.testing.assert_array_equal(train, train_again)
            np.testing.assert_array_equal(test, test_again)
    assert (one["small blocks"].folds != other["small blocks"].folds).any()
    assert (one["leave some out"].held_out != other["leave some out"].held_out).any()


@pytest.mark.parametrize("metric", METRICS)
def test_inside_scikit_learn(metric: str, seed: int, rng: np.random.Generator) -> None:
    """cross_val_score, cross_val_predict and a grid search, refits written out; a clone keeps its splitter."""
    sites = clustered(rng, metric, copies=1)
    x, y = rng.normal(size=(60, 2)), rng.normal(size=60)
    for name, splitter in splitters(sites, seed).items():
        arguments = {"cv": splitter, "scoring": "neg_mean_squared_error"}
        scores = cross_val_score(LinearRegression(), x, y, **arguments)
        by_hand = []
        for train, test in splitter.split(x, y):
            design = np.column_stack([np.ones(60), x])
            beta = np.linalg.lstsq(design[train], y[train], rcond=None)[0]
            by_hand.append(-np.mean((y[test] - design[test] @ beta) ** 2))
        np.testing.assert_allclose(scores, by_hand, rtol=1e-6)
        if len(scores) < 10:  # a grid search over 60 splits takes seconds
            search = clone(GridSearchCV(Ridge(), {"alpha": [0.1, 100.0]}, **arguments)).fit(x, y)
            assert search.n_splits_ == splitter.get_n_splits()
            means = [cross_val_score(Ridge(a), x, y, **arguments).mean() for a in (0.1, 100.0)]
            np.testing.assert_allclose(search.cv_results_["mean_test_score"], means)
            assert f"{splitter.get_n_splits()} splits" in repr(search)
        if name in ("blocks", "matching"):  # a partition
            assert cross_val_predict(LinearRegression(), x, y, cv=splitter).shape == (60,)


def test_a_leak_flatters_a_model_that_copies(rng: np.random.Generator) -> None:
    """Duplicates with equal responses: a nearest neighbour is right at random folds and has no skill at these."""
    sites = clustered(rng, "plane", copies=3)
    _, location = np.unique(sites.coordinates, axis=0, return_inverse=True)
    y = rng.normal(size=60)[location.reshape(-1)]
    model, x = KNeighborsRegressor(1), sites.coordinates

    def error(cv: Any) -> float:
        return -cross_val_score(model, x, y, cv=cv, scoring="neg_mean_squared_error").mean()

    assert error(KFold(5, shuffle=True, random_state=0)) < 0.4
    for cv in (SpatialBlocks(sites, 5), BufferedLeaveOneOut(sites), NearestNeighbourMatching(sites, sites, 5)):
        assert error(cv) > 0.5


def test_bad_input_is_named() -> None:
    sites = np.random.default_rng(0).uniform(size=(20, 2))
    sphere, one_location = Sites(sites, "sphere"), np.ones((20, 2))
    calls: list[tuple[Any, str]] = [
        (lambda: SpatialBlocks(sites, 1), "from 2 to the 20"),
        (lambda: SpatialBlocks(sites, 21), "from 2 to the 20"),
        (lambda: SpatialBlocks(sites, 5, side=0.0), "side must be a positive length, got 0"),
        (lambda: SpatialBlocks(sites, 5, side=np.inf), "side must be a positive length, got inf"),
        (lambda: SpatialBlocks(sites, 5, side=2.0), r"1 block\(s\) cannot fill 5 folds; give a shorter side"),
        (lambda: SpatialBlocks(sites, 5, buffer=2.0), "outside the buffer of 2 of fold 0; lower the buffer"),
        (lambda: SpatialBlocks(sphere, 5, buffer=2e4), "outside the buffer of 20000 of fold 0"),
        (lambda: SpatialBlocks(sites, 5, buffer=-1.0), "buffer must be a distance of zero or more, got -1"),
        (lambda: SpatialBlocks(one_location, 2), r"from 2 to the 1 distinct location\(s\), got 2"),
        (lambda: SpatialBlocks(sites[:, 0]), "must have shape"),
        (lambda: SpatialBlocks(np.where(sites > 0.9, np.nan, sites)), "coordinates has NaN"),
        (lambda: BufferedLeaveOneOut(sites, 2.0), "no site is farther than 2 from site 0; lower the buffer"),
        (lambda: BufferedLeaveOneOut(sphere, 3e4), "no site is farther than 30000 from site 0"),
        (lambda: BufferedLeaveOneOut(one_location), "no site is farther than 0 from site 0"),
        (lambda: BufferedLeaveOneOut(sites, np.nan), "zero or more, got nan"),
        (lambda: BufferedLeaveOneOut(sites, most=0), "at least one site, got 0"),
        (lambda: NearestNeighbourMatching(sites, sites, 21), "from 2 to the 20"),
        (lambda: NearestNeighbourMatching(one_location, sites, 2), "the 1 distinct location"),
        (lambda: NearestNeighbourMatching(sites, sphere), "different metrics"),
        (lambda: NearestNeighbourMatching(sites, sites[:, :1]), "2 and 1 coordinates"),
        (lambda: NearestNeighbourMatching(sites, sites[:0]), "prediction is empty"),
        (lambda: NearestNeighbourMatching(sites, np.full((3, 2), np.inf)), "NaN or infinite"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()
    for splitter in (SpatialBlocks(sites), BufferedLeaveOneOut(sites), NearestNeighbourMatching(sites, sites)):
        with pytest.raises(ValueError, match="built for 20 sites, the data have 7 rows"):
            next(splitter.split(np.zeros((7, 2))))
