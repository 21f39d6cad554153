"""Predictions compared with later answers: the formula, its false alarms, correlated errors within a batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from tercet.designs import PairCandidates, prequential
from tercet.designs.campaigns.prequential_check import OVERCONFIDENT, batch_inflation
from tercet.inference.posteriors import GaussianPosterior
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import SiteGaussian
from tercet.models import BradleyTerry, Comparisons, Davidson, Items, LinearHead, Thurstone


def wide_posterior(items: Items, sd: float, model: Any = None, mean: Any = 0.0) -> GaussianPosterior:
    """Independent weights with this mean and sd; the order effect, where there is one, last."""
    model = BradleyTerry(LinearHead(1.0)) if model is None else model
    d = items.features.shape[1]
    layout = (("weights", d),) + ((("order_effect", 0),) * model.order_effect)
    size = d + model.order_effect
    context = Context(model, (items, Comparisons([0], [1], [1])), {}, x64=True)
    return SiteGaussian("laplace", context, {}, np.full(size, 1.0) * mean, np.eye(size) / sd, layout)


def test_formula_by_hand(rng: np.random.Generator) -> None:
    p, y, f = rng.uniform(0.02, 0.98, 30), rng.choice([0.0, 0.5, 1.0, 0.3], 30), rng.uniform(1, 3, 30)
    loss = entropy = excess = variance = 0.0
    for one, outcome, inflation in zip(p, y, f, strict=True):
        loss -= outcome * math.log(one) + (1 - outcome) * math.log(1 - one)
        entropy -= one * math.log(one) + (1 - one) * math.log(1 - one)
        # Loss of a coin that falls as predicted: its mean is the entropy, this its variance.
        losses = (-math.log(one), -math.log(1 - one))
        mean = one * losses[0] + (1 - one) * losses[1]
        variance += inflation * (one * (losses[0] - mean) ** 2 + (1 - one) * (losses[1] - mean) ** 2)
    excess = loss - entropy
    report = prequential(p, y, f)
    assert report.answers == 30
    np.testing.assert_allclose(report[1:], (loss / 30, entropy / 30, excess / math.sqrt(variance)))


def test_coins_and_certainties() -> None:
    assert prequential([0.5, 0.5], [1, 0]).z == 0.0
    assert prequential([0.5], [1]).log_loss == pytest.approx(math.log(2))
    sure = prequential([1.0, 0.0], [1, 0])
    assert sure.log_loss == pytest.approx(0.0, abs=1e-8)
    assert np.isfinite(prequential([1.0], [0])).all()
    assert prequential([1.0], [0]).z > OVERCONFIDENT


@pytest.mark.parametrize(
    ("prediction", "outcome", "message"),
    [([0.5], [1, 0], "lengths differ"), ([], [], "empty"), ([np.nan], [1], "NaN"), ([[0.5]], [1], "1 dimension")],
)
def test_mistakes_are_named(prediction: Any, outcome: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prequential(prediction, outcome)


def batches(rng: np.random.Generator, sd: float, size: int, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Z, with and without inflation, of batches of answers by weights drawn from the posterior that predicts them."""
    found = []
    for _ in range(repeats):
        items = Items(rng.standard_normal((12, 2)))
        mean = rng.standard_normal(2)
        pairs = np.array([rng.choice(12, 2, replace=False) for _ in range(size)])
        pool = PairCandidates(items, pairs).pool(wide_posterior(items, sd, mean=mean), None)
        prediction = pool.expected_outcome
        gap = (items.features[pairs[:, 0]] - items.features[pairs[:, 1]]) @ (mean + sd * rng.standard_normal(2))
        outcome = (rng.random(size) < expit(gap)).astype(float)
        f = batch_inflation(pool, prediction, int(rng.integers(2**31)))
        found.append((prequential(prediction, outcome, f).z, prequential(prediction, outcome).z))
    return np.array(found)[:, 0], np.array(found)[:, 1]


