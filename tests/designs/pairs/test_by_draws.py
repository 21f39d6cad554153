"""Designs by posterior draws, for networks, ties, grades and annotators, and designs through a network's last layer."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tercet.datasets import simulated_preferences
from tercet.designs import CRITERIA, Criterion, PairCandidates, candidate_pairs, select_pairs
from tercet.designs.criteria import TopK
from tercet.designs.pairs import BALDByDraws, EPIGByDraws
from tercet.inference import LaplaceOptions, TrainingOptions, laplace, reward_difference
from tercet.inference.posteriors import SampledPosterior
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import SiteGaussian
from tercet.models import AbilityHead, BradleyTerry, Comparisons, Davidson, Items, LinearHead, MLPHead, project

NAMES = ["Bradley-Terry", "order effect", "Thurstone", "Davidson", "Graded"]
TARGETS = [[0, 3], [5, 1], [2, 6]]
DRAWS = ["BALD (draws)", "EPIG (draws)", "BatchBALD (joint entropy)"]


def bald(tables: np.ndarray, shannon: Any) -> list[float]:
    """Information of an answer, from its probabilities [m, s, K] under every draw."""
    return [shannon(table.mean(axis=0)) - np.mean([shannon(p) for p in table]) for table in tables]


def epig(tables: np.ndarray, targets: np.ndarray) -> list[float]:
    gains = []
    for own in tables:
        total = 0.0
        for other in targets:
            joint = np.mean([np.outer(p, q) for p, q in zip(own, other, strict=True)], axis=0)
            for a, b in itertools.product(range(len(joint)), repeat=2):
                total += joint[a, b] * math.log(joint[a, b] / (joint[a].sum() * joint[:, b].sum()))
        gains.append(total / len(targets))
    return gains


@pytest.mark.parametrize("name", NAMES)
def test_bald_and_epig_by_draws_are_averages_over_them(
    name: str, case: Any, answer_probabilities: Any, shannon: Any
) -> None:
    problem = case(name, s=40)
    tables = np.array([[answer_probabilities(problem.model, d @ w) for w in problem.draws] for d in problem.d])
    rows = [problem.target_row(pair) for pair in TARGETS]
    targets = np.array([[answer_probabilities(problem.model, t @ w) for w in problem.draws] for t in rows])
    np.testing.assert_allclose(problem.all_gains("BALD (draws)"), bald(tables, shannon), rtol=1e-7)
    np.testing.assert_allclose(problem.all_gains("EPIG (draws)", target=TARGETS), epig(tables, targets), rtol=1e-6)


@pytest.mark.parametrize("name", ["Bradley-Terry", "Davidson", "Graded"])
def test_draws_agree_with_quadrature(name: str, case: Any) -> None:
    """4,000 draws of a Gaussian: information within 3 % of its largest (a tenth of a nat or so)."""
    problem = case(name, s=4000)
    for one, other in (("BALD (top-k)", BALDByDraws(4000)), ("EPIG (top-k)", EPIGByDraws(4000))):
        exact, drawn = (problem.all_gains(rule, target=TARGETS) for rule in (one, Criterion("by draws", other, TopK())))
        np.testing.assert_allclose(drawn, exact, atol=0.1 * exact.max())
        assert np.corrcoef(drawn, exact)[0, 1] > 0.98


def test_only_so_many_draws_are_used(case: Any, answer_probabilities: Any, shannon: Any) -> None:
    problem = case(s=40)
    few, all_of_them = (problem.all_gains(Criterion("BALD", BALDByDraws(draws=draws), TopK())) for draws in (10, 40))
    assert not np.allclose(few, all_of_them)
    kept = problem.posterior.draws(10, key=0)["weights"]
    tables = np.array([[answer_probabilities(problem.model, d @ w) for w in kept] for d in problem.d])
    np.testing.assert_allclose(few, bald(tables, shannon), rtol=1e-7)


def annotated(rng: np.random.Generator, s: int = 30, order: bool = False) -> tuple[Any, np.ndarray, np.ndarray, Any]:
    """A posterior of three annotators, of precision about 0.1, 1 and 3."""
    items = Items(rng.standard_normal((7, 3)), ids=list("abcdefg"))
    answers = Comparisons([0, 1, 2], [1, 2, 3], [1, 0, 1], annotator=[0, 1, 2], annotator_ids=["zoe", "yan", "xi"])
    w, precision = rng.normal(0, 0.7, (s, 3)), np.array([0.1, 1.0, 3.0]) * np.exp(rng.normal(0, 0.2, (s, 3)))
    samples = {"weights": w[None], "precision": precision[None]}
    if order:
        samples["order_effect"] = rng.normal(0.4, 0.2, (1, s))
    model = BradleyTerry(annotators=True, order_effect=order)
    posterior = SampledPosterior("nuts", Context(model, (items, answers), {}), {"converged": True}, samples, {})
    return posterior, w, precision, items


@pytest.mark.parametrize("order", [False, True])
def test_who_is_asked_counts_with_their_own_precision(
    order: bool, rng: Any, answer_probabilities: Any, shannon: Any
) -> None:
    posterior, w, precision, items = annotated(rng, order=order)
    pairs = candidate_pairs(items, "all")
    effect = posterior.samples["order_effect"][0] if order else np.zeros(len(w))
    plain = BradleyTerry()
    gains = {}
    for who in range(3):
        tables = [
            [
                answer_probabilities(
                    plain, precision[s, who] * ((items.features[i] - items.features[j]) @ w[s] + effect[s])
                )
                for s in range(30)
            ]
            for i, j in pairs
        ]
        for pair, gain in zip(map(tuple, pairs.tolist()), bald(np.array(tables), shannon), strict=True):
            gains[(*pair, who)] = gain
    picked = select_pairs(items, posterior, 63, candidates="all", criterion="BALD (draws)", annotators="all")
    chosen = [(*pair, int(who)) for pair, who in zip(map(tuple, picked.chosen.tolist()), picked.annotator, strict=True)]
    assert len(set(chosen)) == 63
    np.testing.assert_allclose(picked.gains, [gains[key] for key in chosen], rtol=1e-6)
    assert (np.diff(picked.gains) <= 1e-12).all()
    assert picked.table["annotator"].tolist() == [["zoe", "yan", "xi"][who] for _, _, who in chosen]
    assert picked.table["first"].tolist() == ["abcdefg"[i] for i, _, _ in chosen]
    assert set(picked.annotator[:10]) == {2} or gains[chosen[0]] > gains[chosen[-1]]


@pytest.mark.parametrize("criterion", DRAWS)
def test_the_sharp_annotator_is_asked_before_the_one_who_guesses(criterion: str, rng: Any) -> None:
    posterior, _, _, items = annotated(rng, s=400)
    picked = select_pairs(items, posterior, 6, candidates="all", criterion=criterion, annotators="all")
    assert picked.annotator is not None
    assert 0 not in picked.annotator
    only = select_pairs(items, posterior, 6, candidates="all", criterion=criterion, annotators=["yan", "zoe"])
    assert only.annotator is not None
    assert set(only.annotator) <= {0, 1}
    assert select_pairs(items, posterior, 6, candidates="all", criterion=criterion).annotator is None


def test_nobody_in_particular_has_precision_one(rng: Any, answer_probabilities: Any, shannon: Any) -> None:
    posterior, w, _, items = annotated(rng)
    pairs = candidate_pairs(items, "all")
    tables = [
        [answer_probabilities(BradleyTerry(), (items.features[i] - items.features[j]) @ x) for x in w] for i, j in pairs
    ]
    picked = select_pairs(items, posterior, 21, candidates="all", criterion="BALD (draws)")
    np.testing.assert_allclose(picked.gains, np.sort(bald(np.array(tables), shannon))[::-1], rtol=1e-7)
    assert "annotator" not in picked.table


def test_annotators_may_cost_differently(rng: Any) -> None:
    posterior, _, _, items = annotated(rng, s=200)
    pairs = candidate_pairs(items, "all")

    def asked(cost: Any, budget: float) -> Any:
        return select_pairs(
            items, posterior, budget, candidates=pairs, criterion="BALD (draws)", annotators="all", cost=cost
        ).annotator

    assert set(asked(np.ones(21), 6.0)) == {2}
    assert 2 not in asked(np.tile([1.0, 1.0, 1000.0], (21, 1)), 6.0)
    with pytest.raises(ValueError, match=r"shape \[21\] or \[21, 3\]"):
        asked(np.ones((21, 2)), 6.0)


def test_mistakes_about_annotators_are_named(rng: Any, case: Any) -> None:
    posterior, _, _, items = annotated(rng)
    with pytest.raises(ValueError, match="works by posterior draws: 'BALD"):
        select_pairs(items, posterior, 2, candidates="all", annotators="all")
    for wrong in (["nobody"], [], ["zoe", "zoe"]):
        with pytest.raises(ValueError, match=r"annotators must be .* 3 of the fit \('zoe', 'yan', 'xi'\)"):
            select_pairs(items, posterior, 2, candidates="all", criterion="BALD (draws)", annotators=wrong)
    with pytest.raises(ValueError, match="annotators=True"):
        case().select(2, "BALD (draws)", annotators="all")
    bare = replace(posterior, context=Context(posterior.context.model, (items,), {}))
    everybody = PairCandidates(items, candidate_pairs(items, "all")).asking(bare, "all")
    assert everybody.annotator_ids == (0, 1, 2)


@pytest.fixture
def members(rng: np.random.Generator) -> Any:
    """Six networks that were never trained, as an ensemble would hand them over."""
    items = project(Items(rng.standard_normal((9, 4)), prompt=np.arange(9) // 3), None)
    model = BradleyTerry(MLPHead(1.0, widths=(5,)), order_effect=True)
    samples = {
        "kernel_0": rng.normal(size=(1, 6, 4, 5)),
        "bias_0": rng.normal(size=(1, 6, 5)),
        "weights": rng.normal(size=(1, 6, 5)),
        "order_effect": rng.normal(size=(1, 6)),
    }
    answers = Comparisons([0, 1], [1, 2], [1, 0])
    posterior = SampledPosterior("ensemble", Context(model, (items, answers), {}), {"converged": True}, samples, {})
    rewards = []
    for k in range(6):
        hidden = np.maximum(items.features @ samples["kernel_0"][0, k] + samples["bias_0"][0, k], 0)
        rewards.append(hidden @ samples["weights"][0, k])
    return items, posterior, np.array(rewards), samples["order_effect"][0]


def test_networks_by_draws_equal_brute_force(members: Any, answer_probabilities: Any, shannon: Any) -> None:
    items, posterior, rewards, order = members
    pairs = candidate_pairs(items, "all")
    logit = rewards[:, pairs[:, 0]] - rewards[:, pairs[:, 1]] + order[:, None]
    tables = np.array([[answer_probabilities(BradleyTerry(), r) for r in column] for column in logit.T])
    picked = select_pairs(items, posterior, 36, candidates=pairs, criterion="BALD (draws)")
    np.testing.assert_allclose(picked.gains, np.sort(bald(tables, shannon))[::-1], rtol=1e-6)
    inside = [[i, j] for i, j in pairs.tolist() if i // 3 == j // 3]
    aim = np.array(
        [[answer_probabilities(BradleyTerry(), r) for r in rewards[:, i] - rewards[:, j]] for i, j in inside]
    )
    picked = select_pairs(items, posterior, 36, candidates=pairs, criterion="EPIG (draws)", target="in-prompt")
    np.testing.assert_allclose(picked.gains, np.sort(epig(tables, aim))[::-1], rtol=1e-6)


def test_target_items_of_a_network_go_by_draws(members: Any) -> None:
    """Target items are all that differs: the items themselves give what None does."""
    items, posterior, *_ = members

    def gains(criterion: str, target: Any) -> np.ndarray:
        return select_pairs(items, posterior, 9, candidates="all", criterion=criterion, target=target).gains

    np.testing.assert_allclose(gains("EPIG (draws)", items), gains("EPIG (draws)", None), rtol=1e-9)
    assert not np.allclose(gains("EPIG (draws)", items.take([0, 1])), gains("EPIG (draws)", None), rtol=1e-3)
    with pytest.raises(ValueError, match="target=Items needs a linear head or 'BALD"):
        gains("greedy V", items)


@pytest.mark.parametrize("objective", ["D", "V"])
def test_linear_criteria_of_networks_use_the_moments_of_the_rewards(members: Any, objective: str) -> None:
    """Rewards as a Gaussian with the members' covariance: a pick conditions it, and all are written out."""
    items, posterior, rewards, order = members
    pairs = candidate_pairs(items, "all")
    draws = np.column_stack([rewards - rewards.mean(axis=1, keepdims=True), order])
    incidence = np.zeros((len(pairs), 10))
    incidence[np.arange(36), pairs[:, 0]], incidence[np.arange(36), pairs[:, 1]], incidence[:, 9] = 1, -1, 1
    targets = incidence.copy()
    targets[:, 9] = 0
    mean, covariance = draws.mean(axis=0), np.cov(draws, rowvar=False)
    grid = np.linspace(-9, 9, 801)
    weights = np.exp(-(grid**2) / 2) / np.exp(-(grid**2) / 2).sum()

    def information(d: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-(d @ mean + math.sqrt(max(d @ covariance @ d, 0)) * grid)))
        return weights @ (p * (1 - p))

    v = np.array([information(d) for d in incidence])
    picked = select_pairs(items, posterior, 5, candidates=pairs, criterion=f"greedy {objective}")
    assert PairCandidates(items, pairs).pool(posterior, None).covariance.shape == (7, 7)  # members, not items
    position = {tuple(pair): k for k, pair in enumerate(pairs.tolist())}
    current, left = covariance, np.ones(len(pairs), dtype=bool)
    for pair, gain in zip(map(tuple, picked.chosen.tolist()), picked.gains, strict=True):
        gains = []
        for d, w in zip(incidence, v, strict=True):
            u, q = current @ d, d @ current @ d
            fall = np.mean([(t @ u) ** 2 for t in targets]) * w / (1 + w * q)
            gains.append(math.log1p(w * q) if objective == "D" else fall)
        assert gain == pytest.approx(gains[position[pair]], rel=1e-4)
        assert gain >= np.array(gains)[left].max() * (1 - 1e-4)
        left[position[pair]] = False
        d, w = incidence[position[pair]], v[position[pair]]
        current = current - w / (1 + w * (d @ current @ d)) * np.outer(current @ d, current @ d)
    assert picked.table["difference_sd"][0] == pytest.approx(
        math.sqrt(
            incidence[position[tuple(picked.chosen[0])]] @ covariance @ incidence[position[tuple(picked.chosen[0])]]
        )
    )


