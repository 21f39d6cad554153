"""Strategies that score once, each against plain loops over features, moments and answers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from tercet.designs import CRITERIA, Criterion, Objective, SiteCandidates, select, select_pairs
from tercet.designs.criteria import TopK, WeightedDraw
from tercet.designs.pairs import ClosedFormBALD, Coreset, PublishedXtX
from tercet.inference.posteriors.gaussian import SiteGaussian
from tercet.models import Items

NAMES = ["Bradley-Terry", "order effect", "Thurstone", "Davidson", "Graded"]
TARGETS = [[0, 3], [5, 1], [2, 6], [7, 0]]
NODES = np.linspace(-8.0, 8.0, 121)
WEIGHTS = np.exp(-(NODES**2) / 2) / math.sqrt(2 * math.pi) * (NODES[1] - NODES[0])


def drawn(objective: Objective[Any, Any]) -> Criterion:
    return Criterion("drawn", objective, WeightedDraw())


@pytest.mark.parametrize("name", NAMES)
def test_max_difference_and_entropy_read_the_posterior_mean(
    name: str, case: Any, answer_probabilities: Any, shannon: Any
) -> None:
    problem = case(name)
    np.testing.assert_allclose(problem.all_gains("max difference"), np.abs(problem.m), rtol=1e-9)
    expected = [shannon(answer_probabilities(problem.model, m)) for m in problem.m]
    np.testing.assert_allclose(problem.all_gains("entropy"), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["Bradley-Terry", "Thurstone"])
def test_entropy_of_two_answers_is_the_smallest_difference(name: str, case: Any) -> None:
    """The way the paper's code picks: the reverse of max difference."""
    problem = case(name)
    np.testing.assert_array_equal(
        problem.select(12, "entropy").chosen, problem.select(12, "max difference").chosen[::-1]
    )


