"""Sequential strategies, each against plain loops that begin anew before every pick; exchange and its certificate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import entr, expit, log_expit

from tercet.datasets import simulated_preferences
from tercet.designs import (
    CRITERIA,
    Criterion,
    PairCandidates,
    candidate_pairs,
    optimality_gap,
    relaxation,
    select_pairs,
)
from tercet.designs.criteria import Greedy, LazyGreedy
from tercet.designs.pairs import EPIG, JointEntropy
from tercet.inference import laplace
from tercet.models import BradleyTerry, Items, LinearHead

TARGETS = [[0, 3], [5, 1], [2, 6], [7, 0]]
NAMES = ["Bradley-Terry", "order effect", "Thurstone", "Davidson", "Graded"]


def check_picks(problem: Any, picked: Any, gains_before: Any, rtol: float = 1e-5) -> None:
    """Gains are the oracle's, and nothing that was left would have been worth more."""
    left = np.ones(len(problem.candidates), dtype=bool)
    order = problem.positions(picked.chosen)
    assert len(set(order)) == len(order) == len(picked.gains)
    for index, gain, gains in zip(order, picked.gains, gains_before, strict=True):
        np.testing.assert_allclose(gain, gains[index], rtol=rtol, atol=1e-10)
        assert gains[index] >= gains[left].max() * (1 - rtol)
        left[index] = False


def covariances(problem: Any, order: list[int]) -> Iterator[np.ndarray]:
    """The covariance before each pick, every one inverted from scratch."""
    precision = np.linalg.inv(problem.covariance)
    for index in order:
        yield np.linalg.inv(precision)
        precision = precision + problem.v[index] * np.outer(problem.d[index], problem.d[index])


def value(problem: Any, batch: Any, objective: str) -> float:
    """What a batch gains: log det of the precision (D), or the fall of the trace of S A (V: S over the targets)."""
    before = np.linalg.inv(problem.covariance)
    after = before + sum((problem.v[i] * np.outer(problem.d[i], problem.d[i]) for i in batch), np.zeros_like(before))
    if objective == "D":
        return np.linalg.slogdet(after)[1] - np.linalg.slogdet(before)[1]
    moment = np.mean([np.outer(t, t) for t in (problem.target_row(pair) for pair in TARGETS)], axis=0)
    return np.trace(moment @ (problem.covariance - np.linalg.inv(after)))


@pytest.mark.parametrize("name", NAMES)
def test_greedy_a_is_the_fall_of_the_trace(name: str, case: Any) -> None:
    problem = case(name)
    picked = problem.select(6, "greedy A")

    def gains() -> Iterator[np.ndarray]:
        for covariance in covariances(problem, problem.positions(picked.chosen)):
            updated = [
                np.linalg.inv(np.linalg.inv(covariance) + v * np.outer(d, d))
                for v, d in zip(problem.v, problem.d, strict=True)
            ]
            yield np.array([np.trace(covariance) - np.trace(after) for after in updated])

    check_picks(problem, picked, gains())
    assert not np.array_equal(picked.gains, problem.select(6, "greedy V").gains)


