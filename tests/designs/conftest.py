"""Tiny pools under posteriors with known moments, for oracles that write everything out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest

from tercet.designs import Tiling, select_pairs
from tercet.inference.posteriors import SampledPosterior
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import SiteGaussian
from tercet.models import BradleyTerry, Comparisons, Davidson, Graded, Items, LinearHead, Thurstone

GRID = np.linspace(-8.0, 8.0, 121)  # the trapezoid rule is exact to 1e-12 for smooth functions that vanish at the ends
DENSITY = np.exp(-(GRID**2) / 2) / math.sqrt(2 * math.pi) * (GRID[1] - GRID[0])
TIE, CUTS = 0.8, (-1.1, -0.4, 0.4, 1.1)
MODELS = {
    "Bradley-Terry": BradleyTerry(LinearHead(1.0)),
    "order effect": BradleyTerry(LinearHead(1.0), order_effect=True),
    "Thurstone": Thurstone(LinearHead(1.0)),
    "Davidson": Davidson(LinearHead(1.0)),
    "Graded": Graded(LinearHead(1.0), levels=5),
}


def answers(model: Any, r: float, tie: float = TIE, cuts: Any = CUTS) -> list[float]:
    """Probability of every answer given its logit, from the definitions."""
    if isinstance(model, Davidson):
        second, first = math.exp(-r / 2), math.exp(r / 2)
        return [second / (second + tie + first), tie / (second + tie + first), first / (second + tie + first)]
    if isinstance(model, Graded):
        above = [1.0, *(1 / (1 + math.exp(c - r)) for c in cuts), 0.0]
        return [above[k] - above[k + 1] for k in range(len(above) - 1)]
    if isinstance(model, Thurstone):
        return [0.5 * math.erfc(r / math.sqrt(2)), 0.5 * math.erfc(-r / math.sqrt(2))]
    return [1 / (1 + math.exp(r)), 1 / (1 + math.exp(-r))]


def entropy(p: Any) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


@dataclass(frozen=True, eq=False)
class Case:
    """A tiny pool: every difference, mean and variance a number in an array."""

    model: Any
    items: Items
    posterior: Any
    mean: np.ndarray
    covariance: np.ndarray
    candidates: np.ndarray
    features: np.ndarray
    draws: Any = None

    def row(self, pair: Any) -> np.ndarray:
        d = self.features[pair[0]] - self.features[pair[1]]
        return np.append(d, 1.0) if self.model.order_effect else d

    @cached_property
    def d(self) -> np.ndarray:
        return np.array([self.row(pair) for pair in self.candidates])

    @cached_property
    def m(self) -> np.ndarray:
        return np.array([d @ self.mean for d in self.d])

    @cached_property
    def q(self) -> np.ndarray:
        return np.array([d @ self.covariance @ d for d in self.d])

    def target_row(self, pair: Any) -> np.ndarray:
        d = self.features[pair[0]] - self.features[pair[1]]
        return np.append(d, 0.0) if self.model.order_effect else d

    def answers_on_grid(self, mean: float, variance: float) -> np.ndarray:
        return np.array([answers(self.model, mean + math.sqrt(variance) * z) for z in GRID])

    def information(self, mean: float, variance: float) -> float:
        """I(answer; logit), the logit normal."""
        p = self.answers_on_grid(mean, variance)
        return entropy(DENSITY @ p) - sum(w * entropy(row) for w, row in zip(DENSITY, p, strict=True))

    @cached_property
    def v(self) -> np.ndarray:
        """Information of an answer averaged over its logit: sum over answers of slope^2 / p, slopes by differences."""
        averages = []
        for mean, variance in zip(self.m, self.q, strict=True):
            total = 0.0
            for z, w in zip(GRID, DENSITY, strict=True):
                r = mean + math.sqrt(variance) * z
                up, p, down = (answers(self.model, r + h) for h in (1e-4, 0.0, -1e-4))
                total += w * sum(((a - b) / 2e-4) ** 2 / c for a, b, c in zip(up, down, p, strict=True) if c > 1e-30)
            averages.append(total)
        return np.array(averages)

    def positions(self, chosen: np.ndarray) -> list[int]:
        position = {tuple(pair): k for k, pair in enumerate(self.candidates.tolist())}
        return [position[tuple(pair)] for pair in chosen.tolist()]

    def epig(self, covariance: np.ndarray, d: np.ndarray, targets: Any) -> float:
        """Mean over target pairs of the information that two answers share, on a grid in both logits."""
        s, total = math.sqrt(d @ covariance @ d), 0.0
        own = self.answers_on_grid(d @ self.mean, s**2)
        for t in (self.target_row(target) for target in targets):
            slope = d @ covariance @ t / s
            rest = max(t @ covariance @ t - slope**2, 0.0)
            other = np.array([DENSITY @ self.answers_on_grid(t @ self.mean + slope * z, rest) for z in GRID])
            joint = (own * DENSITY[:, None]).T @ other
            margins = np.outer(joint.sum(axis=1), joint.sum(axis=0))
            total += (joint * np.log(joint / margins)).sum() / len(targets)
        return total

    def select(self, budget: float, criterion: Any, **options: Any) -> Any:
        return select_pairs(
            self.items, self.posterior, budget, candidates=self.candidates, criterion=criterion, **options
        )

    def all_gains(self, criterion: Any, **options: Any) -> np.ndarray:
        """Gains of a rule that scores once, in the order of the candidates."""
        picked = self.select(len(self.candidates), criterion, **options)
        gains = np.empty(len(self.candidates))
        gains[self.positions(picked.chosen)] = picked.gains
        return gains


def make_case(
    name: str, rng: np.random.Generator, n: int = 8, d: int = 3, m: int = 12, s: int = 0, wide: float = 1.0
) -> Case:
    """A case of the named model: Gaussian, or with `s` draws, where ties and cuts are the same in each."""
    model = MODELS[name]
    features = rng.standard_normal((n, d))
    items = Items(features)
    listed = np.array(list(itertools.permutations(range(n), 2)))
    listed = listed[listed[:, 0] < listed[:, 1]][rng.permutation(n * (n - 1) // 2)[:m]]
    candidates = np.where(rng.random((len(listed), 1)) < 0.5, listed, listed[:, ::-1])
    size = d + model.order_effect
    factor = np.tril(rng.uniform(-0.4, 0.4, (size, size)), -1) + np.diag(rng.uniform(2.5, 4.0, size))  # sds below 1.2
    factor = factor / wide
    mean, covariance = rng.normal(0, 0.6, size), np.linalg.inv(factor @ factor.T)
    context = Context(model, (items, Comparisons([0, 1], [1, 2], [1, 0])), {}, x64=True)
    if not s and name not in ("Davidson", "Graded"):
        layout = (("weights", d),) + ((("order_effect", 0),) * model.order_effect)
        posterior: Any = SiteGaussian("laplace", context, {"converged": True}, mean, factor, layout)
        return Case(model, items, posterior, mean, covariance, candidates, features)
    noise = rng.standard_normal((s or 100, size))
    noise = (noise - noise.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(noise, rowvar=False))).T
    w = mean + noise @ np.linalg.cholesky(covariance).T  # sample mean and covariance are exactly these
    samples = {"weights": w[None, :, :d]}
    if model.order_effect:
        samples["order_effect"] = w[None, :, d]
    if name == "Davidson":
        samples["tie_strength"] = np.full((1, len(w)), TIE)
    if name == "Graded":
        samples["cuts"] = np.tile(CUTS, (1, len(w), 1))
    posterior = SampledPosterior("nuts", context, {"converged": True}, samples, {})
    return Case(model, items, posterior, mean, covariance, candidates, features, w)


@pytest.fixture
def case(rng: np.random.Generator) -> Callable[..., Case]:
    """Builder of cases: name of the model, then sizes; s > 0 for draws instead of a Gaussian."""
    return lambda name="Bradley-Terry", **sizes: make_case(name, rng, **sizes)


@pytest.fixture
def answer_probabilities() -> Callable[..., list[float]]:
    """Probabilities of every answer given a logit."""
    return answers


@pytest.fixture
def shannon() -> Callable[[Any], float]:
    """Entropy in nats."""
    return entropy


@pytest.fixture
def small_tiles() -> Tiling:
    """Many tiles, some of them cut; floors that rise often; shortlists that run out."""
    return Tiling(listed=10, side=17, kept=30, shortlist=6)
