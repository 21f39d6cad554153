"""Fisher information of a design of comparisons in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.heads import AbilityHead, LinearInParameters
from tercet.models.preferences.linear_form import design_rows


def comparison_information(
    model: ComparisonModel, sites: Mapping[str, Any], items: Items, comparisons: Comparisons
) -> Float[np.ndarray, "p p"]:
    """Closed form for comparisons: D' diag(w v) D about the head's parameters, v the information of one answer.

    Parameters
    ----------
    model : Bradley-Terry, Thurstone or Davidson
    sites : dict with the head's site [p], and `order_effect`, `tie_strength` where the model has them
    items, comparisons : the design (outcomes are not used)

    Returns
    -------
    array [p, p]
        With an order effect its row and column come last.
    """
    if model.annotators:
        raise ValueError("with annotators use fisher_information(model, sites, items, comparisons).")
    if not isinstance(model.head, LinearInParameters):
        raise ValueError(f"{type(model.head).__name__} is not linear in its parameters; use fisher_information.")
    features = None if isinstance(model.head, AbilityHead) else items.features
    rows = design_rows(features, len(items), comparisons.first, comparisons.second, model.order_effect)
    theta = np.atleast_1d(np.asarray(sites[model.head.site], dtype=np.float64))
    if model.order_effect:
        theta = np.append(theta, sites["order_effect"])
    return rows.gram(comparisons.weights * model.information(rows.predict(theta), sites))
