"""The grammar of `select_sites`: exclusions, tables, budgets, order, mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tercet.designs import (
    CRITERIA,
    SITE_CRITERIA,
    PairCandidates,
    SiteCandidates,
    candidate_pairs,
    select,
    select_pairs,
    select_sites,
)
from tercet.inference import laplace
from tercet.inference.posteriors import SampledPosterior
from tercet.inference.posteriors.context import Context
from tercet.models import BradleyTerry, Comparisons, Items, LinearHead, Sites

MAY_STOP = pytest.mark.filterwarnings("ignore:no candidate left brings any target nearer")


@MAY_STOP
@pytest.mark.parametrize("criterion", ["k-centre", "greedy V"])
def test_excluded_sites_are_not_chosen(criterion: str, rng: Any, taken: Any, build: Any) -> None:
    problem = build("date line", rng)
    every = problem.select(3, criterion=criterion)
    out = every.chosen[:2]
    mask = np.isin(np.arange(12), out)
    turned = problem.candidates.coordinates[out]
    turned = Sites(np.stack([turned[:, 0], turned[:, 1] % 360], axis=1), "sphere")
    picks = [problem.select(3, criterion=criterion, exclude=given) for given in (out, mask, turned)]
    kept = taken(problem.candidates, ~mask)
    alone = select_sites(
        kept, problem.posterior, 3, criterion=criterion, target=problem.target, target_weights=problem.share
    )
    for picked in picks:
        np.testing.assert_array_equal(picked.chosen, np.flatnonzero(~mask)[alone.chosen])
        np.testing.assert_allclose(picked.gains, alone.gains)
    cost = rng.uniform(1.0, 2.0, 12)
    priced = problem.select(5.0, criterion=criterion, exclude=out, cost=cost)
    np.testing.assert_array_equal(priced.table["cost"], cost[priced.chosen])
    assert not np.isin(priced.chosen, out).any()


def test_table_names_and_places_the_picks(rng: Any, build: Any) -> None:
    problem = build("date line", rng)
    named = Sites(problem.candidates.coordinates, "sphere", ids=[f"site {k}" for k in range(12)])
    picked = select_sites(named, problem.posterior, 3, target=problem.target, cost=np.ones(12))
    assert list(picked.table.columns) == ["site", "latitude", "longitude", "gain", "surface_sd", "risk_sd", "cost"]
    assert picked.table["site"].tolist() == [f"site {k}" for k in picked.chosen]
    np.testing.assert_array_equal(picked.table[["latitude", "longitude"]], named.coordinates[picked.chosen])
    np.testing.assert_array_equal(picked.table["gain"], picked.gains)
    plain = select_sites(np.eye(3), None, 2)
    assert list(plain.table.columns) == ["site", "x0", "x1", "x2", "gain", "fill_distance"]
    assert plain.table["site"].tolist() == plain.chosen.tolist()


@pytest.mark.parametrize("criterion", ["k-centre", "greedy V"])
@pytest.mark.parametrize("cost", [False, True])
def test_budget_zero_is_an_empty_selection(criterion: str, cost: bool, rng: Any, build: Any) -> None:
    problem = build("plane", rng)
    price = np.ones(12) if cost else None
    empty, one = (problem.select(budget, criterion=criterion, cost=price) for budget in (0, 1))
    assert empty.chosen.shape == empty.gains.shape == (0,)
    assert empty.expected_random == 0.0
    assert list(empty.table.columns) == list(one.table.columns)


@MAY_STOP
@pytest.mark.parametrize("criterion", ["k-centre", "greedy V"])
def test_select_is_the_same_grammar(criterion: str, rng: Any, build: Any) -> None:
    problem = build("plane", rng)
    one = problem.select(4, criterion=criterion)
    candidates = SiteCandidates(problem.candidates, None, problem.target, problem.share)
    for other in (
        select(candidates, problem.posterior, 4, criterion=criterion),
        select_sites(candidates, problem.posterior, 4, criterion=criterion),
    ):
        np.testing.assert_array_equal(one.chosen, other.chosen)
        np.testing.assert_array_equal(one.gains, other.gains)
        assert one.expected_random == other.expected_random
    bare = SiteCandidates(problem.candidates)
    given = select_sites(bare, problem.posterior, 1, criterion=criterion, target=problem.target)
    assert len(given.chosen) == 1


@MAY_STOP
def test_order_of_the_candidates_does_not_matter(rng: Any, taken: Any, build: Any) -> None:
    problem = build("globe", rng, basis=4)
    turn = rng.permutation(12)
    for criterion in ("k-centre", "greedy V"):
        one = problem.select(4, criterion=criterion)
        other = select_sites(
            taken(problem.candidates, turn),
            problem.posterior,
            4,
            criterion=criterion,
            target=problem.target,
            target_weights=problem.share,
        )
        np.testing.assert_array_equal(one.chosen, turn[other.chosen])
        np.testing.assert_allclose(one.gains, other.gains, rtol=1e-7, atol=1e-12)


@MAY_STOP
def test_arrays_live_where_the_other_sites_do(rng: Any, build: Any) -> None:
    problem = build("date line", rng)
    given = [each.coordinates for each in (problem.candidates, problem.target)]
    picked = select_sites(given[0], problem.posterior, 3, target=given[1], target_weights=problem.share)
    np.testing.assert_array_equal(picked.chosen, problem.select(3).chosen)
    bare = select_sites(given[0], None, 3, existing=problem.existing, target=given[1])
    np.testing.assert_array_equal(bare.chosen, problem.select(3, criterion="k-centre").chosen)


GRID = np.stack(np.meshgrid(np.arange(3.0), np.arange(3.0)), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 10}, "between 0 and the 9 candidates"),
        ({"budget": 2.5}, "whole number"),
        ({"budget": float("nan")}, "whole number"),
        ({"criterion": "best"}, r"criterion must be one of .*k-centre"),
        ({"criterion": "D-optimal (published)"}, "criterion must be one of"),
        ({"criterion": CRITERIA["D-optimal (published)"]}, "for pairs only"),
        ({"criterion": "greedy V"}, "posterior is None"),
        ({"criterion": SITE_CRITERIA["greedy V"]}, "posterior is None"),
        ({"candidates": np.empty((0, 2))}, "candidates is empty"),
        ({"candidates": np.arange(3.0)}, r"candidates must have shape \[n, d\]"),
        ({"candidates": GRID * np.nan}, "NaN"),
        ({"existing": [[0.0, 0.0, 0.0]]}, "2 and 3 coordinates"),
        ({"target": [[0.0]]}, "2 and 1 coordinates"),
        ({"target": Sites([[0.0, 0.0]], "sphere"), "existing": Sites([[0.0, 0.0]])}, "different metrics"),
        ({"target_weights": np.ones(3)}, "needs 9 numbers"),
        ({"target": [[0.0, 0.0]], "target_weights": [-1.0]}, "none negative"),
        ({"cost": np.ones(3), "budget": 1.0}, "9 positive numbers"),
        ({"cost": np.zeros(9), "budget": 1.0}, "9 positive numbers"),
        ({"cost": np.ones(9), "budget": -1.0}, "negative"),
        ({"exclude": [9]}, r"exclude must be positions in \[0, 9\)"),
        ({"exclude": [-1]}, "exclude must be positions"),
        ({"exclude": [0.5]}, "exclude must be positions"),
        ({"exclude": [True, False]}, "exclude must be positions"),
        ({"exclude": np.arange(9)}, "exclude leaves none"),
        ({"candidates": SiteCandidates(GRID), "existing": GRID}, "belong to SiteCandidates"),
        ({"candidates": SiteCandidates(GRID, target=GRID), "target": GRID}, "given twice"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {"candidates": GRID, "posterior": None, "budget": 2} | arguments
    with pytest.raises(ValueError, match=message):
        select_sites(call.pop("candidates"), call.pop("posterior"), call.pop("budget"), **call)


def test_posteriors_that_do_not_fit(rng: Any, draw: Any, build: Any) -> None:
    problem = build("plane", rng, "log-normal")
    with pytest.raises(ValueError, match=r"2 candidate site\(s\) lie outside the box"):
        select_sites([[0.0, 0.0], [90.0, 0.0], [0.0, -90.0]], problem.posterior, 1, target=problem.target)
    with pytest.raises(ValueError, match="1 coordinates, the surface 2"):
        select_sites([[0.0]], problem.posterior, 1)
    foreign = SampledPosterior("nuts", Context(print, ()), {}, {}, {})
    with pytest.raises(ValueError, match="not of a LossSurface"):
        select_sites(GRID, foreign, 1)
    context = Context(problem.model, None, {}, x64=True)
    loaded = SampledPosterior("nuts", context, {}, problem.posterior.samples, {})
    with pytest.raises(ValueError, match="pass existing="):
        select_sites(problem.candidates, loaded, 1)
    with pytest.raises(ValueError, match="mean of the surface needs"):
        select_sites(problem.candidates, loaded, 1, existing=problem.existing)
    exact = build("plane", rng, basis=0)
    with pytest.raises(ValueError, match="2,001 candidates are too many for the exact process"):
        select_sites(draw("plane", 2_001, rng), exact.posterior, 1)


def test_criteria_for_sites_refuse_pairs(rng: Any) -> None:
    items = Items(rng.standard_normal((5, 2)))
    with pytest.raises(ValueError, match="for sites only"):
        select(PairCandidates(items, candidate_pairs(items, "all")), None, 1, criterion=SITE_CRITERIA["k-centre"])
    fit = laplace(BradleyTerry(LinearHead(1.0)), items, Comparisons([0], [1], [1]))
    with pytest.raises(ValueError, match=r"criterion must be one of \['BALD"):
        select_pairs(items, fit, 1, criterion="k-centre")
