"""A link, a comparison model and a reward head of the user's own: what follows from a method, and who accepts them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from tercet.designs import select_pairs
from tercet.inference import ability_table, laplace, reward, reward_difference, win_probability
from tercet.inference.preferences import comparison_information
from tercet.models import BradleyTerry, ComparisonModel, Comparisons, Davidson, Graded, Head, Items, LinearHead
from tercet.models.items import InMemory
from tercet.models.preferences import LinearInParameters, Link, Logistic, Probit
from tercet.models.preferences.distributions import SoftBernoulli


@dataclass(frozen=True)
class OwnLogistic(Link):
    def log_probability(self, r: Any) -> Any:
        return jax.nn.log_sigmoid(r)


@dataclass(frozen=True)
class OwnProbit(Link):
    def log_probability(self, r: Any) -> Any:
        return jax.scipy.special.log_ndtr(r)


@dataclass(frozen=True)
class Linked(ComparisonModel):
    link = OwnLogistic()


@dataclass(frozen=True)
class Answered(ComparisonModel):
    """Bradley-Terry by its distribution alone."""

    def answer(self, logit: Any) -> Any:
        return dist.CategoricalLogits(jnp.stack([jnp.zeros_like(logit), logit], axis=-1))

    def encode(self, outcome: Any) -> Any:
        return outcome.astype(int)


@dataclass(frozen=True)
class Squares(LinearInParameters):
    """r(x) = x^2 . w."""

    site = "weights"
    plate = "feature"

    def features(self, items: Items) -> InMemory:
        return InMemory(items.features**2)


@dataclass(frozen=True)
class Saturating(Head):
    """r(x) = tanh(x . w), without a prior scale that could be learned."""

    def __call__(self, items: Items) -> Any:
        weights = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([items.features.shape[1]]).to_event(1))
        return self.rewards({"w": weights}, items)

    def rewards(self, sites: Mapping[str, Any], items: Items) -> Any:
        return jnp.tanh(sites["w"] @ items.features.T)


@pytest.fixture
def data(rng):
    features = rng.normal(size=(20, 2))
    first = rng.integers(20, size=80)
    second = (first + rng.integers(1, 20, size=80)) % 20
    r = features @ [1.0, -0.5]
    outcome = (rng.random(80) < 1 / (1 + np.exp(r[second] - r[first]))).astype(float)
    return Items(features), Comparisons(first, second, outcome)


@pytest.mark.parametrize(("own", "closed"), [(OwnLogistic(), Logistic()), (OwnProbit(), Probit())], ids=["l", "p"])
def test_a_link_follows_from_its_log_probability(own, closed):
    r, y = np.linspace(-8, 8, 33), np.linspace(0, 1, 33)
    for name, given in (
        ("probability", (r,)), ("log_likelihood", (r, y)), ("score", (r, y)), ("curvature", (r, y)),
        ("information", (r,)), ("entropy", (r,)),
    ):  # fmt: skip
        np.testing.assert_allclose(
            getattr(own, name)(*given), getattr(closed, name)(*given), rtol=1e-7, atol=1e-14, err_msg=name
        )
    for name in ("integrate", "integrate_information"):
        ours, theirs = (getattr(link, name)(r, np.full(33, 0.5)) for link in (own, closed))
        np.testing.assert_allclose(ours, theirs, atol=1e-7, err_msg=name)
    eta, information = SoftBernoulli(r, own).fisher_information()
    np.testing.assert_allclose(eta[:, 0], r)
    np.testing.assert_allclose(information[:, 0, 0], closed.information(r), rtol=1e-7)


@pytest.mark.parametrize("family", [Davidson, Graded], ids=lambda f: f.__name__)
def test_what_a_model_says_of_answers_follows_from_their_distribution(family, rng):
    """The closed forms are those of the base class, which reads the distribution alone."""
    model, r = family(), rng.normal(size=(3, 5))
    sites = {"tie_strength": np.array(0.7), "cut_gaps": np.array([0.4, 1.1]), "cuts": np.array([-1.5, -0.4, 0.4, 1.5])}
    for name in ("probabilities", "information", "expected_outcome"):
        derived = getattr(ComparisonModel, name)(model, r, sites)
        np.testing.assert_allclose(derived, getattr(model, name)(r, sites), rtol=1e-9)


def accepted(model, items, answers):
    """What every question about a posterior answers."""
    fit = laplace(model, items, answers)
    pairs = np.array([[0, 1], [2, 3], [5, 4]])
    picked = select_pairs(items, fit, 3, candidates=60, criterion="greedy V")
    for criterion in ("BALD", "EPIG (draws)", "predictive entropy"):
        assert len(select_pairs(items, fit, 3, candidates=60, criterion=criterion).chosen) == 3
    assert np.isfinite(ability_table(fit, items)["sd"]).all()
    return (
        np.concatenate([*reward_difference(fit, items, pairs), win_probability(fit, items, pairs), picked.gains]),
        picked.chosen,
    )


def test_models_of_ones_own_are_accepted_by_everything(data):
    """Bradley-Terry by its link alone, and by its distribution alone: the same numbers."""
    expected, chosen = accepted(BradleyTerry(LinearHead(1.0)), *data)
    by_link, same = accepted(Linked(LinearHead(1.0)), *data)
    np.testing.assert_allclose(by_link, expected, rtol=1e-5)
    np.testing.assert_array_equal(same, chosen)
    by_answer, _ = accepted(Answered(LinearHead(1.0)), *data)
    np.testing.assert_allclose(by_answer[:6], expected[:6], rtol=1e-5)  # win probabilities are averages over draws
    np.testing.assert_allclose(by_answer[6:], expected[6:], rtol=0.1)


def test_heads_of_ones_own_are_accepted_by_everything(data):
    items, answers = data
    squared = Items(items.features**2)
    for prior_sd in (1.0, None):
        ours, theirs = (
            accepted(BradleyTerry(Squares(prior_sd)), *data),
            accepted(BradleyTerry(LinearHead(prior_sd)), squared, answers),
        )
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
        np.testing.assert_array_equal(ours[1], theirs[1])
    model = BradleyTerry(Squares(1.0))
    sites = laplace(model, *data).mean()
    np.testing.assert_allclose(
        comparison_information(model, sites, *data),
        comparison_information(BradleyTerry(LinearHead(1.0)), sites, squared, answers),
        rtol=1e-10,
    )
    values, _ = accepted(BradleyTerry(Saturating()), *data)
    assert np.isfinite(values).all()
    with pytest.raises(ValueError, match="Saturating has no prior scale"):
        BradleyTerry(Saturating()).with_prior_sd(1.0)


def test_a_model_without_link_and_answer_says_what_it_needs(data):
    with pytest.raises(NotImplementedError, match="ComparisonModel needs a link, or an answer"):
        laplace(ComparisonModel(Saturating()), *data)
    assert np.isnan(ComparisonModel(Saturating()).prior_sd)
    assert reward(laplace(BradleyTerry(Saturating()), *data), data[0]).mean.shape == (20,)
