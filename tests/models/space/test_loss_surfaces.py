"""Kernels, the collapsed normal distribution, and the surfaces they make."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from numpyro.handlers import seed as seeded
from numpyro.handlers import trace

from tercet.inference.posteriors.sharing import compiled_once
from tercet.models import LossSurface, Sites
from tercet.models._inputs import as_jax
from tercet.models.space import Frame
from tercet.models.space.basis_normal import BasisNormal
from tercet.models.space.kernels import KERNELS, SMOOTHNESS, covariance, derivative_over_distance, frequencies


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_those_of_scikit_learn(kernel, rng):
    gp = pytest.importorskip("sklearn.gaussian_process.kernels")
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(15, 3))
    peer = gp.RBF(0.7) if kernel == "squared exponential" else gp.Matern(0.7, nu=SMOOTHNESS[kernel])
    np.testing.assert_allclose(covariance(kernel, x, y, 0.7), peer(x, y), atol=1e-12)
    np.testing.assert_allclose(covariance(kernel, *as_jax((x, y)), 0.7), peer(x, y), atol=1e-12)
    np.testing.assert_allclose(np.diag(covariance(kernel, x, x, 0.7)), 1.0, atol=1e-6)


@pytest.mark.parametrize("kernel", ["matern 3/2", "matern 5/2", "squared exponential"])
def test_slopes_of_kernels_by_differences(kernel, rng):
    x, y, step = rng.normal(size=(1, 2)), rng.normal(size=(6, 2)), 1e-6
    ahead, behind = (covariance(kernel, x + s * np.array([[step, 0.0]]), y, 0.9) for s in (1, -1))
    computed = derivative_over_distance(kernel, np.square(x - y).sum(axis=1), 0.9) * (x - y)[:, 0]
    np.testing.assert_allclose(computed, ((ahead - behind) / (2 * step))[0], atol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_random_frequencies_make_the_kernel(kernel, rng):
    """Mean of cos(w (x - y)) over frequencies: its Monte Carlo error is at most 1 / sqrt(2 n)."""
    w = frequencies(kernel, 0.8, (40_000, 2), rng)
    x, y = rng.normal(size=(8, 2)), rng.normal(size=(1, 2))
    np.testing.assert_allclose(np.cos((x - y) @ w.T).mean(axis=1), covariance(kernel, x, y, 0.8)[:, 0], atol=0.02)


def test_no_gradient_where_there_is_none():
    with pytest.raises(ValueError, match="nowhere smooth"):
        derivative_over_distance("matern 1/2", np.ones(3), 1.0)


@pytest.mark.precision
def test_collapsed_law_is_the_dense_one(bits, rng):
    """Against the multivariate normal, with a level far from zero; its gradient; and its draws."""
    phi, scales, value = rng.normal(size=(40, 7)), rng.uniform(0.5, 2, 7), 100 + rng.normal(size=40)
    whole = (phi * scales**2) @ phi.T + 0.3**2 * np.eye(40)
    root = np.linalg.cholesky(whole)
    white = np.linalg.solve(root, value - 99.0)
    wanted = -0.5 * white @ white - np.log(np.diag(root)).sum() - 20 * np.log(2 * np.pi)

    def at(noise, phi, scales, value, key):
        law = BasisNormal(phi, 99.0, scales, noise)
        return law.log_prob(value), law.sample(key, (4000,))

    data = as_jax((phi, scales, value))
    program = compiled_once(jax.value_and_grad(at, has_aux=True))
    (computed, draws), slope = program(0.3, *data, jax.random.key(int(value[0])))
    assert float(computed) == pytest.approx(wanted, rel=1e-9 if bits == 64 else 3e-4)
    np.testing.assert_allclose(np.cov(np.asarray(draws).T), whole, atol=6 * whole.max() / np.sqrt(4000))
    if bits == 64:
        ahead, behind = (float(program(noise, *data, jax.random.key(0))[0][0]) for noise in (0.30001, 0.29999))
        assert float(slope) == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("kernel", ["matern 3/2", "matern 5/2", "squared exponential"])
@pytest.mark.parametrize(("d", "basis", "error"), [(1, 64, 0.01), (2, 24, 0.02)])
def test_the_basis_approximates_the_kernel(kernel, d, basis, error, rng):
    coordinates = rng.uniform(-0.7, 0.7, (60, d))  # near the boundary of the box its variance is too small
    model = LossSurface(Frame("plane", (0.0,) * d, 1.0), kernel=kernel, basis=basis)
    root = model.functions(coordinates) * model.scales(1.0, 0.4)
    np.testing.assert_allclose(root @ root.T, covariance(kernel, coordinates, coordinates, 0.4), atol=error)


@pytest.mark.parametrize(("family", "basis"), [("log-normal", 8), ("gamma", 0), ("normal", 0), ("student", 8)])
def test_every_family_draws_and_observes(family, basis, rng):
    """One trace of the prior and one of the likelihood: finite, positive where it must be, right shapes."""
    sites, losses = Sites(rng.uniform(size=(30, 2))), rng.gamma(2.0, 1.0, 30)
    model = LossSurface.around(losses, sites, family=family, basis=basis)

    @compiled_once
    def traced(key):
        site = trace(seeded(model, key)).get_trace(sites, losses)["losses"]
        return trace(seeded(model, key)).get_trace(sites)["losses"]["value"], site["fn"].log_prob(site["value"])

    drawn, log_prob = traced(jax.random.key(0))
    assert drawn.shape == (30,)
    assert np.isfinite(drawn).all()
    if family == "gamma":
        assert (drawn > 0).all()
    assert np.isfinite(log_prob).all()
    surface = {"log-normal": 0.5 + 0.3**2 / 2, "gamma": 0.5, "normal": np.log(0.5), "student": np.log(0.5)}[family]
    wanted = np.exp(surface) if family in ("log-normal", "gamma") else 0.5
    assert model.expected(0.5, {"noise": 0.3}) == pytest.approx(wanted)


def test_bad_surfaces(rng):
    sites = rng.uniform(size=(5, 2))
    with pytest.raises(ValueError, match=r"2 loss\(es\) are zero or negative"):
        LossSurface.around([1.0, 0.0, 2.0, -1.0, 1.0], sites, family="gamma")
    with pytest.raises(ValueError, match="family must be one of"):
        LossSurface.around(np.ones(5), sites, family="beta")
    with pytest.raises(ValueError, match="kernel must be one of"):
        LossSurface.around(np.ones(5), sites, kernel="gaussian")
    with pytest.raises(ValueError, match="basis=0"):
        LossSurface.around(np.ones(5), rng.uniform(size=(5, 4)), basis=4)
    assert LossSurface.around(np.ones(5), rng.uniform(size=(5, 4))).basis == 0
