"""Exact damped Newton for linear forms: the mode to a gradient of 1e-8 and the precision there, in 64 bit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.models.preferences.linear_form import LinearForm

THIN, ENOUGH = 16, 200  # with ENOUGH rows a parameter left, one row in THIN gives a good start
WIDE = 512  # parameters from which a Hessian costs enough to take the first in 32 bit
PATIENCE = 5  # steps in which the gradient must fall thirtyfold, or a new Hessian is worth its price


class NewtonResult(NamedTuple):
    """Mode, lower Cholesky factor of the precision at the mode, and how the search went."""

    mode: Float[np.ndarray, " p"]
    factor: Float[np.ndarray, "p p"]
    value: float
    gradient_norm: float
    steps: int
    converged: bool
    largest_logit: float
    precision: Float[np.ndarray, "p p"]


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


class _Metric:
    """The inverse of minus the Hessian somewhere near, corrected by how the gradient has changed since (L-BFGS).

    With thousands of parameters a Hessian costs as much as a dozen passes over the data. One Hessian and these
    corrections reach the mode in the passes that undamped Newton would need Hessians for.
    """

    def __init__(self, precision: np.ndarray) -> None:
        self.factor = factorise(precision)
        self.secants: list[tuple[np.ndarray, np.ndarray, float]] = []
        self.norms: list[float] = []

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """The direction to go: Nocedal and Wright (2006), Numerical Optimization, algorithm 7.4."""
        weights = []
        for step, fall, scale in reversed(self.secants):
            weights.append(scale * (step @ gradient))
            gradient = gradient - weights[-1] * fall
        direction = scipy.linalg.cho_solve((self.factor, True), gradient)
        for (step, fall, scale), weight in zip(self.secants, reversed(weights), strict=True):
            direction = direction + (weight - scale * (fall @ direction)) * step
        return direction

    def learn(self, step: np.ndarray, fall: np.ndarray) -> None:
        """Remember that the gradient fell by `fall` along `step` (positive curvature, but for rounding)."""
        curvature = float(step @ fall)
        if curvature > 0.0:
            self.secants.append((step, fall, 1.0 / curvature))

    def is_worn(self, norm: float) -> bool:
        """Whether the gradient no longer falls fast enough."""
        self.norms.append(norm)
        return len(self.norms) > PATIENCE and norm > 2.0**-PATIENCE * self.norms[-1 - PATIENCE]


def newton(
    form: LinearForm,
    start: np.ndarray | None = None,
    tolerance: float = 1e-8,
    max_steps: int = 100,
    precision: np.ndarray | None = None,
) -> NewtonResult:
    """Maximise a log-concave linear form.

    Steps are damped by halving until the log posterior rises (without damping Newton diverges on separable
    data). A Hessian serves, corrected by L-BFGS, for as long as the gradient keeps halving; the Hessian of the
    result is always the one at the mode.

    Parameters
    ----------
    form : LinearForm
    start : array [p], optional (zeros)
    tolerance : largest absolute entry of the gradient at the mode
    max_steps : passes over the data at most
    precision : array [p, p], optional
        Minus the Hessian of this form at a point not far away, where one is known: saves computing the first.
    """
    if start is None and precision is None:
        start, precision = _rough(form, tolerance, max_steps)
    if precision is None and len(form.prior_precision) >= WIDE and form.prior_precision.min() > 0.0:
        precision = _single(form, start)
    theta = np.zeros(len(form.prior_precision)) if start is None else start
    value, gradient, eta = form.value_and_gradient(theta)
    fresh, steps = precision is None, 0
    precision = form.precision(eta) if precision is None else precision
    metric = _Metric(precision)
    while np.abs(gradient).max() > tolerance and steps < max_steps:
        trial = _line_search(form, theta, value, gradient, metric.solve(gradient))
        steps += 1
        if trial is None and fresh:
            break  # no step improves within rounding: `converged` below tells whether that is the mode
        if trial is not None:
            metric.learn(trial[0] - theta, gradient - trial[2])
            theta, value, gradient, eta = trial
        fresh = trial is None or metric.is_worn(float(np.abs(gradient).max()))
        if fresh:
            precision = form.precision(eta)
            metric = _Metric(precision)
    if not fresh:
        precision = form.precision(eta)
        metric = _Metric(precision)
        if np.abs(gradient).max() <= tolerance:  # one exact Newton step from there: the mode to rounding
            last = theta + metric.solve(gradient)
            polished = form.value_and_gradient(last)
            if np.abs(polished[1]).max() < np.abs(gradient).max():
                theta, (value, gradient, eta) = last, polished
    norm, largest = float(np.abs(gradient).max()), float(np.abs(eta).max())
    return NewtonResult(theta, metric.factor, value, norm, steps, norm <= tolerance, largest, precision)


def _rough(form: LinearForm, tolerance: float, max_steps: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Mode and precision of a sixteenth of very many comparisons: where to start, and with which Hessian."""
    if len(form.outcome) < THIN * ENOUGH * len(form.prior_precision):
        return None, None
    try:
        fit = newton(form.subsample(THIN), None, tolerance, max_steps)
    except SingularPrecisionError:
        return None, None
    return (fit.mode, fit.precision) if fit.converged else (None, None)


def _single(form: LinearForm, start: np.ndarray | None) -> np.ndarray | None:
    """Minus the Hessian at the start to 32-bit accuracy: enough to set out with, at half the price."""
    precision = form.precision(form.predictor(np.zeros(len(form.prior_precision)) if start is None else start), True)
    # Below this the rounding of 32 bit could make it indefinite: then the exact Hessian has to serve.
    floor = 1e-4 * precision.diagonal().max()
    return precision if form.prior_precision.min() > floor else None


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
    return float(fit.value + form.log_prior_normaliser() + 0.5 * len(fit.mode) * np.log(2 * np.pi) - determinant)
