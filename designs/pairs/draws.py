"""BALD and EPIG by posterior draws: every posterior, every likelihood, each annotator with their own precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tercet.designs.criteria.candidates import Candidates
from tercet.designs.criteria.criterion import OneShot, as_pair_candidates
from tercet.designs.pairs.answers import entropy, shared_information
from tercet.designs.pairs.draw_pool import DrawPool, draw_pool
from tercet.designs.pairs.targets import target_pairs


@dataclass(frozen=True)
class BALDByDraws(OneShot):
    """BALD with averages over draws, best n at once: I = H(mean_s p_s) - mean_s H(p_s) in nats.

    Everything is drawn, tie strengths, cuts and precisions of annotators included, so that what an answer tells of
    these counts too. The error falls as 1 / sqrt(draws). "BatchBALD (joint entropy)" is the same without twins.

    Parameters
    ----------
    draws : of the posterior, at most

    References
    ----------
    Houlsby, Huszár, Ghahramani, Lengyel (2011), arXiv 1112.5745, equation 2; Gal, Islam, Ghahramani (2017), ICML.
    """

    draws: int = 1000
    name = "BALD (draws)"

    def pool(self, candidates: Candidates, posterior: Any, target: Any) -> DrawPool:
        return as_pair_candidates(self, candidates).draw_pool(posterior, self.draws)

    def _scores(self, pool: DrawPool, rng: np.random.Generator) -> np.ndarray:
        scores = np.empty(len(pool))
        for block in pool.blocks():
            p, noise = pool.averages(block)
            scores[block] = entropy(p) - noise
        return np.maximum(scores, 0.0)


@dataclass(frozen=True)
class EPIGByDraws(OneShot):
    """EPIG with averages over draws, best n at once: mean over targets of I, P(a, b) = mean_s p_s(a) p*_s(b), in nats.

    The answer to a target is that of somebody of precision 1, without order effect.

    Parameters
    ----------
    draws : of the posterior, at most
    targets : target pairs at most, drawn from the target
    key : seed of that draw

    References
    ----------
    Bickford Smith, Kirsch, Farquhar, Gal, Foster, Rainforth (2023), Prediction-oriented Bayesian active learning,
    AISTATS, equation 6.
    """

    draws: int = 1000
    targets: int = 100
    key: int = 0
    name = "EPIG (draws)"

    def pool(self, candidates: Candidates, posterior: Any, target: Any) -> DrawPool:
        chosen_from = as_pair_candidates(self, candidates)
        items, pairs = target_pairs(chosen_from.items, target, self.targets, self.key)
        aim = replace(draw_pool(posterior, items, pairs, None, self.draws), ordered=False)
        return replace(chosen_from.draw_pool(posterior, self.draws), target=aim)

    def _scores(self, pool: DrawPool, rng: np.random.Generator) -> np.ndarray:
        assert pool.target is not None
        there = pool.target.all_but_last(slice(None))
        q, gain = there.mean(axis=2), np.empty(len(pool))
        for block in pool.blocks():
            here = pool.all_but_last(block)
            p = here.mean(axis=2)
            covariance = [[x @ y.T / pool.draws - np.multiply.outer(a, b) for y, b in zip(there, q, strict=True)]
                          for x, a in zip(here, p, strict=True)]  # fmt: skip
            gain[block] = shared_information(p.T, q.T, covariance).mean(axis=1)
        return gain
