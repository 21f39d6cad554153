"""The static bridges of all intervals as functions of theta: moments, Sinkhorn, gradient of the objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from tercet.inference.trajectories.sinkhorn import SinkhornSolution, TransportProblems, solve
from tercet.inference.trajectories.tiled_geometry import transition_factors
from tercet.models._inputs import as_floats, as_jax
from tercet.models._size_classes import size_class
from tercet.models.trajectories.linear_noise import FAR, STIFF, forward_only, linear_noise_moments
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta, Values
from tercet.models.trajectories.snapshot_model import JITTER
from tercet.models.trajectories.snapshots import Snapshots
from tercet.models.trajectories.transitions import inverse_and_log_det

MOST_ENTRIES = 30_000_000  # of a cost or coupling that is held whole: 240 MB
TILE = 16  # rows held at once beyond that: what fits the cache is fastest
FEW_PARTICLES = 256  # up to so many classes of sizes are powers of two, beyond that finer: run times grow as the square
Parameters = Mapping[str, np.ndarray]
"""Name of the site to its value, 64-bit NumPy."""


class ExplodedError(ValueError):
    """The moments explode at these parameters."""


class Intervals(NamedTuple):
    """Particles at the two ends of each interval, filled up to equal numbers, of a class of sizes.

    Attributes
    ----------
    starts, ends : arrays [K, n, d], [K, m, d]
    clock : array [2, K], times of starts and ends
    scale : length scale of the data
    """

    starts: Array
    ends: Array
    clock: Array
    scale: float | Array


@dataclass(frozen=True, eq=False)
class BridgeProblem:
    """The bridges of one set of snapshots as functions of theta, all intervals in one program; see `bridge_problem`.

    Attributes
    ----------
    sde, snapshots : the reference and the populations
    weights : one array [n_k] a snapshot, of sum 1
    intervals : Intervals
    source_weights, target_weights : arrays [K, n], [K, m], zero where particles only fill up
    tolerance, max_iterations, substeps, tile : see `sinkhorn_bridge`
    """

    sde: ReferenceSDE
    snapshots: Snapshots
    weights: tuple[np.ndarray, ...]
    intervals: Intervals
    source_weights: Array
    target_weights: Array
    tolerance: float
    max_iterations: int
    substeps: int
    tile: int | None

    def solve(self, theta: Parameters, start: tuple[np.ndarray, np.ndarray] | None = None) -> SinkhornSolution:
        """Solve the static problems at theta, from potentials (f, g) where given; raises where the moments explode."""
        with jax.enable_x64(True):
            left, right, exploded = _factors(self.substeps, as_jax(self.sde), as_jax(dict(theta)), self.intervals)
            self._check_finite(np.asarray(exploded) & (np.asarray(self.source_weights) > 0))
            weights = (self.source_weights, self.target_weights)
            return solve(
                TransportProblems(left, right, *weights, self.intervals.ends),
                rows=max(self.snapshots.counts[:-1]),
                tolerance=self.tolerance,
                max_iterations=self.max_iterations,
                tile=self.tile,
                start=start,
            )

    def _check_finite(self, exploded: np.ndarray) -> None:
        if exploded.any():
            k = int(np.argmax(exploded.any(axis=1)))
            begin, end = self.snapshots.times[k : k + 2]
            raise ExplodedError(
                f"the moments of {int(exploded[k].sum())} of {self.snapshots.counts[k]} particles explode between the "
                f"times {begin:g} and {end:g} under these parameters; choose theta nearer to the data, or raise "
                "substeps if the drift is stiff."
            )

    def converged(self, solution: SinkhornSolution) -> bool:
        """Whether Sinkhorn has converged in every interval."""
        return bool((solution.error < self.tolerance).all())

    def failure(self, solution: SinkhornSolution) -> str:
        """Message about a Sinkhorn that has not converged."""
        bad = ~(solution.error < self.tolerance)
        return (
            f"Sinkhorn has not converged in {int(bad.sum())} of {len(bad)} intervals (worst marginal error "
            f"{float(solution.error.max()):.2g}, tolerance {self.tolerance:.2g}): the noise is small beside the "
            "distances of the particles. Raise max_iterations or the tolerance, or choose theta nearer to the data or "
            "with a larger volatility."
        )

    def expected_cost(
        self, theta: Parameters, solution: SinkhornSolution, scale: np.ndarray
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Sum_k scale_k sum_ij P_ij C_ij(theta) with P held at the solution, and its gradient in theta."""
        with jax.enable_x64(True):
            weights = scale[:, None] * np.asarray(self.source_weights)
            ends = as_jax((weights, solution.mean, solution.scatter))
            value, gradient = _expected_cost(self.substeps, as_jax(self.sde), as_jax(dict(theta)), self.intervals, ends)
        return float(value), {site: np.asarray(part) for site, part in gradient.items()}


