"""Simulated preferences have the truth they state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats

from tercet.datasets import simulated_preferences


def test_rewards_are_those_of_the_weights(seed: int) -> None:
    data = simulated_preferences(30, 4, 200, key=seed)
    np.testing.assert_allclose(data.rewards, data.items.features @ data.weights)
    assert data.items.features.shape == (30, 4)
    assert len(data.comparisons) == 200
    assert (data.comparisons.first != data.comparisons.second).all()
    assert set(np.unique(data.comparisons.outcome)) <= {0.0, 1.0}


@pytest.mark.parametrize("difference_sd", [0.5, 2.0])
@pytest.mark.parametrize("dim", [1, 16])
def test_difference_of_two_random_items_has_the_stated_sd(dim: int, difference_sd: float, seed: int) -> None:
    """|w|^2 = sd^2 / 2 exactly, and the rewards of n items vary accordingly: (n - 1) s^2 / |w|^2 ~ chi-square."""
    n = 4000
    data = simulated_preferences(n, dim, 10, difference_sd, key=seed)
    np.testing.assert_allclose(np.sqrt(2 * np.sum(data.weights**2)), difference_sd)
    statistic = (n - 1) * data.rewards.var(ddof=1) / (difference_sd**2 / 2)
    low, high = scipy.stats.chi2.ppf([5e-7, 1 - 5e-7], n - 1)
    assert low < statistic < high


def test_answers_have_bradley_terry_frequencies(seed: int) -> None:
    """Sums of (y - p) in ten bins of p, each within 5.5 standard deviations (false alarm below 1e-6)."""
    data = simulated_preferences(200, 8, 20_000, key=seed)
    games = data.comparisons
    p = scipy.special.expit(data.rewards[games.first] - data.rewards[games.second])
    for bin_ in np.array_split(np.argsort(p), 10):
        z = (games.outcome[bin_] - p[bin_]).sum() / np.sqrt((p[bin_] * (1 - p[bin_])).sum())
        assert abs(z) < 5.5
    ends = np.bincount(np.concatenate([games.first, games.second]), minlength=200)
    statistic = np.square(ends - 200.0).sum() / 200
    assert scipy.stats.chi2.sf(statistic, 199) > 1e-6


def test_keys(seed: int) -> None:
    one, again, other = (simulated_preferences(20, 3, 50, key=k) for k in (seed, seed, seed + 1))
    np.testing.assert_array_equal(one.items.features, again.items.features)
    np.testing.assert_array_equal(one.comparisons.outcome, again.comparisons.outcome)
    assert not np.array_equal(one.items.features, other.items.features)


@pytest.mark.parametrize(
    "sizes", [{"n_items": 1}, {"dim": 0}, {"n_comparisons": 0}, {"difference_sd": -1.0}, {"difference_sd": np.nan}]
)
def test_sizes_that_make_no_data_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need"):
        simulated_preferences(**sizes)
