"""Graded answers and Rao-Kupper's ties: closed forms, symmetry, information by differences, recovery."""

import jax
import numpy as np
import pytest
from numpyro.handlers import condition
from numpyro.infer.util import log_density
from scipy.special import expit

from tercet.inference import fisher_information, laplace, reward_difference, win_probability
from tercet.models import AbilityHead, Comparisons, Graded, Items, LinearHead, RaoKupper

CUTS = {3: [-0.7, 0.7], 4: [-0.7, 0.0, 0.7], 5: [-1.5, -0.7, 0.7, 1.5]}


def sites(levels):
    positive = np.array([cut for cut in CUTS[levels] if cut > 0])
    return {"cuts": np.array(CUTS[levels]), "cut_gaps": np.diff(positive, prepend=0.0)}


def value(model, values, items, comparisons):
    return float(jax.jit(lambda s: log_density(model, (items, comparisons), {}, s)[0])(values))


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_probabilities_are_differences_of_logistics(levels):
    model, r = Graded(levels=levels), np.linspace(-4, 4, 9)
    p = model.probabilities(r, sites(levels))
    above = np.column_stack([np.ones(9)] + [expit(r - cut) for cut in CUTS[levels]] + [np.zeros(9)])
    np.testing.assert_allclose(p, above[:, :-1] - above[:, 1:], atol=1e-12)
    np.testing.assert_allclose(p[::-1, ::-1], p, atol=1e-12)  # the same either way round
    np.testing.assert_allclose(
        model.expected_outcome(r, sites(levels)) + model.expected_outcome(-r, sites(levels)), 1.0
    )
    step = 1e-5
    slope = np.log(model.probabilities(r + step, sites(levels))) - np.log(model.probabilities(r - step, sites(levels)))
    np.testing.assert_allclose(
        model.information(r, sites(levels)), (p * np.square(slope / (2 * step))).sum(1), rtol=1e-6
    )


def test_rao_kupper_is_the_published_formula():
    """P(first) = pi_1 / (pi_1 + theta pi_2), r = log(pi_1 / pi_2), theta = e^c."""
    theta, first, second = np.exp(0.7), 3.0, 2.0
    p = RaoKupper().probabilities(np.log(first / second), sites(3))
    np.testing.assert_allclose(p[2], first / (first + theta * second))
    np.testing.assert_allclose(p[0], second / (theta * first + second))
    np.testing.assert_allclose(RaoKupper().probabilities(np.zeros(1), sites(3))[0, 1], np.tanh(0.35))


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_the_density_is_the_model(levels, rng):
    items = Items(rng.normal(size=(6, 3)))
    first = rng.integers(6, size=20)
    answers = Comparisons(first, (first + 1) % 6, rng.integers(levels, size=20) / (levels - 1), rng.random(20) + 0.5)
    model, weights = Graded(LinearHead(1.5), levels=levels), np.array([0.3, -1.0, 0.7])
    values = {"weights": weights, "cut_gaps": sites(levels)["cut_gaps"]}
    r = items.features @ weights
    p = model.probabilities(r[answers.first] - r[answers.second], sites(levels))
    chosen = p[np.arange(20), np.round(answers.outcome * (levels - 1)).astype(int)]
    one = answers.take([0])
    rest = answers.take(np.arange(20) > 0)
    np.testing.assert_allclose(
        value(model, values, items, answers) - value(model, values, items, one),
        rest.weight @ np.log(chosen[1:]), rtol=1e-8,
    )  # fmt: skip
    swapped = value(model, values, items, answers.swap())
    assert swapped == pytest.approx(value(model, values, items, answers), abs=1e-9)


def test_information_is_that_of_the_model(rng):
    items, answers = Items(rng.normal(size=(5, 2))), Comparisons([0, 1, 2], [1, 3, 4], [0.0, 0.5, 1.0])
    model, values = Graded(LinearHead(1.0)), {"weights": np.array([0.4, -0.8]), "cut_gaps": sites(5)["cut_gaps"]}
    given = condition(model, {"cut_gaps": values["cut_gaps"]})
    whole = fisher_information(given, {"weights": values["weights"]}, items, answers)
    r = items.features @ values["weights"]
    d = items.features[answers.first] - items.features[answers.second]
    v = model.information(r[answers.first] - r[answers.second], sites(5))
    np.testing.assert_allclose(whole, d.T @ (v[:, None] * d), rtol=1e-6)


def test_graded_answers_recover_rewards_and_cuts(seed):
    """Five posterior sd at most, and closer than better, tie or worse alone."""
    rng = np.random.default_rng(seed)
    ability = rng.normal(size=8)
    ability -= ability.mean()
    first = rng.integers(8, size=3000)
    second = (first + rng.integers(1, 8, size=3000)) % 8
    p = Graded().probabilities(ability[first] - ability[second], sites(5))
    level = (rng.random(3000)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    items, answers = Items.named(range(8)), Comparisons(first, second, level / 4)
    fit = laplace(Graded(AbilityHead(2.0)), items, answers)
    draws = fit.draws(2000)
    for name, truth in (("ability", ability), ("cuts", np.array(CUTS[5]))):
        values = draws[name] - (draws[name].mean(axis=1, keepdims=True) if name == "ability" else 0.0)
        assert (np.abs(values.mean(0) - truth) < 5 * values.std(0)).all()
    coarse = laplace(RaoKupper(AbilityHead(2.0)), items, Comparisons(first, second, (np.sign(level - 2) + 1) / 2))
    pairs = np.column_stack([np.arange(7), np.arange(1, 8)])
    graded, tied = (reward_difference(posterior, items, pairs).sd.mean() for posterior in (fit, coarse))
    assert graded < 0.97 * tied
    pair = [[int(ability.argmax()), int(ability.argmin())]]
    wanted = Graded().expected_outcome(np.array([np.ptp(ability)]), sites(5))
    assert win_probability(fit, items, pair) == pytest.approx(wanted, abs=0.05)


def test_refusals():
    items = Items.named("abc")
    with pytest.raises(ValueError, match=r"5 levels needs outcomes 0, 0.25, 0.5, 0.75, 1; got 1 other"):
        laplace(Graded(AbilityHead(1.0)), items, Comparisons([0], [1], [0.3]))
    with pytest.raises(ValueError, match="levels must be at least 3"):
        Graded(levels=2)
    with pytest.raises(ValueError, match="has 3 levels"):
        RaoKupper(levels=5)
