"""Simulated fields have their stated distributions; airfields are where they are."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.datasets import airfields, gaussian_field_task, line_task


@pytest.mark.parametrize(("task", "sites", "copies"), [("grid", 900, 50), ("point", 1, 45_000)])
def test_tasks_have_their_shapes(task, sites, copies, seed):
    simulated = gaussian_field_task(task, 200, seed)
    assert simulated.train.response.shape == (1000,)
    assert simulated.validation.covariates.shape == (200, 2)
    assert simulated.test.response.shape == (copies, sites)
    assert simulated.test.response.std(axis=0).mean() == pytest.approx(
        np.sqrt(0.1), rel=0.05
    )  # copies differ by noise only
    again = gaussian_field_task(task, 200, seed)
    np.testing.assert_array_equal(simulated.validation.response, again.validation.response)


def test_covariates_and_noise_have_their_covariance(seed):
    """Over 12 draws: covariates of variance 1, correlated as Matern 3/2 of length .3 says, up to sampling."""
    products, squares = [], []
    for draw in range(12):
        simulated = gaussian_field_task("grid", 10, 100 * seed + draw)
        x = simulated.test.covariates.reshape(30, 30, 2)
        squares.append(np.square(x).mean())
        products.append((x[3:] * x[:-3]).mean())  # three cells of 1 / 29: distance .1034
    u = np.sqrt(3) * (3 / 29) / 0.3
    assert np.mean(squares) == pytest.approx(1.0, abs=0.4)
    assert np.mean(products) / np.mean(squares) == pytest.approx((1 + u) * np.exp(-u), abs=0.12)


def test_labels_of_the_grid_task_crowd(seed):
    """Counts in 25 cells: as variable as Poisson's for uniform sites, many times more for clustered ones."""

    def dispersion(sites: np.ndarray) -> float:
        count = np.histogram2d(*sites.T, bins=5, range=[[-0.5, 0.5]] * 2)[0]
        return float(count.var() / count.mean())

    grid, point = (gaussian_field_task(task, 500, seed).train.sites for task in ("grid", "point"))
    assert dispersion(point.coordinates) < 3 < 6 < dispersion(grid.coordinates)
    assert np.abs(point.coordinates).max() <= 0.5
    with pytest.raises(ValueError, match="task must be"):
        gaussian_field_task("ring")


def test_line_task(seed):
    simulated = line_task(2000, seed)
    s = simulated.validation.sites.coordinates[:, 0]
    assert (simulated.validation.response - np.abs(s)).min() >= 0
    assert (simulated.validation.response - np.abs(s)).max() <= 0.02
    assert (s + 0.5).mean() == pytest.approx(2 / 3, abs=0.03)  # roots of uniform numbers
    assert simulated.test.sites.coordinates[:, 0] == pytest.approx(np.linspace(-0.5, 0.5, 21))


def test_airfields_are_where_they_are():
    pytest.importorskip("airportsdata")
    world = airfields()
    assert len(world.sites) > 25_000
    assert world.sites.metric == "sphere"
    row = world.sites.ids.index("KDEN")
    assert world.sites.coordinates[row] == pytest.approx([39.86, -104.67], abs=0.05)
    assert world.elevation[row] == pytest.approx(1656, abs=10)
    assert (world.country[row], world.region[row]) == ("US", "America")
    assert np.isfinite(world.elevation).all()
