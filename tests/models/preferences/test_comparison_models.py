"""The comparison models as NumPyro models: sites, plates, densities, invariances, refusals."""

import math

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro.handlers import seed as seeded
from numpyro.handlers import substitute, trace
from numpyro.infer.util import log_density

from tercet.models import AbilityHead, BradleyTerry, Comparisons, Davidson, Items, LinearHead, Thurstone
from tercet.models._inputs import as_generator, as_key

MODELS = [BradleyTerry, Thurstone, Davidson]
each_model = pytest.mark.parametrize("family", MODELS, ids=lambda m: m.__name__)


@pytest.fixture
def data(rng):
    items = Items(rng.normal(size=(6, 3)))
    first = rng.integers(6, size=25)
    second = (first + rng.integers(1, 6, size=25)) % 6
    return items, Comparisons(first, second, rng.choice([0.0, 0.5, 1.0], size=25), weight=rng.random(25) + 0.5)


def value(model, sites, items, comparisons):
    return float(jax.jit(lambda s: log_density(model, (items, comparisons), {}, s)[0])(sites))


@each_model
def test_swapping_a_pair_and_its_outcome_changes_nothing(family, data):
    items, answers = data
    sites = {"weights": np.array([0.3, -1.0, 0.7]), "tie_strength": 0.8}
    model = family(LinearHead(1.5))
    assert value(model, sites, items, answers) == pytest.approx(value(model, sites, items, answers.swap()), abs=1e-10)


@each_model
def test_likelihood_sees_only_reward_differences(family, data):
    """Under a flat prior a common shift moves the gauge term alone."""
    items, answers = data
    model = family(AbilityHead(math.inf))
    ability = np.linspace(-1, 1, 6)
    before = value(model, {"ability": ability, "tie_strength": 0.8}, items, answers)
    after = value(model, {"ability": ability + 2.0, "tie_strength": 0.8}, items, answers)
    assert after - before == pytest.approx(-0.5 * 2.0**2, abs=1e-10)


@each_model
def test_a_weight_is_that_many_answers(family, data):
    items, answers = data
    sites = {"weights": np.array([0.3, -1.0, 0.7]), "tie_strength": 0.8}
    once = answers.take([0, 1])
    twice = Comparisons(once.first, once.second, once.outcome, weight=[2, 2])
    plain = Comparisons(once.first, once.second, once.outcome)
    model = family(LinearHead(1.5))
    assert value(model, sites, items, twice) == pytest.approx(value(model, sites, items, plain.extend(plain)))


def test_density_is_the_formula(data):
    """Bradley-Terry with an order effect: Normal priors and weighted log sigma, written out."""
    items, answers = data
    weights, order = np.array([0.5, 0.2, -0.4]), 0.3
    model = BradleyTerry(LinearHead(2.0), order_effect=True)
    tau = 2.0 / np.sqrt(2 * items.features.var(0).sum())
    r = items.features @ weights
    logit = r[answers.first] - r[answers.second] + order
    y = answers.outcome
    likelihood = answers.weight @ (y * -np.log1p(np.exp(-logit)) + (1 - y) * -np.log1p(np.exp(logit)))
    prior = scipy.stats.norm(0, tau).logpdf(weights).sum() + scipy.stats.norm(0, 1).logpdf(order)
    assert value(model, {"weights": weights, "order_effect": order}, items, answers) == pytest.approx(
        likelihood + prior, rel=1e-9
    )


@pytest.mark.parametrize("head", [LinearHead(1.7), AbilityHead(1.7)], ids=["linear", "ability"])
def test_prior_sd_is_that_of_a_random_difference(head, rng):
    """E Var(r_i - r_j) over random pairs is prior_sd^2, whatever the units of the features.

    Linear: exactly, over pairs drawn with replacement. Abilities: over different items.
    """
    items = Items(rng.normal(size=(40, 3)) * [1.0, 10.0, 100.0] + 50.0)
    tau = head.prior_sd * head.unit(items)
    phi = np.eye(40) if isinstance(head, AbilityHead) else items.features
    gaps = phi[:, None] - phi[None]
    variances = tau**2 * np.square(gaps).sum(-1)
    mean = variances[0, 1] if isinstance(head, AbilityHead) else variances.mean()
    assert mean == pytest.approx(1.7**2)


def test_learned_scale_is_a_half_normal_site_and_the_head_not_centred(data):
    sites = trace(seeded(BradleyTerry(LinearHead()), 0)).get_trace(*data)
    assert isinstance(sites["prior_sd"]["fn"], dist.HalfNormal)
    tau = sites["prior_sd"]["value"] * LinearHead().unit(data[0])
    np.testing.assert_allclose(sites["weights"]["value"], tau * sites["weights_base"]["value"], rtol=1e-9)


