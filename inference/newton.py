"""Exact damped Newton for linear forms: the mode to a gradient of 1e-8 and the precision there, in 64 bit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.models.linear_form import LinearForm

CHEAP = 256  # parameters up to which a new Hessian costs no more than another pass over the data


class NewtonResult(NamedTuple):
    """Mode, lower Cholesky factor of the precision at the mode, and how the search went."""

    mode: Float[np.ndarray, " p"]
    factor: Float[np.ndarray, "p p"]
    value: float
    gradient_norm: float
    steps: int
    converged: bool
    largest_logit: float


class SingularPrecisionError(np.linalg.LinAlgError):
    """The data and the prior leave some direction of the parameters undetermined."""


def factorise(precision: np.ndarray) -> np.ndarray:
    """Lower Cholesky factor, or an error that says what to do."""
    try:
        factor = scipy.linalg.cholesky(precision, lower=True)
        if factor.diagonal().min() <= 1e-7 * factor.diagonal().max():
            raise np.linalg.LinAlgError
        return factor
    except (np.linalg.LinAlgError, ValueError) as error:
        smallest = float(np.linalg.eigvalsh(precision)[0]) if np.isfinite(precision).all() else np.nan
        raise SingularPrecisionError(
            f"the precision [{len(precision)} parameters] is not positive definite (smallest eigenvalue "
            f"{smallest:.3g}): the comparisons do not determine every parameter. Give the head a prior scale "
            "(prior_sd=1.0, or None to learn it), or drop collinear features."
        ) from error


def newton(
    form: LinearForm, start: np.ndarray | None = None, tolerance: float = 1e-8, max_steps: int = 100
) -> NewtonResult:
    """Maximise a log-concave linear form.

    Steps are damped by halving until the log posterior rises (without damping Newton diverges on separable
    data). With many parameters the factor of an earlier Hessian is used again as long as the gradient keeps
    falling fourfold a step; the Hessian of the result is always the one at the mode.

    Parameters
    ----------
    form : LinearForm
    start : array [p], optional (zeros)
    tolerance : largest absolute entry of the gradient at the mode
    max_steps : passes over the data at most
    """
    theta = np.zeros(len(form.prior_precision)) if start is None else start
    value, gradient, eta = form.value_and_gradient(theta)
    factor, fresh, steps = factorise(form.precision(eta)), True, 0
    while np.abs(gradient).max() > tolerance and steps < max_steps:
        direction = scipy.linalg.cho_solve((factor, True), gradient)
        trial = _line_search(form, theta, value, gradient, direction)
        steps += 1
        if trial is None:
            if fresh:
                break  # no step improves within rounding: `converged` below tells whether that is the mode
            factor, fresh = factorise(form.precision(eta)), True
            continue
        before = np.abs(gradient).max()
        theta, value, gradient, eta = trial
        fresh = False
        if len(theta) <= CHEAP or np.abs(gradient).max() > 0.25 * before:
            factor, fresh = factorise(form.precision(eta)), True
    if not fresh:
        factor = factorise(form.precision(eta))
    norm = float(np.abs(gradient).max())
    return NewtonResult(theta, factor, value, norm, steps, norm <= tolerance, float(np.abs(eta).max()))


def _line_search(
    form: LinearForm, theta: np.ndarray, value: float, gradient: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray] | None:
    slope = float(gradient @ direction)
    rounding = 1e-14 * abs(value) + 1e-300
    size = 1.0
    while size > 1e-10:
        proposal = theta + size * direction
        new_value, new_gradient, eta = form.value_and_gradient(proposal)
        risen = new_value >= value + 1e-4 * size * slope
        # Near the mode values differ by less than rounding: there a smaller gradient decides.
        level = new_value >= value - rounding and np.abs(new_gradient).max() < np.abs(gradient).max()
        if risen or level:
            return proposal, new_value, new_gradient, eta
        size *= 0.5
    return None


def log_evidence(form: LinearForm, fit: NewtonResult) -> float:
    """Laplace approximation of the log marginal likelihood: value + p/2 log 2 pi - log|L|, L L' the precision."""
    determinant = float(np.log(fit.factor.diagonal()).sum())
    return fit.value + form.log_prior_normaliser() + 0.5 * len(fit.mode) * np.log(2 * np.pi) - determinant
