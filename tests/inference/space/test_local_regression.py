"""Geographically weighted regression: dense refits, known surfaces, calibration of errors, neighbourhoods that fail."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from tercet.inference import geographically_weighted_regression
from tercet.inference.space import Neighbours
from tercet.inference.space.local_least_squares import EDGE, ScaledData, leave_one_out_errors, predict_locally
from tercet.models import Sites, distances

METRICS = ["plane", "sphere"]


def scattered(rng: np.random.Generator, n: int, metric: str = "plane", dim: int = 2) -> Sites:
    """Sites of the square, or all over the globe."""
    if metric == "plane":
        return Sites(rng.uniform(size=(n, dim)))
    latitude, longitude = np.degrees(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)
    return Sites(np.stack([latitude, longitude], axis=1), metric)


def assert_finite(prediction: Any) -> None:
    for part in prediction:
        assert np.isfinite(part).all()


def refit(gap: np.ndarray, x: np.ndarray, y: np.ndarray, k: int, x0: np.ndarray) -> tuple[np.ndarray, ...]:
    """Everything that is predicted at one site, by dense matrices over the k nearest of all sites."""
    near = np.lexsort((np.arange(len(gap)), gap))[:k]
    w = np.square(1 - np.square(gap[near] / (gap[near].max() * (1 + EDGE))))
    design, root = np.column_stack([np.ones(k), x[near]]), np.sqrt(w)
    beta = np.linalg.lstsq(root[:, None] * design, root * y[near], rcond=None)[0]
    solve = np.linalg.pinv(root[:, None] * design) * root  # coefficients as a function of the response
    off = np.eye(k) - design @ solve
    residual = y[near] - design @ beta
    variance = (w * residual**2).sum() / np.trace(w[:, None] * (off @ off.T))
    errors = np.sqrt(variance * np.square(solve).sum(axis=1))
    row = np.concatenate([[1.0], x0])
    return row @ beta, np.sqrt(variance * np.square(row @ solve).sum()), beta, errors


@pytest.mark.parametrize(
    ("metric", "dim", "p"), [("plane", 1, 1), ("plane", 2, 0), ("plane", 2, 3), ("plane", 3, 2), ("sphere", 2, 2)]
)
@pytest.mark.parametrize("k", ["least", 30, "all"])
def test_dense_refit_at_every_site(metric: str, dim: int, p: int, k: Any, rng: np.random.Generator) -> None:
    """Mean, standard error, coefficients and their errors at new sites, from the fewest neighbours to all."""
    n, m = 80, 12
    sites, new = scattered(rng, n, metric, dim), scattered(rng, m, metric, dim)
    x, x_new, y = 3 + rng.normal(size=(n, p)), 3 + rng.normal(size=(m, p)), 10 + rng.normal(size=n)
    k = {"least": 2 * p + 3, "all": n}.get(k, k)
    covariates = (x, x_new) if p else (None, None)
    prediction = geographically_weighted_regression(sites, covariates[0], y, neighbours=k).predict(new, covariates[1])
    gap = distances(new, sites)
    for i in range(m):
        for ours, theirs in zip(prediction, refit(gap[i], x, y, k, x_new[i]), strict=False):
            # seven sites, weighted down to a few, may leave little freedom: the oracle itself loses digits
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-5 if k < 30 else 1e-8, atol=1e-8 if k >= 30 else 1e-6)
    assert not prediction.weak.any()


@pytest.mark.parametrize("layout", ["plane", "sphere", "lattice", "duplicates"])
def test_leave_one_out_is_a_refit_without_the_site(layout: str, rng: np.random.Generator) -> None:
    """For every number of neighbours tried; ties in distance by the lowest index, also with the site taken out."""
    sites = scattered(rng, 64, layout if layout in METRICS else "plane")
    if layout == "lattice":
        sites = Sites(np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), axis=2).reshape(-1, 2)[rng.permutation(64)])
    if layout == "duplicates":
        sites = Sites(np.repeat(sites.coordinates[:16], 4, axis=0)[rng.permutation(64)])
    x, y = rng.normal(size=(64, 2)), rng.normal(size=64)
    fit = geographically_weighted_regression(sites, x, y)
    gap = distances(sites, sites)
    assert len(fit.leave_one_out) > 8
    for k, error in fit.leave_one_out.items():
        if k < 11:
            continue  # refits through a handful of weighted points: compared below, without the oracle's own error
        square = 0.0
        for i in range(64):
            rest = np.delete(np.arange(64), i)
            square += (y[i] - refit(gap[i, rest], x[rest], y[rest], k, x[i])[0]) ** 2
        assert error == pytest.approx(square / 64, rel=1e-8)
    assert fit.neighbours == min(fit.leave_one_out, key=lambda k: fit.leave_one_out[k])
    # Every weight directly, none by moments.
    direct = leave_one_out_errors(sites, ScaledData.of(x, y), fewest=7, most=63, direct_below=np.inf)
    np.testing.assert_allclose(list(direct.values()), list(fit.leave_one_out.values()), rtol=1e-6)


def test_recovers_a_surface_of_coefficients_and_knows_when_there_is_none(rng: np.random.Generator) -> None:
    """Beside one regression for all sites; with constant coefficients the search takes most of the sites."""
    n, noise = 600, 0.3
    sites, new = scattered(rng, n).coordinates, rng.uniform(0.1, 0.9, size=(200, 2))
    x, x_new = rng.normal(size=(n, 1)), rng.normal(size=(200, 1))

    def slope(s: np.ndarray) -> np.ndarray:
        return np.sin(4 * s[:, 0]) + 2 * s[:, 1] ** 2

    varying = 1 + slope(sites) * x[:, 0] + noise * rng.normal(size=n)
    local = geographically_weighted_regression(sites, x, varying)
    prediction = local.predict(new, x_new)
    design = np.column_stack([np.ones(n), x])
    same_everywhere = np.linalg.lstsq(design, varying, rcond=None)[0][1]
    error, plain = (np.sqrt(np.mean((b - slope(new)) ** 2)) for b in (prediction.coefficients[:, 1], same_everywhere))
    assert error < 0.35 * plain
    assert np.sqrt(np.mean((prediction.mean - 1 - slope(new) * x_new[:, 0]) ** 2)) < noise
    constant = geographically_weighted_regression(sites, x, 1 + 0.5 * x[:, 0] + noise * rng.normal(size=n))
    assert local.neighbours < n / 4 < constant.neighbours
    assert constant.leave_one_out[constant.neighbours] == pytest.approx(noise**2, rel=5 * np.sqrt(2 / n))


def test_standard_errors_are_those_of_repeated_data(rng: np.random.Generator) -> None:
    """5,000 small neighbourhoods far from one another: squared errors and squared standard errors agree in the mean.

    With noise of one variance both have the same expectation, exactly; six standard errors. Negative control: a
    variance divided by the sum of weights, as if two coefficients cost no freedom, is rejected (8 in the mean).
    """
    count, k = 5000, 13
    centres = 1e3 * np.arange(count)[:, None]
    sites = (centres[:, None] + rng.uniform(-1, 1, size=(count, k, 1))).reshape(-1, 1)
    x, x_new = rng.normal(size=(len(sites), 1)), rng.normal(size=(count, 1))
    y = 1 + 2 * x[:, 0] + rng.normal(size=len(sites))
    prediction = geographically_weighted_regression(sites, x, y, neighbours=k).predict(centres, x_new)
    for error, stated in (
        (prediction.mean - 1 - 2 * x_new[:, 0], prediction.standard_error),
        (prediction.coefficients[:, 1] - 2, prediction.coefficient_errors[:, 1]),
    ):
        assert abs(score(error**2 - stated**2)) < 6
    weights = 8 / 15 * k  # the mean of (1 - u^2)^2 is 8 / 15, of its square 128 / 315: the trace is 2 x 0.76
    careless = (1 - 2 * 0.76 / weights) * prediction.standard_error**2
    assert score((prediction.mean - 1 - 2 * x_new[:, 0]) ** 2 - careless) > 3


def score(values: np.ndarray) -> float:
    return float(np.sqrt(len(values)) * values.mean() / values.std())


def test_an_exact_plane_of_covariates_is_found_everywhere(rng: np.random.Generator) -> None:
    sites, x = scattered(rng, 200, "sphere"), rng.normal(size=(200, 3))
    beta, new = rng.normal(size=3), scattered(rng, 50, "sphere")
    x_new = 5 * rng.normal(size=(50, 3))
    prediction = geographically_weighted_regression(sites, x, 7 + x @ beta, neighbours=25).predict(new, x_new)
    np.testing.assert_allclose(prediction.mean, 7 + x_new @ beta, atol=1e-9)
    np.testing.assert_allclose(prediction.coefficients, np.tile([7, *beta], (50, 1)), atol=1e-9)
    np.testing.assert_allclose(prediction.standard_error, 0, atol=1e-9)


def test_units_do_not_matter(rng: np.random.Generator) -> None:
    """Coordinates, covariates and response in other units and from other origins: the same regression."""
    sites, x, y = rng.uniform(size=(120, 2)), rng.normal(size=(120, 2)), rng.normal(size=120)
    scale, origin = np.array([1e-4, 1e3]), np.array([5.0, 1e6])
    one = geographically_weighted_regression(sites, x, y)
    other = geographically_weighted_regression(1e3 * sites, origin + scale * x, 1e5 + 1e2 * y)
    assert one.neighbours == other.neighbours
    a, b = one.predict(sites[:20], x[:20]), other.predict(1e3 * sites[:20], origin + scale * x[:20])
    np.testing.assert_allclose(1e5 + 1e2 * a.mean, b.mean, rtol=1e-9)
    np.testing.assert_allclose(1e2 * a.standard_error, b.standard_error, rtol=1e-5)
    np.testing.assert_allclose(1e2 * a.coefficients[:, 1:] / scale, b.coefficients[:, 1:], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(b.coefficients[:, 0] + b.coefficients[:, 1:] @ origin, 1e5 + 1e2 * a.coefficients[:, 0])


def test_the_date_line_is_no_border(rng: np.random.Generator) -> None:
    """Turned by 180 degrees, written from -180 or from 0, the fit is the same."""
    latitude, longitude = rng.uniform(-60, 60, 100), rng.uniform(-20, 20, 100)
    x, y = rng.normal(size=(100, 1)), rng.normal(size=100)
    means = []
    for turned in (longitude, longitude + 180, (longitude + 360) % 360 - 180):
        sites = Sites(np.stack([latitude, turned], axis=1), "sphere")
        means.append(geographically_weighted_regression(sites, x, y, neighbours=20).predict(sites, x).mean)
    np.testing.assert_allclose(means[1], means[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(means[2], means[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("copies", [9, 30])
def test_sites_at_one_place_have_equal_weights(copies: int, rng: np.random.Generator) -> None:
    """As many duplicates as neighbours, or more: least squares over those of lowest index, and a finite search."""
    x, y = rng.normal(size=(3 * copies, 1)), rng.normal(size=3 * copies)
    sites = np.repeat([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]], copies, axis=0)
    fit = geographically_weighted_regression(sites, x, y, neighbours=9)
    prediction = fit.predict([[1.0, 0.0]], [[0.5]])
    own = slice(copies, copies + 9)
    expected = np.linalg.lstsq(np.column_stack([np.ones(9), x[own]]), y[own], rcond=None)[0]
    np.testing.assert_allclose(prediction.coefficients[0], expected, rtol=1e-9, atol=1e-12)
    searched = geographically_weighted_regression(sites, x, y)
    assert np.isfinite(list(searched.leave_one_out.values())).all()


def test_a_ring_of_sites_is_weighted_equally(rng: np.random.Generator) -> None:
    """All at one distance, where the kernel vanishes: an ordinary mean; so is the search at the middle of the ring."""
    angle = np.arange(8) * np.pi / 4
    ring = np.round(np.stack([np.cos(angle), np.sin(angle)], axis=1), 12)
    y = rng.normal(size=8)
    prediction = geographically_weighted_regression(ring, None, y, neighbours=8).predict([[0.0, 0.0]])
    assert prediction.mean[0] == pytest.approx(y.mean(), rel=1e-4, abs=1e-5)


def test_collinear_covariates_are_announced_and_share_the_effect(rng: np.random.Generator) -> None:
    """A covariate and twice it, and a constant: the same mean and error as without them, and a warning."""
    sites, x = scattered(rng, 150), rng.normal(size=(150, 1))
    y = x[:, 0] + rng.normal(size=150)
    alone = geographically_weighted_regression(sites, x, y, neighbours=20).predict(sites, x)
    for more in (2 * x, np.full_like(x, 0.1), 2 * x + 1):
        both = np.concatenate([x, more], axis=1)
        fit = geographically_weighted_regression(sites, both, y)
        assert np.isfinite(list(fit.leave_one_out.values())).all()
        fit = geographically_weighted_regression(sites, both, y, neighbours=20)
        with pytest.warns(UserWarning, match=r"at 150 of 150 site\(s\) the 20 neighbours"):
            prediction = fit.predict(sites, both)
        assert prediction.weak.all()
        assert_finite(prediction)
        np.testing.assert_allclose(prediction.mean, alone.mean, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(prediction.standard_error, alone.standard_error, rtol=1e-5)
    assert not alone.weak.any()


def test_a_covariate_that_varies_elsewhere_only(rng: np.random.Generator) -> None:
    """No effect of it is claimed where it does not vary; where it does, nothing is flagged."""
    left, right = rng.uniform(size=(60, 2)), rng.uniform([10, 0], [11, 1], size=(60, 2))
    x = np.concatenate([np.zeros(60), rng.normal(size=60)])[:, None]
    y = rng.normal(size=120)
    fit = geographically_weighted_regression(np.concatenate([left, right]), x, y, neighbours=30)
    with pytest.warns(UserWarning, match=r"at 1 of 2 site\(s\)"):
        prediction = fit.predict([[0.5, 0.5], [10.5, 0.5]], [[3.0], [0.0]])
    assert prediction.weak.tolist() == [True, False]
    assert prediction.coefficients[0, 1] == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bare = geographically_weighted_regression(left, None, y[:60], neighbours=30).predict([[0.5, 0.5]])
    assert prediction.mean[0] == pytest.approx(bare.mean[0])


def test_without_residual_freedom_the_response_stands_in(rng: np.random.Generator) -> None:
    """One site close by, the others on a far ring: a local mean of a single site has no error of its own."""
    angle = np.linspace(0, 2 * np.pi, 9)[:-1]
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    sites, y = np.concatenate([[[0.0, 0.0]], ring]), rng.normal(size=9)
    fit = geographically_weighted_regression(sites, None, y, neighbours=5)
    with pytest.warns(UserWarning, match="do not determine"):
        prediction = fit.predict([[0.0, 0.0]])
    assert prediction.mean[0] == pytest.approx(y[0])
    assert prediction.standard_error[0] == pytest.approx(y.std(), rel=1e-6)


def test_extreme_layouts_stay_finite(rng: np.random.Generator) -> None:
    """Sites a trillionth apart, a site far away, prediction a million units from everything."""
    sites = np.concatenate([1e-12 * rng.uniform(size=(40, 2)), rng.uniform(size=(40, 2)), [[1e9, 1e9]]])
    x, y = rng.normal(size=(81, 1)), rng.normal(size=81)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit = geographically_weighted_regression(sites, x, y)
        prediction = fit.predict(np.concatenate([sites, [[1e6, 0.0], [-1e15, 1e15]]]), np.zeros((83, 1)))
    assert np.isfinite(list(fit.leave_one_out.values())).all()
    assert_finite(prediction)


def test_order_of_sites_does_not_matter(rng: np.random.Generator) -> None:
    sites, x, y = rng.uniform(size=(90, 2)), rng.normal(size=(90, 2)), rng.normal(size=90)
    new, x_new, order = rng.uniform(size=(5, 2)), rng.normal(size=(5, 2)), rng.permutation(90)
    one = geographically_weighted_regression(sites, x, y)
    other = geographically_weighted_regression(sites[order], x[order], y[order])
    assert one.neighbours == other.neighbours
    np.testing.assert_allclose(one.predict(new, x_new).mean, other.predict(new, x_new).mean)


def test_blocks_do_not_matter(rng: np.random.Generator) -> None:
    sites, x, y = rng.uniform(size=(90, 2)), rng.normal(size=(90, 2)), rng.normal(size=90)
    whole = geographically_weighted_regression(sites, x, y)
    mean = whole.predict(sites, x).mean
    data, known = ScaledData.of(x, y), Sites(sites)
    parts = leave_one_out_errors(known, data, fewest=7, most=89, entries=200)
    np.testing.assert_allclose(list(parts.values()), list(whole.leave_one_out.values()))
    blocks = predict_locally(Neighbours(known, entries=200), data, known, x, whole.neighbours)
    np.testing.assert_allclose(blocks.mean, mean)


def test_a_search_that_ends_at_its_limit_says_so(rng: np.random.Generator) -> None:
    sites, x = rng.uniform(size=(300, 2)), rng.normal(size=(300, 1))
    with pytest.warns(UserWarning, match="most neighbours tried, 20 of 300 sites"):
        geographically_weighted_regression(sites, x, x[:, 0] + 0.1 * rng.normal(size=300), max_neighbours=20)


def test_bad_input_is_named() -> None:
    sites, x, y = np.random.default_rng(0).uniform(size=(20, 2)), np.ones((20, 1)), np.arange(20.0)
    fit = geographically_weighted_regression
    for change, message in [
        ({"response": y[:5]}, "5 entries for 20 sites"),
        ({"response": np.where(y == 3, np.nan, y)}, "response has NaN"),
        ({"covariates": x[:5]}, "covariates have 5 rows for 20 sites"),
        ({"covariates": np.where(y == 3, np.nan, y)[:, None]}, "covariates has NaN"),
        ({"covariates": y}, "covariates must have 2 dimension"),
        ({"covariates": np.ones((20, 9))}, "need more than 21 sites, got 20"),
        ({"sites": np.where(y == 3, np.inf, y)[:, None]}, "coordinates has NaN or infinite"),
        ({"sites": y}, "must have shape"),
        ({"neighbours": 4}, "from 5 to the 20 sites, got 4"),
        ({"neighbours": 21}, "from 5 to the 20 sites, got 21"),
        ({"max_neighbours": 4}, "max_neighbours must be at least 5, got 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(**({"sites": sites, "covariates": x, "response": y} | change))
    good = fit(sites, x, y, neighbours=6)
    for arguments, message in [
        ((sites, None), "covariates have 0 columns, the regression has 1"),
        ((sites, np.ones((3, 1))), "3 rows for 20 sites"),
        ((sites[:, :1], x), "2 and 1 coordinates"),
        ((Sites(sites, "sphere"), x), "different metrics"),
    ]:
        with pytest.raises(ValueError, match=message):
            good.predict(*arguments)
