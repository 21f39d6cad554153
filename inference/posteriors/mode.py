"""The mode of a posterior, the curvature there and the evidence that follows: Laplace's approximation of any model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import GaussianPosterior, SiteGaussian, UnconstrainedGaussian
from tercet.inference.posteriors.minimise import (
    DECREMENT_TOLERANCE,
    GRADIENT_REASON,
    STALLED_REASON,
    Solution,
    minimise,
)
from tercet.inference.posteriors.options import LaplaceOptions
from tercet.inference.posteriors.posterior import Diagnostics
from tercet.inference.posteriors.problem import Potential, Problem
from tercet.inference.posteriors.sites import Model
from tercet.models._inputs import KeyLike

NEWTON_STEPS = 20
"""Largest number of Newton steps from where L-BFGS ended to the mode."""
SMALL_GRADIENT = 1e-6
"""Largest absolute entry of the gradient at which the end of a search counts as a mode."""


@runtime_checkable
class SitePotential(Potential, Protocol):
    """A potential of real sites and of the logarithms of positive ones, known in closed form.

    Attributes
    ----------
    start : array [p], where a search starts
    smaller : a potential of the same sites whose minimum is near and costs little to find; None without one
    layout, positive : as of a `SiteGaussian`
    """

    @property
    def start(self) -> np.ndarray: ...

    @property
    def smaller(self) -> SitePotential | None: ...

    @property
    def layout(self) -> tuple[tuple[str, int], ...]: ...

    @property
    def positive(self) -> tuple[str, ...]: ...


@runtime_checkable
class HasPotential(Protocol):
    """A model that knows its own potential: nothing is traced or compiled."""

    def potential(self, *args: Any, **kwargs: Any) -> SitePotential | None:
        """The potential with these data; None where there is no closed form."""
        ...


def gaussian_at_mode(
    model: Model,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    *,
    key: KeyLike,
    options: LaplaceOptions,
    known: Diagnostics | None = None,
    start: np.ndarray | None = None,
) -> GaussianPosterior:
    """Laplace's approximation of any NumPyro model: L-BFGS, Newton, the Hessian at the mode.

    Parameters
    ----------
    model, args, kwargs : NumPyro model and its data
    key : int seed or JAX key, for the start
    options : LaplaceOptions, of which tolerance, max_steps and curvature are read here
    known : further entries of the diagnostics
    start : array [p], where the search starts; by default at prior medians
    """
    closed = model.potential(*args, **kwargs) if isinstance(model, HasPotential) and start is None else None
    problem: Potential
    if closed is not None:
        problem, solution = closed, _closed_mode(closed, options)
    else:
        problem = general = Problem(model, args, kwargs, key, x64=True)
        solution = find_mode(problem, general.start if start is None else start, options)
    factor = curvature_factor(problem, solution.point, options)
    if not solution.converged:
        warnings.warn(
            f"the search for the mode stopped after {solution.steps} steps at a gradient of "
            f"{solution.gradient_norm:.1e}; the Gaussian is not centred on a mode. Try another key, rescale the data, "
            "or raise max_steps.",
            stacklevel=3,
        )
    diagnostics = {
        "converged": solution.converged,
        "gradient_norm": solution.gradient_norm,
        "steps": solution.steps,
        "log_evidence": gaussian_evidence(solution.value, factor),
        "condition": condition_number(factor @ factor.T, factor),
        **(known or {}),
    }
    context = Context(model, args, kwargs, x64=True)
    if closed is None:
        return UnconstrainedGaussian("laplace", context, diagnostics, solution.point, factor)
    return SiteGaussian("laplace", context, diagnostics, solution.point, factor, closed.layout, closed.positive)


def _closed_mode(potential: SitePotential, options: LaplaceOptions) -> Solution:
    """Mode of a potential in closed form, from that of a smaller one where there is one."""
    start, root = potential.start, None
    if potential.smaller is not None:
        start, root = _near(potential.smaller, options)
    return find_mode(potential, start, options, root)


def _near(potential: SitePotential, options: LaplaceOptions) -> tuple[np.ndarray, np.ndarray | None]:
    """A start and, where the curvature there is positive, a root of the covariance."""
    solution = minimise(potential.value_and_gradient, potential.start, max_steps=options.max_steps)
    if not np.isfinite(solution.value):
        return potential.start, None
    spectrum, basis = np.linalg.eigh(potential.hessian(solution.point))
    size = np.maximum(np.abs(spectrum), 1e-6 * max(np.abs(spectrum).max(), 1e-300))
    return solution.point, np.asarray(basis / np.sqrt(size))


def find_mode(
    problem: Potential, start: np.ndarray, options: LaplaceOptions, root: np.ndarray | None = None
) -> Solution:
    """Mode of the unconstrained posterior, searched from `start` [p] by L-BFGS and then damped Newton steps.

    The decrement of the solution is that of the last Newton step, where there was one. A root [p, p] of the covariance
    of a posterior near this one makes the search shorter.
    """
    solution = minimise(problem.value_and_gradient, start, max_steps=options.max_steps, root=root)
    if not np.isfinite(solution.value):
        raise ValueError("the log posterior is not finite where the search ended; check data, priors and scale.")
    for _ in range(NEWTON_STEPS):
        if solution.gradient_norm <= options.tolerance:
            break
        solution, moved = _newton_step(problem, solution)
        if not moved:
            break
    small = solution.gradient_norm <= max(options.tolerance, SMALL_GRADIENT)
    converged = small or solution.decrement <= DECREMENT_TOLERANCE
    return solution._replace(converged=converged, reason=GRADIENT_REASON if small else solution.reason)


def _newton_step(problem: Potential, solution: Solution) -> tuple[Solution, bool]:
    """One Newton step, halved until the potential falls, and whether a step was taken: without one the point stays.

    Eigenvalues of the Hessian count by their absolute values, so that the step descends from a saddle point too.
    """
    z, value, gradient = solution.point, solution.value, solution.gradient
    spectrum, basis = np.linalg.eigh(problem.hessian(z))
    size = np.maximum(np.abs(spectrum), 1e-10 * max(np.abs(spectrum).max(), 1e-300))
    projected = basis.T @ gradient
    direction = basis @ (projected / size)
    decrement = float(np.sqrt((np.square(projected) / size).sum()))
    for share in 0.5 ** np.arange(20):
        new_value, new_gradient = problem.value_and_gradient(z - share * direction)
        rounding = 1e-13 * abs(value)
        level = new_value <= value + rounding and np.abs(new_gradient).max() < solution.gradient_norm
        if new_value < value - rounding or level:
            steps, reason = solution.steps + 1, "the limit of Newton steps was reached"
            return Solution(z - share * direction, new_value, new_gradient, decrement, steps, False, reason), True
    return solution._replace(decrement=decrement, reason=STALLED_REASON), False


def curvature_factor(problem: Potential, mode: np.ndarray, options: LaplaceOptions) -> Float[np.ndarray, "p p"]:
    """Lower Cholesky factor [p, p] of the precision at the mode; raises where that is not positive definite."""
    if options.curvature == "gauss-newton":
        precision = problem.gauss_newton(mode)
        advice = "the prior itself is not log-concave at the mode: use nuts(...) or svi(...) instead"
    else:
        precision = problem.hessian(mode)
        advice = 'try LaplaceOptions(curvature="gauss-newton"), a proper prior for every site, or nuts(...)'
    spectrum = np.linalg.eigvalsh(precision) if np.isfinite(precision).all() else np.full(len(mode), np.nan)
    if not np.isfinite(spectrum).all() or spectrum[0] <= 1e-10 * spectrum[-1]:
        raise np.linalg.LinAlgError(
            f"the Hessian [{len(mode)} parameters] is not positive definite at the mode (eigenvalues "
            f"{spectrum[0]:.3g} to {spectrum[-1]:.3g}): there is no Gaussian there; {advice}."
        )
    return np.asarray(scipy.linalg.cholesky(precision, lower=True))


def gaussian_evidence(potential: float, factor: np.ndarray) -> float:
    """Log Z by Laplace: minus the potential at the mode + p/2 log 2 pi - log|L|, L L' the precision there."""
    return float(-potential + 0.5 * len(factor) * np.log(2 * np.pi) - np.log(factor.diagonal()).sum())


def condition_number(precision: np.ndarray, factor: np.ndarray) -> float:
    """Condition number in the 1-norm, estimated from the Cholesky factor in O(p^2) (LAPACK's pocon)."""
    reciprocal, _ = scipy.linalg.lapack.dpocon(factor, np.abs(precision).sum(axis=0).max(), uplo="L")
    return 1.0 / float(reciprocal) if reciprocal else float("inf")
