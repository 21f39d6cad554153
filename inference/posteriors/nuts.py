"""NUTS for any NumPyro model: reproducible, under the posterior contract."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS
from numpyro.infer.initialization import init_to_median, init_to_uniform

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.evaluation import Draws
from tercet.inference.posteriors.gaussian import GaussianPosterior, SiteGaussian
from tercet.inference.posteriors.problem import Problem
from tercet.inference.posteriors.sampled import SampledPosterior
from tercet.inference.posteriors.sites import Model
from tercet.models._inputs import as_jax, as_key


def nuts(
    model: Model,
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
        sample = _in_whitened_data if _has_whitened_form(start, model) else _in_whitened_parameters
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


@runtime_checkable
class Whitened(Protocol):
    """A model that gives its posterior in other units: u with theta = center + root u."""

    def whitened(self, center: np.ndarray, root: np.ndarray, *data: Any, **kwargs: Any) -> tuple[Model, Any]:
        """NumPyro model with one site `u` [p], and its data."""
        ...


def _has_whitened_form(start: GaussianPosterior, model: Model) -> bool:
    return isinstance(model, Whitened) and isinstance(start, SiteGaussian) and start.model == model


def _in_whitened_data(
    start: GaussianPosterior,
    model: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    key: Any,
    target_accept: float,
    schedule: Mapping[str, Any],
    fields: tuple[str, ...],
) -> tuple[MCMC, Draws]:
    """Chains of u, theta = center + R u, by the model's own program in these units."""
    target, data = model.whitened(start.center, start.root, *args, **kwargs)
    kernel = NUTS(target, target_accept_prob=target_accept, init_strategy=init_to_uniform(radius=1.0))
    sampler = MCMC(kernel, jit_model_args=True, **schedule)
    sampler.run(key, data, extra_fields=fields)
    u = np.asarray(sampler.get_samples(group_by_chain=True)["u"], np.float64)
    return sampler, {name: np.asarray(value) for name, value in start.unravel(start.center + u @ start.root.T).items()}


def _in_whitened_parameters(
    start: GaussianPosterior,
    model: Model,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    key: Any,
    target_accept: float,
    schedule: Mapping[str, Any],
    fields: tuple[str, ...],
) -> tuple[MCMC, Draws]:
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
