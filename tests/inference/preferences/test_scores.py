"""Scores against scikit-learn and scipy; the simultaneous bound at its stated level, by simulation."""

import numpy as np
import pytest
import scipy.stats
from scipy.special import expit

from tercet.inference import accuracy, calibration_curve, log_loss, spearman
from tercet.inference.preferences import brier, simultaneous_bound

RUNS, SEEDS, BUDGETS = 400, 10, 6


@pytest.fixture
def forecasts(rng):
    p = rng.random(4000)
    return p, (rng.random(4000) < p) * 1.0


def test_proper_scores_are_scikit_learns(forecasts):
    metrics = pytest.importorskip("sklearn.metrics")
    p, y = forecasts
    assert log_loss(p, y) == pytest.approx(metrics.log_loss(y, p), rel=1e-12)
    assert brier(p, y) == pytest.approx(metrics.brier_score_loss(y, p), rel=1e-12)
    assert accuracy(p, y) == pytest.approx(metrics.accuracy_score(y, p > 0.5), rel=1e-12)


def test_calibration_is_scikit_learns_of_both_ways_round(forecasts):
    calibration = pytest.importorskip("sklearn.calibration")
    p, y = forecasts
    found = calibration_curve(p, y, bins=8)
    both = np.r_[p, 1 - p], np.r_[y, 1 - y]
    observed, predicted = calibration.calibration_curve(both[1], both[0], n_bins=8, strategy="quantile")
    np.testing.assert_allclose(found.predicted, predicted, atol=1e-12)
    np.testing.assert_allclose(found.observed, observed, atol=1e-12)
    np.testing.assert_allclose(found.observed, 1 - found.observed[::-1], atol=1e-12)
    # the forecasts are calibrated: five standard errors
    assert (np.abs(found.observed - found.predicted) < 5 * found.standard_error).all()
    assert found.counts.sum() == 8000


def test_rank_correlation_is_scipys(rng):
    x, y = rng.integers(8, size=100), rng.normal(size=100)
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    with pytest.raises(ValueError, match="one of them is constant"):
        spearman(np.ones(4), np.arange(4))


def test_soft_outcomes_and_ties():
    """Expected log loss of a soft outcome is its cross entropy; ties have no accuracy, certainty may be infinite."""
    assert log_loss([0.3], [0.25]) == pytest.approx(-0.25 * np.log(0.3) - 0.75 * np.log(0.7))
    assert log_loss([1.0, 0.0], [1, 0]) == 0.0
    assert log_loss([1.0], [0.0]) == np.inf
    assert accuracy([0.9, 0.5, 0.1], [1, 1, 0.5]) == 0.75
    with pytest.raises(ValueError, match="every outcome is a tie"):
        accuracy([0.9], [0.5])


@pytest.mark.parametrize("score", [log_loss, brier, accuracy, calibration_curve])
@pytest.mark.parametrize(
    ("probability", "outcome", "message"),
    [
        ([1.2], [1.0], r"probability must lie in \[0, 1\]"),
        ([0.2], [-1.0], r"outcome must lie in \[0, 1\]"),
        ([0.2, 0.3], [1.0], "lengths differ: probability 2, outcome 1"),
        ([np.nan], [1.0], "probability has NaN"),
        ([], [], "probability is empty"),
    ],
)
def test_bad_forecasts_are_refused(score, probability, outcome, message):
    with pytest.raises(ValueError, match=message):
        score(probability, outcome)


def studies(rng, shift):
    """Paired differences of many studies: seeds share noise over budgets, as learning curves do."""
    steps = rng.normal(size=(RUNS, SEEDS, BUDGETS))
    return shift + np.cumsum(steps, axis=2) / np.sqrt(np.arange(1, BUDGETS + 1))


def test_bound_is_false_at_its_stated_rate(rng):
    """Where nothing differs, some budget's lower bound is above zero in 5 % of studies.

    The test itself fails by chance in 1 of 100,000 runs (binomial bounds); Student's t per budget would alarm more.
    """
    alarms = sum((simultaneous_bound(d, 0.95).lower > 0).any() for d in studies(rng, 0.0))
    low, high = scipy.stats.binom(RUNS, 0.05).ppf([5e-6, 1 - 5e-6])
    assert low <= alarms <= high


def test_bound_is_simultaneous_and_has_power(rng):
    """Wider than a bound for one budget; a shift of two sd is seen in nearly every study."""
    studied = studies(rng, 2.0)[:50]
    bounds = [simultaneous_bound(d, 0.95) for d in studied]
    seen = np.mean([(b.lower > 0).any() for b in bounds])
    assert seen > 0.9
    for d, b in zip(studied, bounds, strict=True):
        single = simultaneous_bound(d[:, :1], 0.95)
        np.testing.assert_allclose(b.mean, d.mean(0))
        np.testing.assert_allclose(b.standard_error, d.std(0, ddof=1) / np.sqrt(SEEDS))
        assert (b.lower <= b.mean).all()
        assert b.lower[0] <= single.lower[0] + 1e-12


def test_bound_of_many_seeds_flips_at_random_and_reproducibly(rng):
    d = rng.normal(0.3, 1.0, size=(30, 3))
    one, two = simultaneous_bound(d, key=1), simultaneous_bound(d, key=1)
    np.testing.assert_array_equal(one.lower, two.lower)
    t = scipy.stats.t(29).ppf(1 - 0.05 / 3)  # Bonferroni is a little wider
    assert (one.lower >= one.mean - 1.1 * t * one.standard_error).all()
    assert (one.lower <= one.mean - 1.5 * one.standard_error).all()


def test_bound_of_identical_methods_is_zero():
    found = simultaneous_bound(np.zeros((5, 3)))
    np.testing.assert_array_equal(found.lower, 0)
    with pytest.raises(ValueError, match="at least two seeds, got 1"):
        simultaneous_bound([[0.1, 0.2]])


def test_calibrated_model_is_called_calibrated(rng):
    """Against a wrong one: probabilities twice as extreme leave the diagonal by many standard errors."""
    logit = rng.normal(0, 1.5, size=4000)
    y = (rng.random(4000) < expit(logit)) * 1.0
    wrong = calibration_curve(expit(3 * logit), y)
    assert (np.abs(wrong.observed - wrong.predicted) > 5 * wrong.standard_error).any()
