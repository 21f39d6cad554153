"""Linear-noise moments of an SDE between times.

From a start x: m' = b(m), S' = J S + S J' + s s', Phi' = J Phi with J = db/dx along m. Exact where the drift is affine
and the volatility free of the state; otherwise good while the noise is small beside the curvature of the drift.

One Runge-Kutta scan over all particles rather than an adaptive solver: diffrax's Tsit5 takes as long warm but three
times as long to compile with its gradient, and compilation dominates a first fit. `SnapshotModel.substeps` sets the
accuracy and `fit_reference` checks it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta

FAR = 1e3  # states are held within this many data scales: beyond, a path has exploded
WIDE = 1e12  # covariances stop growing at this many squared data scales
STIFF = 30.0  # largest product of step and drift derivative; beyond, the particle counts as exploded
Tree = TypeVar("Tree")


class TransitionMoments(NamedTuple):
    """Moments of transitions: `mean` m [..., d], `covariance` S [..., d, d], `flow` dm/dx [..., d, d] or None."""

    mean: Array
    covariance: Array
    flow: Array | None = None


def linear_noise_moments(
    sde: ReferenceSDE,
    theta: Theta,
    starts: Float[Array, "n d"],
    times: jax.typing.ArrayLike,
    *,
    substeps: int | Array = 10,
    most: int | None = None,
    covariance: Array | None = None,
    scale: jax.typing.ArrayLike | None = None,
    flow: bool = False,
) -> TransitionMoments:
    """Moments at times[1:] of particles started at times[0]: leading axes [K, n].

    Parameters
    ----------
    sde, theta : the reference and its parameters
    starts : array [n, d]
    times : array [K + 1], or [K + 1, n] where particles have times of their own
    substeps : fourth-order Runge-Kutta steps per interval; the error falls as substeps^-4. With an integer array one
        program serves any number of them, and is differentiated forwards only
    most : largest number of substeps, where that is an array: the program can then be differentiated in reverse too
    covariance : array [d, d] or [n, d, d], of the starts; default zero
    scale : length scale of the data, in units of which a path counts as exploded; default the largest absolute start
    flow : also give the derivative of the mean in the start

    References
    ----------
    Van Kampen (2007), Stochastic Processes in Physics and Chemistry, chapter X; Hairer, Norsett, Wanner (1993),
    Solving Ordinary Differential Equations I, section II.1.
    """
    n, d = starts.shape
    size = data_scale(starts, scale)
    clock = jnp.asarray(times)
    if sde.affine and clock.ndim == 1:
        moments = _affine(sde, theta, starts, clock, covariance=covariance, steps=(substeps, most), size=size)
        return moments if flow else moments._replace(flow=None)
    clock = jnp.broadcast_to(clock[:, None], (len(clock), n)) if clock.ndim == 1 else clock
    spread = jnp.zeros((n, d, d)) if covariance is None else jnp.broadcast_to(covariance, (n, d, d))
    begin = TransitionMoments(starts, spread, jnp.broadcast_to(jnp.eye(d), (n, d, d)) if flow else None)
    return _integrate(sde, theta, begin, clock, steps=(substeps, most), size=size)


def data_scale(starts: Array, scale: jax.typing.ArrayLike | None) -> Array:
    """The length scale that was given, or the largest absolute start."""
    return jnp.maximum(jnp.abs(starts).max(), 1e-3) if scale is None else jnp.asarray(scale)


def _affine(
    sde: ReferenceSDE,
    theta: Theta,
    starts: Array,
    clock: Array,
    *,
    covariance: Array | None,
    steps: tuple[int | Array, int | None],
    size: Array,
) -> TransitionMoments:
    """Integrate one particle, at the mean of the starts; the others follow by the flow, which they share."""
    d = starts.shape[1]
    middle = starts.mean(axis=0, keepdims=True)
    own = covariance is not None and jnp.ndim(covariance) == 3
    spread = jnp.zeros((1, d, d)) if covariance is None or own else jnp.asarray(covariance)[None]
    begin = TransitionMoments(middle, spread, jnp.eye(d)[None])
    mean, spread, flow = _integrate(sde, theta, begin, clock[:, None], steps=steps, size=size)
    assert flow is not None
    mean = mean + jnp.einsum("kab,nb->kna", flow[:, 0], starts - middle)
    shape = (*mean.shape, d)
    spread = jnp.broadcast_to(spread, shape)
    if own:
        spread = spread + jnp.einsum("kab,nbc,kdc->knad", flow[:, 0], covariance, flow[:, 0])
    return TransitionMoments(mean, spread, jnp.broadcast_to(flow, shape))


def _integrate(
    sde: ReferenceSDE,
    theta: Theta,
    begin: TransitionMoments,
    clock: Array,
    *,
    steps: tuple[int | Array, int | None],
    size: Array,
) -> TransitionMoments:
    """Classical Runge-Kutta in a scan of scans; in reverse the inner one is run again, so memory grows as K."""
    substeps, most = steps

    def rate(y: TransitionMoments, t: Array, h: Array) -> TransitionMoments:
        slopes: TransitionMoments = jax.vmap(partial(_rate, sde, theta, size))(y, (t, h))
        return slopes

    # The four stages are a loop of their own: written out, the derivatives take three times as long to compile.
    nodes = runge_kutta_nodes(clock.dtype)

    @jax.checkpoint
    def interval(y: TransitionMoments, ends: tuple[Array, Array]) -> tuple[TransitionMoments, TransitionMoments]:
        start, stop = ends
        h = (stop - start) / substeps

        def stage(
            state: tuple[Array, TransitionMoments, TransitionMoments, TransitionMoments], node: tuple[Array, Array]
        ) -> tuple[tuple[Array, TransitionMoments, TransitionMoments, TransitionMoments], None]:
            t, y, slope, total = state
            ahead, share = node
            slope = rate(_add(y, slope, ahead * h), t + ahead * h, h)
            return (t, y, slope, _add(total, slope, share * h)), None

        def step(y: TransitionMoments, i: Array) -> tuple[TransitionMoments, None]:
            zero = jax.tree.map(jnp.zeros_like, y)
            (_, _, _, total), _ = jax.lax.scan(stage, (start + i * h, y, zero, y), nodes)
            return total, None

        def if_due(y: TransitionMoments, i: Array) -> tuple[TransitionMoments, None]:
            later: TransitionMoments = jax.lax.cond(i < substeps, lambda y: step(y, i)[0], lambda y: y, y)
            return later, None

        if isinstance(substeps, int):
            y, _ = jax.lax.scan(step, y, jnp.arange(substeps, dtype=h.dtype))
        elif most is not None:
            y, _ = jax.lax.scan(if_due, y, jnp.arange(most, dtype=h.dtype))
        else:
            y = jax.lax.fori_loop(0, substeps, lambda i, y: step(y, i.astype(h.dtype))[0], y)
        return y, y

    later: TransitionMoments = jax.lax.scan(interval, begin, (clock[:-1], clock[1:]))[1]
    return later


def runge_kutta_nodes(dtype: np.dtype) -> tuple[Array, Array]:
    """Where the four stages of a step evaluate the slope, and their shares; made by NumPy, which compiles nothing."""
    ahead, share = np.array([0.0, 0.5, 0.5, 1.0]), np.array([1.0, 2.0, 2.0, 1.0]) / 6.0
    return jnp.asarray(ahead.astype(dtype)), jnp.asarray(share.astype(dtype))


def _add(y: Tree, slope: Tree, h: Array) -> Tree:
    """Add y + h * slope, one h [n] for each particle."""
    total: Tree = jax.tree.map(lambda a, b: a + h.reshape(-1, *[1] * (a.ndim - 1)) * b, y, slope)
    return total


def _rate(
    sde: ReferenceSDE, theta: Theta, size: Array, y: TransitionMoments, clock: tuple[Array, Array]
) -> TransitionMoments:
    """Time derivative of the moments of one particle at (time, step); an exploded one is moved far off, finitely."""
    t, h = clock
    bound = FAR * size
    x = jnp.clip(y.mean, -bound, bound)

    def drift(x: Array) -> Array:
        return sde.b(theta, x, t)

    velocity, J = drift(x), jax.jacfwd(drift)(x)
    finite = (jnp.abs(y.mean).max() < bound) & (jnp.trace(y.covariance) < WIDE * size**2)
    finite &= (jnp.abs(J).max() * h < STIFF) & (jnp.abs(velocity).max() * h < bound)
    if y.flow is not None:
        finite &= jnp.abs(y.flow).max() < WIDE
    # Moved out of sight: a particle that stood still would look like one without drift.
    velocity, J = jnp.where(finite, velocity, bound / jnp.maximum(h, 1e-30)), jnp.where(finite, J, 0.0)
    half = _product(J, y.covariance)
    noise = jnp.where(finite, sde.diffusion(theta, x, t), 0.0)
    return TransitionMoments(velocity, half + half.T + noise, None if y.flow is None else _product(J, y.flow))


def _product(a: Array, b: Array) -> Array:
    """Matrix product [d, d] of small matrices as sums that fuse: batches of tiny products are slow on processors."""
    return (a[:, :, None] * b[None]).sum(axis=1) if len(a) <= 8 else a @ b


def forward_only(function: Callable[..., Tree], most: int = 12) -> Callable[..., Tree]:
    """The same function (parameters, *data), differentiated forwards whatever mode is asked for; data are constants.

    A long scan is slow in reverse (every step is run again, or stored); with few parameters its Jacobian comes forwards
    at little more than the cost of one run, and reverse mode then only multiplies by it. With more than `most`
    parameters reverse mode stays: the two cost the same at about ten.
    """

    @jax.custom_jvp
    def wrapped(parameters: object, data: tuple[object, ...]) -> Tree:
        return function(parameters, *data)

    @wrapped.defjvp
    def rule(primals: tuple[object, tuple[object, ...]], tangents: tuple[object, object]) -> tuple[Tree, Tree]:
        flat, unravel = ravel_pytree(primals[0])
        tangent = ravel_pytree(tangents[0])[0]

        def along(unit: Array) -> tuple[Tree, Tree]:
            value, derivative = jax.jvp(lambda z: function(unravel(z), *primals[1]), (flat,), (unit,))
            return value, derivative

        value, jacobian = jax.vmap(along, out_axes=(None, 0))(jnp.eye(len(flat), dtype=flat.dtype))
        return value, jax.tree.map(lambda j: jnp.tensordot(tangent, j, 1), jacobian)

    def chosen(parameters: object, *data: object) -> Tree:
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(parameters))
        return wrapped(parameters, data) if 0 < count <= most else function(parameters, *data)

    return chosen
