"""Laplace's approximation of comparison models: exact Newton for linear forms, prior scales learned by evidence."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.linalg

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import GaussianPosterior, SiteGaussian
from tercet.inference.posteriors.mode import condition_number, gaussian_at_mode
from tercet.inference.posteriors.newton import SingularPrecisionError, log_evidence, newton
from tercet.inference.posteriors.options import LaplaceOptions
from tercet.inference.preferences.prior_scale import LearnedScale, learn_prior_sd
from tercet.inference.preferences.separability import check_connected, warn_if_separable
from tercet.models._inputs import KeyLike
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.heads import is_flat


def comparison_laplace(
    model: ComparisonModel, items: Items, comparisons: Comparisons, *, key: KeyLike, options: LaplaceOptions
) -> GaussianPosterior:
    """Laplace's approximation of a comparison model whose head is not a network.

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
    learned = learn_prior_sd(model, items, comparisons, key=key, options=options) if learns else None
    if learned is not None:
        model = model.with_prior_sd(learned.prior_sd)
    if model.has_linear_form:
        return _exact(model, items, comparisons, options, learned)
    if learned is None:
        return gaussian_at_mode(model, (items, comparisons), {}, key=key, options=options)
    known, start = {"prior_sd": learned.prior_sd}, learned.mode
    return gaussian_at_mode(model, (items, comparisons), {}, key=key, options=options, known=known, start=start)


def _exact(
    model: ComparisonModel,
    items: Items,
    comparisons: Comparisons,
    options: LaplaceOptions,
    learned: LearnedScale | None,
) -> SiteGaussian:
    form = model.linear_form(items, comparisons) if learned is None or learned.form is None else learned.form
    assert model.prior_sd is not None
    flat = is_flat(model.prior_sd)
    if flat:
        check_connected(model, items, comparisons)
    start, near = (None, None) if learned is None else (learned.mode, learned.precision)
    try:
        fit = newton(form, start, tolerance=options.tolerance, max_steps=options.max_steps, precision=near)
    except SingularPrecisionError as error:
        raise SingularPrecisionError(
            f"{error} Give the head a prior scale (prior_sd=1.0, or None to learn it), or drop collinear features."
        ) from error
    solution = fit.solution
    separable = flat and warn_if_separable(model, form, fit, items, comparisons)
    if not solution.converged and not separable:
        warnings.warn(
            f"Newton stopped after {solution.steps} steps at a gradient of {solution.gradient_norm:.1e} "
            f"(tolerance {options.tolerance:.0e}); raise max_steps or check the scale of the features.",
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
    context = Context(model, (items, comparisons), x64=True)
    positive = tuple(name for name, _ in form.answers.auxiliaries)
    return SiteGaussian("laplace", context, diagnostics, fit.point, fit.factor, form.layout, positive)
