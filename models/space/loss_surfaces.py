"""Surfaces of losses over sites as NumPyro models: a Gaussian process, exact or by its Hilbert-space basis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpy.typing import ArrayLike
from numpyro.contrib.hsgp.laplacian import eigenfunctions
from numpyro.contrib.hsgp.spectral_densities import (
    diag_spectral_density_matern,
    diag_spectral_density_squared_exponential,
)

from tercet.models._inputs import as_floats, as_jax, is_concrete
from tercet.models.space.basis_normal import BasisNormal
from tercet.models.space.frames import Frame
from tercet.models.space.kernels import KERNELS, SMOOTHNESS, Array, Kernel, covariance
from tercet.models.space.sites import Sites

Family = Literal["normal", "log-normal", "gamma", "student"]
FAMILIES: tuple[Family, ...] = get_args(Family)
POSITIVE = ("log-normal", "gamma")
"""Families of positive losses: the surface is the logarithm of the expected loss, up to a constant."""
WALL = 1.5
"""Half-width of the box of the basis, in units of the frame; at its boundary the process is zero."""
BASIS = {1: 64, 2: 24, 3: 12}
"""Eigenfunctions per dimension, by number of dimensions; 24 resolve a tenth of the extent of the sites."""
JITTER = 1e-8


@dataclass(frozen=True)
class LossSurface:
    """Losses at sites around a surface f(s) = level + Gaussian process: `model(sites, losses)`.

    normal      loss ~ Normal(f(s), noise^2),               expected loss f
    log-normal  log loss ~ Normal(f(s), noise^2),           expected loss exp(f + noise^2 / 2)
    gamma       loss ~ Gamma(shape, mean exp(f(s))),        expected loss exp(f)
    student     loss ~ StudentT(freedom, f(s), noise),      expected loss f

    The process has variance amplitude^2 and the named kernel with `length`. The exact process costs n^3 (a few thousand
    sites). Otherwise f = level + Phi(s) w with the first `basis` eigenfunctions per dimension of the Laplacian on a box
    half as large again as the extent of the sites, at any n. For the normal and log-normal families the process is
    integrated out, which leaves four parameters: `laplace` approximates them well. For the others it is sampled
    (non-centred): use `nuts`.

    Parameters
    ----------
    frame : Frame
    family : see above. "normal" estimates the mean whatever the distribution of the losses. "log-normal" and "gamma"
        need positive losses of that distribution: squares of normal errors are gamma with shape 1/2, and "log-normal"
        would overestimate their mean threefold
    kernel : "matern 1/2", "matern 3/2", "matern 5/2" or "squared exponential"
    basis : eigenfunctions per dimension; 0 for the exact process
    center, spread : location and scale of the priors: mean and standard deviation of the (log) losses

    Sites
    -----
    level ~ Normal(center, 2 spread), amplitude ~ HalfNormal(1.5 spread), noise ~ HalfNormal(1.5 spread),
    length ~ LogNormal(log 0.4, 0.7) in units of the frame (half the extent of the sites), shape ~ LogNormal(0, 1),
    freedom ~ Gamma(2, 0.1), `process` (standard normal) [basis^q] or [n] where it is sampled.

    References
    ----------
    Solin, Särkkä (2020), Statistics and Computing 30; Riutort-Mayol et al. (2023), Statistics and Computing 33.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import laplace
    >>> from tercet.models import LossSurface
    >>> rng = np.random.default_rng(0)
    >>> sites = rng.uniform(size=(200, 1))
    >>> losses = np.exp(np.sin(6 * sites[:, 0]) + 0.3 * rng.normal(size=200))
    >>> fit = laplace(LossSurface.around(losses, sites, family="log-normal"), sites, losses)
    >>> bool(0.2 < fit.mean()["noise"] < 0.4)
    True
    """

    frame: Frame
    _: KW_ONLY
    family: Family = "normal"
    kernel: Kernel = "matern 3/2"
    basis: int = 24
    center: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {FAMILIES}, got {self.family!r}.")
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {KERNELS}, got {self.kernel!r}.")
        if self.basis and self.frame.dim > 3:
            raise ValueError(
                f"a basis in {self.frame.dim} dimensions has too many functions; give basis=0 for the exact process."
            )

    @classmethod
    def around(
        cls,
        losses: ArrayLike,
        *sites: Sites | ArrayLike,
        family: Family = "normal",
        kernel: Kernel = "matern 3/2",
        basis: int | None = None,
        center: float | None = None,
        spread: float | None = None,
    ) -> LossSurface:
        """Build a surface over all these sites (validation and test), its priors in units of the losses.

        Parameters
        ----------
        losses : array [n]
        sites : Sites or arrays [., d], which the frame has to hold
        family, kernel : as of the class
        basis : by default 64, 24 or 12 eigenfunctions per dimension in one, two or three dimensions, 0 beyond
        center, spread : by default mean and standard deviation of the (log) losses
        """
        frame = Frame.around(*sites)
        values = as_floats("losses", losses, 1).astype(np.float64)
        _check_positive(values, family)
        response = np.log(values) if family in POSITIVE else values
        return cls(
            frame,
            family=family,
            kernel=kernel,
            basis=BASIS.get(frame.dim, 0) if basis is None else basis,
            center=float(response.mean()) if center is None else center,
            spread=(float(response.std()) or 1.0) if spread is None else spread,
        )

    @property
    def collapsed(self) -> bool:
        """Whether the process is integrated out."""
        return self.family in ("log-normal", "normal")

    def functions(self, coordinates: jax.Array) -> jax.Array:
        """Eigenfunctions [n, basis^q] at coordinates [n, q] of the frame."""
        values: jax.Array = eigenfunctions(coordinates, WALL, [self.basis] * self.frame.dim)
        return values

    def derivatives(self, coordinates: jax.Array) -> jax.Array:
        """Derivatives [q, n, basis^q] of the eigenfunctions along the axes of the frame."""
        units = jnp.eye(self.frame.dim, dtype=coordinates.dtype)
        directions = [jnp.broadcast_to(unit, coordinates.shape) for unit in units]
        return jnp.stack([jax.jvp(self.functions, (coordinates,), (direction,))[1] for direction in directions])

    def scales(self, amplitude: float | jax.Array, length: float | jax.Array) -> jax.Array:
        """Prior standard deviations [basis^q] of the weights: square roots of the kernel's spectral density."""
        box = {"ell": WALL, "m": [self.basis] * self.frame.dim, "dim": self.frame.dim}
        if self.kernel == "squared exponential":
            density = diag_spectral_density_squared_exponential(alpha=amplitude, length=length, **box)
        else:
            density = diag_spectral_density_matern(SMOOTHNESS[self.kernel], amplitude, length, **box)
        return jnp.sqrt(density)

    def covariance(self, x: Array, y: Array, amplitude: float | Array, length: float | Array) -> Array:
        """Prior covariances [n, m] of the exact process between coordinates x [n, q] and y [m, q] of the frame."""
        return amplitude**2 * covariance(self.kernel, x, y, length)

    def expected(self, surface: np.ndarray | float, parameters: Mapping[str, np.ndarray | float]) -> np.ndarray | float:
        """Expected loss where the surface has these values, given the parameters of the family."""
        if self.family == "log-normal":
            return np.exp(surface + 0.5 * np.square(parameters["noise"]))
        return np.exp(surface) if self.family == "gamma" else surface

    def __call__(self, sites: Sites | ArrayLike, losses: ArrayLike | None = None) -> None:
        """Sample the parameters and observe the losses."""
        coordinates = as_jax(self.frame.coordinates(sites))
        response = None if losses is None else _response(losses, self.family)
        level = numpyro.sample("level", dist.Normal(self.center, 2 * self.spread))
        amplitude = numpyro.sample("amplitude", dist.HalfNormal(1.5 * self.spread))
        length = numpyro.sample("length", dist.LogNormal(np.log(0.4), 0.7))
        if self.collapsed:
            noise = numpyro.sample("noise", dist.HalfNormal(1.5 * self.spread))
            marginal = self._marginal(coordinates, level, amplitude, length, noise)
            numpyro.sample("losses", marginal, obs=response)
            return
        root = self._root(coordinates, amplitude, length)
        white = numpyro.sample("process", dist.Normal(0.0, 1.0).expand([root.shape[1]]).to_event(1))
        surface = numpyro.deterministic("surface", level + root @ white)
        if self.family == "gamma":
            shape = numpyro.sample("shape", dist.LogNormal(0.0, 1.0))
            likelihood: dist.Distribution = dist.Gamma(shape, shape * jnp.exp(-surface))
        else:
            noise = numpyro.sample("noise", dist.HalfNormal(1.5 * self.spread))
            likelihood = dist.StudentT(numpyro.sample("freedom", dist.Gamma(2.0, 0.1)), surface, noise)
        with numpyro.plate("site", len(coordinates)):
            numpyro.sample("losses", likelihood, obs=response)

    def _marginal(
        self, coordinates: jax.Array, level: jax.Array, amplitude: jax.Array, length: jax.Array, noise: jax.Array
    ) -> dist.Distribution:
        """Distribution of the (log) losses, the process integrated out."""
        if self.basis:
            return BasisNormal(self._phi(coordinates), level, self.scales(amplitude, length), noise)
        total = self.covariance(coordinates, coordinates, amplitude, length)
        total += (noise**2 + JITTER * amplitude**2) * jnp.eye(len(coordinates))
        return dist.MultivariateNormal(jnp.full(len(coordinates), level), total)

    def _root(self, coordinates: jax.Array, amplitude: jax.Array, length: jax.Array) -> jax.Array:
        """R [n, b] with R R' the covariance of the process at the sites."""
        if self.basis:
            return self._phi(coordinates) * self.scales(amplitude, length)
        correlation = covariance(self.kernel, coordinates, coordinates, length)
        factor: jax.Array = jnp.linalg.cholesky(correlation + 10 * JITTER * jnp.eye(len(coordinates)))
        return amplitude * factor

    def _phi(self, coordinates: jax.Array) -> jax.Array:
        with jax.ensure_compile_time_eval():  # it holds no parameter: a constant of the program
            return self.functions(coordinates)


def _response(losses: ArrayLike, family: Family) -> jax.Array:
    """What the model observes: the losses, or their logarithms for the log-normal family."""
    if isinstance(losses, jax.Array) and not is_concrete(losses):
        return jnp.log(losses) if family == "log-normal" else losses
    values = np.asarray(losses)
    _check_positive(values, family)
    response: jax.Array = as_jax(np.log(values) if family == "log-normal" else values)
    return response


def _check_positive(values: np.ndarray, family: Family) -> None:
    if family in POSITIVE and not float(values.min()) > 0:
        zeros = int((values <= 0).sum())
        raise ValueError(
            f"{zeros} loss(es) are zero or negative, which the {family} family cannot have; use family='student' or "
            "'normal', or add the smallest loss that matters."
        )
