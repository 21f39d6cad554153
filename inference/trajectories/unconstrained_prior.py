"""Priors of some parameters as functions of one unconstrained vector, where a search moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, biject_to

from tercet.inference.trajectories.bridge_problem import Parameters
from tercet.models._inputs import as_jax


@dataclass(frozen=True, eq=False)
class UnconstrainedPrior:
    """Independent priors on the unconstrained scale, Jacobian included, in 64 bit.

    Attributes
    ----------
    priors : dict of site name to distribution
    start : array [p], the values that were given
    unravel : from a vector [p] to the sites, unconstrained
    """

    priors: Mapping[str, Distribution]
    start: Float[np.ndarray, " p"]
    unravel: Callable[[Array], dict[str, Array]]

    @classmethod
    def of(cls, priors: Mapping[str, Distribution], theta: Parameters) -> UnconstrainedPrior:
        """With its start at theta; raises where theta is outside the support."""
        with jax.enable_x64(True):
            values = {site: biject_to(prior.support).inv(jnp.asarray(theta[site])) for site, prior in priors.items()}
            flat, unravel = ravel_pytree(values)
        start = np.asarray(flat)
        if not np.isfinite(start).all():
            raise ValueError(f"theta lies outside the support of its prior: {dict(theta)}.")
        return cls(priors, start, unravel)

    def constrain(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Parameters at z."""
        with jax.enable_x64(True):
            return {site: np.asarray(value) for site, value in self._parts(jnp.asarray(z))[0].items()}

    def potential(self, z: np.ndarray) -> float:
        """Minus the log prior density at z."""
        with jax.enable_x64(True):
            return float(self._parts(jnp.asarray(z))[1])

    def gradient(self, z: np.ndarray, gradient: Mapping[str, np.ndarray]) -> Float[np.ndarray, " p"]:
        """Gradient in z of the potential plus a function of theta whose gradient in theta is given."""
        with jax.enable_x64(True):
            return np.asarray(self._gradient(jnp.asarray(z), as_jax(dict(gradient))))

    def _split(self, z: Array) -> tuple[dict[str, Array], Array]:
        """Parameters and minus their log prior density."""
        theta, potential = {}, jnp.zeros(())
        for site, value in self.unravel(z).items():
            transform = biject_to(self.priors[site].support)
            theta[site] = transform(value)
            potential -= self.priors[site].log_prob(theta[site]).sum()
            potential -= transform.log_abs_det_jacobian(value, theta[site]).sum()
        return theta, potential

    @cached_property
    def _parts(self) -> Callable[[Array], tuple[dict[str, Array], Array]]:
        return jax.jit(self._split)

    @cached_property
    def _gradient(self) -> Callable[[Array, dict[str, Array]], Array]:
        def linear(z: Array, gradient: dict[str, Array]) -> Array:
            theta, potential = self._split(z)
            return sum((value * gradient[site]).sum() for site, value in theta.items()) + potential

        return jax.jit(jax.grad(linear))
