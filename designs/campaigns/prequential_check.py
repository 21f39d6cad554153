"""Prequential checks: predictions compared with later answers, to see whether a model's uncertainty can be trusted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr, logit

from tercet.designs.campaigns.arguments import Key
from tercet.designs.pairs.pool import PairPool
from tercet.models._inputs import as_floats, as_generator, same_length

OVERCONFIDENT = 3.0
"""z above which predictions count as overconfident: by chance in 1 batch of 740, of 100 where posteriors are wide."""
DRAWS = 1000
MARGIN = 1e-9  # probabilities are kept this far from 0 and 1, so that no single answer has infinite weight


class Prequential(NamedTuple):
    """How answers compare with the predictions made before them.

    Attributes
    ----------
    answers : number of answers
    log_loss : mean log loss of the predictions, in nats (log 2 = 0.693 for a fair coin)
    expected : its expectation if the predictions are calibrated: their mean entropy
    z : (log_loss - expected) in units of its standard deviation: large where the predictions are overconfident, 0
        where every prediction is 0.5
    """

    answers: int
    log_loss: float
    expected: float
    z: float


def prequential(prediction: ArrayLike, outcome: ArrayLike, inflation: float | ArrayLike = 1.0) -> Prequential:
    """Compare predictions with the answers that came after them.

    The log loss of a prediction p exceeds its entropy by (p - y) logit p. For calibrated predictions the sum of these
    over the answers has mean 0 and variance sum f p (1 - p) logit(p)^2, f the inflation; ties (y = 0.5) only make it
    smaller. z is the sum divided by its standard deviation.

    Parameters
    ----------
    prediction : array [m], probabilities that the first is preferred
    outcome : array [m] in [0, 1]
    inflation : variance inflation factor f, a number or array [m]; 1 where answers are independent given the
        predictions. Answers of one batch are not: see `batch_inflation`

    Returns
    -------
    Prequential

    References
    ----------
    Dawid (1984), JRSS A 147, 278-292; Seillier-Moiseiwitsch and Dawid (1993), JASA 88, 355-359.

    Examples
    --------
    >>> from tercet.designs import prequential
    >>> report = prequential([0.9, 0.8, 0.9, 0.5], [0, 1, 0, 1])
    >>> report.answers, round(report.log_loss, 3), round(report.expected, 3), round(report.z, 2)
    (4, 1.38, 0.461, 3.39)
    """
    p = np.clip(as_floats("prediction", prediction, 1).astype(np.float64), MARGIN, 1.0 - MARGIN)
    y = as_floats("outcome", outcome, 1)
    same_length(prediction=p, outcome=y)
    excess = (p - y) * logit(p)
    entropy = entr(p) + entr(1.0 - p)
    variance = float(np.sum(np.asarray(inflation) * p * (1.0 - p) * np.square(logit(p))))
    z = float(excess.sum()) / variance**0.5 if variance > 0 else 0.0
    return Prequential(len(p), float(np.mean(entropy + excess)), float(entropy.mean()), z)


def batch_inflation(pool: PairPool, prediction: np.ndarray, key: Key = 0) -> float:
    """Variance inflation factor of the log loss of a batch, relative to as many independent answers.

    Answers of a batch depend on one unknown reward function: where the posterior is wide, their errors are correlated.
    With p(w) the probabilities under a draw w of the posterior and a = logit E p(w),

        f = 1 + (Var a' p(w) - sum a^2 Var p(w)) / sum a^2 p (1 - p),

    and at least 1.

    Parameters
    ----------
    pool : the batch under the posterior that predicts it
    prediction : array [b], its predictions
    key : int seed or JAX key, for 1,000 draws
    """
    p = _probability_draws(pool, as_generator(key))
    prediction = np.clip(prediction, MARGIN, 1.0 - MARGIN)
    weight = logit(prediction)
    independent = float(np.square(weight) @ (prediction * (1.0 - prediction)))
    shared = (p @ weight).var() - np.square(weight) @ p.var(axis=0)
    return max(1.0, 1.0 + float(shared) / independent) if independent > 0 else 1.0


def _probability_draws(pool: PairPool, rng: np.random.Generator) -> np.ndarray:
    """Expected outcome [draws, b] of each pair of a pool under draws of the posterior."""
    batch = pool.sample(np.arange(len(pool)))
    rows = batch.rows.matmat(batch.root)
    noise = rng.standard_normal((DRAWS, rows.shape[1]))
    return np.asarray(batch.model.expected_outcome(batch.difference.mean + noise @ rows.T, batch.sites))
