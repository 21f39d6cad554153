"""The learned prior scale of linear forms against Brent's method on Laplace evidence times hyperprior."""

import math

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit, ndtr

from tercet.inference import laplace
from tercet.inference.posteriors.options import LaplaceOptions
from tercet.inference.preferences import scale_search
from tercet.inference.preferences.prior_scale import linear_evidence, log_hyperprior
from tercet.inference.preferences.scale_search import search_scale
from tercet.models import (
    AbilityHead,
    BradleyTerry,
    Comparisons,
    Davidson,
    Graded,
    Items,
    LinearHead,
    RaoKupper,
    Thurstone,
)

OPTIONS = LaplaceOptions()
LOW, HIGH = (math.log(bound) for bound in OPTIONS.prior_sd_range)
SETS = (
    "linear", "abilities", "probit", "order", "probit abilities and order", "soft", "separable", "undecided",
    "ties, threshold", "ties, abilities", "grades, order",
)  # fmt: skip


def random_form(rng, what, answers):
    """A linear form under scale 1: random items, features and answers; weights at random, true scale .1 to 7."""
    n, dim = int(rng.integers(4, 40)), int(rng.integers(1, 60))
    items = Items(rng.normal(size=(n, dim)) * (1.0 + np.arange(dim)) ** -rng.uniform(0, 1))
    per_item, probit, ordered = "abilities" in what, "probit" in what, "order" in what
    reward = rng.normal(size=n) if per_item else items.features @ rng.normal(size=dim)
    reward *= math.exp(rng.normal()) / (math.sqrt(2.0) * reward.std())
    first = rng.integers(n, size=answers)
    second = (first + rng.integers(1, n, size=answers)) % n
    logit = reward[first] - reward[second] + 0.7 * ordered
    chance = ndtr(logit) if probit else expit(logit)
    outcome = {
        "soft": rng.beta(3.0 * chance + 0.1, 3.1 - 3.0 * chance),
        "separable": 1.0 * (logit > 0),
        "undecided": np.full(answers, 0.5),
        "grades, order": np.clip(np.round(2.0 + logit + rng.logistic(size=answers)), 0.0, 4.0) / 4.0,
    }.get(what, 1.0 * (rng.random(answers) < chance))
    if "ties" in what:
        outcome[rng.random(answers) < 0.3] = 0.5
    weight = rng.random(answers) + 0.5 if rng.random() < 0.2 else None
    head = AbilityHead(1.0) if per_item else LinearHead(1.0)
    kinds = {"ties, threshold": RaoKupper, "ties, abilities": Davidson, "grades, order": Graded}
    model = kinds.get(what, Thurstone if probit else BradleyTerry)(head, order_effect=ordered)
    return model.linear_form(items, Comparisons(first, second, outcome, weight))


def maximum(form, low=LOW, high=HIGH):
    """The log scale at the maximum of the Laplace evidence at the mode of each scale times the prior of the scale.

    By exact Newton on a grid, then by Brent's method around its best point.
    """
    evidence, _ = linear_evidence(form, OPTIONS)

    def objective(log_sd):
        return evidence(log_sd) + log_hyperprior(log_sd)

    grid = np.linspace(low, high, 12)
    best = int(np.argmax([objective(log_sd) for log_sd in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, 11)]
    found = scipy.optimize.minimize_scalar(
        lambda log_sd: -objective(log_sd), bounds=around, method="bounded", options={"xatol": 1e-4}
    )
    return float(found.x)


def check(form):
    assert search_scale(form, OPTIONS).log_sd == pytest.approx(maximum(form), abs=1e-3)


@pytest.mark.parametrize("what", SETS)
def test_scale_is_the_maximum_of_the_objective(what, rng):
    check(random_form(rng, what, 60))


@pytest.mark.slow
@pytest.mark.parametrize("what", SETS)
@pytest.mark.parametrize("answers", [10, 30, 80, 250, 700, 2000])
def test_scale_is_the_maximum_of_the_objective_on_many_sets(what, answers, rng):
    """With two sets each, 132 in all."""
    for _ in range(2):
        check(random_form(rng, what, answers))


@pytest.mark.parametrize(("low", "high"), [(0.01, 0.05), (20.0, 30.0)])
def test_a_maximum_outside_the_range_gives_its_bound(low, high, rng):
    form = random_form(rng, "linear", 300)
    found = search_scale(form, LaplaceOptions(prior_sd_range=(low, high)))
    assert math.exp(found.log_sd) == pytest.approx(low if low > 1.0 else high, rel=1e-3)


def test_in_32_bit_where_there_are_many_parameters(rng, monkeypatch):
    """First Hessians in 32 bit from FLOAT32_SIZE parameters on: here in every set that has as many."""
    items = Items(rng.normal(size=(240, 530)))
    first, second = np.arange(120), np.arange(120, 240)
    reward = items.features @ rng.normal(size=530) / 16.0
    outcome = 1.0 * (rng.random(120) < expit(reward[first] - reward[second]))
    form = BradleyTerry(LinearHead(1.0)).linear_form(items, Comparisons(first, second, outcome))
    found = search_scale(form, OPTIONS)
    assert found.log_sd == pytest.approx(maximum(form, found.log_sd - 0.1, found.log_sd + 0.1), abs=1e-3)


def test_where_the_search_gives_up_the_scale_is_found_by_brent(rng, monkeypatch):
    items = Items(rng.normal(size=(9, 2)))
    first, second = np.triu_indices(9, 1)
    answers = Comparisons(first, second, 1.0 * (rng.random(36) < 0.5))
    searched = laplace(BradleyTerry(LinearHead()), items, answers)
    monkeypatch.setattr(scale_search, "SCALES", 0)
    fallen_back = laplace(BradleyTerry(LinearHead()), items, answers)
    assert np.log(fallen_back.diagnostics["prior_sd"]) == pytest.approx(
        np.log(searched.diagnostics["prior_sd"]), abs=1e-2
    )
