"""Damped Newton for log-concave forms: the mode to a gradient of 1e-8 and the precision there, in 64 bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.inference.posteriors.minimise import CLOSE, Solution

SUBSAMPLE, ROWS_A_PARAMETER = 16, 200  # one row in SUBSAMPLE gives a good start where so many rows a parameter are left
WIDE = 512  # parameters from which a Hessian costs enough to take the first in 32 bit
PATIENCE = 5  # steps in which the gradient must fall thirtyfold, or a new Hessian is worth its price


@runtime_checkable
class ConcaveForm(Protocol):
    """A log-concave log posterior, Gaussian in its prior, that this Newton maximises."""

    prior_precision: np.ndarray

    @property
    def size(self) -> int:
        """Number of observations m."""
        ...

    def predictor(self, theta: np.ndarray) -> np.ndarray:
        """Linear predictor eta [m] at theta [p]."""
        ...

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Log posterior up to a constant, its gradient [p], and eta [m]."""
        ...

    def precision(self, eta: np.ndarray, single: bool = False) -> np.ndarray:
        """Minus the Hessian [p, p] at eta; `single`: to 32-bit accuracy."""
        ...

    def subsample(self, step: int) -> ConcaveForm:
        """Every step-th observation, counted `step` times."""
        ...

    def log_prior_normaliser(self) -> float:
        """Log of the prior's normalising constant."""
        ...


class Mode(NamedTuple):
    """Mode of a log-concave form and the curvature there.

    Attributes
    ----------
    solution : where the search ended; its value is minus the log posterior
    precision : minus the Hessian at the mode [p, p]
    factor : its lower Cholesky factor
    largest_predictor : largest |eta| at the mode
    """

    solution: Solution
    precision: Float[np.ndarray, "p p"]
    factor: Float[np.ndarray, "p p"]
    largest_predictor: float

    @property
    def point(self) -> Float[np.ndarray, " p"]:
        """The mode."""
        return self.solution.point


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


@dataclass(frozen=True, eq=False)
class _Metric:
    """The inverse of minus the Hessian at a nearby point, corrected by how the gradient has changed since (L-BFGS).

    With thousands of parameters a Hessian costs as much as a dozen passes over the data. One Hessian and these
    corrections reach the mode in the passes that undamped Newton would need Hessians for.
    """

    factor: np.ndarray
    secants: tuple[tuple[np.ndarray, np.ndarray, float], ...] = ()
    norms: tuple[float, ...] = ()

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

    def updated(self, step: np.ndarray, fall: np.ndarray) -> _Metric:
        """With the pair of a step and the fall of the gradient along it, where the curvature is positive."""
        curvature = float(step @ fall)
        if curvature <= 0.0:
            return self
        return _Metric(self.factor, (*self.secants, (step, fall, 1.0 / curvature)), self.norms)

    def after(self, norm: float) -> _Metric:
        """With the gradient norm of one more step."""
        return _Metric(self.factor, self.secants, (*self.norms, norm))

    @property
    def needs_refresh(self) -> bool:
        """Whether the gradient no longer falls fast enough."""
        return len(self.norms) > PATIENCE and self.norms[-1] > 2.0**-PATIENCE * self.norms[-1 - PATIENCE]


def newton(
    form: ConcaveForm,
    start: np.ndarray | None = None,
    *,
    tolerance: float = 1e-8,
    max_steps: int = 100,
    precision: np.ndarray | None = None,
) -> Mode:
    """Maximise a log-concave form.

    Steps are damped by halving until the log posterior rises (without damping Newton diverges on separable
    data). A Hessian serves, corrected by L-BFGS, for as long as the gradient keeps halving; the Hessian of the
    result is always the one at the mode.

    Parameters
    ----------
    form : ConcaveForm
    start : array [p], optional (zeros)
    tolerance : largest absolute entry of the gradient at the mode
    max_steps : passes over the data at most
    precision : array [p, p], optional
        Minus the Hessian of this form at a point not far away, where one is known: saves computing the first.
    """
    if start is None and precision is None:
        start, precision = _warm_start(form, tolerance, max_steps)
    if precision is None and len(form.prior_precision) >= WIDE and form.prior_precision.min() > 0.0:
        precision = _float32_precision(form, start)
    theta = np.zeros(len(form.prior_precision)) if start is None else start
    value, gradient, eta = form.value_and_gradient(theta)
    fresh, steps, stuck = precision is None, 0, False
    precision = form.precision(eta) if precision is None else precision
    metric = _Metric(factorise(precision))
    while np.abs(gradient).max() > tolerance and steps < max_steps:
        trial = _line_search(form, theta, value, gradient, metric.solve(gradient))
        steps += 1
        if trial is None and fresh:
            stuck = True  # no step improves within rounding: the decrement tells whether that is the mode
            break
        if trial is not None:
            metric = metric.updated(trial[0] - theta, gradient - trial[2])
            theta, value, gradient, eta = trial
            metric = metric.after(float(np.abs(gradient).max()))
        fresh = trial is None or metric.needs_refresh
        if fresh:
            precision = form.precision(eta)
            metric = _Metric(factorise(precision))
    if not fresh:
        precision = form.precision(eta)
        metric = _Metric(factorise(precision))
        if np.abs(gradient).max() <= tolerance:  # one exact Newton step from there: the mode to rounding
            last = theta + metric.solve(gradient)
            polished = form.value_and_gradient(last)
            if np.abs(polished[1]).max() < np.abs(gradient).max():
                theta, (value, gradient, eta) = last, polished
    white = scipy.linalg.solve_triangular(metric.factor, gradient, lower=True)
    decrement, small = float(np.linalg.norm(white)), bool(np.abs(gradient).max() <= tolerance)
    close = decrement <= CLOSE
    reason = (
        "the gradient is within the tolerance"
        if small
        else "no step raises the log posterior by more than rounding"
        if stuck
        else f"the limit of {max_steps} steps"
    )
    solution = Solution(theta, -value, -gradient, decrement, steps, small or close, reason)
    return Mode(solution, precision, metric.factor, float(np.abs(eta).max()))


def _warm_start(form: ConcaveForm, tolerance: float, max_steps: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Mode and precision of a sixteenth of very many comparisons: where to start, and with which Hessian."""
    if form.size < SUBSAMPLE * ROWS_A_PARAMETER * len(form.prior_precision):
        return None, None
    try:
        fit = newton(form.subsample(SUBSAMPLE), None, tolerance=tolerance, max_steps=max_steps)
    except SingularPrecisionError:
        return None, None
    return (fit.point, fit.precision) if fit.solution.converged else (None, None)


def _float32_precision(form: ConcaveForm, start: np.ndarray | None) -> np.ndarray | None:
    """Minus the Hessian at the start to 32-bit accuracy: enough to set out with, at half the price."""
    precision = form.precision(form.predictor(np.zeros(len(form.prior_precision)) if start is None else start), True)
    # Below this the rounding of 32 bit could make it indefinite: then the exact Hessian has to serve.
    floor = 1e-4 * precision.diagonal().max()
    return precision if form.prior_precision.min() > floor else None


def _line_search(
    form: ConcaveForm, theta: np.ndarray, value: float, gradient: np.ndarray, direction: np.ndarray
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


def log_evidence(form: ConcaveForm, mode: Mode) -> float:
    """Log Z by Laplace: log joint density + p/2 log 2 pi - log|L|, L L' the precision at the mode."""
    determinant = float(np.log(mode.factor.diagonal()).sum())
    size = len(mode.point)
    return float(-mode.solution.value + form.log_prior_normaliser() + 0.5 * size * np.log(2 * np.pi) - determinant)
