"""Paths between two known states: the linearised reference conditioned in closed form.

Between the requested times the linearised reference is a Gaussian Markov process, z_{k+1} = F_k z_k + N(0, Q_k) about
its mean m. Given the end point y,

    mean m_k + S_k G_k' S^-1 (y - m),  covariance S_k - S_k G_k' S^-1 G_k S_k,  G_k = F_{K-1} ... F_k

with S, m those of the last time. F and Q start afresh at every time: no flow is ever inverted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from tercet.inference.posteriors.sharing import compiled_once
from tercet.models._inputs import KeyLike, as_floats, as_jax, as_key
from tercet.models._size_classes import size_class
from tercet.models.trajectories.linear_noise import linear_noise_moments
from tercet.models.trajectories.reference_sdes import Drift, ReferenceSDE, Theta, Values, Volatility
from tercet.models.trajectories.snapshot_model import JITTER
from tercet.models.trajectories.transitions import inverse_and_log_det

FEW_STATES = 8192  # pairs times times up to which it is quicker to run the program as it is than to optimise it
FEW_TIMES = 16  # up to so many times their classes are powers of two, beyond that finer: the run time is in proportion


def conditioned_paths(
    sde: ReferenceSDE,
    theta: Values,
    source: ArrayLike,
    target: ArrayLike,
    *,
    start: float,
    stop: float,
    times: ArrayLike,
    relinearise: int = 0,
    substeps: int = 10,
    key: KeyLike = 0,
) -> Float[np.ndarray, "n T d"]:
    """Draw one path of the linearised reference from each source to its target.

    Parameters
    ----------
    sde, theta : the reference and its parameters
    source, target : arrays [n, d], pair by pair
    start, stop : their times
    times : increasing array [T] within [start, stop]
    relinearise : passes that linearise again, about the conditioned mean instead of the free mean; two or three where
        the drift is strongly nonlinear (`guided_paths` shows whether it is)
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
    >>> from tercet.inference.trajectories import conditioned_paths
    >>> from tercet.models import ReferenceSDE, brownian, constant_volatility
    >>> sde = ReferenceSDE(brownian(1), constant_volatility(1.0))
    >>> x, y = np.zeros((4000, 1)), np.ones((4000, 1))
    >>> walks = conditioned_paths(sde, {}, x, y, start=0.0, stop=1.0, times=[0.5, 1.0])
    >>> bool(abs(walks[:, 0].mean() - 0.5) < 0.05), bool(abs(walks[:, 0].var() - 0.25) < 0.05), walks[0, 1, 0]
    (True, True, np.float64(1.0))
    """
    x, y, clock = check_pairs(sde, source, target, start=start, stop=stop, times=times)
    (paths,) = paths_between(
        sde,
        theta,
        source=x[None],
        target=y[None],
        ends=np.array([[start, stop]]),
        times=[clock],
        relinearise=relinearise,
        substeps=substeps,
        key=key,
    )
    return paths


def conditioned_moments(
    sde: ReferenceSDE,
    theta: Values,
    source: ArrayLike,
    target: ArrayLike,
    *,
    start: float,
    stop: float,
    times: ArrayLike,
    relinearise: int = 0,
    substeps: int = 10,
) -> tuple[Float[np.ndarray, "n T d"], Float[np.ndarray, "n T d d"]]:
    """Mean [n, T, d] and covariance [n, T, d, d] of the paths that `conditioned_paths` draws.

    Parameters
    ----------
    sde, theta : the reference and the values of its parameters
    source, target : arrays [n, d], where each path starts and ends
    start, stop : their times
    times : array [T] between them
    relinearise, substeps : as in `conditioned_paths`

    Examples
    --------
    >>> from tercet.inference.trajectories import conditioned_moments
    >>> from tercet.models import ReferenceSDE, brownian, constant_volatility
    >>> sde = ReferenceSDE(brownian(1), constant_volatility(2.0))
    >>> mean, covariance = conditioned_moments(sde, {}, [[0.0]], [[3.0]], start=0.0, stop=3.0, times=[1.0, 2.0])
    >>> mean[0, :, 0].round(6).tolist(), covariance[0, :, 0, 0].round(6).tolist()
    ([1.0, 2.0], [2.666667, 2.666667])
    """
    x, y, clock = check_pairs(sde, source, target, start=start, stop=stop, times=times)
    grid, (columns,), steps = _grid(np.array([[start, stop]]), [clock], relinearise, substeps)
    with jax.enable_x64(True):
        pairs = Pairs.of(x, y, np.repeat(grid, len(x), axis=0).T)
        moments = _moments(relinearise, as_jax(sde), steps, sde.parameters(theta), pairs)
        mean, covariance = (np.asarray(part)[:, : len(x)].swapaxes(0, 1)[:, columns] for part in moments)
    return mean, covariance


class Pairs(NamedTuple):
    """Sources and targets [n, d], the times [T, n] between them, the length scale of the data; 64-bit JAX arrays.

    Filled up to a class of sizes: with copies of the first pair, and with times at which nothing more happens.
    """

    source: Array
    target: Array
    clock: Array
    scale: Array

    @classmethod
    def of(cls, source: np.ndarray, target: np.ndarray, clock: np.ndarray) -> Pairs:
        """From NumPy arrays; the scale is the largest absolute coordinate."""
        size = max(np.abs(source).max(), np.abs(target).max()) or 1.0
        count, times = size_class(len(source)), size_class(len(clock), FEW_TIMES)
        rows = np.minimum(np.arange(count), len(source) - 1)
        clock = clock[np.minimum(np.arange(times), len(clock) - 1)][:, rows]
        return cls(*as_jax((source[rows], target[rows], clock, np.asarray(size))))


class Linearisation(NamedTuple):
    """Mean m [T, n, d], flow F [T - 1, n, d, d] and noise Q [T - 1, n, d, d] from each time to the next."""

    mean: Array
    flow: Array
    noise: Array


class Gains(NamedTuple):
    """Gain S_k G_k' S^-1, covariance S_k and flow to the end G_k, each [T, n, d, d]."""

    gain: Array
    covariance: Array
    onward: Array


