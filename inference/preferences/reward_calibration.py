"""Probabilities of winning from any reward, cross-fitted: Platt's slope or a symmetric isotonic map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import expit

from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.rewards import reward
from tercet.models._inputs import as_generator, as_pairs
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.links import Logistic

Score = Callable[[Items], np.ndarray]


@dataclass(frozen=True, eq=False)
class RewardCalibration:
    """P(first preferred) as an increasing function g of the reward difference, g(-d) = 1 - g(d).

    Attributes
    ----------
    score : rewards of items, fitted on all comparisons
    method : "platt" or "isotonic"
    slope : g(d) = 1 / (1 + exp(-slope d)), by Platt
    differences, probabilities : knots of g between which it is linear, isotonic
    held_out : differences [m] of rewards fitted without the comparison's own fold (by items: of those within a fold)
    log_loss : of g on these, and of the plain 1 / (1 + exp(-d)), in nats
    """

    score: Score
    method: str
    slope: float
    differences: np.ndarray
    probabilities: np.ndarray
    held_out: np.ndarray
    log_loss: tuple[float, float]

    def win_probability(self, items: Items, pairs: ArrayLike) -> Float[np.ndarray, " m"]:
        """Probability that the first of each pair [m, 2] is preferred."""
        index = as_pairs(pairs, len(items))
        rewards = self.score(items)
        difference = rewards[index[:, 0]] - rewards[index[:, 1]]
        return _mapped(difference, self.slope, self.differences, self.probabilities)


def calibrate_rewards(
    fit: Callable[[Items, Comparisons], Score | Posterior],
    items: Items,
    comparisons: Comparisons,
    method: str = "platt",
    folds: int = 5,
    by: str = "answers",
    key: Any = 0,
) -> RewardCalibration:
    """Fit rewards and, on comparisons each left out in turn, how their differences translate into probabilities.

    Rewards that rank well need not be logits: a point-wise classifier's are not, nor are those of a network stopped
    early. Differences of rewards fitted to the other folds are mapped by Platt's logistic slope or by isotonic
    regression, both symmetric in the two items.

    Fold as the rewards will be used: by answers (all answers to a pair in one fold) for items that have been compared;
    by items for new ones, so that each held-out answer is about two items of which the rewards know nothing.

    Parameters
    ----------
    fit : function of items and comparisons giving a posterior, or a function from items to rewards
        For example `lambda i, c: fit_pointwise(LogisticRegression(), i, c)`.
    items, comparisons : the data
    method : "platt" (one number; for hundreds of comparisons) or "isotonic" (any shape; for thousands)
    folds : at least 2
    by : "answers" or "items" (answers about two items of one fold, by rewards that know neither: one answer in `folds`)
    key : int seed or JAX key, for the folds

    References
    ----------
    Platt (1999), Advances in large margin classifiers; Zadrozny and Elkan (2002), KDD (isotonic regression).

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from tercet.datasets import simulated_preferences
    >>> from tercet.inference import calibrate_rewards, fit_pointwise
    >>> truth = simulated_preferences(n_comparisons=3000)
    >>> found = calibrate_rewards(lambda i, c: fit_pointwise(LogisticRegression(), i, c), *truth[:2])
    >>> found.slope > 1.1  # classifier logits know one item of a pair at a time, and are too small
    True
    """
    if method not in ("platt", "isotonic"):
        raise ValueError(f'method must be "platt" or "isotonic", got {method!r}.')
    if by not in ("answers", "items"):
        raise ValueError(f'by must be "answers" or "items", got {by!r}.')
    ends = _folds(items, comparisons, folds, by, as_generator(key))
    used = ends[:, 0] == ends[:, 1]
    held_out = np.empty(len(comparisons))
    for part in np.unique(ends[used]):
        out, kept = used & (ends[:, 0] == part), (ends != part).all(axis=1)
        rewards = _score(fit(items, comparisons.take(kept)))(items)
        held_out[out] = rewards[comparisons.first[out]] - rewards[comparisons.second[out]]
    held_out, y, weight = held_out[used], comparisons.outcome[used], comparisons.weights[used]
    slope = _slope(held_out, y, weight) if method == "platt" else np.nan
    knots = _isotonic(held_out, y, weight) if method == "isotonic" else (np.empty(0), np.empty(0))
    p = np.clip(_mapped(held_out, slope, *knots), 1e-12, 1.0 - 1e-12)
    after = -weight @ (y * np.log(p) + (1.0 - y) * np.log1p(-p)) / weight.sum()
    before = -weight @ Logistic().log_likelihood(held_out, y) / weight.sum()
    losses = (float(after), float(before))
    return RewardCalibration(_score(fit(items, comparisons)), method, slope, knots[0], knots[1], held_out, losses)


def _folds(items: Items, comparisons: Comparisons, folds: int, by: str, rng: np.random.Generator) -> np.ndarray:
    """Fold [m, 2] of each end of the comparisons: by answers both are that of the pair."""
    if by == "items":
        code, count = comparisons.pairs, len(items)
    else:
        _, code = np.unique(np.sort(comparisons.pairs, axis=1), axis=0, return_inverse=True)
        code = np.repeat(code.reshape(-1, 1), 2, axis=1)
        count = int(code.max()) + 1
    if not 2 <= folds <= count:
        what = "items" if by == "items" else "different pairs"
        raise ValueError(f"folds must be from 2 to {count}, the number of {what}; got {folds}.")
    ends = rng.permutation(np.arange(count) % folds)[code]
    within = ends[:, 0] == ends[:, 1]
    if not within.any() or not all((ends != part).all(axis=1).any() for part in np.unique(ends[within])):
        raise ValueError(f"too few answers lie within one of {folds} folds of items: use fewer folds, or by='answers'.")
    return ends


def _mapped(difference: np.ndarray, slope: float, knots: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return np.interp(difference, knots, probabilities) if len(knots) else expit(slope * difference)


def _score(fitted: Any) -> Score:
    if isinstance(fitted, Posterior):
        return lambda items: reward(fitted, items).mean
    if not callable(fitted):
        raise ValueError(f"fit must give a posterior or a function from items to rewards, got {type(fitted).__name__}.")
    return fitted


def _slope(difference: np.ndarray, outcome: np.ndarray, weight: np.ndarray) -> float:
    """Maximum-likelihood slope; with soft outcomes added at both ends, so that separable answers have one."""
    scale = float(np.sqrt(np.mean(np.square(difference))))
    if not scale > 0:
        raise ValueError("all reward differences are zero: there is nothing to calibrate.")
    d = np.append(difference / scale, 1.0)
    y, w = np.append(outcome, 0.5), np.append(weight, 1.0)
    link = Logistic()
    found = scipy.optimize.minimize_scalar(
        lambda a: -w @ link.log_likelihood(a * d, y), bounds=(-50, 50), method="bounded"
    )
    return float(found.x / scale)


def _isotonic(difference: np.ndarray, outcome: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots of the least-squares increasing map of both ways round of each answer."""
    both, answers = np.concatenate([difference, -difference]), np.concatenate([outcome, 1.0 - outcome])
    x, code = np.unique(both, return_inverse=True)
    w = np.bincount(code, np.tile(weight, 2))
    fitted = scipy.optimize.isotonic_regression(np.bincount(code, np.tile(weight, 2) * answers) / w, weights=w)
    least = 1.0 / (len(difference) + 2.0)  # never certain: Laplace's rule of succession at the ends
    return x, np.clip(fitted.x, least, 1.0 - least)
