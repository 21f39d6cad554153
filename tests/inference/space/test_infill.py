"""Density-ratio weights, the infill check with its controls, and the comparison of models."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import norm

from tercet.inference import (
    compare_risks,
    holdout_risk,
    infill_check,
    nearest_neighbour_risk,
    snn_risk,
    weighted_holdout_risk,
)
from tercet.models import Sites

KERNEL = partial(weighted_holdout_risk, ratio="kernel")


def test_kernel_weights_are_the_density_ratio(rng):
    """Normal sites, normal test sites: the weights follow the ratio of the two densities."""
    sites, targets = rng.normal(0.0, 1.0, (3000, 1)), rng.normal(0.7, 0.7, (3000, 1))
    risk = weighted_holdout_risk(sites[:, 0], sites, targets)
    true = norm.pdf(sites[:, 0], 0.7, 0.7) / norm.pdf(sites[:, 0])
    middle = np.abs(sites[:, 0]) < 1.5
    assert np.corrcoef(risk.weights[middle], true[middle])[0, 1] > 0.95
    assert risk.estimate == pytest.approx(0.7, abs=0.1)
    assert risk.weights.sum() == pytest.approx(1.0)


def test_classifier_weights_are_the_density_ratio(rng):
    sklearn = pytest.importorskip("sklearn.linear_model")
    sites, targets = rng.normal(0.0, 1.0, (600, 1)), rng.normal(0.7, 1.0, (600, 1))
    exact = weighted_holdout_risk(
        sites[:, 0], sites, targets, ratio=sklearn.LogisticRegression()
    )  # the ratio is log-linear
    true = np.exp(0.7 * sites[:, 0])
    assert np.corrcoef(exact.weights, true)[0, 1] > 0.97
    boosted = weighted_holdout_risk(sites[:, 0], sites, targets, ratio="classifier", key=1)
    assert 0.4 < boosted.estimate < 1.3  # trees in a thin tail are sure of too much; holdout says 0
    again = weighted_holdout_risk(sites[:, 0], sites, targets, ratio="classifier", key=1)
    np.testing.assert_array_equal(boosted.weights, again.weights)


def test_given_ratios_and_the_sphere(rng):
    sites = rng.uniform(size=(40, 2))
    ratio = rng.uniform(size=40)
    risk = weighted_holdout_risk(np.arange(40.0), sites, sites, ratio=ratio)
    assert risk.estimate == pytest.approx(ratio @ np.arange(40.0) / ratio.sum())
    globe = np.stack([rng.uniform(-60, 60, 400), rng.uniform(-180, 180, 400)], axis=1)
    north = Sites(np.abs(globe), "sphere")
    risk = weighted_holdout_risk(1.0 * (globe[:, 0] > 0), Sites(globe, "sphere"), north)
    assert risk.estimate > 0.8
    weighted_holdout_risk(np.arange(40.0), sites, sites[:1])  # one test site has no density of its own
    same = np.zeros((40, 2))
    assert weighted_holdout_risk(np.arange(40.0), same, same).estimate == pytest.approx(19.5)


@pytest.mark.parametrize(
    ("ratio", "message"),
    [("forest", "ratio must be"), ([1.0, 2.0], "needs 5 finite"), ([-1.0, 1, 1, 1, 1], "none negative")],
)
def test_bad_ratios(ratio, message):
    with pytest.raises(ValueError, match=message):
        weighted_holdout_risk(np.zeros(5), np.zeros((5, 1)), np.zeros((2, 1)), ratio=ratio)


SNN = partial(snn_risk, lipschitz=3.0, loss_bound=1.0)


@pytest.mark.parametrize("layout", ["grid", "cities", "point"])
def test_infill_controls(layout, seed):
    """Labels crowd at one side. Holdout always fails; 1NN needs many test sites; SNN passes everywhere.

    The oracle, right from the start, does not improve: the check asks for consistency, not for size.
    """
    rng = np.random.default_rng(seed)
    sites = rng.beta(1, 3, (40, 2))
    line = np.linspace(0.05, 0.6, 25)
    test = {
        "grid": np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2),
        "cities": np.array([[0.1, 0.1], [0.1, 0.5], [0.5, 0.1], [0.3, 0.4], [0.4, 0.2]]),
        "point": np.array([[0.3, 0.3]]),
    }[layout]
    estimators = {"holdout": holdout_risk, "1NN": nearest_neighbour_risk, "SNN": SNN, "half": lambda *_: 0.5}
    check = infill_check(estimators, sites, test, lipschitz=3.0, repeats=12, key=seed)
    assert check.passes == {"holdout": False, "1NN": layout == "grid", "SNN": True, "half": False}
    rows = check.table[check.table.estimator == "SNN"]
    assert rows["sites"].tolist() == [40, 80, 160, 320, 640, 1280]
    assert rows["fill"].is_monotonic_decreasing
    assert (rows["bias"] < rows["error"]).all()
    assert set(check.slopes) == set(check.standard_errors) == set(estimators)


@pytest.mark.slow
def test_infill_shows_where_weights_fail(seed):
    """A few cities are no density: weights by kernels and by a classifier stay biased, neighbours do not."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(seed)
    cities = np.array([[0.1, 0.1], [0.1, 0.5], [0.5, 0.1], [0.3, 0.4], [0.4, 0.2]])
    estimators = {
        "kernel": weighted_holdout_risk,
        "classifier": partial(weighted_holdout_risk, ratio=sklearn.LogisticRegression()),
        "SNN": SNN,
    }
    check = infill_check(estimators, rng.beta(1, 3, (40, 2)), cities, lipschitz=3.0, repeats=8, key=seed)
    assert not check.passes["kernel"]
    assert not check.passes["classifier"]
    assert check.slopes["SNN"] < -0.1


