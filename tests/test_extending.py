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
from tercet.models import Comparisons

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
PAIRS = [[0, 1], [5, 2], [7, 30]]
FITS = {"head": "near", "linear head": "squares", "comparison model": "careless"}
"""The fits of the page."""


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


@pytest.fixture(params=FITS)
def fit(request: pytest.FixtureRequest, mine: ModuleType) -> Any:
    return getattr(mine, FITS[request.param])


def test_each_is_about_ten_lines(mine: ModuleType) -> None:
    for thing in (mine.FreshItems, mine.FirstOrderD, mine.IdealPoint, mine.Squares, mine.WithMistakes, mine.growth):
        code = [line for line in inspect.getsource(thing).splitlines() if line.strip()]
        assert len(code) <= 13, thing


def test_fits_predict(fit: Any, mine: ModuleType) -> None:
    items = mine.data.items
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
def test_fits_are_designed_for(criterion: str, fit: Any, mine: ModuleType) -> None:
    call = {"candidates": 100, "exclude": mine.data.comparisons, "random_batches": 2}
    picked = select_pairs(mine.data.items, fit, 4, criterion=criterion, **call)
    assert picked.chosen.shape == (4, 2)
    assert picked.gains.min() > 0
    assert picked.expected_random > 0
    assert (picked.table["difference_sd"] > 0).all()


def test_fits_are_saved_and_read_back(fit: Any, mine: ModuleType, tmp_path: Path) -> None:
    again = load(fit.save(tmp_path / "fit"), mine.data.items, mine.data.comparisons)
    assert again.model == fit.model
    ours, theirs = (reward_difference(each, mine.data.items, PAIRS) for each in (fit, again))
    np.testing.assert_array_equal(ours, theirs)
    assert (win_probability(again, mine.data.items, PAIRS[:1]) > 0).all()


def test_fits_go_to_arviz(fit: Any) -> None:
    container = fit.to_arviz(draws=40, key=1)
    assert container["log_likelihood"]["outcome"].shape == (4, 10, 200)
    assert set(fit.mean()) <= set(container["posterior"])


@pytest.mark.slow
def test_they_combine_and_take_other_routes(mine: ModuleType) -> None:
    """A model and a head of the reader's own together; chains."""
    items, answers = mine.data.items, mine.data.comparisons
    model = mine.WithMistakes(mine.IdealPoint())
    chains = nuts(model, items, answers, warmup=300, samples=200, chains=2, progress=False)
    for fit in (laplace(model, items, answers), chains):
        assert len(ability_table(fit, items)) == 60
        assert len(select_pairs(items, fit, 3, candidates=50).chosen) == 3
    probability = win_probability(chains, items, PAIRS)
    assert ((probability > 0) & (probability < 1)).all()


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
