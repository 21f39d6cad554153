"""`laplace` on models that are not ours: closed forms, constrained and plated sites, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from scipy.special import gammaln

from tercet.inference import LaplaceOptions, laplace


def test_gamma_poisson_on_the_log_scale(rng):
    """Rate ~ Gamma(a, b), counts y: z = log lambda has its mode at log(A / B) and curvature A.

    A = a + sum y, B = b + n; the evidence is Laplace's of a Gamma(A, B) in z, Stirling's formula for Gamma(A).
    """
    a, b, y = 2.5, 1.5, rng.poisson(4.0, size=20)

    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(a, b))
        with numpyro.plate("day", len(y)):
            numpyro.sample("count", dist.Poisson(rate), obs=y)

    fit = laplace(model, y)
    A, B = a + y.sum(), b + len(y)
    np.testing.assert_allclose(fit.center, [np.log(A / B)], atol=1e-9)
    np.testing.assert_allclose(fit.precision_factor**2, [[A]], rtol=1e-8)
    exact = a * np.log(b) - gammaln(a) - gammaln(y + 1).sum() + gammaln(A) - A * np.log(B)
    stirling = gammaln(A) - (A * np.log(A) - A + 0.5 * np.log(2 * np.pi / A))
    assert fit.diagnostics["log_evidence"] == pytest.approx(exact - stirling, abs=1e-8)
    # mean of exp(z) for z normal, from 4,000 fixed draws
    expected = A / B * np.exp(0.5 / A)
    assert fit.mean()["rate"] == pytest.approx(expected, abs=6 * expected / np.sqrt(A) / np.sqrt(4000))


def test_beta_bernoulli_on_the_logit_scale():
    """Mode of the logit at log(A / B), curvature A B / (A + B), with A = a + successes, B = b + failures."""

    def model(y):
        p = numpyro.sample("p", dist.Beta(2.0, 3.0))
        with numpyro.plate("trial", len(y)):
            numpyro.sample("y", dist.Bernoulli(p), obs=y)

    fit = laplace(model, np.array([1, 1, 1, 0, 1, 0, 1, 1]))
    A, B = 8.0, 5.0
    np.testing.assert_allclose(fit.center, [np.log(A / B)], atol=1e-9)
    np.testing.assert_allclose(fit.precision_factor**2, [[A * B / (A + B)]], rtol=1e-8)
    assert 0 < fit.draws(500)["p"].min() < fit.draws(500)["p"].max() < 1


def test_plated_normal_is_exact(rng):
    """Groups with Normal means around a Normal grand mean: Laplace is the posterior, evidence included."""
    groups, per, tau, sigma = 4, 6, 0.8, 1.3
    y = rng.normal(1.0, 1.5, size=(per, groups))

    def model(y):
        grand = numpyro.sample("grand", dist.Normal(0, 2))
        with numpyro.plate("group", groups):
            mean = numpyro.sample("mean", dist.Normal(grand, tau))
            with numpyro.plate("row", per):
                numpyro.sample("y", dist.Normal(mean, sigma), obs=y)

    fit = laplace(model, y)
    to_groups = np.column_stack([np.zeros((groups, 1)), np.eye(groups)])
    design = np.tile(to_groups, (per, 1))
    link = np.column_stack([-np.ones(groups), np.eye(groups)])
    precision = design.T @ design / sigma**2 + link.T @ link / tau**2
    precision[0, 0] += 1 / 4
    mean = np.linalg.solve(precision, design.T @ y.ravel() / sigma**2)
    np.testing.assert_allclose(np.append(fit.mean()["grand"], fit.mean()["mean"]), mean, atol=1e-8)
    np.testing.assert_allclose(fit.root @ fit.root.T, np.linalg.inv(precision), atol=1e-9)
    same = np.kron(np.ones((per, per)), np.eye(groups))
    covariance = 4.0 * np.ones((groups * per,) * 2) + tau**2 * same + sigma**2 * np.eye(groups * per)
    evidence = scipy.stats.multivariate_normal(np.zeros(groups * per), covariance).logpdf(y.ravel())
    assert fit.diagnostics["log_evidence"] == pytest.approx(evidence, abs=1e-7)
    z = fit.unconstrained_draws(50, key=1)
    np.testing.assert_allclose(fit.log_p(z) - fit.log_q(z), evidence, atol=1e-7)
    # every ratio is the same up to rounding: the approximation is exact
    assert fit.importance_check()["efficiency"] == pytest.approx(1.0, abs=1e-9)


def test_deterministic_and_matrix_sites_keep_their_shapes():
    def model():
        x = numpyro.sample("x", dist.Normal(jnp.zeros((2, 3)), 1).to_event(2))
        s = numpyro.sample("s", dist.Dirichlet(jnp.ones(4)))
        numpyro.deterministic("norm", jnp.sum(x**2))
        numpyro.sample("y", dist.Normal(jnp.sum(x) + s[0], 1), obs=1.0)

    fit = laplace(model)
    draws, mean = fit.draws(7), fit.mean()
    assert {n: v.shape for n, v in draws.items()} == {"x": (7, 2, 3), "s": (7, 4), "norm": (7,)}
    assert {n: np.shape(v) for n, v in mean.items()} == {"x": (2, 3), "s": (4,), "norm": ()}
    np.testing.assert_allclose(draws["s"].sum(1), 1)
    np.testing.assert_allclose(draws["norm"], np.square(draws["x"]).sum((1, 2)))
    # x are six equal contrasts of one answer: by symmetry all alike, and real sites have their exact mean
    np.testing.assert_allclose(mean["x"], np.full((2, 3), mean["x"][0, 0]), atol=1e-9)


def test_flat_hessian_is_an_error_that_names_the_way_out():
    """Only the sum of two sites is seen and neither has a prior: singular."""

    def model():
        flat = dist.ImproperUniform(dist.constraints.real, (), ())
        total = numpyro.sample("a", flat) + numpyro.sample("b", flat)
        numpyro.sample("y", dist.Normal(total, 1), obs=0.3)

    with pytest.raises(np.linalg.LinAlgError, match=r"not positive definite.*gauss-newton.*proper prior.*nuts"):
        laplace(model)


def test_gauss_newton_where_the_exact_hessian_fails():
    """An answer about a^2 + b^2 only: the modes are a ring, along which the exact Hessian is zero.

    Gauss-Newton has 1/100 along the ring (the prior) and 4 r^2 + 1/100 across it, with r^2 = 4 - 1/200.
    """

    def ring():
        a, b = (numpyro.sample(name, dist.Normal(0, 10)) for name in "ab")
        numpyro.sample("y", dist.Normal(a**2 + b**2, 1.0), obs=4.0)

    with pytest.raises(np.linalg.LinAlgError, match=r"not positive definite.*gauss-newton"):
        laplace(ring, options=LaplaceOptions(tolerance=1e-10))
    fit = laplace(ring, options=LaplaceOptions(curvature="gauss-newton"))
    assert np.square(fit.center).sum() == pytest.approx(4 - 1 / 200, abs=1e-7)
    spectrum = np.linalg.eigvalsh(fit.precision_factor @ fit.precision_factor.T)
    np.testing.assert_allclose(spectrum, [1 / 100, 4 * (4 - 1 / 200) + 1 / 100], rtol=1e-6)


@pytest.mark.parametrize(
    "family",
    [
        lambda x: dist.Normal(jnp.sin(x), 0.5),
        lambda x: dist.Poisson(jnp.exp(0.5 * x)),
        lambda x: dist.Bernoulli(logits=x),
    ],
    ids=["normal", "poisson", "bernoulli"],
)
def test_gauss_newton_is_information_plus_prior(family):
    """For a canonical link it equals the exact Hessian; else it is J' I J + 1 written out."""
    y = 1.0

    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        with numpyro.plate("n", 3), numpyro.handlers.scale(scale=2.0):
            numpyro.sample("y", family(x), obs=jnp.full(3, y))

    fit = laplace(model, options=LaplaceOptions(curvature="gauss-newton"))
    x = float(fit.center[0])
    information = {
        dist.Normal: lambda: np.cos(x) ** 2 / 0.25,
        dist.Poisson: lambda: 0.25 * np.exp(0.5 * x),
        dist.BernoulliLogits: lambda: float(jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)),
    }[type(family(0.0))]()
    np.testing.assert_allclose(fit.precision_factor[0, 0] ** 2, 6 * information + 1, rtol=1e-7)


