"""Second moment of the differences that matter: what target-aware criteria aim at."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tercet.models._inputs import as_pairs
from tercet.models.items.features import Features
from tercet.models.items.items import Items
from tercet.models.preferences.differences import Differences

Target = Literal["in-prompt"] | Items | ArrayLike | None
"""Pairs that matter: two different items drawn uniformly from the candidates' (None), a uniform pair of one prompt
("in-prompt"), two different items drawn from others (Items), or an array [t, 2] of pairs of the candidates' items."""


def target_matrix(
    features: Features, items: Items, target: Literal["in-prompt"] | Features | ArrayLike | None
) -> Float[np.ndarray, "p p"]:
    """S = E[d d'] over the target pairs.

    Parameters
    ----------
    features : Features [n, p] of the items, which the head's parameters are multiplied by
    items : Items [n]
    target : a `Target` of these items; other items by their Features [k, p]
    """
    if isinstance(target, Features):
        if target.shape[1] != features.shape[1]:
            raise ValueError("target items need the same features as the items of the fit (projected alike).")
        return _of_items(target)
    if isinstance(target, str):
        if target != "in-prompt":
            raise ValueError(f'target must be None, "in-prompt", Items or pairs [t, 2], got {target!r}.')
        return _of_prompts(features, items)
    if target is None:
        return _of_items(features)
    pairs = as_pairs(target, len(features))
    if len(pairs) == 0:
        raise ValueError("target holds no pairs; give at least one, or None for all pairs of items.")
    rows = Differences(features, pairs[:, 0], pairs[:, 1]).compact()
    return rows.gram(np.full(len(pairs), 1.0 / len(pairs)))


def _of_items(features: Features) -> Float[np.ndarray, "p p"]:
    """E[d d'] of two different items drawn uniformly."""
    if len(features) < 2:
        raise ValueError("a target set needs at least two items: a single item has no reward difference.")
    return np.asarray(2.0 * features.scatter()[1] / (len(features) - 1))


def _of_prompts(features: Features, items: Items) -> Float[np.ndarray, "p p"]:
    """E[d d'] of a uniform pair of items of one prompt."""
    if items.prompt is None:
        raise ValueError('target="in-prompt" needs Items(..., prompt=...), the prompt of each item.')
    counts = np.bincount(items.prompt)
    pairs = counts * (counts - 1) / 2.0
    if not pairs.sum():
        raise ValueError('target="in-prompt" needs at least one prompt with two items.')
    return np.asarray(within_prompts(features, items.prompt) / pairs.sum())


def within_prompts(features: Features, prompt: Int[np.ndarray, " n"]) -> Float[np.ndarray, "p p"]:
    """Sum of d d' over all pairs of items of one prompt."""
    counts = np.bincount(prompt)
    # Sum over pairs of one prompt of d d' is n_p sum x x' - s s' with s = sum x, about whatever point.
    parts = features.map_blocks(partial(_by_prompt, features.near_mean, counts), prompt)
    sums = np.zeros((len(counts), features.shape[1]))
    for prompts, own, _ in parts:
        sums[prompts] += own
    return np.asarray(np.sum([gram for *_, gram in parts], axis=0) - sums.T @ sums)


def _by_prompt(
    shift: np.ndarray, counts: np.ndarray, rows: Float[np.ndarray, "b p"], prompt: Int[np.ndarray, " b"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The prompts of some rows, the sum of the rows of each, and the sum of n_p x x' over all of them."""
    centred = rows - shift
    prompts, code = np.unique(prompt, return_inverse=True)
    sums = np.zeros((len(prompts), centred.shape[1]))
    np.add.at(sums, code, centred)
    return prompts, sums, (centred * counts[prompt][:, None]).T @ centred
