"""Every selection rule against brute force: matrices formed pair by pair, inverted anew after each pick.

The oracle below takes only the criteria and `select_pairs` from tercet.designs. It follows the picks that were made and
asks of each: is its gain the brute-force gain, and is there no better candidate left? Exact ties then do no harm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from tercet.designs import CRITERIA, Criterion, select_pairs
from tercet.designs.criteria import DOptimality, Greedy, LazyGreedy, PosteriorVariance, TopK, VOptimality
from tercet.designs.pairs import PastAwareD, PublishedD
from tercet.inference import laplace
from tercet.inference.posteriors import GaussianPosterior, SampledPosterior
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import SiteGaussian
from tercet.models import AbilityHead, BradleyTerry, Comparisons, Davidson, Items, LinearHead, Thurstone

RTOL = 1e-6  # posterior sds stay below 1.2, where 32 quadrature nodes are good to 1e-8
TIE = 0.8  # Davidson's nu
MODELS = {
    "linear": BradleyTerry(LinearHead(1.0)),
    "order effect": BradleyTerry(LinearHead(1.0), order_effect=True),
    "abilities": BradleyTerry(AbilityHead(1.0)),
    "abilities, order effect": Thurstone(AbilityHead(1.0), order_effect=True),
    "Thurstone": Thurstone(LinearHead(1.0)),
    "Davidson": Davidson(LinearHead(1.0)),
}
TARGETS = ("items", "pairs", "other items", "in-prompt")
ONE_SHOT = tuple(
    Criterion(repr(each), each, TopK())
    for each in (PublishedD(), PublishedD(ridge=0.1), PastAwareD(), PosteriorVariance())
)
GREEDY = (
    CRITERIA["greedy D"],
    CRITERIA["greedy V"],
    Criterion("plug-in D", DOptimality(plug_in=True), LazyGreedy()),
    Criterion("plug-in V", VOptimality(plug_in=True), Greedy()),
)


def information(model: Any, r: float) -> float:
    """Fisher information of one answer about its logit, from the probabilities of the answers."""
    if isinstance(model, Davidson):
        second, tie, first = math.exp(-r / 2), TIE, math.exp(r / 2)
        total = second + tie + first
        return 0.25 * ((1 - tie / total) - ((first - second) / total) ** 2)
    if isinstance(model, Thurstone):
        first, second = (0.5 * math.erfc(sign * r / math.sqrt(2)) for sign in (-1, 1))
        return math.exp(-r * r) / (2 * math.pi) / (first * second)
    return 1 / (1 + math.exp(-r)) / (1 + math.exp(r))


def average_information(model: Any, mean: float, sd: float) -> float:
    """Its average over r ~ Normal(mean, sd^2), by adaptive quadrature."""

    def integrand(z: float) -> float:
        return information(model, mean + sd * z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    return scipy.integrate.quad(integrand, -7, 7, epsabs=1e-10, epsrel=1e-9)[0]


@dataclass(frozen=True, eq=False)
class Problem:
    """A tiny pool under a posterior with known moments, all differences written out."""

    model: Any
    items: Items
    posterior: Any
    mean: np.ndarray
    covariance: np.ndarray
    candidates: np.ndarray
    asked: np.ndarray
    targets: dict[str, Any]

    def difference(self, first: int, second: int) -> np.ndarray:
        rows = np.eye(len(self.items)) if isinstance(self.model.head, AbilityHead) else self.items.features
        d = rows[first] - rows[second]
        return np.append(d, 1.0) if self.model.order_effect else d

    @cached_property
    def d(self) -> np.ndarray:
        return np.array([self.difference(i, j) for i, j in self.candidates])

    @cached_property
    def q(self) -> np.ndarray:
        return np.array([d @ self.covariance @ d for d in self.d])

    @cached_property
    def v(self) -> np.ndarray:
        return np.array([information(self.model, d @ self.mean) for d in self.d])

    @cached_property
    def v_average(self) -> np.ndarray:
        moments = zip(self.d @ self.mean, np.sqrt(self.q), strict=True)
        return np.array([average_information(self.model, m, s) for m, s in moments])

    def published_matrix(self, ridge: float, past: bool) -> np.ndarray:
        total = ridge * np.eye(len(self.mean))
        for v, d in zip(self.v, self.d, strict=True):
            total += v * np.outer(d, d)
        for i, j in self.asked if past else ():
            d = self.difference(i, j)
            total += information(self.model, d @ self.mean) * np.outer(d, d)
        return total

    def target_matrix(self, name: str) -> np.ndarray:
        """Average of d d' over the target pairs, both ways round, listed one by one."""
        everything = list(itertools.permutations(range(len(self.items)), 2))
        if name == "other items":
            rows = self.targets[name].features
            differences = [a - b for a, b in itertools.permutations(rows, 2)]
        else:
            if name == "pairs":
                listed = self.targets[name].tolist()
            elif name == "in-prompt":
                listed = [(i, j) for i, j in everything if self.items.prompt[i] == self.items.prompt[j]]
            else:
                listed = everything
            size = len(self.mean) - self.model.order_effect
            differences = [self.difference(i, j)[:size] for i, j in listed]
        moment = np.mean([np.outer(d, d) for d in differences], axis=0)
        return np.pad(moment, (0, int(self.model.order_effect)))

    def positions(self, chosen: np.ndarray) -> list[int]:
        position = {tuple(pair): k for k, pair in enumerate(self.candidates.tolist())}
        return [position[tuple(pair)] for pair in chosen.tolist()]

    def select(self, budget: float, criterion: str | Criterion, target: str = "items", **options: Any) -> Any:
        return select_pairs(
            self.items, self.posterior, budget,
            candidates=self.candidates, criterion=criterion, target=self.targets[target], **options,
        )  # fmt: skip


