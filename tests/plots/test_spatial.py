"""Maps, bounds, risks, infill and distances show the numbers they were given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tercet.inference import holdout_risk, infill_check, nearest_neighbour_risk, snn_risk
from tercet.models import Sites
from tercet.plots import plot_distances, plot_infill, plot_risks, plot_sites
from tercet.plots.space import plot_bound


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_map_of_the_sphere_shows_longitude_then_latitude(rng):
    sites = Sites([[10.0, 350.0], [20.0, 30.0], [-5.0, 0.0]], "sphere")
    ax = plot_sites(sites, [3.0, 1.0, 2.0], sites, label="loss")
    behind, marks = ax.collections
    np.testing.assert_allclose(marks.get_offsets()[-1], [-10.0, 10.0])  # the largest is drawn last
    assert sorted(marks.get_array()) == [1.0, 2.0, 3.0]
    assert len(behind.get_offsets()) == 3
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("longitude (degrees)", "latitude (degrees)")
    assert len(plot_sites(rng.normal(size=(5, 2))).collections[0].get_offsets()) == 5
    assert plot_sites(sites, np.ones(3)) is not None  # all the same: one colour
    with pytest.raises(ValueError, match="two coordinates"):
        plot_sites(rng.normal(size=(5, 3)))


def test_bound_is_the_ladder(rng):
    sites = rng.uniform(size=(200, 2))
    risk = snn_risk(rng.uniform(size=200), sites, [[0.5, 0.5]], lipschitz=0.2, loss_bound=1.0)
    ax = plot_bound(risk)
    far, noise, total = (np.asarray(line.get_ydata()) for line in ax.lines[:3])
    np.testing.assert_allclose(far + noise, total)
    assert total.min() == pytest.approx(risk.bound)
    assert ax.lines[0].get_xdata()[np.argmin(total)] == risk.k
    with pytest.raises(ValueError, match="only snn_risk"):
        plot_bound(holdout_risk(rng.uniform(size=200), sites, sites))


def test_risks_show_intervals_and_truth(rng):
    sites, losses = rng.uniform(size=(50, 2)), rng.uniform(size=50)
    risks = {"a": holdout_risk(losses, sites, sites), "b": nearest_neighbour_risk(losses, sites, sites, lipschitz=1.0)}
    ax = plot_risks(risks, truth=0.5)
    bars = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 3]
    np.testing.assert_allclose(bars, [risk.interval() for risk in risks.values()])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


def test_infill_names_slopes_and_verdicts(rng):
    check = infill_check({"holdout": holdout_risk}, rng.beta(1, 3, (30, 1)), [[0.8]], repeats=3, key=1)
    ax = plot_infill(check)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), check.table.error)
    assert "fails" in ax.get_legend().get_texts()[0].get_text()


def test_distances_are_sorted_shares(rng):
    sites, test = rng.uniform(size=(40, 2)), rng.uniform(1, 2, (30, 2))
    ax = plot_distances(sites, test, folds=np.arange(40) % 2)
    assert len(ax.lines) == 3
    share = ax.lines[1].get_ydata()
    assert share[-1] == 1.0
    assert np.median(ax.lines[1].get_xdata()) > np.median(ax.lines[0].get_xdata())
