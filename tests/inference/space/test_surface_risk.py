"""Draws of loss surfaces against closed forms, the risks they give, and the coverage of their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.inference import holdout_risk, laplace, lipschitz_constant, nuts, surface_risk
from tercet.inference.space import expected_losses
from tercet.inference.space.surfaces import SurfaceDraws, pathwise_draws, weight_draws
from tercet.models import LossSurface, Sites
from tercet.models.space import Frame

PARAMETERS = {"level": 0.4, "amplitude": 1.2, "length": 0.5, "noise": 0.3}


def many(count: int) -> dict[str, np.ndarray]:
    return {name: np.full(count, value) for name, value in PARAMETERS.items()}


def drawn(model: LossSurface, coordinates: np.ndarray, response: np.ndarray, count: int, rng) -> SurfaceDraws:
    """Surfaces given the parameters, by either route."""
    if model.basis:
        return SurfaceDraws(
            model, many(count), weight_draws(model, many(1), coordinates, response, repeat=count, rng=rng)
        )
    paths = tuple(
        pathwise_draws(model, PARAMETERS, coordinates, response, repeat=20, rng=rng) for _ in range(count // 20)
    )
    return SurfaceDraws(model, many(count), paths=paths)


@pytest.mark.parametrize("basis", [10, 0])
def test_surfaces_are_drawn_from_the_conditional_process(basis, rng):
    """Mean and covariance at new coordinates: k' K^-1 (y - level) and k - k' K^-1 k, to six standard errors."""
    model = LossSurface(Frame("plane", (0.0, 0.0), 1.0), family="normal", basis=basis)
    coordinates, new = rng.uniform(-1, 1, (25, 2)), rng.uniform(-1, 1, (6, 2))
    response = rng.normal(size=25)
    if basis:
        root = [model.functions(each) * np.asarray(model.scales(1.2, 0.5)) for each in (coordinates, new)]
        among, across, ahead = root[0] @ root[0].T, root[1] @ root[0].T, root[1] @ root[1].T
    else:
        among, across, ahead = (
            model.covariance(a, b, 1.2, 0.5) for a, b in [(coordinates, coordinates), (new, coordinates), (new, new)]
        )
    solved = np.linalg.solve(among + 0.3**2 * np.eye(25), np.column_stack([response - 0.4, across.T]))
    values = drawn(model, coordinates, response, 4000, rng).values(new)
    spread = ahead - across @ solved[:, 1:]
    sds = np.sqrt(np.diag(spread))
    np.testing.assert_allclose(values.mean(axis=0) - 0.4 - across @ solved[:, 0], 0, atol=6 * sds.max() / np.sqrt(4000))
    np.testing.assert_allclose(np.cov(values.T) - spread, 0, atol=9 * sds.max() ** 2 / np.sqrt(4000))


@pytest.mark.parametrize("basis", [10, 0])
@pytest.mark.parametrize("kernel", ["matern 3/2", "matern 5/2", "squared exponential"])
def test_gradients_by_differences(basis, kernel, rng):
    model = LossSurface(Frame("plane", (0.0, 0.0), 1.0), family="normal", kernel=kernel, basis=basis)
    surfaces = drawn(model, rng.uniform(-1, 1, (15, 2)), rng.normal(size=15), 20, rng)
    new = rng.uniform(-1, 1, (5, 2))
    slopes = surfaces.gradients(new)
    for axis in range(2):
        step = 1e-5 * np.eye(2)[axis]
        np.testing.assert_allclose(
            slopes[:, :, axis], (surfaces.values(new + step) - surfaces.values(new - step)) / 2e-5, atol=1e-4, rtol=1e-4
        )


def test_no_gradient_of_a_rough_surface(rng):
    model = LossSurface(Frame("plane", (0.0, 0.0), 1.0), family="normal", kernel="matern 1/2", basis=6)
    with pytest.raises(ValueError, match="nowhere smooth"):
        drawn(model, rng.uniform(-1, 1, (9, 2)), rng.normal(size=9), 4, rng).gradients(np.zeros((1, 2)))


@pytest.fixture(scope="module")
def fitted():
    """A log-normal surface exp(x) on a line of kilometres, with its fits by either process."""
    rng = np.random.default_rng(5)
    sites = 100 * rng.beta(1, 2, (250, 1))
    losses = np.exp(sites[:, 0] / 50 + 0.3 * rng.normal(size=250))
    test = np.linspace(5, 95, 60)[:, None]
    models = [LossSurface.around(losses, sites, test, family="log-normal", basis=basis) for basis in (32, 0)]
    return [laplace(model, sites, losses) for model in models], test, sites, losses


def test_risk_and_steepness_of_a_known_surface(fitted):
    posteriors, test, sites, losses = fitted
    truth = np.exp(test[:, 0] / 50 + 0.3**2 / 2)
    for posterior in posteriors:
        risk = surface_risk(posterior, test, key=1)
        assert abs(risk.estimate - truth.mean()) < 3.5 * risk.standard_error < 1.0
        assert risk.interval()[0] < risk.estimate < risk.interval()[1]
        draws = expected_losses(posterior, test, key=1)
        np.testing.assert_allclose(draws.mean(axis=1), risk.draws)
        np.testing.assert_allclose(draws.mean(axis=0), risk.surface)
        weights = np.linspace(0, 1, 60)
        weighted = surface_risk(posterior, test, test_weights=weights, key=1)
        np.testing.assert_allclose(weighted.draws, draws @ weights / weights.sum())
        steep = lipschitz_constant(posterior, test)
        assert 0.6 * truth.max() / 50 < steep < 2.0 * truth.max() / 50
    assert abs(holdout_risk(losses, sites, test).estimate - truth.mean()) > 0.4  # labels crowd where losses are small


def test_both_processes_say_the_same(fitted):
    (basis, exact), test, *_ = fitted
    first, second = surface_risk(basis, test, draws=800), surface_risk(exact, test, draws=800)
    assert abs(first.estimate - second.estimate) < 0.5 * second.standard_error
    assert 0.7 < first.standard_error / second.standard_error < 1.4


def test_risk_in_arviz(fitted):
    import arviz as az

    posteriors, test, *_ = fitted
    risk = surface_risk(posteriors[0], test)
    table = az.summary(risk.to_arviz())
    assert float(table.loc["risk", "mean"]) == pytest.approx(risk.estimate, abs=0.01)
    again = surface_risk(posteriors[0], test)
    np.testing.assert_array_equal(risk.draws, again.draws)
    whole = az.summary(posteriors[0].to_arviz(draws=400))
    assert {"level", "amplitude", "length", "noise"} <= set(whole.index)


def test_only_surfaces_have_surfaces(rng):
    import numpyro
    import numpyro.distributions as dist

    def model(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    with pytest.raises(ValueError, match="not of a LossSurface"):
        surface_risk(laplace(model, rng.normal(size=5)), [[0.0]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the chains have not converged")  # short ones: enough for four standard deviations
def test_a_sampled_family(seed):
    """NUTS on a small basis, on the sphere: the risk of a known gamma surface within four posterior sds."""
    rng = np.random.default_rng(seed)
    sites = Sites(np.stack([rng.normal(50, 2, 120), rng.normal(10, 3, 120)], axis=1), "sphere")
    mean = np.exp(0.3 * (sites.coordinates[:, 0] - 50))
    losses = rng.gamma(4.0, mean / 4.0)
    model = LossSurface.around(losses, sites, family="gamma", basis=6)
    fit = nuts(model, sites, losses, warmup=120, samples=120, chains=2, key=seed)
    risk = surface_risk(fit, sites)
    assert abs(risk.estimate - mean.mean()) < 4 * risk.standard_error < 1.0


@pytest.mark.slow
def test_coverage_where_the_model_is_true(seed):
    """Surfaces of the model itself, labels at one side: 90 % intervals of 10 data sets cover 6 or more; holdout's not.

    Binomial(10, .9) is at least 6 with probability .998; `benchmarks/spatial_study.py --tasks surface` counts more.
    """
    rng = np.random.default_rng(seed)
    test = np.linspace(0, 1, 50)[:, None]
    model = LossSurface(Frame.around(test), family="log-normal", basis=20)  # one for all: its prior compiles once
    inside = {"surface": 0, "holdout": 0}
    width = dict.fromkeys(inside, 0.0)
    for repeat in range(10):
        sites = rng.beta(1, 2, (120, 1))
        both = np.concatenate([sites, test])
        gap = np.sqrt(3) * np.abs(both - both.T) / 0.3
        surface = np.linalg.cholesky((1 + gap) * np.exp(-gap) + 1e-8 * np.eye(170)) @ rng.normal(size=170)
        losses = np.exp(surface[:120] + 0.4 * rng.normal(size=120))
        truth = np.exp(surface[120:] + 0.4**2 / 2).mean()
        fit = laplace(model, sites, losses)
        for name, risk in [
            ("surface", surface_risk(fit, test, key=repeat)),
            ("holdout", holdout_risk(losses, sites, test)),
        ]:
            low, high = risk.interval()
            inside[name] += low <= truth <= high
            width[name] += (high - low) / 10
    assert inside["surface"] >= 6
    assert inside["holdout"] < 6
    assert width["surface"] < 4 * width["holdout"]
