"""Guided proposals between two states, with importance weights: a check of the linearised paths."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from tercet.inference.trajectories.conditioning import Pairs, check_pairs, gaussian_noise, linearised_bridge, matvec
from tercet.models._inputs import KeyLike, as_jax, as_key
from tercet.models._size_classes import size_class
from tercet.models.trajectories.linear_noise import linear_noise_moments
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta, Values
from tercet.models.trajectories.snapshot_model import JITTER
from tercet.models.trajectories.transitions import inverse_and_log_det


class GuidedPaths(NamedTuple):
    """Weighted paths between two states.

    Attributes
    ----------
    paths : array [n, T, d]
    log_weights : array [n]
    effective_sample_size : of the weights
    log_density : log p(target | source)
    log_ratio : log p(target | source) less its linearised value; zero where the linearisation is exact
    """

    paths: np.ndarray
    log_weights: np.ndarray
    effective_sample_size: float
    log_density: float
    log_ratio: float


def guided_paths(
    sde: ReferenceSDE,
    theta: Values,
    source: ArrayLike,
    target: ArrayLike,
    *,
    start: float,
    stop: float,
    n: int = 500,
    steps: int = 50,
    relinearise: int = 2,
    key: KeyLike = 0,
) -> GuidedPaths:
    """Paths of the nonlinear reference between two states: guided proposals with importance weights.

    Each of `steps` short steps follows the reference itself, guided towards the target by the linearised transition
    density; the weights are p(path) / q(path), step by step, and all equal where the reference is linear. A large
    effective sample size says that the paths of `conditioned_paths` can be trusted.

    Parameters
    ----------
    sde, theta : the reference and its parameters
    source, target : arrays [d]
    start, stop : their times
    n : number of paths
    steps : short steps between them
    relinearise : passes about the conditioned mean that make the guide
    key : int seed or JAX key

    Returns
    -------
    GuidedPaths
        Paths at `steps` + 1 equally spaced times, start and stop included.

    References
    ----------
    Schauer, van der Meulen, van Zanten (2017), Guided proposals for simulating multi-dimensional diffusion bridges,
    Bernoulli 23; Whitaker et al. (2017), Improved bridge constructs for stochastic differential equations.

    Examples
    --------
    >>> from tercet.inference import guided_paths
    >>> from tercet.models import ReferenceSDE, constant_volatility, lotka_volterra
    >>> sde = ReferenceSDE(lotka_volterra(), constant_volatility(0.05))
    >>> rates = {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1}
    >>> guided = guided_paths(sde, rates, [5.0, 4.0], [3.0, 3.5], start=0.0, stop=1.0, n=200)
    >>> guided.paths.shape, guided.effective_sample_size > 100
    ((200, 51, 2), True)
    """
    x, y, _ = check_pairs(sde, np.atleast_2d(source), np.atleast_2d(target), start=start, stop=stop, times=[stop])
    if len(x) != 1:
        raise ValueError(f"guided_paths takes one source and one target [d], got {len(x)}.")
    if n < 1 or steps < 2:
        raise ValueError(f"n must be at least 1 and steps at least 2, got {n} and {steps}.")
    with jax.enable_x64(True):
        pairs = Pairs.of(x, y, np.linspace(start, stop, steps + 1)[:, None])
        given = (sde.parameters(theta), pairs, as_key(key))
        paths, weights, linearised = _guided(relinearise, size_class(n), as_jax(sde), *given)
    paths, logs = np.asarray(paths)[: steps + 1, :n], np.asarray(weights)[:n]
    if not np.isfinite(logs).any():
        raise ValueError("no guided path has a finite weight: these parameters cannot lead from source to target.")
    share = np.exp(logs - logs.max())
    ratio = float(np.log(share.mean()) + logs.max())
    size = float(share.sum() ** 2 / (share**2).sum())
    return GuidedPaths(paths.swapaxes(0, 1), logs, size, float(linearised) + ratio, ratio)


@partial(jax.jit, static_argnums=(0, 1))
def _guided(
    passes: int, n: int, sde: ReferenceSDE, theta: Theta, pairs: Pairs, key: Array
) -> tuple[Array, Array, Array]:
    """Paths [T, n, d], their log weights [n], and the linearised log density of the target."""
    line, gains = linearised_bridge(sde, passes, 1, theta, pairs)
    m, noise, onward = line.mean[:, 0], line.noise[:, 0], gains.onward[:, 0]
    start, y, times, size = pairs.source[0], pairs.target[0], pairs.clock[:, 0], pairs.scale

    def remaining(C: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
        G, Q = given
        C = C + G @ Q @ G.T
        return C, C

    zero = jnp.zeros((len(y), len(y)))
    _, left = jax.lax.scan(remaining, zero, (onward[1:], noise), reverse=True)
    left = jnp.concatenate([left, zero[None]])  # noise still to come at each time

    def step(carry: tuple[Array, Array], given: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        x, logs = carry
        (C, C_next), (G, G_next), (m_now, m_next), ends, key = given
        clock = jnp.broadcast_to(ends[:, None], (2, n))
        local = linear_noise_moments(sde, theta, x, clock, substeps=1, scale=size)
        mean, Q = local.mean[0], local.covariance[0]
        V = G_next @ Q @ G_next.T + C_next
        ahead, now = m[-1] + (mean - m_next) @ G_next.T, m[-1] + (x - m_now) @ G.T
        logs = logs + _log_normal(y - ahead, V, size) - _log_normal(y - now, jnp.broadcast_to(C, V.shape), size)
        one, two = jax.random.split(key)
        free = mean + gaussian_noise(Q, one)
        end = m[-1] + (free - m_next) @ G_next.T + gaussian_noise(jnp.broadcast_to(C_next, V.shape), two)
        gain = Q @ G_next.T @ inverse_and_log_det(V + JITTER * size**2 * jnp.eye(len(y)))[0]
        x = free + matvec(gain, y - end)
        return (x, logs), x

    neighbours = [jnp.stack([a[:-1], a[1:]], axis=1) for a in (left, onward, m, times)]
    starts = jnp.broadcast_to(start, (n, len(y)))
    (_, logs), path = jax.lax.scan(step, (starts, jnp.zeros(n)), (*neighbours, jax.random.split(key, len(times) - 1)))
    linearised = _log_normal(y - m[-1], left[0], size)
    return jnp.concatenate([starts[None], path]), logs, linearised


def _log_normal(offset: Array, covariance: Array, size: Array) -> Array:
    d = offset.shape[-1]
    inverse, log_det, _ = inverse_and_log_det(covariance + JITTER * size**2 * jnp.eye(d))
    total: Array = (matvec(inverse, offset) * offset).sum(axis=-1) + log_det + d * np.log(2 * np.pi)
    return -0.5 * total
