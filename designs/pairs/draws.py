"""BALD and EPIG by posterior draws: every posterior, every likelihood, each annotator with their own precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from tercet.designs.criteria.objective import HasPool, OneShot
from tercet.designs.pairs.answers import entropy, mutual_information_of_answers
from tercet.designs.pairs.draw_pool import DrawPool, draw_pool
from tercet.designs.pairs.pair_objectives import OfPairsByDraws, as_pair_candidates
from tercet.designs.pairs.targets import target_pairs
from tercet.inference.preferences.reward_view import on


@dataclass(frozen=True)
class BALDByDraws(OfPairsByDraws, OneShot[DrawPool]):
    """BALD with averages over draws: I = H(mean_s p_s) - mean_s H(p_s) in nats.

    Everything is drawn, tie strengths, cuts and precisions of annotators included, so that what an answer tells of
    these counts too. The error falls as 1 / sqrt(draws). Scored once: `JointEntropy` is the same for a whole batch.

    Parameters
    ----------
    draws : of the posterior, at most

    References
    ----------
    Houlsby, Huszár, Ghahramani, Lengyel (2011), arXiv 1112.5745, equation 2; Gal, Islam, Ghahramani (2017), ICML.
    """

    draws: int = 1000

    def scores(self, pool: DrawPool, rng: np.random.Generator) -> Float[np.ndarray, " m"]:
        scores = np.empty(len(pool))
        for block in pool.blocks():
            p, noise = pool.averages(block)
            scores[block] = entropy(p) - noise
        return np.maximum(scores, 0.0)


@dataclass(frozen=True)
class EPIGByDraws(OneShot[DrawPool]):
    """EPIG with averages over draws: mean over targets of I, P(a, b) = mean_s p_s(a) p*_s(b), in nats. Scored once.

    The answer to a target is that of an annotator of precision 1, without order effect.

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

    def pool(self, candidates: HasPool, posterior: Any, target: Any) -> DrawPool:
        pairs = as_pair_candidates(self, candidates)
        items, listed = target_pairs(pairs.items, target, self.targets, self.key)
        targets = replace(draw_pool(on(posterior, items), listed, None, self.draws), ordered=False)
        return replace(pairs.draw_pool(posterior, self.draws), target=targets)

    def scores(self, pool: DrawPool, rng: np.random.Generator) -> Float[np.ndarray, " m"]:
        assert pool.target is not None
        of_targets = pool.target.all_but_last(slice(None))
        q, gain = of_targets.mean(axis=2), np.empty(len(pool))
        for block in pool.blocks():
            of_block = pool.all_but_last(block)
            p = of_block.mean(axis=2)
            covariance = [[x @ y.T / pool.draws - np.multiply.outer(a, b) for y, b in zip(of_targets, q, strict=True)]
                          for x, a in zip(of_block, p, strict=True)]  # fmt: skip
            gain[block] = mutual_information_of_answers(p.T, q.T, covariance).mean(axis=1)
        return gain
