"""Learning curves: reproducible, paired, no pair asked twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tercet.datasets import simulated_preferences
from tercet.designs import CRITERIA, compare_designs, learning_curve, paired_differences, select_pairs
from tercet.inference import reward, spearman
from tercet.models import BradleyTerry, Comparisons, Items, LinearHead

MODEL = BradleyTerry(LinearHead(2.0))


class World:
    """Items with known rewards, an annotator who answers by them, and a record of the pairs."""

    def __init__(self, seed: int, n: int = 30) -> None:
        data = simulated_preferences(n, 4, 1, key=seed)
        self.items = Items(data.items.features, prompt=np.arange(n) % 5)
        self.rewards = data.rewards
        self.batches: list[np.ndarray] = []

    def answer(self, pairs: np.ndarray, key: int) -> Comparisons:
        self.batches.append(pairs)
        gap = self.rewards[pairs[:, 0]] - self.rewards[pairs[:, 1]]
        noise = np.random.default_rng(key).logistic(size=len(pairs))
        return Comparisons(pairs[:, 0], pairs[:, 1], (gap + noise > 0).astype(float))

    def evaluate(self, posterior: Any) -> dict[str, float]:
        return {"spearman": spearman(reward(posterior, self.items).mean, self.rewards)}

    def curve(self, criterion: Any = "greedy V", **settings: Any) -> Any:
        settings = {"model": MODEL, "start": 10, "batch": 10, "budget": 35} | settings
        return learning_curve(self.items, self.answer, self.evaluate, criterion=criterion, **settings)

    def compare(self, criteria: list[Any], seeds: list[int], **settings: Any) -> pd.DataFrame:
        settings = {"model": MODEL, "start": 10, "batch": 10, "budget": 30, "progress": False} | settings
        return compare_designs(self.items, self.answer, self.evaluate, criteria=criteria, seeds=seeds, **settings)


def unordered(pairs: np.ndarray) -> list[frozenset[int]]:
    return [frozenset(pair) for pair in pairs.tolist()]


@pytest.mark.parametrize(
    ("start", "batch", "budget", "labels"),
    [
        (50, 50, 150, [50, 100, 150]),
        (10, 10, 35, [10, 20, 30, 35]),
        (7, 100, 30, [7, 30]),
        (20, 5, 20, [20]),
        (5, 1, 8, [5, 6, 7, 8]),
    ],
)
def test_labels_are_counted(start: int, batch: int, budget: int, labels: list[int], seed: int) -> None:
    world, calls = World(seed), []
    curve = world.curve("greedy V", start=start, batch=batch, budget=budget, key=seed, progress=lambda: calls.append(1))
    assert curve.table["labels"].tolist() == labels
    assert [len(b) for b in world.batches] == np.diff([0, *labels]).tolist()
    assert len(curve.asked) == budget
    assert len(calls) == len(labels)
    assert curve.posterior.context.args[1] is curve.asked
    assert curve.table[["criterion", "seed"]].drop_duplicates().to_numpy().tolist() == [["greedy V", seed]]
    np.testing.assert_array_equal(np.concatenate(world.batches), curve.asked.pairs)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_no_pair_is_asked_twice(criterion: str, seed: int) -> None:
    world = World(seed, n=12)  # 66 pairs: 60 of them are asked
    curve = world.curve(criterion, budget=60, key=seed)
    assert len(set(unordered(curve.asked.pairs))) == 60


@pytest.mark.parametrize("criterion", ["random", "greedy V"])
def test_same_seed_same_curve_other_seed_another(criterion: str, seed: int) -> None:
    one, again, other = (World(seed).curve(criterion, key=k) for k in (seed, seed, seed + 1))
    pd.testing.assert_frame_equal(one.table, again.table)
    np.testing.assert_array_equal(one.asked.pairs, again.asked.pairs)
    np.testing.assert_array_equal(one.asked.outcome, again.asked.outcome)
    assert not np.array_equal(one.asked.pairs, other.asked.pairs)


def test_all_criteria_start_from_the_same_labels(seed: int) -> None:
    curves = [World(seed).curve(criterion, key=seed, budget=20) for criterion in CRITERIA]
    for curve in curves[1:]:
        np.testing.assert_array_equal(curve.asked.pairs[:10], curves[0].asked.pairs[:10])
        np.testing.assert_array_equal(curve.asked.outcome[:10], curves[0].asked.outcome[:10])
        assert not np.array_equal(curve.asked.pairs, curves[0].asked.pairs)
    assert len({curve.table["spearman"][0] for curve in curves}) == 1


def test_a_round_is_a_fit_and_a_selection(seed: int) -> None:
    """The second batch is what `select_pairs` picks from explicit candidates under the first fit."""
    world = World(seed)
    pool = np.array([(i, j) for i in range(30) for j in range(i)])
    first = world.curve(candidates=pool, key=seed, budget=10)
    curve = world.curve(candidates=pool, key=seed, budget=20)
    expected = select_pairs(world.items, first.posterior, 10, candidates=pool, exclude=first.asked)
    np.testing.assert_array_equal(curve.asked.pairs[10:], expected.chosen)


@pytest.mark.parametrize("candidates", [60, np.int64(60), "all", "in-prompt", "cross-prompt", "array"])
@pytest.mark.parametrize("criterion", ["random", "greedy V"])
def test_candidates_are_respected_from_the_first_label(criterion: str, candidates: Any, seed: int) -> None:
    world = World(seed)
    allowed = np.array([(i, j) for i in range(15) for j in range(15, 30)])
    given = allowed if isinstance(candidates, str) and candidates == "array" else candidates
    asked = world.curve(criterion, candidates=given, key=seed, target="in-prompt").asked.pairs
    assert len(asked) == 35
    if isinstance(candidates, str) and candidates.endswith("prompt"):
        assert ((asked[:, 0] % 5 == asked[:, 1] % 5) == (candidates == "in-prompt")).all()
    if isinstance(candidates, str) and candidates == "array":
        assert set(unordered(asked)) <= set(unordered(allowed))


def test_pool_that_runs_out_is_an_error(seed: int) -> None:
    with pytest.raises(ValueError, match="candidates left"):
        World(seed).curve(candidates=[[i, i + 1] for i in range(29)], budget=30)


def test_table_of_several_designs_and_paired_differences(seed: int) -> None:
    world = World(seed)
    table = world.compare(["random", CRITERIA["greedy V"]], [seed, seed + 1, seed + 2])
    assert list(table.columns) == ["criterion", "seed", "labels", "prior_sd", "spearman"]
    assert len(table) == 2 * 3 * 3
    alone = world.curve("random", budget=30, key=seed + 1).table
    part = table[(table["criterion"] == "random") & (table["seed"] == seed + 1)].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, alone)
    labels, difference = paired_differences(table, "spearman", "greedy V")
    assert labels.tolist() == [10, 20, 30]
    by = table.set_index(["criterion", "seed", "labels"])["spearman"]
    expected = [[by["greedy V", s, n] - by["random", s, n] for n in labels] for s in (seed, seed + 1, seed + 2)]
    np.testing.assert_allclose(difference, expected)
    assert (difference[:, 0] == 0).all()
    _, reverse = paired_differences(table, "spearman", "random", "greedy V")
    np.testing.assert_array_equal(reverse, -difference)
