"""Where the study of designs is run: items to choose from, who answers, and held-out items to score a posterior on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from tercet.datasets import annotate, simulated_prompts, word_valence
from tercet.datasets.preferences import RatedItems
from tercet.designs import candidate_pairs
from tercet.inference import log_loss, reward, spearman, spearman_within_prompts, win_probability
from tercet.models import BradleyTerry, Comparisons, Items, LinearHead, project

WEAK = 16.0  # logits: a prior scale that says nothing
QUALITY = 2.0  # of simulated annotators: one answer in six or seven goes against the true order
CROSS = 20_000  # pairs across prompts to choose from


@dataclass(frozen=True)
class World:
    """One repetition: what `learning_curve` needs. `answer` and `evaluate` as there."""

    items: Items
    answer: Callable[[np.ndarray, Any], Comparisons]
    evaluate: Callable[[Any], dict[str, float]]
    candidates: Any = "random"
    target: Any = None
    model: Any = None


def words(seed: int, data: RatedItems | None = None, model: Any = None) -> World:
    """Real ratings: 80 % of the words to choose from; the others, and random pairs of them, to test on."""
    data = _bundled_words() if data is None else data
    rng = np.random.default_rng(7)
    order, cut = rng.permutation(len(data.items)), int(0.8 * len(data.items))
    pool, held = data.take(order[:cut]), data.take(order[cut:])
    pairs = _pairs(len(held.items), 8000, rng)
    truth = held.expected_outcome(pairs)

    def evaluate(posterior: Any) -> dict[str, float]:
        return {
            "spearman": spearman(reward(posterior, held.items).mean, held.mean_rating),
            "log_loss": log_loss(win_probability(posterior, held.items, pairs), truth),
        }

    return World(pool.items, pool.answer, evaluate, model=model)


@functools.cache
def _bundled_words() -> RatedItems:
    """Projected once a process, not once a curve."""
    return word_valence(64)


def words_weak(seed: int) -> World:
    """The words under a fixed weak prior."""
    return words(seed, model=BradleyTerry(LinearHead(WEAK)))


def network(seed: int, prompts: int = 600) -> World:
    """A network as the truth, which a linear head cannot reach; any two items may be compared."""
    return _simulated(seed, "MLP", prompts, candidates="random", target=None)


def in_prompt(seed: int) -> World:
    """Rewards that are used within prompts, learned from pairs within prompts."""
    return _simulated(seed, "linear", 600, candidates="in-prompt", target="in-prompt")


def cross_prompt(seed: int) -> World:
    """The same rewards, used within prompts too, learned from pairs across prompts."""
    return _simulated(seed, "linear", 600, candidates="cross-prompt", target="in-prompt")


def _simulated(seed: int, truth: str, prompts: int, candidates: str, target: Any) -> World:
    """Five responses to a prompt, half of the variance between prompts; a sixth of the prompts are held out."""
    items, rewards = simulated_prompts(prompts, 5, 32, truth=truth, key=seed)
    assert items.prompt is not None
    held = items.prompt >= prompts - prompts // 6
    pool, test, theirs, true = items.take(~held), items.take(held), rewards[~held], rewards[held]
    scale = QUALITY / theirs.std()  # of `annotate`: test answers as the annotator would give them
    rng = np.random.default_rng([seed, 1])
    pairs = candidate_pairs(test, "in-prompt", key=seed) if target == "in-prompt" else _pairs(len(test), 8000, rng)
    probability = expit(scale * (true[pairs[:, 0]] - true[pairs[:, 1]]))

    def evaluate(posterior: Any) -> dict[str, float]:
        found = reward(posterior, test).mean
        rank = (
            spearman_within_prompts(found, true, test.prompt).mean if target == "in-prompt" else spearman(found, true)
        )
        return {"spearman": rank, "log_loss": log_loss(win_probability(posterior, test, pairs), probability)}

    def answer(asked: np.ndarray, key: Any) -> Comparisons:
        return annotate(theirs, asked, QUALITY, key)

    if candidates == "cross-prompt":  # a list: not every criterion can choose from all of them
        return World(pool, answer, evaluate, candidate_pairs(pool, "cross-prompt", CROSS, seed), target)
    return World(pool, answer, evaluate, candidates, target)


def preferences(seed: int, path: Path) -> World:
    """Real pairs of answers of which a person preferred one: 80 % as candidates, the others as test."""
    file = np.load(path)
    n = len(file["chosen"])
    items = project(Items(np.concatenate([file["chosen"], file["rejected"]]).astype(np.float32)), 64)
    order = np.random.default_rng(seed).permutation(n)
    pairs = np.stack([np.arange(n), np.arange(n) + n], axis=1)  # the first was preferred
    pool, test = pairs[order[: int(0.8 * n)]], pairs[order[int(0.8 * n) :]]

    def evaluate(posterior: Any) -> dict[str, float]:
        p = win_probability(posterior, items, test)
        return {"spearman": float(np.mean(p > 0.5)), "log_loss": log_loss(p, np.ones(len(p)))}

    def answer(asked: np.ndarray, key: Any) -> Comparisons:
        return Comparisons(asked[:, 0], asked[:, 1], np.ones(len(asked)))

    return World(items, answer, evaluate, pool)


def load_words(path: Path) -> RatedItems:
    """Words of a file with ratings and embeddings (words may repeat)."""
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
"""By name; each takes a seed, that of the truth too where it is simulated."""
