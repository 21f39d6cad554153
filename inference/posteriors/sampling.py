"""NUTS and SVI for any NumPyro model: thin, reproducible, under the posterior contract."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import scipy.linalg
from jax.flatten_util import ravel_pytree
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from numpyro.infer.initialization import init_to_median
from tqdm import tqdm  # not tqdm.auto: it warns where ipywidgets is missing

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.posterior import GaussianPosterior, SampledPosterior
from tercet.inference.posteriors.problem import Problem
from tercet.inference.preferences.linear_chains import has_whitened_form, sample_whitened
from tercet.models._inputs import as_jax, as_key

MOST_PARAMETERS = 8000  # of a variational Gaussian: its precision is held whole


def nuts(
    model: Callable[..., Any],
    *args: Any,
    key: Any = 0,
    warmup: int = 1000,
    samples: int = 1000,
    chains: int = 4,
    target_accept: float = 0.8,
    start: GaussianPosterior | None = None,
    progress: bool = False,
    **model_kwargs: Any,
) -> SampledPosterior:
    """Sample a posterior by the No-U-Turn sampler, chains side by side in one vectorised program.

    Parameters
    ----------
    model : NumPyro model
    *args, **model_kwargs : its data
    key : int seed or JAX key
    warmup, samples : iterations a chain
    chains : number of chains
    target_accept : raise towards 1 where divergences are reported
    start : a Gaussian posterior of the same model and data, such as Laplace's: chains start from its draws and move in
        its units (and its precision), so that a few hundred iterations do where scales and correlations are extreme
    progress : show a progress bar

    Returns
    -------
    SampledPosterior
        `diagnostics`: converged (no divergences, every R-hat below 1.01, every effective size above 100 a chain),
        r_hat, ess, divergences. A warning is given where it did not.

    References
    ----------
    Hoffman and Gelman (2014), JMLR 15; Vehtari et al. (2021), Bayesian Analysis 16.

    Examples
    --------
    >>> from tercet.datasets import american_league_1987
    >>> from tercet.inference import nuts
    >>> from tercet.models import AbilityHead, BradleyTerry
    >>> fit = nuts(BradleyTerry(AbilityHead(1.0)), *american_league_1987(), warmup=200, samples=250)
    >>> fit.draws(10)["ability"].shape
    (10, 7)
    """
    schedule: dict[str, Any] = {
        "num_warmup": warmup,
        "num_samples": samples,
        "num_chains": chains,
        "chain_method": "vectorized",
        "progress_bar": progress,
    }
    fields = ("diverging", "potential_energy")
    if start is None:
        kernel = NUTS(model, target_accept_prob=target_accept, init_strategy=init_to_median(num_samples=15))
        sampler = MCMC(kernel, **schedule)
        sampler.run(as_key(key), *args, extra_fields=fields, **model_kwargs)
        drawn = {name: np.asarray(v) for name, v in sampler.get_samples(group_by_chain=True).items()}
    else:
        sample = sample_whitened if has_whitened_form(start, model) else _whitened
        sampler, drawn = sample(start, model, args, model_kwargs, as_key(key), target_accept, schedule, fields)
    extra = {name: np.asarray(v) for name, v in sampler.get_extra_fields(group_by_chain=True).items()}
    statistics = {"diverging": extra["diverging"], "lp": -extra["potential_energy"]}
    diagnostics = _chain_diagnostics(drawn, extra["diverging"])
    if not diagnostics["converged"]:
        warnings.warn(
            f"the chains have not converged: R-hat up to {diagnostics['r_hat']:.3f}, smallest effective size "
            f"{diagnostics['ess']:.0f}, {diagnostics['divergences']} divergences; raise warmup and samples, or "
            "target_accept where there are divergences.",
            stacklevel=2,
        )
    context = Context(model, args, model_kwargs, x64=None if start is None else start.context.x64)
    return SampledPosterior("nuts", context, diagnostics, drawn, statistics)


def _whitened(
    start: GaussianPosterior,
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: Any,
    target_accept: float,
    schedule: dict[str, Any],
    fields: tuple[str, ...],
) -> tuple[MCMC, dict[str, np.ndarray]]:
    """Chains of u, where z = center + root u on the unconstrained scale; u is standard normal under `start`."""
    problem = Problem(model, args, kwargs, x64=start.context.x64)
    if problem.size != len(start.center):
        raise ValueError(f"start has {len(start.center)} parameters, the model {problem.size}: not the same model.")
    with problem.precision():
        center, root = as_jax((start.center, start.root))
        kernel = NUTS(potential_fn=lambda u: problem.potential(center + root @ u), target_accept_prob=target_accept)
        sampler = MCMC(kernel, **schedule)
        first, run = jax.random.split(key)
        shape = (schedule["num_chains"], len(center))
        begin = jax.random.normal(first, shape if shape[0] > 1 else shape[1:])
        sampler.run(run, init_params=begin, extra_fields=fields)
        u = np.asarray(sampler.get_samples(group_by_chain=True))
    z = start.center + u.reshape(-1, u.shape[-1]) @ start.root.T
    return sampler, {
        name: value.reshape(*u.shape[:2], *value.shape[1:]) for name, value in problem.constrain(z).items()
    }


def _chain_diagnostics(drawn: dict[str, np.ndarray], diverging: np.ndarray) -> dict[str, Any]:
    moving = [values for values in drawn.values() if np.ptp(values) > 0]
    ess = min(float(np.min(effective_sample_size(v))) for v in moving) if moving else 0.0
    r_hat = max(float(np.max(split_gelman_rubin(v))) for v in moving) if moving else float("inf")
    count = int(diverging.sum())
    settled = bool(r_hat < 1.01 and ess >= 100 * len(diverging) and not count)
    return {"converged": settled, "r_hat": r_hat, "ess": ess, "divergences": count}


def svi(
    model: Callable[..., Any],
    *args: Any,
    key: Any = 0,
    family: str = "full",
    steps: int = 5000,
    learning_rate: float = 0.01,
    particles: int = 8,
    progress: bool = False,
    **model_kwargs: Any,
) -> GaussianPosterior:
    """Fit a Gaussian on the unconstrained scale by stochastic variational inference.

    Minimises KL(q || posterior) over q = Normal(m, S) with Adam, its rate falling to a hundredth by a cosine.

    Parameters
    ----------
    model : NumPyro model
    *args, **model_kwargs : its data
    key : int seed or JAX key
    family : "full" covariance, or "diagonal" (which understates variances of correlated parameters)
    steps, learning_rate, particles : of the optimiser; particles are draws a step
    progress : show a progress bar

    Returns
    -------
    GaussianPosterior
        `diagnostics`: converged, elbo (average of the last tenth), drift (change between the last two tenths, in
        units of its Monte Carlo error).

    References
    ----------
    Kucukelbir, Tran, Ranganath, Gelman, Blei (2017), JMLR 18.
    """
    if family not in ("full", "diagonal"):
        raise ValueError(f'family must be "full" or "diagonal", got {family!r}.')
    problem = Problem(model, args, model_kwargs, key)
    if problem.size > MOST_PARAMETERS:
        raise ValueError(
            f"the model has {problem.size:,} parameters, and a variational Gaussian of more than {MOST_PARAMETERS:,} "
            "would fill the memory; project the items first (project(items, 32)), use smaller widths, or ensemble(...)."
        )
    guide = {"full": AutoMultivariateNormal, "diagonal": AutoNormal}[family](
        model, init_loc_fn=init_to_median(num_samples=15), init_scale=0.1
    )

    def rate(step: Any) -> Any:
        return learning_rate * (0.01 + 0.99 * 0.5 * (1 + jnp.cos(jnp.pi * step / steps)))

    engine = SVI(model, guide, numpyro.optim.Adam(rate), Trace_ELBO(num_particles=particles))
    state = engine.init(as_key(key), *args, **model_kwargs)

    @jax.jit
    def hundred(state: Any) -> Any:
        return jax.lax.scan(lambda s, _: engine.update(s, *args, **model_kwargs), state, length=100)

    losses = []
    for _ in tqdm(range(max(1, steps // 100)), desc="svi", disable=not progress, unit="00 steps"):
        state, loss = hundred(state)
        losses.append(np.asarray(loss))
    history = np.concatenate(losses)
    if not np.isfinite(history[-100:]).all():
        raise ValueError("the ELBO is not finite; lower learning_rate, or rescale the data.")
    center, factor = _gaussian(engine.get_params(state), family, problem)
    diagnostics = _elbo_diagnostics(history)
    if not diagnostics["converged"]:
        warnings.warn(
            f"the ELBO was still moving at the end (by {diagnostics['drift']:.1f} standard errors); raise steps.",
            stacklevel=2,
        )
    return GaussianPosterior("svi", Context(model, args, model_kwargs), diagnostics, center, factor, None)


def _elbo_diagnostics(history: np.ndarray) -> dict[str, Any]:
    tenth = max(10, len(history) // 10)
    before, last = history[-2 * tenth : -tenth], history[-tenth:]
    error = np.sqrt(before.var() / len(before) + last.var() / len(last)) + 1e-12
    drift = float((before.mean() - last.mean()) / error)
    # Half a nat matters to nobody, however surely it is seen.
    settled = bool(drift < 4.0 or before.mean() - last.mean() < 0.5)
    return {"converged": settled, "elbo": float(-last.mean()), "drift": drift}


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
