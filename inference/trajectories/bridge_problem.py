"""The static bridges of all intervals as functions of theta: moments, Sinkhorn, gradient of the objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.trajectories.sinkhorn import Solution, solve
from tercet.inference.trajectories.tiled_geometry import transition_factors
from tercet.models._inputs import as_floats, as_jax
from tercet.models.trajectories.linear_noise import FAR, STIFF, forward_only, moments
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta
from tercet.models.trajectories.snapshot_model import JITTER
from tercet.models.trajectories.snapshots import Snapshots
from tercet.models.trajectories.transitions import inverse_and_log_det

MOST = 30_000_000  # entries of a cost or coupling that is made whole: 240 MB
TILE = 16  # rows beyond that: what fits the cache is fastest
NOT_CONVERGED = (
    "Sinkhorn has not converged in {n} of {k} intervals (worst marginal error {error:.2g}, tolerance {tolerance:.2g}): "
    "the noise is small beside the distances of the particles. Raise max_iterations or the tolerance, or choose theta "
    "nearer to the data or with a larger volatility."
)


class BridgeProblem:
    """The bridges of one set of snapshots as functions of theta; all intervals in one program."""

    def __init__(
        self,
        sde: ReferenceSDE,
        snapshots: Snapshots,
        weights: Sequence[ArrayLike | None] | None = None,
        tolerance: float = 1e-3,
        max_iterations: int = 2000,
        substeps: int = 10,
        tile: int | None = None,
    ) -> None:
        _check(sde, snapshots)
        for name, value, least in (("max_iterations", max_iterations, 1), ("substeps", substeps, 1), ("tile", tile, 1)):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if not tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {tolerance}.")
        self.sde, self.snapshots, self.substeps = sde, snapshots, substeps
        self.tolerance, self.max_iterations = float(tolerance), int(max_iterations)
        clouds = [cloud.astype(np.float64) for cloud in snapshots.particles]
        self.weights = _weights(weights, clouds)
        self.starts, self.ends = _stack(clouds[:-1]), _stack(clouds[1:])
        self.mass = _stack(self.weights[:-1], zero=True), _stack(self.weights[1:], zero=True)
        pairs = self.starts.shape[1] * self.ends.shape[1]
        self.tile = tile or (TILE if pairs > MOST else None)
        self.clock = np.stack([snapshots.times[:-1], snapshots.times[1:]])
        self.size = snapshots.magnitude

    def solve(self, theta: Theta, start: Any = None) -> Solution:
        """Solve the static problems at theta; raises where the moments explode."""
        with jax.enable_x64(True):
            starts, ends, clock = as_jax((self.starts, self.ends, self.clock))
            left, right, lost = _factors(self.sde.b, self.substeps, _owned(theta), starts, ends, clock, self.size)
            lost = np.asarray(lost) & (self.mass[0] > 0)
            if lost.any():
                k = int(np.argmax(lost.any(axis=1)))
                raise ExplodedError(
                    f"the moments of {int(lost[k].sum())} of {len(self.snapshots.particles[k])} particles explode "
                    f"between the times {self.clock[0, k]:g} and {self.clock[1, k]:g} under these parameters; choose "
                    "theta nearer to the data, or raise substeps if the drift is stiff."
                )
            return solve(left, right, as_jax(self.mass), ends, self.tolerance, self.max_iterations, self.tile, start)

    def converged(self, solution: Solution) -> bool:
        """Whether every interval has."""
        return bool((solution.error < self.tolerance).all())

    def complaint(self, solution: Solution) -> str:
        """What to say of an unconverged Sinkhorn."""
        bad = ~(solution.error < self.tolerance)
        return NOT_CONVERGED.format(
            n=int(bad.sum()), k=len(bad), error=float(solution.error.max()), tolerance=self.tolerance
        )

    def expected_cost(self, theta: Theta, solution: Solution, scale: np.ndarray) -> tuple[float, Theta]:
        """Sum_k scale_k sum_ij P_ij C_ij(theta) with P held at the solution, and its gradient in theta."""
        with jax.enable_x64(True):
            data = as_jax((self.starts, self.clock, self.mass[0], solution.mean, solution.scatter, scale))
            value, gradient = _expected(self.sde.b, self.substeps, _owned(theta), *data, self.size)
        return float(value), gradient


def parameters(sde: ReferenceSDE, theta: Mapping[str, Any]) -> Theta:
    """Checked values of all parameters, 64-bit whatever JAX is set to."""
    with jax.enable_x64(True):
        return {site: np.asarray(value) for site, value in sde.parameters(theta).items()}


class ExplodedError(ValueError):
    """The moments explode at these parameters."""


def _interval_moments(sde: ReferenceSDE, substeps: int, theta: Theta, starts: Any, clock: Any, size: Any) -> Any:
    """Mean [K, n, d] and covariance [K, n, d, d] (affine: [K, d, d]) at the end of each interval."""
    count, n, d = starts.shape
    ridge = JITTER * size**2 * jnp.eye(d)
    if sde.affine:  # one start an interval, the others follow by the flow
        middle = starts.mean(axis=1)
        one = moments(sde, theta, middle, clock, substeps, None, size, flow=True)
        mean = one.mean[0][:, None] + (starts - middle[:, None]) @ one.flow[0].swapaxes(-1, -2)
        return mean, one.covariance[0] + ridge
    each = moments(sde, theta, starts.reshape(-1, d), jnp.repeat(clock, n, axis=1), substeps, None, size)
    return each.mean[0].reshape(starts.shape), each.covariance[0].reshape(count, n, d, d) + ridge


@partial(jax.jit, static_argnums=(0, 1))
def _factors(
    b: Callable[..., Any], substeps: int, theta: Theta, starts: Any, ends: Any, clock: Any, size: Any
) -> tuple[Any, Any, Any]:
    sde = b.__self__  # type: ignore[attr-defined]
    mean, spread = _interval_moments(sde, substeps, theta, starts, clock, size)
    left, right = jax.lax.map(lambda given: transition_factors(*given), (mean, spread, ends))
    step = (clock[1] - clock[0]) / substeps

    def fast(x: Any, t: Any, h: Any) -> Any:  # where `moments` has stopped the clock
        slope = jnp.abs(jax.jacfwd(lambda z: sde.b(theta, z, t))(x)).max()
        return (jnp.abs(sde.b(theta, x, t)).max() * h > FAR * size) | (slope * h > STIFF)

    lost = jax.vmap(jax.vmap(fast, (0, None, None)))(jnp.clip(mean, -FAR * size, FAR * size), clock[1], step)
    lost |= (jnp.abs(mean).max(axis=-1) >= FAR * size) | ~jnp.isfinite(left).all(axis=-1)
    return left, right, lost


@partial(jax.jit, static_argnums=(0, 1))
def _expected(
    b: Callable[..., Any],
    substeps: int,
    theta: Theta,
    starts: Any,
    clock: Any,
    mass: Any,
    ends: Any,
    scatter: Any,
    scale: Any,
    size: Any,
) -> Any:
    """The cost is quadratic in y: the mean and scatter of each start's ends are all that is needed of P."""
    sde, d = b.__self__, starts.shape[-1]  # type: ignore[attr-defined]
    run = forward_only(partial(_interval_moments, sde, substeps))

    def cost(theta: Theta) -> Any:
        mean, spread = run(theta, starts, clock, size)
        spread = spread[:, None] if spread.ndim == 3 else spread
        precision, log_det, _ = inverse_and_log_det(spread)
        away = ends - mean
        total = scatter + away[..., :, None] * away[..., None, :]
        each = 0.5 * (log_det + (precision * total).sum(axis=(-2, -1)) + d * np.log(2 * np.pi))
        return (scale[:, None] * mass * each).sum()

    return jax.value_and_grad(cost)(theta)


