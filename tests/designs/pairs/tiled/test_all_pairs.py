"""All pairs in tiles: the picks of a list of all pairs, whatever the tiles, ties, exclusions and prompts."""

import math

import numpy as np
import pytest

from tercet.datasets import annotate, annotation_pairs, simulated_preferences, simulated_prompts
from tercet.designs import Criterion, candidate_pairs, select_pairs
from tercet.designs.criteria import DOptimality, LazyGreedy
from tercet.designs.pairs.candidates import count_pairs
from tercet.designs.pairs.pair_candidates import pair_candidates
from tercet.designs.pairs.tiled import all_pairs, pair_scores, sums_over_pairs, tiles
from tercet.inference import laplace
from tercet.inference.preferences import on
from tercet.models import AbilityHead, BradleyTerry, Items, LinearHead, Thurstone
from tercet.models.preferences.links import Logistic

ONCE = ("posterior variance", "max difference", "entropy", "XtX", "D-optimal (published)", "D-optimal (past-aware)")
IN_TILES = (*ONCE, "greedy D", "greedy V", "greedy A", "BatchBALD")


def gap(left, right):
    return abs(left["x"][:, None] - right["x"])


@pytest.mark.parametrize("n", [1, 7, 60, 2000])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("slack", [0.0, 0.3])
@pytest.mark.parametrize("ceiling", [None, math.sqrt])
def test_leaders_are_the_best_of_every_pair(n, across, slack, ceiling, rng, small_tiles):
    """Against two loops: all that could be among the n best, and a bound on the rest; ties are never lost."""
    x, prompt = np.round(rng.normal(size=50), 1), rng.integers(4, size=50)
    out = np.array([[j, i] for i in range(0, 40, 3) for j in (i + 1, i + 5)])
    scores = {
        (i, j): abs(x[i] - x[j])
        for i in range(50)
        for j in range(i + 1, 50)
        if not (across and prompt[i] == prompt[j]) and (j, i) not in set(map(tuple, out))
    }
    best = tiles.best_pairs(
        tiles.TileScore(np.stack([x, x**2], axis=1), (("x", 0), ("square", 0)), gap, slack, ceiling),
        n,
        prompt=prompt if across else None,
        exclude=out,
        tiling=small_tiles,
    )
    names = list(map(tuple, best.pairs))
    assert len(set(names)) == len(names)
    assert set(names) <= set(scores)
    np.testing.assert_allclose(best.scores, [scores[pair] for pair in names])
    assert (np.diff(best.scores) <= 0).all()
    order = sorted(scores.values(), reverse=True)
    floor = order[n - 1] - 2 * slack if n <= len(order) else -np.inf
    assert {pair for pair, value in scores.items() if value > floor + 1e-9} <= set(names)
    rest = [value for pair, value in scores.items() if pair not in set(names)]
    assert not rest or max(rest) <= best.rest


@pytest.mark.parametrize(("ceiling", "scored"), [(math.sqrt, 1), (None, 10)])
def test_tiles_below_their_ceiling_are_never_scored(ceiling, scored, rng, small_tiles, monkeypatch):
    """The largest gaps are among the few items far from zero: one tile of ten has them all."""
    x = rng.permutation(np.append(rng.uniform(-1, 1, 60), [9.0, -9.5, 8.0]))
    calls, tile = [], tiles._tile
    monkeypatch.setattr(tiles, "_tile", lambda *a: calls.append(a) or tile(*a))
    score = tiles.TileScore(np.stack([x, x**2], axis=1), (("x", 0), ("square", 0)), gap, 1e-6, ceiling)
    best = tiles.best_pairs(score, 2, tiling=small_tiles)
    assert best.scores[:2].tolist() == pytest.approx([18.5, 17.5])
    assert len(calls) == scored


@pytest.mark.parametrize("criterion", [name for name in IN_TILES if name not in ("max difference", "entropy")])
def test_no_score_exceeds_its_ceiling(criterion, seed, small_tiles, monkeypatch):
    """Every pair's score in tiles, at every pass of a batch, against what its tile's ceiling would be for it alone."""
    data = simulated_preferences(40, 4, 60, key=seed)
    fit = laplace(BradleyTerry(LinearHead(2.0)), data.items, data.comparisons)
    seen, best = [], pair_scores.best_pairs
    monkeypatch.setattr(pair_scores, "best_pairs", lambda score, *a, **k: seen.append(score) or best(score, *a, **k))
    select_pairs(data.items, fit, 4, criterion=criterion, candidates="all", tiling=small_tiles)
    assert seen
    for score in seen:
        every = tiles.best_pairs(score, 780, tiling=small_tiles)
        norm = np.sqrt(score.numbers[:, -1].astype(float))
        most = [score.ceiling(square) for square in (norm[every.pairs[:, 0]] + norm[every.pairs[:, 1]]) ** 2]
        assert len(every.scores) == 780
        assert (every.scores <= np.array(most) + score.slack).all()


