"""The scale of the prior, learned: the `prior_sd` that maximises the Laplace evidence of a comparison model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
import scipy.stats

from tercet.inference.newton import log_evidence, newton
from tercet.inference.problem import Problem
from tercet.models.preferences import ComparisonModel
from tercet.models.reward_heads import HYPERPRIOR_SD

if TYPE_CHECKING:
    from tercet.inference.laplace_approximation import LaplaceOptions


def learn_prior_sd(
    model: ComparisonModel, *args: Any, key: Any = 0, options: LaplaceOptions, **kwargs: Any
) -> dict[str, Any]:
    """Find the prior sd of the reward difference of two random items with the largest Laplace evidence.

    log Z(s) = log p(y | theta_s) + log p(theta_s | s) + p/2 log 2 pi - 1/2 log det H_s, theta_s the mode under s,
    maximised over log s by Brent's method, each fit starting from the last.

    Returns
    -------
    dict
        `prior_sd`, `prior_sd_at_bound` (the data do not determine the scale), `start` (a mode nearby).

    References
    ----------
    MacKay (1992), Neural Computation 4, 415-447.
    """
    at = (_linear if model.has_linear_form else _general)(model, args, kwargs, key, options)
    low, high = (math.log(bound) for bound in options.prior_sd_range)
    found = scipy.optimize.minimize_scalar(
        lambda log_sd: -at(log_sd)[0], bounds=(low, high), method="bounded", options={"xatol": 5e-3}
    )
    at_bound = bool(min(found.x - low, high - found.x) < 0.02)
    if at_bound and found.x > 0.0:
        warnings.warn(
            f"the evidence keeps rising up to prior_sd = {options.prior_sd_range[1]:g}: the comparisons look "
            "separable. Give prior_sd a value you believe, or widen LaplaceOptions(prior_sd_range=...).",
            stacklevel=4,
        )
    return {"prior_sd": float(np.exp(found.x)), "prior_sd_at_bound": at_bound, "start": at(found.x)[1]}


Evaluator = Callable[[float], tuple[float, np.ndarray | None]]


def _linear(
    model: ComparisonModel, args: tuple[Any, ...], kwargs: dict[str, Any], key: Any, options: LaplaceOptions
) -> Evaluator:
    form = model.with_prior_sd(1.0).linear_form(*args, **kwargs)
    head = form.layout[0][1]
    unit_precision = form.prior_precision.copy()
    last: dict[str, np.ndarray] = {}

    def at(log_sd: float) -> tuple[float, np.ndarray]:
        precision = unit_precision.copy()
        precision[:head] *= math.exp(-2.0 * log_sd)
        scaled = form.with_prior_precision(precision)
        fit = newton(scaled, last.get("mode"), options.tolerance, options.max_steps)
        last["mode"] = fit.mode
        return log_evidence(scaled, fit), fit.mode

    return at


def _general(
    model: ComparisonModel, args: tuple[Any, ...], kwargs: dict[str, Any], key: Any, options: LaplaceOptions
) -> Evaluator:
    from tercet.inference.laplace_approximation import curvature_factor, find_mode, gaussian_evidence

    fixed = AtScale(Problem(model.with_prior_sd(None), args, kwargs, key, x64=True))
    last: dict[str, np.ndarray] = {}

    def at(log_sd: float) -> tuple[float, None]:
        fixed.log_sd = log_sd
        mode, _, _ = find_mode(fixed, options, last.get("mode"))
        last["mode"] = mode
        evidence = gaussian_evidence(fixed, mode, curvature_factor(fixed, mode, options))
        # The model's own hyperprior of the scale, and its Jacobian, are no part of the evidence.
        hyperprior = scipy.stats.halfnorm.logpdf(math.exp(log_sd), scale=HYPERPRIOR_SD) + log_sd
        return evidence - float(hyperprior), None

    return at


class AtScale:
    """A problem with a learned scale, seen as a problem in its other parameters at `log_sd`: compiled once."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.log_sd = problem, 0.0
        with problem.precision():
            place = int(problem.unravel(np.arange(float(problem.size)))["prior_sd"])
        self.kept = np.delete(np.arange(problem.size), place)
        self.place, self.precision = place, problem.precision
        self.start = problem.start[self.kept]

    def _whole(self, z: np.ndarray) -> np.ndarray:
        return np.insert(z, self.place, self.log_sd)

    def potential(self, z: np.ndarray) -> Any:
        """Potential at z [p - 1]."""
        return self.problem.potential(self._whole(z))

    def value_and_gradient(self, z: np.ndarray) -> tuple[Any, Any]:
        """Potential and its gradient at z [p - 1]."""
        value, gradient = self.problem.value_and_gradient(self._whole(z))
        return value, np.asarray(gradient)[self.kept]

    def hessian(self, z: np.ndarray) -> np.ndarray:
        """Hessian of the potential at z [p - 1, p - 1]."""
        return self.problem.hessian(self._whole(z))[np.ix_(self.kept, self.kept)]
