"""Second moment of the differences that matter: what target-aware criteria aim at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from jaxtyping import Float

from tercet.designs.criteria.roots import symmetric_root
from tercet.inference.preferences.rewards import RewardGaussian
from tercet.models._inputs import as_pairs
from tercet.models.items.embeddings import Embeddings
from tercet.models.items.items import Items
from tercet.models.items.projection import near_mean, over_blocks, scatter_of
from tercet.models.preferences.linear_form import design_rows


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
    if isinstance(target, str):
        if target != "in-prompt":
            raise ValueError(f'target must be None, "in-prompt", Items or pairs [t, 2], got {target!r}.')
        return _of_prompts(features, items)
    if isinstance(target, Items):
        if features is None or target.features.shape[1] != features.shape[1]:
            raise ValueError("target items need the same features as the items of the fit (projected alike).")
        return _spread(target.features, len(target))
    if target is None:
        return _spread(features, size)
    pairs = as_pairs(target, size)
    if len(pairs) == 0:
        raise ValueError("target holds no pairs; give at least one, or None for all pairs of items.")
    rows = design_rows(features, size, pairs[:, 0], pairs[:, 1], order=False)
    return rows.gram(np.full(len(pairs), 1.0 / len(pairs)))


def _spread(features: np.ndarray | Embeddings | None, size: int) -> np.ndarray:
    if size < 2:
        raise ValueError("a target set needs at least two items: a single item has no reward difference.")
    if features is None:
        return 2.0 * (np.eye(size) * size - 1.0) / (size - 1) / size
    return 2.0 * scatter_of(features)[1] / (size - 1)


def _of_prompts(features: np.ndarray | Embeddings | None, items: Items) -> np.ndarray:
    if items.prompt is None:
        raise ValueError('target="in-prompt" needs Items(..., prompt=...), the prompt of each item.')
    counts = np.bincount(items.prompt)
    pairs = counts * (counts - 1) / 2.0
    if not pairs.sum():
        raise ValueError('target="in-prompt" needs at least one prompt with two items.')
    rows = np.eye(len(items)) if features is None else features
    return within_prompts(rows, items.prompt) / pairs.sum()


def within_prompts(rows: np.ndarray | Embeddings, prompt: np.ndarray) -> Float[np.ndarray, "p p"]:
    """Sum of d d' over all pairs of items of one prompt."""
    counts = np.bincount(prompt)
    # Sum over pairs of one prompt of d d' is n_p sum x x' - s s' with s = sum x, about whatever point.
    parts = over_blocks(rows, partial(_by_prompt, near_mean(rows), counts), prompt)
    sums = np.zeros((len(counts), rows.shape[1]))
    for prompts, own, _ in parts:
        sums[prompts] += own
    return np.sum([gram for *_, gram in parts], axis=0) - sums.T @ sums


def _by_prompt(
    shift: np.ndarray, counts: np.ndarray, rows: np.ndarray, prompt: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The prompts of some rows, the sum of the rows of each, and the sum of n_p x x' over all of them."""
    centred = rows - shift
    prompts, place = np.unique(prompt, return_inverse=True)
    sums = np.zeros((len(prompts), centred.shape[1]))
    np.add.at(sums, place, centred)
    return prompts, sums, (centred * counts[prompt][:, None]).T @ centred
