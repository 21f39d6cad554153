"""The page on extending: its blocks run, its classes are short, and everything that accepts ours accepts them."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tercet.designs import (
    CRITERIA,
    AnnotationLoop,
    Criterion,
    LabelStore,
    PairCandidates,
    Tiling,
    candidate_pairs,
    learning_curve,
    optimality_gap,
    select,
    select_pairs,
    stopping_curve,
)
from tercet.designs.criteria import Exchange, TopK
from tercet.inference import ability_table, laplace, load, nuts, reward, reward_difference, win_probability
from tercet.models import BradleyTerry, Comparisons

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
PAIRS = [[0, 1], [5, 2], [7, 30]]
MODELS = {
    "head": lambda mine: BradleyTerry(mine.IdealPoint()),
    "linear head": lambda mine: BradleyTerry(mine.Squares()),
    "comparison model": lambda mine: mine.WithMistakes(),
    "both": lambda mine: mine.WithMistakes(mine.IdealPoint()),
}


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The page as a module of the reader's own, imported: that runs its blocks in order."""
    path = tmp_path_factory.mktemp("reader") / "readers_module.py"
    path.write_text("\n".join(BLOCKS), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[path.stem]


@pytest.fixture(scope="module", params=MODELS)
def fitted(request: pytest.FixtureRequest, mine: ModuleType) -> tuple[Any, Any]:
    """A fit of each model of the page, and its data."""
    return laplace(MODELS[request.param](mine), mine.data.items, mine.data.comparisons), mine.data.comparisons


def test_each_is_about_ten_lines(mine: ModuleType) -> None:
    for thing in (mine.FreshItems, mine.FirstOrderD, mine.IdealPoint, mine.Squares, mine.WithMistakes, mine.growth):
        code = [line for line in inspect.getsource(thing).splitlines() if line.strip()]
        assert len(code) <= 13, thing


def test_fits_predict(fitted: Any, mine: ModuleType) -> None:
    fit, items = fitted[0], mine.data.items
    assert fit.diagnostics["converged"]
    first, second = (win_probability(fit, items, pairs) for pairs in (PAIRS, np.fliplr(PAIRS)))
    np.testing.assert_allclose(first + second, 1.0, atol=0.02)
    assert ((first > 0) & (first < 1)).all()
    table = ability_table(fit, items)
    assert len(table) == 60
    assert table["p_best"].sum() == pytest.approx(1.0)
    assert (table["lower"] < table["upper"]).all()
    assert (reward(fit, items).variance > 0).all()
    assert (reward_difference(fit, items, PAIRS).variance > 0).all()


@pytest.mark.parametrize("criterion", ["greedy V", "greedy D", "EPIG", "BALD (draws)", "BatchBALD (joint entropy)"])
def test_fits_are_designed_for(criterion: str, fitted: Any, mine: ModuleType) -> None:
    fit, answers = fitted
    picked = select_pairs(mine.data.items, fit, 4, candidates=100, criterion=criterion, exclude=answers)
    assert picked.chosen.shape == (4, 2)
    assert picked.gains.sum() >= picked.expected_random > 0
    assert (picked.table["difference_sd"] > 0).all()


def test_fits_are_saved_and_read_back(fitted: Any, mine: ModuleType, tmp_path: Path) -> None:
    fit, answers = fitted
    path = fit.save(tmp_path / "fit")
    again = load(path, mine.data.items, answers)
    assert again.model == fit.model
    for question in (win_probability, reward_difference):
        np.testing.assert_array_equal(question(again, mine.data.items, PAIRS), question(fit, mine.data.items, PAIRS))


def test_fits_go_to_arviz(fitted: Any, mine: ModuleType) -> None:
    container = fitted[0].to_arviz(draws=40, key=1)
    assert container["log_likelihood"]["outcome"].shape == (4, 10, 200)
    assert set(fitted[0].mean()) <= set(container["posterior"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["head", "comparison model"])
@pytest.mark.filterwarnings("ignore:the chains have not converged")
def test_chains_of_them(name: str, mine: ModuleType) -> None:
    call = {"warmup": 150, "samples": 100, "chains": 1, "progress": False}
    fit = nuts(MODELS[name](mine), mine.data.items, mine.data.comparisons, **call)
    assert len(ability_table(fit, mine.data.items)) == 60
    assert len(select_pairs(mine.data.items, fit, 3, candidates=50).chosen) == 3


@pytest.mark.parametrize("which", ["fresh", "first_order"])
def test_criteria_are_asked_as_ours_are(which: str, mine: ModuleType) -> None:
    data, fit, criterion = mine.data, mine.fit, getattr(mine, which)
    pairs = candidate_pairs(data.items, "random", 80, key=2)
    picked = select_pairs(data.items, fit, 4, candidates=pairs, criterion=criterion)
    same = select(PairCandidates(data.items, pairs), fit, 4, criterion=criterion)
    np.testing.assert_array_equal(picked.chosen, same.chosen)
    assert picked.gains.sum() > picked.expected_random > 0
    priced = select_pairs(data.items, fit, 4.0, candidates=pairs, criterion=criterion, cost=np.full(80, 2.0))
    np.testing.assert_array_equal(priced.chosen, picked.chosen[:2])
    exchanged = select_pairs(
        data.items, fit, 4, candidates=pairs, criterion=replace(criterion, search=Exchange(sweeps=2))
    )
    assert exchanged.gains.sum() >= picked.gains.sum() * (1 - 1e-9)
    assert 0 < optimality_gap(picked, data.items, fit, candidates=pairs).efficiency <= 1
    assert len(stopping_curve(data.items, fit, 3, candidates=pairs, criterion=criterion)) == 4


def test_first_order_gains_are_in_tiles(mine: ModuleType) -> None:
    """The picks of a list of all pairs, and not those of top-k by another score."""
    small = Tiling(listed=10, side=17, kept=30, shortlist=6)
    call = {"candidates": "all", "criterion": mine.first_order}
    tiled, listed = (select_pairs(mine.data.items, mine.fit, 9, **call, tiling=tiling) for tiling in (small, Tiling()))
    np.testing.assert_array_equal(tiled.chosen, listed.chosen)
    np.testing.assert_allclose(tiled.gains, listed.gains, rtol=1e-9)
    assert mine.first_order.tile is not None
    other = Criterion("variance", CRITERIA["posterior variance"].objective, TopK())
    assert not np.array_equal(select_pairs(mine.data.items, mine.fit, 9, criterion=other).chosen, tiled.chosen)


def test_campaigns_take_a_criterion(mine: ModuleType, tmp_path: Path) -> None:
    items, weights = mine.data.items, mine.data.weights
    rewards = items.features @ weights

    def answer(pairs: np.ndarray, key: Any) -> Any:
        return Comparisons(pairs[:, 0], pairs[:, 1], rewards[pairs[:, 0]] > rewards[pairs[:, 1]])

    curve = learning_curve(
        items, answer, lambda fit: {"variance": float(reward(fit, items).variance.mean())},
        criterion=mine.fresh, start=10, batch=10, budget=20,
    )  # fmt: skip
    assert curve.table["criterion"].tolist() == ["fresh items"] * 2
    with LabelStore(tmp_path / "labels.db") as store:
        loop = AnnotationLoop(items, store, batch=5, random_share=0.0, criterion=mine.fresh)
        loop.run(lambda first, second: float(rewards[first] > rewards[second]), 10, who="me", progress=False)
        assert store.rounds()[1].criterion == "fresh items"


def test_a_drift_is_simulated(mine: ModuleType) -> None:
    """To its capacity, from above and from below."""
    quiet = mine.truth | {"volatility": 1e-6}
    paths = mine.simulate(mine.cells, quiet, [[1.0], [30.0]], [0.0, 15.0])
    np.testing.assert_allclose(paths[-1, :, 0], 10.0, rtol=1e-3)


@pytest.mark.slow
def test_a_drift_is_fitted_bridged_and_forecast(mine: ModuleType, seed: int, tmp_path: Path) -> None:
    from tercet.inference import fit_reference, forecast, multimarginal_bridge
    from tercet.models import Snapshots

    times = [0.0, 1.0, 2.0, 4.0]
    starts = np.random.default_rng(seed).lognormal(0.0, 0.3, (80, 1))
    snapshots = Snapshots(list(mine.simulate(mine.cells, mine.truth, starts, times, key=seed)), times, names=["cells"])
    fit = fit_reference(mine.SnapshotModel(mine.cells), snapshots, starts=2, key=seed)
    mean = fit.mean()
    assert mean["capacity"] == pytest.approx(10.0, rel=0.15)
    assert mean["rate"] == pytest.approx(1.0, rel=0.3)
    assert forecast(fit, [5.0], particles=20, draws=3, key=seed) is not None
    bridge = multimarginal_bridge(mine.cells, mean, snapshots)
    assert bridge is not None
    assert "capacity" in fit.to_arviz(draws=40, key=1)["posterior"]
    again = load(fit.save(tmp_path / "fit"), snapshots, model=mine.SnapshotModel(mine.cells))
    np.testing.assert_allclose(again.mean()["capacity"], mean["capacity"])
