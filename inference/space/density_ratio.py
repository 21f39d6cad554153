"""Importance weights of validation sites: how much denser the test sites are there than the validation sites."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from tercet.inference.space.neighbours import Neighbours
from tercet.inference.space.risk import Risk, checked, weighted_risk
from tercet.models._inputs import as_generator
from tercet.models.space.geometry import positions
from tercet.models.space.sites import Sites

CENTRES = 20_000
"""Sites that carry kernels, at most; more are subsampled."""
TRIED = 500
"""Sites on which the bandwidth is chosen; it shrinks as n^(-1 / (d + 4)) beyond."""
BANDWIDTHS = 16
FOLDS = 5


def weighted_holdout_risk(
    losses: ArrayLike,
    validation: Sites | ArrayLike,
    test: Sites | ArrayLike,
    *,
    ratio: Any = "kernel",
    key: Any = 0,
) -> Risk:
    """Importance-weighted holdout: sum of w_n loss_n, w_n proportional to p_test(s_n) / p_validation(s_n).

    Right where the test law has a density with respect to the validation law and the ratio is right; never where the
    test sites are a few points, or lie between the validation sites.

    Parameters
    ----------
    losses : array [n], losses at the validation sites
    validation : Sites or array [n, d]
    test : Sites or array [m, d]
    ratio : "kernel" (Gaussian kernel densities, bandwidths by leave-one-out likelihood), "classifier" (cross-fitted
        gradient boosting of scikit-learn), any scikit-learn classifier, or an array [n] of ratios
    key : int seed or JAX key

    References
    ----------
    Sugiyama, Krauledat, Müller (2007), JMLR 8 (importance-weighted validation); Bickel, Brückner, Scheffer (2009),
    JMLR 10 (ratio by a classifier).

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import weighted_holdout_risk
    >>> sites = np.linspace(0, 1, 50)[:, None]
    >>> risk = weighted_holdout_risk(sites[:, 0], sites, np.linspace(0.6, 1.0, 40)[:, None])
    >>> bool(risk.estimate > 0.7)
    True
    """
    values, here, there = checked(losses, validation, test)
    rng = as_generator(key)
    if isinstance(ratio, str) and ratio == "kernel":
        logs, name = _kernel_log_ratio(here, there, rng), "weighted holdout (kernel)"
    elif isinstance(ratio, (str, list, np.ndarray)) and not (isinstance(ratio, str) and ratio == "classifier"):
        logs, name = _given(ratio, len(here)), "weighted holdout"
    else:
        logs, name = _classifier_log_ratio(here, there, ratio, rng), "weighted holdout (classifier)"
    return weighted_risk(name, values, Neighbours(here), np.exp(logs - logsumexp(logs)))


def _given(ratio: Any, size: int) -> np.ndarray:
    if isinstance(ratio, str):
        raise ValueError(f'ratio must be "kernel", "classifier", a classifier or an array, got {ratio!r}.')
    array = np.asarray(ratio, dtype=np.float64)
    if array.shape != (size,) or not np.isfinite(array).all() or array.min() < 0 or array.sum() == 0:
        raise ValueError(f"ratio needs {size} finite numbers, none negative, not all zero; got shape {array.shape}.")
    with np.errstate(divide="ignore"):
        return np.log(array)


def _kernel_log_ratio(validation: Sites, test: Sites, rng: np.random.Generator) -> np.ndarray:
    here, there = positions(validation), positions(test)
    d = 2 if validation.metric == "sphere" else here.shape[1]
    width = _bandwidth(here, d, rng)
    several = len(np.unique(there, axis=0)) > d  # otherwise they have no density of their own
    top = _log_density(_some(there, CENTRES, rng), here, _bandwidth(there, d, rng) if several else width, d)
    return top - _log_density(_some(here, CENTRES, rng), here, width, d)


def _some(points: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return points if len(points) <= most else points[rng.choice(len(points), most, replace=False)]


def _log_density(centres: np.ndarray, points: np.ndarray, width: float, d: int) -> np.ndarray:
    """Log of the mean Gaussian kernel [m], up to the constant that all bandwidths share."""
    logs = np.empty(len(points))
    for begin in range(0, len(points), 1_000):
        rows = slice(begin, begin + 1_000)
        logs[rows] = logsumexp(-_squares(points[rows], centres) / (2 * width**2), axis=1)
    return logs - np.log(len(centres)) - d * np.log(width)


def _bandwidth(points: np.ndarray, d: int, rng: np.random.Generator) -> float:
    """Standard deviation of the kernel at which the sites, each left out in turn, are most likely."""
    tried = _some(points, TRIED, rng)
    squares = _squares(tried, tried)
    np.fill_diagonal(squares, np.inf)
    nearest = np.sqrt(squares.min(axis=1))
    if not (nearest > 0).any():  # one place: any bandwidth will do
        return 1.0
    low, high = np.quantile(nearest[nearest > 0], 0.05), np.sqrt(squares[np.isfinite(squares)].max())
    grid = np.geomspace(low, high, BANDWIDTHS)
    scores = [logsumexp(-squares / (2 * width**2), axis=1).sum() - len(tried) * d * np.log(width) for width in grid]
    return float(grid[int(np.argmax(scores))] * (len(tried) / min(len(points), CENTRES)) ** (1 / (d + 4)))


def _squares(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    gap = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1) - 2 * first @ second.T
    return np.maximum(gap, 0.0)


def _classifier_log_ratio(validation: Sites, test: Sites, classifier: Any, rng: np.random.Generator) -> np.ndarray:
    try:
        from sklearn.base import clone
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError as error:
        raise ImportError('a classifier ratio needs scikit-learn: pip install "tercet[sklearn]".') from error
    points = np.concatenate([positions(validation), positions(test)])
    leaf, seed = max(20, len(points) // 40), int(rng.integers(2**31))
    boosted = HistGradientBoostingClassifier(max_iter=40, min_samples_leaf=leaf, random_state=seed)
    model = boosted if isinstance(classifier, str) else clone(classifier)
    label = np.repeat([0, 1], [len(validation), len(test)])
    folds = min(FOLDS, len(validation), len(test))
    if folds < 2:
        raise ValueError(f"a classifier cannot learn {len(test)} test site(s); use ratio='kernel' or snn_risk.")
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    chance = cross_val_predict(model, points, label, cv=split, method="predict_proba")[: len(validation), 1]
    least = 1 / len(points)  # nobody knows a chance better than to one in all sites
    chance = np.clip(chance, least, 1 - least)
    return np.log(chance) - np.log1p(-chance)
