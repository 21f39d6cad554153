"""The No-U-Turn sampler for any NumPyro model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

from tercet.inference.posteriors.chains import Chains, Schedule
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.evaluation import Draws
from tercet.inference.posteriors.gaussian import GaussianPosterior, SiteGaussian
from tercet.inference.posteriors.posterior import Diagnostics
from tercet.inference.posteriors.problem import Problem
from tercet.inference.posteriors.sampled import SampledPosterior
from tercet.inference.posteriors.sites import Model
from tercet.models._inputs import KeyLike, as_generator


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
    schedule, rng = Schedule(warmup, samples, chains, target_accept, progress), as_generator(key)
    x64 = None if start is None else start.context.x64
    if start is None:
        drawn, run = _from_medians(Problem(model, args, model_kwargs), schedule, rng)
    elif has_whitened_data(start, model):
        assert isinstance(model, Whitened)
        drawn, run = _in_whitened_data(start, model, args, model_kwargs, schedule=schedule, rng=rng)
    else:
        drawn, run = _in_whitened_parameters(start, Problem(model, args, model_kwargs, x64=x64), schedule, rng)
    statistics = {"diverging": run.diverging, "lp": -run.potential}
    diagnostics = _chain_diagnostics(drawn, run.diverging)
    if not diagnostics["converged"]:
        warnings.warn(
            f"the chains have not converged: R-hat up to {diagnostics['r_hat']:.3f}, smallest effective sample "
            f"size {diagnostics['ess']:.0f}, {diagnostics['divergences']} divergences; raise warmup and samples, or "
            "target_accept where there are divergences.",
            stacklevel=2,
        )
    context = Context(model, args, model_kwargs, x64=x64)
    return SampledPosterior("nuts", context, diagnostics, drawn, statistics)


@runtime_checkable
class Whitened(Protocol):
    """A model whose posterior can be written in other coordinates: u with theta = center + root u."""

    def whitened(
        self, center: np.ndarray, root: np.ndarray, *data: object, **kwargs: object
    ) -> tuple[Model, Mapping[str, Any]]:
        """NumPyro model with one site `u` [p], and its data."""
        ...


def has_whitened_data(start: GaussianPosterior, model: Model) -> bool:
    """Whether the model gives its posterior in the coordinates of `start`, an exact Gaussian of the same model."""
    return isinstance(model, Whitened) and isinstance(start, SiteGaussian) and start.model == model


def _from_medians(problem: Problem, schedule: Schedule, rng: np.random.Generator) -> tuple[Draws, Chains]:
    """Chains from near the prior medians, each from its own estimate of these."""
    keys = rng.integers(0, 2**32, (schedule.chains, 2), dtype=np.uint32)
    with problem.precision():
        points = problem.sharing.over_draws(problem.programs.starts, keys)
        run = schedule.run(problem.sharing, points, rng)
    return _constrained(problem, run.z), run


def _in_whitened_data(
    start: SiteGaussian,
    model: Whitened,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    *,
    schedule: Schedule,
    rng: np.random.Generator,
) -> tuple[Draws, Chains]:
    """Chains of u, theta = center + root u, by the program that the model gives in these coordinates."""
    target, data = model.whitened(start.center, start.root, *args, **kwargs)
    problem = Problem(target, (data,))
    with problem.precision():
        run = schedule.run(problem.sharing, rng.uniform(-1.0, 1.0, (schedule.chains, problem.size)), rng)
    z = start.center + np.asarray(run.z, np.float64) @ start.root.T
    return start.constrain(z), run


def _in_whitened_parameters(
    start: GaussianPosterior, problem: Problem, schedule: Schedule, rng: np.random.Generator
) -> tuple[Draws, Chains]:
    """Chains of u, where z = center + root u on the unconstrained scale; u is standard normal under `start`."""
    if problem.size != len(start.center):
        raise ValueError(f"start has {len(start.center)} parameters, the model {problem.size}: not the same model.")
    points, coordinates = rng.standard_normal((schedule.chains, problem.size)), (start.center, start.root)
    with problem.precision():
        run = schedule.run(problem.sharing, points, rng, coordinates)
    return _constrained(problem, start.center + run.z @ start.root.T), run


def _constrained(problem: Problem, z: np.ndarray) -> Draws:
    """Sites [chains, samples, ...] of z [chains, samples, p]."""
    sites = problem.constrain(z.reshape(-1, z.shape[-1]))
    return {name: values.reshape(*z.shape[:2], *values.shape[1:]) for name, values in sites.items()}


def _chain_diagnostics(drawn: Draws, diverging: np.ndarray) -> Diagnostics:
    varying = [values for values in drawn.values() if np.ptp(values) > 0]
    ess = min(float(np.min(effective_sample_size(v))) for v in varying) if varying else 0.0
    r_hat = max(float(np.max(split_gelman_rubin(v))) for v in varying) if varying else float("inf")
    count = int(diverging.sum())
    converged = bool(r_hat < 1.01 and ess >= 100 * len(diverging) and not count)
    return {"converged": converged, "r_hat": r_hat, "ess": ess, "divergences": count}
