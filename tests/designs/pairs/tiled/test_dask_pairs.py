"""Features in a Dask array (threads here; a cluster in `test_dask_cluster`): what arrays in memory give."""

from dataclasses import replace

import numpy as np
import pytest

from tercet.datasets import annotate, annotation_pairs, simulated_preferences, simulated_prompts
from tercet.designs import CRITERIA, select_pairs
from tercet.designs.pairs.tiled import dask_tiles, tiles
from tercet.designs.pairs.tiled.tiles import Tasks
from tercet.inference import laplace, reward, reward_difference
from tercet.models import AbilityHead, BradleyTerry, Items, LinearHead, Thurstone, open_embeddings, project

da = pytest.importorskip("dask.array")
IN_TILES = ("posterior variance", "max difference", "entropy", "XtX", "greedy D", "greedy V", "greedy A")
UNEVEN = ((7, 1, 30, 16), (2, 3))  # of 54 items x 5


@pytest.fixture
def small_tiles(small_tiles):
    """Many tiles in blocks of two, waves of few tasks, shortlists that run out."""
    return replace(small_tiles, side=5, tasks=Tasks(blocks=6, tiles=1, growth=1, merged=3))


@pytest.fixture
def prompts(seed):
    """54 items of 9 prompts, answers about them, and a fit."""
    items, rewards = simulated_prompts(9, 6, 5, key=seed)
    answers = annotate(rewards, annotation_pairs(items, rewards, "random", 4, key=seed), 2.0, key=seed)
    return items, answers, laplace(BradleyTerry(), items, answers)


def by_dask(items, chunks=UNEVEN):
    return Items(da.from_array(items.features, chunks=chunks), items.ids, items.prompt)


def same(ours, expected):
    np.testing.assert_array_equal(ours.chosen, expected.chosen)
    np.testing.assert_allclose(ours.gains, expected.gains, rtol=1e-9)
    assert ours.expected_random == pytest.approx(expected.expected_random, rel=1e-9)
    assert ours.table.equals(expected.table) or np.allclose(
        ours.table["difference_sd"], expected.table["difference_sd"], rtol=1e-9
    )


def gap(left, right):
    return abs(left["x"][:, None] - right["x"])


@pytest.mark.parametrize("n", [1, 7, 400])
@pytest.mark.parametrize("across", [False, True])
def test_leaders_of_tasks_are_those_of_one_loop(n, across, rng, small_tiles):
    """Many ties, pairs left out, prompts: the same pairs in the same order, and the same bound on the rest."""
    x = rng.integers(6, size=(53, 1)).astype(np.float32)
    prompt = rng.integers(4, size=53) if across else None
    out = np.array([[j, i] for i in range(0, 40, 3) for j in (i + 1, i + 5)])
    in_memory, in_chunks = (
        tiles.TileScore(values, (("x", 0),), gap, 0.1) for values in (x, da.from_array(x, chunks=(11, 1)))
    )
    expected = tiles.best_pairs(in_memory, n, prompt=prompt, exclude=out, tiling=small_tiles)
    ours = dask_tiles.best_pairs_by_tasks(in_chunks, n, prompt, out, small_tiles)
    np.testing.assert_array_equal(ours.pairs, expected.pairs)
    np.testing.assert_array_equal(ours.scores, expected.scores)
    assert ours.rest == expected.rest


@pytest.mark.parametrize("size", [1, 4, 64])
def test_waves_hold_every_pair_of_blocks_once(size):
    pairs = [pair for wave in dask_tiles._waves(size, Tasks()) for pair in wave]
    assert sorted(pairs) == [(i, j) for i in range(size) for j in range(i, size)]


@pytest.mark.parametrize("criterion", IN_TILES)
@pytest.mark.parametrize("scheme", ["all", "cross-prompt"])
def test_picks_are_those_in_memory(criterion, scheme, prompts, small_tiles):
    items, answers, fit = prompts
    call = {"criterion": criterion, "candidates": scheme, "exclude": answers, "tiling": small_tiles}
    same(select_pairs(by_dask(items), fit, 9, **call), select_pairs(items, fit, 9, **call))


@pytest.mark.parametrize("criterion", ["greedy D", "greedy V"])
def test_a_fit_on_a_part_projects_all_of_a_dask_array(criterion, seed, small_tiles):
    """Raw 32-bit embeddings with a large common mean, one chunk a row; the fit knows principal components of a part."""
    data = simulated_preferences(80, 7, 150, key=seed)
    raw = (data.items.features + 50.0).astype(np.float32)
    part = project(Items(raw), 4)
    fit = laplace(BradleyTerry(), part, data.comparisons)
    more = np.concatenate([raw, np.random.default_rng(seed).normal(50.0, 1.5, (15, 7)).astype(np.float32)])
    call = {"criterion": criterion, "candidates": "all", "exclude": data.comparisons, "tiling": small_tiles}
    same(select_pairs(da.from_array(more, chunks=((1, 40, 54), 3)), fit, 6, **call), select_pairs(more, fit, 6, **call))


