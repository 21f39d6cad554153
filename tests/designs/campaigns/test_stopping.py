"""Expected reductions of the target variance: against inverted matrices, beside random batches, along a curve."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from tercet.designs import PairCandidates, candidate_pairs, select_pairs, stopping_curve
from tercet.designs.campaigns.stopping import batch_reduction, target_variance, variance_reductions
from tercet.inference import laplace
from tercet.inference.posteriors import GaussianPosterior
from tercet.models import BradleyTerry, Comparisons, Items, LinearHead, project


@pytest.fixture
def items(rng: np.random.Generator) -> Items:
    return Items(rng.standard_normal((12, 3)), prompt=np.arange(12) // 4)


@pytest.fixture
def posterior(items: Items, rng: np.random.Generator) -> GaussianPosterior:
    answers = Comparisons(range(6), range(6, 12), rng.integers(2, size=6))
    return laplace(BradleyTerry(LinearHead(1.5)), items, answers)


def average_variance(items: Items, covariance: np.ndarray) -> float:
    """Average variance of the reward differences of all pairs, computed one by one."""
    gaps = [items.features[i] - items.features[j] for i, j in itertools.combinations(range(len(items)), 2)]
    return float(np.mean([gap @ covariance @ gap for gap in gaps]))


def expected_information(mean: float, variance: float) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    p = expit(mean + np.sqrt(variance) * nodes)
    return float(weights @ (p * (1 - p)) / weights.sum())


def test_reductions_are_those_of_inverted_matrices(items: Items, posterior: GaussianPosterior) -> None:
    pairs = np.array([[0, 7], [3, 4], [0, 8], [11, 2], [7, 0]])
    precision = posterior.precision_factor @ posterior.precision_factor.T
    start = np.linalg.inv(precision)
    left = [average_variance(items, start)]
    for i, j in pairs:
        gap = items.features[i] - items.features[j]
        v = expected_information(float(gap @ posterior.center), float(gap @ start @ gap))
        precision = precision + v * np.outer(gap, gap)
        left.append(average_variance(items, np.linalg.inv(precision)))
    pool = PairCandidates(items, pairs).pool(posterior, None)
    np.testing.assert_allclose(target_variance(pool), left[0], rtol=1e-9)
    np.testing.assert_allclose(variance_reductions(pool), -np.diff(left), rtol=1e-5)


@pytest.mark.parametrize("target", [None, "in-prompt"])
def test_reduction_is_what_the_selection_promised(items: Items, posterior: GaussianPosterior, target: Any) -> None:
    """For greedy V: its gains. For all candidates: as for a random batch. For the worst batch: less than random."""
    pairs = candidate_pairs(items, "all")
    candidates = PairCandidates(items, pairs).pool(posterior, target)
    picked = select_pairs(items, posterior, 6, candidates=pairs, target=target)
    expected = batch_reduction(PairCandidates(items, picked.chosen).pool(posterior, target), candidates)
    np.testing.assert_allclose(expected.reduction, picked.gains.sum())
    assert expected.random_reduction == pytest.approx(picked.expected_random, rel=0.5)  # 20 batches each
    assert expected.reduction > 1.2 * expected.random_reduction
    everything = batch_reduction(candidates, candidates)
    assert everything.reduction == pytest.approx(everything.random_reduction)
    assert 0 < everything.reduction < everything.variance == expected.variance
    least = np.argsort(candidates.variance)[:6]
    worst = batch_reduction(candidates.take(least), candidates)
    assert worst.reduction < worst.random_reduction


def test_curve(items: Items, posterior: GaussianPosterior) -> None:
    curve = stopping_curve(items, posterior, 66, candidates="all")
    designed, random = curve["variance"].to_numpy(), curve["random_variance"].to_numpy()
    assert curve["labels"].tolist() == list(range(67))
    assert designed[0] == random[0] == pytest.approx(average_variance(items, np.linalg.inv(
        posterior.precision_factor @ posterior.precision_factor.T
    )))  # fmt: skip
    assert (np.diff(designed) < 0).all()
    assert (np.diff(random) < 0).all()
    assert (designed[1:40] < random[1:40]).all()
    assert designed[-1] == pytest.approx(random[-1])  # every pair has been asked, in whatever order
    assert random[-1] > 0


def test_curve_of_another_criterion_lies_above(items: Items, posterior: GaussianPosterior) -> None:
    best = stopping_curve(items, posterior, 10, candidates="all")
    blind = stopping_curve(items, posterior, 10, candidates="all", criterion="random", key=3)
    np.testing.assert_allclose(best["random_variance"].iloc[0], blind["random_variance"].iloc[0])
    assert best["variance"].iloc[-1] < blind["variance"].iloc[-1]


def test_curve_takes_raw_items_and_leaves_out_what_is_excluded(rng: np.random.Generator) -> None:
    raw = Items(rng.standard_normal((15, 6)) * [3, 3, 1, 1, 0.2, 0.1])
    items, answers = project(raw, 3), Comparisons([0, 1, 2], [3, 4, 5], [1, 0, 1])
    fit = laplace(BradleyTerry(LinearHead(1.0)), items, answers)
    one, other = (stopping_curve(x, fit, 5, candidates="all") for x in (raw, items))
    np.testing.assert_allclose(one.to_numpy(), other.to_numpy())
    with pytest.raises(ValueError, match="between 0 and the 102 candidates left, got 103"):
        stopping_curve(items, fit, 103, candidates="all", exclude=answers)
