"""What `select_pairs` promises whatever the rule: keys, invariances, precision, near duplicates, tables, errors."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats

from tercet.datasets import simulated_preferences
from tercet.designs import CRITERIA, PairCandidates, candidate_pairs, select, select_pairs
from tercet.inference import laplace, load, win_probability
from tercet.inference.posteriors import GaussianPosterior
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import SiteGaussian
from tercet.models import AbilityHead, BradleyTerry, Comparisons, Items, LinearHead, project

DRAWN = ("random", "coreset")  # by chance: another key, other picks
INFORMED = [name for name in CRITERIA if name not in DRAWN]
GREEDY = ["greedy D", "greedy V"]


def hand_made(items: Items, rng: np.random.Generator, order: bool = False) -> GaussianPosterior:
    """A posterior of a linear head without a fit."""
    d = items.features.shape[1]
    size = d + order
    factor = np.tril(rng.uniform(-0.5, 0.5, (size, size)), -1) + np.diag(rng.uniform(2.0, 4.0, size))
    layout = (("weights", d),) + ((("order_effect", 0),) * order)
    answers = Comparisons([0, 1], [1, 2], [1, 0])
    context = Context(BradleyTerry(LinearHead(1.0), order_effect=order), (items, answers), {}, x64=True)
    return SiteGaussian("laplace", context, {"converged": True}, rng.normal(0, 0.6, size), factor, layout)


@pytest.fixture
def items(rng: np.random.Generator) -> Items:
    return Items(rng.standard_normal((12, 3)), ids=[f"item {k}" for k in range(12)], prompt=np.arange(12) // 4)


@pytest.fixture
def posterior(items: Items, rng: np.random.Generator) -> GaussianPosterior:
    return hand_made(items, rng)


@pytest.mark.parametrize("orders", [False, True])
def test_random_rule_is_uniform_without_repetition(items: Items, orders: bool, seed: int) -> None:
    """Chi-square over the 15 sets of two of six candidates; false-alarm rate 1e-6."""
    posterior = hand_made(items, np.random.default_rng(seed), orders)
    candidates = [[0, 1], [2, 1], [3, 4], [5, 4], [6, 7], [8, 0]]
    keys = np.random.default_rng(seed).integers(2**40, size=300)
    counts: Counter[Any] = Counter()
    for key in keys:
        picked = select_pairs(items, posterior, 2, candidates=candidates, criterion="random", key=int(key))
        counts[frozenset(map(tuple, picked.chosen.tolist()))] += 1
    sets = [frozenset(two) for two in itertools.combinations(map(tuple, candidates), 2)]
    assert set(counts) <= set(sets)
    assert scipy.stats.chisquare([counts[two] for two in sets]).pvalue > 1e-6


@pytest.mark.precision
@pytest.mark.parametrize("criterion", CRITERIA)
def test_picks_do_not_depend_on_precision(criterion: str, bits: int, seed: int) -> None:
    data = simulated_preferences(60, 5, 80, key=seed)

    def chosen() -> Any:
        fit = laplace(BradleyTerry(LinearHead(1.5)), data.items, data.comparisons)
        picked = select_pairs(data.items, fit, 6, candidates=300, criterion=criterion, key=jax.random.key(seed))
        assert picked.gains.dtype == np.float64
        return picked

    one = chosen()
    with jax.enable_x64(bits != 64):
        other = chosen()
    np.testing.assert_array_equal(one.chosen, other.chosen)
    np.testing.assert_array_equal(one.gains, other.gains)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_same_key_same_picks_other_key_other_candidates(
    criterion: str, items: Items, posterior: GaussianPosterior, seed: int
) -> None:
    def chosen(key: int, candidates: Any) -> list[list[int]]:
        return select_pairs(items, posterior, 4, candidates=candidates, criterion=criterion, key=key).chosen.tolist()

    assert chosen(seed, 20) == chosen(seed, 20)
    assert any(chosen(seed + k, 20) != chosen(seed, 20) for k in range(1, 4))
    redrawn = any(chosen(seed + k, "all") != chosen(seed, "all") for k in range(1, 4))
    assert redrawn == (criterion in DRAWN)


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("criterion", INFORMED)
def test_swapped_candidates_change_signs_only(criterion: str, items: Items, order: bool, rng: Any) -> None:
    posterior = hand_made(items, rng, order)
    pairs = candidate_pairs(items, "all")
    flip = rng.random(len(pairs)) < 0.5
    swapped = np.where(flip[:, None], pairs[:, ::-1], pairs)
    one, other = (
        select_pairs(items, posterior, 6, candidates=given, criterion=criterion) for given in (pairs, swapped)
    )
    if order:  # who comes first matters then
        assert not np.allclose(one.gains, other.gains, rtol=1e-6)
        return
    np.testing.assert_array_equal(one.chosen, np.sort(other.chosen, axis=1))
    np.testing.assert_allclose(one.gains, other.gains, rtol=1e-10)
    sign = np.where(other.chosen[:, 0] < other.chosen[:, 1], 1, -1)
    np.testing.assert_allclose(one.table["difference_mean"], sign * other.table["difference_mean"], rtol=1e-10)


@pytest.mark.parametrize("target", [None, "in-prompt", [[0, 5], [3, 2]]], ids=["items", "in-prompt", "pairs"])
@pytest.mark.parametrize("criterion", INFORMED)
def test_constant_added_to_all_features_changes_nothing(criterion: str, target: Any, items: Items, rng: Any) -> None:
    """Through the fit as well: the prior's scale and the likelihood know differences only."""
    answers = Comparisons([0, 1, 2, 5, 7], [3, 4, 5, 6, 8], [1, 0, 0.5, 1, 0])
    moved = Items(items.features + rng.uniform(50, 100, 3), prompt=items.prompt)
    picks = []
    for known in (items, moved):
        fit = laplace(BradleyTerry(LinearHead(1.5)), known, answers)
        picks.append(select_pairs(known, fit, 5, candidates="all", criterion=criterion, target=target))
    np.testing.assert_array_equal(picks[0].chosen, picks[1].chosen)
    np.testing.assert_allclose(picks[0].gains, picks[1].gains, rtol=1e-6)


