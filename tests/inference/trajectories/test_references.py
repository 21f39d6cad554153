"""Fits of a reference: known answers, honest intervals, calibration with a negative control, every warning."""

import warnings
from functools import cache

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro.infer.util import potential_energy

from tercet.inference import (
    LaplaceOptions,
    choose_reference,
    drift_or_diffusion,
    fit_reference,
    forecast,
    linear_noise_check,
    load,
    nuts,
    reference_mode,
)
from tercet.inference.posteriors.evaluation import pointwise
from tercet.inference.posteriors.minimise import Solution
from tercet.inference.posteriors.problem import Problem
from tercet.inference.trajectories.references import newton_to_mode
from tercet.inference.trajectories.sandwich import influence
from tercet.models import (
    Drift,
    ReferenceSDE,
    SnapshotModel,
    Snapshots,
    brownian,
    constant_volatility,
    gradient_field,
)

pytestmark = pytest.mark.xdist_group("references")  # one worker compiles the models, once

# Priors narrow enough that data drawn from them look alike.
OU = ReferenceSDE(
    Drift(
        lambda theta, x, t: theta["rate"] * (theta["level"] - x),
        {"rate": dist.LogNormal(np.log(0.5), 0.3), "level": dist.Normal(2.0, 1.0)},
        ["x"],
        affine=True,
    ),
    constant_volatility(prior=dist.LogNormal(np.log(0.5), 0.3)),
)
FIRST = SnapshotModel(OU)
CONSECUTIVE = SnapshotModel(OU, anchor="consecutive")
BROWNIAN = SnapshotModel(ReferenceSDE(brownian(2), constant_volatility()), anchor="consecutive")
TRUTH = {"rate": 0.5, "level": 2.0, "volatility": 0.5}
TIMES = np.arange(4.0)


def cells(key, theta=TRUTH, n=60, times=TIMES, width=0.05):
    """Exact draws of the process (its transitions are Gaussian), fresh particles at every time."""
    rng = np.random.default_rng(key)
    decay = np.exp(-theta["rate"] * (times - times[0]))
    sd = theta["volatility"] * np.sqrt((1 - decay**2) / (2 * theta["rate"]))
    starts = width * rng.standard_normal((len(times), n))
    noise = sd[:, None] * rng.standard_normal((len(times), n))
    clouds = theta["level"] + decay[:, None] * (starts - theta["level"]) + noise
    return Snapshots(clouds[:, :, None], times)


@cache
def fitted(key=0):
    return fit_reference(FIRST, cells(key), starts=3, key=key)


def test_mode_is_stationary_and_covariance_is_its_inverse_hessian():
    fit = fitted()
    assert fit.diagnostics["converged"] is True
    assert fit.diagnostics["agree"] == 3
    problem = Problem(FIRST, (cells(0),), {}, x64=True)
    with problem.precision():
        exact, gradient = problem.hessian(fit.center), problem.value_and_gradient(fit.center)[1]
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    np.testing.assert_allclose(fit.precision_factor @ fit.precision_factor.T, exact, rtol=1e-4, atol=1e-4)


def test_closed_form_of_a_gaussian_population(seed):
    """Starts at one point: each snapshot is one Gaussian, and the log likelihood its density."""
    data = cells(seed, width=0.0)
    problem = Problem(FIRST, (data,), {}, x64=True)
    draws = {"rate": np.array([0.4]), "level": np.array([1.5]), "volatility": np.array([0.7])}
    decay = np.exp(-0.4 * TIMES[1:])
    mean, sd = 1.5 * (1 - decay), 0.7 * np.sqrt((1 - decay**2) / 0.8)
    expected = [scipy.stats.norm.logpdf(x[:, 0], m, s) for x, m, s in zip(data.particles[1:], mean, sd, strict=True)]
    logs = pointwise(problem, draws)[0]["snapshots"][0]
    np.testing.assert_allclose(logs, np.concatenate(expected), rtol=1e-4)


