"""Simulated annotation: the pairs of responses shown to people, answers of a given quality, and their error rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple, get_args

import jax
import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike
from scipy.special import expit

from tercet.models._inputs import as_floats, as_generator, as_pairs
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.links import Logistic

Scheme = Literal["random", "similar", "diverse", "cross-prompt"]
Truth = Literal["linear", "MLP"]


class SimulatedPrompts(NamedTuple):
    """Responses to prompts, with their true rewards [n] (sd 1 over all of them)."""

    items: Items
    rewards: np.ndarray


def simulated_prompts(
    prompts: int = 200,
    responses: int = 10,
    dim: int = 32,
    *,
    prompt_variance: float = 0.5,
    truth: Truth = "linear",
    prompt_directions: int | None = None,
    key: int | jax.Array = 0,
) -> SimulatedPrompts:
    """Draw responses x = sqrt(v) u_prompt + sqrt(1 - v) e_response, all standard normal, and their true rewards.

    Parameters
    ----------
    prompts, responses, dim : sizes; items are ordered by prompt
    prompt_variance : v in [0, 1), share of the variance of the features between prompts
    truth : "linear" r = w . x, or "MLP", w . tanh(A x + b) with 2 dim hidden units
    prompt_directions : u_prompt varies only in the first so many coordinates (with the same total variance v dim), as
        where prompts differ by topic and responses by quality
    key : int seed or JAX key

    Returns
    -------
    SimulatedPrompts
        Rewards are centred and scaled to sd 1.

    Examples
    --------
    >>> from tercet.datasets import simulated_prompts
    >>> items, rewards = simulated_prompts(20, 5, 8)
    >>> items.features.shape, len(set(items.prompt.tolist())), round(float(rewards.std()), 6)
    ((100, 8), 20, 1.0)
    """
    if prompts < 1 or responses < 1 or prompts * responses < 2 or dim < 1:
        raise ValueError(f"need a prompt, two items and a dimension, got {prompts} x {responses} x {dim}.")
    if not 0.0 <= prompt_variance < 1.0:
        raise ValueError(f"prompt_variance must be in [0, 1), got {prompt_variance}.")
    _check_truth(truth)
    shared = dim if prompt_directions is None else prompt_directions
    if not 1 <= shared <= dim:
        raise ValueError(f"prompt_directions must be from 1 to dim = {dim}, got {shared}.")
    rng = as_generator(key)
    common = np.zeros((prompts, dim))
    common[:, :shared] = rng.standard_normal((prompts, shared)) * math.sqrt(prompt_variance * dim / shared)
    own = rng.standard_normal((prompts, responses, dim)) * math.sqrt(1.0 - prompt_variance)
    features = (common[:, None] + own).reshape(-1, dim)
    items = Items(features, prompt=np.repeat(np.arange(prompts), responses))
    return SimulatedPrompts(items, _rewards(features, truth, rng))


def simulated_rewards(items: Items, truth: Truth = "linear", key: int | jax.Array = 0) -> np.ndarray:
    """Draw other true rewards [n] of the same items, centred, sd 1, in the manner of `simulated_prompts`.

    Parameters
    ----------
    items : Items
    truth : "linear" or "MLP", as in `simulated_prompts`
    key : int seed or JAX key
    """
    _check_truth(truth)
    return _rewards(np.asarray(items.features, np.float64), truth, as_generator(key))


def _check_truth(truth: Truth) -> None:
    if truth not in ("linear", "MLP"):
        raise ValueError(f'truth must be "linear" or "MLP", got {truth!r}.')


def _rewards(features: np.ndarray, truth: Truth, rng: np.random.Generator) -> np.ndarray:
    dim = features.shape[1]
    if truth == "linear":
        rewards = features @ rng.standard_normal(dim)
    else:
        mixing, shift = rng.standard_normal((dim, 2 * dim)) * (2.0 / math.sqrt(dim)), rng.standard_normal(2 * dim)
        rewards = np.tanh(features @ mixing + shift) @ rng.standard_normal(2 * dim)
    return np.asarray((rewards - rewards.mean()) / rewards.std())


def annotation_pairs(
    items: Items, rewards: ArrayLike, scheme: Scheme = "random", per_prompt: int = 1, key: int | jax.Array = 0
) -> Int[np.ndarray, "m 2"]:
    """Pairs of responses shown to annotators, `per_prompt` for each prompt, in random orientation.

    "random": two different responses to the prompt. "similar": responses adjacent in rank, the middle ones first.
    "diverse": the best against the worst, then the second best against the second worst. "cross-prompt": a response
    to this prompt and one to another.

    Parameters
    ----------
    items : Items with prompts
    rewards : array [n], which rank the responses for "similar" and "diverse"
    scheme, per_prompt : as above
    key : int seed or JAX key

    Raises
    ------
    ValueError
        Where a prompt has too few responses for so many pairs of this scheme.

    References
    ----------
    Sun, Shen, Ton (2025), Rethinking Bradley-Terry models in preference-based reward modeling, section 5.

    Examples
    --------
    >>> from tercet.datasets import annotation_pairs, simulated_prompts
    >>> items, rewards = simulated_prompts(2, 4, 3)
    >>> gap = lambda scheme: abs(rewards[annotation_pairs(items, rewards, scheme)] @ [1, -1])
    >>> bool((gap("diverse") > gap("similar")).all())
    True
    """
    if items.prompt is None:
        raise ValueError("pairs of responses need Items(..., prompt=...), the prompt of each item.")
    if scheme not in get_args(Scheme):
        raise ValueError(f"scheme must be one of {get_args(Scheme)}, got {scheme!r}.")
    r = as_floats("rewards", rewards, 1)
    if len(r) != len(items) or per_prompt < 1:
        raise ValueError(
            f"need a reward for each of {len(items)} items and per_prompt >= 1, got {len(r)}, {per_prompt}."
        )
    rng = as_generator(key)
    order = np.lexsort((r, items.prompt))
    counts = np.bincount(items.prompt)
    starts = np.r_[0, np.cumsum(counts)[:-1]]
    most = {"similar": counts - 1, "diverse": counts // 2, "random": counts * (counts - 1) // 2}
    if scheme == "cross-prompt":
        if len(counts) < 2:
            raise ValueError("cross-prompt pairs need at least two prompts.")
        return _orient(order[_across(starts, counts, per_prompt, rng)], rng)
    if most[scheme].min() < per_prompt:
        short = int(np.argmin(most[scheme]))
        raise ValueError(
            f"prompt {short} has {counts[short]} response(s): {most[scheme][short]} {scheme} pair(s), not "
            f"{per_prompt}; lower per_prompt, or drop the prompts with few responses."
        )
    picked = [_within(scheme, int(count), per_prompt, rng) + start for start, count in zip(starts, counts, strict=True)]
    return _orient(order[np.concatenate(picked)], rng)


def _within(scheme: str, count: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs [wanted, 2] of ranks 0 (worst) to count - 1."""
    if scheme == "diverse":
        low = np.arange(wanted)
        return np.column_stack([low, count - 1 - low])
    if scheme == "similar":
        low = np.argsort(np.abs(np.arange(count - 1) + 0.5 - (count - 1) / 2.0), kind="stable")[:wanted]
        return np.column_stack([low, low + 1])
    low, high = np.triu_indices(count, 1)
    kept = rng.choice(len(low), wanted, replace=False)
    return np.column_stack([low[kept], high[kept]])


