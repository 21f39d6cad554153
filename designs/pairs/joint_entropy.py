"""BatchBALD by the joint entropy of the answers of a batch, over posterior draws."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tercet.designs.criteria.objective import ALL, Objective, Part
from tercet.designs.pairs.answers import TINY, entropy
from tercet.designs.pairs.draw_pool import DrawPool
from tercet.designs.pairs.pair_objectives import OfPairsByDraws

CANDIDATES_AT_ONCE = 4096
"""Candidates whose answers under every configuration are held at once."""


class JointState(NamedTuple):
    """Answers to all candidates, and to the batch so far.

    Attributes
    ----------
    answers : probabilities [K, m, s] of the answers to every candidate under each draw
    noise : mean over draws of the entropy [m] of each
    share : probability [c] of each configuration of answers to the batch so far
    weights : posterior weights [c, s] of the draws given each configuration
    rng : where the generator stands that samples configurations; every update draws from a copy
    """

    answers: np.ndarray
    noise: np.ndarray
    share: np.ndarray
    weights: np.ndarray
    rng: np.random.Generator


@dataclass(frozen=True)
class JointEntropy(OfPairsByDraws, Objective[DrawPool, JointState]):
    """BatchBALD: gain H(y_1 ... y_b) - H(y_1 ... y_(b-1)) - E H(y_b given w), the information of a batch pick by pick.

    The first difference is the mean over configurations c of the answers so far of the entropy of y_b given c, whose
    distribution is the average of p_s over the draws weighted by how likely each makes c. Exact for the draws while all
    K^(b-1) configurations number at most `configurations` (256 of two answers: a batch of 9); after that so many are
    kept by systematic resampling, which is unbiased for a given batch. It overestimates the best of many candidates:
    for 20 picks out of 2,000 gains were up to half too high, and the batch held up to 14 % less than that of
    "BatchBALD" (5 % with 2,048 configurations). Gains in nats; all of a batch cannot exceed log(draws), so that large
    batches want more draws. Holds candidates x draws x answers numbers.

    Gains only fall as a batch grows (exactly while configurations are exact, since the information of answers that are
    independent given w is submodular, and to the error of the sampled ones after that): `LazyGreedy` applies.

    Parameters
    ----------
    draws : of the posterior, at most
    configurations : at most

    References
    ----------
    Kirsch, van Amersfoort, Gal (2019), BatchBALD: efficient and diverse batch acquisition for deep Bayesian active
    learning, NeurIPS, section 3.
    """

    draws: int = 500
    configurations: int = 256

    def begin(self, pool: DrawPool, rng: np.random.Generator) -> JointState:
        kinds = pool.probabilities(slice(0, 1)).shape[-1]
        answers, noise = np.empty((kinds, len(pool), pool.draws)), np.empty(len(pool))
        for block in pool.blocks():
            p = pool.probabilities(block)
            noise[block] = entropy(p).mean(axis=1)
            answers[:, block] = np.moveaxis(p, -1, 0)
        even = np.full((1, pool.draws), 1.0 / pool.draws)
        return JointState(answers, noise, np.ones(1), even, copy.deepcopy(rng))

    def score(self, state: JointState, some: Part = ALL) -> Float[np.ndarray, " b"]:
        positions = np.arange(len(state.noise))[some]
        parts = [
            positions[start : start + CANDIDATES_AT_ONCE] for start in range(0, len(positions), CANDIDATES_AT_ONCE)
        ]
        gains = [self._entropy(state, state.answers[:, part]) - state.noise[part] for part in parts]
        return np.asarray(np.maximum(np.concatenate([np.empty(0), *gains]), 0.0))

    def update(self, state: JointState, index: int) -> JointState:
        joint, rng = state.weights[:, None] * state.answers[:, index], state.rng  # joint [c, K, s]
        mass = joint.sum(axis=-1)
        share = (state.share[:, None] * mass).ravel()
        kept = np.flatnonzero(share > TINY)
        if len(kept) > self.configurations:
            rng = copy.deepcopy(rng)
            kept = _resample(share, self.configurations, rng)
            share = np.full(len(kept), 1.0 / len(kept))
        else:
            share = share[kept]
        weights = joint.reshape(-1, joint.shape[-1])[kept] / mass.ravel()[kept, None]
        return state._replace(share=share, weights=weights, rng=rng)

    def _entropy(self, state: JointState, answers: np.ndarray) -> np.ndarray:
        """Mean entropy of answers [K, b, s] over the configurations."""
        known = [state.weights @ p.T for p in answers[:-1]]  # the last answer takes what is left
        last = np.clip(1.0 - np.sum(known, axis=0), 0.0, 1.0)
        return np.asarray(state.share @ entropy(np.stack([*known, last], axis=-1)))


def _resample(share: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Systematic resampling: indices in proportion to their shares, each as often as expected, give or take one."""
    quantiles = (rng.random() + np.arange(size)) / size
    return np.searchsorted(np.cumsum(share) / share.sum(), quantiles, side="right")
