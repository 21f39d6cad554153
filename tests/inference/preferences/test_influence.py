"""Influence of single answers against fits without them; orders that rest on few answers, and one that does not."""

import numpy as np
import pytest

from tercet.datasets import simulated_preferences
from tercet.inference import (
    compare_models,
    laplace,
    order_influence,
    reward_difference,
    win_probability,
)
from tercet.inference.posteriors.sampled import SampledPosterior
from tercet.models import (
    AbilityHead,
    BradleyTerry,
    Comparisons,
    Davidson,
    Graded,
    Items,
    LinearHead,
    PointwiseClassifier,
    RaoKupper,
    Thurstone,
)


@pytest.mark.parametrize("model", [BradleyTerry, Thurstone])
@pytest.mark.parametrize("head", [LinearHead(1.0), AbilityHead(1.0)])
@pytest.mark.parametrize("order", [False, True])
def test_effects_are_those_of_leaving_each_answer_out(model, head, order, rng):
    items = Items(rng.normal(size=(9, 3)))
    first = rng.integers(9, size=60)
    answers = Comparisons(
        first, (first + rng.integers(1, 9, size=60)) % 9, rng.random(60).round(1), rng.random(60) + 0.5
    )
    fit = laplace(model(head, order), items, answers)
    found = order_influence(fit, items, pair=[2, 5])
    pair = [[found.first, found.second]]
    whole = reward_difference(fit, items, pair).mean[0]
    assert whole == pytest.approx(found.difference)
    assert whole >= 0
    left = []
    for m in range(60):
        without = laplace(model(head, order), items, answers.take(np.arange(60) != m))
        left.append(reward_difference(without, items, pair).mean[0] - whole)
    np.testing.assert_allclose(found.effects, left, atol=0.05 * np.abs(left).max())


def test_two_answers_that_hold_up_an_order_are_found(rng):
    """Items a and b are even but for two answers; those two are the set, and without them the order turns."""
    items = Items.named("abcd")
    even = Comparisons([0, 0, 1, 2, 0, 1], [1, 1, 2, 3, 3, 3], [1, 0, 1, 1, 1, 1])
    answers = even.extend(Comparisons([0, 0], [1, 1], [1, 1]))
    fit = laplace(BradleyTerry(AbilityHead(1.0)), items, answers)
    found = order_influence(fit, items, at_most=0.5)
    assert (found.first, found.second) == (0, 1)
    assert found.turns
    assert len(found.dropped) <= 2
    assert set(found.dropped) <= {0, 6, 7}
    kept = answers.take(np.setdiff1d(np.arange(8), found.dropped))
    again = laplace(BradleyTerry(AbilityHead(1.0)), items, kept)
    assert reward_difference(again, items, [[0, 1]]).mean[0] == pytest.approx(found.refitted)
    assert found.refitted <= 1e-12


def test_an_order_that_everything_supports_is_safe():
    items = Items.named("abc")
    games = Comparisons(np.repeat([0, 1, 0], 60), np.repeat([1, 2, 2], 60), np.tile([1, 1, 1, 1, 1, 0], 30))
    found = order_influence(laplace(BradleyTerry(AbilityHead(2.0)), items, games), items, pair=[0, 2])
    assert not found.turns
    assert len(found.dropped) == 0


def test_a_set_of_many_answers_turns_the_order_when_refitted(seed):
    """Where one step understates, the set grows until the new fit agrees; within a tenth of the answers."""
    truth = simulated_preferences(30, 4, 600, key=seed)
    fit = laplace(BradleyTerry(), truth.items, truth.comparisons)
    order = np.argsort(-(truth.items.features @ fit.center))
    assert order_influence(fit, truth.items, at_most=0.9).first == order[0]
    gaps = -np.diff((truth.items.features @ fit.center)[order])
    near = int(np.argmin(np.abs(gaps - 0.1)))
    found = order_influence(fit, truth.items, pair=order[[near + 1, near]])
    assert (found.first, found.second) == tuple(order[[near, near + 1]])
    assert found.turns
    assert found.predicted < 0.3 * found.difference
    assert 1 <= len(found.dropped) <= 60