@each_model
def test_sites_and_plates_are_named(family, data):
    items, answers = data
    answers = Comparisons(answers.first, answers.second, answers.outcome, annotator=np.arange(25) % 3)
    sites = trace(seeded(family(AbilityHead(1.0), True, True), 0)).get_trace(items, answers)
    frames = {name: [f.name for f in site.get("cond_indep_stack", [])] for name, site in sites.items()}
    assert frames["ability"] == ["item"]
    assert frames["precision_base"] == ["annotator"]
    assert frames["outcome"] == ["comparison"]
    assert {"order_effect", "precision_spread", "precision"} <= set(sites)
    assert ("tie_strength" in sites) == (family is Davidson)


def test_annotator_precision_multiplies_the_logit(data):
    """An annotator of precision zero answers at random: log 2 an answer."""
    items, answers = data
    who = np.arange(25) % 2
    answers = Comparisons(answers.first, answers.second, np.ones(25), annotator=who)
    model = BradleyTerry(LinearHead(1.0), annotators=True)
    fixed = substitute(seeded(model, 0), {"precision_spread": 1.0, "precision_base": np.array([-800.0, 0.0])})
    outcome = trace(fixed).get_trace(items, answers)["outcome"]
    terms = np.asarray(outcome["fn"].log_prob(outcome["value"]))
    np.testing.assert_allclose(terms[who == 0], -np.log(2))
    assert np.ptp(terms[who == 1]) > 0.01
    with pytest.raises(ValueError, match="annotators=True needs"):
        model(items, data[1])


def test_davidson_is_its_definition():
    """Odds exp(r/2) : nu : exp(-r/2); far tails finite; information is the derivative of the mean's score."""
    model, r, nu = Davidson(), np.linspace(-5, 5, 11), 0.6
    odds = np.stack([np.exp(-r / 2), np.full(11, nu), np.exp(r / 2)], axis=-1)
    p = odds / odds.sum(-1, keepdims=True)
    sites = {"tie_strength": nu}
    np.testing.assert_allclose(model.probabilities(r, sites), p, rtol=1e-12)
    np.testing.assert_allclose(model.expected_outcome(r, sites), p[:, 2] + p[:, 1] / 2, rtol=1e-12)
    assert np.isfinite(model.probabilities(np.array([-1e4, 1e4]), sites)).all()
    log_p = lambda t: jax.nn.log_softmax(jax.numpy.array([-t / 2, np.log(nu), t / 2]))  # noqa: E731
    scores = jax.vmap(jax.jacfwd(log_p))(r)
    np.testing.assert_allclose(model.information(r, sites), (p * scores**2).sum(-1), rtol=1e-9)


def test_davidson_refuses_soft_outcomes(data):
    items, _ = data
    soft = Comparisons([0], [1], [0.3])
    with pytest.raises(ValueError, match=r"0\.3.*Use BradleyTerry or Thurstone"):
        Davidson(LinearHead(1.0))(items, soft)


@each_model
@pytest.mark.parametrize(("first", "second"), [([6], [0]), ([0], [9])])
def test_pairs_out_of_range_are_refused(family, first, second, data):
    with pytest.raises(ValueError, match="out of range of 6 item"):
        seeded(family(LinearHead(1.0)), 0)(data[0], Comparisons(first, second, [1]))


@pytest.mark.parametrize("prior_sd", [0.0, -1.0, float("nan")])
def test_prior_sd_must_be_positive(prior_sd):
    with pytest.raises(ValueError, match="prior_sd must be positive, None"):
        AbilityHead(prior_sd)


def test_constant_features_are_refused():
    with pytest.raises(ValueError, match=r"same features.*cannot tell them apart"):
        LinearHead(1.0).unit(Items(np.ones((3, 2))))


def test_keys_are_seeds_or_jax_keys():
    """The same key gives the same stream; what is no key is refused."""
    for key in (3, np.int64(3), jax.random.key(3), jax.random.PRNGKey(3)):
        assert jax.random.key_data(as_key(key)).tolist() == jax.random.key_data(jax.random.key(3)).tolist()
        assert as_generator(key).random() == as_generator(key).random()
    assert as_generator(1).random() != as_generator(-1).random()
    for bad in (None, 1.5, True, "seed"):
        with pytest.raises(ValueError, match="key must be an int seed or a JAX key"):
            as_key(bad)


@pytest.mark.parametrize("model", [BradleyTerry(), Thurstone()], ids=["Bradley-Terry", "Thurstone"])
def test_two_answers_are_second_then_first(model):
    """Their log probabilities are those of the model's own distribution."""
    r = np.linspace(-3, 3, 7)
    p = model.probabilities(r, {})
    np.testing.assert_allclose(np.log(p[:, 0]), model.answer(r).log_prob(np.zeros(7)), rtol=1e-9)
    np.testing.assert_allclose(np.log(p[:, 1]), model.answer(r).log_prob(np.ones(7)), rtol=1e-9)
