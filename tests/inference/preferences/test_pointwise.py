"""Winners and losers as classes: agreement of both routes and of scikit-learn, the bound, calibration, pessimism."""

import jax
import numpy as np
import pytest
import scipy.stats
from numpyro.infer.util import log_density
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from tercet.datasets import annotate, annotation_pairs, simulated_preferences, simulated_prompts
from tercet.inference import (
    calibrate_rewards,
    fit_pointwise,
    laplace,
    log_loss,
    nuts,
    reward,
    reward_difference,
    selection_score,
    spearman,
    win_probability,
)
from tercet.models import (
    AbilityHead,
    BradleyTerry,
    Comparisons,
    Items,
    LinearHead,
    PointwiseClassifier,
    project,
)


@pytest.fixture
def data(rng):
    items = Items(rng.normal(size=(30, 4)) + 1.0)
    first = rng.integers(30, size=80)
    second = (first + rng.integers(1, 30, size=80)) % 30
    return items, Comparisons(first, second, rng.choice([0.0, 0.25, 0.5, 1.0], 80), rng.random(80) + 0.5)


def test_the_density_is_two_classifications_a_comparison(data, rng):
    items, answers = data
    weights, intercept = rng.normal(size=4), 0.3
    model = PointwiseClassifier(LinearHead(1.5))
    tau = 1.5 / np.sqrt(2 * items.features.var(0).sum())
    logit = items.features @ weights + intercept
    up, down = np.log(expit(logit)), np.log(expit(-logit))
    y, i, j = answers.outcome, answers.first, answers.second
    each = y * up[i] + (1 - y) * down[i] + (1 - y) * up[j] + y * down[j]
    prior = scipy.stats.norm(0, tau).logpdf(weights).sum() + scipy.stats.norm(0, 5).logpdf(intercept)
    found = log_density(model, data, {}, {"weights": weights, "intercept": intercept})[0]
    assert float(found) == pytest.approx(answers.weight @ each + prior, rel=1e-10)


def test_both_routes_agree(data):
    model = PointwiseClassifier(LinearHead(1.5))
    exact = laplace(model, *data)
    general = laplace(lambda *args: model(*args), *data)
    for site, value in exact.mean().items():
        np.testing.assert_allclose(general.mean()[site], value, atol=1e-7)
    np.testing.assert_allclose(
        np.sort(np.linalg.eigvalsh(exact.precision_factor @ exact.precision_factor.T)),
        np.sort(np.linalg.eigvalsh(general.precision_factor @ general.precision_factor.T)), rtol=1e-6,
    )  # fmt: skip


