"""Minimise a smooth function: one solver, L-BFGS of SciPy, and one answer, a `Solution`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""From a point [p] to the value of the objective there and its gradient [p]."""
CLOSE = 1e-6
"""Length of the remaining Newton step, in standard deviations, below which a point counts as the minimum."""
WALL = 1e12
"""What the search is told where the objective is not finite: a value from which it turns back."""


class Solution(NamedTuple):
    """Where a search ended, how near to the minimum that is, and why it ended there.

    Attributes
    ----------
    point : array [p]
    value : of the objective at the point; infinite where it, or its gradient, is not finite
    gradient : array [p]
    decrement : sqrt(g' H^-1 g), the length of the Newton step that is left in standard deviations of the Gaussian with
        precision H: the same in any units of the parameters. H is the Hessian where it is known, or its L-BFGS
        approximation; NaN where there is neither
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
    max_steps : iterations at most
    value_tolerance : the search ends when a step lowers the value by less than this share of it
    gradient_tolerance : and when no entry of the gradient, in the units of `root`, exceeds this
    root : array [p, p], optional
        R of the change of variables z = start + R u in which the search runs; R R' near the inverse Hessian makes it
        easy. Without one, u = z
    bounds : array [p, 2] of z, optional (without `root` only); a start outside is moved inside
    stop_below : also end when the last ten steps together lowered the value by less than this
    callback : called with each point z that a step arrives at; an exception of it ends the search and is raised

    Returns
    -------
    Solution
        `converged` is False where `max_steps` came first, or no step lowered the value.

    References
    ----------
    Nocedal and Wright (2006), Numerical Optimization, section 7.2; Byrd, Lu, Nocedal, Zhu (1995), SIAM J. Sci. Comput.
    """
    if root is not None and bounds is not None:
        raise ValueError("bounds are bounds of z: give them without root.")
    scale = None if root is None else np.asarray(root)
    begin = np.asarray(start, np.float64) if scale is None else np.zeros(scale.shape[1])

    def point(u: np.ndarray) -> np.ndarray:
        return u if scale is None else start + scale @ u

    def scaled(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(point(u))
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return WALL, np.zeros_like(u)
        return float(value), gradient if scale is None else scale.T @ gradient

    values: list[float] = []
    slow = False

    def watch(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        nonlocal slow
        values.append(float(intermediate_result.fun))
        if callback is not None:
            callback(point(intermediate_result.x))
        slow = stop_below is not None and len(values) > 10 and values[-11] - values[-1] < stop_below
        if slow:
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
    finite = bool(np.isfinite(value) and np.isfinite(gradient).all())
    known = finite and bounds is None
    decrement = float(np.sqrt(max(result.jac @ result.hess_inv.dot(result.jac), 0.0))) if known else float("nan")
    return Solution(
        end,
        float(value) if finite else float("inf"),
        gradient,
        decrement,
        int(result.nit),
        bool(result.success or slow) and finite,
        "the last ten steps lowered the value by less than was asked for" if slow else str(result.message),
    )
