"""Is design paying, and when to stop: the expected fall of the target variance, beside that of random pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tercet.designs.criteria.criterion import Criterion
from tercet.designs.criteria.optimality import VOptimality
from tercet.designs.pairs.candidates import Scheme, listed_pairs
from tercet.designs.pairs.pair_candidates import PairCandidates
from tercet.designs.pairs.pool import PairPool
from tercet.designs.pairs.select_pairs import select_pairs
from tercet.designs.select import DEFAULT
from tercet.inference.preferences.rewards import as_items
from tercet.models._inputs import as_generator
from tercet.models.items.items import Items

if TYPE_CHECKING:
    import pandas as pd

RANDOM_BATCHES = 10  # batches behind the expectation of a random one


class BatchWorth(NamedTuple):
    """What a batch is expected to bring: the average variance of the target differences now, and its falls."""

    variance: float
    fall: float
    random_fall: float


def target_variance(pool: PairPool) -> float:
    """Average posterior variance tr(A S) of the reward differences that matter."""
    return float(np.sum(pool.covariance * pool.target.matrix))


def variance_falls(pool: PairPool) -> Float[np.ndarray, " m"]:
    """Expected falls of the target variance if all candidates of a pool are asked in their order.

    The i-th is v_i d' A S A d / (1 + v_i d' A d) under the covariance A that the answers before it leave. The expected
    information v of each answer is that of the posterior at the start.
    """
    rule, rng = VOptimality(), np.random.default_rng(0)
    state, falls = rule.begin(pool, rng), np.empty(len(pool))
    for index in range(len(pool)):
        falls[index] = rule.score(state)[index]
        state = rule.update(state, index)
    return falls


def batch_worth(batch: PairPool, candidates: PairPool, key: Any = 0) -> BatchWorth:
    """Expected fall of the target variance by a batch, whatever criterion chose it, beside random ones of its size.

    Parameters
    ----------
    batch : the pairs to be asked
    candidates : what they were chosen from, at least as many
    key : int seed or JAX key, for 10 random batches
    """
    fall = variance_falls(batch.sample(np.arange(len(batch)))).sum()
    random = [falls.sum() for falls in _random_falls(candidates, len(batch), key)]
    return BatchWorth(target_variance(batch), float(fall), float(np.mean(random)))


def stopping_curve(
    items: Items | ArrayLike,
    posterior: Any,
    labels: int,
    *,
    candidates: Scheme | int | ArrayLike = "random",
    criterion: str | Criterion = DEFAULT,
    target: Any = None,
    exclude: Any = None,
    key: Any = 0,
) -> pd.DataFrame:
    """Expected target variance left by number of further labels, designed and at random.

    The target variance is the average posterior variance of the reward differences that the model will be used on. It
    falls as if all labels were chosen now and each told what it is expected to tell; refits on the way do better.

    Parameters
    ----------
    items, posterior, candidates, criterion, target, exclude, key : as in `select_pairs`
    labels : how far to look ahead, at most the number of candidates

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

    known = as_items(posterior, items)
    pairs = listed_pairs(known, candidates, key, exclude)
    picked = select_pairs(known, posterior, labels, candidates=pairs, criterion=criterion, target=target, key=key)
    pool = PairCandidates(known, pairs).pool(posterior, target)
    designed = variance_falls(PairCandidates(known, picked.chosen).pool(posterior, target))
    random = np.mean(list(_random_falls(pool, labels, key)), axis=0)
    now = target_variance(pool)
    left = {"variance": designed, "random_variance": random}
    table = {name: now - np.concatenate([[0.0], np.cumsum(falls)]) for name, falls in left.items()}
    return pd.DataFrame({"labels": np.arange(labels + 1), **table})


def _random_falls(pool: PairPool, size: int, key: Any) -> list[np.ndarray]:
    rng = as_generator(key).spawn(1)[0]  # not the stream that random candidates were drawn from
    draws = (rng.choice(len(pool), size=size, replace=False) for _ in range(RANDOM_BATCHES))
    return [variance_falls(pool.sample(draw)) for draw in draws]