@pytest.mark.parametrize("name", NAMES)
def test_batch_bald_is_the_log_determinant_of_the_batch(name: str, case: Any) -> None:
    """Gain of a pick: half the growth of log det(I + V^1/2 D A D' V^1/2), the matrix of the whole batch formed anew."""
    problem = case(name)
    picked = problem.select(7, "BatchBALD")
    order = problem.positions(picked.chosen)

    def joint(batch: list[int]) -> float:
        rows = np.array([math.sqrt(problem.v[i]) * problem.d[i] for i in batch]).reshape(len(batch), len(problem.mean))
        return 0.5 * np.linalg.slogdet(np.eye(len(batch)) + rows @ problem.covariance @ rows.T)[1]

    gains = [
        np.array([0.0 if i in order[:k] else joint([*order[:k], i]) - joint(order[:k]) for i in range(12)])
        for k in range(7)
    ]
    check_picks(problem, picked, gains)
    greedy = problem.select(7, "greedy D")
    np.testing.assert_array_equal(picked.chosen, greedy.chosen)
    np.testing.assert_allclose(picked.gains, greedy.gains / 2, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_bald_scores_with_the_variance_the_batch_leaves(name: str, case: Any) -> None:
    problem = case(name, m=8)
    picked = problem.select(4, "BALD")
    gains = (
        np.array([problem.information(m, d @ covariance @ d) for m, d in zip(problem.m, problem.d, strict=True)])
        for covariance in covariances(problem, problem.positions(picked.chosen))
    )
    check_picks(problem, picked, gains)
    assert picked.gains.sum() < problem.select(4, "BALD (top-k)").gains.sum()


def epig(shortlist: int = 2000) -> Criterion:
    return Criterion("EPIG", EPIG(), Greedy(shortlist))


def joint_entropy(block: int = 64, **settings: int) -> Criterion:
    return Criterion("BatchBALD (joint entropy)", JointEntropy(**settings), LazyGreedy(block))


@pytest.mark.parametrize(
    ("name", "shortlist"), [("Bradley-Terry", 4), ("Bradley-Terry", 2000), ("order effect", 2000), ("Davidson", 2000)]
)
def test_epig_scores_with_the_covariance_the_batch_leaves(name: str, shortlist: int, case: Any) -> None:
    problem = case(name, m=4)
    picked = problem.select(3, epig(shortlist), target=TARGETS[:2])
    gains = (
        np.array([problem.epig(covariance, d, TARGETS[:2]) for d in problem.d])
        for covariance in covariances(problem, problem.positions(picked.chosen))
    )
    check_picks(problem, picked, gains, rtol=1e-4)


def test_shortlist_keeps_the_best_of_the_first_round_and_is_left_when_empty(case: Any) -> None:
    problem = case()
    first = problem.all_gains("EPIG (top-k)", target=TARGETS)
    picked = problem.positions(problem.select(12, epig(5), target=TARGETS).chosen)
    assert set(picked[:5]) == set(np.argsort(-first)[:5].tolist())
    assert sorted(picked) == list(range(12))
    whole = problem.positions(problem.select(12, epig(), target=TARGETS).chosen)
    assert whole == problem.positions(problem.select(12, epig(12), target=TARGETS).chosen)


def joint_entropy_gains(
    problem: Any, answer_probabilities: Any, shannon: Any, order: list[int]
) -> Iterator[np.ndarray]:
    """H(batch and candidate) - H(batch) - E H(candidate), by listing all answers under every draw."""
    tables = np.array(
        [[answer_probabilities(problem.model, d @ w) for w in problem.draws] for d in problem.d]
    )  # [m, s, K]
    kinds = range(tables.shape[-1])

    def joint(batch: list[int]) -> float:
        total = 0.0
        for string in itertools.product(kinds, repeat=len(batch)):
            each = np.ones(len(problem.draws))
            for index, answer in zip(batch, string, strict=True):
                each = each * tables[index, :, answer]
            total -= each.mean() * math.log(each.mean())
        return total

    noise = np.array([np.mean([shannon(p) for p in table]) for table in tables])
    for k in range(len(order)):
        batch = order[:k]
        yield np.array([joint([*batch, i]) for i in range(len(problem.d))]) - joint(batch) - noise


@pytest.mark.parametrize(
    ("name", "budget"), [("Bradley-Terry", 5), ("order effect", 4), ("Davidson", 3), ("Graded", 2)]
)
def test_joint_entropy_is_that_of_every_string_of_answers(
    name: str, budget: int, case: Any, answer_probabilities: Any, shannon: Any
) -> None:
    problem = case(name, m=8, s=30)
    picked = problem.select(budget, "BatchBALD (joint entropy)")
    check_picks(
        problem,
        picked,
        joint_entropy_gains(problem, answer_probabilities, shannon, problem.positions(picked.chosen)),
        rtol=1e-8,
    )


def test_sampled_configurations_estimate_the_joint_entropy(case: Any, answer_probabilities: Any, shannon: Any) -> None:
    """32 configurations where 16 to 128 would be exact: the mean over 60 keys within 5 of its standard errors."""
    problem = case(m=8, s=30)
    fixed = replace(problem, candidates=problem.candidates[:7])
    exact = fixed.select(7, joint_entropy(), random_batches=1)
    few = joint_entropy(configurations=32)
    totals = [fixed.select(7, few, key=key, random_batches=1).gains.sum() for key in range(60)]
    assert np.std(totals) > 0  # it is an estimate
    error = np.std(totals, ddof=1) / math.sqrt(60)
    assert abs(np.mean(totals) - exact.gains.sum()) < 5 * error + 1e-9
    brute = next(itertools.islice(joint_entropy_gains(fixed, answer_probabilities, shannon, list(range(2))), 1, 2))
    assert exact.gains.sum() > brute.max()


def test_resampling_keeps_each_as_often_as_its_share(rng: Any) -> None:
    """Give or take one, and over many draws exactly so (within 5 standard errors of a fraction)."""
    from tercet.designs.pairs.joint_entropy import _resample

    share = rng.dirichlet(np.ones(9))
    counts = np.array([np.bincount(_resample(share, 32, rng), minlength=9) for _ in range(500)])
    assert (np.abs(counts - 32 * share) < 1).all()
    np.testing.assert_allclose(counts.mean(axis=0), 32 * share, atol=5 * 0.5 / math.sqrt(500))


def test_lazy_joint_entropy_equals_scoring_everything(case: Any) -> None:
    """One candidate at a time, or all of them."""
    problem = case(m=25, s=60)
    picks = [problem.select(6, joint_entropy(block)) for block in (1, 3, 1000)]
    for other in picks[1:]:
        np.testing.assert_array_equal(picks[0].chosen, other.chosen)
        np.testing.assert_allclose(picks[0].gains, other.gains, rtol=1e-12)


def joint_information(pool: Any, draws: int = 20_000) -> float:
    """I(answers; w) of all pairs of a pool: every configuration, its probability the mean over draws of w."""
    rng, rows = np.random.default_rng(1), np.stack([pool.row(k) for k in range(len(pool))])
    logits = pool.difference.mean + rng.normal(size=(draws, rows.shape[1])) @ (rows @ pool.rewards.root).T
    strings = np.array(list(itertools.product([0.0, 1.0], repeat=len(pool))))
    of_string = np.exp(strings @ log_expit(logits).T + (1 - strings) @ log_expit(-logits).T).mean(axis=1)
    win = expit(logits)
    return float(entr(of_string).sum() - (entr(win) + entr(1 - win)).mean(axis=0).sum())


@pytest.mark.parametrize("d", [4, 24])
def test_log_determinant_keeps_the_joint_information(d: int, seed: int) -> None:
    """At posterior sds up to 1: 97 % of what the batch of the joint entropy holds, where a random batch has not 80 %.

    The log determinant itself is within 3 % of the joint information of its batch, too.
    """
    data = simulated_preferences(60, d, 10 * d, key=seed)
    posterior = laplace(BradleyTerry(LinearHead(1.5)), data.items, data.comparisons)
    every = candidate_pairs(data.items, "all")
    pairs = every[PairCandidates(data.items, every).pool(posterior, None).variance <= 1.0]

    def held(batch: Any) -> float:
        return joint_information(PairCandidates(data.items, batch).pool(posterior, None))

    gaussian, joint = (
        select_pairs(data.items, posterior, 8, candidates=pairs, criterion=criterion)
        for criterion in ("BatchBALD", joint_entropy(draws=2000))
    )
    share = held(gaussian.chosen) / held(joint.chosen)
    assert 0.97 <= share <= 1.03
    assert gaussian.gains.sum() == pytest.approx(held(gaussian.chosen), rel=0.03)
    assert held(pairs[np.random.default_rng(seed).permutation(len(pairs))[:8]]) < 0.8 * held(joint.chosen)


@pytest.mark.parametrize("name", ["BALD", "EPIG", "BatchBALD (joint entropy)", "greedy A", "Fedorov exchange V"])
def test_expected_random_is_what_the_same_batch_gains_pick_by_pick(name: str, case: Any) -> None:
    """Every random batch of the whole pool is the pool: what it gains in any order, near what the picks gain."""
    problem = case(m=5)
    picked, objective = problem.select(5, name, target=TARGETS), CRITERIA[name].objective
    orders = []
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 7):
        state = objective.begin(pool := objective.pool(_candidates(problem), problem.posterior, TARGETS), _rng())
        total = 0.0
        for index in order:
            total += objective.score(state)[index]
            state = objective.update(state, index)
        orders.append(total)
        assert len(pool) == 5
    assert min(orders) * (1 - 1e-9) <= picked.expected_random <= max(orders) * (1 + 1e-9)


