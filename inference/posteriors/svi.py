"""Stochastic variational inference for any NumPyro model: a Gaussian on the unconstrained scale."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
from tqdm import tqdm  # not tqdm.auto: it warns where ipywidgets is missing

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import UnconstrainedGaussian
from tercet.inference.posteriors.posterior import Diagnostics
from tercet.inference.posteriors.problem import Problem
from tercet.inference.posteriors.programs import Programs
from tercet.inference.posteriors.sharing import Numbers, compiled_once
from tercet.inference.posteriors.sites import Model
from tercet.models._inputs import KeyLike, as_generator, as_jax

MOST_PARAMETERS = 8000  # of a variational Gaussian: its precision is a dense matrix
CHUNK = 100  # steps of one call: the progress bar moves after each
INITIAL_SD = 0.1  # of every parameter, on the unconstrained scale


def svi(
    model: Model,
    *args: object,
    key: KeyLike = 0,
    family: Literal["full", "diagonal"] = "full",
    steps: int = 5000,
    learning_rate: float = 0.01,
    particles: int = 8,
    progress: bool = False,
    **model_kwargs: object,
) -> UnconstrainedGaussian:
    """Fit a Gaussian on the unconstrained scale by stochastic variational inference.

    Minimises KL(q || posterior) over q = Normal(m, S) by Adam, the learning rate falling to a hundredth by a cosine.

    Parameters
    ----------
    model : NumPyro model
    *args, **model_kwargs : its data
    key : int seed or JAX key
    family : "full" covariance, or "diagonal" (which understates variances of correlated parameters)
    steps : number of steps of the optimiser
    learning_rate : of its first step
    particles : draws of q a step, over which the ELBO is averaged
    progress : show a progress bar

    Returns
    -------
    UnconstrainedGaussian
        `diagnostics`: converged, elbo (average over the last tenth of the steps), drift (change between the last two
        tenths, in units of its Monte Carlo error).

    References
    ----------
    Kucukelbir, Tran, Ranganath, Gelman, Blei (2017), JMLR 18.
    """
    if family not in ("full", "diagonal"):
        raise ValueError(f'family must be "full" or "diagonal", got {family!r}.')
    if steps < 1 or particles < 1:
        raise ValueError(f"steps and particles must be at least 1, got {steps} and {particles}.")
    problem = Problem(model, args, model_kwargs, key)
    if problem.size > MOST_PARAMETERS:
        raise ValueError(
            f"the model has {problem.size:,} parameters, and a variational Gaussian of more than {MOST_PARAMETERS:,} "
            "would fill the memory; project the items first (project(items, 32)), use smaller widths, or ensemble(...)."
        )
    rng = as_generator(key)
    begin, advance = _programs(problem.programs, family == "full", particles)
    numbers, losses = problem.sharing.numbers, []
    with problem.precision(), tqdm(total=steps, desc="svi", disable=not progress, unit="step") as bar:
        state = begin(*as_jax((problem.start,)))
        for start in range(0, steps, CHUNK):
            count = min(CHUNK, steps - start)
            seed = rng.integers(0, 2**32, 2, dtype=np.uint32)
            state, values = advance(state, numbers, count, *as_jax((seed, *map(np.float64, (learning_rate, steps)))))
            losses.append(np.asarray(values)[:count])
            bar.update(count)
    history = np.concatenate(losses)
    if not np.isfinite(history[-100:]).all():
        raise ValueError("the ELBO is not finite; lower learning_rate, or rescale the data.")
    center, factor = _gaussian(*state.parameters)
    diagnostics = _elbo_diagnostics(history)
    if not diagnostics["converged"]:
        warnings.warn(
            f"the ELBO was still rising at the end (by {diagnostics['drift']:.1f} standard errors); raise steps.",
            stacklevel=2,
        )
    return UnconstrainedGaussian("svi", Context(model, args, model_kwargs), diagnostics, center, factor)


def _elbo_diagnostics(history: np.ndarray) -> Diagnostics:
    tenth = min(max(10, len(history) // 10), max(1, len(history) // 2))
    before, last = history[-2 * tenth : -tenth], history[-tenth:]
    if len(before) == 0:  # a single step has no trend
        return {"converged": False, "elbo": float(-last.mean()), "drift": float("inf")}
    error = np.sqrt(before.var() / len(before) + last.var() / len(last)) + 1e-12
    drift = float((before.mean() - last.mean()) / error)
    # A change of half a nat does not matter, however significant it is.
    converged = bool(drift < 4.0 or before.mean() - last.mean() < 0.5)
    return {"converged": converged, "elbo": float(-last.mean()), "drift": drift}


def _gaussian(center: jax.Array, scale: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Center and precision factor of the variational parameters."""
    root = np.asarray(_root(scale), np.float64)
    if scale.ndim == 1:
        return np.asarray(center, np.float64), np.diag(1.0 / root)
    precision = scipy.linalg.cho_solve((root, True), np.eye(len(root)))
    return np.asarray(center, np.float64), scipy.linalg.cholesky((precision + precision.T) / 2, lower=True)


