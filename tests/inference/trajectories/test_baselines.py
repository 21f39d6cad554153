"""Baselines by hand, the floor against its known mean, and what the table holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

from tercet.inference.trajectories.baselines import noise_floor, persistence, trajectory_table, transport_midpoint
from tercet.inference.trajectories.distances import mmd_squared, wasserstein
from tercet.models import Snapshots


@pytest.fixture
def train(rng: np.random.Generator) -> Snapshots:
    return Snapshots([rng.normal(size=(n, 2)) for n in (6, 6, 9)], [0.0, 1.0, 3.0])


@pytest.mark.parametrize(("time", "row"), [(0.3, 0), (1.0, 0), (1.5, 1), (3.0, 1), (99.0, 2)])
def test_persistence_is_the_last_snapshot_before(train: Snapshots, time: float, row: int) -> None:
    np.testing.assert_array_equal(persistence(train, time), train.particles[row])


def test_midpoint_follows_a_monotone_map(rng: np.random.Generator) -> None:
    """A gradient of a convex function is its own optimal plan: the interpolation is known particle by particle."""
    x = rng.normal(size=(30, 2))
    y = x @ np.array([[2.0, 0.5], [0.5, 1.0]]) + 3.0
    snapshots = Snapshots([x, rng.permutation(y)], [1.0, 5.0])
    for time in (1.5, 3.0, 4.9):
        share = (time - 1.0) / 4.0
        np.testing.assert_allclose(transport_midpoint(snapshots, time), (1 - share) * x + share * y)


def test_midpoint_of_one_snapshot_held_out(train: Snapshots) -> None:
    """At a training time its own particles are passed over: the same answer without them."""
    rest = Snapshots([train.particles[0], train.particles[2]], [0.0, 3.0])
    np.testing.assert_array_equal(transport_midpoint(train, 1.0), transport_midpoint(rest, 1.0))


@pytest.mark.parametrize(("n", "m"), [(4, 12), (12, 4), (1, 5)])
def test_midpoint_at_multiples_uses_every_pair_once(n: int, m: int, rng: np.random.Generator) -> None:
    """Each particle splits in as many as there are to reach, so the ends of the path are the snapshots themselves."""
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(m, 2))
    snapshots = Snapshots([x, y], [0.0, 1.0])
    near = [transport_midpoint(snapshots, time) for time in (1e-9, 1.0 - 1e-9)]
    count = max(n, m)
    for cloud, end in zip(near, (x, y), strict=True):
        expected = np.repeat(end, count // len(end), axis=0)
        np.testing.assert_allclose(np.sort(cloud, axis=0), np.sort(expected, axis=0), atol=1e-7)


def test_midpoint_at_other_sizes_keeps_the_mass(rng: np.random.Generator) -> None:
    """17 on 23: each particle of a side is in the answer its share of 23 times, to the nearest whole number or so."""
    x, y = rng.normal(size=(17, 2)), rng.normal(size=(23, 2))
    cloud = transport_midpoint(Snapshots([x, y], [0.0, 1.0]), 1e-9)
    assert len(cloud) == 23
    counts = np.array([(np.abs(cloud - particle) < 1e-6).all(axis=1).sum() for particle in x])
    assert counts.sum() == 23
    assert (counts >= 1).all()
    assert (counts <= 2).all()


def test_midpoint_ignores_what_is_not_observed() -> None:
    """The plan of the first coordinate crosses that of the unobserved second one, filled with anything."""
    x, y = [[0.0, 100.0], [1.0, 0.0]], [[0.1, 0.0], [1.1, 100.0]]
    middle = transport_midpoint(Snapshots([x, y], [0, 1], observed=[True, False]), 0.5)
    np.testing.assert_allclose(np.sort(middle[:, 0]), [0.05, 1.05])


def test_floor_has_its_known_mean(seed: int) -> None:
    """One particle each of N(0, s^2): W2^2 = (x - y)^2 ~ 2 s^2 chi-square(1), at every time anew."""
    sds = {0.0: 1.0, 2.0: 3.0}

    def sampler(key: int) -> dict[float, np.ndarray]:
        rng = np.random.default_rng(key)
        return {time: rng.normal(scale=sd, size=(1, 1)) for time, sd in sds.items()}

    found = noise_floor(sampler, repeats=400, key=seed)
    assert found.shape == (400, 2)
    low, high = scipy.stats.chi2.ppf([1e-7, 1 - 1e-7], 400)
    for column, sd in zip(found.T, sds.values(), strict=True):
        assert low < np.square(column).sum() / (2 * sd**2) < high
    assert abs(scipy.stats.spearmanr(*found.T).statistic) < 0.27
    np.testing.assert_array_equal(found[:3], noise_floor(sampler, repeats=3, key=seed))
    assert (noise_floor(sampler, repeats=3, key=seed + 1) != found[:3]).any()


def test_floor_by_another_distance_and_from_snapshots(rng: np.random.Generator) -> None:
    still = Snapshots([rng.normal(size=(5, 2)) for _ in range(3)], [0, 1, 2])
    np.testing.assert_array_equal(noise_floor(lambda key: still, 2, distance=mmd_squared), np.zeros((2, 3)))


def test_table_holds_every_method_at_every_time(train: Snapshots, rng: np.random.Generator) -> None:
    truth = {t: rng.normal(size=(8, 2)) for t in (0.5, 2.0, 4.0)}
    again = {t: rng.normal(size=(8, 2)) for t in truth}
    table = trajectory_table(truth, {"perfect": truth, "other": again}, train, floor=again)
    assert list(table.columns) == ["method", "time", "wasserstein", "mmd2"]
    at = table.groupby("method", sort=False)["time"].apply(list).to_dict()
    every = list(truth)
    assert at == {
        "perfect": every, "other": every, "persistence": every, "transport midpoint": [0.5, 2.0], "noise floor": every,
    }  # fmt: skip
    scores = table.set_index(["method", "time"])
    assert (scores.loc["perfect"].to_numpy() == 0).all()
    np.testing.assert_array_equal(scores.loc["other"], scores.loc["noise floor"])
    for method, predict in (("persistence", persistence), ("transport midpoint", transport_midpoint)):
        for time in at[method]:
            cloud = predict(train, time)
            exact = [wasserstein(truth[time], cloud), mmd_squared(truth[time], cloud)]
            np.testing.assert_allclose(scores.loc[(method, time)], exact)
    wide = trajectory_table(truth, {"other": again}, bandwidth=5.0)
    assert wide["method"].tolist() == ["other"] * 3
    np.testing.assert_allclose(wide["mmd2"], [mmd_squared(truth[t], again[t], 5.0) for t in truth])


def test_table_of_snapshots_looks_at_observed_coordinates(rng: np.random.Generator) -> None:
    """Filler in the truth, in the training data and in full predictions is not scored; times match as meant."""
    seen = [rng.normal(size=(6, 2)) for _ in range(3)]

    def filled(clouds: list[np.ndarray], filler: float, times: list[float]) -> Snapshots:
        full = [np.c_[cloud[:, :1], np.full(6, filler), cloud[:, 1:]] for cloud in clouds]
        return Snapshots(full, times, observed=[True, False, True])

    truth, train = filled(seen[1:2], 7.0, [0.3]), filled([seen[0], seen[2]], -9.0, [0.0, 1.0])
    predictions = {"full": {0.1 + 0.2: np.c_[seen[1][:, :1], np.zeros(6), seen[1][:, 1:]]}, "part": {0.3: seen[1]}}
    table = trajectory_table(truth, predictions, train).set_index("method")["wasserstein"]
    assert table["full"] == table["part"] == 0
    assert table["persistence"] == pytest.approx(wasserstein(seen[1], seen[0]))
    middle = transport_midpoint(Snapshots([seen[0], seen[2]], [0.0, 1.0]), 0.3)
    assert table["transport midpoint"] == pytest.approx(wasserstein(seen[1], middle))
    by_dict = trajectory_table({0.3: truth.particles[0]}, predictions, train).set_index("method")["wasserstein"]
    assert by_dict.to_dict() == table.to_dict()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda data: persistence(data, 0.0), "no snapshot before t = 0: the first is at 0"),
        (lambda data: transport_midpoint(data, 3.0), "no snapshot after t = 3: the last is at 3"),
        (lambda data: transport_midpoint(data, -1.0), "no snapshot before t = -1"),
        (lambda data: trajectory_table(data, {"noise floor": data}), "the name 'noise floor' is a baseline's"),
        (
            lambda data: trajectory_table(data, {"a": {0.0: [[1.0, 2.0]]}}),
            r"a has no particles at t = 1; it has \[0\.0\]",
        ),
        (lambda data: trajectory_table({0: [[1.0, 2.0]]}, {"a": {0: [[1.0]]}}), "widths 2 and 1"),
        (lambda data: trajectory_table(data, {"a": {t: [[1.0]] for t in (0, 1, 3)}}), "a has particles of 1 coord"),
        (lambda data: trajectory_table({0: [1.0]}, {}), "particles at t = 0 must have 2 dim"),
        (lambda data: noise_floor(lambda key: data, repeats=0), "repeats must be at least 1"),
    ],
)
def test_unanswerable_questions_are_refused(train: Snapshots, ask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(train)