@pytest.mark.slow
def test_calibration_of_the_stated_model_and_its_negative_control(seed):
    """Ranks of the truth are uniform for data of the stated model, not with a volatility fixed 40 % too high.

    The first snapshot is given. Chi-square over ten bins, at 1e-4 each; the control fails by far.
    """
    known = SnapshotModel(ReferenceSDE(OU.drift, constant_volatility(0.7)))
    rng = np.random.default_rng(seed)
    good, bad = [], []
    for k in range(100):
        theta = {"rate": np.exp(rng.normal(np.log(0.5), 0.3)), "level": rng.normal(2, 1), "volatility": 0.5}
        fixed = {**theta, "volatility": np.exp(rng.normal(np.log(0.5), 0.3))}
        for data, model, out in ((cells(rng, fixed), FIRST, good), (cells(rng, theta, n=300), known, bad)):
            draws = fit_reference(model, data, starts=1, key=k).draws(400, key=k)
            out.append([(draws[site] < value).mean() for site, value in fixed.items() if site in draws])
            if out is bad:
                out[-1] = [(draws[site] < theta[site]).mean() for site in ("rate", "level")]
    for column in np.array(good).T:
        assert scipy.stats.chisquare(np.histogram(column, np.linspace(0, 1, 11))[0]).pvalue > 1e-4
    widths = scipy.stats.chisquare(np.histogram(np.array(bad)[:, 1], np.linspace(0, 1, 11))[0]).pvalue
    assert widths < 1e-4, "a volatility 40 % too high must show"


@pytest.mark.slow
def test_population_study_covers(seed):
    """Independent populations from narrow starts: 90 % intervals cover within binomial limits at 1e-4."""
    rng = np.random.default_rng(seed)
    hits = dict.fromkeys(TRUTH, 0)
    sets = 120
    for k in range(sets):
        data = cells(rng)
        draws = fit_reference(FIRST, data, starts=1, key=k).draws(1000, key=k)
        for site, value in TRUTH.items():
            low, high = np.quantile(draws[site], [0.05, 0.95])
            hits[site] += low <= value <= high
    low, high = scipy.stats.binom.ppf([1e-4, 1 - 1e-4], sets, 0.9)
    for site, count in hits.items():
        assert low <= count <= high, (site, count)


@pytest.mark.slow
def test_sandwich_is_the_sum_over_particles_by_finite_differences():
    """Psi against a second difference of the weighted log likelihood in one weight and one parameter."""
    data, fit = cells(3, n=12), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = fit_reference(CONSECUTIVE, data, starts=1)
    problem = fit.context.problem
    psi = influence(problem, CONSECUTIVE, data, fit.center)
    assert psi.shape == (48, 3)

    @jax.jit
    def gradient(z, weights):
        return jax.grad(lambda z: -potential_energy(CONSECUTIVE, (data,), {"weights": weights}, problem.unravel(z)))(z)

    def score(k, i, extra):
        weights = [np.ones(12) for _ in range(4)]
        weights[k][i] += extra
        with jax.enable_x64(True):
            return np.asarray(gradient(jax.numpy.asarray(fit.center), weights))

    raw = np.stack([(score(1, i, 1e-5) - score(1, i, -1e-5)) / 2e-5 for i in range(12)])
    np.testing.assert_allclose(psi[12:24], raw - raw.mean(axis=0), rtol=1e-3, atol=1e-4)


def test_composite_says_so_and_takes_the_sandwich():
    data = cells(1)
    with pytest.warns(UserWarning, match="composite likelihood"):
        wide = fit_reference(CONSECUTIVE, data, starts=2)
    with pytest.warns(UserWarning, match="too narrow: use covariance='sandwich'"):
        narrow = fit_reference(CONSECUTIVE, data, starts=2, covariance="hessian")
    np.testing.assert_allclose(wide.center, narrow.center, atol=1e-8)
    assert not np.allclose(wide.precision_factor, narrow.precision_factor)
    assert np.isnan(wide.diagnostics["log_evidence"])


def test_posterior_contract(tmp_path):
    fit = fitted()
    container = fit.to_arviz(draws=40)
    assert container["log_likelihood"]["snapshots"].shape == (4, 10, 180)
    again = load(fit.save(tmp_path / "fit.npz"), cells(0), model=FIRST)
    np.testing.assert_array_equal(again.center, fit.center)