def test_tiles_know_how_far_their_information_is_off():
    """Three normal laws for the logistic one: over all means and variances, and no worse than said; 32 bit included."""
    mean, sd = np.linspace(-15, 15, 301), np.append(0.0, np.geomspace(0.01, 30, 60))
    left = {
        "mean": np.float32(mean),
        "start": np.zeros((301, 1), np.float32),
        "start squared": np.zeros(301, np.float32),
    }
    right = {
        "mean": np.zeros(61, np.float32),
        "start": np.float32(sd[:, None]),
        "start squared": np.float32(sd**2),
    }
    information = all_pairs.PairScore(lambda v: v, (), "expected information")
    off = abs(information(left, right) - Logistic().integrate_information(mean[:, None], sd**2))
    assert 0.9 * all_pairs.OFF < off.max() <= all_pairs.OFF + 1e-7
    assert sum(weight for _, weight in all_pairs.NORMALS) == pytest.approx(1.0)


@pytest.mark.parametrize("criterion", IN_TILES)
@pytest.mark.parametrize("head", [LinearHead(), AbilityHead()])
def test_picks_are_those_of_a_list(criterion, head, seed, small_tiles):
    data = simulated_preferences(60, 5, 150, key=seed)
    fit = laplace(BradleyTerry(head), data.items, data.comparisons)
    call = {"criterion": criterion, "exclude": data.comparisons, "candidates": "all"}
    tiled = select_pairs(data.items, fit, 15, **call, tiling=small_tiles)
    listed = select_pairs(data.items, fit, 15, **call)
    np.testing.assert_allclose(tiled.gains, listed.gains, rtol=1e-9)
    np.testing.assert_array_equal(tiled.chosen, listed.chosen)
    assert tiled.expected_random == pytest.approx(listed.expected_random, rel=0.25)
    assert list(tiled.table.columns) == list(listed.table.columns)
    np.testing.assert_allclose(tiled.table["win_probability"], listed.table["win_probability"], rtol=1e-9)


@pytest.mark.parametrize("criterion", IN_TILES)
def test_across_prompts_with_a_target(criterion, seed, small_tiles):
    items, rewards = simulated_prompts(9, 6, 4, key=seed)
    answers = annotate(rewards, annotation_pairs(items, rewards, "random", 4, key=seed), 2.0, key=seed)
    fit = laplace(BradleyTerry(), items, answers)
    call = {"criterion": criterion, "candidates": "cross-prompt", "target": "in-prompt", "exclude": answers}
    tiled = select_pairs(items, fit, 8, **call, tiling=small_tiles)
    assert (items.prompt[tiled.chosen[:, 0]] != items.prompt[tiled.chosen[:, 1]]).all()
    np.testing.assert_array_equal(tiled.chosen, select_pairs(items, fit, 8, **call).chosen)


@pytest.mark.parametrize("criterion", IN_TILES)
def test_ties_within_rounding_lose_no_gain(criterion, seed, small_tiles):
    """Every item twice: scores tie within rounding, which must cost neither a pick nor any of its gain."""
    data = simulated_preferences(25, 4, 100, key=seed)
    fit = laplace(BradleyTerry(), data.items, data.comparisons)
    twice = Items(np.concatenate([data.items.features, data.items.features]) + 100.0)
    tiled = select_pairs(twice, fit, 12, criterion=criterion, candidates="all", tiling=small_tiles)
    listed = select_pairs(twice, fit, 12, criterion=criterion, candidates="all")
    np.testing.assert_allclose(tiled.gains, listed.gains, rtol=1e-6)
    assert len(np.unique(np.sort(tiled.chosen, axis=1), axis=0)) == 12


@pytest.mark.parametrize("across", [False, True])
def test_the_matrices_of_the_published_designs(across, seed):
    """Closed form and pass over blocks against the sum over a list of all pairs, some excluded twice."""
    items, rewards = simulated_prompts(9, 6, 4, key=seed)
    answers = annotate(rewards, annotation_pairs(items, rewards, "random", 4, key=seed), 2.0, key=seed)
    fit = laplace(BradleyTerry(), Items(items.features + 30.0, prompt=items.prompt), answers)
    scheme = "cross-prompt" if across else "all"
    out = np.concatenate([answers.pairs, answers.pairs[:5, ::-1], [[0, 1], [0, 53]]])
    listed = pair_candidates(on(fit, items), scheme, out, 0).pool(fit, None)
    everything = pair_scores.AllPairs(items, across, out)
    expected = listed.gram(listed.pairs, np.ones(len(listed)))
    np.testing.assert_allclose(sums_over_pairs.scatter_of_all(everything, listed), expected, rtol=1e-9, atol=1e-9)
    expected = listed.gram(listed.pairs, listed.information)
    total = sums_over_pairs.information_of_all(everything, listed, side=7)
    np.testing.assert_allclose(total, expected, rtol=1e-9, atol=1e-9)