def test_greedy_batches_hold_no_duplicates_where_top_k_does(rng: Any) -> None:
    """Two all but equal pairs of large variance, and two others of a little less: one of the two is enough."""
    x, y, z = np.eye(3)
    duplicate = 1.6 * x
    items = Items(
        np.vstack(
            [duplicate, duplicate + 1e-3, -duplicate, -duplicate + 1e-3, y, -y, 1.5 * z, -1.5 * z, 2 * y, -2 * y, 2 * z]
        )
    )
    context = Context(BradleyTerry(LinearHead(1.0)), (items,), {}, x64=True)
    posterior = SiteGaussian("laplace", context, {}, rng.normal(0, 0.01, 3), np.eye(3), (("weights", 3),))
    candidates = np.array([[0, 2], [1, 3], [6, 7], [4, 8]])
    duplicates = {(0, 2), (1, 3)}

    def picked(criterion: str) -> set[tuple[int, int]]:
        chosen = select_pairs(items, posterior, 2, candidates=candidates, criterion=criterion).chosen
        return set(map(tuple, chosen.tolist()))

    assert picked("posterior variance") == duplicates
    for criterion in GREEDY:
        assert len(picked(criterion) & duplicates) == 1


@pytest.mark.parametrize("criterion", INFORMED)
def test_informed_picks_gain_more_than_random_ones(criterion: str, items: Items, posterior: GaussianPosterior) -> None:
    picked = select_pairs(items, posterior, 5, candidates="all", criterion=criterion)
    assert picked.gains.sum() > picked.expected_random > 0


def test_gains_of_greedy_d_never_rise(items: Items, posterior: GaussianPosterior) -> None:
    gains = select_pairs(items, posterior, 66, candidates="all", criterion="greedy D").gains
    assert (np.diff(gains) <= 1e-12).all()
    assert gains[0] > 2 * gains[-1]