def _candidates(problem: Any) -> Any:
    from tercet.designs import PairCandidates

    return PairCandidates(problem.items, problem.candidates)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("criterion", "greedy", "objective"), [
    ("Fedorov exchange D", "greedy D", "D"), ("Fedorov exchange V", "greedy V", "V"),
])  # fmt: skip
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("Bradley-Terry", {"n": 12, "d": 4, "m": 60, "wide": 3.0}),
        ("order effect", {"d": 4, "wide": 3.0}),
        ("Davidson", {}),
    ],
)
def test_no_single_swap_improves_an_exchanged_batch(
    criterion: str, greedy: str, objective: str, name: str, sizes: Any, case: Any
) -> None:
    problem = case(name, **sizes)
    picked = problem.select(5, criterion, target=TARGETS)
    batch = problem.positions(picked.chosen)
    best = value(problem, batch, objective)
    np.testing.assert_allclose(picked.gains.sum(), best, rtol=1e-6)
    assert picked.gains.sum() >= problem.select(5, greedy, target=TARGETS).gains.sum() * (1 - 1e-9)
    for out, new in itertools.product(batch, set(range(len(problem.d))) - set(batch)):
        assert value(problem, [i for i in batch if i != out] + [new], objective) <= best * (1 + 1e-6)


@pytest.mark.parametrize("objective", ["D", "V"])
def test_exchange_improves_on_greedy_somewhere(objective: str, case: Any) -> None:
    """In some of 12 random pools greedy stops short of what swaps reach (without sweeps: in none)."""
    gained, greedy, rule = [], f"greedy {objective}", CRITERIA[f"Fedorov exchange {objective}"]
    without = replace(rule, search=replace(rule.search, sweeps=0))
    for _ in range(12):
        problem = case(n=12, d=4, m=60, wide=3.0)
        base = problem.select(5, greedy).gains.sum()
        gained.append(problem.select(5, rule).gains.sum() / base - 1)
        assert problem.select(5, without).gains.sum() == pytest.approx(base, rel=1e-12)
    assert min(gained) > -1e-9
    assert max(gained) > 1e-6


