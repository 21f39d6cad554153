"""Fisher information of a design of comparisons, in closed form."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.heads import LinearInParameters


def comparison_information(
    model: ComparisonModel, sites: Mapping[str, ArrayLike], items: Items, comparisons: Comparisons
) -> Float[np.ndarray, "p p"]:
    """Expected information of comparisons about the head's parameters, D' diag(w v) D, v that of one logit.

    Parameters
    ----------
    model : Bradley-Terry, Thurstone, or another comparison model with a linear head and without annotators
    sites : dict with the head's site [p], and `order_effect`, `tie_strength` where the model has them
    items, comparisons : the design (outcomes are not used)

    Returns
    -------
    array [p, p]
        With an order effect its row and column come last.

    Raises
    ------
    ValueError
        A model with annotators, or a head that is not linear: use `fisher_information`.
    """
    if model.annotators:
        raise ValueError("with annotators use fisher_information(model, sites, items, comparisons).")
    if not isinstance(model.head, LinearInParameters):
        raise ValueError(f"{type(model.head).__name__} is not linear in its parameters; use fisher_information.")
    rows = model.design(items, comparisons).compact()
    theta = np.hstack([np.asarray(sites[name], dtype=np.float64) for name in (model.head.site, *model.effects)])
    return rows.gram(comparisons.weights * model.information(rows.matvec(theta), sites))