@pytest.mark.filterwarnings("ignore:training stopped")
@pytest.mark.parametrize("name", ["Bradley-Terry", pytest.param("Davidson", marks=pytest.mark.slow)])
def test_last_layer_of_a_network_is_designed_for_as_a_linear_head(name: str, case: Any, seed: int) -> None:
    """Through `laplace`: hidden features are written out from the kernels, and the oracles of linear heads apply."""
    data = simulated_preferences(40, 4, 120, key=seed)
    raw = Items(data.items.features)
    items = project(raw, None)
    model: Any = (Davidson if name == "Davidson" else BradleyTerry)(MLPHead(1.5, widths=(4,)))
    quick = LaplaceOptions(training=TrainingOptions(learning_rate=0.01, rounds=3, patience=1))
    fit = laplace(model, items, data.comparisons, options=quick)
    network = fit.context.projection
    hidden = np.maximum(items.features @ network.kernels[0] + network.biases[0], 0)
    of_head = np.asarray(fit.unravel(np.arange(float(len(fit.center))))["weights"]).astype(int)
    precision = fit.precision_factor @ fit.precision_factor.T
    candidates = candidate_pairs(items, "random", 15, seed)
    problem = replace(
        case(name), items=raw, posterior=fit, mean=fit.center[of_head], features=hidden, candidates=candidates,
        covariance=np.linalg.inv(precision)[np.ix_(of_head, of_head)],
    )  # fmt: skip
    np.testing.assert_allclose(problem.all_gains("max difference"), np.abs(problem.m), rtol=1e-6)
    np.testing.assert_allclose(problem.all_gains("posterior variance"), problem.q, rtol=1e-6)
    moments = reward_difference(fit, raw, candidates)
    np.testing.assert_allclose(moments.variance, problem.q, rtol=1e-6)
    if name == "Davidson":
        return  # its tie strength is learned; the linear oracles below know a fixed one
    information = [problem.information(*pair) for pair in zip(problem.m, problem.q, strict=True)]
    np.testing.assert_allclose(problem.all_gains("BALD (top-k)"), information, rtol=1e-4)
    expected = np.log1p(problem.v * problem.q)
    picked = problem.select(1, "greedy D")
    assert picked.gains[0] == pytest.approx(expected.max(), rel=1e-4)
    gains = [v * d @ problem.covariance @ problem.covariance @ d / (1 + v * q)
             for v, d, q in zip(problem.v, problem.d, problem.q, strict=True)]  # fmt: skip
    assert problem.select(1, "greedy A").gains[0] == pytest.approx(max(gains), rel=1e-4)


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name not in ("random", "coreset")])
@pytest.mark.parametrize("order", [False, True])
def test_abilities_are_items_with_a_feature_each(criterion: str, order: bool, rng: Any) -> None:
    """The same numbers, as abilities and as weights of an identity matrix, give the same gains by every rule."""
    size = 6 + order
    factor = np.tril(rng.uniform(-0.3, 0.3, (size, size)), -1) + np.diag(rng.uniform(1.5, 2.5, size))
    items, answers, mean = Items(np.eye(6)), Comparisons([0, 1], [1, 2], [1, 0]), rng.normal(0, 0.5, size)
    gains = []
    for head, site in ((AbilityHead(1.0), "ability"), (LinearHead(1.0), "weights")):
        layout = ((site, 6),) + (("order_effect", 0),) * order
        context = Context(BradleyTerry(head, order_effect=order), (items, answers), {}, x64=True)
        posterior = SiteGaussian("laplace", context, {"converged": True}, mean, factor, layout)
        gains.append(select_pairs(items, posterior, 5, candidates="all", criterion=criterion).gains)
    np.testing.assert_allclose(gains[0], gains[1], rtol=1e-6)
    assert (gains[0] > 0).all()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_nothing_left_to_ask_is_an_empty_selection(criterion: str, case: Any) -> None:
    problem = case()
    every = candidate_pairs(problem.items, "all")
    picked = select_pairs(problem.items, problem.posterior, 0, candidates="all", exclude=every, criterion=criterion)
    assert (picked.chosen.shape, picked.gains.shape, len(picked.table)) == ((0, 2), (0,), 0)
    with pytest.raises(ValueError, match="between 0 and the 0 candidates left"):
        select_pairs(problem.items, problem.posterior, 1, candidates="all", exclude=every, criterion=criterion)