@pytest.mark.parametrize("target", ["in-prompt", "pairs", "items"])
def test_targets(target, prompts, small_tiles):
    items, _, fit = prompts
    in_memory = {"pairs": [[0, 3], [7, 50]], "items": Items(items.features[:20])}.get(target, target)
    in_chunks = by_dask(in_memory, (6, 2)) if target == "items" else in_memory
    same(
        select_pairs(by_dask(items), fit, 4, candidates="all", target=in_chunks, tiling=small_tiles),
        select_pairs(items, fit, 4, candidates="all", target=in_memory, tiling=small_tiles),
    )


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("kind", ["dask", "file"])
def test_listed_pairs_read_only_their_items(criterion, kind, prompts, tmp_path):
    """Every criterion, random and given candidates, Dask and files: the picks in memory."""
    items, _, fit = prompts
    np.save(tmp_path / "x.npy", items.features)
    away = by_dask(items) if kind == "dask" else Items(open_embeddings(tmp_path / "x.npy"), prompt=items.prompt)
    for candidates in (40, np.array([[3, 50], [51, 2], [7, 8], [9, 30]])):
        same(*(select_pairs(known, fit, 3, candidates=candidates, criterion=criterion) for known in (away, items)))


def test_all_pairs_of_a_file(prompts, tmp_path, small_tiles):
    items, _, fit = prompts
    np.save(tmp_path / "x.npy", items.features)
    away = Items(open_embeddings(tmp_path / "x.npy"))
    same(*(select_pairs(known, fit, 5, candidates="all", tiling=small_tiles) for known in (away, items)))


@pytest.mark.parametrize("n", [2, 3, 6])
def test_few_items(n, small_tiles):
    data = simulated_preferences(n, 2, 10)
    fit = laplace(BradleyTerry(LinearHead(1.0)), data.items, data.comparisons)
    budget = n * (n - 1) // 2
    for known in (data.items, by_dask(data.items, (1, 1))):
        call = {"candidates": "all", "tiling": small_tiles}
        picked = select_pairs(known, fit, budget, criterion="greedy D", **call)
        assert len(np.unique(np.sort(picked.chosen, axis=1), axis=0)) == budget
        assert select_pairs(known, fit, 0, **call).chosen.shape == (0, 2)


def test_abilities_need_no_features(small_tiles):
    data = simulated_preferences(30, 2, 90)
    fit = laplace(BradleyTerry(AbilityHead(1.0)), data.items, data.comparisons)
    in_chunks = by_dask(data.items, (7, 2))
    call = {"candidates": "all", "criterion": "greedy D", "tiling": small_tiles}
    same(*(select_pairs(known, fit, 5, **call) for known in (in_chunks, data.items)))


def test_fits_and_rewards_stream_through_a_dask_array(prompts):
    items, answers, fit = prompts
    away = by_dask(items)
    streamed = laplace(BradleyTerry(), away, answers)
    np.testing.assert_allclose(streamed.center, fit.center, atol=1e-6)
    np.testing.assert_allclose(reward(fit, away), reward(fit, items), rtol=1e-9)
    pairs = [[0, 5], [53, 2]]
    np.testing.assert_allclose(reward_difference(fit, away, pairs), reward_difference(fit, items, pairs), rtol=1e-9)
    ours, theirs = project(away.take([3, 1, 40, 41, 5]), 2), project(items.take([3, 1, 40, 41, 5]), 2)
    np.testing.assert_allclose(ours.features[:], theirs.features, atol=1e-9)
    np.testing.assert_allclose(np.concatenate(ours.features.map_blocks(np.asarray)), theirs.features, atol=1e-9)


def test_refusals(prompts, small_tiles):
    items, answers, fit = prompts
    array = da.from_array(items.features, chunks=UNEVEN)
    broken = items.features.copy()
    broken[40, 3] = np.nan
    call = {"candidates": "all", "tiling": small_tiles}
    for refused, message in (
        (lambda: Items(array[array[:, 0] > 0]), r"chunks of unknown size.*compute_chunk_sizes"),
        (lambda: Items(array[:, 0]), r"must have shape \[n, d\], got \(54,\)"),
        (lambda: Items(array.reshape(9, 6, 5)), r"must have shape \[n, d\], got \(9, 6, 5\); array.reshape"),
        (lambda: Items(array[:0]), "is empty"),
        (lambda: Items(array.astype("U1")), "must hold numbers, got dtype <U1"),
        (lambda: Items(array, prompt=[0, 1]), "lengths differ"),
        (lambda: select_pairs(array[:, :4], fit, 2, **call), "4 features, the posterior has 5 weights"),
        (
            lambda: select_pairs(da.from_array(broken, chunks=UNEVEN), fit, 2, **call),
            r"Dask array, rows 38 to 53, has NaN or infinite values in 1 row\(s\), the first at index \(2, 3\)",
        ),
        (lambda: select_pairs(array, fit, 2, **call, criterion="BALD"), r"'BALD' has to list.*greedy"),
        (
            lambda: select_pairs(array, fit, 2, **call, criterion="D-optimal (published)"),
            "'D-optimal .published.' has to list",
        ),
        (lambda: select_pairs(array, fit, 2, candidates="cross-prompt", tiling=small_tiles), "needs Items"),
        (lambda: select_pairs(array, fit, 10_000, **call), "between 0 and the 1,431 candidates"),
        (
            lambda: laplace(BradleyTerry(LinearHead(1.0)), by_dask(items), answers).to_arviz(),
            r"Dask array.*load what is needed: items.loaded",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
    probit = laplace(Thurstone(), items, answers)
    with pytest.raises(ValueError, match=r"'greedy D' has to list all 1,431 pairs.*Bradley-Terry"):
        select_pairs(array, probit, 2, **call, criterion="greedy D")