def test_exchange_stays_within_its_costs(case: Any, rng: Any) -> None:
    problem = case(m=28)
    cost = rng.uniform(0.5, 3.0, 28)
    for rule in ("Fedorov exchange D", "Fedorov exchange V"):
        picked = problem.select(7.5, rule, cost=cost)
        assert cost[problem.positions(picked.chosen)].sum() <= 7.5 + 1e-9
        assert (
            picked.gains.sum() >= problem.select(7.5, rule.replace("Fedorov exchange", "greedy"), cost=cost).gains.sum()
        )


@pytest.mark.parametrize("name", ["Bradley-Terry", "order effect", "Davidson"])
@pytest.mark.parametrize("budget", [1, 4, 12])
def test_relaxation_bounds_every_batch(name: str, budget: int, case: Any) -> None:
    problem = case(name)
    solved = relaxation(problem.items, problem.posterior, budget, candidates=problem.candidates, steps=400)
    assert solved.weights.min() >= 0
    assert solved.weights.max() <= 1 + 1e-12
    assert solved.weights.sum() == pytest.approx(budget)
    before = np.linalg.inv(problem.covariance)
    after = before + sum(w * v * np.outer(d, d) for w, v, d in zip(solved.weights, problem.v, problem.d, strict=True))
    assert solved.value == pytest.approx(np.linalg.slogdet(after)[1] - np.linalg.slogdet(before)[1], rel=1e-6)
    gradient = np.array([v * d @ np.linalg.inv(after) @ d for v, d in zip(problem.v, problem.d, strict=True)])
    gap = np.sort(gradient)[::-1][:budget].sum() - gradient @ solved.weights
    assert solved.gap == pytest.approx(max(gap, 0.0), rel=1e-5, abs=1e-9)
    best = max(value(problem, batch, "D") for batch in itertools.combinations(range(12), budget))
    assert best <= solved.bound * (1 + 1e-9)
    assert solved.bound <= solved.value * 1.006
    assert solved.value <= solved.bound


