"""Densities, pointwise log likelihoods and predictions of a model at many draws at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tercet.inference.posteriors.problem import Problem
from tercet.inference.posteriors.sites import log_prob, observed_sites
from tercet.models._inputs import KeyLike, as_key

Draws = dict[str, np.ndarray]
"""Site name to array [n, ...]."""
CHUNK = 100  # draws evaluated at once: bounds memory at chunk x observations


def log_density(problem: Problem, draws: Mapping[str, np.ndarray]) -> Float[np.ndarray, " n"]:
    """Log joint density of model and data at constrained draws (on the constrained scale, no Jacobian)."""

    def one(sites: dict[str, Any]) -> Any:
        sampled = [site for site in problem.replay(sites).values() if site["type"] == "sample"]
        return sum(jnp.sum(log_prob(site)) for site in sampled)

    return np.asarray(_over_draws(problem, one, draws))


def log_density_unconstrained(problem: Problem, z: np.ndarray) -> Float[np.ndarray, " n"]:
    """Log joint density at unconstrained vectors [n, p], Jacobian included: minus the potential."""
    with problem.precision():
        return -np.asarray(jax.lax.map(problem.potential, jnp.asarray(z), batch_size=min(len(z), CHUNK)))


def log_likelihood(problem: Problem, draws: Mapping[str, np.ndarray]) -> Draws:
    """Log likelihood [n, observations...] of every observed site, weights included."""
    names = list(observed(problem))

    def one(sites: dict[str, Any]) -> dict[str, Any]:
        replayed = problem.replay(sites)
        return {name: log_prob(replayed[name]) for name in names}

    return dict(_over_draws(problem, one, draws))


def predictive(problem: Problem, draws: Mapping[str, np.ndarray], key: KeyLike = 0) -> Draws:
    """Simulated data [n, observations...] at every observed site, one data set a draw."""
    names = list(observed(problem))
    count = len(next(iter(draws.values())))

    def one(sites: dict[str, Any]) -> dict[str, Any]:
        replayed = problem.replay(sites)
        keys = jax.random.split(sites["_key"], len(names))
        return {name: replayed[name]["fn"].sample(k) for name, k in zip(names, keys, strict=True)}

    with problem.precision():
        keyed = {**draws, "_key": jax.random.split(as_key(key), count)}
        return dict(_over_draws(problem, one, keyed, ["_key"]))


def observed(problem: Problem) -> Draws:
    """Values of the observed sites."""
    return {name: np.asarray(site["value"]) for name, site in observed_sites(problem.sites).items()}


def dimensions(problem: Problem) -> dict[str, list[str]]:
    """Names of the dimensions of each site: those of its plates, the others numbered."""
    names = {}
    for name, site in problem.sites.items():
        if site["type"] not in ("sample", "deterministic"):
            continue
        shape = np.shape(site["value"])
        event = site["fn"].event_dim if site["type"] == "sample" else 0
        labels = [f"{name}_dim_{k}" for k in range(len(shape))]
        for plate in site.get("cond_indep_stack") or []:
            axis = len(shape) - event + plate.dim
            if 0 <= axis < len(shape) and shape[axis] == plate.size:
                labels[axis] = plate.name
        names[name] = labels
    return names


def _over_draws(
    problem: Problem, function: Callable[[dict[str, Any]], Any], draws: Mapping[str, Any], extra: Sequence[str] = ()
) -> Any:
    missing = [name for name in problem.latent if name not in draws]
    if missing:
        raise ValueError(f"draws lack the site(s) {missing}; they hold {sorted(draws)}.")
    with problem.precision():
        sites = {name: jnp.asarray(draws[name]) for name in (*problem.latent, *extra)}
        count = len(next(iter(sites.values())))
        mapped = jax.lax.map(function, sites, batch_size=min(count, CHUNK))
        return jax.tree.map(np.asarray, mapped)
