"""Sites to draw, and surfaces with known parameters whose covariances are written out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tercet.designs import (
    select_sites,
)
from tercet.inference.posteriors import SampledPosterior
from tercet.inference.posteriors.context import Context
from tercet.models import LossSurface, Sites
from tercet.models.space.marginal_likelihoods import JITTER
from tercet.models.space.spectral_basis import WALL


def draw(space: str, n: int, rng: np.random.Generator) -> Sites:
    if space == "date line":  # longitudes told either way round
        longitude = 180 + rng.uniform(-8, 8, n)
        return Sites(
            np.stack([rng.uniform(-5, 5, n), np.where(longitude > 184, longitude - 360, longitude)], 1), "sphere"
        )
    if space == "globe":
        return Sites(np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)], 1), "sphere")
    return Sites(rng.uniform(-3, 7, (n, {"line": 1, "plane": 2, "five dimensions": 5}[space])))


def joined(*sites: Sites) -> Sites:
    return Sites(np.concatenate([each.coordinates for each in sites]), sites[0].metric)


def taken(sites: Sites, index: Any) -> Sites:
    return Sites(sites.coordinates[index], sites.metric)


@dataclass(frozen=True, eq=False)
class Problem:
    """A surface with known parameters, its prior covariances written out."""

    posterior: Any
    candidates: Sites
    existing: Sites
    target: Sites
    share: np.ndarray

    @property
    def model(self) -> LossSurface:
        return self.posterior.context.model

    @cached_property
    def values(self) -> dict[str, Any]:
        return self.posterior.mean()

    def basis(self, sites: Sites) -> np.ndarray:
        """Sines along each axis, multiplied out, times the prior standard deviations of their weights."""
        coordinates, model = self.model.frame.coordinates(sites), self.model
        orders = np.array(list(itertools.product(range(1, model.basis + 1), repeat=model.frame.dim)))
        waves = np.sin(np.pi * orders * (coordinates[:, None] + WALL) / (2 * WALL)) / np.sqrt(WALL)
        return waves.prod(axis=-1) * self.scales

    @cached_property
    def scales(self) -> np.ndarray:
        return np.asarray(self.model.scales(*(jnp.asarray(self.values[name]) for name in ("amplitude", "length"))))

    def prior(self, first: Sites, second: Sites) -> np.ndarray:
        level = (2 * self.model.spread) ** 2
        if self.model.basis:
            return self.basis(first) @ self.basis(second).T + level
        a, b = (self.model.frame.coordinates(each) for each in (first, second))
        return self.model.covariance(a, b, self.values["amplitude"], self.values["length"]) + level

    @property
    def noise(self) -> float:
        """Variance of what one label says of the surface."""
        if self.model.family == "gamma":
            return 1 / self.values["shape"]
        wider = (self.values["freedom"] + 3) / (self.values["freedom"] + 1) if self.model.family == "student" else 1.0
        return self.values["noise"] ** 2 * wider

    def surface(self) -> np.ndarray:
        """Posterior mean at the targets."""
        known, model = self.posterior.context.args[0], self.model
        if not model.collapsed and model.basis:
            return self.values["level"] + self.basis(self.target) @ self.values["process"]
        if model.collapsed:
            start, level, noise = model.center, 0.0, self.noise
            losses = self.posterior.context.args[1]
            seen = np.log(losses) if model.family == "log-normal" else losses
        else:
            start, level, seen = self.values["level"], (2 * model.spread) ** 2, self.values["surface"]
            noise = 10 * JITTER * self.values["amplitude"] ** 2  # what the model adds
        whole = self.prior(known, known) - level + noise * np.eye(len(known))
        return start + (self.prior(self.target, known) - level) @ np.linalg.solve(whole, seen - start)

    @property
    def weight(self) -> np.ndarray:
        if self.model.family in ("normal", "student"):
            return self.share
        extra = 0.5 * self.values["noise"] ** 2 if self.model.family == "log-normal" else 0.0
        return self.share * np.exp(self.surface() + extra)

    @cached_property
    def joint(self) -> np.ndarray:
        """Prior covariance of the surface at every existing site and candidate, and of the (linearised) risk."""
        coordinates, w = joined(self.existing, self.candidates), self.weight
        edge = (self.prior(coordinates, self.target) @ w)[:, None]
        return np.block(
            [[self.prior(coordinates, coordinates), edge], [edge.T, w @ self.prior(self.target, self.target) @ w]]
        )

    def variance(self, chosen: Any) -> float:
        """Posterior variance of the risk with labels at these candidates too, from scratch."""
        n = len(self.existing)
        seen = [*range(n), *(n + index for index in chosen)]
        whole = self.joint[np.ix_(seen, seen)] + self.noise * np.eye(len(seen))
        edge = self.joint[seen, -1]
        return float(self.joint[-1, -1] - edge @ np.linalg.solve(whole, edge))

    def select(self, budget: float, **options: Any) -> Any:
        call = {"target": self.target, "target_weights": self.share} | options
        return select_sites(self.candidates, self.posterior, budget, **call)


def build(
    space: str, rng: np.random.Generator, family: str = "normal", basis: int = 6, n: int = 12, m: int = 12
) -> Problem:
    candidates, existing, target = (draw(space, size, rng) for size in (m, n, 12))
    losses = rng.gamma(3.0, 0.5, n)
    kernel = "matern 3/2" if basis else str(rng.choice(["matern 1/2", "matern 5/2", "squared exponential"]))
    surface = LossSurface.around(losses, candidates, existing, target, family=family, basis=basis, kernel=kernel)
    width = basis**surface.frame.dim if basis else n
    values = {
        "level": rng.normal(0.3, 0.1),
        "amplitude": rng.uniform(0.5, 1.0),
        "length": rng.uniform(0.3, 0.9),
        "noise": rng.uniform(0.2, 0.6),
        "shape": rng.uniform(1.0, 4.0),
        "freedom": rng.uniform(3.0, 8.0),
        "process": rng.standard_normal(width),
        "surface": rng.normal(0.0, 0.3, n),
    }
    samples = {name: np.broadcast_to(value, (2, 3, *np.shape(value))) for name, value in values.items()}
    context = Context(surface, (existing, losses), {}, x64=True)
    posterior = SampledPosterior("nuts", context, {"converged": True}, samples, {})
    share = rng.uniform(0.5, 2.0, 12)
    return Problem(posterior, candidates, existing, target, share / share.sum())


@pytest.fixture(name="draw")
def _draw() -> Any:
    return draw


@pytest.fixture(name="joined")
def _joined() -> Any:
    return joined


@pytest.fixture(name="taken")
def _taken() -> Any:
    return taken


@pytest.fixture(name="build")
def _build() -> Any:
    return build