def _across(starts: np.ndarray, counts: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs [m, 2] of rows of the responses sorted by prompt: one of each prompt and one of any other."""
    prompt = np.repeat(np.arange(len(counts)), wanted)
    first = starts[prompt] + (rng.random(len(prompt)) * counts[prompt]).astype(int)
    # The rows of other prompts are those that are left when the block of this prompt is skipped.
    other = (rng.random(len(prompt)) * (counts.sum() - counts[prompt])).astype(int)
    return np.column_stack([first, np.where(other < starts[prompt], other, other + counts[prompt])])


def _orient(pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(len(pairs))[:, None] < 0.5, pairs, pairs[:, ::-1])


def annotate(rewards: ArrayLike, pairs: ArrayLike, quality: float = 1.0, key: int | jax.Array = 0) -> Comparisons:
    """Answer pairs by P(first preferred) = 1 / (1 + exp(-quality (r_1 - r_2) / sd(r))), sd over all items.

    Parameters
    ----------
    rewards : array [n], true rewards
    pairs : int array [m, 2]
    quality : beta >= 0; `math.inf`, or any negative number as in the paper's code: never wrong (equal rewards are
        answered at random)
    key : int seed or JAX key

    References
    ----------
    Sun, Shen, Ton, van der Schaar (2025), Reusing embeddings, section 3.
    """
    r = as_floats("rewards", rewards, 1).astype(np.float64)
    index = as_pairs(pairs, len(r))
    difference = r[index[:, 0]] - r[index[:, 1]]
    sd = r.std()
    if not sd > 0:
        raise ValueError("all rewards are equal: answers have no scale.")
    if math.isnan(quality):
        raise ValueError("quality must be a number, got NaN.")
    never_wrong = quality < 0 or math.isinf(quality)
    p = 0.5 * (1.0 + np.sign(difference)) if never_wrong else expit(quality * difference / sd)
    outcome = (as_generator(key).random(len(p)) < p).astype(float)
    return Comparisons(index[:, 0], index[:, 1], outcome)


def simulated_annotator(
    items: Items,
    rewards: ArrayLike,
    *,
    quality: float = 1.0,
    ties: float = 0.0,
    skips: float = 0.0,
    key: int | jax.Array = 0,
) -> Callable[[Hashable, Hashable], float | str]:
    """Simulate an annotator who answers one pair of ids at a time, as `annotate` does, for campaigns.

    The same pair gets the same answer, whichever item comes first and however often a campaign is resumed.

    Parameters
    ----------
    items : Items
    rewards : array [n], true rewards
    quality : as in `annotate`
    ties, skips : probabilities of answering by a tie, and of not answering at all
    key : int seed or JAX key

    Returns
    -------
    callable
        Two ids in; 1.0 (the first is preferred), 0.0, 0.5 or "skip" out.

    Examples
    --------
    >>> from tercet.datasets import simulated_annotator
    >>> from tercet.models import Items
    >>> ask = simulated_annotator(Items.named(["tea", "water", "ink"]), [2, 1, -9], quality=-1.0)
    >>> ask("tea", "ink"), ask("ink", "water")
    (1.0, 0.0)
    """
    r = as_floats("rewards", rewards, 1)
    if len(r) != len(items):
        raise ValueError(f"need a reward for each of {len(items)} items, got {len(r)}.")
    if not (ties >= 0 and skips >= 0 and ties + skips <= 1):
        raise ValueError(f"ties and skips must be probabilities with a sum of at most 1, got {ties} and {skips}.")
    position = {name: i for i, name in enumerate(items.names)}
    seed = int(as_generator(key).integers(2**63))

    def answer(first: Hashable, second: Hashable) -> float | str:
        low, high = sorted((position[first], position[second]))
        rng = np.random.default_rng([seed, low, high])
        uniform = rng.random()
        if uniform < skips + ties:
            return "skip" if uniform < skips else 0.5
        outcome = float(annotate(r, [[low, high]], quality, int(rng.integers(2**63))).outcome[0])
        return outcome if position[first] == low else 1.0 - outcome

    return answer


def annotation_error(quality: float, within: float = 1.0, link: Literal["logistic", "probit"] = "logistic") -> float:
    """Expected share of answers against the true order, for random pairs of normal rewards.

    1 - E F(|z|), z ~ Normal(0, v), v = quality^2 Var(r_1 - r_2) / Var(r) = 2 quality^2 within. With the probit link
    1/2 - arctan(sqrt v) / pi; with the logistic link a one-dimensional integral.

    Parameters
    ----------
    quality : beta of `annotate`
    within : share of the variance of rewards within prompts, for pairs within prompts (1 for pairs of all items)
    link : "logistic" or "probit"

    Examples
    --------
    >>> from tercet.datasets import annotation_error
    >>> [round(annotation_error(beta), 3) for beta in (0.5, 1.0, 10.0)]
    [0.369, 0.275, 0.039]
    """
    if not quality >= 0 or not 0 < within <= 1:
        raise ValueError(f"need quality >= 0 and within in (0, 1], got {quality} and {within}.")
    sd = quality * math.sqrt(2.0 * within)
    if link == "probit":
        return 0.5 - math.atan(sd) / math.pi
    if link != "logistic":
        raise ValueError(f'link must be "logistic" or "probit", got {link!r}.')
    z = np.linspace(-12.0, 12.0, 200_001)
    density = np.exp(-0.5 * z**2)
    return float(1.0 - (density @ Logistic().probability(np.abs(sd * z))) / density.sum())
