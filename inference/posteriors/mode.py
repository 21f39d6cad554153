"""MAP and Laplace approximation: exact Newton for linear heads, L-BFGS and the Hessian for any NumPyro model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize

from tercet.inference.posteriors.conditioned_problem import AtScale
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.fisher import likelihood_information, prior_precision
from tercet.inference.posteriors.newton import log_evidence, newton
from tercet.inference.posteriors.posterior import GaussianPosterior
from tercet.inference.posteriors.problem import Problem
from tercet.inference.preferences.training import TrainingOptions
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.heads import is_flat
from tercet.models.preferences.mlp_head import MLPHead


@dataclass(frozen=True)
class LaplaceOptions:
    """How `laplace` searches.

    Parameters
    ----------
    tolerance : largest absolute entry of the gradient of the log posterior at the mode
    max_steps : Newton steps, or L-BFGS iterations of the general route
    curvature : "exact" Hessian, or "gauss-newton" (Fisher information of the likelihood plus the prior's Hessian),
        which is positive definite in most models where the exact one is not
    prior_sd_range : where the evidence of the prior scale of a head is searched, in logits
    training : how a network (MLPHead) is trained before its last layer is approximated
    """

    tolerance: float = 1e-8
    max_steps: int = 200
    curvature: str = "exact"
    prior_sd_range: tuple[float, float] = (0.01, 100.0)
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def __post_init__(self) -> None:
        if self.curvature not in ("exact", "gauss-newton"):
            raise ValueError(f'curvature must be "exact" or "gauss-newton", got {self.curvature!r}.')
        low, high = self.prior_sd_range
        if not 0 < low < high < float("inf"):
            raise ValueError(f"prior_sd_range must be two increasing positive numbers, got {self.prior_sd_range}.")


def laplace(
    model: Callable[..., Any],
    *args: Any,
    key: Any = 0,
    options: LaplaceOptions | None = None,
    **model_kwargs: Any,
) -> GaussianPosterior:
    """Approximate a posterior by a Gaussian at its mode, z ~ Normal(mode, H^-1), H the Hessian of -log posterior.

    Computed in 64 bit whatever JAX is set to. tercet's own comparison models with a link take an exact damped
    Newton; anything else, a handler around one of them included, goes through NumPyro's unconstrained potential.
    A head whose `prior_sd` is None gets the scale at the mode of its Laplace evidence times its half-Normal prior.
    A network (`MLPHead`) is trained by minibatches; the approximation is that of its last layer, its hidden features
    being held (`MLPHead` inside a handler: all its weights, which only tiny networks allow).

    Parameters
    ----------
    model : NumPyro model, continuous latent sites
    *args, **model_kwargs : its data
    key : int seed or JAX key, for the start of the general route
    options : LaplaceOptions

    Returns
    -------
    GaussianPosterior
        `diagnostics`: converged, gradient_norm, steps, log_evidence, condition (of H), effective_parameters
        (linear forms: how many the data determine rather than the prior), prior_sd.

    Raises
    ------
    ValueError
        Discrete sites, subsampled plates, data that do not fit the model.
    numpy.linalg.LinAlgError
        The Hessian at the mode is not positive definite; the message says what to do.

    References
    ----------
    MacKay (2003), Information Theory, Inference, and Learning Algorithms, chapters 27 and 28.

    Examples
    --------
    >>> from tercet.datasets import american_league_1987
    >>> from tercet.inference import laplace
    >>> from tercet.models import AbilityHead, BradleyTerry
    >>> teams, games = american_league_1987()
    >>> fit = laplace(BradleyTerry(AbilityHead()), teams, games)
    >>> fit.diagnostics["converged"]
    True
    """
    options = LaplaceOptions() if options is None else options
    if isinstance(model, ComparisonModel) and isinstance(model.head, MLPHead):
        from tercet.inference.preferences.last_layer import last_layer_laplace

        return last_layer_laplace(model, *args, key=key, options=options, **model_kwargs)
    if isinstance(model, ComparisonModel):
        from tercet.inference.preferences.evidence import learn_prior_sd

        learned = {}
        if model.prior_sd is None:
            learned = learn_prior_sd(model, *args, key=key, options=options, **model_kwargs)
            model = model.with_prior_sd(learned["prior_sd"])
        if model.has_linear_form:
            return _exact(model, args, model_kwargs, options, learned)
        return _general(model, args, model_kwargs, key, options, learned)
    return _general(model, args, model_kwargs, key, options, {})


def _exact(
    model: ComparisonModel,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: LaplaceOptions,
    learned: dict[str, Any],
) -> GaussianPosterior:
    from tercet.inference.preferences.separability import check_connected, warn_if_separable

    form = model.linear_form(*args, **kwargs)
    flat = is_flat(model.prior_sd)
    if flat:
        check_connected(model, *args, **kwargs)
    fit = newton(form, learned.get("start"), options.tolerance, options.max_steps)
    separable = flat and warn_if_separable(model, fit.largest_logit, *args, **kwargs)
    if not fit.converged and not separable:
        warnings.warn(
            f"Newton stopped after {fit.steps} steps at a gradient of {fit.gradient_norm:.1e} "
            f"(asked: {options.tolerance:.0e}); raise max_steps or check the scale of the features.",
            stacklevel=3,
        )
    inverse, _ = scipy.linalg.lapack.dtrtri(fit.factor, lower=1)
    shrinkage = form.prior_precision * np.square(inverse).sum(axis=0)
    diagnostics = {
        "converged": fit.converged and not separable,
        "gradient_norm": fit.gradient_norm,
        "steps": fit.steps,
        "log_evidence": float("nan") if flat else log_evidence(form, fit),
        "condition": _condition(fit.precision, fit.factor),
        "effective_parameters": float(len(fit.mode) - shrinkage.sum()),
        "prior_sd": model.prior_sd,
    }
    context = Context(model, args, kwargs, x64=True)
    return GaussianPosterior("laplace", context, diagnostics, fit.mode, fit.factor, form.layout)


def _general(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: Any,
    options: LaplaceOptions,
    learned: dict[str, Any],
) -> GaussianPosterior:
    problem = Problem(model, args, kwargs, key, x64=True)
    mode, norm, steps = find_mode(problem, options)
    factor = curvature_factor(problem, mode, options)
    converged = norm <= max(options.tolerance, 1e-6)
    if not converged:
        warnings.warn(
            f"the search for the mode stopped after {steps} steps at a gradient of {norm:.1e}; the Gaussian is "
            "not centred on a mode. Try another key, rescale the data, or raise max_steps.",
            stacklevel=3,
        )
    diagnostics = {
        "converged": converged,
        "gradient_norm": norm,
        "steps": steps,
        "log_evidence": gaussian_evidence(problem, mode, factor),
        "condition": _condition(factor @ factor.T, factor),
        **({"prior_sd": learned["prior_sd"]} if learned else {}),
    }
    return GaussianPosterior("laplace", Context(model, args, kwargs, x64=True), diagnostics, mode, factor, None)


def find_mode(
    problem: Problem | AtScale, options: LaplaceOptions, start: np.ndarray | None = None
) -> tuple[np.ndarray, float, int]:
    """Mode of the unconstrained posterior [p], its largest gradient entry, iterations used.

    L-BFGS brings the search near, Newton steps (damped, in the positive part of the spectrum) to the tolerance.
    """

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        with problem.precision():
            value, gradient = problem.value_and_gradient(z)
        return float(value), np.asarray(gradient)

    begin = problem.start if start is None else start
    found = scipy.optimize.minimize(
        objective, begin, jac=True, method="L-BFGS-B",
        options={"maxiter": options.max_steps, "ftol": 1e-14, "gtol": 1e-6},
    )  # fmt: skip
    z, (value, gradient) = found.x, objective(found.x)
    if not np.isfinite(value):
        raise ValueError("the log posterior is not finite where the search ended; check data, priors and scale.")
    steps = int(found.nit)
    for _ in range(20):
        if np.abs(gradient).max() <= options.tolerance:
            break
        spectrum, basis = np.linalg.eigh(problem.hessian(z))
        floor = 1e-10 * max(abs(spectrum).max(), 1e-300)
        direction = basis @ ((basis.T @ gradient) / np.maximum(np.abs(spectrum), floor))
        for size in 0.5 ** np.arange(20):
            new_value, new_gradient = objective(z - size * direction)
            level = new_value <= value + 1e-13 * abs(value) and np.abs(new_gradient).max() < np.abs(gradient).max()
            if new_value < value - 1e-13 * abs(value) or level:
                break
        else:
            break
        z, value, gradient, steps = z - size * direction, new_value, new_gradient, steps + 1
    return z, float(np.abs(gradient).max()), steps


def curvature_factor(problem: Problem | AtScale, mode: np.ndarray, options: LaplaceOptions) -> np.ndarray:
    """Lower Cholesky factor [p, p] of the precision at the mode."""
    precision = _precision(problem, mode, options.curvature)
    if options.curvature == "gauss-newton":
        advice = "the prior itself is not log-concave at the mode: use nuts(...) or svi(...) instead"
    else:
        advice = 'try LaplaceOptions(curvature="gauss-newton"), a proper prior for every site, or nuts(...)'
    spectrum = np.linalg.eigvalsh(precision)
    if not np.isfinite(spectrum).all() or spectrum[0] <= 1e-10 * spectrum[-1]:
        raise np.linalg.LinAlgError(
            f"the Hessian [{len(mode)} parameters] is not positive definite at the mode (eigenvalues "
            f"{spectrum[0]:.3g} to {spectrum[-1]:.3g}): there is no Gaussian there; {advice}."
        )
    return scipy.linalg.cholesky(precision, lower=True)


def _precision(problem: Problem | AtScale, z: np.ndarray, curvature: str) -> np.ndarray:
    if curvature == "exact":
        return problem.hessian(z)
    if isinstance(problem, AtScale):
        whole = _precision(problem.problem, problem.whole(z), curvature)
        return whole[np.ix_(problem.kept, problem.kept)]
    return likelihood_information(problem, z) + prior_precision(problem, z)


def gaussian_evidence(problem: Problem | AtScale, mode: np.ndarray, factor: np.ndarray) -> float:
    """Laplace approximation of the log marginal likelihood."""
    with problem.precision():
        value = -float(problem.value_and_gradient(mode)[0])  # compiled already by the search
    return float(value + 0.5 * len(mode) * np.log(2 * np.pi) - np.log(factor.diagonal()).sum())


def _condition(precision: np.ndarray, factor: np.ndarray) -> float:
    """Condition number in the 1-norm, estimated from the Cholesky factor in O(p^2) (LAPACK's pocon)."""
    reciprocal, _ = scipy.linalg.lapack.dpocon(factor, np.abs(precision).sum(axis=0).max(), uplo="L")
    return 1.0 / float(reciprocal) if reciprocal else float("inf")
