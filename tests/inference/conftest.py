"""Small data sets for the tests of inference."""

import numpy as np
import pytest
from scipy.special import expit

from tercet.models import Comparisons, Items


@pytest.fixture
def make_data(rng):
    """Return a function: items with `dim` features and `m` Bradley-Terry comparisons of them."""

    def make(n=12, dim=3, m=150, weights=False, soft=False, levels=None):
        items = Items(rng.normal(size=(n, dim)), ids=[f"item {k}" for k in range(n)])
        first = np.concatenate([np.arange(n), rng.integers(n, size=m - n)])  # a chain through all: connected
        second = np.concatenate([(np.arange(n) + 1) % n, (first[n:] + rng.integers(1, n, size=m - n)) % n])
        reward = items.features @ rng.normal(size=dim) / np.sqrt(dim)
        chance = expit(reward[first] - reward[second])
        outcome = rng.beta(3 * chance + 0.1, 3 - 3 * chance + 0.1) if soft else (rng.random(m) < chance) * 1.0
        if levels is not None:  # answers on a scale, noisier than the comparisons above
            noisy = reward[first] - reward[second] + rng.logistic(size=m)
            outcome = np.clip(np.rint(expit(noisy) * (levels - 1)), 0, levels - 1) / (levels - 1)
        return items, Comparisons(first, second, outcome, rng.random(m) + 0.5 if weights else None)

    return make
