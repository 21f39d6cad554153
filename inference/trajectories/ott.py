"""What is used of ott-jax: imported without the warning that it raises on import, and its Sinkhorn with types."""

from __future__ import annotations

import warnings
from typing import Any

from jaxtyping import Array

with warnings.catch_warnings():
    # ott imports jaxopt, which warns that it is no longer maintained; ott's part of it is not used.
    warnings.filterwarnings("ignore", message="JAXopt is no longer maintained", category=DeprecationWarning)
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

__all__ = ["Geometry", "run_sinkhorn"]


def run_sinkhorn(
    geometry: Geometry, weights: tuple[Array, Array], potentials: tuple[Array, Array], threshold: Array, iterations: int
) -> tuple[Array, Array, Array, Array]:
    """Potentials f and g after some iterations, how many there were, and whether the error is below the threshold."""
    solver: Any = Sinkhorn(threshold=threshold, max_iterations=iterations)  # type: ignore[arg-type]
    output = solver(LinearProblem(geometry, *weights), init=potentials)
    return output.f, output.g, 10 * (output.errors >= 0).sum(), output.converged  # one error in ten iterations
