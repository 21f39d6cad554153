"""Expected gold reward of the best of n responses by a score, exactly, and rank correlation within prompts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.special import gammaln

from tercet.models._inputs import as_floats, same_length

DEFAULT_N = (2, 5, 10, 30, 50, 100, 300, 500)
"""Values of n where none are given, up to the number of responses."""


class BestOfN(NamedTuple):
    """Expected gold reward of the best-scored of n responses.

    Attributes
    ----------
    n : int array [k]
    reward : array [k], mean over prompts
    standard_error : array [k], over prompts (NaN with a single one)
    each : array [prompts, k], one row a prompt
    prompts : array [prompts], their names
    """

    n: Int[np.ndarray, " k"]
    reward: Float[np.ndarray, " k"]
    standard_error: Float[np.ndarray, " k"]
    each: Float[np.ndarray, "prompts k"]
    prompts: np.ndarray


class PromptRanking(NamedTuple):
    """Mean of Spearman's correlation within prompts.

    Attributes
    ----------
    mean : float
    standard_error : float, over prompts (NaN with a single one)
    each : array [prompts]; NaN where a prompt has one response, or scores or gold rewards that are all equal
    used : number of prompts in the mean
    """

    mean: float
    standard_error: float
    each: Float[np.ndarray, " prompts"]
    used: int


def best_of_n(
    score: ArrayLike, gold: ArrayLike, prompt: ArrayLike | None = None, n: Sequence[int] | None = None
) -> BestOfN:
    """Expected gold reward of the best-scored among n responses drawn without replacement from a prompt's M, exactly.

    In ascending order of score the i-th response is the best of a random subset of n with probability
    w_i = C(i - 1, n - 1) / C(M, n); ties are broken uniformly at random. This is the average over all C(M, n) subsets,
    without resampling.

    Parameters
    ----------
    score : array [items], by which the best response is chosen (see `selection_score`)
    gold : array [items], the reward whose expectation is taken
    prompt : int or str array [items], optional (all items are responses to one prompt)
    n : numbers of responses drawn, each at most the number of responses to the smallest prompt; by default 2, 5, 10,
        30, 50, 100, 300 and 500, up to that number

    Returns
    -------
    BestOfN

    Raises
    ------
    ValueError
        An n below 1 or above the number of responses to some prompt.

    Examples
    --------
    >>> from tercet.inference import best_of_n
    >>> best_of_n([1, 2, 3], [10.0, 0.0, 30.0], n=[1, 2, 3]).reward.round(3).tolist()
    [13.333, 20.0, 30.0]
    """
    s, g, names, starts = _by_prompt(score, gold, prompt)
    counts = np.diff(starts)
    numbers = np.array([k for k in DEFAULT_N if k <= counts.min()] or [1] if n is None else n, dtype=np.int64)
    if numbers.ndim != 1 or numbers.size == 0 or numbers.min() < 1 or numbers.max() > counts.min():
        smallest = names[int(np.argmin(counts))].item()
        raise ValueError(
            f"n must be numbers from 1 to {counts.min()}, the responses of the smallest prompt ({smallest!r}); got "
            f"{numbers.tolist()}. Lower n, or drop the prompts with fewer responses."
        )
    each = np.stack([_expected_best(s[a:b], g[a:b], numbers) for a, b in pairwise(starts)])
    return BestOfN(numbers, each.mean(axis=0), _standard_error(each), each, names)


def _expected_best(
    score: Float[np.ndarray, " M"], gold: Float[np.ndarray, " M"], n: Int[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    order = np.argsort(score, kind="stable")
    size, ranked = len(order), gold[order]
    tied = np.r_[0, np.cumsum(np.diff(score[order]) != 0)]
    ranked = (np.bincount(tied, ranked) / np.bincount(tied))[tied]  # the mean of equal scores: ties broken at random
    below, k = np.arange(size)[:, None], n[None, :]
    with np.errstate(invalid="ignore"):  # gammaln at negative integers: those weights are zero
        log_weight = gammaln(below + 1) - gammaln(k) - gammaln(below - k + 2)
    log_weight -= gammaln(size + 1) - gammaln(k + 1) - gammaln(size - k + 1)
    weight = np.where(below >= k - 1, np.exp(log_weight), 0.0)
    return np.asarray((ranked @ weight) / weight.sum(axis=0))  # the sum is 1 up to rounding of the logarithms


def spearman_within_prompts(score: ArrayLike, gold: ArrayLike, prompt: ArrayLike) -> PromptRanking:
    """Spearman's correlation of score and gold reward within each prompt, and its mean over prompts.

    Ties get average ranks. Where a prompt has one response, or all its scores or all its rewards are equal, the
    correlation is undefined: it is NaN in `each` and left out of the mean.

    Parameters
    ----------
    score, gold : arrays [items]
    prompt : int or str array [items]

    Returns
    -------
    PromptRanking

    Raises
    ------
    ValueError
        The correlation is undefined for every prompt.

    Examples
    --------
    >>> from tercet.inference import spearman_within_prompts
    >>> spearman_within_prompts([1, 2, 5, 4], [3, 4, 1, 2], ["a", "a", "b", "b"]).each.round(6).tolist()
    [1.0, -1.0]
    """
    s, g, _, starts = _by_prompt(score, gold, prompt)
    each = np.full(len(starts) - 1, np.nan)
    x, y = _centred_ranks(s, starts), _centred_ranks(g, starts)
    cross, first, second = (np.add.reduceat(a * b, starts[:-1]) for a, b in ((x, y), (x, x), (y, y)))
    varies = (first > 0) & (second > 0)
    if not varies.any():
        raise ValueError(
            f"none of {len(each)} prompt(s) has a ranking: each has one response, or scores or rewards that are all "
            "equal. Ranking within prompts needs two different responses to some prompt."
        )
    each[varies] = cross[varies] / np.sqrt(first[varies] * second[varies])
    kept = each[varies]
    return PromptRanking(float(kept.mean()), float(_standard_error(kept[:, None])[0]), each, int(varies.sum()))


def _centred_ranks(values: Float[np.ndarray, " n"], starts: Int[np.ndarray, " k"]) -> Float[np.ndarray, " n"]:
    """Average ranks within each prompt, minus the prompt's mean rank."""
    prompt = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.lexsort((values, prompt))
    distinct = np.r_[True, (np.diff(values[order]) != 0) | (np.diff(prompt[order]) != 0)]
    group = np.cumsum(distinct) - 1
    average = np.bincount(group, np.arange(len(values))) / np.bincount(group)
    ranks = np.empty(len(values))
    ranks[order] = average[group]
    return np.asarray(ranks - np.repeat(0.5 * (starts[:-1] + starts[1:] - 1), np.diff(starts)))


def _by_prompt(
    score: ArrayLike, gold: ArrayLike, prompt: ArrayLike | None
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], np.ndarray, Int[np.ndarray, " k"]]:
    """Scores and rewards sorted by prompt, names of the prompts, the index at which each begins (and the end)."""
    s, g = as_floats("score", score, 1).astype(np.float64), as_floats("gold", gold, 1).astype(np.float64)
    group = np.zeros(len(s), int) if prompt is None else np.asarray(prompt)
    same_length(score=s, gold=g, prompt=group)
    names, code = np.unique(group, return_inverse=True)
    order = np.argsort(code.reshape(-1), kind="stable")
    return s[order], g[order], names, np.r_[0, np.cumsum(np.bincount(code.reshape(-1)))]


def _standard_error(each: np.ndarray) -> np.ndarray:
    if len(each) < 2:
        return np.full(each.shape[1], np.nan)
    return np.asarray(each.std(axis=0, ddof=1) / np.sqrt(len(each)))
