"""k-centre for sites, against all distances written out and every set of sites.

The oracles take only public functions. They follow the picks that were made and ask of each: is its gain the
brute-force gain, and is there no better candidate left? Exact ties then do no harm.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest

from tercet.designs import (
    select_sites,
)
from tercet.inference import fill_distance
from tercet.models import Sites, distances

RTOL = 1e-8
MAY_STOP = pytest.mark.filterwarnings("ignore:no candidate left brings any target nearer")
SPACES = ("line", "plane", "five dimensions", "date line", "globe")


@MAY_STOP
@pytest.mark.parametrize("space", SPACES)
def test_k_centre_goes_for_the_farthest_target(space: str, rng: Any, draw: Any, joined: Any, taken: Any) -> None:
    candidates, existing, target = (draw(space, n, rng) for n in (40, 3, 60))
    picked = select_sites(candidates, None, 8, existing=existing, target=target)
    gaps = distances(target, candidates)
    left, fills = distances(target, existing).min(axis=1), []
    for index in picked.chosen:
        able = gaps.min(axis=1) < left * (1 - 1e-9)
        far = np.where(able, left, -1).argmax()
        assert gaps[far, index] <= gaps[far].min() * (1 + RTOL)
        left = np.minimum(left, gaps[:, index])
        fills.append(left.max())
    start = fill_distance(existing, target)
    np.testing.assert_allclose(picked.gains, -np.diff([start, *fills]), rtol=RTOL, atol=1e-9 * start)
    np.testing.assert_allclose(picked.table["fill_distance"], fills, rtol=RTOL)
    np.testing.assert_allclose(fill_distance(joined(existing, taken(candidates, picked.chosen)), target), fills[-1])


@pytest.mark.parametrize("labelled", [0, 2])
@pytest.mark.parametrize("same", [True, False], ids=["candidates are the targets", "candidates are others"])
@pytest.mark.parametrize("space", ["line", "plane", "globe"])
def test_k_centre_is_within_its_factor_of_the_best(space: str, same: bool, labelled: int, rng: Any, draw: Any) -> None:
    """Twice the smallest fill distance where every target is a candidate, three times otherwise: all sets tried."""
    for size in (1, 2, 3):
        target = draw(space, 9, rng)
        candidates = target if same else draw(space, 9, rng)
        existing = draw(space, labelled, rng) if labelled else None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            picked = select_sites(candidates, None, size, existing=existing, target=target)
        gaps = distances(target, candidates)
        bare = np.full(9, np.inf) if existing is None else distances(target, existing).min(axis=1)

        def fill(chosen: Any, gaps: np.ndarray = gaps, bare: np.ndarray = bare) -> float:
            return float(np.column_stack([bare, gaps[:, list(chosen)]]).min(axis=1).max())

        best = min(fill(chosen) for chosen in itertools.combinations(range(9), size))
        reached = fill(picked.chosen)
        assert best * (1 - RTOL) <= reached <= (2 if same else 3) * best * (1 + RTOL)
        assert len(picked.chosen) + len(caught) >= size
        if caught:  # fewer sites are as good as all of them
            np.testing.assert_allclose(reached, fill(range(9)))


def test_k_centre_can_miss_the_best_by_its_factor() -> None:
    """The factor 2 is reached: ends first, the middle never."""
    line = [[0.0], [1.0], [2.0]]
    assert select_sites(line, None, 1, existing=[[-2.0]], target=line).table["fill_distance"].tolist() == [2.0]


def test_one_target_gets_the_site_nearest_to_it(rng: Any, draw: Any) -> None:
    candidates, target = draw("globe", 50, rng), draw("globe", 1, rng)
    existing = Sites(target.coordinates * [-1, 1] + [0, 180], "sphere")  # at the other end of the world
    picked = select_sites(candidates, None, 1, existing=existing, target=target)
    gaps = distances(target, candidates)[0]
    assert picked.chosen.tolist() == [gaps.argmin()]
    np.testing.assert_allclose(picked.gains, distances(target, existing)[0] - gaps.min(), rtol=RTOL)


def test_first_site_of_all_goes_to_the_middle() -> None:
    grid = np.arange(11.0)[:, None]
    picked = select_sites(grid, None, 3)
    assert picked.chosen.tolist() == [5, 0, 10]
    assert picked.gains.tolist() == [5.0, 0.0, 3.0]  # from 10, the whole box: two ends are equally far
    assert select_sites([[4.0]], None, 1).chosen.tolist() == [0]


def test_ties_go_to_the_lowest_index() -> None:
    picked = select_sites([[1.0], [-1.0], [1.0]], None, 1, existing=[[5.0]], target=[[0.0]])
    assert picked.chosen.tolist() == [0]
    picked = select_sites([[9.0], [1.0]], None, 2, existing=[[5.0]], target=[[1.0], [9.0]])
    assert picked.chosen.tolist() == [1, 0]
    assert picked.gains.tolist() == [0.0, 4.0]


@pytest.mark.parametrize("metric", ["plane", "sphere"])
def test_k_centre_stops_where_nothing_is_left_to_gain(metric: Any, rng: Any) -> None:
    points = rng.uniform(-60, 60, (5, 2))
    twice = Sites(np.concatenate([points, points]), metric)
    with pytest.warns(UserWarning, match=r"no candidate left brings any target nearer .*\(fill distance 0\)"):
        picked = select_sites(twice, None, 8, target=Sites(points, metric))
    assert sorted(picked.chosen.tolist()) == [0, 1, 2, 3, 4]
    assert picked.table["fill_distance"].iloc[-1] == 0
    with pytest.warns(UserWarning, match="ends before the budget"):
        empty = select_sites(twice, None, 3, existing=Sites(points, metric))
    assert empty.chosen.shape == empty.gains.shape == (0,)
    assert empty.expected_random == 0.0
    assert list(empty.table.columns) == list(picked.table.columns)


def test_targets_out_of_reach_are_passed_over() -> None:
    """An island that no candidate is near to does not keep the others from being served."""
    picked = select_sites([[1.0], [2.0], [3.0]], None, 2, existing=[[0.0]], target=[[-50.0], [3.1], [1.0]])
    assert picked.chosen.tolist() == [2, 0]
    assert picked.gains.tolist() == [0.0, 0.0]


def test_costs_of_k_centre() -> None:
    """The fall of the farthest target's distance per cost decides, among what is affordable."""
    candidates = [[10.0], [7.0], [1.0]]

    def pick(budget: float, cost: list[float]) -> Any:
        return select_sites(candidates, None, budget, cost=cost, existing=[[0.0]], target=[[10.0]])

    assert pick(8.5, [8.0, 5.0, 9.0]).chosen.tolist() == [1]  # 7 / 5 beats 10 / 8
    assert pick(8.5, [8.0, 7.0, 9.0]).chosen.tolist() == [0]
    picked = pick(7.5, [8.0, 7.0, 2.0])
    assert picked.chosen.tolist() == [1]  # 10 / 8 would be best, but is too dear
    assert picked.table["cost"].tolist() == [7.0]
    with pytest.warns(UserWarning, match="fill distance 3"):
        assert pick(7.5, [8.0, 5.0, 2.0]).chosen.tolist() == [1]  # the site at 1 helps no target then


