"""Densities, pointwise log likelihoods and predictions of a model at many draws at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from tercet.inference.posteriors.problem import Problem
from tercet.models._inputs import KeyLike, as_generator

Draws = dict[str, np.ndarray]
"""Site name to array [n, ...]."""


@runtime_checkable
class Pointwise(Protocol):
    """A model that evaluates its observations itself, in NumPy: nothing is compiled."""

    def observed(self, *args: Any, **kwargs: Any) -> Draws:
        """Values of the observed sites."""
        ...

    def pointwise(self, draws: Draws, rng: np.random.Generator, *args: Any, **kwargs: Any) -> tuple[Draws, Draws]:
        """Log likelihood [n, observations...] of every observed site, and a simulated data set for each draw."""
        ...


def log_density(problem: Problem, draws: Mapping[str, np.ndarray]) -> Float[np.ndarray, " n"]:
    """Log joint density of model and data at constrained draws (on the constrained scale, no Jacobian)."""
    sites = _latent(problem, draws)
    with problem.precision():
        return np.asarray(problem.sharing.over_draws(problem.programs.log_densities, sites))


def log_density_unconstrained(problem: Problem, z: np.ndarray) -> Float[np.ndarray, " n"]:
    """Log joint density at unconstrained vectors [n, p], Jacobian included: minus the potential."""
    with problem.precision():
        return -np.asarray(problem.sharing.over_draws(problem.programs.potentials, z))


def pointwise(problem: Problem, draws: Mapping[str, np.ndarray], key: KeyLike = 0) -> tuple[Draws, Draws]:
    """Log likelihood [n, observations...] of every observed site, weights included, and a simulated data set a draw."""
    model = problem.model
    if isinstance(model, Pointwise):
        return model.pointwise(dict(draws), as_generator(key), *problem.args, **problem.kwargs)
    sites = _latent(problem, draws)
    given = problem.as_given
    keys = as_generator(key).integers(0, 2**32, (len(next(iter(sites.values()))), 2), dtype=np.uint32)
    with problem.precision():
        found: tuple[Draws, Draws] = given.over_draws(given.programs.evaluate, sites, keys)
    return found


def observed(problem: Problem) -> Draws:
    """Values of the observed sites."""
    if isinstance(problem.model, Pointwise):
        return problem.model.observed(*problem.args, **problem.kwargs)
    programs, numbers = problem.as_given
    with problem.precision():
        return {name: np.asarray(value) for name, value in programs.observed(numbers).items()}


def dimensions(problem: Problem) -> dict[str, list[str]]:
    """Names of the dimensions of each site: those of its plates, the others numbered."""
    with problem.precision():
        return problem.programs.dimensions


def _latent(problem: Problem, draws: Mapping[str, np.ndarray]) -> Draws:
    missing = [name for name in problem.latent if name not in draws]
    if missing:
        raise ValueError(f"draws lack the site(s) {missing}; they hold {sorted(draws)}.")
    return {name: np.asarray(draws[name]) for name in problem.latent}
