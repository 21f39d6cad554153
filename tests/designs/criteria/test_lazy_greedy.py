"""Lazy greedy picks are those of an update after each pick, to the last digit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tercet.datasets import gaussian_field_task, simulated_preferences
from tercet.designs import Criterion, candidate_pairs, select_pairs, select_sites
from tercet.designs.criteria import BatchBALD, DOptimality, Greedy, LazyGreedy
from tercet.inference import laplace
from tercet.models import AbilityHead, BradleyTerry, LinearHead, LossSurface

EAGER = Criterion("eager D", DOptimality(), Greedy())


@pytest.fixture(
    params=[LazyGreedy(16, 1500), LazyGreedy(7, 10**9), LazyGreedy()],
    ids=["small blocks", "none flushed", "as shipped"],
)
def lazily(request: pytest.FixtureRequest) -> LazyGreedy:
    return request.param


@pytest.mark.parametrize("head", [LinearHead(3.0), AbilityHead(2.0)], ids=["linear", "abilities"])
@pytest.mark.parametrize("order", [False, True])
def test_lazy_is_eager(head: Any, order: bool, lazily: LazyGreedy, seed: int) -> None:
    data = simulated_preferences(40, 4, 30, key=seed)
    fit = laplace(BradleyTerry(head, order_effect=order), data.items, data.comparisons)
    pairs = candidate_pairs(data.items, "random", 150, key=seed)
    twice = np.concatenate([pairs, pairs[:60], pairs[40:70, ::-1]])  # ties
    lazy = select_pairs(data.items, fit, 60, candidates=twice, criterion=Criterion("lazy D", DOptimality(), lazily))
    eager = select_pairs(data.items, fit, 60, candidates=twice, criterion=EAGER)
    np.testing.assert_array_equal(lazy.chosen, eager.chosen)
    np.testing.assert_array_equal(lazy.gains, eager.gains)
    half = select_pairs(data.items, fit, 60, candidates=twice, criterion=Criterion("half", BatchBALD(), lazily))
    np.testing.assert_array_equal(half.chosen, eager.chosen)
    np.testing.assert_array_equal(half.gains, 0.5 * eager.gains)


def test_all_of_a_pool_and_none(lazily: LazyGreedy, seed: int) -> None:
    data = simulated_preferences(12, 3, 20, key=seed)
    fit = laplace(BradleyTerry(LinearHead(2.0)), data.items, data.comparisons)
    every = select_pairs(data.items, fit, 66, candidates="all", criterion=Criterion("lazy D", DOptimality(), lazily))
    assert len(np.unique(np.sort(every.chosen, axis=1), axis=0)) == 66
    assert (np.diff(every.gains) <= 0).all()
    assert len(select_pairs(data.items, fit, 0, criterion=Criterion("lazy D", DOptimality(), lazily)).chosen) == 0


def test_lazy_is_eager_for_sites(lazily: LazyGreedy, seed: int) -> None:
    task = gaussian_field_task("grid", validation=40, key=seed)
    losses = np.abs(task.validation.response)
    surface = laplace(LossSurface.around(losses, task.validation.sites, task.test.sites), task.validation.sites, losses)
    lazy = select_sites(task.test.sites, surface, 8, criterion=Criterion("lazy D", DOptimality(), lazily))
    eager = select_sites(task.test.sites, surface, 8, criterion=EAGER)
    np.testing.assert_array_equal(lazy.chosen, eager.chosen)
    np.testing.assert_array_equal(lazy.gains, eager.gains)
