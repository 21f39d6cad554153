"""Linear-noise moments of an SDE between times.

From a start x: m' = b(m), S' = J S + S J' + s s', Phi' = J Phi with J = db/dx along m. Exact where the drift is affine
and the volatility free of the state; otherwise good while the noise is small beside the curvature of the drift.

One Runge-Kutta scan over all particles rather than an adaptive solver: diffrax's Tsit5 has the same warm time here but
takes three times as long to compile with its gradient, which is what a user waits for. `SnapshotModel.substeps` sets
the accuracy and `fit_reference` checks it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta

FAR = 1e3  # states are held within this many data scales of the data: beyond, a path has exploded
WIDE = 1e12  # covariances stop growing at this many squared data scales
STIFF = 30.0  # and nothing moves where a step is this much too long for the drift's derivative


class Moments(NamedTuple):
    """Mean m [..., d], covariance S [..., d, d]; flow Phi = dm/dx [..., d, d] where asked for, or None."""

    mean: Any
    covariance: Any
    flow: Any = None


def moments(
    sde: ReferenceSDE,
    theta: Theta,
    starts: Float[Array, "n d"],
    times: Any,
    substeps: int = 10,
    covariance: Any = None,
    scale: float | Any = None,
    flow: bool = False,
) -> Moments:
    """Moments at times[1:] of particles started at times[0]: leading axes [K, n].

    Parameters
    ----------
    sde, theta : the reference and its parameters
    starts : array [n, d]
    times : array [K + 1], or [K + 1, n] where particles have times of their own
    substeps : fourth-order Runge-Kutta steps an interval; the error falls as substeps^-4
    covariance : array [d, d] or [n, d, d], of the starts; default zero
    scale : length scale of the data, for the bound beyond which a path counts as exploded and is held; default the
        largest absolute start
    flow : also give the derivative of the mean in the start

    References
    ----------
    Van Kampen (2007), Stochastic Processes in Physics and Chemistry, chapter X; Hairer, Norsett, Wanner (1993),
    Solving Ordinary Differential Equations I, section II.1.
    """
    n, d = starts.shape
    size = jnp.maximum(jnp.abs(starts).max(), 1e-3) if scale is None else jnp.asarray(scale)
    clock = jnp.asarray(times)
    if sde.affine and clock.ndim == 1:
        found = _affine(sde, theta, starts, clock, substeps, covariance, size)
        return found if flow else found._replace(flow=None)
    clock = jnp.broadcast_to(clock[:, None], (len(clock), n)) if clock.ndim == 1 else clock
    spread = jnp.zeros((n, d, d)) if covariance is None else jnp.broadcast_to(covariance, (n, d, d))
    begin = Moments(starts, spread, jnp.broadcast_to(jnp.eye(d), (n, d, d)) if flow else None)
    return _integrate(sde, theta, begin, clock, substeps, size)


def _affine(sde: ReferenceSDE, theta: Theta, starts: Any, clock: Any, substeps: int, covariance: Any, size: Any) -> Any:
    """One particle at the middle; the others follow by the flow, which is the same everywhere."""
    d = starts.shape[1]
    middle = starts.mean(axis=0, keepdims=True)
    own = covariance is not None and jnp.ndim(covariance) == 3
    spread = jnp.zeros((1, d, d)) if covariance is None or own else jnp.asarray(covariance)[None]
    one = _integrate(sde, theta, Moments(middle, spread, jnp.eye(d)[None]), clock[:, None], substeps, size)
    mean = one.mean + jnp.einsum("kab,nb->kna", one.flow[:, 0], starts - middle)
    shape = (*mean.shape, d)
    spread = jnp.broadcast_to(one.covariance, shape)
    if own:
        spread = spread + jnp.einsum("kab,nbc,kdc->knad", one.flow[:, 0], covariance, one.flow[:, 0])
    return Moments(mean, spread, jnp.broadcast_to(one.flow, shape))


def _integrate(sde: ReferenceSDE, theta: Theta, begin: Moments, clock: Any, substeps: int, size: Any) -> Moments:
    """Classical Runge-Kutta in a scan of scans; in reverse the inner one is run again, so memory grows as K."""

    def rate(y: Moments, t: Any, h: Any) -> Moments:
        return jax.vmap(partial(_rate, sde, theta, size))(y, t, h)

    def along(y: Moments, k: Moments, h: Any) -> Moments:
        return jax.tree.map(lambda a, b: a + h.reshape(-1, *[1] * (a.ndim - 1)) * b, y, k)

    # The four stages are a loop of their own: written out, the derivatives take three times as long to compile.
    ahead, share = jnp.array([0.0, 0.5, 0.5, 1.0]), jnp.array([1.0, 2.0, 2.0, 1.0]) / 6.0
    nodes = (ahead.astype(clock.dtype), share.astype(clock.dtype))

    @jax.checkpoint
    def interval(y: Moments, ends: tuple[Any, Any]) -> tuple[Moments, Moments]:
        start, stop = ends
        h = (stop - start) / substeps

        def stage(state: tuple[Any, Any, Any, Any], node: tuple[Any, Any]) -> tuple[tuple[Any, Any, Any, Any], None]:
            t, y, slope, total = state
            ahead, share = node
            slope = rate(along(y, slope, ahead * h), t + ahead * h, h)
            return (t, y, slope, along(total, slope, share * h)), None

        def step(y: Moments, i: Any) -> tuple[Moments, None]:
            still = jax.tree.map(jnp.zeros_like, y)
            (_, _, _, total), _ = jax.lax.scan(stage, (start + i * h, y, still, y), nodes)
            return total, None

        y, _ = jax.lax.scan(step, y, jnp.arange(substeps, dtype=h.dtype))
        return y, y

    return jax.lax.scan(interval, begin, (clock[:-1], clock[1:]))[1]


def _rate(sde: ReferenceSDE, theta: Theta, size: Any, y: Moments, t: Any, h: Any) -> Moments:
    """Time derivative of the moments of one particle; one that has exploded is moved far off, finitely."""
    bound = FAR * size
    x = jnp.clip(y.mean, -bound, bound)

    def drift(x: Any) -> Any:
        return sde.b(theta, x, t)

    velocity, J = drift(x), jax.jacfwd(drift)(x)
    alive = (jnp.abs(y.mean).max() < bound) & (jnp.trace(y.covariance) < WIDE * size**2)
    alive &= (jnp.abs(J).max() * h < STIFF) & (jnp.abs(velocity).max() * h < bound)
    if y.flow is not None:
        alive &= jnp.abs(y.flow).max() < WIDE
    # Out of sight, not out of the sum: a particle that stood still would look like one without drift.
    velocity, J = jnp.where(alive, velocity, bound / jnp.maximum(h, 1e-30)), jnp.where(alive, J, 0.0)
    half = _product(J, y.covariance)
    noise = jnp.where(alive, sde.diffusion(theta, x, t), 0.0)
    return Moments(velocity, half + half.T + noise, None if y.flow is None else _product(J, y.flow))


def _product(a: Any, b: Any) -> Any:
    """Matrix product [d, d] of small matrices as sums that fuse: batches of tiny products are slow on processors."""
    return (a[:, :, None] * b[None]).sum(axis=1) if len(a) <= 8 else a @ b


def forward_only(function: Callable[..., Any], most: int = 12) -> Callable[..., Any]:
    """The same function (parameters, *data), differentiated forwards whatever mode is asked for; data are constants.

    A long scan is slow in reverse (every step is run again, or stored); with few parameters its Jacobian comes forwards
    at little more than the cost of one run, and reverse mode then only multiplies by it. With more than `most`
    parameters reverse mode stays: they cost the same at about ten.
    """

    @jax.custom_jvp
    def wrapped(parameters: Any, data: Any) -> Any:
        return function(parameters, *data)

    @wrapped.defjvp
    def rule(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> Any:
        flat, unravel = ravel_pytree(primals[0])
        moved = ravel_pytree(tangents[0])[0]

        def along(unit: Any) -> Any:
            return jax.jvp(lambda z: function(unravel(z), *primals[1]), (flat,), (unit,))

        value, jacobian = jax.vmap(along, out_axes=(None, 0))(jnp.eye(len(flat), dtype=flat.dtype))
        return value, jax.tree.map(lambda j: jnp.tensordot(moved, j, 1), jacobian)

    def chosen(parameters: Any, *data: Any) -> Any:
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(parameters))
        return wrapped(parameters, data) if 0 < count <= most else function(parameters, *data)

    return chosen
