"""Rewards, differences, win probabilities, ability tables: brute force over draws, and closed formulas."""

import math

import numpy as np
import pytest
import scipy.integrate
from scipy.special import expit
from scipy.stats import norm

from tercet.datasets import american_league_1987
from tercet.inference import ability_table, laplace, reward, reward_difference, svi, win_probability
from tercet.models import (
    AbilityHead,
    BradleyTerry,
    Comparisons,
    Davidson,
    Items,
    LinearHead,
    Thurstone,
    project,
)

PAIRS = np.array([[0, 1], [1, 0], [2, 7], [5, 11]])


@pytest.mark.parametrize("head", [LinearHead(1.0), AbilityHead(1.0)], ids=str)
def test_moments_are_the_formulas(head, make_data):
    """Phi m and diag Phi S Phi'; a difference has the variance of the difference, not the sum of two."""
    items, answers = make_data()
    fit = laplace(BradleyTerry(head), items, answers)
    phi = np.eye(12) if isinstance(head, AbilityHead) else items.features
    covariance = phi @ fit.root @ fit.root.T @ phi.T
    rewards, gaps = reward(fit, items), reward_difference(fit, items, PAIRS)
    np.testing.assert_allclose(rewards.mean, phi @ fit.center, atol=1e-10)
    np.testing.assert_allclose(rewards.variance, np.diag(covariance), rtol=1e-9)
    np.testing.assert_allclose(rewards.sd**2, rewards.variance)
    i, j = PAIRS.T
    expected = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]
    np.testing.assert_allclose(gaps.mean, rewards.mean[i] - rewards.mean[j], atol=1e-10)
    np.testing.assert_allclose(gaps.variance, expected, rtol=1e-9)


@pytest.mark.parametrize("model", [BradleyTerry, Thurstone])
@pytest.mark.parametrize("order", [False, True])
def test_win_probability_is_the_integral(model, order, make_data):
    items, answers = make_data(m=40)
    fit = laplace(model(LinearHead(3.0), order_effect=True), items, answers)
    a = np.column_stack([items.features[PAIRS[:, 0]] - items.features[PAIRS[:, 1]], np.full(4, float(order))])
    mean, sd = a @ fit.center, np.sqrt(np.einsum("ij,jk,ik->i", a, fit.root @ fit.root.T, a))
    link = {BradleyTerry: expit, Thurstone: norm.cdf}[model]
    exact = [
        scipy.integrate.quad(lambda t, m=m, s=s: link(m + s * t) * norm.pdf(t), -10, 10)[0]
        for m, s in zip(mean, sd, strict=True)
    ]
    found = win_probability(fit, items, PAIRS, order=order)
    np.testing.assert_allclose(found, exact, atol=1e-7)
    if not order:
        assert found[0] + found[1] == pytest.approx(1.0, abs=1e-9)
    by_rows = win_probability(fit, items, Comparisons(PAIRS[:, 0], PAIRS[:, 1], np.ones(4)), order=order)
    np.testing.assert_array_equal(found, by_rows)


def test_davidson_averages_over_draws(make_data):
    """A tie counts as half; the average over the posterior's own draws within its Monte Carlo error."""
    items, answers = make_data()
    tied = Comparisons(answers.first, answers.second, np.where(np.arange(150) % 4 == 0, 0.5, answers.outcome))
    fit = laplace(Davidson(LinearHead(1.0)), items, tied)
    draws = fit.draws(4000, key=7)
    r = draws["weights"] @ items.features.T
    gap = r[:, PAIRS[:, 0]] - r[:, PAIRS[:, 1]]
    nu = draws["tie_strength"][:, None]
    odds = [np.exp(gap / 2), nu, np.exp(-gap / 2)]
    chance = (odds[0] + odds[1] / 2) / sum(odds)
    error = chance.std(0) * math.sqrt(1 / 1000 + 1 / 4000)
    assert (np.abs(win_probability(fit, items, PAIRS) - chance.mean(0)) < 5 * error).all()
    exact_mean = reward(fit, items).mean
    np.testing.assert_allclose(exact_mean, items.features @ fit.mean()["weights"], atol=1e-9)


def test_annotators_answer_with_their_own_precision(make_data, seed):
    items, answers = make_data(m=240)
    who = np.arange(240) % 2
    noise = np.random.default_rng(seed).random(240) < 0.5
    outcome = np.where(who == 1, noise * 1.0, answers.outcome)  # the second annotator tosses coins
    answers = Comparisons(answers.first, answers.second, outcome, annotator=who)
    fit = laplace(BradleyTerry(LinearHead(2.0), annotators=True), items, answers)
    pairs = PAIRS[[0, 2, 3]]
    asked = Comparisons(np.tile(pairs[:, 0], 2), np.tile(pairs[:, 1], 2), np.ones(6), annotator=np.repeat([0, 1], 3))
    draws = fit.draws(1000, key=0)
    r = draws["weights"] @ items.features.T
    gap = (r[:, asked.first] - r[:, asked.second]) * draws["precision"][:, asked.annotator]
    np.testing.assert_allclose(win_probability(fit, items, asked), expit(gap).mean(0), atol=1e-9)


