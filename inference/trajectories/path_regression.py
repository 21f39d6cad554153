"""Regression of a drift on the increments of paths: the drift given bridges, one half of reference refinement."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from tercet.inference.posteriors.minimise import minimise
from tercet.inference.trajectories.bridge_paths import MultimarginalBridge
from tercet.inference.trajectories.bridge_problem import Parameters
from tercet.inference.trajectories.conditioning import paths_between
from tercet.inference.trajectories.unconstrained_prior import UnconstrainedPrior
from tercet.models._inputs import KeyLike, as_jax, as_key
from tercet.models._size_classes import padded, size_class
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta
from tercet.models.trajectories.transitions import inverse_and_log_det

COPIES = 4  # paths to each particle


class PathSteps(NamedTuple):
    """Steps of N paths: states before and after [N, S, d], begin and length [N, S], share [N]; 64-bit JAX arrays.

    Filled up to a class of sizes by copies of the first path, whose share is zero.
    """

    before: Array
    after: Array
    begin: Array
    length: Array
    share: Array


def sample_steps(whole: MultimarginalBridge, path_steps: int, key: KeyLike) -> PathSteps:
    """Draw paths to each particle of each later snapshot, in `path_steps` steps."""
    keys = jax.random.split(as_key(key), len(whole.bridges) + 1)
    width = COPIES * max(len(bridge.target) for bridge in whole.bridges)
    source, target, clocks = [], [], []
    for k, bridge in enumerate(whole.bridges):
        # Columns repeat where snapshots are of unequal size: one program for all; the repeats are dropped below.
        columns = np.arange(width) % len(bridge.target)
        source.append(bridge.source[bridge.sources(columns, keys[k])])
        target.append(bridge.target[columns])
        clocks.append(np.linspace(bridge.start, bridge.stop, path_steps + 1))
    first = whole.bridges[0]
    paths = paths_between(
        first.sde,
        first.theta,
        source=np.stack(source),
        target=np.stack(target),
        ends=np.array([[bridge.start, bridge.stop] for bridge in whole.bridges]),
        times=clocks,
        relinearise=0,
        substeps=path_steps,
        key=keys[-1],
    )
    kept = [path[: COPIES * len(bridge.target)] for path, bridge in zip(paths, whole.bridges, strict=True)]
    counts = [len(path) for path in kept]
    path, size = np.concatenate(kept), size_class(sum(counts))
    begin, length = (np.repeat(part, counts, axis=0) for part in ([c[:-1] for c in clocks], np.diff(clocks)))
    row = np.where(np.arange(size) < len(path), np.arange(size), 0)
    share = padded(np.full(len(path), 1.0 / COPIES), size)
    with jax.enable_x64(True):
        return PathSteps(*as_jax((path[row, :-1], path[row, 1:], begin[row], length[row], share)))


def fit_drift(
    sde: ReferenceSDE, steps: PathSteps, prior: UnconstrainedPrior, fixed: Parameters, start: np.ndarray
) -> Float[np.ndarray, " p"]:
    """Unconstrained drift parameters that fit the steps best, the prior included; the volatility is at `fixed`."""
    with jax.enable_x64(True):
        theta = as_jax({**prior.constrain(start), **fixed})
        known = as_jax(sde)
        precision, definite = _precision(known, theta, steps)
    if not np.asarray(definite).all():
        raise ValueError(
            "the regression of increments needs noise on every coordinate in every state; use method='bridge'."
        )

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        with jax.enable_x64(True):
            value, gradient = _misfit(known, as_jax({**prior.constrain(z), **fixed}), steps, precision)
        return float(value) + prior.potential(z), prior.gradient(z, {k: np.asarray(v) for k, v in gradient.items()})

    return minimise(objective, start, value_tolerance=1e-12, gradient_tolerance=1e-5).point


@jax.jit
def _precision(sde: ReferenceSDE, theta: Theta, steps: PathSteps) -> tuple[Array, Array]:
    """Inverse (s s')^-1 [N, S, d, d] at the start of each step, and whether there is one."""
    diffusion = jax.vmap(jax.vmap(partial(sde.diffusion, theta)))(steps.before, steps.begin)
    inverse, _, definite = inverse_and_log_det(diffusion)
    return inverse, definite > 0


@jax.jit
def _misfit(sde: ReferenceSDE, theta: dict[str, Array], steps: PathSteps, precision: Array) -> tuple[Array, Theta]:
    """Sum |dX - int b dt|^2 / (2 dt) and its gradient; the drift over a step by one Runge-Kutta step.

    With b dt instead (Euler) the rates would be off by about half of (rate times dt).
    """

    def misfit(theta: dict[str, Array]) -> Array:
        drift = jax.vmap(jax.vmap(partial(sde.b, theta)))
        x, t, h = steps.before, steps.begin, steps.length
        wide = h[..., None]
        k1 = drift(x, t)
        k2 = drift(x + wide / 2 * k1, t + h / 2)
        k3 = drift(x + wide / 2 * k2, t + h / 2)
        k4 = drift(x + wide * k3, t + h)
        residual = steps.after - x - wide * (k1 + 2 * k2 + 2 * k3 + k4) / 6
        each = (((precision @ residual[..., None])[..., 0] * residual).sum(axis=-1) / h).sum(axis=1)
        total: Array = 0.5 * (steps.share * each).sum()
        return total

    return jax.value_and_grad(misfit)(theta)
