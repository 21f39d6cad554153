"""Any objective under any search; states that nobody writes into; subclasses that keep their tiles, or lose them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tercet.datasets import simulated_preferences
from tercet.designs import CRITERIA, Criterion, PairCandidates, Tiling, select_pairs
from tercet.designs.criteria import AOptimality, DOptimality, Exchange, Greedy, LazyGreedy, Search, TopK, VOptimality
from tercet.designs.pairs import pair_candidates
from tercet.inference import laplace
from tercet.models import BradleyTerry

SEARCHES = (TopK(), Greedy(), Greedy(shortlist=4), Exchange(sweeps=2))
SUBMODULAR = ("greedy D", "BatchBALD", "BatchBALD (joint entropy)")


@dataclass(frozen=True)
class Mine(VOptimality):
    """Nothing but another name."""


@dataclass(frozen=True)
class Inverted(VOptimality):
    """Another gain, which the tiles of the class above know nothing of."""

    def gain(self, state: Any, some: Any) -> np.ndarray:
        return 1.0 / (1.0 + super().gain(state, some))


@dataclass(frozen=True)
class Unaided(DOptimality):
    """D-optimality that leaves everything to the search."""

    def stale_gains(self, state: Any, block: int, memory: int) -> None:
        return None

    def remove(self, state: Any, index: int) -> None:
        return None


@pytest.mark.parametrize("objective", [Mine(), AOptimality(), DOptimality()], ids=lambda o: type(o).__name__)
def test_a_subclass_is_scored_in_tiles(objective: Any, seed: int, small_tiles: Tiling, monkeypatch: Any) -> None:
    """No list of all pairs is made, and the picks are those of such a list."""
    data = simulated_preferences(60, 5, 150, key=seed)
    fit = laplace(BradleyTerry(), data.items, data.comparisons)
    listed, sizes = pair_candidates.listed_pairs, []

    def counted(*arguments: Any) -> np.ndarray:
        pairs = listed(*arguments)
        sizes.append(len(pairs))
        return pairs

    monkeypatch.setattr(pair_candidates, "listed_pairs", counted)
    call = {"criterion": Criterion("mine", objective), "candidates": "all", "random_batches": 2}
    tiled = select_pairs(data.items, fit, 5, **call, tiling=small_tiles)
    assert sizes == [10]  # two random batches
    expected = select_pairs(data.items, fit, 5, **call)
    assert sizes == [10, 60 * 59 // 2]
    np.testing.assert_array_equal(tiled.chosen, expected.chosen)
    np.testing.assert_allclose(tiled.gains, expected.gains, rtol=1e-9)


def test_a_changed_gain_has_no_tiles(seed: int, small_tiles: Tiling) -> None:
    """A ranking by the gain of the class above would bring other pairs: these are listed."""
    data = simulated_preferences(40, 5, 100, key=seed)
    fit = laplace(BradleyTerry(), data.items, data.comparisons)
    call = {"criterion": Criterion("inverted", Inverted()), "candidates": "all"}
    tiled, listed = (select_pairs(data.items, fit, 5, **call, tiling=tiling) for tiling in (small_tiles, Tiling()))
    np.testing.assert_array_equal(tiled.chosen, listed.chosen)
    np.testing.assert_array_equal(tiled.gains, listed.gains)
    usual = select_pairs(data.items, fit, 5, candidates="all")
    assert not set(map(tuple, tiled.chosen.tolist())) & set(map(tuple, usual.chosen.tolist()))


@pytest.mark.parametrize("name", CRITERIA)
def test_nobody_writes_into_a_state(name: str, case: Any) -> None:
    """Nor does it matter how often a state is asked or updated: sampled configurations draw from a copy."""
    problem = case(m=14, s=20)
    objective = CRITERIA[name].objective
    pool = objective.pool(PairCandidates(problem.items, problem.candidates), problem.posterior, [[0, 3], [5, 1]])
    rng = np.random.default_rng(1)
    state = objective.begin(pool, rng)
    for index in (3, 7, 1):
        before = pickle.dumps(numbers(state))
        free = np.ones(14, bool)
        picks = [objective.choose(state, free) for _ in range(2)]
        assert picks[0] == picks[1]
        np.testing.assert_array_equal(objective.score(state), objective.score(state))
        one, other = objective.update(state, index), objective.update(state, index)
        assert pickle.dumps(numbers(one)) == pickle.dumps(numbers(other))
        assert pickle.dumps(numbers(state)) == before
        state = one


def numbers(state: Any) -> list[Any]:
    """The arrays of a state, and where its generator stands."""
    if isinstance(state, (np.ndarray, float, bool)):
        return [state]
    if isinstance(state, np.random.Generator):
        return [state.bit_generator.state]
    fields = state if isinstance(state, tuple) else [getattr(state, name, None) for name in ("covariance", "q", "c")]
    return [number for field in fields if field is not None for number in numbers(field)] if fields else []


@pytest.mark.parametrize("search", SEARCHES, ids=repr)
@pytest.mark.parametrize("name", CRITERIA)
def test_any_objective_under_any_search(name: str, search: Search, case: Any) -> None:
    """A batch of the size asked for, never worse than that of greedy where it is improved by exchange."""
    problem = case(m=14, s=20)
    call = {"target": [[0, 3], [5, 1]], "key": 3, "random_batches": 1}
    picked = problem.select(4, Criterion("mixed", CRITERIA[name].objective, search), **call)
    assert len(set(problem.positions(picked.chosen))) == len(picked.gains) == 4
    if isinstance(search, Exchange):
        greedy = problem.select(4, Criterion("greedy", CRITERIA[name].objective, Greedy()), **call)
        assert picked.gains.sum() >= greedy.gains.sum() * (1 - 1e-9)


@pytest.mark.parametrize("cost", [False, True])
@pytest.mark.parametrize("name", SUBMODULAR)
@pytest.mark.parametrize("block", [1, 3, 100])
def test_lazy_picks_of_submodular_objectives_are_greedy(block: int, name: str, cost: bool, case: Any, rng: Any) -> None:
    problem, objective = case(m=20, s=40), CRITERIA[name].objective
    price = rng.uniform(0.5, 2.0, 20) if cost else None
    lazy, greedy = (
        problem.select(5, Criterion(name, objective, search), cost=price) for search in (LazyGreedy(block), Greedy())
    )
    np.testing.assert_array_equal(lazy.chosen, greedy.chosen)
    np.testing.assert_allclose(lazy.gains, greedy.gains, rtol=1e-12)


@pytest.mark.parametrize("search", [LazyGreedy(block=3), Exchange(sweeps=5)], ids=repr)
def test_a_search_needs_three_methods_of_an_objective(search: Search, case: Any) -> None:
    """What an objective can do faster changes nothing but the time it takes."""
    problem = case(n=12, d=4, m=40, wide=3.0)
    fast, slow = (problem.select(5, Criterion("D", objective, search)) for objective in (DOptimality(), Unaided()))
    np.testing.assert_array_equal(fast.chosen, slow.chosen)
    np.testing.assert_allclose(fast.gains, slow.gains, rtol=1e-9)


def test_unknown_names_are_refused(case: Any) -> None:
    with pytest.raises(ValueError, match=r"criterion must be one of .* or a Criterion\(name, objective, search\)"):
        case().select(2, "worst D")


def test_names_travel_to_other_settings(case: Any) -> None:
    """A named criterion with one parameter changed."""
    problem = case(m=20, s=50)
    named = CRITERIA["BALD (draws)"]
    few = replace(named, objective=replace(named.objective, draws=10))
    assert not np.allclose(problem.all_gains(few), problem.all_gains(named))
