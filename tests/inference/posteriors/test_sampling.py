"""Laplace beside NUTS, and simulation-based calibration of both with a wrong prior as negative control.

Calibration works on islands: K pairs of items, each compared within itself only. The abilities of one island say
nothing about another's, so a single fit holds K independent replications.
"""

import warnings

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from scipy.special import expit

from tercet.datasets import simulated_preferences
from tercet.inference import laplace, nuts, reward_difference, svi
from tercet.models import AbilityHead, BradleyTerry, Comparisons, Items, LinearHead

ALARM = 1e-4  # false-alarm rate of each calibration test
ISLANDS, GAMES, SD = 300, 40, 1.5


def islands(rng):
    """Draw differences from the prior, then games; the fit's items, answers, pairs and the true differences."""
    ability = rng.normal(0, SD / np.sqrt(2), size=(ISLANDS, 2))
    truth = ability[:, 0] - ability[:, 1]
    pairs = np.arange(2 * ISLANDS).reshape(-1, 2)
    share = rng.binomial(GAMES, expit(truth)) / GAMES  # all games of an island in one weighted row
    answers = Comparisons(pairs[:, 0], pairs[:, 1], share, weight=np.full(ISLANDS, GAMES))
    return Items(np.ones((2 * ISLANDS, 1))), answers, pairs, truth


def uniformity(u):
    """P value of Pearson's chi-square of ten bins."""
    return scipy.stats.chisquare(np.histogram(u, bins=10, range=(0, 1))[0]).pvalue


def laplace_ranks(rng, prior_sd):
    items, answers, pairs, truth = islands(rng)
    gap = reward_difference(laplace(BradleyTerry(AbilityHead(prior_sd)), items, answers), items, pairs)
    return scipy.stats.norm.cdf((truth - gap.mean) / gap.sd)


def test_laplace_is_calibrated(rng):
    assert uniformity(laplace_ranks(rng, SD)) > ALARM


@pytest.mark.slow
def test_a_wrong_prior_is_found_out(seed):
    """A prior a third as wide fails the same test in at least 19 of 20 seeds."""
    found = [uniformity(laplace_ranks(np.random.default_rng([seed, k]), SD / 3)) for k in range(20)]
    assert sum(p < ALARM for p in found) >= 19


def quiet(method, *args, **options):
    """R-hat below 1.01 in each of 600 dimensions needs longer chains than calibration does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the chains have not converged")
        return method(*args, **options)


@pytest.mark.parametrize("prior_sd", [SD, pytest.param(SD / 3, marks=pytest.mark.slow)], ids=["right", "wrong"])
def test_nuts_is_calibrated_and_its_test_has_power(prior_sd, rng, seed):
    """Rank of the truth among 99 draws of each island's difference."""
    items, answers, pairs, truth = islands(rng)
    model = BradleyTerry(AbilityHead(prior_sd))
    fit = quiet(nuts, model, items, answers, key=seed, warmup=150, samples=125, chains=4)
    assert fit.diagnostics["divergences"] == 0
    draws = fit.draws(99, key=seed)["ability"]
    below = (draws[:, pairs[:, 0]] - draws[:, pairs[:, 1]] < truth).sum(0)
    assert (uniformity((below + 0.5) / 100) > ALARM) == (prior_sd == SD)


def gaps(n, seed):
    """Standardised gaps of means, and relative gaps of sds [16], between Laplace and NUTS."""
    truth = simulated_preferences(400, 16, n, difference_sd=1.0, key=seed)
    model = BradleyTerry(LinearHead(3.0))
    exact = laplace(model, truth.items, truth.comparisons)
    # In Laplace's units: the same target in fewer steps a draw (test_linear_chains compares with plain chains).
    chains = nuts(model, truth.items, truth.comparisons, start=exact, key=seed, warmup=150, samples=1500)
    sd = np.sqrt(np.diag(exact.root @ exact.root.T))
    draws = chains.draws(6_000)["weights"]
    return np.abs(draws.mean(0) - exact.center) / sd, np.abs(draws.std(0) / sd - 1)


@pytest.mark.slow
def test_laplace_is_nuts_on_many_answers_and_less_so_on_few(seed):
    """At 5,000 answers in 16 dimensions; Monte Carlo error of 6,000 draws is .013 sd and .9 %."""
    mean, spread = gaps(5000, seed)
    assert mean.max() < 0.1
    assert spread.max() < 0.05
    few = gaps(200, seed)
    assert few[0].mean() > mean.mean()
    assert few[1].mean() > spread.mean()


def test_svi_finds_the_gaussian_and_its_diagonal_family_is_too_narrow(rng):
    """A Normal model has a Normal posterior: the full family recovers it, the diagonal one its conditional sds."""
    D = rng.normal(size=(30, 3)) @ np.array([[1.0, 0.8, 0], [0, 0.6, 0], [0, 0, 1]])
    y = D @ [1.0, -0.5, 0.3] + rng.normal(size=30)

    def model(D, y):
        w = numpyro.sample("w", dist.Normal(0, 2.0).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(D @ w, 1.0).to_event(1), obs=y)

    precision = D.T @ D + np.eye(3) / 4
    mean, covariance = np.linalg.solve(precision, D.T @ y), np.linalg.inv(precision)
    full = svi(model, D, y, steps=4000)
    sd = np.sqrt(np.diag(covariance))
    assert (np.abs(full.center - mean) < 0.1 * sd).all()
    np.testing.assert_allclose(np.sqrt(np.diag(full.root @ full.root.T)), sd, rtol=0.1)
    diagonal = svi(model, D, y, family="diagonal", steps=4000)
    np.testing.assert_allclose(np.diag(diagonal.root), np.diag(precision) ** -0.5, rtol=0.1)


def test_short_chains_warn_and_say_so():
    truth = simulated_preferences(10, 2, 30)
    with pytest.warns(UserWarning, match=r"have not converged: R-hat.*raise warmup and samples"):
        fit = nuts(BradleyTerry(LinearHead(1.0)), truth.items, truth.comparisons, warmup=5, samples=20, chains=2)
    assert fit.diagnostics["converged"] is False


def test_svi_refuses_unknown_families():
    with pytest.raises(ValueError, match='family must be "full" or "diagonal", got \'low rank\''):
        svi(BradleyTerry(), family="low rank")


@pytest.mark.parametrize("steps", [1, 50, 150, 199])
@pytest.mark.filterwarnings("ignore:the ELBO was still rising")
def test_svi_runs_the_steps_asked_for(steps):
    """Counted as they are executed, in the compiled program."""
    executed = []

    def model():
        numpyro.sample("x", dist.Normal(0.0, 1.0))
        # where it is differentiated, once a particle and step
        numpyro.factor("counted", counted(numpyro.sample("y", dist.Normal(0.0, 1.0))))

    @jax.custom_vjp
    def counted(x):
        return 0.0 * x

    def backward(_, g):
        jax.debug.callback(lambda: executed.append(1))
        return (0.0 * g,)

    counted.defvjp(lambda x: (0.0 * x, None), backward)
    fit = svi(model, steps=steps, particles=1)
    jax.effects_barrier()
    assert len(executed) == steps
    assert np.isfinite(fit.center).all()
    if steps == 1:
        assert not fit.diagnostics["converged"]


@pytest.mark.parametrize("bad", [{"steps": 0}, {"particles": 0}])
def test_svi_needs_steps_and_particles(bad):
    with pytest.raises(ValueError, match="steps and particles must be at least 1"):
        svi(BradleyTerry(), **bad)
