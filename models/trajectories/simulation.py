"""Simulated paths of a reference SDE, in 64 bit; one compiled program for each structure and class of sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from tercet.models._inputs import KeyLike, as_floats, as_jax, as_key
from tercet.models._size_classes import padded, size_class
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta, Values


def simulate(
    sde: ReferenceSDE, theta: Values, starts: ArrayLike, times: ArrayLike, *, step: float = 0.01, key: KeyLike = 0
) -> np.ndarray:
    """Draw an independent path of dX = b_theta(X, t) dt + s_theta(X, t) dW from each start.

    Every interval between two times is cut into equal substeps h <= `step`: X <- F_h(X) + s(X, t) sqrt(h) Z, with Z
    standard normal and F_h a Runge-Kutta step of the drift alone. Without noise the error is O(h^4); with it moments
    are off by O(s^2 h) (weak order 1), so for small noise the step may be far longer than with Euler-Maruyama.

    Parameters
    ----------
    sde : ReferenceSDE of d coordinates
    theta : dict of the values of all its parameters
    starts : array [n, d], where the particles are at times[0]
    times : increasing array [K]
    step : longest substep, in units of time
    key : int seed or JAX key

    Returns
    -------
    array [K, n, d], 64-bit NumPy
        Row k is where the particles are at times[k]; row 0 is `starts`.

    Raises
    ------
    ValueError
        For shapes, times or parameters that do not fit, and where particles run off to infinity.

    References
    ----------
    Kloeden and Platen (1992), Numerical Solution of Stochastic Differential Equations, section 14.1; Milstein and
    Tretyakov (2004), Stochastic Numerics for Mathematical Physics, chapter 3 (small noise).

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.models import ReferenceSDE, constant_volatility, ornstein_uhlenbeck, simulate
    >>> sde = ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility(0.1))
    >>> simulate(sde, {"rate": [1.0], "level": [0.0]}, np.ones((50, 1)), [0.0, 1.0, 3.0]).shape
    (3, 50, 1)
    """
    particles = as_floats("starts", starts, 2).astype(np.float64)
    clock = as_floats("times", times, 1).astype(np.float64)
    if particles.shape[1] != sde.dim:
        raise ValueError(
            f"starts must be [n, {sde.dim}], one column for each of {list(sde.names)}, got {particles.shape}."
        )
    if np.any(np.diff(clock) <= 0):
        raise ValueError(f"times must increase, got {clock.tolist()}.")
    if not 0 < step < np.inf:
        raise ValueError(f"step must be positive and finite, got {step}.")
    # A gap of 0.30000000000000004 is three substeps of 0.1, not four.
    counts = np.maximum(np.ceil(np.diff(clock) / step * (1.0 - 1e-9)), 1.0).astype(np.int64)
    # Filled up with copies of the first particle, and with intervals of no steps; draws do not depend on the filling.
    filled = np.concatenate([particles, np.repeat(particles[:1], size_class(len(particles)) - len(particles), axis=0)])
    size = size_class(len(counts))
    with jax.enable_x64(True):
        intervals = (padded(clock[:-1], size), padded(np.diff(clock) / counts, size), padded(counts, size))
        paths = np.asarray(_paths(as_jax(sde), sde.parameters(theta), *as_jax((filled, intervals)), as_key(key)))
    paths = paths[: len(clock), : len(particles)]
    lost = ~np.isfinite(paths).all(axis=2)
    if lost.any():
        k = int(np.argmax(lost.any(axis=1)))
        raise ValueError(
            f"{int(lost[k].sum())} of {len(particles)} particles ran off to infinity by time {clock[k]:g}: the paths "
            f"explode under these parameters, or step={step:g} is too long for the drift; change one of them."
        )
    return paths


@jax.jit
def _paths(sde: ReferenceSDE, theta: Theta, starts: Array, intervals: tuple[Array, Array, Array], key: Array) -> Array:
    """Paths [K, n, d]; of each interval begin, length of a substep and number of substeps, so that any step serves."""
    drift, volatility = (jax.vmap(function, (None, 0, None)) for function in (sde.b, sde.volatility_matrix))
    noises = jax.eval_shape(sde.volatility_matrix, theta, starts[0], jnp.zeros(())).shape[1]

    def interval(x: Array, given: tuple[tuple[Array, Array, Array], Array]) -> tuple[Array, Array]:
        (begin, h, count), key = given

        def substep(i: Array, x: Array) -> Array:
            t = begin + i * h
            noise = jax.random.normal(jax.random.fold_in(key, i), (len(x), noises))
            shock = jnp.einsum("nij,nj->ni", volatility(theta, x, t), noise)
            k1 = drift(theta, x, t)
            k2 = drift(theta, x + h / 2 * k1, t + h / 2)
            k3 = drift(theta, x + h / 2 * k2, t + h / 2)
            k4 = drift(theta, x + h * k3, t + h)
            return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4) + jnp.sqrt(h) * shock

        x = jax.lax.fori_loop(0, count, substep, x)
        return x, x

    _, later = jax.lax.scan(interval, starts, (intervals, jax.random.split(key, len(intervals[0]))))
    return jnp.concatenate([starts[None], later])
