"""Lazy greedy picks are those of an update after each pick, to the last digit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tercet.datasets import gaussian_field_task, simulated_preferences
from tercet.designs import BatchBALD, GreedyD, candidate_pairs, select_pairs, select_sites
from tercet.designs.criteria import lazy_greedy
from tercet.inference import laplace
from tercet.models import AbilityHead, BradleyTerry, LinearHead, LossSurface


@dataclass(frozen=True)
class EagerD(GreedyD):
    """Greedy D that brings every candidate up to date after each pick."""

    name = "eager D"

    def batch(self, state: Any, budget: int) -> None:
        return None


@pytest.fixture(
    params=[(16, 1500), (7, 10**9), (4096, lazy_greedy.MEMORY)], ids=["small blocks", "none flushed", "as shipped"]
)
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    block, memory = request.param
    monkeypatch.setattr(lazy_greedy, "BLOCK", block)
    monkeypatch.setattr(lazy_greedy, "MEMORY", memory)


@pytest.mark.parametrize("head", [LinearHead(3.0), AbilityHead(2.0)], ids=["linear", "abilities"])
@pytest.mark.parametrize("order", [False, True])
def test_lazy_is_eager(head: Any, order: bool, sizes: None, seed: int) -> None:
    data = simulated_preferences(40, 4, 30, key=seed)
    fit = laplace(BradleyTerry(head, order_effect=order), data.items, data.comparisons)
    pairs = candidate_pairs(data.items, "random", 150, key=seed)
    twice = np.concatenate([pairs, pairs[:60], pairs[40:70, ::-1]])  # ties
    lazy = select_pairs(data.items, fit, 60, candidates=twice, criterion="greedy D")
    eager = select_pairs(data.items, fit, 60, candidates=twice, criterion=EagerD())
    np.testing.assert_array_equal(lazy.chosen, eager.chosen)
    np.testing.assert_array_equal(lazy.gains, eager.gains)
    half = select_pairs(data.items, fit, 60, candidates=twice, criterion=BatchBALD())
    np.testing.assert_array_equal(half.chosen, eager.chosen)
    np.testing.assert_array_equal(half.gains, 0.5 * eager.gains)


def test_all_of_a_pool_and_none(sizes: None, seed: int) -> None:
    data = simulated_preferences(12, 3, 20, key=seed)
    fit = laplace(BradleyTerry(LinearHead(2.0)), data.items, data.comparisons)
    every = select_pairs(data.items, fit, 66, candidates="all", criterion="greedy D")
    assert len(np.unique(np.sort(every.chosen, axis=1), axis=0)) == 66
    assert (np.diff(every.gains) <= 0).all()
    assert len(select_pairs(data.items, fit, 0, criterion="greedy D").chosen) == 0


def test_lazy_is_eager_for_sites(sizes: None, seed: int) -> None:
    task = gaussian_field_task("grid", validation=40, key=seed)
    losses = np.abs(task.validation.response)
    surface = laplace(LossSurface.around(losses, task.validation.sites, task.test.sites), task.validation.sites, losses)
    lazy = select_sites(task.test.sites, surface, 8, criterion="greedy D")
    eager = select_sites(task.test.sites, surface, 8, criterion=EagerD())
    np.testing.assert_array_equal(lazy.chosen, eager.chosen)
    np.testing.assert_array_equal(lazy.gains, eager.gains)