@pytest.mark.slow
def test_nuts_in_the_units_of_laplace(seed):
    fit = fitted()
    chains = nuts(FIRST, cells(0), start=fit, warmup=200, samples=1500, chains=2, key=seed)
    assert chains.diagnostics["converged"]
    z = fit.unconstrained_draws(2000, key=seed)
    ratios = fit.log_p(z) - fit.log_q(z)
    weights = np.exp(ratios - ratios.max())  # reweighted, Laplace's draws follow the exact posterior
    ours, theirs = fit.constrain(z), chains.draws(3000)
    for site in TRUTH:
        mean = np.average(ours[site], weights=weights)
        sd = np.sqrt(np.average((ours[site] - mean) ** 2, weights=weights))
        assert abs(theirs[site].mean() - mean) < 0.25 * sd  # 800 effective draws or more: 7 standard errors
        assert 0.8 < sd / theirs[site].std() < 1.2
    with pytest.raises(ValueError, match="not the same model"):
        nuts(SnapshotModel(ReferenceSDE(OU.drift, constant_volatility(1.0))), cells(0), start=fit)


def test_forecast_is_the_process(seed):
    """Particles at t = 6 from draws of the posterior: mean and spread of the closed form at the posterior mean."""
    fit = fitted()
    ahead = forecast(fit, [3.0, 6.0], particles=400, draws=30, key=seed)
    assert ahead.particles.shape == (30, 2, 400, 1)
    mean = fit.mean()
    decay = np.exp(-mean["rate"] * 6.0)
    sd = mean["volatility"] * np.sqrt((1 - decay**2) / (2 * mean["rate"]))
    cloud = ahead.cloud(6.0)
    low, middle, high = ahead.bands()[:, 1, 0]
    assert abs(cloud.mean() - mean["level"] * (1 - decay)) < 0.2
    assert abs(cloud.std() / sd - 1.0) < 0.15
    assert low < middle < high
    inner = ahead.mean_bands()[:, 1, 0]
    assert inner[2] - inner[0] < high - low
    np.testing.assert_array_equal(cloud, forecast(fit, [3.0, 6.0], particles=400, draws=30, key=seed).cloud(6.0))
    with pytest.raises(ValueError, match="must increase from t = 3 on"):
        forecast(fit, [2.0], from_snapshot=-1)
    with pytest.raises(ValueError, match="no forecast at t = 5"):
        ahead.cloud(5.0)


def test_linear_noise_check_tells_bent_clouds(seed):
    assert np.abs(linear_noise_check(fitted(), particles=2000, key=seed) - 1.0).max() < 0.25


@pytest.mark.slow
def test_equilibrium_tells_nothing_of_the_rate_alone():
    rng = np.random.default_rng(0)
    still = Snapshots([rng.normal(0.0, 1.0, (80, 1)) for _ in range(3)], times=[0.0, 20.0, 40.0])
    fit = fit_reference(FIRST, still, starts=1)
    found = drift_or_diffusion(fit, samples=4)
    assert found.canonical_correlation > 0.95
    assert "are confounded" in str(found)
    assert found.directions["information"].is_monotonic_increasing


@pytest.mark.slow
def test_better_references_are_chosen_by_what_they_have_not_seen(seed):
    """A population that drifts: the linear potential predicts the middle, Brownian motion as well only by luck."""
    rng = np.random.default_rng(seed)
    moving = Snapshots([rng.normal([3.0 * k**2, 0.0], 0.3, (80, 2)) for k in range(5)], times=np.arange(5.0))
    candidates = {
        "Brownian": BROWNIAN,
        "quadratic": SnapshotModel(
            ReferenceSDE(gradient_field(moving.center, moving.scale, "quadratic"), constant_volatility()),
            anchor="consecutive",
        ),
    }
    choice = choose_reference(candidates, moving, hold_out=[2], starts=2)
    assert choice.best == "quadratic"
    assert set(choice.means.index) == {"Brownian", "quadratic", "persistence", "transport midpoint"}
    with pytest.raises(ValueError, match="inner snapshots"):
        choose_reference(candidates, moving, hold_out=[0])