def paths_between(
    sde: ReferenceSDE,
    theta: Values,
    *,
    source: Float[np.ndarray, "K n d"],
    target: Float[np.ndarray, "K n d"],
    ends: Float[np.ndarray, "K 2"],
    times: list[np.ndarray],
    relinearise: int,
    substeps: int,
    key: KeyLike,
) -> list[np.ndarray]:
    """Conditioned paths of K intervals in one program, at K arrays of times [T_k]: K arrays [n, T_k, d]."""
    count, n, d = source.shape
    grid, columns, steps = _grid(ends, times, relinearise, substeps)
    with jax.enable_x64(True):
        pairs = Pairs.of(source.reshape(-1, d), target.reshape(-1, d), np.repeat(grid, n, axis=0).T)
        program = _draw_program(relinearise, pairs.clock.size <= FEW_STATES)
        draws = np.asarray(program(as_jax(sde), steps, sde.parameters(theta), (pairs, as_key(key))))
    draws = draws[:, : count * n].reshape(-1, count, n, d)
    if not np.isfinite(draws).all():
        raise ValueError("the paths explode under these parameters; change theta.")
    paths = []
    for k, (column, clock) in enumerate(zip(columns, times, strict=True)):
        path = draws[column, k].swapaxes(0, 1).copy()
        path[:, clock == ends[k, 0]], path[:, clock == ends[k, 1]] = source[k][:, None], target[k][:, None]
        paths.append(path)
    return paths