def test_calibrated_predictions_raise_no_alarm(rng: np.random.Generator) -> None:
    """Over 300 batches z has mean 0 and mean square 1 within five standard errors; without the inflation, about 5.

    The mean square may be 10 % below, as the inflation is held to at least 1. z is skewed where answers err together:
    above 3 once in a hundred batches (here in at most 15 of 300, which is 1 in 10^6).
    """
    inflated, plain = batches(rng, sd=1.0, size=40, repeats=300)
    square, error = np.square(inflated), 5.0 / math.sqrt(300)
    assert 0.9 - error * square.std() < square.mean() < 1.0 + error * square.std()
    assert abs(inflated.mean()) < error * inflated.std()
    assert np.count_nonzero(inflated > OVERCONFIDENT) <= 15
    assert np.mean(plain**2) > 2.0
    assert np.count_nonzero(plain > OVERCONFIDENT) > 15


def test_overconfidence_is_seen(rng: np.random.Generator) -> None:
    """Logits three times too large give an alarm after 200 answers; calibrated ones do not (here but 1 in 10^6)."""
    truth = rng.normal(0.0, 1.0, 200)
    outcome = (rng.random(200) < expit(truth)).astype(float)
    assert prequential(expit(3.0 * truth), outcome).z > OVERCONFIDENT
    assert prequential(expit(truth), outcome).z < 4.9
    assert prequential(expit(truth / 3.0), outcome).z < 0.5


@pytest.mark.parametrize("kind", [BradleyTerry, Thurstone])
def test_inflation_of_a_repeated_pair(kind: Any, seed: int) -> None:
    """The same pair b times: f = 1 + (b - 1) Var p(w) / (p (1 - p)); 1,000 draws have 6 standard errors of 30 %."""
    items = Items(np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]]))
    model = kind(LinearHead(1.0))
    posterior = wide_posterior(items, 0.8, model, mean=np.array([0.7, 0.0]))
    pool = PairCandidates(items, np.array([[0, 1]] * 9)).pool(posterior, None)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    p = model.link.probability(0.7 + 0.8 * math.sqrt(2) * nodes)
    mean = (weights @ p) / weights.sum()
    variance = (weights @ (p - mean) ** 2) / weights.sum()
    np.testing.assert_allclose(pool.expected_outcome, mean, rtol=1e-6)
    found = batch_inflation(pool, pool.expected_outcome, seed)
    assert found - 1 == pytest.approx(8 * variance / (mean * (1 - mean)), rel=0.3)


def test_inflation_of_one_answer_and_of_coins(seed: int) -> None:
    items = Items(np.eye(3))
    alone = PairCandidates(items, np.array([[0, 1]])).pool(wide_posterior(items, 1.0, mean=np.arange(3.0)), None)
    assert batch_inflation(alone, alone.expected_outcome, seed) == pytest.approx(1.0)
    coins = PairCandidates(items, np.array([[0, 1], [1, 2]])).pool(wide_posterior(items, 1.0), None)
    assert batch_inflation(coins, np.full(2, 0.5), seed) == 1.0


def test_inflation_sees_the_order_effect(seed: int) -> None:
    """All pairs share the order effect: where it alone is uncertain, their errors are correlated."""
    items = Items(np.eye(4) * [0.0, 0.01, 0.02, 0.03])
    model = BradleyTerry(LinearHead(1.0), order_effect=True)
    pairs = np.array([[0, 1], [2, 3], [1, 2], [3, 0]])
    pool = PairCandidates(items, pairs).pool(wide_posterior(items, 1.0, model, mean=1.0), None)
    assert batch_inflation(pool, pool.expected_outcome, seed) > 1.2
    assert logit(pool.expected_outcome).min() > 0.5


def test_other_likelihoods() -> None:
    """As ties become more likely, expected outcomes approach one half and errors become independent."""
    items, found = Items(np.array([[1.0], [0.0], [2.0]])), []
    pairs = np.array([[0, 1], [2, 1], [2, 0]])
    for strength in (0.01, 100.0):
        layout = (("weights", 1), ("tie_strength", 0))
        context = Context(Davidson(LinearHead(1.0)), (items, Comparisons([0], [1], [1])), {}, x64=True)
        center = np.array([1.0, strength])
        posterior = SiteGaussian("laplace", context, {}, center, np.diag([1.0, 1e6]), layout)
        pool = PairCandidates(items, pairs).pool(posterior, None)
        found.append(batch_inflation(pool, pool.expected_outcome))
    assert found[0] > 1.3
    assert 1.0 <= found[1] < 1.1