def bridge_problem(
    sde: ReferenceSDE,
    snapshots: Snapshots,
    *,
    weights: Sequence[ArrayLike | None] | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
    substeps: int = 10,
    tile: int | None = None,
) -> BridgeProblem:
    """Check the input and stack the particles of all intervals; arguments as in `multimarginal_bridge`."""
    _check(sde, snapshots)
    for name, value in (("max_iterations", max_iterations), ("substeps", substeps), ("tile", tile)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}.")
    clouds = [cloud.astype(np.float64) for cloud in snapshots.particles]
    shares = _normalised(weights, clouds)
    most = [max(snapshots.counts[:-1]), max(snapshots.counts[1:])]
    n, m = (size_class(count, FEW_PARTICLES) for count in most)
    starts, ends = _stack(clouds[:-1], n), _stack(clouds[1:], m)
    clock = np.stack([snapshots.times[:-1], snapshots.times[1:]])
    with jax.enable_x64(True):
        intervals = Intervals(as_jax(starts), as_jax(ends), as_jax(clock), snapshots.magnitude)
        source_weights, target_weights = as_jax((_stack(shares[:-1], n, zero=True), _stack(shares[1:], m, zero=True)))
    return BridgeProblem(
        sde,
        snapshots,
        tuple(shares),
        intervals,
        source_weights,
        target_weights,
        float(tolerance),
        int(max_iterations),
        substeps,
        tile or (TILE if most[0] * most[1] > MOST_ENTRIES else None),
    )


def checked_parameters(sde: ReferenceSDE, theta: Values) -> dict[str, np.ndarray]:
    """Checked values of all parameters, 64-bit whatever JAX is set to."""
    with jax.enable_x64(True):
        return {site: np.asarray(value) for site, value in sde.parameters(theta).items()}


def _interval_moments(sde: ReferenceSDE, substeps: int, theta: Theta, intervals: Intervals) -> tuple[Array, Array]:
    """Mean [K, n, d] and covariance [K, n, d, d] (affine: [K, d, d]) at the end of each interval."""
    starts, clock, size = intervals.starts, intervals.clock, intervals.scale
    count, n, d = starts.shape
    ridge = JITTER * size**2 * jnp.eye(d)
    run = partial(linear_noise_moments, sde, theta, substeps=substeps, scale=size)
    if sde.affine:  # one start an interval, the others follow by the flow
        middle = starts.mean(axis=1)
        mean, covariance, flow = run(middle, clock, flow=True)
        assert flow is not None
        return mean[0][:, None] + (starts - middle[:, None]) @ flow[0].swapaxes(-1, -2), covariance[0] + ridge
    each = run(starts.reshape(-1, d), jnp.repeat(clock, n, axis=1))
    return each.mean[0].reshape(starts.shape), each.covariance[0].reshape(count, n, d, d) + ridge