def test_ability_table(seed):
    """Against the Gaussian's own formulas; sd of a quantile at 90 % is about 2 sd / sqrt(draws)."""
    teams, games = american_league_1987()
    fit = laplace(BradleyTerry(AbilityHead(1.0)), teams, games)
    table = ability_table(fit, teams, draws=20_000, key=seed)
    assert list(table.columns) == ["mean", "sd", "lower", "upper", "p_best"]
    assert tuple(table.index) == teams.names
    assert table.index.name == "item"
    assert table.p_best.sum() == pytest.approx(1.0)
    assert table["mean"].sum() == pytest.approx(0, abs=1e-9)
    centre = np.eye(7) - 1 / 7
    sd = np.sqrt(np.diag(centre @ fit.root @ fit.root.T @ centre))
    error = 5 * sd / math.sqrt(20_000)
    assert (np.abs(table["mean"] - centre @ fit.center) < error).all()
    assert (np.abs(table.sd - sd) < error).all()
    for column, z in (("lower", -1.6449), ("upper", 1.6449)):
        assert (np.abs(table[column] - centre @ fit.center - z * sd) < 3 * error).all()
    against = ability_table(fit, teams, relative_to="Baltimore", level=0.5, key=seed)
    assert (against.loc["Baltimore", ["mean", "sd", "lower", "upper"]] == 0).all()
    gap = reward_difference(fit, teams, [[0, 6]])
    assert abs(against["mean"]["Milwaukee"] - gap.mean[0]) < 5 * gap.sd[0] / math.sqrt(4000)
    width = against.upper["Milwaukee"] - against.lower["Milwaukee"]
    assert width == pytest.approx(2 * 0.6745 * gap.sd[0], rel=0.15)
    for bad in ({"relative_to": "Chicago"}, {"level": 1.0}):
        with pytest.raises(ValueError, match=r"Chicago|level must be between"):
            ability_table(fit, teams, **bad)


def test_probability_of_being_best_of_two_is_closed():
    """P(r_a > r_b) = Phi(mean / sd) of the difference."""
    items, answers = Items.named(["a", "b"]), Comparisons([0] * 5, [1] * 5, [1, 1, 1, 0, 1])
    fit = laplace(BradleyTerry(AbilityHead(1.0)), items, answers)
    gap = reward_difference(fit, items, [[0, 1]])
    best = ability_table(fit, items, draws=20_000).p_best["a"]
    assert best == pytest.approx(norm.cdf(gap.mean / gap.sd)[0], abs=5 * 0.5 / math.sqrt(20_000))


def test_raw_embeddings_are_projected_as_those_of_the_fit(make_data, rng):
    raw = Items(rng.normal(size=(12, 8)) + 5.0)
    items = project(raw, 3)
    _, answers = make_data()
    fit = laplace(BradleyTerry(LinearHead(1.0)), items, answers)
    expected = reward(fit, items)
    for given in (raw, raw.features, raw.features.astype(np.float64)):
        np.testing.assert_allclose(reward(fit, given).mean, expected.mean)
        np.testing.assert_allclose(reward(fit, given).variance, expected.variance)
    unseen = rng.normal(size=(4, 8)) + 5.0
    np.testing.assert_allclose(reward(fit, unseen).mean, items.projection.apply(unseen) @ fit.center)
    with pytest.raises(ValueError, match=r"projected differently.*raw items"):
        reward(fit, project(Items(unseen), 3))
    with pytest.raises(ValueError, match="5 columns, the projection expects 8"):
        reward(fit, unseen[:, :5])


def test_questions_that_make_no_sense_are_refused(make_data):
    items, answers = make_data()
    abilities = laplace(BradleyTerry(AbilityHead(1.0)), items, answers)
    with pytest.raises(ValueError, match=r"12 abilities.*4 items|unseen items need a head on features"):
        reward(abilities, items.take([0, 1, 2, 3]))
    linear = laplace(BradleyTerry(LinearHead(1.0)), items, answers)
    with pytest.raises(ValueError, match="2 features, the posterior has 3 weights"):
        reward(linear, items.features[:, :2])
    wrapped = laplace(lambda *args: BradleyTerry(LinearHead(1.0))(*args), items, answers)
    with pytest.raises(ValueError, match="rewards belong to a posterior of BradleyTerry"):
        reward(wrapped, items)
    for pairs, message in (
        ([[0, 12]], "out of range of 12"),
        ([[1, 1]], "itself"),
        ([0, 1], r"shape \[m, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            win_probability(linear, items, pairs)


def test_moments_from_svi_are_those_of_its_gaussian(make_data):
    items, answers = make_data()
    fit = svi(BradleyTerry(LinearHead(1.0)), items, answers, steps=200)
    covariance = fit.root @ fit.root.T
    np.testing.assert_allclose(reward(fit, items).mean, items.features @ fit.center, rtol=1e-6)
    np.testing.assert_allclose(
        reward(fit, items).variance,
        np.einsum("ij,jk,ik->i", items.features, covariance, items.features),
        rtol=1e-6,
    )
