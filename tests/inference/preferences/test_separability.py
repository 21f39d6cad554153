"""Data that determine nothing, or too much: warnings and errors that say what it means."""

import math

import numpy as np
import pytest

from tercet.inference import LaplaceOptions, laplace
from tercet.models import AbilityHead, BradleyTerry, Comparisons, Items, LinearHead, Thurstone

FLAT = math.inf
each = pytest.mark.parametrize("family", [BradleyTerry, Thurstone])
CHAIN = Comparisons([0, 1, 2], [1, 2, 3], [1, 1, 1])  # 0 beats 1 beats 2 beats 3, nobody hits back


@each
def test_separable_abilities_without_a_prior_warn(family):
    """Ford's condition: no chain of wins leads back to the first item."""
    items = Items.named("abcd")
    with pytest.warns(UserWarning, match=r"separable: some items won, or lost.*infinite.*prior_sd=1.0"):
        fit = laplace(family(AbilityHead(FLAT)), items, CHAIN)
    assert fit.diagnostics["converged"] is False
    assert np.isfinite(fit.center).all()
    assert laplace(family(AbilityHead(1.0)), items, CHAIN).diagnostics["converged"]


@each
def test_separable_features_without_a_prior_warn(family):
    items = Items(np.array([[0.0], [1.0], [2.0], [3.0]]))
    with pytest.warns(UserWarning, match=r"separable: some outcomes are predicted with certainty"):
        fit = laplace(family(LinearHead(FLAT)), items, CHAIN)
    assert fit.diagnostics["converged"] is False


def test_ties_and_returned_wins_make_the_estimate_finite():
    """One tie closes the ring: no warning (warnings are errors here)."""
    items, tied = Items.named("abcd"), CHAIN.extend(Comparisons([0], [3], [0.5]))
    fit = laplace(BradleyTerry(AbilityHead(FLAT)), items, tied)
    assert fit.diagnostics["converged"]
    assert math.isnan(fit.diagnostics["log_evidence"])


@each
def test_disconnected_abilities_without_a_prior_are_refused(family):
    items = Items.named("abcde")
    apart = Comparisons([0, 1, 3, 4], [1, 0, 4, 3], [1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"3 components \(one of them holds 'c'\).*cannot be compared.*prior_sd"):
        laplace(family(AbilityHead(FLAT)), items, apart)
    assert laplace(family(AbilityHead(1.0)), items, apart).diagnostics["converged"]


def test_collinear_features_without_a_prior_are_refused_with_advice(rng):
    x = rng.normal(size=(10, 2))
    items = Items(np.column_stack([x, x.sum(1)]))
    first, second = np.triu_indices(10, 1)
    answers = Comparisons(first, second, rng.random(45))
    with pytest.raises(np.linalg.LinAlgError, match=r"not positive definite.*prior_sd=1.0.*collinear"):
        laplace(BradleyTerry(LinearHead(FLAT)), items, answers)
    assert laplace(BradleyTerry(LinearHead(1.0)), items, answers).diagnostics["converged"]


@pytest.mark.parametrize("prior_sd", [1.0, None, FLAT])
def test_constant_features_are_refused(prior_sd):
    with pytest.raises(ValueError, match="all items have the same features"):
        laplace(BradleyTerry(LinearHead(prior_sd)), Items(np.ones((4, 2))), CHAIN)


def test_data_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match=r"second\[2\] = 3 is out of range of 3 item"):
        laplace(BradleyTerry(LinearHead(1.0)), Items(np.eye(3)), CHAIN)
    with pytest.raises(ValueError, match="annotators=True needs"):
        laplace(BradleyTerry(LinearHead(1.0), annotators=True), Items(np.eye(4)), CHAIN)


def test_newton_that_is_stopped_says_so():
    with pytest.warns(UserWarning, match=r"Newton stopped after 1 steps.*raise max_steps"):
        fit = laplace(BradleyTerry(LinearHead(30.0)), Items(np.eye(4)), CHAIN, options=LaplaceOptions(max_steps=1))
    assert fit.diagnostics["converged"] is False


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_separable_data_with_a_wide_prior_converge(scale):
    """Damping: undamped Newton diverges here."""
    items = Items(scale * np.linspace(-3, 3, 12)[:, None] ** 3)
    first, second = np.triu_indices(12, 1)
    for family in (BradleyTerry, Thurstone):
        fit = laplace(family(LinearHead(300.0)), items, Comparisons(first, second, np.zeros(66)))
        assert fit.diagnostics["converged"]