def build(name: str, rng: np.random.Generator, kind: str = "gaussian", n: int = 9, d: int = 4, m: int = 24) -> Problem:
    """A problem with a random posterior of the named model; kind "draws": as Markov chains with these moments."""
    model = MODELS[name]
    prompt = np.concatenate([[0, 0, 0, 1, 1, 2], rng.integers(3, size=n - 6)])
    items = Items(rng.standard_normal((n, d)) + 3.0, prompt=prompt)
    listed = np.array(list(itertools.combinations(range(n), 2)))
    candidates = listed[rng.permutation(len(listed))[:m]]
    candidates = np.where(rng.random((m, 1)) < 0.5, candidates, candidates[:, ::-1])
    asked = listed[rng.integers(len(listed), size=6)]
    answers = Comparisons(asked[:, 0], asked[:, 1], rng.integers(2, size=6))
    head = n if isinstance(model.head, AbilityHead) else d
    size = head + model.order_effect
    factor = np.tril(rng.uniform(-0.6, 0.6, (size, size)), -1) + np.diag(rng.uniform(3.0, 5.0, size))
    mean = rng.normal(0, 0.6, size)
    layout = ((model.head.site, head),) + ((("order_effect", 0),) * model.order_effect)
    context = Context(model, (items, answers), {}, x64=True)
    if isinstance(model, Davidson) or kind == "draws":
        posterior: Any = as_draws(model, context, mean, np.linalg.inv(factor @ factor.T), head, rng)
    else:
        posterior = SiteGaussian("laplace", context, {"converged": True}, mean, factor, layout)
    targets = {
        "items": None,
        "pairs": listed[rng.integers(len(listed), size=5)],
        "other items": Items(rng.standard_normal((4, d))),
        "in-prompt": "in-prompt",
    }
    return Problem(model, items, posterior, mean, np.linalg.inv(factor @ factor.T), candidates, asked, targets)


def as_draws(
    model: Any, context: Context, mean: np.ndarray, covariance: np.ndarray, head: int, rng: np.random.Generator
) -> SampledPosterior:
    """Two chains whose sample mean and covariance are exactly these."""
    noise = rng.standard_normal((200, len(mean)))
    noise -= noise.mean(axis=0)
    noise = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise, rowvar=False))).T
    draws = (mean + noise @ np.linalg.cholesky(covariance).T).reshape(2, 100, -1)
    samples = {model.head.site: draws[..., :head]}
    if model.order_effect:
        samples["order_effect"] = draws[..., head]
    if isinstance(model, Davidson):
        samples["tie_strength"] = np.tile([TIE - 0.1, TIE + 0.1], (2, 50))
    return SampledPosterior("nuts", context, {"converged": True}, samples, {})


def one_shot_scores(problem: Problem, criterion: Criterion) -> np.ndarray:
    objective = criterion.objective
    if isinstance(objective, PublishedD):
        matrix = problem.published_matrix(objective.ridge, isinstance(objective, PastAwareD))
        return np.array([v * d @ np.linalg.inv(matrix) @ d for v, d in zip(problem.v, problem.d, strict=True)])
    return problem.q


def greedy_gains(problem: Problem, criterion: Criterion, order: list[int], target: str) -> Iterator[np.ndarray]:
    """Gains [m] before each pick, everything inverted and factored anew."""
    objective: Any = criterion.objective
    v = problem.v if objective.plug_in else problem.v_average
    moment = problem.target_matrix(target)
    precision = np.linalg.inv(problem.covariance)

    def value(matrix: np.ndarray) -> float:
        if isinstance(objective, DOptimality):
            return np.linalg.slogdet(matrix)[1]
        return -np.trace(moment @ np.linalg.inv(matrix))

    for index in order:
        updated = [precision + w * np.outer(d, d) for w, d in zip(v, problem.d, strict=True)]
        yield np.array([value(matrix) - value(precision) for matrix in updated])
        precision = updated[index]


