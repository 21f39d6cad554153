"""Second moment of the differences that matter: what target-aware criteria aim at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from tercet.designs.roots import symmetric_root
from tercet.inference.rewards import RewardGaussian
from tercet.models._inputs import as_pairs
from tercet.models.data import Items, check_in_memory
from tercet.models.embeddings import Embeddings
from tercet.models.linear_form import design_rows


@dataclass(frozen=True, eq=False)
class SecondMoment:
    """S = E[d d'], and its root where that is asked for: computed once, however many pools share it."""

    matrix: Float[np.ndarray, "p p"]

    def __len__(self) -> int:
        return len(self.matrix)

    @cached_property
    def root(self) -> Float[np.ndarray, "p p"]:
        """R with R R' = S."""
        return symmetric_root(self.matrix)


def target_matrix(rewards: RewardGaussian, items: Items, target: Any) -> Float[np.ndarray, "p p"]:
    """S = E[d d'] over the target pairs.

    Parameters
    ----------
    target : None (two different items drawn uniformly from `items`), "in-prompt" (a uniform in-prompt pair), Items
        (two different items drawn from these), or an array [t, 2] of pairs of `items`
    """
    features = rewards.features
    size = len(rewards.mean)
    assert not isinstance(features, Embeddings)
    if isinstance(target, str):
        if target != "in-prompt":
            raise ValueError(f'target must be None, "in-prompt", Items or pairs [t, 2], got {target!r}.')
        return _within_prompts(features, items)
    if isinstance(target, Items):
        if features is None or target.features.shape[1] != features.shape[1]:
            raise ValueError("target items need the same features as the items of the fit (projected alike).")
        check_in_memory(target)
        return _spread(np.asarray(target.features, np.float64), len(target))
    if target is None:
        return _spread(features, size)
    pairs = as_pairs(target, size)
    if len(pairs) == 0:
        raise ValueError("target holds no pairs; give at least one, or None for all pairs of items.")
    rows = design_rows(features, size, pairs[:, 0], pairs[:, 1], order=False)
    return rows.gram(np.full(len(pairs), 1.0 / len(pairs)))


def _spread(features: np.ndarray | None, size: int) -> np.ndarray:
    if size < 2:
        raise ValueError("a target set needs at least two items: a single item has no reward difference.")
    if features is None:
        return 2.0 * (np.eye(size) * size - 1.0) / (size - 1) / size
    return 2.0 * np.atleast_2d(np.cov(features, rowvar=False))


def _within_prompts(features: np.ndarray | None, items: Items) -> np.ndarray:
    if items.prompt is None:
        raise ValueError('target="in-prompt" needs Items(..., prompt=...), the prompt of each item.')
    counts = np.bincount(items.prompt)
    pairs = counts * (counts - 1) / 2.0
    if not pairs.sum():
        raise ValueError('target="in-prompt" needs at least one prompt with two items.')
    rows = np.eye(len(items)) if features is None else features
    # Sum over pairs of one prompt of d d' is n_p times its scatter matrix about its own mean.
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, items.prompt, rows)
    centred = rows - (sums / np.maximum(counts, 1)[:, None])[items.prompt]
    return (centred * counts[items.prompt][:, None]).T @ centred / pairs.sum()
