"""Drifts that are the gradient of a potential, for systems without a known law of motion."""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax.numpy as jnp
import jax.typing
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array
from numpy.typing import ArrayLike

from tercet.models._inputs import as_floats
from tercet.models.trajectories.families import axis_names
from tercet.models.trajectories.reference_sdes import Drift, Theta, as_number


def gradient_field(
    center: ArrayLike,
    scale: ArrayLike,
    potential: Literal["linear", "quadratic", "mlp"] = "mlp",
    width: int = 16,
    strength: float | None = 0.5,
) -> Drift:
    """Drift -grad U of a linear, quadratic or neural potential, in standardised coordinates z = (x - center) / scale.

    - linear: U = -push . z, a constant drift;
    - quadratic: U = z' A z / 2 - push . z with A symmetric (site `curvature`, its upper triangle);
    - mlp: the linear one plus sum_h out_h tanh(W_h . z + bias_h), whose gradient is bounded: particles cannot explode.

    The drift is `strength` times weights with standard Normal priors, in units of `scale` per unit of time: it is
    shrunk to zero where the data do not support one. Choose between potentials by held-out snapshots
    (`tercet.inference.choose_reference`).

    Parameters
    ----------
    center, scale : arrays [d], for example mean and sd of all particles (`Snapshots.center`, `Snapshots.scale`)
    potential : "linear", "quadratic" or "mlp"
    width : hidden units of the mlp
    strength : prior scale of the drift: 0.5 for times in which a cloud moves by about its width in one unit; None to
        learn it under HalfNormal(1), for linear and quadratic potentials only: at the joint mode a neural potential
        takes a large strength and many small weights, which fits noise
    """
    middle = as_floats("center", center, 1).astype(np.float64)
    unit = as_floats("scale", scale, 1).astype(np.float64)
    if middle.shape != unit.shape or (unit <= 0).any():
        raise ValueError(f"center and scale must be [d], scale positive; got {middle.shape}, {unit}.")
    if potential not in ("linear", "quadratic", "mlp"):
        raise ValueError(f'potential must be "linear", "quadratic" or "mlp", got {potential!r}.')
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}.")
    if strength is not None and not 0 < strength < np.inf:
        raise ValueError(f"strength must be positive and finite, got {strength}; None learns it.")
    dim = len(middle)
    priors = {"push": _normal(dim)}
    if potential == "quadratic":
        priors |= {"curvature": _normal(dim * (dim + 1) // 2)}
    elif potential == "mlp":
        priors |= {"weights": _normal(width, dim), "bias": _normal(width, sd=1.5), "out": _normal(width)}
    if strength is None:
        priors |= {"strength": dist.HalfNormal(1.0)}
    function = partial(_descent, center=middle, scale=unit, potential=potential, strength=strength)
    return Drift(function, priors, axis_names(dim), affine=potential != "mlp")


def _normal(*shape: int, sd: float = 1.0) -> dist.Distribution:
    return dist.Normal(0.0, sd).expand(shape).to_event(len(shape))


def _descent(
    theta: Theta,
    x: Array,
    t: jax.typing.ArrayLike,
    *,
    center: np.ndarray | Array,
    scale: np.ndarray | Array,
    potential: str,
    strength: float | Array | None,
) -> Array:
    unit, dim = as_number(scale, x), len(center)
    z = (x - as_number(center, x)) / unit
    force = theta["push"]
    if potential == "quadratic":
        upper = jnp.zeros((dim, dim), x.dtype).at[np.triu_indices(dim)].set(theta["curvature"])
        force = force - (upper + upper.T) @ z / 2.0
    elif potential == "mlp":
        slope = 1.0 / jnp.square(jnp.cosh(jnp.clip(theta["weights"] @ z + theta["bias"], -30.0, 30.0)))
        force = force - (theta["out"] * slope) @ theta["weights"] / np.sqrt(len(theta["out"]))
    return (theta["strength"] if strength is None else strength) * force * unit