def test_infill_on_the_sphere_and_bad_input(seed):
    rng = np.random.default_rng(seed)
    cities = Sites(np.stack([rng.normal(50, 3, 40), rng.normal(10, 5, 40)], axis=1), "sphere")
    targets = Sites(np.stack([rng.uniform(46, 54, 400), rng.uniform(2, 18, 400)], axis=1), "sphere")
    check = infill_check({"1NN": nearest_neighbour_risk}, cities, targets, repeats=10, key=seed)
    assert check.passes["1NN"]
    with pytest.raises(ValueError, match="at least four"):
        infill_check({"1NN": nearest_neighbour_risk}, cities, targets, multiples=(1.0, 2.0))
    with pytest.raises(ValueError, match="repeats"):
        infill_check({"1NN": nearest_neighbour_risk}, cities, targets, repeats=1)


def test_models_are_ranked_where_it_matters(rng):
    """The model that holdout prefers is the worse one where the test sites are."""
    sites = rng.beta(2, 1, (400, 1))
    noise = rng.uniform(0, 0.2, 400)
    losses = {"flat": 0.4 + noise, "steep": 0.9 - 0.8 * sites[:, 0] + noise}
    test = np.linspace(0.2, 0.5, 40)[:, None]
    estimator = partial(snn_risk, lipschitz=0.8, loss_bound=1.2)
    table = compare_risks(losses, sites, test, estimator)
    assert table.index.tolist() == ["flat", "steep"]
    assert compare_risks(losses, sites, test, holdout_risk).index.tolist() == ["steep", "flat"]
    direct = estimator(losses["steep"], sites, test)
    assert table.loc["steep", "risk"] == pytest.approx(direct.estimate)
    assert (table.loc["steep", "low"], table.loc["steep", "high"]) == pytest.approx(direct.interval())
    assert table.loc["steep", "difference"] == pytest.approx(table.risk["steep"] - table.risk["flat"])
    assert table.order_right["steep"] > 0.99
    assert table.order_surely_right["steep"] <= table.order_right["steep"]
    assert np.isnan(table.order_right["flat"])


def test_the_probability_of_the_order_is_calibrated(seed):
    """Two models apart by 0.6 standard errors: P(the better is ranked first) is what the table says, on average."""
    rng = np.random.default_rng(seed)
    sites = rng.uniform(size=(60, 2))
    right, said = [], []
    for _ in range(120):
        gap = rng.normal(0, 0.02)
        noise = rng.normal(0, 0.11, (2, 60))
        table = compare_risks({"a": 1 + noise[0], "b": 1 + gap + noise[1]}, sites, sites, holdout_risk)
        right.append((table.index[0] == "a") == (gap > 0))
        said.append(table.order_right.iloc[1])
    assert abs(np.mean(right) - np.mean(said)) < 0.16  # both about .75; sd of the first .04, a flat prior adds .05


def test_comparing_says_what_it_needs(rng):
    sites = rng.uniform(size=(50, 1))
    with pytest.raises(ValueError, match="at least two models"):
        compare_risks({"a": np.ones(50)}, sites, sites, holdout_risk)
    losses = {"a": rng.uniform(size=50), "b": rng.uniform(size=50)}
    with pytest.raises(ValueError, match="depend on the losses"):
        compare_risks(losses, sites, sites, lambda loss, *where: weighted_holdout_risk(loss, *where, ratio=loss))
    same = compare_risks({"a": losses["a"], "b": losses["a"]}, sites, sites, holdout_risk)
    assert same.order_right.iloc[1] == 0.5
