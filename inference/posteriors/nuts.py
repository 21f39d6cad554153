"""The No-U-Turn sampler for any NumPyro model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS
from numpyro.infer.initialization import init_to_median, init_to_uniform

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.evaluation import Draws
from tercet.inference.posteriors.gaussian import GaussianPosterior, SiteGaussian
from tercet.inference.posteriors.posterior import Diagnostics
from tercet.inference.posteriors.problem import Problem
from tercet.inference.posteriors.sampled import SampledPosterior
from tercet.inference.posteriors.sites import Model
from tercet.models._inputs import KeyLike, as_jax, as_key

FIELDS = ("diverging", "potential_energy")  # what NumPyro records of every draw


def nuts(
    model: Model,
    *args: object,
    key: KeyLike = 0,
    warmup: int = 1000,
    samples: int = 1000,
    chains: int = 4,
    target_accept: float = 0.8,
    start: GaussianPosterior | None = None,
    progress: bool = False,
    **model_kwargs: object,
) -> SampledPosterior:
    """Sample a posterior by the No-U-Turn sampler, all chains in one vectorised program.

    Parameters
    ----------
    model : NumPyro model
    *args, **model_kwargs : its data
    key : int seed or JAX key
    warmup, samples : iterations of each chain
    chains : number of chains
    target_accept : target acceptance probability; raise it towards 1 where divergences are reported
    start : a Gaussian posterior of the same model and data, such as Laplace's: chains start from its draws and move in
        coordinates in which it is standard normal (in its floating-point precision), so that a few hundred iterations
        suffice where scales and correlations are extreme
    progress : show a progress bar

    Returns
    -------
    SampledPosterior
        `diagnostics`: converged (no divergences, every R-hat below 1.01, every effective sample size at least 100 a
        chain), r_hat, ess, divergences. A warning is given where the chains have not converged.

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
    schedule = _Schedule(as_key(key), target_accept, warmup, samples, chains, progress)
    if start is None:
        kernel = {"model": model, "init_strategy": init_to_median(num_samples=15)}
        sampler, sites = schedule.run(kernel, args, model_kwargs)
        drawn = {name: np.asarray(values) for name, values in sites.items()}
    elif has_whitened_data(start, model):
        assert isinstance(model, Whitened)
        sampler, drawn = _in_whitened_data(start, model, args, model_kwargs, schedule)
    else:
        sampler, drawn = _in_whitened_parameters(start, model, args, model_kwargs, schedule)
    extra = {name: np.asarray(v) for name, v in sampler.get_extra_fields(group_by_chain=True).items()}
    statistics = {"diverging": extra["diverging"], "lp": -extra["potential_energy"]}
    diagnostics = _chain_diagnostics(drawn, extra["diverging"])
    if not diagnostics["converged"]:
        warnings.warn(
            f"the chains have not converged: R-hat up to {diagnostics['r_hat']:.3f}, smallest effective sample "
            f"size {diagnostics['ess']:.0f}, {diagnostics['divergences']} divergences; raise warmup and samples, or "
            "target_accept where there are divergences.",
            stacklevel=2,
        )
    context = Context(model, args, model_kwargs, x64=None if start is None else start.context.x64)
    return SampledPosterior("nuts", context, diagnostics, drawn, statistics)


@runtime_checkable
class Whitened(Protocol):
    """A model whose posterior can be written in other coordinates: u with theta = center + root u."""

    def whitened(
        self, center: np.ndarray, root: np.ndarray, *data: object, **kwargs: object
    ) -> tuple[Model, Mapping[str, Any]]:
        """NumPyro model with one site `u` [p], and its data."""
        ...


class _Schedule(NamedTuple):
    """How long chains run, how many, and with which keys."""

    key: jax.Array
    target_accept: float
    warmup: int
    samples: int
    chains: int
    progress: bool

    def run(
        self,
        kernel: Mapping[str, Any],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
        *,
        jit_model_args: bool = False,
    ) -> tuple[MCMC, Any]:
        """The sampler after its run with NUTS(**kernel), and its draws by chain."""
        sampler = MCMC(
            NUTS(**kernel, target_accept_prob=self.target_accept),
            num_warmup=self.warmup,
            num_samples=self.samples,
            num_chains=self.chains,
            chain_method="vectorized",
            progress_bar=self.progress,
            jit_model_args=jit_model_args,
        )
        sampler.run(self.key, *args, extra_fields=FIELDS, **(kwargs or {}))
        return sampler, sampler.get_samples(group_by_chain=True)


def has_whitened_data(start: GaussianPosterior, model: Model) -> bool:
    """Whether the model gives its posterior in the coordinates of `start`, an exact Gaussian of the same model."""
    return isinstance(model, Whitened) and isinstance(start, SiteGaussian) and start.model == model


def _in_whitened_data(
    start: SiteGaussian,
    model: Whitened,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    schedule: _Schedule,
) -> tuple[MCMC, Draws]:
    """Chains of u, theta = center + root u, by the program that the model gives in these coordinates."""
    target, data = model.whitened(start.center, start.root, *args, **kwargs)
    kernel = {"model": target, "init_strategy": init_to_uniform(radius=1.0)}
    sampler, sites = schedule.run(kernel, (data,), jit_model_args=True)
    u = np.asarray(sites["u"], np.float64)
    return sampler, {name: np.asarray(value) for name, value in start.unravel(start.center + u @ start.root.T).items()}


def _in_whitened_parameters(
    start: GaussianPosterior,
    model: Model,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    schedule: _Schedule,
) -> tuple[MCMC, Draws]:
    """Chains of u, where z = center + root u on the unconstrained scale; u is standard normal under `start`."""
    problem = Problem(model, args, kwargs, x64=start.context.x64)
    if problem.size != len(start.center):
        raise ValueError(f"start has {len(start.center)} parameters, the model {problem.size}: not the same model.")
    with problem.precision():
        center, root = as_jax((start.center, start.root))
        first, key = jax.random.split(schedule.key)
        shape = (schedule.chains, len(center)) if schedule.chains > 1 else (len(center),)
        kernel = {"potential_fn": lambda u: problem.potential(center + root @ u)}
        sampler, draws = schedule._replace(key=key).run(kernel, (), {"init_params": jax.random.normal(first, shape)})
        u = np.asarray(draws)
    z = start.center + u.reshape(-1, u.shape[-1]) @ start.root.T
    return sampler, {
        name: value.reshape(*u.shape[:2], *value.shape[1:]) for name, value in problem.constrain(z).items()
    }


def _chain_diagnostics(drawn: Draws, diverging: np.ndarray) -> Diagnostics:
    varying = [values for values in drawn.values() if np.ptp(values) > 0]
    ess = min(float(np.min(effective_sample_size(v))) for v in varying) if varying else 0.0
    r_hat = max(float(np.max(split_gelman_rubin(v))) for v in varying) if varying else float("inf")
    count = int(diverging.sum())
    converged = bool(r_hat < 1.01 and ess >= 100 * len(diverging) and not count)
    return {"converged": converged, "r_hat": r_hat, "ess": ess, "divergences": count}