@pytest.mark.slow
def test_neural_potential_beats_no_drift_on_a_double_well(seed):
    """Held-out snapshots of a simulated double well: better than Brownian, finite, and not by falling back to it."""
    from tercet.datasets import double_well_snapshots

    data = double_well_snapshots(particles=80, times=np.arange(5.0), key=seed).snapshots
    field = gradient_field(data.center, data.scale, "mlp", width=6)
    candidates = {
        "Brownian": BROWNIAN,
        "mlp": SnapshotModel(ReferenceSDE(field, constant_volatility()), anchor="consecutive"),
    }
    choice = choose_reference(candidates, data, hold_out=[1], starts=2)
    assert choice.means["mlp"] < choice.means["Brownian"] - 0.01
    assert choice.best == "mlp"
    assert set(choice.means.index) == {"Brownian", "mlp", "persistence", "transport midpoint"}
    with pytest.raises(ValueError, match="inner snapshots"):
        choose_reference(candidates, data, hold_out=[0])
    mode = reference_mode(candidates["mlp"], data.take([0, 2, 3, 4]), starts=2)  # the choice's own search: compiled
    assert np.abs(mode.theta["out"]).max() > 0.1


def test_searches_cut_short_say_so():
    with pytest.warns(UserWarning, match="still rising"):
        assert not reference_mode(FIRST, cells(0), starts=1, max_steps=2).converged
    problem = Problem(FIRST, (cells(0),), {}, x64=True, differences=True)
    bent = next(z for z in np.random.default_rng(0).normal(problem.start, 2.0, (100, problem.size))
                if np.linalg.eigvalsh(problem.hessian(z))[0] < 0.0)  # fmt: skip
    with pytest.raises(np.linalg.LinAlgError, match="no start led to a mode"):
        newton_to_mode(problem, Solution(bent, *problem.value_and_gradient(bent), 0.0, 0, False, ""), LaplaceOptions())


def test_options_are_read_or_refused():
    """A limit of one step ends before the mode, which is an error or a warning; options of other routes are errors."""
    best = fitted()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((UserWarning, np.linalg.LinAlgError), match="stopped at a gradient"):
            fit_reference(FIRST, cells(0), starts=3, options=LaplaceOptions(max_steps=1))
    same = fit_reference(FIRST, cells(0), starts=3, options=LaplaceOptions(max_steps=500))
    np.testing.assert_array_equal(same.center, best.center)
    with pytest.raises(ValueError, match=r"prior_sd_range.* is not read by fit_reference"):
        fit_reference(FIRST, cells(0), options=LaplaceOptions(prior_sd_range=(0.1, 1.0)))


def test_precision_is_that_of_the_mode_however_far_newton_went():
    """From a point 0.25 sds away: the factor is that of the Hessian at the mode."""
    best = fitted()
    problem = Problem(FIRST, (cells(0),), {}, x64=True, differences=True)
    away = best.center + best.root @ np.array([0.2, -0.1, 0.1])
    near = Solution(away, *problem.value_and_gradient(away), 1.0, 0, False, "")
    solution, factor = newton_to_mode(problem, near, LaplaceOptions())
    np.testing.assert_allclose(solution.point, best.center, atol=1e-3)
    np.testing.assert_allclose(factor @ factor.T, problem.hessian(solution.point), rtol=1e-6)


def test_bad_questions():
    data = cells(0)
    with pytest.raises(ValueError, match="starts must be at least 1"):
        fit_reference(FIRST, data, starts=0)
    with pytest.raises(ValueError, match='must be "hessian" or "sandwich"'):
        fit_reference(FIRST, data, covariance="robust")
    with pytest.raises(ValueError, match="one snapshot tells nothing"):
        fit_reference(FIRST, data.take([0]))
    with pytest.raises(ValueError, match="the reference moves 1 coordinates"):
        fit_reference(FIRST, Snapshots([np.zeros((3, 2)), np.ones((3, 2))], [0, 1]))
    absurd = Drift(lambda theta, x, t: theta["push"] * x**3, {"push": dist.LogNormal(40.0, 0.1)}, ["x"])
    with pytest.raises(ValueError, match="priors in the units of the data"):
        fit_reference(SnapshotModel(ReferenceSDE(absurd, constant_volatility(0.1))), cells(0, width=1.0), starts=2)
