"""Paths between two known states: the linearised reference conditioned in closed form.

Between the requested times the linearised reference is a Gaussian Markov process, z_{k+1} = F_k z_k + N(0, Q_k) about
its mean m. Given the end point y,

    mean m_k + S_k G_k' S^-1 (y - m),  covariance S_k - S_k G_k' S^-1 G_k S_k,  G_k = F_{K-1} ... F_k

with S, m those of the last time. F and Q start afresh at every time: no flow is ever inverted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from tercet.models._inputs import as_floats, as_jax, as_key
from tercet.models.trajectories.linear_noise import moments
from tercet.models.trajectories.reference_sdes import Drift, ReferenceSDE, Theta, Volatility
from tercet.models.trajectories.snapshot_model import JITTER
from tercet.models.trajectories.transitions import inverse_and_log_det


class Linearised(NamedTuple):
    """Mean m [T, n, d], flow F [T - 1, n, d, d] and noise Q [T - 1, n, d, d] from each time to the next."""

    mean: Any
    flow: Any
    noise: Any


def conditioned_paths(
    sde: ReferenceSDE,
    theta: Mapping[str, Any],
    source: ArrayLike,
    target: ArrayLike,
    start: float,
    stop: float,
    times: ArrayLike,
    *,
    relinearise: int = 0,
    substeps: int = 10,
    key: Any = 0,
) -> np.ndarray:
    """Draw one path of the linearised reference from each source to its target.

    Parameters
    ----------
    sde, theta : the reference and its parameters
    source, target : arrays [n, d], pair by pair
    start, stop : their times
    times : increasing array [T] within [start, stop]
    relinearise : passes that linearise again, about the conditioned mean instead of the free mean; two or three where
        the drift is strongly nonlinear (`guided_paths` tells)
    substeps : Runge-Kutta steps from start to stop, at least
    key : int seed or JAX key

    Returns
    -------
    array [n, T, d]
        Jointly Gaussian over the times; exactly the source and the target at their own times.

    References
    ----------
    Sarkka and Solin (2019), Applied Stochastic Differential Equations, chapter 7.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import conditioned_paths
    >>> from tercet.models import ReferenceSDE, brownian, constant_volatility
    >>> sde = ReferenceSDE(brownian(1), constant_volatility(1.0))
    >>> walks = conditioned_paths(sde, {}, np.zeros((4000, 1)), np.ones((4000, 1)), 0.0, 1.0, [0.5, 1.0])
    >>> bool(abs(walks[:, 0].mean() - 0.5) < 0.05), bool(abs(walks[:, 0].var() - 0.25) < 0.05), walks[0, 1, 0]
    (True, True, np.float64(1.0))
    """
    x, y, clock = read_pairs(sde, source, target, start, stop, times)
    return between(sde, theta, x[None], y[None], np.array([[start, stop]]), [clock], relinearise, substeps, key)[0]


def conditioned_moments(
    sde: ReferenceSDE,
    theta: Mapping[str, Any],
    source: ArrayLike,
    target: ArrayLike,
    start: float,
    stop: float,
    times: ArrayLike,
    *,
    relinearise: int = 0,
    substeps: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [n, T, d] and covariance [n, T, d, d] of the conditioned paths; arguments as in `conditioned_paths`.

    Examples
    --------
    >>> from tercet.inference import conditioned_moments
    >>> from tercet.models import ReferenceSDE, brownian, constant_volatility
    >>> sde = ReferenceSDE(brownian(1), constant_volatility(2.0))
    >>> mean, covariance = conditioned_moments(sde, {}, [[0.0]], [[3.0]], 0.0, 3.0, [1.0, 2.0])
    >>> mean[0, :, 0].round(6).tolist(), covariance[0, :, 0, 0].round(6).tolist()
    ([1.0, 2.0], [2.666667, 2.666667])
    """
    x, y, clock = read_pairs(sde, source, target, start, stop, times)
    grid, place, steps = _grid(np.array([[start, stop]]), [clock], relinearise, substeps)
    with jax.enable_x64(True):
        given = as_jax((x, y, np.repeat(grid, len(x), axis=0).T))
        size = magnitude(x, y)
        mean, covariance = _moments(sde.b, relinearise, steps, sde.parameters(theta), *given, size)
    return np.asarray(mean).swapaxes(0, 1)[:, place[0]], np.asarray(covariance).swapaxes(0, 1)[:, place[0]]