def _check(sde: ReferenceSDE, snapshots: Snapshots) -> None:
    if not isinstance(snapshots, Snapshots):
        raise ValueError(f"expected Snapshots(particles, times), got {type(snapshots).__name__}.")
    if len(snapshots) < 2:
        raise ValueError("a bridge needs at least two snapshots, got one.")
    if snapshots.dim != sde.dim:
        raise ValueError(f"the reference moves {sde.dim} coordinates {sde.names}, the snapshots have {snapshots.dim}.")
    if not all(snapshots.observed):
        raise ValueError(
            "bridges need every coordinate observed; fit_reference serves unobserved ones (SnapshotModel)."
        )


def _weights(weights: Sequence[ArrayLike | None] | None, clouds: list[np.ndarray]) -> list[np.ndarray]:
    given = [None] * len(clouds) if weights is None else list(weights)
    if len(given) != len(clouds):
        raise ValueError(f"weights must have one entry for each of {len(clouds)} snapshots, got {len(given)}.")
    found = []
    for k, (own, cloud) in enumerate(zip(given, clouds, strict=True)):
        mass = np.ones(len(cloud)) if own is None else as_floats(f"weights[{k}]", own, 1).astype(np.float64)
        if len(mass) != len(cloud) or (mass < 0).any() or mass.sum() <= 0:
            raise ValueError(f"weights[{k}] must be {len(cloud)} numbers >= 0, not all zero.")
        found.append(mass / mass.sum())
    return found


def _stack(arrays: list[np.ndarray], zero: bool = False) -> np.ndarray:
    """Arrays of unequal lengths as one, filled up with their first row (or with zero)."""
    most = max(len(array) for array in arrays)
    fill = [np.repeat(0.0 * array[:1] if zero else array[:1], most - len(array), axis=0) for array in arrays]
    return np.stack([np.concatenate(pair) for pair in zip(arrays, fill, strict=True)])


def _owned(theta: Theta) -> Theta:
    return {site: jnp.asarray(np.asarray(value, dtype=np.float64)) for site, value in theta.items()}
