"""Comparisons that do not determine the parameters of a head without a prior: unconnected or separable ones."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
from jaxtyping import Int

from tercet.inference.posteriors.newton import Mode
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.linear_form import LinearForm

CERTAIN = 3.1e-7  # predicted probability of an observed outcome's opposite below which the data count as separable


def _components(n: int, first: np.ndarray, second: np.ndarray, connection: str) -> tuple[int, Int[np.ndarray, " n"]]:
    """Number of components of the directed graph of n items, and the component of each."""
    graph = scipy.sparse.coo_array((np.ones(len(first)), (first, second)), shape=(n, n))
    count, label = scipy.sparse.csgraph.connected_components(graph, directed=True, connection=connection)
    return int(count), label


def check_connected(model: ComparisonModel, items: Items, comparisons: Comparisons) -> None:
    """Raise where abilities without a prior are undetermined because the comparison graph is not connected."""
    if not model.head.per_item:
        return
    count, label = _components(len(items), comparisons.first, comparisons.second, "weak")
    if count > 1:
        smallest = int(np.bincount(label).argmin())
        example = items.names[int(np.flatnonzero(label == smallest)[0])]
        raise ValueError(
            f"the comparison graph has {count} components (one of them holds {example!r}): without a prior, "
            "abilities in different components cannot be compared. Give the head a prior scale "
            "(AbilityHead(prior_sd=1.0), or None to learn it), or fit each component separately."
        )


def warn_if_separable(
    model: ComparisonModel, form: LinearForm, mode: Mode, items: Items, comparisons: Comparisons
) -> bool:
    """Warn where the data are separable, so that no maximum-likelihood estimate exists; return whether they are.

    Abilities: the estimate is finite if and only if every item can be reached from every other by a chain of wins
    (ties count in both directions). Other heads: some outcomes are predicted with certainty (logits beyond 15, probits
    beyond 5).

    References
    ----------
    Ford (1957), American Mathematical Monthly 64; Albert and Anderson (1984), Biometrika 71.
    """
    if model.head.per_item:
        y = comparisons.outcome
        winner = np.concatenate([comparisons.first[y > 0], comparisons.second[y < 1]])
        loser = np.concatenate([comparisons.second[y > 0], comparisons.first[y < 1]])
        separable = _components(len(items), winner, loser, "strong")[0] > 1
        what = "some items won, or lost, every comparison against all others"
    else:
        unlikely = np.array([-mode.largest_predictor])
        value = form.answers.log_probability(unlikely, mode.point[form.coefficients :], np.ones(1))
        separable = bool(np.exp(value[0]) < CERTAIN)
        what = "some outcomes are predicted with certainty"
    if separable:
        warnings.warn(
            f"the data are separable: {what}, so the maximum-likelihood estimate is infinite; estimates and intervals "
            "are those at which the search stopped. Give the head a prior scale (prior_sd=1.0, or None to learn it).",
            stacklevel=5,
        )
    return separable
