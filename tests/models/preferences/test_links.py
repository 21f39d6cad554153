"""Links and their distributions against NumPyro's, finite differences, numerical integrals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from tercet.models.preferences.distributions import SoftBernoulli
from tercet.models.preferences.links import (
    MIXTURE,
    SCALES,
    Logistic,
    Probit,
    gauss_hermite,
    inverse_mills,
    kolmogorov_density,
)

LINKS = [(link, partial(SoftBernoulli, link=link)) for link in (Logistic(), Probit())]
each_link = pytest.mark.parametrize(("link", "family"), LINKS, ids=["logistic", "probit"])
R = np.linspace(-6, 6, 49)


@each_link
@pytest.mark.parametrize("outcome", [0.0, 0.3, 1.0])
def test_score_and_curvature_are_derivatives(link, family, outcome):
    """Analytic derivatives = JAX's of the distribution's log density = central differences."""
    outcome = np.full(len(R), outcome)
    total = lambda r: family(r).log_prob(outcome).sum()  # noqa: E731
    np.testing.assert_allclose(link.log_likelihood(R, outcome), family(R).log_prob(outcome), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(link.score(R, outcome), jax.grad(total)(jnp.array(R)), rtol=1e-8, atol=1e-12)
    h = 1e-5
    np.testing.assert_allclose(
        link.score(R, outcome),
        (link.log_likelihood(R + h, outcome) - link.log_likelihood(R - h, outcome)) / (2 * h),
        atol=1e-8,
    )
    np.testing.assert_allclose(
        link.curvature(R, outcome),
        -(link.score(R + h, outcome) - link.score(R - h, outcome)) / (2 * h),
        atol=1e-8,
    )


@each_link
def test_information_is_expected_curvature_and_links_are_symmetric(link, family):
    p = link.probability(R)
    np.testing.assert_allclose(p + link.probability(-R), 1.0)
    expected = p * link.curvature(R, np.ones(len(R))) + (1 - p) * link.curvature(R, np.zeros(len(R)))
    np.testing.assert_allclose(link.information(R), expected, rtol=1e-8)
    np.testing.assert_allclose(link.information(R), link.information(-R), rtol=1e-8)


@each_link
def test_entropy_is_that_of_a_coin(link, family):
    """And zero, not NaN, where an answer is certain."""
    np.testing.assert_allclose(link.entropy(R), scipy.stats.bernoulli(link.probability(R)).entropy(), rtol=1e-6)
    assert link.entropy(np.zeros(1))[0] == pytest.approx(np.log(2.0), rel=1e-12)
    np.testing.assert_array_equal(np.abs(link.entropy(np.array([-1e4, 1e4]))), 0.0)


def test_hard_outcomes_agree_with_numpyro():
    """Logistic: BernoulliLogits; probit: BernoulliProbs of Phi(r)."""
    for y in (0, 1):
        np.testing.assert_allclose(
            SoftBernoulli(R, Logistic()).log_prob(y), dist.BernoulliLogits(R).log_prob(y), rtol=1e-12
        )
        phi = scipy.stats.norm.cdf(R)
        np.testing.assert_allclose(
            SoftBernoulli(R, Probit()).log_prob(y), dist.BernoulliProbs(phi).log_prob(y), rtol=1e-7
        )


@each_link
@pytest.mark.parametrize("outcome", [0.0, 0.5, 1.0])
def test_both_tails_are_finite(link, family, outcome):
    far = np.array([-1e4, -300.0, -40.0, 40.0, 300.0, 1e4])
    outcome = np.full(len(far), outcome)
    for values in (
        link.log_likelihood(far, outcome),
        link.score(far, outcome),
        link.curvature(far, outcome),
        link.information(far),
        np.asarray(family(far).log_prob(outcome)),
        np.asarray(jax.grad(lambda r: family(r).log_prob(outcome).sum())(jnp.array(far))),
    ):
        assert np.isfinite(values).all()
    assert (link.curvature(far, outcome) >= 0).all()


def test_probit_tail_follows_its_asymptote():
    """Mills ratio: phi / Phi at r -> -inf is -r - 1/r + 2/r^3, so a surprised answer has curvature near 1 - 1/r^2."""
    far = -np.array([20.0, 100.0, 1000.0, 1e5])
    np.testing.assert_allclose(inverse_mills(far), -far - 1 / far + 2 / far**3, rtol=3e-7)
    np.testing.assert_allclose(Probit().curvature(far, np.ones(4)), 1 - 1 / far**2 + 6 / far**4, atol=1e-5)


@pytest.mark.parametrize("sd", [0.0, 0.1, 1.0, 3.0, 5.0])
def test_integrals_over_the_normal(sd):
    """Logistic by adaptive integration, probit by its closed form, quadrature of Phi too."""
    means = np.array([-8.0, -1.5, 0.0, 0.4, 3.0])

    def integral(mean):
        def f(t):
            return scipy.special.expit(mean + sd * t) * scipy.stats.norm.pdf(t)

        return scipy.integrate.quad(f, -12, 12, points=[np.clip(-mean / max(sd, 0.1), -11, 11)], limit=200)[0]

    exact = np.array([integral(mean) for mean in means])
    np.testing.assert_allclose(Logistic().integrate(means, np.full(5, sd**2)), exact, atol=1e-8)
    closed = scipy.stats.norm.cdf(means / np.sqrt(1 + sd**2))
    np.testing.assert_allclose(Probit().integrate(means, np.full(5, sd**2)), closed, rtol=1e-12)
    if sd <= 3:
        quadrature = gauss_hermite(Logistic().probability, means, np.full(5, sd**2))
        np.testing.assert_allclose(quadrature, exact, atol=5e-5)


def test_integrals_broadcast():
    for table in (
        gauss_hermite(Logistic().probability, np.zeros((3, 1)), np.ones(4)),
        Logistic().integrate(np.zeros((3, 1)), np.ones(4)),
    ):
        np.testing.assert_allclose(table, np.full((3, 4), 0.5), atol=1e-12)


@each_link
def test_samples_have_the_stated_mean_and_variance(link, family, seed):
    """Four standard errors of 100,000 draws at each of five logits."""
    fn = family(jnp.array([-3.0, -0.5, 0.0, 1.0, 2.5]))
    draws = np.asarray(fn.sample(jax.random.key(seed), (100_000,)))
    assert set(np.unique(draws)) <= {0.0, 1.0}
    p = link.probability(np.asarray(fn.logits))
    np.testing.assert_allclose(fn.mean, p, rtol=1e-9)
    np.testing.assert_allclose(fn.variance, p * (1 - p), rtol=1e-9)
    assert (np.abs(draws.mean(0) - p) < 5 * np.sqrt(p * (1 - p) / len(draws))).all()


@pytest.mark.parametrize("link", [Logistic(), Probit()], ids=["logistic", "probit"])
@pytest.mark.parametrize("sd", [0.0, 0.3, 1.0, 2.0])
def test_expected_information_against_numerical_integration(link, sd):
    """E information(r) over the normal of r, by a fine trapezoid rule."""
    means, grid = np.array([-4.0, -0.5, 0.0, 1.0, 3.0]), np.linspace(-9, 9, 20_001)
    weights = np.exp(-0.5 * grid**2) / np.exp(-0.5 * grid**2).sum()
    expected = [(weights * link.information(m + sd * grid)).sum() for m in means]
    tolerance = 1e-8 if isinstance(link, Logistic) else 2e-4
    np.testing.assert_allclose(link.integrate_information(means, np.full(5, sd**2)), expected, atol=tolerance)


def test_the_logistic_is_a_mixture_of_normals():
    """Andrews and Mallows: at any r, with the density of Kolmogorov's distribution, which SciPy gives to 1e-7."""
    r = np.linspace(-12.0, 12.0, 49)
    mixture = scipy.stats.norm.cdf(r[:, None] / (2.0 * SCALES)) @ MIXTURE
    np.testing.assert_allclose(mixture, scipy.special.expit(r), atol=2e-10)
    x = np.append(np.geomspace(0.2, 4.0, 30), [1.0 - 1e-12, 1.0])
    np.testing.assert_allclose(kolmogorov_density(x), scipy.stats.kstwobign.pdf(x), atol=1e-7)
    assert np.ptp(kolmogorov_density(x[-2:])) < 1e-11
