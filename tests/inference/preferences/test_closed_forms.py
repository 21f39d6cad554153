"""`laplace` against score equations, published values, scikit-learn, choix and scipy."""

import math

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit
from scipy.stats import norm

from tercet.datasets import american_league_1987
from tercet.inference import laplace
from tercet.inference.posteriors.newton import mode_alone, newton
from tercet.models import AbilityHead, BradleyTerry, Comparisons, Items, LinearHead, Thurstone
from tercet.models.preferences.comparison_models import ORDER_SD


@pytest.mark.parametrize(("wins", "games"), [(7, 10), (1, 3), (5, 5), (40, 41)])
@pytest.mark.parametrize(
    ("model", "chance", "slope"),
    [(BradleyTerry, expit, lambda r: expit(r) * expit(-r)), (Thurstone, norm.cdf, norm.pdf)],
    ids=["logistic", "probit"],
)
def test_two_items_and_n_games(model, chance, slope, wins, games):
    """The difference d ~ Normal(0, s^2): its mode solves the score equation, its variance is 1 / (I + 1 / s^2).

    Score: (wins - n F(d)) F'(d) / (F (1 - F)) = d / s^2, and minus its derivative is the precision.
    """
    sd = 1.3

    def score(d):
        p = chance(d)
        return (wins - games * p) * slope(d) / (p * (1 - p)) - d / sd**2

    mode = scipy.optimize.brentq(score, -5, 5, xtol=1e-14)
    precision = -(score(mode + 1e-5) - score(mode - 1e-5)) / 2e-5
    if model is BradleyTerry:
        assert precision == pytest.approx(games * slope(mode) + sd**-2, rel=1e-8)
    data = Comparisons([0, 0], [1, 1], [1.0, 0.0], weight=[max(wins, 1e-9), max(games - wins, 1e-9)])
    fit = laplace(model(AbilityHead(sd)), Items.named(["a", "b"]), data)
    contrast = np.array([1.0, -1.0])
    assert fit.mean()["ability"] @ contrast == pytest.approx(mode, abs=1e-8)
    assert np.square(contrast @ fit.root).sum() == pytest.approx(1 / precision, rel=1e-6)
    assert fit.mean()["ability"].sum() == pytest.approx(0, abs=1e-9)


def test_published_abilities_of_the_american_league():
    """Agresti (1990), table 10.10: maximum likelihood, relative to Baltimore."""
    teams, games = american_league_1987()
    fit = laplace(BradleyTerry(AbilityHead(math.inf)), teams, games)
    ability = fit.mean()["ability"]
    assert fit.diagnostics["converged"]
    np.testing.assert_allclose(
        (ability - ability[-1]).round(4)[:6], [1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839], atol=5e-4
    )


def differences(items, comparisons):
    return items.features[comparisons.first] - items.features[comparisons.second]


@pytest.mark.parametrize("prior_sd", [math.inf, 0.8])
def test_weights_of_scikit_learn(prior_sd, make_data):
    """Logistic regression on difference features; ridge C is the variance of one weight."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    items, answers = make_data(n=40, dim=5, m=600, weights=True)
    head = LinearHead(prior_sd)
    fit = laplace(BradleyTerry(head), items, answers)
    C = math.inf if math.isinf(prior_sd) else (prior_sd * head.unit(items)) ** 2
    reference = linear_model.LogisticRegression(C=C, fit_intercept=False, solver="newton-cholesky", tol=1e-12)
    reference.fit(differences(items, answers), answers.outcome, sample_weight=answers.weight)
    np.testing.assert_allclose(fit.center, reference.coef_[0], atol=1e-6)


def test_order_effect_is_an_intercept_with_its_prior(make_data):
    """Scikit-learn's ridge on difference features and a column of ones, each scaled to its prior sd."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    items, answers = make_data(n=40, dim=4, m=500)
    head = LinearHead(1.5)
    sd = np.append(np.full(4, 1.5 * head.unit(items)), ORDER_SD)
    fit = laplace(BradleyTerry(head, order_effect=True), items, answers)
    columns = np.column_stack([differences(items, answers), np.ones(500)]) * sd
    reference = linear_model.LogisticRegression(C=1.0, fit_intercept=False, solver="newton-cholesky", tol=1e-12)
    reference.fit(columns, answers.outcome)
    mean = fit.mean()
    np.testing.assert_allclose(np.append(mean["weights"], mean["order_effect"]), reference.coef_[0] * sd, atol=1e-6)


