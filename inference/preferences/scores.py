"""Scores of predictions and of designs: rank correlation, proper scores, calibration, simultaneous bounds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.special import xlogy

from tercet.models._inputs import KeyLike, as_floats, as_generator, same_length


class Calibration(NamedTuple):
    """Calibration curve of predicted probabilities, one entry a bin that is not empty.

    Attributes
    ----------
    predicted, observed : arrays [bins], mean prediction and mean outcome
    counts : int array [bins], predictions in the bin
    standard_error : array [bins], of the mean outcome
    """

    predicted: Float[np.ndarray, " bins"]
    observed: Float[np.ndarray, " bins"]
    counts: Int[np.ndarray, " bins"]
    standard_error: Float[np.ndarray, " bins"]


class SimultaneousBound(NamedTuple):
    """Mean paired differences, with lower confidence bounds that hold simultaneously at all budgets.

    Attributes
    ----------
    mean, lower, standard_error : arrays [budgets]
    """

    mean: Float[np.ndarray, " budgets"]
    lower: Float[np.ndarray, " budgets"]
    standard_error: Float[np.ndarray, " budgets"]


def _checked(probability: ArrayLike, outcome: ArrayLike) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    p, y = as_floats("probability", probability, 1), as_floats("outcome", outcome, 1)
    same_length(probability=p, outcome=y)
    for name, values in (("probability", p), ("outcome", y)):
        if values.min() < 0 or values.max() > 1:
            raise ValueError(f"{name} must lie in [0, 1], got {values.min()} to {values.max()}.")
    return p.astype(np.float64), y.astype(np.float64)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation, ties by average ranks.

    Parameters
    ----------
    first, second : arrays [n], two scores of the same items; an error where one is constant

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
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks, those of ties averaged."""
    _, position, count = np.unique(x, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - 0.5 * (count - 1))[position])


def accuracy(probability: ArrayLike, outcome: ArrayLike) -> float:
    """Share of decided outcomes predicted correctly; ties (0.5) are left out, a prediction of 0.5 counts as half.

    Parameters
    ----------
    probability : array [m], predicted E[outcome]
    outcome : array [m] in [0, 1]

    Examples
    --------
    >>> from tercet.inference import accuracy
    >>> accuracy([0.9, 0.2, 0.4], [1.0, 0.0, 0.5])
    1.0
    """
    p, y = _checked(probability, outcome)
    decided = y != 0.5
    if not decided.any():
        raise ValueError("every outcome is a tie: accuracy needs decided outcomes.")
    p, y = p[decided], y[decided]
    return float(np.where(p == 0.5, 0.5, (p > 0.5) == (y > 0.5)).mean())


def log_loss(probability: ArrayLike, outcome: ArrayLike) -> float:
    """Mean of -[y log p + (1 - y) log(1 - p)], in nats; predictions of 0.5 have log 2 = 0.693.

    Infinite where an outcome had predicted probability zero.

    Parameters
    ----------
    probability : array [m], predicted E[outcome]
    outcome : array [m] in [0, 1]
    """
    p, y = _checked(probability, outcome)
    return float(-np.mean(xlogy(y, p) + xlogy(1 - y, 1 - p)))


def brier(probability: ArrayLike, outcome: ArrayLike) -> float:
    """Brier score, the mean of (p - y)^2; predictions of 0.5 have 0.25.

    Parameters
    ----------
    probability : array [m], predicted E[outcome]
    outcome : array [m] in [0, 1]
    """
    p, y = _checked(probability, outcome)
    return float(np.mean(np.square(p - y)))


def calibration_curve(probability: ArrayLike, outcome: ArrayLike, bins: int = 10) -> Calibration:
    """Mean outcome against mean prediction in bins of equal count.

    Which item of a pair comes first is arbitrary, so each comparison enters in both orders: the curve is symmetric
    about (0.5, 0.5).

    Parameters
    ----------
    probability : array [m], predicted E[outcome]
    outcome : array [m] in [0, 1]
    bins : number of bins

    Returns
    -------
    Calibration
        predicted, observed, counts, standard_error [bins]
    """
    p, y = _checked(probability, outcome)
    both, answers = np.concatenate([p, 1 - p]), np.concatenate([y, 1 - y])
    order = np.argsort(both, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    observed = np.array([answers[part].mean() for part in parts])
    count = np.array([len(part) for part in parts])
    spread = np.array([answers[part].std() for part in parts])
    return Calibration(np.array([both[part].mean() for part in parts]), observed, count, spread / np.sqrt(count))


def simultaneous_bound(
    differences: ArrayLike, level: float = 0.95, draws: int = 20_000, key: KeyLike = 0
) -> SimultaneousBound:
    """Simultaneous lower confidence bounds on mean paired differences, by max-t over budgets.

    lower_b = mean_b - c se_b, with c the `level` quantile of max_b t_b when the signs of whole rows (seeds) are
    flipped at random: under the null hypothesis the differences are symmetric about zero. All 2^seeds signs are used
    where there are at most `draws`.

    Parameters
    ----------
    differences : array [seeds, budgets], of the method of interest minus the other, larger is better
    level : probability that all bounds hold
    draws : number of random sign flips
    key : int seed or JAX key of the sign flips

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