def between(
    sde: ReferenceSDE,
    theta: Mapping[str, Any],
    source: np.ndarray,
    target: np.ndarray,
    ends: np.ndarray,
    times: list[np.ndarray],
    relinearise: int,
    substeps: int,
    key: Any,
) -> list[np.ndarray]:
    """Conditioned paths of K intervals in one program: source, target [K, n, d], ends [K, 2], K arrays of times [T_k].

    Gives K arrays [n, T_k, d].
    """
    count, n, d = source.shape
    grid, place, steps = _grid(ends, times, relinearise, substeps)
    x, y = source.reshape(-1, d), target.reshape(-1, d)
    with jax.enable_x64(True):
        given = as_jax((x, y, np.repeat(grid, n, axis=0).T))
        found = np.asarray(
            _draw(sde.b, relinearise, steps, sde.parameters(theta), *given, magnitude(x, y), as_key(key))
        )
    found = found.reshape(-1, count, n, d)
    if not np.isfinite(found).all():
        raise ValueError("the paths explode under these parameters; change theta.")
    drawn = []
    for k, (at, clock) in enumerate(zip(place, times, strict=True)):
        path = found[at, k].swapaxes(0, 1).copy()
        path[:, clock == ends[k, 0]], path[:, clock == ends[k, 1]] = source[k][:, None], target[k][:, None]
        drawn.append(path)
    return drawn


def read_pairs(sde: ReferenceSDE, source: Any, target: Any, start: float, stop: float, times: Any) -> Any:
    """Pairs [n, d] and times, checked."""
    x, y = (as_floats(name, v, 2).astype(np.float64) for name, v in (("source", source), ("target", target)))
    clock = as_floats("times", times, 1).astype(np.float64)
    if x.shape != y.shape or x.shape[1] != sde.dim:
        raise ValueError(f"source and target must both be [n, {sde.dim}], pair by pair; got {x.shape} and {y.shape}.")
    if not stop > start:
        raise ValueError(f"stop must come after start, got {start} and {stop}.")
    if (np.diff(clock) <= 0).any() or clock[0] < start or clock[-1] > stop:
        raise ValueError(f"times must increase within [{start}, {stop}], got {clock.tolist()}.")
    return x, y, clock


def magnitude(*clouds: np.ndarray) -> Any:
    """Largest absolute coordinate: the scale of the data."""
    return jnp.asarray(max(np.abs(cloud).max() for cloud in clouds) or 1.0, float)


def _grid(ends: np.ndarray, times: list[np.ndarray], relinearise: int, substeps: int) -> Any:
    """Times [K, T] of all intervals, padded with the stop; where the requested ones are; Runge-Kutta steps of each.

    With re-linearisation the grid itself is fine: the nominal path has to be known between the requested times.
    """
    rows = []
    for (start, stop), clock in zip(ends, times, strict=True):
        fine = np.linspace(start, stop, substeps + 1) if relinearise else np.array([start, stop])
        rows.append(np.union1d(fine, clock))
    width = max(len(row) for row in rows)
    grid = np.array([np.concatenate([row, np.full(width - len(row), row[-1])]) for row in rows])
    place = [np.searchsorted(row, clock) for row, clock in zip(rows, times, strict=True)]
    longest = max(np.diff(row).max() / (row[-1] - row[0]) for row in rows)
    return grid, place, 1 if relinearise else int(np.ceil(substeps * longest - 1e-9))


def _linearise(sde: ReferenceSDE, theta: Theta, starts: Any, clock: Any, steps: int, size: Any) -> Linearised:
    """About the free mean: the moments of each step, started afresh from the mean the last one reached."""

    def step(x: Any, ends: Any) -> Any:
        found = moments(sde, theta, x, ends, steps, None, size, flow=True)
        mean, noise, flow = found.mean[0], found.covariance[0], found.flow[0]
        return mean, (mean, flow, noise)

    _, (mean, flow, noise) = jax.lax.scan(step, starts, jnp.stack([clock[:-1], clock[1:]], axis=1))
    return Linearised(jnp.concatenate([starts[None], mean]), flow, noise)


