"""Sandwich covariance of a snapshot model: H^-1 (sum psi psi') H^-1 over the particles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float
from numpyro.infer.util import potential_energy

from tercet.inference.posteriors.problem import Problem
from tercet.models._inputs import as_jax
from tercet.models.trajectories.snapshot_model import SnapshotModel
from tercet.models.trajectories.snapshots import FilledSnapshots, Snapshots


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
    step, filled, rows = 1e-4, FilledSnapshots(snapshots), []
    with problem.precision():
        known, data, ones = as_jax((model, filled, tuple(np.ones(count) for count in filled.counts)))
        for unit in np.eye(len(mode)):
            ahead, behind = (
                _weight_gradient(known, ones, problem.unravel(jnp.asarray(mode + s * unit)), data)
                for s in (step, -step)
            )
            differences = [(np.asarray(a) - np.asarray(b)) / (2.0 * step) for a, b in zip(ahead, behind, strict=True)]
            rows.append([part[:count] for part, count in zip(differences, snapshots.counts, strict=True)])
    centred = [[part - part.mean() for part in row] for row in rows]
    return np.stack([np.concatenate(row) for row in centred], axis=1)


@jax.jit
def _weight_gradient(
    model: SnapshotModel, weights: tuple[Array, ...], sites: dict[str, Array], snapshots: Snapshots
) -> tuple[Array, ...]:
    """Gradient of the log joint density in the weights of the particles."""

    def log_density(weights: tuple[Array, ...]) -> Array:
        potential: Array = potential_energy(model, (snapshots,), {"weights": weights}, sites)
        return -potential

    gradient: tuple[Array, ...] = jax.grad(log_density)(weights)
    return gradient