def test_influence_asks_for_what_it_needs(rng):
    items, answers = Items.named("abc"), Comparisons([0, 1], [1, 2], [1.0, 0.5])
    fit = laplace(BradleyTerry(AbilityHead(1.0)), items, answers)
    chains = SampledPosterior("nuts", fit.context, {}, {"ability": rng.normal(size=(2, 5, 3))}, {})
    with pytest.raises(ValueError, match="needs the Laplace posterior of Bradley-Terry or Thurstone"):
        order_influence(chains, items)
    with pytest.raises(ValueError, match="got a laplace posterior of Davidson"):
        order_influence(laplace(Davidson(AbilityHead(1.0)), items, answers), items)
    with pytest.raises(ValueError, match="at_most"):
        order_influence(fit, items, at_most=0.0)


# Model comparison


@pytest.mark.filterwarnings("ignore::UserWarning")  # ArviZ tells of Pareto k
def test_the_model_that_made_the_answers_is_preferred(seed):
    """Graded answers by Davidson with many ties: Davidson before a Rao-Kupper that is held at no ties."""
    rng = np.random.default_rng(seed)
    ability, items = rng.normal(size=10), Items.named(range(10))
    first = rng.integers(10, size=1500)
    second = (first + rng.integers(1, 10, size=1500)) % 10
    logit = 2.0 * (ability[first] - ability[second])
    p = Davidson().probabilities(logit, {"tie_strength": 1.0})
    level = (rng.random(1500)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    answers = Comparisons(first, second, level / 2)
    fits = {
        "Davidson": laplace(Davidson(AbilityHead(2.0)), items, answers),
        "flat": laplace(Davidson(AbilityHead(0.01)), items, answers),
        "Rao-Kupper": laplace(RaoKupper(AbilityHead(2.0)), items, answers),
        "Graded": laplace(Graded(AbilityHead(2.0), levels=3), items, answers),
    }
    table = compare_models(fits, draws=1000)
    assert table.index[-1] == "flat"
    column = next(name for name in ("elpd_loo", "elpd") if name in table)
    assert table[column]["Davidson"] > table[column]["flat"] + 100
    assert table[column]["Rao-Kupper"] == pytest.approx(table[column]["Graded"], abs=1.0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_leave_one_out_is_near_its_exact_value(rng):
    """Twelve exact refits; the importance-sampled sum is within a fifth of a nat."""
    items = Items.named("abcd")
    first = np.tile([0, 1, 2], 4)
    answers = Comparisons(first, first + 1, rng.integers(0, 2, 12).astype(float))
    exact, models = {}, {"BT": BradleyTerry(AbilityHead(0.7)), "T": Thurstone(AbilityHead(0.7))}
    for name, model in models.items():
        total = 0.0
        for m in range(12):
            fit = laplace(model, items, answers.take(np.arange(12) != m))
            p = win_probability(fit, items, answers.pairs[[m]])[0]
            total += np.log(p if answers.outcome[m] else 1 - p)
        exact[name] = total
    fits = {
        "BT": laplace(BradleyTerry(AbilityHead(0.7)), items, answers),
        "T": laplace(Thurstone(AbilityHead(0.7)), items, answers),
    }
    table = compare_models(fits, draws=4000)
    column = next(name for name in ("elpd_loo", "elpd") if name in table)
    for name, value in exact.items():
        assert table[column][name] == pytest.approx(value, abs=0.2)


def test_comparisons_of_models_that_mean_nothing_are_refused():
    truth = simulated_preferences(20, 3, 60)
    items, answers = truth.items, truth.comparisons
    fit = laplace(BradleyTerry(LinearHead(1.0)), items, answers)
    other = laplace(BradleyTerry(LinearHead(1.0)), items, answers.take(np.arange(50)))
    classes = laplace(PointwiseClassifier(LinearHead(1.0)), items, answers)
    ties = Comparisons(answers.first, answers.second, np.where(np.arange(60) % 5 == 0, 0.5, answers.outcome))
    tied = laplace(BradleyTerry(LinearHead(1.0)), items, ties), laplace(Davidson(LinearHead(1.0)), items, ties)
    for fits, message in (
        ({"a": fit}, "at least two models"),
        ({"a": fit, "b": other}, "'a' and 'b' were fitted to different comparisons"),
        ({"a": fit, "b": classes}, "'b' classifies single items"),
        (dict(zip("ab", tied, strict=True)), r"12 outcome\(s\) are ties or soft: \['a'\] count them as fractions"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_models(fits)
