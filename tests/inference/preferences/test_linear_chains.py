"""Chains in whitened data: the target is the model's own density; draws are those of plain chains."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

from tercet.inference import laplace, nuts, reward_difference
from tercet.inference.posteriors.nuts import has_whitened_data
from tercet.models import AbilityHead, BradleyTerry, Comparisons, Davidson, Graded, Items, LinearHead, Thurstone


@pytest.fixture
def data(rng):
    items = Items(rng.normal(size=(12, 3)))
    first = rng.integers(12, size=150)
    return items, Comparisons(first, (first + rng.integers(1, 12, 150)) % 12, rng.random(150), rng.random(150) + 0.5)


@pytest.mark.parametrize("many", [True, False], ids=["graph", "dense"])
@pytest.mark.parametrize(
    "model",
    [
        BradleyTerry(LinearHead(1.0)),
        Thurstone(LinearHead(1.0), order_effect=True),
        BradleyTerry(AbilityHead(1.5), order_effect=True),
        BradleyTerry(AbilityHead(math.inf)),
        BradleyTerry(LinearHead(math.inf)),
        Davidson(LinearHead(1.0), order_effect=True),
        Graded(AbilityHead(1.5), levels=5),
    ],
    ids=repr,
)
def test_the_target_is_the_density_of_the_model(model, many, data, rng):
    """Differences of log densities at random points, to rounding."""
    items, answers = data
    if model.answers.levels is not None:
        answers = replace(answers, outcome=np.rint(answers.outcome * (last := model.answers.levels - 1)) / last)
    answers = answers if many else answers.take(np.arange(14 if math.isinf(model.prior_sd) else 7))
    if not many and isinstance(model.head, AbilityHead) and math.isinf(model.prior_sd):
        pytest.skip("few answers do not connect the items")
    fit = laplace(model, items, answers)
    assert has_whitened_data(fit, model)
    target, whitened = model.whitened(fit.center, fit.root, items, answers)
    u = rng.normal(size=(5, len(fit.center)))
    ours = [log_density(target, (whitened,), {}, {"u": jnp.asarray(one)})[0] for one in u]
    z = fit.center + u @ fit.root.T
    jacobian = sum(fit.unravel(z)[name].reshape(5, -1).sum(axis=1) for name in fit.positive)
    theirs = fit.log_density(fit.constrain(z)) + jacobian
    np.testing.assert_allclose(np.diff(ours), np.diff(theirs), atol=1e-8)
    np.testing.assert_allclose(np.diff(fit.log_p(z)), np.diff(theirs), atol=1e-8)


def test_draws_are_those_of_plain_chains(data):
    """Five standard errors, and the errors themselves are what effective sizes say."""
    items, answers = data
    model = BradleyTerry(LinearHead(1.0), order_effect=True)
    fit = laplace(model, items, answers)
    white, plain = nuts(model, *data, start=fit, warmup=300, samples=1000), nuts(model, *data, warmup=500, samples=1000)
    assert white.diagnostics["converged"]
    assert set(white.draws(5)) == set(plain.draws(5)) == {"weights", "order_effect"}
    for site, values in plain.draws(4000).items():
        found = white.draws(4000)[site]
        error = 5 * values.std(0) / np.sqrt(plain.diagnostics["ess"])
        assert (np.abs(found.mean(0) - values.mean(0)) < error).all()
        np.testing.assert_allclose(found.std(0), values.std(0), rtol=0.15)
    pairs = np.array([[0, 1], [2, 3]])
    one, other = (reward_difference(posterior, items, pairs) for posterior in (white, fit))
    np.testing.assert_allclose(one.mean, other.mean, atol=0.3 * other.sd.max())


@pytest.mark.precision
def test_they_run_in_the_precision_of_the_user(data, bits):
    fit = laplace(BradleyTerry(LinearHead(1.0)), *data)
    chains = nuts(BradleyTerry(LinearHead(1.0)), *data, start=fit, warmup=200, samples=250, chains=2)
    assert (jax.config.read("jax_enable_x64")) == (bits == 64)
    assert np.abs(chains.mean()["weights"] - fit.center).max() < 0.3


def test_another_model_takes_the_general_way(data):
    items, answers = data
    asked = replace(answers, annotator=np.arange(len(answers)) % 2)
    fit = laplace(BradleyTerry(LinearHead(1.0), annotators=True), items, asked)
    assert not has_whitened_data(fit, fit.model)
    other = laplace(BradleyTerry(LinearHead(1.0)), items, answers)
    assert not has_whitened_data(other, BradleyTerry(LinearHead(2.0)))