def test_dear_candidates_do_not_stop_the_others() -> None:
    """The farthest target could be served, but not for what is left: the next one is."""
    call: dict[str, Any] = {"existing": [[0.0]], "target": [[10.0], [-5.0]]}
    picked = select_sites([[10.0], [-4.0]], None, 2.0, cost=[3.0, 2.0], **call)
    assert picked.chosen.tolist() == [1]
    assert picked.gains.tolist() == [0.0]


@MAY_STOP
def test_equal_costs_are_no_costs(rng: Any, draw: Any) -> None:
    candidates, existing, target = (draw("plane", n, rng) for n in (40, 3, 60))
    call: dict[str, Any] = {"existing": existing, "target": target}
    free = select_sites(candidates, None, 6, **call)
    np.testing.assert_array_equal(free.chosen, select_sites(candidates, None, 12.0, cost=np.full(40, 2), **call).chosen)


def test_expected_random_of_k_centre_is_the_average_over_all_sets(rng: Any, draw: Any, joined: Any, taken: Any) -> None:
    """A mean of 20 batches a call, 8 calls: within 5 of its own standard errors (false alarm below 1e-6)."""
    candidates, existing, target = (draw("plane", n, rng) for n in (6, 2, 20))
    start = fill_distance(existing, target)
    totals = [
        start - fill_distance(joined(existing, taken(candidates, list(chosen))), target)
        for chosen in itertools.combinations(range(6), 2)
    ]
    calls = [select_sites(candidates, None, 2, existing=existing, target=target, key=key) for key in range(8)]
    reported = np.mean([call.expected_random for call in calls])
    assert abs(reported - np.mean(totals)) <= 5 * np.std(totals) / np.sqrt(160) + 1e-12