def discrete():
    numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(0, 1), obs=0.0)


def subsampled():
    x = numpyro.sample("x", dist.Normal(0, 1))
    with numpyro.plate("n", 10, subsample_size=4):
        numpyro.sample("y", dist.Normal(x, 1), obs=jnp.zeros(4))


def nothing_latent():
    numpyro.sample("y", dist.Normal(0, 1), obs=0.0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (discrete, "site 'k' is discrete.*marginalise"),
        (subsampled, "plate 'n' subsamples.*whole data"),
        (nothing_latent, "no latent sample site"),
    ],
)
def test_models_that_have_no_gaussian(model, message):
    with pytest.raises(ValueError, match=message):
        laplace(model)


def test_unfinished_search_warns_and_says_so():
    """A narrow curved valley and two iterations."""

    def model():
        x = numpyro.sample("x", dist.Normal(0, 100))
        numpyro.sample("a", dist.Normal(jnp.exp(x / 3), 0.1), obs=90.0)
        numpyro.sample("b", dist.Laplace(x, 0.1), obs=13.5)

    with pytest.warns(UserWarning, match=r"search for the mode stopped.*not centred on a mode"):
        fit = laplace(model, options=LaplaceOptions(max_steps=1))
    assert not fit.diagnostics["converged"]


@pytest.mark.parametrize("options", [{"curvature": "exakt"}, {"prior_sd_range": (1.0, 0.5)}])
def test_options_are_checked(options):
    with pytest.raises(ValueError, match="must be"):
        LaplaceOptions(**options)


def test_the_answer_does_not_depend_on_the_key_of_the_start():
    """Log-concave: one mode from any start."""

    def model():
        x = numpyro.sample("x", dist.Normal(0, 3).expand([3]).to_event(1))
        numpyro.sample("y", dist.Poisson(jnp.exp(x)).to_event(1), obs=jnp.array([0, 2, 9]))

    fits = [laplace(model, key=key).center for key in (0, 1, jax.random.key(2))]
    np.testing.assert_allclose(fits[1], fits[0], atol=1e-8)
    np.testing.assert_allclose(fits[2], fits[0], atol=1e-8)
