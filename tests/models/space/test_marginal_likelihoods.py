"""Surfaces with the process integrated out: closed forms against dense normals, differences, NumPyro's potential."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpyro.contrib.hsgp.laplacian import eigenfunctions
from numpyro.contrib.hsgp.spectral_densities import diag_spectral_density_matern as matern
from numpyro.contrib.hsgp.spectral_densities import diag_spectral_density_squared_exponential as squared_exponential
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal

from tercet.inference.posteriors.evaluation import pointwise
from tercet.inference.posteriors.problem import Problem
from tercet.models import LossSurface
from tercet.models.space import Frame
from tercet.models.space.basis_normal import summarised
from tercet.models.space.kernels import KERNELS, SMOOTHNESS
from tercet.models.space.marginal_likelihoods import BasisMarginal, ProcessMarginal
from tercet.models.space.spectral_basis import WALL

SQUARE = Frame("plane", (0.0, 0.0), 1.0)


def differences(function, u, step=1e-4):
    """Fourth-order central differences of a function of u, in the last axis."""
    columns = []
    for unit in np.eye(len(u)) * step:
        near, far = (function(u + k * unit) - function(u - k * unit) for k in (1, 2))
        columns.append((8 * near - far) / (12 * step))
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("basis", [3, 0])
@pytest.mark.parametrize("kernel", KERNELS)
def test_value_and_derivatives_are_those_of_the_dense_normal(kernel, basis, rng):
    model = LossSurface(SQUARE, kernel=kernel, basis=basis)
    x, y = rng.uniform(-1, 1, (14, 2)), rng.normal(3.0, 1.0, 14)
    u = np.array([0.2, np.log(0.5), 2.5, -0.7]) + 0.2 * rng.normal(size=4)
    if basis:
        marginal = partial(BasisMarginal, model.spectrum, summarised(model.functions(x), y))
    else:
        marginal = partial(ProcessMarginal, kernel, cdist(x, x), y)

    def covariance(u):
        if basis:
            root = model.functions(x) * model.scales(np.exp(u[0]), np.exp(u[1]))
            return root @ root.T + np.exp(2 * u[3]) * np.eye(14)
        jitter = 1e-8 * np.exp(2 * u[0])
        return model.covariance(x, x, np.exp(u[0]), np.exp(u[1])) + (jitter + np.exp(2 * u[3])) * np.eye(14)

    here = marginal(u)
    rounding = 1e-7 if kernel == "matern 1/2" else 1e-10  # of the distance of a site from itself, in the dense matrix
    dense = multivariate_normal(np.full(14, u[2]), covariance(u)).logpdf(y)
    np.testing.assert_allclose(here.value, dense, rtol=rounding)
    np.testing.assert_allclose(here.gradient, differences(lambda v: marginal(v).value, u), atol=1e-7)
    np.testing.assert_allclose(here.hessian, differences(lambda v: marginal(v).gradient, u), atol=1e-7)
    np.testing.assert_array_equal(here.hessian, here.hessian.T)
    slopes = np.linalg.solve(covariance(u), np.moveaxis(differences(covariance, u), -1, 0))
    expected = 0.5 * np.einsum("aij,bji->ab", slopes, slopes)
    expected[2, 2] += np.linalg.inv(covariance(u)).sum()
    np.testing.assert_allclose(here.information, expected, atol=1e-6)


@pytest.mark.parametrize(("family", "basis"), [("normal", 3), ("log-normal", 0)])
def test_potential_is_that_of_the_numpyro_model(family, basis, rng):
    """Value, gradient and Hessian, by the program for any number of sites and by that of the size class."""
    sites, losses = rng.uniform(size=(11, 2)), rng.gamma(2.0, 1.0, 11)
    model = LossSurface.around(losses, sites, family=family, basis=basis)
    problem, closed = Problem(model, (sites, losses), x64=True), model.potential(sites, losses)
    z = closed.start + 0.3 * rng.normal(size=4)
    assert problem.latent == [name for name, _ in closed.layout]
    value, gradient = problem.value_and_gradient(z)
    np.testing.assert_allclose(closed.value(z), value, rtol=1e-12)
    np.testing.assert_allclose(closed.value_and_gradient(z)[1], gradient, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(closed.hessian(z), problem.hessian(z), rtol=1e-9, atol=1e-9)
    whole = Problem(lambda *data: model(*data), (sites, losses), x64=True)  # without `prepared`: the sites as given
    np.testing.assert_allclose(whole.value_and_gradient(z)[0], value, rtol=1e-12)


@pytest.mark.parametrize(("family", "basis"), [("gamma", 3), ("student", 3), ("gamma", 0)])
def test_filling_up_changes_nothing(family, basis, rng):
    """Potential and gradient of the filled-up data of a sampled family; surface and likelihoods show no filling."""
    sites, losses = rng.uniform(size=(11, 2)), rng.gamma(2.0, 1.0, 11)
    model = LossSurface.around(losses, sites, family=family, basis=basis)
    filled = Problem(model, (sites, losses), x64=True)
    given = Problem(lambda *data: model(*data), (sites, losses), x64=True)
    z = 0.4 * rng.normal(size=filled.size)
    assert filled.size == given.size
    for mine, theirs in zip(filled.value_and_gradient(z), given.value_and_gradient(z), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-10)
    mine, theirs = filled.constrain(z[None]), given.constrain(z[None])
    assert set(mine) == set(theirs)
    for name in theirs:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-10, atol=1e-10)
    densities, simulated = pointwise(filled, theirs)
    np.testing.assert_allclose(densities["losses"], pointwise(given, theirs)[0]["losses"], rtol=1e-10)
    without = {name: theirs[name] for name in filled.latent}
    np.testing.assert_allclose(pointwise(filled, without)[0]["losses"], densities["losses"], rtol=1e-10)
    assert simulated["losses"].shape == (1, 11)


@pytest.mark.parametrize("basis", [3, 0])
def test_simulated_losses_are_those_of_the_model(basis, rng):
    """Log likelihood of the dense normal; mean and covariance of 3,000 simulations, to six standard errors."""
    sites, losses = rng.uniform(size=(7, 2)), rng.normal(2.0, 1.0, 7)
    model = LossSurface.around(losses, sites, basis=basis)
    one = {"amplitude": 0.8, "length": 0.6, "level": 1.5, "noise": 0.4}
    draws = {name: np.full(3000, value) for name, value in one.items()}
    found, simulated = model.pointwise(draws, rng, sites, losses)
    x = model.frame.coordinates(sites)
    root = (
        model.functions(x) * model.scales(0.8, 0.6) if basis else np.linalg.cholesky(model.covariance(x, x, 0.8, 0.6))
    )
    covariance = root @ root.T + 0.4**2 * np.eye(7)
    dense = multivariate_normal(np.full(7, 1.5), covariance).logpdf(losses)
    np.testing.assert_allclose(found["losses"], dense, rtol=1e-6)  # 1e-8 is added to the correlations
    largest = covariance.max()
    np.testing.assert_allclose(simulated["losses"].mean(axis=0), 1.5, atol=6 * np.sqrt(largest / 3000))
    np.testing.assert_allclose(np.cov(simulated["losses"].T), covariance, atol=9 * largest / np.sqrt(3000))


def test_the_basis_is_numpyros(rng):
    """Functions in the same order; NumPyro's spectral densities; derivatives of both by differences."""
    x = rng.uniform(-1, 1, (5, 2))
    for kernel in KERNELS:
        spectrum = LossSurface(SQUARE, kernel=kernel, basis=3).spectrum
        box = {"ell": WALL, "m": [3, 3], "dim": 2}
        smooth = squared_exponential if kernel == "squared exponential" else partial(matern, SMOOTHNESS[kernel])
        wanted = np.sqrt(smooth(alpha=1.3, length=0.4, **box))
        np.testing.assert_allclose(spectrum.scales(1.3, 0.4), wanted, rtol=1e-12)
        np.testing.assert_allclose(spectrum.scales(np.array([1.3]), np.array([0.4]))[0], wanted, rtol=1e-12)
        logs = spectrum.log_scales(np.log(0.4))
        np.testing.assert_allclose(np.exp(logs.value) * 1.3**0.5, wanted, rtol=1e-12)
        for slope, part in ((logs.slope, "value"), (logs.bend, "slope")):
            values = [getattr(spectrum.log_scales(np.log(0.4) + step), part) for step in (-1e-5, 1e-5)]
            np.testing.assert_allclose(slope, (values[1] - values[0]) / 2e-5, atol=1e-8)
    np.testing.assert_allclose(spectrum.functions(x), eigenfunctions(x, WALL, [3, 3]), atol=1e-12)
    for axis, slopes in enumerate(spectrum.derivatives(x)):
        step = 1e-6 * np.eye(2)[axis]
        expected = (spectrum.functions(x + step) - spectrum.functions(x - step)) / 2e-6
        np.testing.assert_allclose(slopes, expected, atol=1e-8)
