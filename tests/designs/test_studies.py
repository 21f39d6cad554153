"""Learning curves: reproducible, paired, no pair asked twice; and the promise, small, on the bundled words."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tercet.datasets import simulated_preferences, word_valence
from tercet.designs import CRITERIA, GreedyV, compare_designs, learning_curve, paired_differences, select_pairs
from tercet.inference import reward, spearman
from tercet.models import BradleyTerry, Comparisons, Items, LinearHead

MODEL = BradleyTerry(LinearHead(2.0))


class World:
    """Items of known rewards, an annotator who answers by them, and a record of what was asked."""

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
    table = world.compare(["random", GreedyV()], [seed, seed + 1, seed + 2])
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


@pytest.fixture(scope="module")
def study() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "design_study.py"
    spec = importlib.util.spec_from_file_location("design_study", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["design_study"] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Worst(GreedyV):
    """The negative control: greedy V upside down."""

    name = "worst V"

    def gains(self, state: Any, part: slice) -> np.ndarray:
        return -super().gains(state, part)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_default_is_not_worse_than_random_on_real_ratings(study: ModuleType, seed: int) -> None:
    """The promise, small: paired differences to random at 100 to 250 labels, averaged over budgets and four seeds.

    Over 40 other seeds these averages were .029 (sd of one seed .025) in Spearman and .009 (.012) in log loss: the
    margins lie 5.6 standard errors of four seeds below, so the default fails once in fifty million runs, and its
    opposite, which learns next to nothing from its answers, always.
    """
    seeds = range(10_000 * (1 + seed), 10_000 * (1 + seed) + 4)
    table = study.word_study(word_valence(64), ["random", "greedy V", Worst()], seeds, budget=250, progress=False)

    def gain(criterion: str, score: str) -> float:
        labels, difference = paired_differences(table, score, criterion)
        return float(difference[:, labels > 50].mean())

    assert gain("greedy V", "spearman") > -0.040
    assert -gain("greedy V", "log_loss") > -0.025
    assert gain("worst V", "spearman") < -0.040
    assert -gain("worst V", "log_loss") < -0.025


@pytest.mark.slow
def test_word_study_of_the_benchmarks_runs(study: ModuleType) -> None:
    table = study.word_study(word_valence(64), ["random", "greedy V"], range(2), budget=150, progress=False)
    assert table["labels"].tolist() == [50, 100, 150] * 4
    assert table["spearman"].between(0.3, 0.9).all()
    text = study.report(table, {"spearman": 1, "log_loss": -1}, study.BUDGETS)
    assert "greedy V better than random" in text
    assert "greedy D" not in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the evidence")  # 50 answers in 64 dimensions may look separable
def test_preference_study_of_the_benchmarks_runs(study: ModuleType, tmp_path: Path, rng: Any) -> None:
    chosen, rejected = rng.standard_normal((2, 400, 70))
    np.savez(tmp_path / "pairs.npz", chosen=chosen + 0.3, rejected=rejected)
    table = study.preference_study(tmp_path / "pairs.npz", ["random", "greedy V"], range(2), budget=100)
    assert table["labels"].tolist() == [50, 100] * 4
    assert np.isfinite(table["log_loss"]).all()
    assert table["accuracy"].mean() > 0.5  # the chosen differ in every coordinate