def _linearise_about(sde: ReferenceSDE, theta: Theta, nominal: Any, clock: Any, size: Any) -> Linearised:
    """About a nominal path [T, n, d], piecewise linear between the times."""

    def along(info: Any, t: Any) -> Any:
        share = (t - info["at"][0]) / jnp.maximum(info["at"][1] - info["at"][0], 1e-300)
        return info["path"][0] + share * (info["path"][1] - info["path"][0])

    def drift(info: Any, x: Any, t: Any) -> Any:
        point = along(info, t)
        value, moved = jax.jvp(lambda z: sde.b(info["theta"], z, t), (point,), (x - point,))
        return value + moved

    def volatility(info: Any, x: Any, t: Any) -> Any:
        return sde.root(info["theta"], along(info, t), t)

    local = ReferenceSDE(Drift(drift, {}, sde.names), Volatility(volatility, {}))

    def one(path: Any, at: Any, x: Any) -> Any:
        found = moments(local, {"theta": theta, "path": path, "at": at}, x[None], at, 1, None, size, flow=True)
        return found.mean[0, 0], found.covariance[0, 0], found.flow[0, 0]

    def step(x: Any, given: Any) -> Any:
        path, at = given
        mean, noise, flow = jax.vmap(one, in_axes=(1, 1, 0))(path, at, x)
        return mean, (mean, flow, noise)

    pairs = (jnp.stack([nominal[:-1], nominal[1:]], axis=1), jnp.stack([clock[:-1], clock[1:]], axis=1))
    _, (mean, flow, noise) = jax.lax.scan(step, nominal[0], pairs)
    return Linearised(jnp.concatenate([nominal[:1], mean]), flow, noise)


def _gains(line: Linearised, size: Any) -> tuple[Any, Any, Any]:
    """Gain S_k G_k' S^-1, covariance S_k and G_k [T, n, d, d]."""
    unit = jnp.broadcast_to(jnp.eye(line.mean.shape[-1]), line.flow.shape[1:])

    def forward(S: Any, given: Any) -> Any:
        F, Q = given
        S = F @ S @ F.swapaxes(-1, -2) + Q
        return S, S

    def backward(G: Any, F: Any) -> Any:
        G = G @ F
        return G, G

    _, spread = jax.lax.scan(forward, jnp.zeros_like(unit), (line.flow, line.noise))
    spread = jnp.concatenate([jnp.zeros_like(unit)[None], spread])
    _, onward = jax.lax.scan(backward, unit, line.flow, reverse=True)
    onward = jnp.concatenate([onward, unit[None]])
    inverse, _, _ = inverse_and_log_det(spread[-1] + JITTER * size**2 * unit)
    return spread @ onward.swapaxes(-1, -2) @ inverse, spread, onward


def settle(b: Callable[..., Any], passes: int, steps: int, theta: Theta, x: Any, y: Any, clock: Any, size: Any) -> Any:
    """Linearise, condition, and again about the conditioned mean `passes` times."""
    sde = b.__self__  # type: ignore[attr-defined]
    line = _linearise(sde, theta, x, clock, steps, size)
    gain, spread, onward = _gains(line, size)

    def again(carry: Any, _: None) -> Any:
        line, (gain, _, _) = carry
        nominal = line.mean + matvec(gain, y - line.mean[-1])
        line = _linearise_about(sde, theta, nominal, clock, size)
        return (line, _gains(line, size)), None

    carry = (line, (gain, spread, onward))
    return carry if not passes else jax.lax.scan(again, carry, None, length=passes)[0]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _moments(
    b: Callable[..., Any], passes: int, steps: int, theta: Theta, x: Any, y: Any, clock: Any, size: Any
) -> Any:
    line, (gain, spread, onward) = settle(b, passes, steps, theta, x, y, clock, size)
    return line.mean + matvec(gain, y - line.mean[-1]), spread - gain @ onward @ spread


@partial(jax.jit, static_argnums=(0, 1, 2))
def _draw(
    b: Callable[..., Any], passes: int, steps: int, theta: Theta, x: Any, y: Any, clock: Any, size: Any, key: Any
) -> Any:
    """A free path of the linearised reference, then moved by the gain on where it missed the target (Matheron)."""
    line, (gain, _, _) = settle(b, passes, steps, theta, x, y, clock, size)

    def step(z: Any, given: Any) -> Any:
        F, Q, key = given
        z = matvec(F, z) + gaussian_noise(Q, key)
        return z, z

    keys = jax.random.split(key, len(line.flow))
    _, free = jax.lax.scan(step, jnp.zeros_like(x), (line.flow, line.noise, keys))
    path = line.mean + jnp.concatenate([jnp.zeros_like(x)[None], free])
    return path + matvec(gain, y - path[-1])


def matvec(matrix: Any, vector: Any) -> Any:
    """Products of matrices [..., d, d] with vectors [..., d]."""
    return (matrix @ vector[..., None])[..., 0]


def gaussian_noise(covariance: Any, key: Any) -> Any:
    """Normal(0, covariance) [n, d]; a coordinate without noise stays (up to 1e-6 of the others)."""
    d = covariance.shape[-1]
    ridge = 1e-12 * jnp.trace(covariance, axis1=-2, axis2=-1)[..., None, None] + 1e-250
    root = jnp.linalg.cholesky(covariance + ridge * jnp.eye(d))
    return matvec(root, jax.random.normal(key, covariance.shape[:-1]))
