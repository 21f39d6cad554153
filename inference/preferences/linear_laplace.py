"""Laplace's approximation of comparison models: exact Newton for linear forms, and the scale of the prior learned."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.linalg

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import GaussianPosterior, SiteGaussian
from tercet.inference.posteriors.mode import condition_number, gaussian_at_mode
from tercet.inference.posteriors.newton import log_evidence, newton
from tercet.inference.posteriors.options import LaplaceOptions
from tercet.inference.preferences.prior_scale import LearnedScale, learn_prior_sd
from tercet.inference.preferences.separability import check_connected, warn_if_separable
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.heads import is_flat


def comparison_laplace(
    model: ComparisonModel, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, options: LaplaceOptions
) -> GaussianPosterior:
    """Laplace's approximation of a comparison model whose head is no network.

    A model with a linear form takes an exact damped Newton, any other L-BFGS and the Hessian. A head whose `prior_sd`
    is None gets the scale at the mode of its Laplace evidence times its half-Normal prior.
    """
    learns = model.prior_sd is None
    scale = ("prior_sd_range",) if learns else ()
    if model.has_linear_form:
        options.check_read(f"the exact Newton route of {type(model).__name__}", "tolerance", "max_steps", *scale)
    else:
        general = ("tolerance", "max_steps", "curvature")
        options.check_read(f"the general route of {type(model).__name__}", *general, *scale)
    learned = learn_prior_sd(model, args, kwargs, key, options) if learns else None
    if learned is not None:
        model = model.with_prior_sd(learned.prior_sd)
    if model.has_linear_form:
        return _exact(model, args, kwargs, options, learned)
    known = {} if learned is None else {"prior_sd": learned.prior_sd}
    return gaussian_at_mode(model, args, kwargs, key, options, known)


def _exact(
    model: ComparisonModel,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: LaplaceOptions,
    learned: LearnedScale | None,
) -> SiteGaussian:
    form = model.linear_form(*args, **kwargs)
    flat = is_flat(model.prior_sd)
    if flat:
        check_connected(model, *args, **kwargs)
    start = None if learned is None else learned.mode
    fit = newton(form, start, tolerance=options.tolerance, max_steps=options.max_steps)
    solution = fit.solution
    separable = flat and warn_if_separable(model, fit.largest_predictor, *args, **kwargs)
    if not solution.converged and not separable:
        warnings.warn(
            f"Newton stopped after {solution.steps} steps at a gradient of {solution.gradient_norm:.1e} "
            f"(asked: {options.tolerance:.0e}); raise max_steps or check the scale of the features.",
            stacklevel=4,
        )
    inverse, _ = scipy.linalg.lapack.dtrtri(fit.factor, lower=1)
    shrinkage = form.prior_precision * np.square(inverse).sum(axis=0)
    diagnostics = {
        "converged": solution.converged and not separable,
        "gradient_norm": solution.gradient_norm,
        "steps": solution.steps,
        "log_evidence": float("nan") if flat else log_evidence(form, fit),
        "condition": condition_number(fit.precision, fit.factor),
        "effective_parameters": float(len(fit.point) - shrinkage.sum()),
        "prior_sd": model.prior_sd,
    }
    context = Context(model, args, kwargs, x64=True)
    return SiteGaussian("laplace", context, diagnostics, fit.point, fit.factor, form.layout)
