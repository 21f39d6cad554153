"""Is design paying, and when to stop: the expected reduction of the target variance, beside that of random pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tercet.designs.campaigns.arguments import Candidates, Exclude, Key
from tercet.designs.criteria.criterion import Criterion
from tercet.designs.criteria.optimality import VOptimality
from tercet.designs.pairs.candidates import listed_pairs
from tercet.designs.pairs.pair_candidates import PairCandidates
from tercet.designs.pairs.pool import PairPool
from tercet.designs.pairs.select_pairs import select_pairs
from tercet.designs.pairs.target_moments import Target
from tercet.designs.select import DEFAULT
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.reward_view import on
from tercet.models._inputs import as_generator
from tercet.models.items.items import Items

if TYPE_CHECKING:
    import pandas as pd

RANDOM_BATCHES = 10  # batches over which the reduction by a random one is averaged


class BatchReduction(NamedTuple):
    """Expected effect of a batch on the target variance, the average posterior variance of the target differences.

    Attributes
    ----------
    variance : target variance before the batch
    reduction : its expected reduction by the batch
    random_reduction : its expected reduction by a random batch of the same size
    """

    variance: float
    reduction: float
    random_reduction: float


def target_variance(pool: PairPool) -> float:
    """Average posterior variance tr(A S) of the target reward differences."""
    return float(np.sum(pool.covariance * pool.target.matrix))


def variance_reductions(pool: PairPool) -> Float[np.ndarray, " m"]:
    """Expected reduction of the target variance by each candidate of a pool, answered in their order.

    The i-th is v_i d' A S A d / (1 + v_i d' A d) under the covariance A that the answers before it leave. The expected
    information v of each answer is that of the posterior at the start.
    """
    objective, rng = VOptimality(), np.random.default_rng(0)
    state, reductions = objective.begin(pool, rng), np.empty(len(pool))
    for index in range(len(pool)):
        reductions[index] = objective.score(state)[index]
        state = objective.update(state, index)
    return reductions


def batch_reduction(batch: PairPool, candidates: PairPool, key: Key = 0) -> BatchReduction:
    """Expected reduction of the target variance by a batch, whatever criterion chose it, beside random batches.

    Parameters
    ----------
    batch : the pairs to be compared
    candidates : what they were chosen from, at least as many
    key : int seed or JAX key, for 10 random batches
    """
    reduction = variance_reductions(batch.sample(np.arange(len(batch)))).sum()
    random = [each.sum() for each in _random_reductions(candidates, len(batch), key)]
    return BatchReduction(target_variance(batch), float(reduction), float(np.mean(random)))


def stopping_curve(
    items: Items | ArrayLike,
    posterior: Posterior,
    labels: int,
    *,
    candidates: Candidates = "random",
    criterion: str | Criterion = DEFAULT,
    target: Target = None,
    exclude: Exclude = None,
    key: Key = 0,
) -> pd.DataFrame:
    """Expected target variance after a number of further labels, designed and random.

    The target variance is the average posterior variance of the reward differences that the model will be used for.
    Here all labels are chosen now, and each is taken to bring its expected information; a campaign that refits the
    model in between does better.

    Parameters
    ----------
    items : Items or raw features [n, d]
    posterior : of a comparison model fitted on the answers so far
    labels : how far to look ahead, at most the number of candidates
    candidates, criterion, target, exclude : as in `select_pairs`
    key : int seed or JAX key, for random candidates, random picks and 10 random batches

    Returns
    -------
    DataFrame
        One row for each number of further `labels`, from 0 on: `variance` as designed and `random_variance`, in
        squared logits (Bradley-Terry, Davidson) or probits (Thurstone).

    Examples
    --------
    >>> from tercet.datasets import simulated_preferences
    >>> from tercet.designs import stopping_curve
    >>> from tercet.inference import laplace
    >>> from tercet.models import BradleyTerry
    >>> data = simulated_preferences(100, 8, 200)
    >>> curve = stopping_curve(data.items, laplace(BradleyTerry(), data.items, data.comparisons), 40)
    >>> len(curve), bool((curve["variance"] < curve["random_variance"])[1:].all())
    (41, True)
    """
    import pandas as pd

    known = on(posterior, items).items
    pairs = listed_pairs(known, candidates, key, exclude)
    picked = select_pairs(known, posterior, labels, candidates=pairs, criterion=criterion, target=target, key=key)
    pool = PairCandidates(known, pairs).pool(posterior, target)
    designed = variance_reductions(PairCandidates(known, picked.chosen).pool(posterior, target))
    random = np.mean(list(_random_reductions(pool, labels, key)), axis=0)
    now = target_variance(pool)
    columns = {"variance": designed, "random_variance": random}
    table = {name: now - np.concatenate([[0.0], np.cumsum(reductions)]) for name, reductions in columns.items()}
    return pd.DataFrame({"labels": np.arange(labels + 1), **table})


def _random_reductions(pool: PairPool, size: int, key: Key) -> list[np.ndarray]:
    rng = as_generator(key).spawn(1)[0]  # not the stream that random candidates were drawn from
    draws = (rng.choice(len(pool), size=size, replace=False) for _ in range(RANDOM_BATCHES))
    return [variance_reductions(pool.sample(draw)) for draw in draws]