def check_pairs(
    sde: ReferenceSDE, source: ArrayLike, target: ArrayLike, *, start: float, stop: float, times: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _grid(
    ends: np.ndarray, times: list[np.ndarray], relinearise: int, substeps: int
) -> tuple[np.ndarray, list[np.ndarray], int]:
    """Times [K, T] of all intervals, padded with the stop; columns of the requested times; Runge-Kutta steps of each.

    With re-linearisation the grid itself is fine: the nominal path has to be known between the requested times.
    """
    rows = []
    for (start, stop), clock in zip(ends, times, strict=True):
        fine = np.linspace(start, stop, substeps + 1) if relinearise else np.array([start, stop])
        rows.append(np.union1d(fine, clock))
    width = max(len(row) for row in rows)
    grid = np.array([np.concatenate([row, np.full(width - len(row), row[-1])]) for row in rows])
    columns = [np.searchsorted(row, clock) for row, clock in zip(rows, times, strict=True)]
    longest = max(np.diff(row).max() / (row[-1] - row[0]) for row in rows)
    return grid, columns, 1 if relinearise else int(np.ceil(substeps * longest - 1e-9))


def linearised_bridge(
    sde: ReferenceSDE, passes: int, steps: int | Array, theta: Theta, pairs: Pairs
) -> tuple[Linearisation, Gains]:
    """Linearise about the free mean and condition, then `passes` times again about the conditioned mean."""
    line = _linearise(sde, theta, pairs, steps)

    def again(carry: tuple[Linearisation, Gains], _: None) -> tuple[tuple[Linearisation, Gains], None]:
        line, gains = carry
        nominal = line.mean + matvec(gains.gain, pairs.target - line.mean[-1])
        line = _linearise_about(sde, theta, nominal, pairs)
        return (line, _gains(line, pairs.scale)), None

    carry = (line, _gains(line, pairs.scale))
    return carry if not passes else jax.lax.scan(again, carry, None, length=passes)[0]


def _linearise(sde: ReferenceSDE, theta: Theta, pairs: Pairs, steps: int | Array) -> Linearisation:
    """About the free mean: the moments of each step, started afresh from the mean that the last one reached."""

    def step(x: Array, ends: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        mean, noise, flow = linear_noise_moments(sde, theta, x, ends, substeps=steps, scale=pairs.scale, flow=True)
        assert flow is not None
        return mean[0], (mean[0], flow[0], noise[0])

    clock = pairs.clock
    _, (mean, flow, noise) = jax.lax.scan(step, pairs.source, jnp.stack([clock[:-1], clock[1:]], axis=1))
    return Linearisation(jnp.concatenate([pairs.source[None], mean]), flow, noise)


def _linearise_about(sde: ReferenceSDE, theta: Theta, nominal: Array, pairs: Pairs) -> Linearisation:
    """About a nominal path [T, n, d], piecewise linear between the times."""

    def one(path: Array, times: Array, x: Array) -> tuple[Array, Array, Array]:
        def along(t: jax.typing.ArrayLike) -> Array:
            share = (t - times[0]) / jnp.maximum(times[1] - times[0], 1e-300)
            return path[0] + share * (path[1] - path[0])

        def drift(_: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
            point = along(t)
            value, derivative = jax.jvp(lambda z: sde.b(theta, z, t), (point,), (x - point,))
            return jnp.add(value, derivative)

        def volatility(_: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
            return sde.volatility_matrix(theta, along(t), t)

        local = ReferenceSDE(Drift(drift, {}, sde.names), Volatility(volatility, {}))
        moments = linear_noise_moments(local, {}, x[None], times, substeps=1, scale=pairs.scale, flow=True)
        mean, noise, flow = moments
        assert flow is not None
        return mean[0, 0], noise[0, 0], flow[0, 0]

    def step(x: Array, given: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
        path, times = given
        mean, noise, flow = jax.vmap(one, in_axes=(1, 1, 0))(path, times, x)
        return mean, (mean, flow, noise)

    clock = pairs.clock
    ends = (jnp.stack([nominal[:-1], nominal[1:]], axis=1), jnp.stack([clock[:-1], clock[1:]], axis=1))
    _, (mean, flow, noise) = jax.lax.scan(step, nominal[0], ends)
    return Linearisation(jnp.concatenate([nominal[:1], mean]), flow, noise)


def _gains(line: Linearisation, size: Array) -> Gains:
    unit = jnp.broadcast_to(jnp.eye(line.mean.shape[-1]), line.flow.shape[1:])

    def forward(S: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
        F, Q = given
        S = F @ S @ F.swapaxes(-1, -2) + Q
        return S, S

    def backward(G: Array, F: Array) -> tuple[Array, Array]:
        G = G @ F
        return G, G

    _, spread = jax.lax.scan(forward, jnp.zeros_like(unit), (line.flow, line.noise))
    spread = jnp.concatenate([jnp.zeros_like(unit)[None], spread])
    _, onward = jax.lax.scan(backward, unit, line.flow, reverse=True)
    onward = jnp.concatenate([onward, unit[None]])
    inverse, _, _ = inverse_and_log_det(spread[-1] + JITTER * size**2 * unit)
    return Gains(spread @ onward.swapaxes(-1, -2) @ inverse, spread, onward)


@partial(jax.jit, static_argnums=0)
def _moments(passes: int, sde: ReferenceSDE, steps: Array, theta: Theta, pairs: Pairs) -> tuple[Array, Array]:
    line, (gain, spread, onward) = linearised_bridge(sde, passes, steps, theta, pairs)
    return line.mean + matvec(gain, pairs.target - line.mean[-1]), spread - gain @ onward @ spread


@cache
def _draw_program(passes: int, small: bool) -> Callable[..., Array]:
    return compiled_once(partial(_draw, passes)) if small else jax.jit(partial(_draw, passes))


def _draw(passes: int, sde: ReferenceSDE, steps: Array, theta: Theta, given: tuple[Pairs, Array]) -> Array:
    """A free path of the linearised reference, corrected by the gain times its miss of the target (Matheron's rule)."""
    pairs, key = given
    line, gains = linearised_bridge(sde, passes, steps, theta, pairs)

    def step(z: Array, given: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        F, Q, key = given
        z = matvec(F, z) + gaussian_noise(Q, key)
        return z, z

    keys = jax.random.split(key, len(line.flow))
    zero = jnp.zeros_like(pairs.source)
    _, free = jax.lax.scan(step, zero, (line.flow, line.noise, keys))
    path = line.mean + jnp.concatenate([zero[None], free])
    return path + matvec(gains.gain, pairs.target - path[-1])


def matvec(matrix: Array, vector: Array) -> Array:
    """Products of matrices [..., d, d] with vectors [..., d]."""
    return (matrix @ vector[..., None])[..., 0]


def gaussian_noise(covariance: Array, key: Array) -> Array:
    """Draws of Normal(0, covariance) [n, d]; a coordinate without noise stays (up to 1e-6 of the others)."""
    d = covariance.shape[-1]
    ridge = 1e-12 * jnp.trace(covariance, axis1=-2, axis2=-1)[..., None, None] + 1e-250
    factor = jnp.linalg.cholesky(covariance + ridge * jnp.eye(d))
    return matvec(factor, jax.random.normal(key, covariance.shape[:-1]))
