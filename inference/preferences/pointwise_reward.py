"""Rewards by any classifier of winners against losers: the log odds of the class of winners."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tercet.inference.preferences.reward_view import in_features_of
from tercet.models.items.items import Items
from tercet.models.items.projection import FeatureMap
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.pointwise import wins_and_losses


@dataclass(frozen=True, eq=False)
class PointwiseReward:
    """A fitted classifier as a reward.

    Attributes
    ----------
    classifier : the fitted copy
    projection : the map from raw embeddings to its features, if there is one
    """

    classifier: object
    projection: FeatureMap | None

    def __call__(self, items: Items | ArrayLike) -> Float[np.ndarray, " n"]:
        """Log odds of the class of winners [n]: rewards up to a monotone map, not logits of winning a comparison."""
        known = in_features_of(self.projection, items if isinstance(items, Items) else Items(items))
        return np.concatenate([self._log_odds(block) for _, block in known.operator.blocks()])

    def _log_odds(self, features: np.ndarray) -> Float[np.ndarray, " n"]:
        classifier: Any = self.classifier
        if hasattr(classifier, "decision_function"):
            return np.asarray(classifier.decision_function(features), np.float64)
        p = np.clip(np.asarray(classifier.predict_proba(features), np.float64)[:, 1], 1e-12, 1.0 - 1e-12)
        return np.asarray(np.log(p) - np.log1p(-p))


def fit_pointwise(classifier: object, items: Items, comparisons: Comparisons) -> PointwiseReward:
    """Fit a copy of a classifier to items that won (class 1) and lost (class 0), weighted by the number of times.

    The examples are those of `PointwiseClassifier`, summed by item: at most two rows an item, however many comparisons;
    a soft outcome counts as a fraction of a win and a fraction of a loss.

    Parameters
    ----------
    classifier : object with fit(X, y, sample_weight=...) and decision_function(X) or predict_proba(X)
        For example of scikit-learn or LightGBM; it is copied, and itself stays unfitted.
    items, comparisons : the data

    Raises
    ------
    ValueError
        The classifier lacks one of these methods, or `sample_weight`.

    References
    ----------
    Sun, Shen, Ton (2025), Rethinking Bradley-Terry models in preference-based reward modeling, section 4.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from tercet.datasets import simulated_preferences
    >>> from tercet.inference import fit_pointwise, spearman
    >>> truth = simulated_preferences(n_comparisons=5000)
    >>> score = fit_pointwise(LogisticRegression(), truth.items, truth.comparisons)
    >>> spearman(score(truth.items), truth.rewards) > 0.98
    True
    """
    fit = getattr(classifier, "fit", None)
    if fit is None or not (hasattr(classifier, "predict_proba") or hasattr(classifier, "decision_function")):
        raise ValueError(
            f"{type(classifier).__name__} is no classifier: fit and predict_proba (or decision_function) are needed."
        )
    parameters = inspect.signature(fit).parameters
    if "sample_weight" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise ValueError(
            f"{type(classifier).__name__}.fit takes no sample_weight, which wins and losses need; use a classifier "
            "that does, such as LogisticRegression or HistGradientBoostingClassifier."
        )
    compared, won, lost = wins_and_losses(items, comparisons)
    rows = np.concatenate([compared[won > 0], compared[lost > 0]])
    label = np.repeat([1, 0], [np.count_nonzero(won), np.count_nonzero(lost)])
    weight = np.concatenate([won[won > 0], lost[lost > 0]])
    fitted: Any = copy.deepcopy(classifier)
    fitted.fit(items.features[rows], label, sample_weight=weight)
    return PointwiseReward(fitted, items.projection)
