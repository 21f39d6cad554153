"""Priors of some parameters as functions of one unconstrained vector, where a search moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, biject_to

from tercet.inference.trajectories.bridge_problem import Parameters
from tercet.models._inputs import as_jax
from tercet.models.trajectories.structure import Structural


@dataclass(frozen=True, eq=False)
class UnconstrainedPrior(Structural):
    """Independent priors on the unconstrained scale, Jacobian included, in 64 bit.

    A vector [p] holds the sites in order of their names.

    Attributes
    ----------
    priors : dict of site name to distribution
    start : array [p], the values that were given
    shapes : unconstrained shape of each site, by name
    """

    priors: Mapping[str, Distribution]
    start: Float[np.ndarray, " p"]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, priors: Mapping[str, Distribution], theta: Parameters) -> UnconstrainedPrior:
        """With its start at theta; raises where theta is outside the support."""
        with jax.enable_x64(True):
            values = {
                site: np.asarray(biject_to(prior.support).inv(as_jax(np.asarray(theta[site]))))
                for site, prior in sorted(priors.items())
            }
        start = np.concatenate([np.ravel(value) for value in values.values()]).astype(np.float64)
        if not np.isfinite(start).all():
            raise ValueError(f"theta lies outside the support of its prior: {dict(theta)}.")
        return cls(priors, start, tuple((site, value.shape) for site, value in values.items()))

    def constrain(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Parameters at z."""
        with jax.enable_x64(True):
            return {site: np.asarray(value) for site, value in _parts(*as_jax((self, z)))[0].items()}

    def potential(self, z: np.ndarray) -> float:
        """Minus the log prior density at z."""
        with jax.enable_x64(True):
            return float(_parts(*as_jax((self, z)))[1])

    def gradient(self, z: np.ndarray, gradient: Mapping[str, np.ndarray]) -> Float[np.ndarray, " p"]:
        """Gradient in z of the potential plus a function of theta whose gradient in theta is given."""
        with jax.enable_x64(True):
            return np.asarray(_gradient(*as_jax((self, z, dict(gradient)))))


@jax.jit
def _parts(prior: UnconstrainedPrior, z: Array) -> tuple[dict[str, Array], Array]:
    """Parameters and minus their log prior density."""
    theta, potential, begin = {}, jnp.zeros(()), 0
    for site, shape in prior.shapes:
        end = begin + int(np.prod(shape))
        value, begin = z[begin:end].reshape(shape), end
        transform = biject_to(prior.priors[site].support)
        theta[site] = transform(value)
        potential -= prior.priors[site].log_prob(theta[site]).sum()
        potential -= transform.log_abs_det_jacobian(value, theta[site]).sum()
    return theta, potential


@jax.jit
def _gradient(prior: UnconstrainedPrior, z: Array, gradient: dict[str, Array]) -> Array:
    def linear(z: Array) -> Array:
        theta, potential = _parts(prior, z)
        total: Array = sum(((value * gradient[site]).sum() for site, value in theta.items()), potential)
        return total

    slope: Array = jax.grad(linear)(z)
    return slope
