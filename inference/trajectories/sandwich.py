"""Sandwich covariance of a snapshot model: H^-1 (sum psi psi') H^-1 over the particles."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float
from numpyro.infer.util import potential_energy

from tercet.inference.posteriors.problem import Problem
from tercet.models.trajectories.snapshot_model import SnapshotModel
from tercet.models.trajectories.snapshots import Snapshots


def sandwich_factor(
    problem: Problem, model: SnapshotModel, snapshots: Snapshots, mode: np.ndarray, factor: np.ndarray
) -> Float[np.ndarray, "p p"]:
    """Cholesky factor of the inverse of H^-1 (sum psi psi') H^-1, `factor` being that of H."""
    psi = influence(problem, model, snapshots, mode)
    bread = scipy.linalg.cho_solve((factor, True), psi.T)  # [p, particles]
    spectrum, basis = np.linalg.eigh(bread @ bread.T)
    spectrum = np.maximum(spectrum, 1e-12 * spectrum[-1])
    root: np.ndarray = scipy.linalg.cholesky((basis / spectrum) @ basis.T, lower=True)
    return root


def influence(
    problem: Problem, model: SnapshotModel, snapshots: Snapshots, mode: np.ndarray
) -> Float[np.ndarray, "particles p"]:
    """Psi: derivative of the score in the weight of each particle, centred within its snapshot."""
    step = 1e-4
    with problem.precision():
        ones = tuple(jnp.ones(count) for count in snapshots.counts)
        rows = []
        for unit in np.eye(len(mode)):
            ahead, behind = (
                _weight_gradient(model, ones, problem.unravel(jnp.asarray(mode + s * unit)), snapshots)
                for s in (step, -step)
            )
            rows.append([(np.asarray(a) - np.asarray(b)) / (2.0 * step) for a, b in zip(ahead, behind, strict=True)])
    centred = [[part - part.mean() for part in row] for row in rows]
    return np.stack([np.concatenate(row) for row in centred], axis=1)


@partial(jax.jit, static_argnums=0)
def _weight_gradient(
    model: SnapshotModel, weights: tuple[Array, ...], sites: dict[str, Array], snapshots: Snapshots
) -> tuple[Array, ...]:
    """Gradient of the log joint density in the weights of the particles."""

    def log_density(weights: tuple[Array, ...]) -> Array:
        potential: Array = potential_energy(model, (snapshots,), {"weights": weights}, sites)
        return -potential

    gradient: tuple[Array, ...] = jax.grad(log_density)(weights)
    return gradient