@partial(jax.jit, static_argnums=0)
def _factors(substeps: int, sde: ReferenceSDE, theta: Theta, intervals: Intervals) -> tuple[Array, Array, Array]:
    """Factors of the log transition densities of each interval, and which particles [K, n] have exploded."""
    clock, bound = intervals.clock, FAR * intervals.scale
    mean, covariance = _interval_moments(sde, substeps, theta, intervals)
    left, right = jax.lax.map(lambda given: transition_factors(*given), (mean, covariance, intervals.ends))

    def stiff(x: Array, t: Array, h: Array) -> Array:  # where `linear_noise_moments` holds the particle
        slope = jnp.abs(jax.jacfwd(lambda z: sde.b(theta, z, t))(x)).max()
        fast: Array = jnp.abs(sde.b(theta, x, t)).max() * h > bound
        return fast | (slope * h > STIFF)

    step = (clock[1] - clock[0]) / substeps
    exploded = jax.vmap(jax.vmap(stiff, (0, None, None)))(jnp.clip(mean, -bound, bound), clock[1], step)
    exploded |= (jnp.abs(mean).max(axis=-1) >= bound) | ~jnp.isfinite(left).all(axis=-1)
    return left, right, exploded


@partial(jax.jit, static_argnums=0)
def _expected_cost(
    substeps: int, sde: ReferenceSDE, theta: Theta, intervals: Intervals, ends: tuple[Array, Array, Array]
) -> tuple[Array, dict[str, Array]]:
    """The cost is quadratic in y: of P it takes the weight, mean and scatter of the ends of each start."""
    weights, mean_end, scatter = ends
    moments = forward_only(partial(_interval_moments, sde, substeps))

    def cost(theta: dict[str, Array]) -> Array:
        mean, covariance = moments(theta, intervals)
        covariance = covariance[:, None] if covariance.ndim == 3 else covariance
        precision, log_det, _ = inverse_and_log_det(covariance)
        offset = mean_end - mean
        total = scatter + offset[..., :, None] * offset[..., None, :]
        d = offset.shape[-1]
        each: Array = 0.5 * (log_det + (precision * total).sum(axis=(-2, -1)) + d * np.log(2 * np.pi))
        return (weights * each).sum()

    return jax.value_and_grad(cost)(dict(theta))


def _check(sde: ReferenceSDE, snapshots: Snapshots) -> None:
    if not isinstance(snapshots, Snapshots):
        raise ValueError(f"expected Snapshots(particles, times), got {type(snapshots).__name__}.")
    if len(snapshots) < 2:
        raise ValueError("a bridge needs at least two snapshots, got one.")
    if snapshots.dim != sde.dim:
        raise ValueError(f"the reference moves {sde.dim} coordinates {sde.names}, the snapshots have {snapshots.dim}.")
    if not all(snapshots.observed):
        raise ValueError("bridges need every coordinate observed; fit_reference allows unobserved ones.")


def _normalised(weights: Sequence[ArrayLike | None] | None, clouds: list[np.ndarray]) -> list[np.ndarray]:
    given = [None] * len(clouds) if weights is None else list(weights)
    if len(given) != len(clouds):
        raise ValueError(f"weights must have one entry for each of {len(clouds)} snapshots, got {len(given)}.")
    normalised = []
    for k, (own, cloud) in enumerate(zip(given, clouds, strict=True)):
        mass = np.ones(len(cloud)) if own is None else as_floats(f"weights[{k}]", own, 1).astype(np.float64)
        if len(mass) != len(cloud) or (mass < 0).any() or mass.sum() <= 0:
            raise ValueError(f"weights[{k}] must be {len(cloud)} numbers >= 0, not all zero.")
        normalised.append(mass / mass.sum())
    return normalised


def _stack(arrays: list[np.ndarray], size: int, zero: bool = False) -> np.ndarray:
    """Arrays of unequal lengths as one, filled up to `size` with their first row (or with zero)."""
    fill = [np.repeat(0.0 * array[:1] if zero else array[:1], size - len(array), axis=0) for array in arrays]
    return np.stack([np.concatenate(pair) for pair in zip(arrays, fill, strict=True)])
