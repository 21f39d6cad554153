"""Stochastic variational inference for any NumPyro model: a Gaussian on the unconstrained scale."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import scipy.linalg
from jax.flatten_util import ravel_pytree
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from numpyro.infer.initialization import init_to_median
from tqdm import tqdm  # not tqdm.auto: it warns where ipywidgets is missing

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import UnconstrainedGaussian
from tercet.inference.posteriors.posterior import Diagnostics
from tercet.inference.posteriors.problem import Problem
from tercet.inference.posteriors.sites import Model
from tercet.models._inputs import KeyLike, as_key

MOST_PARAMETERS = 8000  # of a variational Gaussian: its precision is a dense matrix
CHUNK = 100  # steps of one compiled program: the progress bar moves after each


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
    guide = {"full": AutoMultivariateNormal, "diagonal": AutoNormal}[family](
        model, init_loc_fn=init_to_median(num_samples=15), init_scale=0.1
    )

    def rate(step: jax.Array) -> jax.Array:
        return learning_rate * (0.01 + 0.99 * 0.5 * (1 + jnp.cos(jnp.pi * step / steps)))

    engine = SVI(model, guide, numpyro.optim.Adam(rate), Trace_ELBO(num_particles=particles))
    state = engine.init(as_key(key), *args, **model_kwargs)

    @partial(jax.jit, static_argnums=1)
    def advance(state: Any, length: int) -> tuple[Any, jax.Array]:
        return jax.lax.scan(lambda s, _: engine.update(s, *args, **model_kwargs), state, length=length)

    lengths = [min(CHUNK, steps - start) for start in range(0, steps, CHUNK)]
    losses = []
    with tqdm(total=steps, desc="svi", disable=not progress, unit="step") as bar:
        for length in lengths:
            state, loss = advance(state, length)
            losses.append(np.asarray(loss))
            bar.update(length)
    history = np.concatenate(losses)
    if not np.isfinite(history[-100:]).all():
        raise ValueError("the ELBO is not finite; lower learning_rate, or rescale the data.")
    center, factor = _gaussian(engine.get_params(state), family, problem)
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


def _gaussian(params: dict[str, Any], family: str, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    if family == "full":
        scale = np.asarray(params["auto_scale_tril"], dtype=np.float64)
        precision = scipy.linalg.cho_solve((scale, True), np.eye(len(scale)))
        factor = scipy.linalg.cholesky((precision + precision.T) / 2, lower=True)
        return np.asarray(params["auto_loc"], dtype=np.float64), factor
    with problem.precision():
        loc = ravel_pytree({name: params[f"{name}_auto_loc"] for name in problem.latent})[0]
        spread = ravel_pytree({name: params[f"{name}_auto_scale"] for name in problem.latent})[0]
    return np.asarray(loc, dtype=np.float64), np.diag(1.0 / np.asarray(spread, dtype=np.float64))
