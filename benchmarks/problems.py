"""The data of each benchmark, in NumPy alone: `problem(smoke)` gives the arrays that both sides read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Data = dict[str, np.ndarray]


def _answers(rng: np.random.Generator, logit: np.ndarray) -> np.ndarray:
    return (rng.random(len(logit)) < 1.0 / (1.0 + np.exp(-logit))).astype(np.float64)


def _pairs(rng: np.random.Generator, items: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    first = rng.integers(items, size=pairs)
    return first, (first + rng.integers(1, items, size=pairs)) % items


def _linear(items: int, pairs: int, width: int, disjoint: bool) -> Data:
    """Gaussian features with a decaying spectrum; reward differences have standard deviation 2."""
    rng = np.random.default_rng(20)
    features = rng.standard_normal((items, width), dtype=np.float32)
    scales = (1.0 + np.arange(width)) ** -0.25
    features *= scales.astype(np.float32)
    weights = rng.standard_normal(width)
    reward = features @ (weights * np.sqrt(2.0 / np.sum((weights * scales) ** 2)))
    first, second = (np.arange(pairs), np.arange(pairs) + pairs) if disjoint else _pairs(rng, items, pairs)
    outcome = _answers(rng, reward[first] - reward[second])
    return {"features": features, "first": first, "second": second, "outcome": outcome, "prior_sd": np.array(2.0)}


def _abilities(items: int, games: int) -> Data:
    rng = np.random.default_rng(21)
    ability = rng.standard_normal(items)
    first, second = _pairs(rng, items, games)
    outcome = _answers(rng, ability[first] - ability[second])
    return {"first": first, "second": second, "outcome": outcome, "items": np.array(items)}


def _design(items: int, pairs: int, width: int, labels: int, budget: int) -> Data:
    """Answers so far (`first`, `second`, `outcome`) and listed candidates."""
    data = _linear(items, labels, width, disjoint=False)
    first, second = _pairs(np.random.default_rng(22), items, pairs)
    return data | {"candidates": np.stack([first, second], axis=1), "budget": np.array(budget)}


def wide(smoke: bool) -> Data:
    """Each comparison has two items of its own: 40,000 items of 2,048 features, 20,000 comparisons."""
    return _linear(600, 300, 40, disjoint=True) if smoke else _linear(40_000, 20_000, 2_048, disjoint=True)


def long(smoke: bool) -> Data:
    """Many more comparisons than items: 1,000,000 among 50,000, 64 features."""
    return _linear(200, 2_000, 8, disjoint=False) if smoke else _linear(50_000, 1_000_000, 64, disjoint=False)


def games(smoke: bool) -> Data:
    """300,000 games among 1,000 items."""
    return _abilities(12, 2_000) if smoke else _abilities(1_000, 300_000)


def many_games(smoke: bool) -> Data:
    """2,000,000 games among 300 items."""
    return _abilities(6, 4_000) if smoke else _abilities(300, 2_000_000)


def candidates(smoke: bool) -> Data:
    """100,000 candidate pairs of 64 features."""
    return _design(100, 300, 6, 30, 10) if smoke else _design(20_000, 100_000, 64, 256, 256)


def many_candidates(smoke: bool) -> Data:
    """1,000,000 candidate pairs among 50,000 items of 64 features, 256 answers so far, 100 picks."""
    return _design(60, 150, 6, 30, 8) if smoke else _design(50_000, 1_000_000, 64, 256, 100)


def small_pool(smoke: bool) -> Data:
    """2,000 candidate pairs among 1,000 items of 64 features, 256 answers so far, 20 picks."""
    return _design(40, 60, 6, 30, 4) if smoke else _design(1_000, 2_000, 64, 256, 20)


def everything(smoke: bool) -> Data:
    """All 209,704,960 pairs of 20,480 items of 64 features, 256 answers so far, the best 256."""
    data = _linear(1_500, 30, 6, disjoint=False) if smoke else _linear(20_480, 256, 64, disjoint=False)
    return data | {"budget": np.array(10 if smoke else 256)}


PROBLEMS: dict[str, Callable[[bool], Data]] = {
    problem.__name__: problem
    for problem in (wide, long, games, many_games, candidates, many_candidates, small_pool, everything)
}
