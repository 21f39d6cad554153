"""Calibrated probabilities of winning from any reward, by cross-fitting: Platt scaling or isotonic regression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.optimize
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy.special import expit

from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.rewards import reward
from tercet.models._inputs import KeyLike, as_generator, as_pairs
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.links import Logistic

RewardFunction = Callable[[Items], np.ndarray]
"""From items to their rewards [n]."""


@dataclass(frozen=True, eq=False)
class RewardCalibration:
    """P(first preferred) as an increasing function g of the reward difference, g(-d) = 1 - g(d).

    Attributes
    ----------
    score : function from items to rewards, fitted on all comparisons
    method : "platt" or "isotonic"
    slope : of g(d) = 1 / (1 + exp(-slope d)), by Platt scaling; NaN for isotonic regression
    differences, probabilities : arrays [k], knots between which g is linear, by isotonic regression; else empty
    held_out : array [m], differences of rewards fitted without the fold of the comparison (by items: only comparisons
        of two items of one fold)
    log_loss : of g on these, and of 1 / (1 + exp(-d)), in nats
    """

    score: RewardFunction
    method: Literal["platt", "isotonic"]
    slope: float
    differences: Float[np.ndarray, " k"]
    probabilities: Float[np.ndarray, " k"]
    held_out: Float[np.ndarray, " m"]
    log_loss: tuple[float, float]

    def win_probability(self, items: Items, pairs: ArrayLike) -> Float[np.ndarray, " m"]:
        """Probability that the first of each pair [m, 2] is preferred."""
        index = as_pairs(pairs, len(items))
        rewards = self.score(items)
        difference = rewards[index[:, 0]] - rewards[index[:, 1]]
        return _calibrated(difference, self.slope, self.differences, self.probabilities)


def calibrate_rewards(
    fit: Callable[[Items, Comparisons], RewardFunction | Posterior],
    items: Items,
    comparisons: Comparisons,
    *,
    method: Literal["platt", "isotonic"] = "platt",
    folds: int = 5,
    by: Literal["answers", "items"] = "answers",
    key: KeyLike = 0,
) -> RewardCalibration:
    """Fit rewards and, by cross-validation, a map from their differences to probabilities of winning.

    Rewards that rank well need not be logits: those of a point-wise classifier are not, nor those of a network stopped
    early. Differences of rewards fitted to the other folds are mapped by a logistic slope (Platt) or by isotonic
    regression, both symmetric in the two items.

    The folds should match the use of the rewards: by answers (all comparisons of one pair in one fold) for items that
    have been compared; by items for new ones, so that both items of a held-out comparison are new to the rewards.

    Parameters
    ----------
    fit : function of items and comparisons giving a posterior, or a function from items to rewards
        For example `lambda i, c: fit_pointwise(LogisticRegression(), i, c)`.
    items, comparisons : the data
    method : "platt" (one parameter; for hundreds of comparisons) or "isotonic" (any shape; for thousands)
    folds : number of folds, at least 2
    by : "answers", or "items": calibrate on comparisons of two items of one fold, about one comparison in `folds`
    key : int seed or JAX key, for the folds

    Returns
    -------
    RewardCalibration

    Raises
    ------
    ValueError
        Too many folds for the data, or rewards that are all equal.

    References
    ----------
    Platt (1999), Advances in Large Margin Classifiers; Zadrozny and Elkan (2002), KDD (isotonic regression).

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from tercet.datasets import simulated_preferences
    >>> from tercet.inference import calibrate_rewards, fit_pointwise
    >>> truth = simulated_preferences(n_comparisons=3000)
    >>> calibration = calibrate_rewards(lambda i, c: fit_pointwise(LogisticRegression(), i, c), *truth[:2])
    >>> calibration.slope > 1.1  # the classifier sees one item at a time: its logits are too small
    True
    """
    if method not in ("platt", "isotonic"):
        raise ValueError(f'method must be "platt" or "isotonic", got {method!r}.')
    if by not in ("answers", "items"):
        raise ValueError(f'by must be "answers" or "items", got {by!r}.')
    fold = _folds(items, comparisons, folds, by, as_generator(key))
    held_out, used = _held_out_differences(fit, items, comparisons, fold)
    y, weight = comparisons.outcome[used], comparisons.weights[used]
    slope = _slope(held_out, y, weight) if method == "platt" else np.nan
    knots = _isotonic(held_out, y, weight) if method == "isotonic" else (np.empty(0), np.empty(0))
    p = np.clip(_calibrated(held_out, slope, *knots), 1e-12, 1.0 - 1e-12)
    after = -weight @ (y * np.log(p) + (1.0 - y) * np.log1p(-p)) / weight.sum()
    before = -weight @ Logistic().log_likelihood(held_out, y) / weight.sum()
    losses = (float(after), float(before))
    return RewardCalibration(_rewards(fit(items, comparisons)), method, slope, knots[0], knots[1], held_out, losses)


def _held_out_differences(
    fit: Callable[[Items, Comparisons], RewardFunction | Posterior],
    items: Items,
    comparisons: Comparisons,
    fold: Int[np.ndarray, "m 2"],
) -> tuple[Float[np.ndarray, " u"], Bool[np.ndarray, " m"]]:
    """Differences of rewards fitted without the fold of each comparison that lies in one, and which these are."""
    used = fold[:, 0] == fold[:, 1]
    differences = np.empty(len(comparisons))
    for part in np.unique(fold[used]):
        out, kept = used & (fold[:, 0] == part), (fold != part).all(axis=1)
        rewards = _rewards(fit(items, comparisons.take(kept)))(items)
        differences[out] = rewards[comparisons.first[out]] - rewards[comparisons.second[out]]
    return differences[used], used


def _folds(
    items: Items, comparisons: Comparisons, folds: int, by: str, rng: np.random.Generator
) -> Int[np.ndarray, "m 2"]:
    """Folds [m, 2] of the two items of each comparison: by answers both are that of the pair."""
    if by == "items":
        code, count = comparisons.pairs, len(items)
    else:
        _, code = np.unique(np.sort(comparisons.pairs, axis=1), axis=0, return_inverse=True)
        code = np.repeat(code.reshape(-1, 1), 2, axis=1)
        count = int(code.max()) + 1
    if not 2 <= folds <= count:
        what = "items" if by == "items" else "different pairs"
        raise ValueError(f"folds must be from 2 to {count}, the number of {what}; got {folds}.")
    fold: np.ndarray = rng.permutation(np.arange(count) % folds)[code]
    within = fold[:, 0] == fold[:, 1]
    if not within.any() or not all((fold != part).all(axis=1).any() for part in np.unique(fold[within])):
        raise ValueError(
            f"too few answers are about two items of one of {folds} folds: use fewer folds, or by='answers'."
        )
    return fold


def _calibrated(
    difference: Float[np.ndarray, " m"], slope: float, knots: np.ndarray, probabilities: np.ndarray
) -> Float[np.ndarray, " m"]:
    return np.asarray(np.interp(difference, knots, probabilities) if len(knots) else expit(slope * difference))


def _rewards(fitted: RewardFunction | Posterior) -> RewardFunction:
    if isinstance(fitted, Posterior):
        return lambda items: reward(fitted, items).mean
    if not callable(fitted):
        raise ValueError(f"fit must give a posterior or a function from items to rewards, got {type(fitted).__name__}.")
    return fitted


def _slope(
    difference: Float[np.ndarray, " m"], outcome: Float[np.ndarray, " m"], weight: Float[np.ndarray, " m"]
) -> float:
    """Maximum-likelihood slope, with one tie at a typical difference added: finite for separable answers too."""
    scale = float(np.sqrt(np.mean(np.square(difference))))
    if not scale > 0:
        raise ValueError("all reward differences are zero: there is nothing to calibrate.")
    d = np.append(difference / scale, 1.0)
    y, w = np.append(outcome, 0.5), np.append(weight, 1.0)
    link = Logistic()
    best = scipy.optimize.minimize_scalar(
        lambda a: -w @ link.log_likelihood(a * d, y), bounds=(-50, 50), method="bounded"
    )
    return float(best.x / scale)


def _isotonic(
    difference: Float[np.ndarray, " m"], outcome: Float[np.ndarray, " m"], weight: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Knots of the isotonic regression on the answers in both orders of their items."""
    both, answers = np.concatenate([difference, -difference]), np.concatenate([outcome, 1.0 - outcome])
    x, code = np.unique(both, return_inverse=True)
    w = np.bincount(code, np.tile(weight, 2))
    fitted = scipy.optimize.isotonic_regression(np.bincount(code, np.tile(weight, 2) * answers) / w, weights=w)
    least = 1.0 / (len(difference) + 2.0)  # Laplace's rule of succession: no certainty at the ends
    return x, np.clip(fitted.x, least, 1.0 - least)
