"""The mode of a posterior, the curvature there and the evidence that follows: Laplace's approximation of any model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.linalg

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import UnconstrainedGaussian
from tercet.inference.posteriors.minimise import CLOSE, Solution, minimise
from tercet.inference.posteriors.options import LaplaceOptions
from tercet.inference.posteriors.problem import Potential, Problem
from tercet.inference.posteriors.sites import Model

NEWTON_STEPS = 20
"""Newton steps at most from where L-BFGS ended to the mode."""


def gaussian_at_mode(
    model: Model,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    key: Any,
    options: LaplaceOptions,
    known: Mapping[str, Any],
) -> UnconstrainedGaussian:
    """Laplace's approximation of any NumPyro model: L-BFGS, Newton, the Hessian at the mode.

    Parameters
    ----------
    model, args, kwargs : NumPyro model and its data
    key : int seed or JAX key, for the start
    options : of which tolerance, max_steps and curvature are read here
    known : further entries of the diagnostics
    """
    problem = Problem(model, args, kwargs, key, x64=True)
    solution = find_mode(problem, problem.start, options)
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
        **known,
    }
    return UnconstrainedGaussian("laplace", Context(model, args, kwargs, x64=True), diagnostics, solution.point, factor)


def find_mode(problem: Potential, start: np.ndarray, options: LaplaceOptions) -> Solution:
    """Mode of the unconstrained posterior, searched from `start` [p].

    L-BFGS brings the search near, Newton steps (damped, in the positive part of the spectrum) to the tolerance.
    """
    solution = minimise(problem.value_and_gradient, start, max_steps=options.max_steps)
    if not np.isfinite(solution.value):
        raise ValueError("the log posterior is not finite where the search ended; check data, priors and scale.")
    z, value, gradient, steps, decrement = (*solution[:3], solution.steps, solution.decrement)
    for _ in range(NEWTON_STEPS):
        if np.abs(gradient).max() <= options.tolerance:
            break
        spectrum, basis = np.linalg.eigh(problem.hessian(z))
        floor = 1e-10 * max(abs(spectrum).max(), 1e-300)
        across = basis.T @ gradient
        size = np.maximum(np.abs(spectrum), floor)
        direction, decrement = basis @ (across / size), float(np.sqrt((np.square(across) / size).sum()))
        for share in 0.5 ** np.arange(20):
            new_value, new_gradient = problem.value_and_gradient(z - share * direction)
            level = new_value <= value + 1e-13 * abs(value) and np.abs(new_gradient).max() < np.abs(gradient).max()
            if new_value < value - 1e-13 * abs(value) or level:
                break
        else:
            break
        z, value, gradient, steps = z - share * direction, new_value, new_gradient, steps + 1
    small = bool(np.abs(gradient).max() <= max(options.tolerance, 1e-6))
    reason = "the gradient is within the tolerance" if small else solution.reason
    return Solution(z, value, gradient, decrement, steps, small or decrement <= CLOSE, reason)


def curvature_factor(problem: Potential, mode: np.ndarray, options: LaplaceOptions) -> np.ndarray:
    """Lower Cholesky factor [p, p] of the precision at the mode."""
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
    return scipy.linalg.cholesky(precision, lower=True)


def gaussian_evidence(potential: float, factor: np.ndarray) -> float:
    """Log Z by Laplace: minus the potential at the mode + p/2 log 2 pi - log|L|, L L' the precision there."""
    return float(-potential + 0.5 * len(factor) * np.log(2 * np.pi) - np.log(factor.diagonal()).sum())


def condition_number(precision: np.ndarray, factor: np.ndarray) -> float:
    """Condition number in the 1-norm, estimated from the Cholesky factor in O(p^2) (LAPACK's pocon)."""
    reciprocal, _ = scipy.linalg.lapack.dpocon(factor, np.abs(precision).sum(axis=0).max(), uplo="L")
    return 1.0 / float(reciprocal) if reciprocal else float("inf")