@pytest.mark.parametrize("model", [BradleyTerry, Thurstone])
def test_weights_of_a_general_optimiser(model, make_data):
    """Soft outcomes and weights too: minimise the written-out log posterior by BFGS."""
    items, answers = make_data(dim=3, weights=True, soft=True)
    head = LinearHead(1.2)
    tau = 1.2 * head.unit(items)
    cdf = {BradleyTerry: expit, Thurstone: norm.cdf}[model]

    def loss(w):
        eta = differences(items, answers) @ w
        y = answers.outcome
        terms = y * np.log(cdf(eta)) + (1 - y) * np.log(cdf(-eta))
        return -answers.weight @ terms + np.square(w).sum() / (2 * tau**2)

    best = scipy.optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(laplace(model(head), items, answers).center, best.x, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_abilities_of_choix(alpha):
    """Choix's penalty alpha |theta|^2 is a Normal prior of variance 1 / (2 alpha) on each ability.

    `prior_sd` is that of a difference: 1 / sqrt(alpha). Without a penalty also by iterated Luce spectral ranking.
    """
    choix = pytest.importorskip("choix")
    teams, games = american_league_1987()
    won = [(i, j) for i, j, w in zip(games.first, games.second, games.weight, strict=True) for _ in range(int(w))]
    ours = laplace(BradleyTerry(AbilityHead(alpha**-0.5 if alpha else math.inf)), teams, games).mean()["ability"]
    theirs = choix.opt_pairwise(7, won, alpha=alpha, method="Newton-CG", tol=1e-12)
    np.testing.assert_allclose(ours - ours.mean(), theirs - theirs.mean(), atol=1e-6)
    if not alpha:
        spectral = choix.ilsr_pairwise(7, won, tol=1e-12)
        np.testing.assert_allclose(ours - ours.mean(), spectral - spectral.mean(), atol=1e-6)


def test_laplace_variance_is_the_inverse_information(make_data):
    """The covariance is (D' W D + P)^-1 with D and W written out."""
    items, answers = make_data(weights=True)
    head = LinearHead(0.7)
    fit = laplace(BradleyTerry(head), items, answers)
    D = differences(items, answers)
    p = expit(D @ fit.center)
    precision = D.T @ ((answers.weight * p * (1 - p))[:, None] * D) + np.eye(3) / (0.7 * head.unit(items)) ** 2
    np.testing.assert_allclose(fit.root @ fit.root.T, np.linalg.inv(precision), rtol=1e-8)
    np.testing.assert_allclose(fit.precision_factor @ fit.precision_factor.T, precision, rtol=1e-8)
    shrinkage = np.trace(np.linalg.inv(precision)) / (0.7 * head.unit(items)) ** 2
    assert fit.diagnostics["effective_parameters"] == pytest.approx(3 - shrinkage)


@pytest.mark.parametrize("family", [BradleyTerry, Thurstone])
@pytest.mark.parametrize("head", [LinearHead(1.0), AbilityHead(1.0), AbilityHead(math.inf)], ids=str)
def test_swapping_pairs_or_reordering_items_changes_nothing(family, head, make_data, rng):
    """Both presentations of a pair, and any order of the rows, are the same data; permuted items permute abilities."""
    items, answers = make_data(m=300, soft=True, weights=True)
    flip = rng.random(len(answers)) < 0.5
    swapped = answers.take(~flip).extend(answers.take(flip).swap())
    base, other = laplace(family(head), items, answers), laplace(family(head), items, swapped)
    np.testing.assert_allclose(other.center, base.center, atol=1e-8)
    np.testing.assert_allclose(other.precision_factor, base.precision_factor, atol=1e-7)
    order = rng.permutation(len(items))
    place = np.argsort(order)
    moved = Comparisons(place[answers.first], place[answers.second], answers.outcome, answers.weight)
    again = laplace(family(head), items.take(order), moved).center
    np.testing.assert_allclose(again, base.center[order] if isinstance(head, AbilityHead) else base.center, atol=1e-8)


def test_units_and_shift_of_features_change_no_reward(make_data):
    """The prior is one of reward differences: features times 1,000 plus 500 give the same posterior of rewards."""
    items, answers = make_data(n=30)
    scaled = Items(1000 * items.features + 500)
    model = BradleyTerry(LinearHead(1.1))
    a, b = laplace(model, items, answers), laplace(model, scaled, answers)
    np.testing.assert_allclose(b.center * 1000, a.center, atol=1e-8)
    np.testing.assert_allclose(b.root * 1000, a.root, atol=1e-8)


@pytest.mark.parametrize("prior_sd", [1.0, 1e4])
def test_wide_heads_start_in_single_precision_and_end_exact(prior_sd, rng):
    """From 512 weights on the first Hessian may be 32-bit; mode and precision are the 64-bit ones all the same."""
    m, d = 700, 520
    features = rng.standard_normal((2 * m, d))
    answers = Comparisons(np.arange(m), np.arange(m) + m, rng.random(m))
    model = BradleyTerry(LinearHead(prior_sd))
    fit = laplace(model, Items(features), answers)
    difference = features[:m] - features[m:]
    p = 1 / (1 + np.exp(-difference @ fit.center))
    tau = prior_sd / np.sqrt(2 * features.var(axis=0).sum())
    gradient = (answers.outcome - p) @ difference - fit.center / tau**2
    assert np.abs(gradient).max() < 1e-8
    precision = difference.T @ (difference * (p * (1 - p))[:, None]) + np.eye(d) / tau**2
    np.testing.assert_allclose(fit.precision_factor @ fit.precision_factor.T, precision, atol=1e-9 * precision.max())


@pytest.mark.parametrize("prior_sd", [1.0, math.inf])
def test_the_mode_alone_is_that_of_newton(prior_sd, rng):
    """So many answers that the search starts from a subsample, and that from one of its own."""
    items = Items(rng.normal(size=(900, 2)))
    first = rng.integers(900, size=30_000)
    second = (first + rng.integers(1, 900, size=30_000)) % 900
    reward = items.features @ [1.0, -0.5]
    answers = Comparisons(first, second, 1.0 * (rng.random(30_000) < expit(reward[first] - reward[second])))
    form = BradleyTerry(LinearHead(prior_sd)).linear_form(items, answers)
    assert form.size > 16 * 16 * 50 * 2
    alone, whole = mode_alone(form), newton(form)
    assert alone.converged
    assert alone.gradient_norm <= 1e-8
    np.testing.assert_allclose(alone.point, whole.point, atol=1e-11)
    start = newton(form, np.zeros(2))  # without a subsample
    np.testing.assert_allclose(whole.point, start.point, atol=1e-11)
    np.testing.assert_allclose(whole.precision, start.precision, rtol=1e-9)
