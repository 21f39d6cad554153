"""The queries and answers of a label store as pairs and comparisons of items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from tercet.designs.campaigns.label_store import LabelStore
from tercet.designs.campaigns.labels import Query, as_id
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons


def item_positions(items: Items) -> dict[int | str, int]:
    """Position of each item by its id, as a label store keeps it."""
    return {as_id(name): position for position, name in enumerate(items.names)}


def queried_pairs(
    store: LabelStore, queries: Sequence[Query], positions: dict[int | str, int]
) -> Int[np.ndarray, "m 2"]:
    """Positions of the two items of each query; an error where they are not among these items."""
    names = {name for query in queries for name in (query.first, query.second)}
    unknown = sorted(map(repr, names - positions.keys()))
    if unknown:
        raise ValueError(
            f"{store.path} names {len(unknown)} item(s) that are not among these {len(positions)}, for example "
            f"{unknown[0]}: it belongs to other items. Open the store of these items, or pass the items of that store."
        )
    return np.array([[positions[query.first], positions[query.second]] for query in queries], int).reshape(-1, 2)


def stored_comparisons(store: LabelStore, positions: dict[int | str, int]) -> Comparisons | None:
    """Every answer so far with its annotator, skips left out; None where there is none."""
    queries = {query.id: query for query in store.queries()}
    labels = [label for label in store.labels() if label.outcome is not None]
    if not labels:
        return None
    pairs = queried_pairs(store, [queries[label.query] for label in labels], positions)
    outcome = np.array([label.outcome for label in labels], dtype=float)
    annotators = list(dict.fromkeys(label.annotator for label in labels))
    codes = [annotators.index(label.annotator) for label in labels]
    return Comparisons(pairs[:, 0], pairs[:, 1], outcome, annotator=codes, annotator_ids=annotators)
