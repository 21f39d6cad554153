"""Scores of predictions and of designs: ranking, proper scores, calibration, simultaneous bounds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike
from scipy.special import xlogy

from tercet.models._inputs import as_floats, as_generator, same_length


class Calibration(NamedTuple):
    """Reliability of predicted probabilities: one entry a bin that holds predictions."""

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray
    standard_error: np.ndarray


class SimultaneousBound(NamedTuple):
    """Mean paired difference at each budget, and a lower bound that holds at all of them together."""

    mean: np.ndarray
    lower: np.ndarray
    standard_error: np.ndarray


def _pair(probability: ArrayLike, outcome: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, y = as_floats("probability", probability, 1), as_floats("outcome", outcome, 1)
    same_length(probability=p, outcome=y)
    for name, values in (("probability", p), ("outcome", y)):
        if values.min() < 0 or values.max() > 1:
            raise ValueError(f"{name} must lie in [0, 1], got {values.min()} to {values.max()}.")
    return p.astype(np.float64), y.astype(np.float64)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Rank correlation of two score vectors [n], ties by average ranks; an error where one is constant.

    Examples
    --------
    >>> from tercet.inference import spearman
    >>> round(spearman([1, 2, 3], [10, 30, 20]), 3)
    0.5
    """
    x, y = as_floats("first", first, 1), as_floats("second", second, 1)
    same_length(first=x, second=y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError("Spearman's correlation needs two scores that vary; one of them is constant.")
    return float(scipy.stats.spearmanr(x, y).statistic)


def accuracy(probability: ArrayLike, outcome: ArrayLike) -> float:
    """Share of decided answers predicted right; ties (0.5) are left out, a prediction of exactly 0.5 is half right.

    Examples
    --------
    >>> from tercet.inference import accuracy
    >>> accuracy([0.9, 0.2, 0.4], [1.0, 0.0, 0.5])
    1.0
    """
    p, y = _pair(probability, outcome)
    decided = y != 0.5
    if not decided.any():
        raise ValueError("every outcome is a tie: accuracy needs decided answers.")
    p, y = p[decided], y[decided]
    return float(np.where(p == 0.5, 0.5, (p > 0.5) == (y > 0.5)).mean())


def log_loss(probability: ArrayLike, outcome: ArrayLike) -> float:
    """Mean of -[y log p + (1 - y) log(1 - p)], in nats; log 2 = 0.693 is a coin's.

    Infinite where an answer was given probability zero.
    """
    p, y = _pair(probability, outcome)
    return float(-np.mean(xlogy(y, p) + xlogy(1 - y, 1 - p)))


def brier(probability: ArrayLike, outcome: ArrayLike) -> float:
    """Mean squared difference of probability and outcome; 0.25 is a coin's."""
    p, y = _pair(probability, outcome)
    return float(np.mean(np.square(p - y)))


def calibration_curve(probability: ArrayLike, outcome: ArrayLike, bins: int = 10) -> Calibration:
    """Mean outcome against mean prediction in bins of equal count.

    Which item of a pair comes first is arbitrary, so each answer enters both ways round: the curve is symmetric
    about (0.5, 0.5), and both halves of the picture say the same.

    Parameters
    ----------
    probability : array [m], predicted E[outcome]
    outcome : array [m] in [0, 1]
    bins : number of bins

    Returns
    -------
    Calibration
        predicted, observed, counts, standard_error [bins]; the standard error counts each answer once.
    """
    p, y = _pair(probability, outcome)
    both, answers = np.concatenate([p, 1 - p]), np.concatenate([y, 1 - y])
    order = np.argsort(both, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    observed = np.array([answers[part].mean() for part in parts])
    count = np.array([len(part) for part in parts])
    spread = np.array([answers[part].std() for part in parts])
    return Calibration(np.array([both[part].mean() for part in parts]), observed, count, spread / np.sqrt(count))


def simultaneous_bound(
    differences: ArrayLike, level: float = 0.95, draws: int = 20_000, key: Any = 0
) -> SimultaneousBound:
    """Lower bounds on mean paired differences that hold at all budgets at once (max-t over budgets).

    lower_b = mean_b - c se_b, with c the `level` quantile of max_b t_b when the signs of whole rows (seeds) are
    flipped at random: the paired differences are exchangeable in sign where nothing differs. All 2^seeds signs are
    used where they are fewer than `draws`.

    Parameters
    ----------
    differences : array [seeds, budgets], ours minus theirs, larger is better for us

    Returns
    -------
    SimultaneousBound
        mean, lower, standard_error [budgets].

    References
    ----------
    Westfall and Young (1993), Resampling-Based Multiple Testing.
    """
    d = as_floats("differences", differences, 2).astype(np.float64)
    seeds = len(d)
    if seeds < 2:
        raise ValueError(f"a paired comparison needs at least two seeds, got {seeds}.")
    if 2**seeds <= draws:
        signs = 1.0 - 2.0 * ((np.arange(2**seeds)[:, None] >> np.arange(seeds)) & 1)
    else:
        signs = as_generator(key).choice([-1.0, 1.0], size=(draws, seeds))
    centred = d - d.mean(axis=0)
    flipped = signs @ centred / seeds
    second = np.square(centred).mean(axis=0)  # unchanged by flips
    error = np.sqrt(np.maximum(second - np.square(flipped), 1e-300) / (seeds - 1))
    critical = float(np.quantile((flipped / error)[:, second > 0].max(axis=1), level)) if (second > 0).any() else 0.0
    standard_error = d.std(axis=0, ddof=1) / np.sqrt(seeds)
    return SimultaneousBound(d.mean(axis=0), d.mean(axis=0) - critical * standard_error, standard_error)