def check_picks(problem: Problem, picked: Any, gains_before: Any, cost: np.ndarray | None = None) -> None:
    """Gains are the oracle's, and nothing that was left would have been worth more."""
    order, worth_of = problem.positions(picked.chosen), 1.0 if cost is None else 1.0 / cost
    assert len(set(order)) == len(order) > 0
    left = np.ones(len(problem.candidates), dtype=bool)
    for index, gain, gains in zip(order, picked.gains, gains_before, strict=True):
        np.testing.assert_allclose(gain, gains[index], rtol=RTOL, atol=1e-12)
        worth = gains * worth_of
        assert worth[index] >= worth[left].max() * (1 - RTOL)
        left[index] = False


@pytest.mark.parametrize("criterion", ONE_SHOT, ids=lambda c: c.name)
@pytest.mark.parametrize("name", MODELS)
def test_rule_that_scores_once_takes_the_best_of_brute_force(name: str, criterion: Criterion, rng: Any) -> None:
    problem = build(name, rng)
    picked = problem.select(8, criterion)
    scores = one_shot_scores(problem, criterion)
    check_picks(problem, picked, itertools.repeat(scores, 8))
    np.testing.assert_allclose(picked.expected_random, 8 * scores.mean(), rtol=RTOL)


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_published_d_is_the_gradient_of_logdet_in_the_weights(name: str, past: bool, rng: Any) -> None:
    problem = build(name, rng)
    before = problem.published_matrix(1e-2, past) - problem.published_matrix(0.0, past=False)  # ridge, past pairs
    rows, v = jnp.asarray(problem.d), jnp.asarray(problem.v)

    def logdet(weights: Any) -> Any:
        return jnp.linalg.slogdet(before + (rows * (weights * v)[:, None]).T @ rows)[1]

    gradient = np.asarray(jax.grad(logdet)(jnp.ones(len(v))))
    objective = PastAwareD(ridge=1e-2) if past else PublishedD(ridge=1e-2)
    picked = problem.select(len(v), Criterion("D", objective, TopK()))
    np.testing.assert_allclose(picked.gains, gradient[problem.positions(picked.chosen)], rtol=1e-7)


@pytest.mark.parametrize("criterion", GREEDY, ids=lambda c: c.name)
@pytest.mark.parametrize("name", MODELS)
def test_greedy_rule_equals_refitting_every_candidate_at_every_pick(name: str, criterion: Any, rng: Any) -> None:
    problem = build(name, rng)
    picked = problem.select(8, criterion)
    check_picks(problem, picked, greedy_gains(problem, criterion, problem.positions(picked.chosen), "items"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["linear", "order effect", "abilities", "abilities, order effect"])
def test_greedy_v_for_every_target_equals_brute_force(name: str, target: str, rng: Any) -> None:
    problem = build(name, rng)
    if target == "other items" and name.startswith("abilities"):
        with pytest.raises(ValueError, match="target"):
            problem.select(3, "greedy V", target)
        return
    picked = problem.select(6, "greedy V", target)
    check_picks(problem, picked, greedy_gains(problem, CRITERIA["greedy V"], problem.positions(picked.chosen), target))
    elsewhere = problem.select(6, "greedy V", "pairs" if target != "pairs" else "items")
    assert not np.allclose(picked.gains, elsewhere.gains)


@pytest.mark.parametrize("criterion", [*ONE_SHOT, *GREEDY], ids=lambda c: c.name)
@pytest.mark.parametrize("name", ["linear", "order effect", "abilities"])
def test_chains_with_the_same_moments_give_the_same_picks(name: str, criterion: Criterion, seed: int) -> None:
    gaussian, chains = (build(name, np.random.default_rng(seed), kind) for kind in ("gaussian", "draws"))
    assert isinstance(chains.posterior, SampledPosterior)
    assert isinstance(gaussian.posterior, GaussianPosterior)
    one, other = gaussian.select(8, criterion), chains.select(8, criterion)
    np.testing.assert_array_equal(one.chosen, other.chosen)
    np.testing.assert_allclose(one.gains, other.gains, rtol=1e-8)


@pytest.mark.parametrize("criterion", [ONE_SHOT[3], ONE_SHOT[0], *GREEDY[:2]], ids=lambda c: c.name)
def test_cost_buys_the_best_gain_per_cost_within_the_budget(criterion: Any, rng: Any) -> None:
    problem = build("linear", rng)
    cost = rng.uniform(0.5, 4.0, len(problem.candidates))
    picked = problem.select(12.5, criterion, cost=cost)
    order = problem.positions(picked.chosen)
    spent = cost[order].sum()
    assert spent <= 12.5 + 1e-9
    affordable = [cost[:, None] <= left + 1e-9 for left in 12.5 - np.cumsum([0.0, *cost[order][:-1]])]
    gains = (
        greedy_gains(problem, criterion, order, "items")
        if criterion.search.sequential
        else itertools.repeat(one_shot_scores(problem, criterion), len(order))
    )
    masked = (np.where(can[:, 0], g, -np.inf) for g, can in zip(gains, affordable, strict=True))
    check_picks(problem, picked, masked, cost)
    assert np.delete(cost, order).min() > 12.5 - spent  # nothing affordable was left


def test_equal_costs_are_no_costs(rng: Any) -> None:
    problem = build("linear", rng)
    priced = problem.select(10.0, "greedy V", cost=np.full(len(problem.candidates), 2.0))
    np.testing.assert_array_equal(priced.chosen, problem.select(5, "greedy V").chosen)


@pytest.mark.parametrize("criterion", GREEDY[:2], ids=lambda c: c.name)
def test_expected_random_is_the_average_over_all_random_batches(criterion: Any, rng: Any) -> None:
    """A mean of 20 batches a call, 10 calls: within 5 of its own standard errors (false alarm below 1e-6)."""
    problem = build("linear", rng, m=8)
    totals = [
        sum(g[i] for i, g in zip(batch, greedy_gains(problem, criterion, list(batch), "items"), strict=True))
        for batch in itertools.combinations(range(8), 3)
    ]
    reported = np.mean([problem.select(3, criterion, key=key).expected_random for key in range(10)])
    assert abs(reported - np.mean(totals)) < 5 * np.std(totals) / np.sqrt(10 * 20)
    whole = problem.select(8, criterion)  # every batch is the whole pool, in another order
    np.testing.assert_allclose(whole.expected_random, whole.gains.sum(), rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "abilities, order effect", "Davidson"])