@pytest.mark.parametrize("order", [False, True])
def test_table_names_the_picks(items: Items, order: bool, rng: Any) -> None:
    posterior = hand_made(items, rng, order)
    picked = select_pairs(items, posterior, 5, candidates="all")
    table = picked.table
    assert table["first"].tolist() == [f"item {i}" for i in picked.chosen[:, 0]]
    assert table["second"].tolist() == [f"item {j}" for j in picked.chosen[:, 1]]
    np.testing.assert_array_equal(table["gain"], picked.gains)
    probability = win_probability(posterior, items, picked.chosen, order=order)
    np.testing.assert_allclose(table["win_probability"], probability, rtol=1e-6)
    rows = items.features[picked.chosen[:, 0]] - items.features[picked.chosen[:, 1]]
    rows = np.column_stack([rows, np.ones(5)]) if order else rows
    covariance = np.linalg.inv(posterior.precision_factor @ posterior.precision_factor.T)
    np.testing.assert_allclose(table["difference_mean"], rows @ posterior.center)
    np.testing.assert_allclose(table["difference_sd"] ** 2, np.diag(rows @ covariance @ rows.T))


@pytest.mark.parametrize("cost", [False, True])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_budget_zero_is_an_empty_selection(
    criterion: str, cost: bool, items: Items, posterior: GaussianPosterior
) -> None:
    pairs = candidate_pairs(items, "all")
    price = np.ones(len(pairs)) if cost else None
    picked = select_pairs(items, posterior, 0, candidates=pairs, criterion=criterion, cost=price)
    assert picked.chosen.shape == (0, 2)
    assert picked.gains.shape == (0,)
    assert picked.expected_random == 0.0
    assert len(picked.table) == 0
    assert list(picked.table.columns) == list(select_pairs(items, posterior, 1, candidates=pairs).table.columns)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_whole_pool_can_be_bought_but_no_pair_twice(criterion: str, items: Items, posterior: GaussianPosterior) -> None:
    exclude = Comparisons([1, 5], [0, 2], [1, 0])
    picked = select_pairs(items, posterior, 64, candidates="all", criterion=criterion, exclude=exclude)
    chosen = {frozenset(pair) for pair in picked.chosen.tolist()}
    assert len(chosen) == 64
    assert chosen.isdisjoint({frozenset((0, 1)), frozenset((2, 5))})


