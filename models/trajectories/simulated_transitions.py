"""Simulated transitions of an SDE, for noise too large for its linear-noise moments.

The density of a transition over a time T is the mean over M simulated paths of the linear-noise density of a last step
of length h (Pedersen). Its logarithm has an error of linear noise over h alone, and the Monte Carlo error of a kernel
estimate: the last steps are kernels of variance h / T relative to the transition's, M (h / T)^(d/2) of them near each
point. So M must grow faster than h^(-d/2), and h is chosen by that variance rather than as small as possible:
h = T M^(-2 / (d + 4)), Scott's rate, at most the interval between two snapshots.

The random numbers are the same at all parameters: the density is as smooth in them as drift and volatility are.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
from jaxtyping import Array, Float

from tercet.models._inputs import KeyLike, as_jax, as_key
from tercet.models.trajectories.linear_noise import (
    FAR,
    TransitionMoments,
    data_scale,
    linear_noise_moments,
    runge_kutta_nodes,
)
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta


def simulated_moments(
    sde: ReferenceSDE,
    theta: Theta,
    starts: Float[Array, "n d"],
    times: np.ndarray | Array,
    paths: int,
    *,
    steps: int = 20,
    substeps: int = 5,
    key: KeyLike = 0,
    start_factor: Array | None = None,
    scale: jax.typing.ArrayLike | None = None,
    rows: Array | None = None,
) -> TransitionMoments:
    """Moments of the last steps to times[1:] of `paths` paths from each start: leading axes [K, n * paths].

    Paths i * paths to (i + 1) * paths - 1 belong to start i; a particle at times[k] has the equal mixture of
    Normal(mean[k], covariance[k]) over them. A path takes Runge-Kutta steps of the drift and Euler-Maruyama steps of
    the noise: X <- RK4(X, dt) + s(X, t) sqrt(dt) Z, whose error is small with dt^4 + noise^2 dt where that of
    Euler-Maruyama is dt however small the noise. A step that would leave the range of the data by far (`FAR`) ends at
    the bound.

    Parameters
    ----------
    sde, theta : the reference and its parameters
    starts : array [n, d]
    times : array [K + 1], or [K + 1, n] where starts have times of their own
    paths : number M of paths from each start
    steps : steps of a path from one time to the next; h is rounded to a whole number of them
    substeps : Runge-Kutta steps that linear noise would take from one time to the next; the last step takes its share
    key : int seed or JAX key
    start_factor : array [d, d], C with C C' the covariance of the starts; default zero
    scale : length scale of the data; default the largest absolute start
    rows : integers [n], which of the random numbers belong to each start; default in order

    References
    ----------
    Pedersen (1995), Scandinavian Journal of Statistics 22; Milstein and Tretyakov (1997), SIAM Journal on Scientific
    Computing 18 (small noise); Scott (2015), Multivariate Density Estimation, section 6.3.
    """
    d, count = starts.shape[1], len(starts) * paths
    size = data_scale(starts, scale)
    times = as_jax(times)
    clock = jnp.broadcast_to(times[:, None] if times.ndim == 1 else times, (len(times), len(starts)))
    clock = jnp.repeat(clock, paths, axis=1)
    last = last_steps(clock, paths, steps, d)
    begin, dt = clock[:-1], jnp.diff(clock, axis=0) / steps
    before, keys = (begin, dt, steps - last), jax.random.split(as_key(key), len(dt) + 1)
    x = jnp.repeat(starts, paths, axis=0)
    if start_factor is not None:
        x = x + jax.random.normal(keys[-1], (count, d)) @ start_factor.T

    noises = jax.eval_shape(sde.volatility_matrix, theta, x[0], jnp.zeros(())).shape[1]
    own = None if rows is None else (rows[:, None] * paths + jnp.arange(paths)).reshape(-1)
    advance = jax.vmap(partial(_step, sde, theta, FAR * size))

    @jax.checkpoint
    def interval(x: Array, given: tuple[tuple[Array, Array, Array], Array]) -> tuple[Array, Array]:
        (begin, dt, before), key = given

        def step(state: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
            x, near = state
            near = jnp.where((before == i)[:, None], x, near)
            noise = jax.random.normal(jax.random.fold_in(key, i), (count, noises))
            noise = noise if own is None else noise[own]
            return (advance(x, (begin + i * dt, dt, noise)), near), None

        (x, near), _ = jax.lax.scan(step, (x, x), jnp.arange(steps))
        return x, near

    _, near = jax.lax.scan(interval, x, (before, keys[:-1]))
    ends = jnp.stack([begin + dt * (steps - last), clock[1:]]).reshape(2, -1)
    share = jnp.maximum(jnp.ceil(substeps * last.max() / steps), 1.0)
    moments = linear_noise_moments(sde, theta, near.reshape(-1, d), ends, substeps=share, most=substeps, scale=size)
    by_time: TransitionMoments = jax.tree.map(lambda a: a.reshape(len(dt), count, *a.shape[2:]), moments)
    return by_time


def last_steps(clock: Array, paths: int, steps: int, dim: int) -> Array:
    """The last step h in steps of a path, from 1 to all of the interval, for each later time of `clock` [K + 1, n]."""
    wanted = (clock[1:] - clock[0]) * paths ** (-2.0 / (dim + 4.0))
    return jnp.clip(jnp.rint(wanted / jnp.diff(clock, axis=0) * steps), 1, steps)


def _step(sde: ReferenceSDE, theta: Theta, bound: Array, x: Array, given: tuple[Array, Array, Array]) -> Array:
    """One particle [d] a step later, or at the bound if it would explode; given time, length and noise of the step."""
    t, h, noise = given

    def stage(state: tuple[Array, Array], node: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        slope, total = state
        ahead, share = node
        slope = sde.b(theta, jnp.clip(x + ahead * h * slope, -bound, bound), t + ahead * h)
        return (slope, total + share * h * slope), None

    # A loop, as in linear_noise: written out it takes far longer to compile.
    (_, later), _ = jax.lax.scan(stage, (jnp.zeros_like(x), x), runge_kutta_nodes(x.dtype))
    later = later + jnp.sqrt(h) * (sde.volatility_matrix(theta, x, t) @ noise)
    return jnp.where(jnp.abs(later).max() < bound, later, bound)
