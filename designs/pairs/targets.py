"""Target pairs written out: what a criterion predicts for, where the second moment of the targets is not enough."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tercet.designs.pairs.candidates import candidate_pairs
from tercet.designs.pairs.pair_objectives import AbstractPairCandidates
from tercet.designs.pairs.pool import PairPool
from tercet.designs.pairs.target_moments import Target
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.reward_view import RewardView, on
from tercet.models._inputs import as_generator, as_pairs
from tercet.models.items.items import Items


@dataclass(frozen=True, eq=False, kw_only=True)
class TargetedPool(PairPool):
    """A pool that knows some target pairs.

    Attributes
    ----------
    target_rows : their differences d (0 for covariates: reward differences are aimed at)
    target_mean : posterior mean of their reward differences
    """

    target_rows: Float[np.ndarray, "t p"]
    target_mean: Float[np.ndarray, " t"]


def targeted_pool(
    candidates: AbstractPairCandidates, posterior: Posterior | RewardView, target: Target, n: int, key: Any
) -> TargetedPool:
    """Candidates under a posterior, with at most n target pairs drawn with this key."""
    pool = candidates.pool(posterior, target)
    items, pairs = target_pairs(candidates.items, target, n, key)
    rewards = pool.rewards
    if items is not candidates.items or len(pool.items) < len(items):
        view = on(posterior, items)
        if not view.items.operator.in_memory:
            used, codes = np.unique(pairs, return_inverse=True)
            view, pairs = view.of(view.items.loaded(used)), codes.reshape(-1, 2)
        rewards = view.gaussian
    rows = rewards.rows(pairs)
    known = {field.name: getattr(pool, field.name) for field in fields(pool)}
    padded = np.pad(rows.rows(slice(None)), ((0, 0), (0, len(rewards.effects))))
    return TargetedPool(**known, target_rows=padded, target_mean=rewards.mean_of(rows))


def target_pairs(items: Items, target: Target, n: int, key: Any) -> tuple[Items, Int[np.ndarray, "t 2"]]:
    """Items and at most n pairs of them that stand for a target; all of them where there are no more.

    Parameters
    ----------
    target : None (random pairs of `items`), "in-prompt", Items (random pairs of these), or pairs [t, 2] of `items`
    """
    if isinstance(target, Items):
        return target, _some(target, "random", n, key)
    if target is None or isinstance(target, str):
        return items, _some(items, "random" if target is None else target, n, key)
    pairs = as_pairs(target, len(items))
    chosen = as_generator(key).choice(len(pairs), size=min(n, len(pairs)), replace=False)
    return items, pairs[np.sort(chosen)]


def _some(items: Items, scheme: Any, n: int, key: Any) -> np.ndarray:
    counts = np.array([len(items)]) if scheme == "random" else np.bincount(np.asarray(items.prompt))
    available = int((counts * (counts - 1) // 2).sum())
    return candidate_pairs(items, scheme, min(n, available), key)
