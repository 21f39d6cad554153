"""NumPyro models of loss surfaces on checked data: coordinates, functions or summaries, filled up to a size class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import Distribution, constraints
from numpyro.handlers import scale

from tercet.models._partition import ModelPytree
from tercet.models.space.basis_normal import Summary, SummaryNormal
from tercet.models.space.kernels import Kernel, covariance
from tercet.models.space.marginal_likelihoods import JITTER
from tercet.models.space.spectral_basis import SpectralBasis
from tercet.models.space.surface_potential import LEVEL_SPREADS, LOG_LENGTH, LOG_LENGTH_SD, SD_SPREADS

Family = Literal["normal", "log-normal", "gamma", "student"]


class Process(NamedTuple):
    """Parameters of the surface: its level, and amplitude and length of the process around it."""

    level: jax.Array
    amplitude: jax.Array
    length: jax.Array


@dataclass(frozen=True)
class SurfacePrior(ModelPytree):
    """Prior of the parameters, in units of the (log) losses.

    Parameters
    ----------
    center, spread : mean and standard deviation of the (log) losses
    """

    center: float
    spread: float

    def process(self) -> Process:
        """Sample level, amplitude and length."""
        return Process(
            numpyro.sample("level", dist.Normal(self.center, LEVEL_SPREADS * self.spread)),
            numpyro.sample("amplitude", dist.HalfNormal(SD_SPREADS * self.spread)),
            numpyro.sample("length", dist.LogNormal(LOG_LENGTH, LOG_LENGTH_SD)),
        )

    def noise(self) -> jax.Array:
        """Sample the standard deviation of the noise."""
        noise: jax.Array = numpyro.sample("noise", dist.HalfNormal(SD_SPREADS * self.spread))
        return noise

    def around(self, surface: jax.Array, family: Family) -> Distribution:
        """The distribution of losses around a surface that is not integrated out."""
        if family == "gamma":
            shape = numpyro.sample("shape", dist.LogNormal(0.0, 1.0))
            return dist.Gamma(shape, shape * jnp.exp(-surface))
        noise = self.noise()
        return dist.StudentT(numpyro.sample("freedom", dist.Gamma(2.0, 0.1)), surface, noise)


@dataclass(frozen=True)
class SummarisedSurface(ModelPytree):
    """Normal noise around functions with normal weights, integrated out: one program for any number of sites.

    Parameters
    ----------
    prior, basis : of the surface
    """

    prior: SurfacePrior
    basis: SpectralBasis

    def __call__(self, summary: Summary) -> None:
        level, amplitude, length = self.prior.process()
        scales = self.basis.scales(amplitude, length)
        numpyro.sample("losses", SummaryNormal(summary, level, scales, self.prior.noise()), obs=summary.moment)


@dataclass(frozen=True)
class CollapsedProcess(ModelPytree):
    """Normal noise around an exact process, integrated out; sites of weight zero do not count.

    Parameters
    ----------
    prior, kernel : of the surface
    """

    prior: SurfacePrior
    kernel: Kernel

    def __call__(self, coordinates: jax.Array, response: jax.Array, weight: jax.Array) -> None:
        level, amplitude, length = self.prior.process()
        total = amplitude**2 * covariance(self.kernel, coordinates, coordinates, length)
        noise = self.prior.noise() ** 2 + JITTER * amplitude**2
        numpyro.sample("losses", WeightedProcess(total, level, noise, weight), obs=response)


@dataclass(frozen=True)
class SampledSurface(ModelPytree):
    """Losses of any family around functions whose weights are sampled; sites of weight zero do not count.

    The surface itself is left out: it follows from the weights (`LossSurface.completed`).

    Parameters
    ----------
    prior, basis, family : of the surface
    """

    prior: SurfacePrior
    basis: SpectralBasis
    family: Family

    def __call__(self, phi: jax.Array, response: jax.Array, weight: jax.Array) -> None:
        level, amplitude, length = self.prior.process()
        white = numpyro.sample("process", dist.Normal(0.0, 1.0).expand([phi.shape[1]]).to_event(1))
        surface = level + phi @ (self.basis.scales(amplitude, length) * white)
        likelihood = self.prior.around(surface, self.family)
        with numpyro.plate("site", len(phi)), scale(scale=weight):
            numpyro.sample("losses", likelihood, obs=response)


class WeightedProcess(Distribution):  # type: ignore[misc]
    """y ~ Normal(level, K + noise I) over the entries of weight one; those of weight zero change nothing.

    Parameters
    ----------
    covariance : array [n, n], K
    level, noise : scalars, noise a variance
    weight : array [n] of zeros and ones
    validate_args : as in NumPyro
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (NumPyro's own convention)
    support = constraints.real_vector

    def __init__(
        self, covariance: jax.Array, level: Any, noise: Any, weight: jax.Array, *, validate_args: bool | None = None
    ) -> None:
        self.covariance, self.level, self.noise, self.weight = covariance, level, noise, weight
        super().__init__(batch_shape=(), event_shape=weight.shape, validate_args=validate_args)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density of values [n]."""
        both = self.weight[:, None] * self.weight
        diagonal = self.weight * self.noise + (1.0 - self.weight)
        factor = jnp.linalg.cholesky(both * self.covariance + jnp.diag(diagonal))
        white = solve_triangular(factor, self.weight * (value - self.level), lower=True)
        log_det = 2 * jnp.log(jnp.diagonal(factor)).sum() + self.weight.sum() * jnp.log(2 * jnp.pi)
        return jnp.asarray(-0.5 * (white @ white + log_det))
