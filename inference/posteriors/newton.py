"""Damped Newton for posteriors with a linear predictor: the mode to 1e-8 and the precision there, in 64 bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.inference.posteriors.minimise import DECREMENT_TOLERANCE, GRADIENT_REASON, STALLED_REASON, Solution

ENOUGH = 1e-4  # part of the gradient at zero that is left of that of a subsample
SUBSAMPLE, ROWS_PER_PARAMETER = 16, 50  # a subsample gives a good start where it has so many rows a parameter
FLOAT32_SIZE = 512  # parameters from which on the first Hessian is worth computing in 32 bit
PATIENCE = 5  # steps over which the gradient has to fall by 2^-5 for the Hessian to be kept
LEAST_STEP = 1e-10  # share of a Newton step below which the line search gives up


@runtime_checkable
class Form(Protocol):
    """A log posterior with a Gaussian prior, theta [p] entering through a linear predictor eta [m] and a few others.

    It is concave, or nearly: where its Hessian is indefinite, steps are taken by the expected one.
    """

    @property
    def prior_precision(self) -> np.ndarray:
        """Prior precision [p] of each parameter."""
        ...

    @property
    def size(self) -> int:
        """Number of observations m."""
        ...

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Log posterior up to a constant, its gradient [p], and eta [m]."""
        ...

    def precision(self, theta: np.ndarray, eta: np.ndarray, single: bool = False) -> np.ndarray:
        """Minus the Hessian [p, p] at theta, with its eta; `single`: to 32-bit accuracy."""
        ...

    def expected_precision(self, theta: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """The Fisher information [p, p] of the observations at theta plus the prior precision."""
        ...

    def subsample(self, step: int) -> Form:
        """Every step-th observation, with `step` times its weight."""
        ...

    def log_prior_normaliser(self) -> float:
        """Log of the prior's normalising constant."""
        ...


class Mode(NamedTuple):
    """Mode of a log-concave posterior and the curvature there.

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


def factorise(precision: np.ndarray) -> Float[np.ndarray, "p p"]:
    """Lower Cholesky factor [p, p]; raises `SingularPrecisionError` where the precision is not positive definite."""
    try:
        factor = np.asarray(scipy.linalg.cholesky(precision, lower=True))
        if factor.diagonal().min() <= 1e-7 * factor.diagonal().max():
            raise np.linalg.LinAlgError
        return factor
    except (np.linalg.LinAlgError, ValueError) as error:
        smallest = float(np.linalg.eigvalsh(precision)[0]) if np.isfinite(precision).all() else np.nan
        raise SingularPrecisionError(
            f"the precision [{len(precision)} parameters] is not positive definite (smallest eigenvalue "
            f"{smallest:.3g}): the data and the prior do not determine every parameter."
        ) from error


class _Iterate(NamedTuple):
    """A point with the log posterior, its gradient and the linear predictor there."""

    theta: np.ndarray
    value: float
    gradient: np.ndarray
    eta: np.ndarray

    @classmethod
    def at(cls, form: Form, theta: np.ndarray) -> _Iterate:
        return cls(theta, *form.value_and_gradient(theta))

    @property
    def gradient_norm(self) -> float:
        return float(np.abs(self.gradient).max())


@dataclass(frozen=True, eq=False)
class _Curvature:
    """The precision at one point, corrected at later ones by how the gradient has changed since (L-BFGS).

    With thousands of parameters a Hessian costs as much as a dozen passes over the data: one Hessian and these
    corrections reach the mode in the passes that undamped Newton would need Hessians for.

    Attributes
    ----------
    precision, factor : minus the Hessian where it was last computed, and its lower Cholesky factor
    expected : whether that is the expected Hessian, the actual one being indefinite
    secants : steps s since, the falls y of the gradient along them, and 1 / s'y
    norms : gradient norms since
    """

    precision: np.ndarray
    factor: np.ndarray
    expected: bool = False
    secants: tuple[tuple[np.ndarray, np.ndarray, float], ...] = ()
    norms: tuple[float, ...] = ()

    @classmethod
    def of(cls, precision: np.ndarray, expected: bool = False) -> _Curvature:
        return cls(precision, factorise(precision), expected)

    @classmethod
    def at(cls, form: Form, point: _Iterate) -> _Curvature:
        """The precision at a point; the expected one where that is not positive definite."""
        try:
            return cls.of(form.precision(point.theta, point.eta))
        except SingularPrecisionError:
            return cls.of(form.expected_precision(point.theta, point.eta), expected=True)

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """The Newton step, by the two-loop recursion: Nocedal and Wright (2006), algorithm 7.4."""
        weights = []
        for s, y, rho in reversed(self.secants):
            weights.append(rho * (s @ gradient))
            gradient = gradient - weights[-1] * y
        step = np.asarray(scipy.linalg.cho_solve((self.factor, True), gradient))
        for (s, y, rho), weight in zip(self.secants, reversed(weights), strict=True):
            step = step + (weight - rho * (y @ step)) * s
        return step

    def after(self, old: _Iterate, new: _Iterate) -> _Curvature:
        """Corrected by the step from one iterate to the next, where the curvature along it is positive."""
        s, y = new.theta - old.theta, old.gradient - new.gradient
        curvature = float(s @ y)
        secants = (*self.secants, (s, y, 1.0 / curvature)) if curvature > 0.0 else self.secants
        return replace(self, secants=secants, norms=(*self.norms, new.gradient_norm))

    @property
    def needs_refresh(self) -> bool:
        """Whether the gradient no longer falls fast enough."""
        return len(self.norms) > PATIENCE and self.norms[-1] > 2.0**-PATIENCE * self.norms[-1 - PATIENCE]


def newton(
    form: Form,
    start: np.ndarray | None = None,
    *,
    tolerance: float = 1e-8,
    max_steps: int = 100,
    precision: np.ndarray | None = None,
) -> Mode:
    """Maximise a log posterior that is concave, or nearly.

    Steps are halved until the log posterior rises (undamped Newton diverges on separable data). A Hessian is kept,
    corrected by L-BFGS, for as long as the gradient keeps halving; where it is indefinite the expected one takes its
    place. The precision of the result is always that at the mode.

    Parameters
    ----------
    form : Form
    start : array [p], optional (zeros)
    tolerance : largest absolute entry of the gradient at the mode
    max_steps : largest number of passes over the data
    precision : array [p, p], optional
        Minus the Hessian of this form at a point near `start`, where one is known: saves computing the first.
    """
    search = _search(form, start, tolerance, max_steps, precision)
    current, curvature = search.current, search.curvature
    if not search.exact or curvature.expected:
        curvature = _Curvature.of(form.precision(current.theta, current.eta))
        if current.gradient_norm <= tolerance:  # one exact Newton step: the mode to rounding
            polished = _Iterate.at(form, current.theta + curvature.solve(current.gradient))
            current = polished if polished.gradient_norm < current.gradient_norm else current
    solution = _solution(current, curvature.factor, tolerance, search.steps, search.stalled)
    return Mode(solution, curvature.precision, curvature.factor, float(np.abs(current.eta).max()))


def mode_alone(form: Form, *, tolerance: float = 1e-8, max_steps: int = 100) -> Solution:
    """The mode without the precision there, as by `newton`: the first Hessian, of a subsample where that will do.

    Parameters
    ----------
    form, tolerance, max_steps : as for `newton`

    Returns
    -------
    Solution
        Its decrement is that of the Hessian that was computed last.
    """
    search = _search(form, None, tolerance, max_steps, None)
    return _solution(search.current, search.curvature.factor, tolerance, search.steps, search.stalled)


class NearMode(NamedTuple):
    """A point near the mode of a log-concave posterior, or on the way to it.

    Attributes
    ----------
    point, gradient : where the search ended, and the gradient of the log posterior there
    precision : minus the Hessian there [p, p], to 32-bit accuracy where that is quicker and safe
    """

    point: Float[np.ndarray, " p"]
    gradient: Float[np.ndarray, " p"]
    precision: Float[np.ndarray, "p p"]


def near_point(form: Form, point: np.ndarray) -> NearMode:
    """Gradient and precision at a point, to 32-bit accuracy where that is quicker and safe."""
    current = _Iterate.at(form, point)
    return NearMode(point, current.gradient, _quick_precision(form, current))


def near_mode(
    form: Form, start: np.ndarray, precision: np.ndarray, *, tolerance: float, max_steps: int = 100
) -> NearMode:
    """The mode to a looser tolerance than `newton`'s, with the precision there as of `near_point`.

    Parameters
    ----------
    form, start, tolerance, max_steps : as for `newton`
    precision : array [p, p], minus the Hessian of this form, or nearly so, at a point near `start`
    """
    return _near(form, _search(form, start, tolerance, max_steps, precision))


class _Search(NamedTuple):
    """How far a search has come; `exact`: whether the curvature is the one at the current iterate."""

    current: _Iterate
    curvature: _Curvature
    exact: bool
    steps: int
    stalled: bool


def _search(
    form: Form, start: np.ndarray | None, tolerance: float, max_steps: int, precision: np.ndarray | None
) -> _Search:
    """Steps towards the mode until the gradient is within the tolerance."""
    if start is None and precision is None:
        start, precision = _warm_start(form, tolerance, max_steps)
    current = _Iterate.at(form, np.zeros(len(form.prior_precision)) if start is None else start)
    if precision is None:
        precision = _float32_precision(form, current)
    exact = precision is None
    curvature = _Curvature.at(form, current) if precision is None else _Curvature.of(precision)
    steps, stalled = 0, False
    while current.gradient_norm > tolerance and steps < max_steps:
        following = _line_search(form, current, curvature.solve(current.gradient))
        steps += 1
        if following is None and exact:
            stalled = True  # the decrement tells whether this is the mode
            break
        if following is not None:
            curvature, current = curvature.after(current, following), following
        exact = following is None or curvature.needs_refresh
        if exact:
            curvature = _Curvature.at(form, current)
    return _Search(current, curvature, exact, steps, stalled)


def _solution(end: _Iterate, factor: np.ndarray, tolerance: float, steps: int, stalled: bool) -> Solution:
    decrement = float(np.linalg.norm(scipy.linalg.solve_triangular(factor, end.gradient, lower=True)))
    small = end.gradient_norm <= tolerance
    limit = f"the limit of steps ({steps}) was reached"
    reason = GRADIENT_REASON if small else STALLED_REASON if stalled else limit
    converged = small or decrement <= DECREMENT_TOLERANCE
    return Solution(end.theta, -end.value, -end.gradient, decrement, steps, converged, reason)


def _warm_start(form: Form, tolerance: float, max_steps: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Mode and precision of a subsample, roughly, where there are very many observations: a start, and its Hessian.

    The subsample may start from one of its own. Chance leaves a gradient of the whole at its mode beside which what is
    left of its own is small.
    """
    if form.size < SUBSAMPLE * ROWS_PER_PARAMETER * len(form.prior_precision):
        return None, None
    part = form.subsample(SUBSAMPLE)
    enough = max(tolerance, ENOUGH * _Iterate.at(part, np.zeros(len(form.prior_precision))).gradient_norm)
    try:
        search = _search(part, None, enough, max_steps, None)
    except SingularPrecisionError:
        return None, None
    if search.current.gradient_norm > enough:
        return None, None
    near = _near(part, search)
    return near.point, near.precision


def _float32_precision(form: Form, start: _Iterate) -> np.ndarray | None:
    """Minus the Hessian at the start to 32-bit accuracy, where it is large: half the cost, and enough to set out."""
    if len(start.theta) < FLOAT32_SIZE or form.prior_precision.min() <= 0.0:
        return None
    precision = form.precision(start.theta, start.eta, True)
    # Below this floor rounding in 32 bit could make it indefinite: then the exact Hessian is needed.
    floor = 1e-4 * precision.diagonal().max()
    return precision if form.prior_precision.min() > floor else None


def _quick_precision(form: Form, current: _Iterate) -> np.ndarray:
    """Minus the Hessian at an iterate, to 32-bit accuracy where that is quicker and safe."""
    precision = _float32_precision(form, current)
    return form.precision(current.theta, current.eta) if precision is None else precision


def _near(form: Form, search: _Search) -> NearMode:
    """The end of a search with the precision there."""
    current, known = search.current, search.exact and not search.curvature.expected
    precision = search.curvature.precision if known else _quick_precision(form, current)
    return NearMode(current.theta, current.gradient, precision)


def _line_search(form: Form, current: _Iterate, direction: np.ndarray) -> _Iterate | None:
    """The first of the halved steps that raises the log posterior enough; None where none does."""
    slope = float(current.gradient @ direction)
    rounding = 1e-14 * abs(current.value) + 1e-300
    size = 1.0
    while size > LEAST_STEP:
        trial = _Iterate.at(form, current.theta + size * direction)
        # Near the mode values differ by less than rounding: there a smaller gradient decides.
        level = trial.value >= current.value - rounding and trial.gradient_norm < current.gradient_norm
        if trial.value >= current.value + 1e-4 * size * slope or level:
            return trial
        size *= 0.5
    return None


def log_evidence(form: Form, mode: Mode) -> float:
    """Log Z by Laplace: log joint density + p/2 log 2 pi - log|L|, L L' the precision at the mode."""
    determinant = float(np.log(mode.factor.diagonal()).sum())
    size = len(mode.point)
    return float(-mode.solution.value + form.log_prior_normaliser() + 0.5 * size * np.log(2 * np.pi) - determinant)