def test_the_mode_is_scikit_learns(data):
    """Logistic regression with the penalty of the same prior; the intercept nearly free in both."""
    items, answers = data
    tau = 1.5 / np.sqrt(2 * items.features.var(0).sum())
    theirs = fit_pointwise(LogisticRegression(C=tau**2, tol=1e-10, max_iter=10_000), items, answers)
    ours = laplace(PointwiseClassifier(LinearHead(1.5)), items, answers)
    gap = theirs(items) - theirs(items)[0]
    np.testing.assert_allclose(reward(ours, items).mean - reward(ours, items).mean[0], gap, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(
    "classifier",
    [LogisticRegression(), HistGradientBoostingClassifier(max_iter=30), DecisionTreeClassifier(max_depth=4)],
)
def test_any_classifier_ranks(classifier):
    truth = simulated_preferences(400, 4, 6000, key=1)
    before = dict(vars(classifier))
    score = fit_pointwise(classifier, truth.items, truth.comparisons)
    values = score(truth.items)
    assert np.isfinite(values).all()
    assert spearman(values, truth.rewards) > 0.75
    assert vars(classifier) == before  # the user's own object is not fitted


def test_light_gbm_ranks_where_it_is_installed():
    lightgbm = pytest.importorskip("lightgbm")
    truth = simulated_preferences(400, 4, 6000, key=1)
    score = fit_pointwise(lightgbm.LGBMClassifier(n_estimators=50, verbose=-1), truth.items, truth.comparisons)
    assert spearman(score(truth.items), truth.rewards) > 0.75


def test_raw_embeddings_go_through_the_projection(rng):
    truth = simulated_preferences(50, 6, 400)
    items = project(truth.items, 3)
    score = fit_pointwise(LogisticRegression(), items, truth.comparisons)
    np.testing.assert_allclose(score(truth.items), score(items))
    np.testing.assert_allclose(score(truth.items.features), score(items))
    with pytest.raises(ValueError, match="projected differently"):
        score(project(truth.items, 2))


def test_errors_of_order_are_at_most_those_of_classification(rng):
    """L_oc <= L_clf: a pair in the wrong order has a wrong example, whatever the rewards and the intercept."""
    for _ in range(50):
        r, b = rng.normal(size=40), rng.normal()
        winner, loser = rng.permutation(40)[:20], rng.permutation(40)[:20]
        order = (r[winner] < r[loser]).sum()
        classes = (r[winner] + b < 0).sum() + (r[loser] + b > 0).sum()
        assert order <= classes


def test_a_logit_of_a_class_is_no_probability_of_winning(data):
    fit = laplace(PointwiseClassifier(LinearHead(1.0)), *data)
    with pytest.raises(ValueError, match=r"calibrate it with calibrate_rewards"):
        win_probability(fit, data[0], [[0, 1]])


def test_refusals(data, rng):
    items, answers = data
    with pytest.raises(ValueError, match="takes no sample_weight"):
        fit_pointwise(KNeighborsClassifier(), items, answers)
    with pytest.raises(ValueError, match="is no classifier"):
        fit_pointwise(object(), items, answers)
    with pytest.raises(ValueError, match="no order effect"):
        PointwiseClassifier(order_effect=True)
    with pytest.raises(ValueError, match="needs a prior scale"):
        PointwiseClassifier(LinearHead(np.inf))
    assert np.isfinite(fit_pointwise(Perceptron(), items, answers)(items)).all()
    with pytest.raises(ValueError, match="method must be"):
        calibrate_rewards(lambda i, c: laplace(BradleyTerry(), i, c), items, answers, method="beta")
    with pytest.raises(ValueError, match="folds must be from 2"):
        calibrate_rewards(lambda i, c: laplace(BradleyTerry(), i, c), items, answers, folds=1)
    with pytest.raises(ValueError, match="all reward differences are zero"):
        calibrate_rewards(lambda i, c: lambda i: np.zeros(len(i)), items, answers)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibration_recovers_a_slope_that_is_known(method, seed):
    """Rewards told three times too large; both maps give back the truth, log loss of the truth within error."""
    rng = np.random.default_rng(seed)
    items, rewards = Items(rng.normal(size=(400, 1))), None
    rewards = items.features[:, 0]
    first = rng.integers(400, size=8000)
    pairs = np.column_stack([first, (first + rng.integers(1, 400, size=8000)) % 400])
    answers = annotate(rewards, pairs, 1.0, key=seed)
    found = calibrate_rewards(lambda i, c: lambda i: 3.0 * i.features[:, 0], items, answers, method=method)
    wanted = expit((rewards[pairs[:, 0]] - rewards[pairs[:, 1]]) / rewards.std())
    p = found.win_probability(items, pairs)
    np.testing.assert_allclose(p, wanted, atol=0.03 if method == "platt" else 0.12)
    np.testing.assert_allclose(p + found.win_probability(items, pairs[:, ::-1]), 1.0, atol=1e-12)
    assert found.log_loss[0] < log_loss(wanted, answers.outcome) + 1e-3
    assert found.log_loss[1] > found.log_loss[0] + 0.1
    if method == "platt":
        assert found.slope == pytest.approx(1 / 3 / rewards.std(), abs=5 * 0.012)


def test_the_isotonic_map_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    d, y, w = rng.normal(size=200).round(1), rng.integers(0, 2, 200).astype(float), rng.random(200)
    from tercet.inference.preferences.reward_calibration import _isotonic

    knots, p = _isotonic(d, y, w)
    theirs = IsotonicRegression(y_min=1 / 202, y_max=201 / 202)
    theirs.fit(np.r_[d, -d], np.r_[y, 1 - y], sample_weight=np.r_[w, w])
    np.testing.assert_allclose(p, theirs.predict(knots), atol=1e-10)


def test_folds_keep_answers_to_a_pair_together():
    items = Items(np.eye(6))
    answers = Comparisons([0, 1, 0, 2, 3, 4], [1, 0, 1, 3, 4, 5], [1, 0, 1, 1, 0, 1])
    seen = []

    def fit(items, part):
        seen.append({tuple(sorted(pair)) for pair in part.pairs.tolist()})
        return lambda items: np.arange(float(len(items)))

    calibrate_rewards(fit, items, answers, folds=4)
    assert sum((0, 1) in part for part in seen[:4]) == 3


def test_a_calibrated_classifier_beats_its_logits_and_a_shuffled_one_does_not():
    """Negative control: rewards that know nothing are mapped to a coin."""
    truth = simulated_preferences(300, 6, 4000, key=3)
    found = calibrate_rewards(lambda i, c: fit_pointwise(LogisticRegression(), i, c), truth.items, truth.comparisons)
    assert found.log_loss[0] < found.log_loss[1] - 0.005
    noise = np.random.default_rng(0).normal(size=300)
    blind = calibrate_rewards(lambda i, c: lambda i: noise, truth.items, truth.comparisons)
    assert abs(blind.slope) < 0.1
    assert blind.log_loss[0] == pytest.approx(np.log(2), abs=2e-3)


def test_folds_of_items_judge_items_that_rewards_do_not_know():
    """Every answer within a fold is judged once, by rewards fitted without its two items."""
    truth, seen = simulated_preferences(60, 4, 900, key=4), []

    def fit(items, answers):
        known = np.zeros(60, bool)
        known[answers.pairs] = True
        seen.append(known)
        return lambda items: np.where(known, 0.0, np.arange(1.0, 61.0))

    found = calibrate_rewards(fit, truth.items, truth.comparisons, folds=3, by="items")
    assert len(seen) == 4
    assert seen[-1].all()
    strangers = ~np.stack(seen[:3])
    assert (strangers.sum(axis=0) == 1).all()
    within = strangers.argmax(0)[truth.comparisons.first] == strangers.argmax(0)[truth.comparisons.second]
    gaps = truth.comparisons.first - truth.comparisons.second
    np.testing.assert_array_equal(found.held_out, gaps[within])
    with pytest.raises(ValueError, match="by must be"):
        calibrate_rewards(fit, truth.items, truth.comparisons, by="pairs")
    with pytest.raises(ValueError, match="too few answers"):
        calibrate_rewards(fit, truth.items, truth.comparisons.take([0, 1]), folds=60, by="items")


# Selection


def test_scores_of_selection_are_the_formulas(rng):
    truth = simulated_preferences(24, 5, 100)
    prompt = np.repeat([0, 1, 2], [4, 8, 12])
    items = Items(truth.items.features + 30.0, prompt=prompt)  # a common shift must not matter
    fit = laplace(BradleyTerry(LinearHead(1.0)), items, truth.comparisons)
    mean = reward(fit, items).mean
    np.testing.assert_array_equal(selection_score(fit, items), mean)
    C = np.linalg.inv(fit.precision_factor @ fit.precision_factor.T)
    x = items.features
    sd = np.empty(24)
    for i in range(24):
        d = x[i] - x[prompt == prompt[i]].mean(axis=0)
        sd[i] = np.sqrt(d @ C @ d)
    np.testing.assert_allclose(selection_score(fit, items, "lower bound", k=2.0), mean - 2 * sd, rtol=1e-8)
    low = selection_score(fit, items, "minimum", draws=2000)
    np.testing.assert_allclose((mean - low) / sd, 3.4, atol=0.9)  # the lowest of 2,000 normal draws
    np.testing.assert_array_equal(low, selection_score(fit, items, "minimum", draws=2000))


def test_the_minimum_over_draws_of_chains(rng):
    items = Items.named("abcd")
    answers = Comparisons([0, 1, 2, 0], [1, 2, 3, 3], [1, 1, 0, 1])
    fit = nuts(BradleyTerry(AbilityHead(1.0)), items, answers, warmup=200, samples=250)
    ability = fit.draws(50, key=2)["ability"]
    centred = ability - ability.mean(axis=1, keepdims=True)
    wanted = reward(fit, items).mean.mean() + centred.min(axis=0)
    np.testing.assert_allclose(selection_score(fit, items, "minimum", draws=50, key=2), wanted)


def test_rules_that_do_not_exist():
    items, answers = Items.named("ab"), Comparisons([0], [1], [1])
    fit = laplace(BradleyTerry(AbilityHead(1.0)), items, answers)
    with pytest.raises(ValueError, match=r"rule must be one of .'mean', 'lower bound', 'minimum'."):
        selection_score(fit, items, "median")
    with pytest.raises(ValueError, match="k must not be negative"):
        selection_score(fit, items, "lower bound", k=-1.0)


# Annotators and position


@pytest.mark.parametrize("liar", [False, True])
def test_an_annotator_who_answers_at_random_is_found_and_harmless(seed, liar):
    """Eight careful annotators; the ninth flips coins (negative control: is as careful as the others)."""
    items, rewards = simulated_prompts(60, 1, 5, prompt_variance=0.0, key=seed)
    pairs = annotation_pairs(items, rewards, "cross-prompt", 30, key=seed)
    who = np.random.default_rng(seed).integers(9, size=len(pairs))
    honest = annotate(rewards, pairs, 2.0, key=seed)
    coin = np.random.default_rng(seed + 1).integers(0, 2, len(pairs)).astype(float)
    outcome = np.where((who == 8) & liar, coin, honest.outcome)
    answers = Comparisons(pairs[:, 0], pairs[:, 1], outcome, annotator=who)
    with jax.enable_x64(True):
        fit = laplace(BradleyTerry(LinearHead(2.0), annotators=True), items, answers)
    precision = fit.draws(1000)["precision"]
    relative = np.median(precision[:, 8] / np.median(precision[:, :8], axis=1))
    assert relative < 0.35 if liar else 0.5 < relative < 2.0
    alone = laplace(BradleyTerry(LinearHead(2.0)), items, honest.take(who != 8))
    here, there = (reward_difference(f, items, pairs[:200]).mean for f in (fit, alone))
    assert np.corrcoef(here, there)[0, 1] > 0.99


def test_precisions_leave_the_scale_to_the_rewards(seed):
    """Scale learned, two of six at random: predictions near those without the two, and better than all alike."""
    rng = np.random.default_rng(seed)
    items, rewards = simulated_prompts(200, 1, 20, prompt_variance=0.0, key=seed)
    pairs, test = (annotation_pairs(items, rewards, "cross-prompt", k, key=k + seed) for k in (6, 10))
    who = rng.integers(6, size=len(pairs))
    outcome = np.where(who < 2, rng.integers(0, 2, len(pairs)), annotate(rewards, pairs, 2.0, key=seed).outcome)
    crowd = Comparisons(*pairs.T, outcome, annotator=who)
    truth = expit(2.0 * (rewards[test[:, 0]] - rewards[test[:, 1]]) / rewards.std())
    each, alike, careful = (
        log_loss(win_probability(laplace(model, items, answers), items, test), truth)
        for model, answers in (
            (BradleyTerry(annotators=True), crowd),
            (BradleyTerry(), crowd),
            (BradleyTerry(), crowd.take(who >= 2)),
        )
    )
    assert careful < each < alike
    assert each - careful < 0.5 * (alike - careful)


def test_position_bias_is_recovered(seed):
    """Within five posterior sd, and without it rewards are no worse than had there been none."""
    items, rewards = simulated_prompts(60, 1, 5, prompt_variance=0.0, key=seed)
    pairs = annotation_pairs(items, rewards, "cross-prompt", 30, key=seed)
    d = 2.0 * (rewards[pairs[:, 0]] - rewards[pairs[:, 1]])
    answers = Comparisons(*pairs.T, (np.random.default_rng(seed).random(len(d)) < expit(d + 0.8)).astype(float))
    fit = laplace(BradleyTerry(LinearHead(2.0), order_effect=True), items, answers)
    effect = fit.draws(2000)["order_effect"]
    assert abs(effect.mean() - 0.8) < 5 * effect.std()
    assert effect.mean() > 5 * effect.std()
    assert spearman(reward(fit, items).mean, rewards) > 0.98