def _root(scale: jax.Array) -> jax.Array:
    """Lower Cholesky factor of the covariance, or standard deviations: logarithms are on the diagonal."""
    if scale.ndim == 1:
        return jnp.exp(scale)
    return jnp.tril(scale, -1) + jnp.diag(jnp.exp(jnp.diagonal(scale)))


class _State(NamedTuple):
    """Where the optimiser is.

    Attributes
    ----------
    parameters : center [p] and scale, see `_root`
    moments : of Adam
    step : steps taken
    """

    parameters: tuple[jax.Array, jax.Array]
    moments: Any
    step: jax.Array


@lru_cache(maxsize=64)
def _programs(programs: Programs, full: bool, particles: int) -> tuple[Callable[..., _State], Callable[..., Any]]:
    """The two programs: (center) -> state, and (state, numbers, count, key, rate, steps) -> (state, losses)."""
    adam = optax.scale_by_adam()

    def loss(parameters: tuple[jax.Array, jax.Array], key: jax.Array, numbers: Numbers) -> jax.Array:
        center, scale = parameters
        noise = jax.random.normal(key, (particles, programs.size), center.dtype)
        root = _root(scale)
        z = center + (noise @ root.T if full else noise * root)
        entropy = (jnp.diagonal(scale) if full else scale).sum() + 0.5 * programs.size * (1.0 + np.log(2.0 * np.pi))
        return jnp.asarray(jax.vmap(programs.potential_at, (0, None))(z, numbers).mean() - entropy)

    def begin(center: jax.Array) -> _State:
        log_sd = jnp.full(programs.size, np.log(INITIAL_SD), center.dtype)
        parameters = center, jnp.diag(log_sd) if full else log_sd
        return _State(parameters, adam.init(parameters), jnp.zeros((), center.dtype))

    def advance(
        state: _State, numbers: Numbers, count: jax.Array, key: jax.Array, rate: jax.Array, steps: jax.Array
    ) -> tuple[_State, jax.Array]:
        keys = jax.random.split(jax.random.wrap_key_data(key), CHUNK)

        def one(k: jax.Array, carry: tuple[_State, jax.Array]) -> tuple[_State, jax.Array]:
            (parameters, moments, step), losses = carry
            value, gradient = jax.value_and_grad(loss)(parameters, keys[k], numbers)
            update, moments = adam.update(gradient, moments)
            size = rate * (0.01 + 0.99 * 0.5 * (1.0 + jnp.cos(jnp.pi * step / steps)))
            parameters = jax.tree.map(lambda old, new: old - size * new, parameters, update)
            return _State(parameters, moments, step + 1.0), losses.at[k].set(value)

        moved: tuple[_State, jax.Array] = jax.lax.fori_loop(0, count, one, (state, jnp.zeros(CHUNK, state.step.dtype)))
        return moved

    return compiled_once(begin), jax.jit(advance)
