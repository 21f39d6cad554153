"""Minimise a smooth function: one solver, L-BFGS of SciPy, and one answer, a `Solution`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""From a point [p] to the value of the objective there and its gradient [p]."""
DECREMENT_TOLERANCE = 1e-6
"""Newton decrement, in posterior standard deviations, below which a point counts as the minimum."""
LEAST_BARRIER = 1e12
"""Least value that stands in for one that is not finite, so that the line search turns back."""
WINDOW = 10
"""Steps over which `stop_below` measures progress."""

GRADIENT_REASON = "the gradient is within the tolerance"
STALLED_REASON = "no step along the search direction lowers the objective by more than rounding"


class Solution(NamedTuple):
    """Where a search ended, how near to the minimum that is, and why it ended there.

    Attributes
    ----------
    point : array [p]
    value : of the objective at the point; infinite where it, or its gradient, is not finite
    gradient : array [p]
    decrement : the Newton decrement sqrt(g' H^-1 g), the length of the remaining Newton step in standard deviations of
        the Gaussian with precision H: the same in any units of the parameters. H is the Hessian where it is known,
        else its L-BFGS approximation, which starts from (R R')^-1 where `root` R is given; else NaN
    steps : iterations
    converged : whether the point is the minimum to the tolerance asked for
    reason : why the search ended
    """

    point: Float[np.ndarray, " p"]
    value: float
    gradient: Float[np.ndarray, " p"]
    decrement: float
    steps: int
    converged: bool
    reason: str

    @property
    def gradient_norm(self) -> float:
        """Largest absolute entry of the gradient."""
        return float(np.abs(self.gradient).max())


def minimise(
    objective: Objective,
    start: np.ndarray,
    *,
    max_steps: int = 200,
    value_tolerance: float = 1e-14,
    gradient_tolerance: float = 1e-6,
    root: np.ndarray | None = None,
    bounds: np.ndarray | None = None,
    stop_below: float | None = None,
    callback: Callable[[np.ndarray], None] | None = None,
) -> Solution:
    """Minimise by L-BFGS, in the units of `root`; a value that is not finite turns the line search back.

    Parameters
    ----------
    objective : from a point [p] to value and gradient [p]
    start : array [p]
    max_steps : largest number of iterations
    value_tolerance : the search ends when a step lowers the value by less than this share of it
    gradient_tolerance : and when no entry of the gradient, in the units of `root`, exceeds this
    root : array [p, p], optional
        R of the change of variables z = start + R u in which the search runs; with R R' near the inverse Hessian few
        steps are needed. Without one, u = z
    bounds : array [p, 2] of z, optional (without `root` only); a start outside is moved inside
    stop_below : also end when the last ten steps together lowered the value by less than this
    callback : called with each iterate z; an exception that it raises ends the search and reaches the caller

    Returns
    -------
    Solution
        `converged` is False where `max_steps` came first, no step lowered the value, or it is not finite at the end.

    References
    ----------
    Nocedal and Wright (2006), Numerical Optimization, section 7.2; Byrd, Lu, Nocedal, Zhu (1995), SIAM J. Sci. Comput.
    """
    if root is not None and bounds is not None:
        raise ValueError("bounds are bounds of z: give them without root.")
    begin = np.asarray(start, np.float64) if root is None else np.zeros(root.shape[1])
    barrier = LEAST_BARRIER
    values: list[float] = []

    def point(u: np.ndarray) -> np.ndarray:
        return u if root is None else start + root @ u

    def scaled(u: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal barrier
        value, gradient = objective(point(u))
        if not _is_finite(value, gradient):
            return barrier, np.zeros_like(u)
        barrier = max(barrier, 2.0 * value)
        return float(value), gradient if root is None else root.T @ gradient

    def slow() -> bool:
        return stop_below is not None and len(values) > WINDOW and values[-1 - WINDOW] - values[-1] < stop_below

    def watch(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        values.append(float(intermediate_result.fun))
        if callback is not None:
            callback(point(intermediate_result.x))
        if slow():
            raise StopIteration

    result = scipy.optimize.minimize(
        scaled,
        begin if bounds is None else np.clip(begin, *np.asarray(bounds).T),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        callback=watch,
        options={"maxiter": max_steps, "ftol": value_tolerance, "gtol": gradient_tolerance},
    )
    end = point(np.asarray(result.x))
    value, gradient = objective(end)
    finite = _is_finite(value, gradient)
    return Solution(
        end,
        float(value) if finite else float("inf"),
        gradient,
        _decrement(result, root is not None) if finite and bounds is None else float("nan"),
        int(result.nit),
        bool(result.success or slow()) and finite,
        _reason(result, slow()) if finite else "the objective is not finite",
    )


def _is_finite(value: float, gradient: np.ndarray) -> bool:
    return bool(np.isfinite(value) and np.isfinite(gradient).all())


def _decrement(result: scipy.optimize.OptimizeResult, scaled: bool) -> float:
    """By the two-loop recursion from a scaled identity: SciPy's own, from the identity, depends on the units."""
    pairs = list(zip(result.hess_inv.sk, result.hess_inv.yk, strict=True))
    if not pairs:
        return float(np.linalg.norm(result.jac)) if scaled else float("nan")
    left, weights = result.jac, []
    for s, y in reversed(pairs):
        weights.append(s @ left / (s @ y))
        left = left - weights[-1] * y
    step = left * (pairs[-1][0] @ pairs[-1][1]) / (pairs[-1][1] @ pairs[-1][1])
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        step = step + (weight - y @ step / (s @ y)) * s
    return float(np.sqrt(max(result.jac @ step, 0.0)))


def _reason(result: scipy.optimize.OptimizeResult, slow: bool) -> str:
    if slow:
        return f"the last {WINDOW} steps lowered the value by less than stop_below"
    if result.success:
        gradient = "GRADIENT" in str(result.message)
        return GRADIENT_REASON if gradient else "the last step lowered the value by less than the tolerance"
    limit = f"the limit of steps ({result.nit}) or of evaluations ({result.nfev}) was reached"
    return {1: limit, 2: STALLED_REASON}.get(result.status, str(result.message))