def test_what_has_no_tiles_is_listed(small_tiles):
    """Another likelihood, an order effect, information at the mode, other criteria: the same call, by a list."""
    data = simulated_preferences(30, 3, 60)
    for model in (Thurstone(), BradleyTerry(order_effect=True)):
        fit = laplace(model, data.items, data.comparisons)
        assert select_pairs(data.items, fit, 3, candidates="all", tiling=small_tiles).chosen.shape == (3, 2)
    fit = laplace(BradleyTerry(), data.items, data.comparisons)
    for criterion in ("BALD", Criterion("plug-in D", DOptimality(plug_in=True), LazyGreedy())):
        call = {"criterion": criterion, "candidates": "all", "tiling": small_tiles}
        assert select_pairs(data.items, fit, 3, **call).chosen.shape == (3, 2)


def test_budgets_of_all_pairs(small_tiles):
    data = simulated_preferences(8, 3, 20)
    fit = laplace(BradleyTerry(), data.items, data.comparisons)
    call = {"candidates": "all", "tiling": small_tiles}
    assert select_pairs(data.items, fit, 0, **call).chosen.shape == (0, 2)
    whole = select_pairs(data.items, fit, 28, criterion="greedy D", **call).chosen
    assert len(np.unique(whole, axis=0)) == 28
    with pytest.raises(ValueError, match="between 0 and the 28 candidates"):
        select_pairs(data.items, fit, 29, **call)


@pytest.mark.parametrize("scheme", ["all", "in-prompt", "cross-prompt"])
def test_pairs_are_counted_as_they_are_listed(scheme, rng):
    items = Items(np.eye(12), prompt=rng.integers(3, size=12))
    out = np.array([[0, 1], [1, 0], [2, 7], [5, 3], [3, 5]])
    for exclude in (None, out):
        assert count_pairs(items, scheme, exclude) == len(candidate_pairs(items, scheme, exclude=exclude))


@pytest.fixture
def masked(rng, seed):
    """A fit, a mask that is not symmetric, and the pairs it lets through."""
    data = simulated_preferences(60, 4, 40, key=seed)
    fit = laplace(BradleyTerry(LinearHead(2.0)), data.items, data.comparisons)
    mask = rng.random((60, 60)) < 0.2
    allowed = np.array([(i, j) for i in range(60) for j in range(i + 1, 60) if mask[i, j] or mask[j, i]])
    return data, fit, mask, allowed


@pytest.mark.parametrize("criterion", IN_TILES)
def test_a_mask_in_tiles_is_a_list_of_its_pairs(criterion, masked, small_tiles):
    data, fit, mask, allowed = masked
    settings = {"criterion": criterion, "exclude": data.comparisons}
    tiled = select_pairs(data.items, fit, 12, candidates=mask, **settings, tiling=small_tiles)
    listed = select_pairs(data.items, fit, 12, candidates=allowed, **settings)
    np.testing.assert_array_equal(np.sort(tiled.chosen, axis=1), np.sort(listed.chosen, axis=1))
    np.testing.assert_allclose(tiled.gains, listed.gains, rtol=1e-9)


def test_a_mask_is_listed_where_it_is_small(masked):
    data, fit, mask, allowed = masked
    np.testing.assert_array_equal(candidate_pairs(data.items, mask, mask_rows=7), allowed)
    left = candidate_pairs(data.items, mask, exclude=data.comparisons, mask_rows=7)
    assert len(left) == count_pairs(data.items, mask, data.comparisons, mask_rows=7) < len(allowed)
    assert count_pairs(data.items, mask, mask_rows=7) == len(allowed)
    few = select_pairs(data.items, fit, 5, candidates=mask, criterion="entropy").chosen
    listed = select_pairs(data.items, fit, 5, candidates=allowed, criterion="entropy").chosen
    np.testing.assert_array_equal(few, listed)


def test_masks_that_are_none(masked):
    data, fit, mask, _ = masked
    with pytest.raises(ValueError, match=r"row and a column for each of the 60 items, got shape \(60, 2\)"):
        select_pairs(data.items, fit, 2, candidates=mask[:, :2])
    with pytest.raises(ValueError, match="budget must be a whole number between 0 and the 0 candidates"):
        select_pairs(data.items, fit, 2, candidates=np.zeros_like(mask))
    with pytest.raises(ValueError, match="cost needs an explicit array"):
        select_pairs(data.items, fit, 2, candidates=mask, cost=np.ones(3))