@pytest.mark.parametrize("name", NAMES)
def test_predictive_entropy_integrates_the_posterior(name: str, case: Any, shannon: Any) -> None:
    problem = case(name)
    expected = [shannon(WEIGHTS @ problem.answers_on_grid(m, q)) for m, q in zip(problem.m, problem.q, strict=True)]
    np.testing.assert_allclose(problem.all_gains("predictive entropy"), expected, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_bald_is_the_information_of_answer_and_logit(name: str, case: Any) -> None:
    problem = case(name)
    expected = [problem.information(m, q) for m, q in zip(problem.m, problem.q, strict=True)]
    np.testing.assert_allclose(problem.all_gains("BALD (top-k)"), expected, rtol=1e-5)


def test_bald_of_ties_is_not_that_of_two_answers(case: Any) -> None:
    """Negative control: a tie is an answer too."""
    problem = case("Davidson")
    wrong = [_two_answers(m, q) for m, q in zip(problem.m, problem.q, strict=True)]
    assert np.abs(problem.all_gains("BALD (top-k)") - wrong).max() > 1e-3


def _two_answers(mean: float, variance: float) -> float:
    p = 1 / (1 + np.exp(-(mean + math.sqrt(variance) * NODES)))
    noise = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    first = WEIGHTS @ p
    return -(first * math.log(first) + (1 - first) * math.log(1 - first)) - WEIGHTS @ noise


@pytest.mark.parametrize("name", ["Bradley-Terry", "Thurstone"])
def test_closed_form_bald_is_houlsbys_formula_and_near_the_integral(name: str, case: Any) -> None:
    problem = case(name)
    scale = math.pi / 8 if name == "Bradley-Terry" else 1.0
    expected = []
    for mean, variance in zip(problem.m, problem.q, strict=True):
        m, s2, c2 = mean * math.sqrt(scale), variance * scale, math.pi * math.log(2) / 2
        p = scipy.stats.norm.cdf(m / math.sqrt(1 + s2))
        bits = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
        bits -= math.sqrt(c2 / (s2 + c2)) * math.exp(-(m**2) / (2 * (s2 + c2)))
        expected.append(max(bits * math.log(2), 0.0))
    gains = problem.all_gains("BALD (closed form)")
    np.testing.assert_allclose(gains, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gains, problem.all_gains("BALD (top-k)"), atol=0.02)


def test_closed_form_is_for_two_answers_and_never_negative(case: Any) -> None:
    with pytest.raises(ValueError, match="Bradley-Terry and Thurstone, got Davidson; use 'BALD'"):
        case("Davidson").select(2, Criterion("closed form", ClosedFormBALD(), TopK()))
    sure = case("Thurstone")
    narrow = SiteGaussian("laplace", sure.posterior.context, {}, 3 * sure.mean, 1e3 * np.eye(3), (("weights", 3),))
    picked = select_pairs(sure.items, narrow, 12, candidates=sure.candidates, criterion="BALD (closed form)")
    assert (picked.gains >= 0).all()
    assert (picked.gains == 0).any()


@pytest.mark.parametrize("name", ["Bradley-Terry", "order effect"])
def test_xtx_is_the_leverage_of_the_differences(name: str, case: Any) -> None:
    problem = case(name)
    for ridge in (1e-6, 0.3):
        matrix = ridge * np.eye(len(problem.mean))
        for d in problem.d:
            matrix = matrix + np.outer(d, d)
        expected = [d @ np.linalg.inv(matrix) @ d for d in problem.d]
        np.testing.assert_allclose(
            problem.all_gains(Criterion("XtX", PublishedXtX(ridge), TopK())), expected, rtol=1e-7
        )


@pytest.mark.parametrize("radius", [0.5, 1.0])
def test_coreset_of_one_cluster_and_of_one_a_candidate(radius: float, case: Any) -> None:
    """Whatever the draws of k-means++, these two clusterings are known."""
    problem = case()
    size = len(problem.d)
    alone, together = [], []
    for n, d in enumerate(problem.d):
        others = [row for k, row in enumerate(problem.d) if k != n]
        alone.append(size / (1 + sum(math.exp(-radius * np.linalg.norm(row - d)) for row in others)))
        gap = np.linalg.norm(np.mean(others, axis=0) - d)
        together.append(size / (1 + (size - 1) * math.exp(-radius * gap)))
    for key in range(3):
        np.testing.assert_allclose(problem.all_gains(drawn(Coreset(size, radius=radius)), key=key), alone, rtol=1e-6)
        np.testing.assert_allclose(problem.all_gains(drawn(Coreset(1, radius=radius)), key=key), together, rtol=1e-9)


@pytest.mark.parametrize("rounds", [1, 3])
def test_coreset_finds_clusters_that_are_far_apart(rounds: int, rng: Any, case: Any) -> None:
    """Three heaps of differences: every k-means++ start has one centre in each."""
    shape = case()
    middles, base = 40.0 * np.eye(3), rng.normal(0, 0.3, (12, 3))
    features = np.concatenate([np.zeros((1, 3)), base + np.repeat(middles, 4, axis=0)])
    pairs = [[k, 0] for k in range(1, 13)]
    picked = select_pairs(Items(features), shape.posterior, 12, candidates=pairs, criterion=drawn(Coreset(3, rounds)))
    expected = []
    for n in range(12):
        total = 1.0
        for heap in range(3):
            rest = [features[k + 1] for k in range(12) if k // 4 == heap and k != n]
            total += len(rest) * math.exp(-np.linalg.norm(np.mean(rest, axis=0) - features[n + 1]))
        expected.append(12 / total)
    order = [pair[0] - 1 for pair in picked.chosen.tolist()]
    np.testing.assert_allclose(picked.gains, np.array(expected)[order], rtol=1e-9)


def test_coreset_draws_in_proportion_to_sensitivity(case: Any, seed: int) -> None:
    """First picks over 300 keys, by chi-square; false-alarm rate 1e-6."""
    problem = case(m=6)
    rule = drawn(Coreset(6))
    share = problem.all_gains(rule)
    keys = np.random.default_rng(seed).integers(2**40, size=300)
    counts = np.zeros(6)
    for key in keys:
        counts[problem.positions(problem.select(1, rule, key=int(key)).chosen)] += 1
    assert scipy.stats.chisquare(counts, 300 * share / share.sum()).pvalue > 1e-6


@pytest.mark.parametrize("name", ["Bradley-Terry", "order effect", "Thurstone", "Davidson"])
def test_epig_is_the_information_about_the_answers_to_the_targets(name: str, case: Any) -> None:
    problem = case(name, m=4)
    expected = [problem.epig(problem.covariance, d, TARGETS) for d in problem.d]
    np.testing.assert_allclose(problem.all_gains("EPIG (top-k)", target=TARGETS), expected, rtol=1e-4, atol=1e-7)


def test_epig_to_the_pair_itself_is_the_information_of_two_answers_to_it(case: Any) -> None:
    """Correlation 1: the sum of Mehler's formula at its edge."""
    problem = case(m=4)
    for k, pair in enumerate(problem.candidates):
        p = 1 / (1 + np.exp(-(problem.m[k] + math.sqrt(problem.q[k]) * NODES)))
        both, one = WEIGHTS @ p**2, WEIGHTS @ p
        cells = [(both, one * one), (one - both, one * (1 - one)), (one - both, one * (1 - one)),
                 (1 - 2 * one + both, (1 - one) ** 2)]  # fmt: skip
        expected = sum(a * math.log(a / b) for a, b in cells)
        assert problem.all_gains("EPIG (top-k)", target=[pair])[k] == pytest.approx(expected, rel=1e-3)


def test_epig_never_exceeds_bald_and_knows_its_target(case: Any) -> None:
    problem = case()
    near, bald = problem.all_gains("EPIG (top-k)", target=TARGETS), problem.all_gains("BALD (top-k)")
    assert (near < bald).all()
    far = problem.all_gains("EPIG (top-k)", target=TARGETS[:1])
    assert not np.allclose(near, far, rtol=1e-3)


@pytest.mark.parametrize("rule", ["EPIG", "EPIG (top-k)"])
def test_targets_are_drawn_from_what_was_named(rule: str, case: Any) -> None:
    """All target pairs fit in: naming them, listing them or handing over their items comes to the same."""
    problem = case()
    items = Items(problem.features, prompt=[0, 0, 0, 1, 1, 1, 1, 2])
    listed = [list(pair) for pair in itertools.combinations(range(8), 2)]
    inside = [[i, j] for i, j in listed if items.prompt[i] == items.prompt[j]]

    def gains(target: Any) -> np.ndarray:
        return select_pairs(
            items, problem.posterior, 5, candidates=problem.candidates, criterion=rule, target=target
        ).gains

    np.testing.assert_allclose(gains(None), gains(listed), rtol=1e-8)
    np.testing.assert_allclose(gains(Items(problem.features)), gains(listed), rtol=1e-8)
    np.testing.assert_allclose(gains("in-prompt"), gains(inside), rtol=1e-8)
    assert not np.allclose(gains("in-prompt"), gains(None), rtol=1e-3)


@pytest.mark.parametrize("name", ["max difference", "entropy", "coreset", "XtX", "BALD", "BALD (draws)", "EPIG"])
def test_rules_about_answers_are_for_pairs(name: str) -> None:
    with pytest.raises(ValueError, match="for pairs only"):
        select(SiteCandidates([[0.0], [1.0]], existing=[[0.2]]), None, 1, criterion=CRITERIA[name])


def test_posterior_that_is_not_positive_definite_is_refused(case: Any) -> None:
    problem = case()
    factor = problem.posterior.precision_factor.copy()
    for bad in (0.0, -1.0, np.nan):
        factor[1, 1] = bad
        broken = SiteGaussian("laplace", problem.posterior.context, {}, problem.mean, factor, (("weights", 3),))
        with pytest.raises(ValueError, match="not positive definite"):
            select_pairs(problem.items, broken, 2, candidates=problem.candidates)


def test_published_matrix_that_cannot_be_inverted_is_named(case: Any) -> None:
    """A feature that is the same for all items, no ridge."""
    problem = case()
    flat = Items(problem.features * [1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="do not span all features"):
        select_pairs(
            flat, problem.posterior, 1, candidates="all", criterion=Criterion("XtX", PublishedXtX(0.0), TopK())
        )
