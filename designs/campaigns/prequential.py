"""Predictions held against answers they have not seen: whether a model's uncertainty can be trusted for design."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr, logit

from tercet.designs.pairs.pool import PairPool
from tercet.models._inputs import as_floats, as_generator, same_length

ALARM = 3.0
"""z above which predictions count as overconfident: by chance in 1 batch of 740, of 100 where posteriors are wide."""
DRAWS = 1000
_CLOSEST = 1e-9  # probabilities are kept this far from 0 and 1: one answer never weighs infinitely


class Prequential(NamedTuple):
    """How answers compare with the predictions made before they were asked.

    Attributes
    ----------
    answers : how many
    log_loss : mean log loss of the predictions, in nats (log 2 = 0.693: a coin)
    expected : what it would be on average were the predictions right: their mean entropy
    z : (log_loss - expected) in units of its standard deviation; large is overconfident, 0 where nothing is predicted
    """

    answers: int
    log_loss: float
    expected: float
    z: float


def prequential(prediction: ArrayLike, outcome: ArrayLike, inflation: float | ArrayLike = 1.0) -> Prequential:
    """Compare predictions with answers that came after them.

    The log loss exceeds the entropy of its prediction p by (p - y) logit p. Were the predictions right, the sum of
    these over answers would have mean 0 and variance sum f p (1 - p) logit(p)^2, f the inflation; ties (y = 0.5) only
    make it smaller. z is the sum over its standard deviation.

    Parameters
    ----------
    prediction : array [m], probabilities that the first is preferred
    outcome : array [m] in [0, 1]
    inflation : number or array [m], see `batch_inflation`; 1 where answers are independent given the predictions

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
    p = np.clip(as_floats("prediction", prediction, 1).astype(np.float64), _CLOSEST, 1.0 - _CLOSEST)
    y = as_floats("outcome", outcome, 1)
    same_length(prediction=p, outcome=y)
    excess = (p - y) * logit(p)
    entropy = entr(p) + entr(1.0 - p)
    variance = float(np.sum(np.asarray(inflation) * p * (1.0 - p) * np.square(logit(p))))
    z = float(excess.sum()) / variance**0.5 if variance > 0 else 0.0
    return Prequential(len(p), float(np.mean(entropy + excess)), float(entropy.mean()), z)


def batch_inflation(pool: PairPool, prediction: np.ndarray, key: Any = 0) -> float:
    """How much more the log loss of a whole batch varies than that of as many independent answers.

    Answers of a batch share one unknown reward function: where the posterior is wide they are right or wrong
    together. With p(w) the probabilities under a draw of the posterior and a = logit E p(w),

        f = 1 + (Var a' p(w) - sum a^2 Var p(w)) / sum a^2 p (1 - p),

    and at least 1.

    Parameters
    ----------
    pool : the batch under the posterior that predicts it
    prediction : array [b], its predictions
    key : int seed or JAX key, for 1,000 draws
    """
    own = pool.sample(np.arange(len(pool)))
    rows = own.rows.matmat(own.root)
    noise = as_generator(key).standard_normal((DRAWS, rows.shape[1]))
    p = np.asarray(own.model.expected_outcome(own.difference.mean + noise @ rows.T, own.sites))
    prediction = np.clip(prediction, _CLOSEST, 1.0 - _CLOSEST)
    weight = logit(prediction)
    alone = float(np.square(weight) @ (prediction * (1.0 - prediction)))
    together = (p @ weight).var() - np.square(weight) @ p.var(axis=0)
    return max(1.0, 1.0 + float(together) / alone) if alone > 0 else 1.0
