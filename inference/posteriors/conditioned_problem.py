"""A problem whose prior scale is held at a value: what the evidence of that value needs, compiled once."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from tercet.inference.posteriors.problem import Problem


class AtScale:
    """A problem with a learned scale, seen as a problem in its other parameters at `log_sd`: compiled once."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.log_sd = problem, 0.0
        with problem.precision():
            place = int(problem.unravel(jnp.arange(float(problem.size)))["prior_sd"])
        self.kept = np.delete(np.arange(problem.size), place)
        self.place, self.precision = place, problem.precision
        self.start = problem.start[self.kept]

    def whole(self, z: np.ndarray) -> np.ndarray:
        """The problem's own vector [p] for z [p - 1]."""
        return np.insert(z, self.place, self.log_sd)

    def potential(self, z: np.ndarray) -> Any:
        """Potential at z [p - 1]."""
        return self.problem.potential(self.whole(z))

    def value_and_gradient(self, z: np.ndarray) -> tuple[Any, Any]:
        """Potential and its gradient at z [p - 1]."""
        value, gradient = self.problem.value_and_gradient(self.whole(z))
        return value, np.asarray(gradient)[self.kept]

    def hessian(self, z: np.ndarray) -> np.ndarray:
        """Hessian of the potential at z [p - 1, p - 1]."""
        return self.problem.hessian(self.whole(z))[np.ix_(self.kept, self.kept)]
