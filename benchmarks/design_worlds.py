"""The worlds of the study of designs: items to choose from, annotators, and held-out items to score a posterior on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.special import expit

from tercet.datasets import annotate, simulated_prompts, word_valence
from tercet.datasets.preferences import RatedItems
from tercet.designs import candidate_pairs
from tercet.inference import log_loss, reward, spearman, spearman_within_prompts, win_probability
from tercet.inference.posteriors import GaussianPosterior
from tercet.models import BradleyTerry, ComparisonModel, Comparisons, Items, LinearHead, project

WEAK = 16.0  # logits: a weakly informative prior scale
QUALITY = 2.0  # of simulated annotators: one answer in six or seven contradicts the true order
CROSS = 20_000  # pairs across prompts to choose from


@dataclass(frozen=True)
class World:
    """Arguments of `learning_curve` for one seed."""

    items: Items
    answer: Callable[[np.ndarray, int], Comparisons]
    evaluate: Callable[[GaussianPosterior], dict[str, float]]
    candidates: str | np.ndarray = "random"
    target: Literal["in-prompt"] | None = None
    model: ComparisonModel | None = None


def words(seed: int, data: RatedItems | None = None, model: ComparisonModel | None = None) -> World:
    """Real ratings: 80 % of the words to choose from; the others, and random pairs of them, are the test set."""
    data = _bundled_words() if data is None else data
    rng = np.random.default_rng(7)
    order, cut = rng.permutation(len(data.items)), int(0.8 * len(data.items))
    pool, held = data.take(order[:cut]), data.take(order[cut:])
    pairs = _pairs(len(held.items), 8000, rng)
    truth = held.expected_outcome(pairs)

    def evaluate(posterior: GaussianPosterior) -> dict[str, float]:
        return {
            "spearman": spearman(reward(posterior, held.items).mean, held.mean_rating),
            "log_loss": log_loss(win_probability(posterior, held.items, pairs), truth),
        }

    return World(pool.items, pool.answer, evaluate, model=model)


@functools.cache
def _bundled_words() -> RatedItems:
    """Words whose features are projected once a process, not once a curve."""
    return word_valence(64)


def words_weak(seed: int) -> World:
    """The words under a fixed weak prior."""
    return words(seed, model=BradleyTerry(LinearHead(WEAK)))


def network(seed: int, prompts: int = 600) -> World:
    """True rewards by a network, which a linear head cannot represent; any two items may be compared."""
    return _simulated(seed, "MLP", prompts, candidates="random", target=None)


def in_prompt(seed: int) -> World:
    """Linear rewards used within prompts, learned from pairs within prompts."""
    return _simulated(seed, "linear", 600, candidates="in-prompt", target="in-prompt")


def cross_prompt(seed: int) -> World:
    """The same rewards, also used within prompts, learned from pairs across prompts."""
    return _simulated(seed, "linear", 600, candidates="cross-prompt", target="in-prompt")


def _simulated(
    seed: int, truth: Literal["linear", "MLP"], prompts: int, candidates: str, target: Literal["in-prompt"] | None
) -> World:
    """Five responses a prompt, half of the variance between prompts; a sixth of the prompts is held out."""
    items, rewards = simulated_prompts(prompts, 5, 32, truth=truth, key=seed)
    assert items.prompt is not None
    held = items.prompt >= prompts - prompts // 6
    pool, test, asked, true = items.take(~held), items.take(held), rewards[~held], rewards[held]
    scale = QUALITY / asked.std()  # as in `annotate`: the annotator's probabilities
    rng = np.random.default_rng([seed, 1])
    pairs = candidate_pairs(test, "in-prompt", key=seed) if target == "in-prompt" else _pairs(len(test), 8000, rng)
    probability = expit(scale * (true[pairs[:, 0]] - true[pairs[:, 1]]))

    def evaluate(posterior: GaussianPosterior) -> dict[str, float]:
        mean = reward(posterior, test).mean
        rank = spearman_within_prompts(mean, true, test.prompt).mean if target == "in-prompt" else spearman(mean, true)
        return {"spearman": rank, "log_loss": log_loss(win_probability(posterior, test, pairs), probability)}

    def answer(pairs: np.ndarray, key: int) -> Comparisons:
        return annotate(asked, pairs, QUALITY, key)

    if candidates == "cross-prompt":  # listed, since not every criterion can choose from all of them
        return World(pool, answer, evaluate, candidate_pairs(pool, "cross-prompt", CROSS, seed), target)
    return World(pool, answer, evaluate, candidates, target)


def preferences(seed: int, path: Path) -> World:
    """Real preferences between two answers: 80 % of the pairs are candidates, the others are the test set."""
    file = np.load(path)
    n = len(file["chosen"])
    items = project(Items(np.concatenate([file["chosen"], file["rejected"]]).astype(np.float32)), 64)
    order = np.random.default_rng(seed).permutation(n)
    pairs = np.stack([np.arange(n), np.arange(n) + n], axis=1)  # the first was preferred
    pool, test = pairs[order[: int(0.8 * n)]], pairs[order[int(0.8 * n) :]]

    def evaluate(posterior: GaussianPosterior) -> dict[str, float]:
        p = win_probability(posterior, items, test)
        return {"spearman": float(np.mean(p > 0.5)), "log_loss": log_loss(p, np.ones(len(p)))}

    def answer(pairs: np.ndarray, key: int) -> Comparisons:
        return Comparisons(pairs[:, 0], pairs[:, 1], np.ones(len(pairs)))

    return World(items, answer, evaluate, pool)


def load_words(path: Path) -> RatedItems:
    """Rated words from a file with ratings and embeddings (words may repeat)."""
    file = np.load(path)
    return RatedItems(project(Items(file["embeddings"].astype(np.float32)), 64), file["ratings"])


def _pairs(size: int, n: int, rng: np.random.Generator) -> np.ndarray:
    pairs = rng.integers(size, size=(n, 2))
    return pairs[pairs[:, 0] != pairs[:, 1]]


WORLDS: dict[str, Callable[[int], World]] = {
    "words": words,
    "network truth": network,
    "in-prompt": in_prompt,
    "cross-prompt": cross_prompt,
}
"""Functions of a seed, which is also the seed of the true rewards where these are simulated."""