def test_gap_of_a_batch_is_between_its_value_and_the_best(case: Any) -> None:
    problem = case(m=28)
    best = max(value(problem, batch, "D") for batch in itertools.combinations(range(28), 3))
    for criterion in ("greedy D", "random", "max difference"):
        picked = problem.select(3, criterion)
        certificate = optimality_gap(picked, problem.items, problem.posterior, candidates=problem.candidates)
        expected = value(problem, problem.positions(picked.chosen), "D")
        assert certificate.value == pytest.approx(expected, rel=1e-6)
        assert expected <= best <= certificate.bound * (1 + 1e-9)
        assert certificate.efficiency == pytest.approx(certificate.value / certificate.bound)
        assert certificate.efficiency <= expected / best + 1e-9
    again = optimality_gap(picked.chosen, problem.items, problem.posterior, candidates=problem.candidates)
    assert again == certificate


def test_certificate_finds_the_candidates_again(case: Any) -> None:
    """Drawn candidates by their key; other candidates are refused."""
    problem = case(n=30, m=28)
    picked = select_pairs(problem.items, problem.posterior, 5, candidates=50, key=3, criterion="greedy D")
    assert 0.8 < optimality_gap(picked, problem.items, problem.posterior, candidates=50, key=3).efficiency <= 1
    with pytest.raises(ValueError, match="among the candidates"):
        optimality_gap(picked, problem.items, problem.posterior, candidates=50, key=4)
    with pytest.raises(ValueError, match="one twice"):
        optimality_gap(picked.chosen[[0, 0]], problem.items, problem.posterior, candidates=50, key=3)
    with pytest.raises(ValueError, match="between 0 and the 435"):
        relaxation(problem.items, problem.posterior, 436, candidates="all")
    nothing = relaxation(problem.items, problem.posterior, 0, candidates="all")
    assert (nothing.value, nothing.bound, nothing.weights.sum()) == (0.0, 0.0, 0.0)
    everything = candidate_pairs(problem.items, "all")
    assert optimality_gap(everything, problem.items, problem.posterior, candidates="all").efficiency == pytest.approx(
        1.0
    )


@pytest.mark.parametrize("criterion", ["BALD", "EPIG", "BatchBALD", "BatchBALD (joint entropy)", "greedy A"])
def test_sequential_batches_hold_no_duplicates(criterion: str, case: Any) -> None:
    """The two widest differences are all but one: whoever scores once takes both."""
    problem = case()
    x, y, z = np.eye(3)
    ends = np.array([1.6 * x, 1.6 * x + 1e-6, 1.5 * y, 1.4 * z])
    items, pairs = Items(np.concatenate([ends, -ends])), [[0, 4], [1, 5], [2, 6], [3, 7]]
    posterior = replace(problem.posterior, center=np.full(3, 1e-3), precision_factor=np.eye(3))

    def asked(rule: str) -> set[int]:
        return {pair[0] for pair in select_pairs(items, posterior, 2, candidates=pairs, criterion=rule).chosen.tolist()}

    counterpart = {"BALD": "BALD (top-k)", "EPIG": "EPIG (top-k)"}.get(criterion, "BALD (draws)")
    assert asked(counterpart) == {0, 1}
    assert len(asked(criterion) & {0, 1}) == 1
