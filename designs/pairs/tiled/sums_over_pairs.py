"""Sums of v d d' over all pairs of items, without a list of them.

With V [n, n] of the v_ij, zero where i and j are no candidate,

    sum over pairs of v d d' = X' (diag(V 1) - V) X,

one pass over all pairs; for v = 1 that is n X'X - (X'1)(X'1)', less the pairs that are left out.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from tercet.designs.pairs.candidates import pair_code
from tercet.designs.pairs.pool import PairPool
from tercet.designs.pairs.target_moments import within_prompts
from tercet.designs.pairs.tiled.pair_scores import AllPairs


def scatter_of_all(candidates: AllPairs, pool: PairPool) -> Float[np.ndarray, "p p"]:
    """Sum of d d' over all candidates: in closed form, less the pairs that are left out."""
    features = pool.rewards.features
    total = len(pool.items) * features.scatter()[1]
    if candidates.prompt is not None:
        total -= within_prompts(features, candidates.prompt)
    excluded = _excluded(candidates)
    return np.asarray(total - pool.gram(excluded, np.ones(len(excluded))))


def information_of_all(candidates: AllPairs, pool: PairPool, side: int = 1024) -> Float[np.ndarray, "p p"]:
    """Sum of v d d' over all candidates, v the information at the posterior mean.

    Parameters
    ----------
    candidates : the pairs
    pool : any pool of pairs of these items
    side : items on a side of a block of V, in 64 bit
    """
    features, mean, prompt = pool.rewards.features, pool.rewards.mean, candidates.prompt
    assert features.in_memory
    rows = features[:] - features.near_mean
    degree, crossed = np.zeros(len(mean)), np.zeros((rows.shape[1],) * 2)
    parts = [slice(start, start + side) for start in range(0, len(mean), side)]
    for k, a in enumerate(parts):
        for b in parts[k:]:
            v = pool.model.information(mean[a, None] - mean[b], pool.sites)
            if prompt is not None:
                v[prompt[a, None] == prompt[b]] = 0.0
            if a == b:
                np.fill_diagonal(v, 0.0)
            half = rows[a].T @ (v @ rows[b])
            degree[a] += v.sum(axis=1)
            if a != b:
                degree[b] += v.sum(axis=0)
                half = half + half.T
            crossed += half
    excluded = _excluded(candidates)
    logit = mean[excluded[:, 0]] - mean[excluded[:, 1]]
    total = (rows * degree[:, None]).T @ rows - crossed
    return np.asarray(total - pool.gram(excluded, pool.model.information(logit, pool.sites)))


def _excluded(candidates: AllPairs) -> Int[np.ndarray, "x 2"]:
    """The excluded pairs, each once, that would be candidates otherwise."""
    if candidates.exclude is None or len(candidates.exclude) == 0:
        return np.empty((0, 2), np.int64)
    size, prompt = len(candidates.items), candidates.prompt
    codes = np.unique(pair_code(candidates.exclude, size))
    pairs = np.stack([codes // size, codes % size], axis=1)
    return pairs if prompt is None else pairs[prompt[pairs[:, 0]] != prompt[pairs[:, 1]]]
