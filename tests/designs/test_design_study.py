"""The study behind the default: its worlds, its areas and verdicts, and the promise, small."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tercet.designs import GreedyV, learning_curve, paired_differences
from tercet.models import Items

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("design_study")
    finally:
        sys.path.remove(str(BENCHMARKS))


def table(curves: dict[str, Any], rng: np.random.Generator, noise: float = 0.01, seeds: int = 10) -> pd.DataFrame:
    """Curves of Spearman in one world with noise of their own; the log loss runs the other way."""
    rows = []
    for criterion, curve in curves.items():
        for seed in range(seeds):
            values = np.asarray(curve) + noise * rng.standard_normal(len(curve))
            for labels, value in zip((50, 100, 200), values, strict=True):
                row = dict(world="one", criterion=criterion, seed=seed, labels=labels, prior_sd=1.0)
                rows.append(row | {"spearman": value, "log_loss": 1.0 - value})
    return pd.DataFrame(rows)


def test_area_is_the_mean_height_between_the_budgets(study: ModuleType, rng: Any) -> None:
    found = study.areas(table({"a": [0.0, 0.4, 0.5], "b": [0.1, 0.1, 0.1]}, rng, noise=0.0), "spearman")
    assert found.shape == (10, 2)
    np.testing.assert_allclose(found["a"], (50 * 0.2 + 100 * 0.45) / 150)
    np.testing.assert_allclose(found["b"], 0.1)


def test_verdicts_of_a_default_that_keeps_the_promise(study: ModuleType, rng: Any) -> None:
    curves = {"random": [0.5, 0.6, 0.7], "greedy V": [0.5, 0.7, 0.8], "worse": [0.5, 0.5, 0.5]}
    for row in study.verdicts(table(curves, rng)).itertuples():
        assert (row.budgets, row.rank, row.best) == (2, 1, "greedy V")
        assert row[4:6] == (0, 2)  # worse at no budget, better at both
        assert row.behind == 0
        assert row[-1] == "none"


def test_verdicts_of_a_default_that_breaks_it(study: ModuleType, rng: Any) -> None:
    """The negative control: worse than random at the last budget, and beaten by one rival but not by its equal."""
    curves = {"random": [0.5, 0.6, 0.7], "greedy V": [0.5, 0.7, 0.6], "equal": [0.5, 0.7, 0.6], "best": [0.5, 0.8, 0.8]}
    for row in study.verdicts(table(curves, rng)).itertuples():
        assert row[4:6] == (1, 1)
        assert row.best == "best"
        assert "best" in row[-1].split(", ")
        assert "equal" not in row[-1]
        assert row.behind == pytest.approx((50 * 0.05 + 100 * 0.15) / 150, abs=0.02)


def test_report_names_every_criterion_and_world(study: ModuleType, rng: Any) -> None:
    found = pd.concat([table({"random": [0.5, 0.6, 0.7], "greedy V": [0.5, 0.7, 0.8]}, rng)] * 2)
    text = study.report(found)
    for word in ("greedy V", "random", "one, spearman", "one, log_loss", "the promise", "mean height"):
        assert word in text


@pytest.mark.parametrize("name", ["network truth", "in-prompt", "cross-prompt"])
def test_simulated_worlds_hold_out_whole_prompts(study: ModuleType, name: str, seed: int) -> None:
    world = study.WORLDS[name](seed)
    again = study.WORLDS[name](seed)
    np.testing.assert_array_equal(world.items.features, again.items.features)
    assert not np.array_equal(world.items.features, study.WORLDS[name](seed + 1).items.features)
    assert len(world.items) == 2500
    seen: dict[str, Any] = {}

    def evaluate(posterior: Any) -> dict[str, float]:
        scores = world.evaluate(posterior)
        assert scores.keys() == study.SCORES.keys()
        seen.update(scores)
        return scores

    asked = learning_curve(
        world.items, world.answer, evaluate,
        criterion="random", candidates=world.candidates, target=world.target, budget=50, key=seed,
    ).asked  # fmt: skip
    assert 0.1 < seen["spearman"] < 0.95
    assert 0.4 < seen["log_loss"] < 0.8
    same = world.items.prompt[asked.first] == world.items.prompt[asked.second]
    assert same.all() if name == "in-prompt" else not same.all()
    assert not same.any() or name != "cross-prompt"


@dataclass(frozen=True)
class Worst(GreedyV):
    """The negative control: greedy V upside down."""

    name = "worst V"

    def gains(self, state: Any, part: slice) -> np.ndarray:
        return -super().gains(state, part)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["words", "network truth", "in-prompt", "cross-prompt"])
def test_default_is_not_worse_than_random(study: ModuleType, name: str, seed: int) -> None:
    """The promise, small: paired differences to random at 100 to 250 labels, averaged over budgets and three seeds.

    MARGINS
    """
    seeds = range(10_000 * (1 + seed), 10_000 * (1 + seed) + 3)
    criteria = ["random", "greedy V", Worst()]
    found = study.study(criteria, seeds, {name: study.WORLDS[name]}, budget=250, progress=False)

    def gain(criterion: str, score: str) -> float:
        labels, difference = paired_differences(found, score, criterion)
        return study.SCORES[score] * float(difference[:, labels > 50].mean())

    assert gain("greedy V", "spearman") > -0.040
    assert gain("greedy V", "log_loss") > -0.025
    assert gain("worst V", "spearman") < -0.040
    assert gain("worst V", "log_loss") < -0.025


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the evidence")  # 50 answers in 64 dimensions may look separable
def test_preferences_from_a_file(study: ModuleType, tmp_path: Path, rng: Any) -> None:
    chosen, rejected = rng.standard_normal((2, 400, 70))
    np.savez(tmp_path / "pairs.npz", chosen=chosen + 0.3, rejected=rejected)
    world = functools.partial(study.worlds.preferences, path=tmp_path / "pairs.npz")
    found = study.study(["random", "greedy V"], range(2), {"preferences": world}, budget=100, progress=False)
    assert found["labels"].tolist() == [50, 100] * 4
    assert np.isfinite(found["log_loss"]).all()
    assert found["spearman"].mean() > 0.5  # accuracy: the chosen differ in every coordinate


def test_words_from_a_file(study: ModuleType, tmp_path: Path, rng: Any) -> None:
    np.savez(tmp_path / "w.npz", embeddings=rng.standard_normal((200, 70)), ratings=rng.integers(-4, 5, (200, 5)))
    data = study.worlds.load_words(tmp_path / "w.npz")
    assert isinstance(data.items, Items)
    assert study.worlds.words(0, data).items.features.shape == (160, 64)


@pytest.mark.slow
def test_picture(study: ModuleType, tmp_path: Path, rng: Any) -> None:
    curves = {"random": [0.5, 0.6, 0.7], "greedy V": [0.5, 0.7, 0.8], "another": [0.5, 0.6, 0.6]}
    study.draw(table(curves, rng), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