@pytest.mark.parametrize("scheme", ["in-prompt", "cross-prompt"])
def test_schemes_reach_the_candidates(scheme: Any, items: Items, posterior: GaussianPosterior) -> None:
    chosen = select_pairs(items, posterior, 10, candidates=scheme).chosen
    assert ((chosen[:, 0] // 4 == chosen[:, 1] // 4) == (scheme == "in-prompt")).all()


def test_select_is_the_same_grammar(items: Items, posterior: GaussianPosterior) -> None:
    pairs = candidate_pairs(items, "all")
    one, other = select(PairCandidates(items, pairs), posterior, 4), select_pairs(items, posterior, 4, candidates=pairs)
    np.testing.assert_array_equal(one.chosen, other.chosen)
    np.testing.assert_array_equal(one.gains, other.gains)
    assert one.expected_random == other.expected_random


def test_raw_embeddings_and_raw_targets_are_projected(rng: Any) -> None:
    raw = Items(rng.standard_normal((40, 6)) * [3, 3, 1, 1, 0.2, 0.1])
    items = project(raw, 3)
    others = Items(rng.standard_normal((10, 6)))
    answers = Comparisons(range(20), range(20, 40), rng.integers(2, size=20))
    fit = laplace(BradleyTerry(LinearHead(1.0)), items, answers)
    projected_others = project(others, items.projection)
    assert items.projection is not None
    one = select_pairs(items, fit, 5, candidates="all", target=projected_others)
    other = select_pairs(raw, fit, 5, candidates="all", target=others)
    np.testing.assert_array_equal(one.chosen, other.chosen)
    np.testing.assert_allclose(one.gains, other.gains)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 67}, "between 0 and the 66 candidates"),
        ({"budget": -1}, "between 0 and"),
        ({"budget": 2.5}, "whole number"),
        ({"budget": float("nan")}, "whole number"),
        ({"budget": float("inf")}, "whole number"),
        ({"criterion": "best"}, "criterion must be one of"),
        ({"target": "everything"}, "target must be"),
        ({"target": Items(np.eye(3)[:1])}, "at least two items"),
        ({"target": np.empty((0, 2), int)}, "no pairs"),
        ({"target": [[0, 12]]}, "out of range"),
        ({"target": Items(np.eye(4))}, "target"),
        ({"candidates": "nearest"}, "scheme must be"),
        ({"candidates": -3}, "negative"),
        ({"candidates": 67}, "only 66 are left"),
        ({"candidates": [[0, 12]]}, "out of range"),
        ({"candidates": [[2, 2]]}, "against itself"),
        ({"cost": np.ones(66)}, "explicit array"),
        ({"candidates": [[0, 1]], "budget": 1.0, "cost": [0.0]}, "positive"),
        ({"candidates": [[0, 1]], "budget": 1.0, "cost": [1.0, 2.0]}, "1 positive numbers"),
        ({"candidates": [[0, 1]], "budget": 1.0, "cost": [np.nan]}, "NaN"),
        ({"candidates": [[0, 1]], "budget": -1.0, "cost": [1.0]}, "negative"),
        ({"candidates": [[0, 1]], "budget": float("nan"), "cost": [1.0]}, "negative"),
        ({"items": np.ones((12, 2))}, "features"),
    ],
)
def test_mistakes_are_named(
    items: Items, posterior: GaussianPosterior, arguments: dict[str, Any], message: str
) -> None:
    call: dict[str, Any] = {"items": items, "budget": 3, "candidates": "all"} | arguments
    with pytest.raises(ValueError, match=message):
        select_pairs(call.pop("items"), posterior, call.pop("budget"), **call)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_numbers_are_refused(items: Items, posterior: GaussianPosterior, bad: float) -> None:
    features = items.features.copy()
    features[4, 1] = bad
    with pytest.raises(ValueError, match=r"NaN or infinite .* \(4, 1\)"):
        select_pairs(features, posterior, 2)


def test_targets_and_models_that_do_not_fit(items: Items, posterior: GaussianPosterior) -> None:
    bare = Items(items.features)
    with pytest.raises(ValueError, match="prompt"):
        select_pairs(bare, posterior, 2, target="in-prompt")
    with pytest.raises(ValueError, match="at least one prompt with two items"):
        select_pairs(Items(items.features, prompt=range(12)), posterior, 2, target="in-prompt")
    foreign = SiteGaussian("laplace", Context(print, ()), {}, np.zeros(1), np.eye(1), (("weights", 1),))
    with pytest.raises(ValueError, match="BradleyTerry, Thurstone or Davidson"):
        select_pairs(items, foreign, 2)
    abilities = laplace(BradleyTerry(AbilityHead(1.0)), items, Comparisons([0], [1], [1]))
    with pytest.raises(ValueError, match="items of the fit"):
        select_pairs(items.take([0, 1, 2]), abilities, 2)


def test_past_aware_rule_needs_the_past(items: Items, rng: Any, tmp_path: Any) -> None:
    """A posterior loaded without its answers is refused by the one rule that reads them, and serves the others."""
    answers = Comparisons([0, 1, 2], [1, 2, 3], [1, 0, 1])
    path = laplace(BradleyTerry(LinearHead(1.0)), items, answers).save(tmp_path / "fit")
    with pytest.raises(ValueError, match="loaded without its answers"):
        select_pairs(items, load(path), 3, criterion="D-optimal (past-aware)")
    whole = load(path, items=items, comparisons=answers)
    assert len(select_pairs(items, whole, 3, criterion="D-optimal (past-aware)").chosen) == 3
    assert len(select_pairs(items, load(path), 3).chosen) == 3
