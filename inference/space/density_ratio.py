"""Importance weights of validation sites: density of the test sites over density of the validation sites."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from tercet.inference.space.neighbours import Neighbours
from tercet.inference.space.risk import Risk, checked_inputs, weighted_risk
from tercet.models._inputs import as_generator
from tercet.models.space.geometry import positions
from tercet.models.space.kernels import squared_distances
from tercet.models.space.sites import Sites

CENTRES = 20_000
"""Kernels of a density estimate at most; of more sites a random subset carries kernels."""
BANDWIDTH_SITES = 500
"""Sites from which the bandwidth is chosen; for n of them it is scaled by (n / 500)^(-1 / (d + 4))."""
BANDWIDTHS = 16
FOLDS = 5
THREADED = 20_000
"""Sites from which on threads of a classifier save time."""
ROWS = 1_000
"""Sites whose kernels are evaluated at once."""


@runtime_checkable
class Classifier(Protocol):
    """A classifier of scikit-learn with probabilities."""

    def predict_proba(self, X: Any) -> Any:
        """Probabilities [n, classes]."""


def weighted_holdout_risk(
    losses: ArrayLike,
    validation: Sites | ArrayLike,
    test: Sites | ArrayLike,
    *,
    ratio: Literal["kernel", "classifier"] | Classifier | ArrayLike = "kernel",
    key: int | jax.Array = 0,
) -> Risk:
    """Importance-weighted holdout: sum of w_n loss_n, w_n proportional to p_test(s_n) / p_validation(s_n).

    Consistent where the distribution of the test sites has a density with respect to that of the validation sites and
    the ratio is estimated well; not where the test sites are a few points, or fill gaps between the validation sites.

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
    values, labelled, targets = checked_inputs(losses, validation, test)
    rng = as_generator(key)
    if isinstance(ratio, str) and ratio == "kernel":
        logs, name = _kernel_log_ratio(labelled, targets, rng), "weighted holdout (kernel)"
    elif isinstance(ratio, Classifier) or (isinstance(ratio, str) and ratio == "classifier"):
        classifier = ratio if isinstance(ratio, Classifier) else None
        logs, name = _classifier_log_ratio(labelled, targets, classifier, rng), "weighted holdout (classifier)"
    else:
        logs, name = _log_of_given(ratio, len(labelled)), "weighted holdout"
    return weighted_risk(name, values, Neighbours(labelled), np.exp(logs - logsumexp(logs)))


def _log_of_given(ratio: ArrayLike, size: int) -> np.ndarray:
    if isinstance(ratio, str):
        raise ValueError(f'ratio must be "kernel", "classifier", a classifier or an array, got {ratio!r}.')
    array = np.asarray(ratio, dtype=np.float64)
    if array.shape != (size,) or not np.isfinite(array).all() or array.min() < 0 or array.sum() == 0:
        raise ValueError(f"ratio needs {size} finite numbers, none negative, not all zero; got shape {array.shape}.")
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(array))


def _kernel_log_ratio(validation: Sites, test: Sites, rng: np.random.Generator) -> np.ndarray:
    """Log density ratio [n] at the validation sites, by kernel density estimates of both sets of sites."""
    points, targets = positions(validation), positions(test)
    d = 2 if validation.metric == "sphere" else points.shape[1]
    width = _bandwidth(points, d, rng)
    several = len(np.unique(targets, axis=0)) > d  # fewer points determine no bandwidth of their own
    target_width = _bandwidth(targets, d, rng) if several else width
    numerator = _log_density(_subset(targets, CENTRES, rng), points, target_width, d)
    return np.asarray(numerator - _log_density(_subset(points, CENTRES, rng), points, width, d))


def _subset(points: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    return points if len(points) <= size else points[rng.choice(len(points), size, replace=False)]


def _log_density(centres: np.ndarray, points: np.ndarray, width: float, d: int) -> np.ndarray:
    """Log of the mean Gaussian kernel [m], up to a constant that all bandwidths share."""
    logs = np.empty(len(points))
    for begin in range(0, len(points), ROWS):
        rows = slice(begin, begin + ROWS)
        logs[rows] = logsumexp(-squared_distances(points[rows], centres) / (2 * width**2), axis=1)
    return np.asarray(logs - np.log(len(centres)) - d * np.log(width))


def _bandwidth(points: np.ndarray, d: int, rng: np.random.Generator) -> float:
    """Standard deviation of the kernel that maximises the leave-one-out likelihood of the sites."""
    sample = _subset(points, BANDWIDTH_SITES, rng)
    squares = squared_distances(sample, sample)
    np.fill_diagonal(squares, np.inf)
    nearest = np.sqrt(squares.min(axis=1))
    if not (nearest > 0).any():  # all sites coincide: any bandwidth will do
        return 1.0
    low, high = np.quantile(nearest[nearest > 0], 0.05), np.sqrt(squares[np.isfinite(squares)].max())
    grid = np.geomspace(low, high, BANDWIDTHS)
    scores = [logsumexp(-squares / (2 * width**2), axis=1).sum() - len(sample) * d * np.log(width) for width in grid]
    return float(grid[int(np.argmax(scores))] * (len(sample) / min(len(points), CENTRES)) ** (1 / (d + 4)))


def _classifier_log_ratio(
    validation: Sites, test: Sites, classifier: Classifier | None, rng: np.random.Generator
) -> np.ndarray:
    """Log odds [n] that a validation site is a test site, cross-fitted."""
    try:
        from sklearn.base import clone
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from threadpoolctl import threadpool_limits  # scikit-learn's own dependency
    except ImportError as error:
        raise ImportError('a classifier ratio needs scikit-learn: pip install "tercet[sklearn]".') from error
    points = np.concatenate([positions(validation), positions(test)])
    leaf, seed = max(20, len(points) // 40), int(rng.integers(2**31))
    boosted = HistGradientBoostingClassifier(max_iter=40, min_samples_leaf=leaf, random_state=seed)
    model = boosted if classifier is None else clone(classifier)
    label = np.repeat([0, 1], [len(validation), len(test)])
    folds = min(FOLDS, len(validation), len(test))
    if folds < 2:
        raise ValueError(f"a classifier cannot learn {len(test)} test site(s); use ratio='kernel' or snn_risk.")
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    # With few sites threads wait for one another, fifty times as long as they work where the cores are busy.
    with threadpool_limits(1 if len(points) < THREADED else None, "openmp"):
        chance = cross_val_predict(model, points, label, cv=split, method="predict_proba")[: len(validation), 1]
    least = 1 / len(points)  # no estimate from so many sites is nearer to 0 or 1
    chance = np.clip(chance, least, 1 - least)
    return np.asarray(np.log(chance) - np.log1p(-chance))