def test_gains_of_greedy_d_fall_and_greedy_v_beats_random_batches(name: str, rng: Any) -> None:
    problem = build(name, rng)
    gains = problem.select(24, "greedy D").gains
    assert (np.diff(gains) <= 1e-12).all()
    picked = problem.select(6, "greedy V")
    assert picked.gains.sum() > picked.expected_random > 0


@pytest.mark.parametrize("name", ["linear", "order effect", pytest.param("Davidson", marks=pytest.mark.slow)])
def test_fitted_posterior_goes_the_same_way(name: str, rng: Any) -> None:
    """The same through `laplace`: its mean and the covariance of its own draws replace the hand-made ones."""
    problem = build(name, rng)
    fit = laplace(problem.model, problem.items, problem.posterior.context.args[1])
    mean = fit.mean()
    sites = ["weights", "order_effect"] if problem.model.order_effect else ["weights"]
    center = np.concatenate([np.atleast_1d(mean[site]) for site in sites])
    precision = fit.precision_factor @ fit.precision_factor.T
    size = len(center)
    if isinstance(problem.model, Davidson):
        z = np.asarray(fit.unravel(np.arange(size + 1.0))["weights"]).astype(int)
        covariance = np.linalg.inv(precision)[np.ix_(z, z)]
    else:
        covariance = np.linalg.inv(precision)
    fitted = replace(problem, posterior=fit, mean=center, covariance=covariance)
    picked = fitted.select(6, "posterior variance")
    check_picks(fitted, picked, itertools.repeat(fitted.q, 6))


def test_every_criterion_is_known_by_its_name(rng: Any) -> None:
    problem = build("linear", rng)
    assert set(CRITERIA) == {
        "random", "max difference", "entropy", "predictive entropy", "coreset", "XtX", "D-optimal (published)",
        "D-optimal (past-aware)", "posterior variance", "greedy D", "greedy A", "greedy V", "Fedorov exchange D",
        "Fedorov exchange V", "BatchBALD", "BatchBALD (joint entropy)", "BALD", "BALD (top-k)", "BALD (closed form)",
        "BALD (draws)", "EPIG", "EPIG (top-k)", "EPIG (draws)",
    }  # fmt: skip
    for name, criterion in CRITERIA.items():
        np.testing.assert_array_equal(problem.select(5, name).chosen, problem.select(5, criterion).chosen)
    np.testing.assert_array_equal(
        problem.select(5, "greedy V").chosen,
        select_pairs(problem.items, problem.posterior, 5, candidates=problem.candidates).chosen,
    )
