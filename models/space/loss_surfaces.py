"""Surfaces of losses over sites as NumPyro models: a Gaussian process, exact or by its Hilbert-space basis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from tercet.models.space.kernels import KERNELS, SMOOTHNESS, covariance
from tercet.models.space.sites import Sites

FAMILIES = ("normal", "log-normal", "gamma", "student")
WALL = 1.5
"""Half-width of the box of the basis, in units of the frame: beyond the sites, where it is forced to zero."""
BASIS = {1: 64, 2: 24, 3: 12}
"""Eigenfunctions a dimension, by dimension: the finest features are a tenth of the sites' extent in two."""
JITTER = 1e-8


@dataclass(frozen=True)
class LossSurface:
    """Losses at sites, around a surface f(s) = level + Gaussian process: `model(sites, losses)`.

    normal      loss ~ Normal(f(s), noise^2),               expected loss f
    log-normal  log loss ~ Normal(f(s), noise^2),           expected loss exp(f + noise^2 / 2)
    gamma       loss ~ Gamma(shape, mean exp(f(s))),        expected loss exp(f)
    student     loss ~ StudentT(freedom, f(s), noise),      expected loss f

    The process has variance amplitude^2 and the named kernel with `length`. Exact, it costs n^3 (a few thousand
    sites). Otherwise f = level + Phi(s) w with the first `basis` eigenfunctions a dimension of a box half as large
    again as the sites, at any n. For the normal families the process is integrated out: what is left are four
    parameters, and Laplace's approximation of them is good. For the others it is sampled (non-centred): use `nuts`.

    Parameters
    ----------
    frame : Frame
    family : see above. "normal" aims at the mean whatever the law of the losses. "log-normal" and "gamma" need positive
        losses that have this law: squares of normal errors are gamma of shape 1/2, "log-normal" would treble their mean
    kernel : "matern 1/2", "matern 3/2", "matern 5/2" or "squared exponential"
    basis : eigenfunctions a dimension; 0 for the exact process
    center, spread : of the (log) losses: the priors' units

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
    family: str = "normal"
    kernel: str = "matern 3/2"
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
    def around(cls, losses: ArrayLike, *sites: Sites | ArrayLike, **options: Any) -> LossSurface:
        """Surface over all these sites (validation and test), its priors in units of the losses."""
        frame = Frame.around(*sites)
        values = as_floats("losses", losses, 1).astype(np.float64)
        family = options.get("family", "normal")
        _check_positive(values, family)
        seen = np.log(values) if family in ("log-normal", "gamma") else values
        spread = float(seen.std()) or 1.0
        options = {"basis": BASIS.get(frame.dim, 0), "center": float(seen.mean()), "spread": spread} | options
        return cls(frame, **options)

    @property
    def collapsed(self) -> bool:
        """Whether the process is integrated out."""
        return self.family in ("log-normal", "normal")

    def functions(self, coordinates: Any) -> Any:
        """Eigenfunctions [n, basis^q] at coordinates [n, q] of the frame."""
        return eigenfunctions(coordinates, WALL, [self.basis] * self.frame.dim)

    def slopes(self, coordinates: Any) -> Any:
        """Their derivatives [q, n, basis^q] along the axes of the frame."""
        units = jnp.eye(self.frame.dim, dtype=coordinates.dtype)
        along = [jnp.broadcast_to(unit, coordinates.shape) for unit in units]
        return jnp.stack([jax.jvp(self.functions, (coordinates,), (tangent,))[1] for tangent in along])

    def scales(self, amplitude: Any, length: Any) -> Any:
        """Prior standard deviations [basis^q] of the weights: roots of the kernel's spectral density."""
        shape = {"ell": WALL, "m": [self.basis] * self.frame.dim, "dim": self.frame.dim}
        if self.kernel == "squared exponential":
            density = diag_spectral_density_squared_exponential(alpha=amplitude, length=length, **shape)
        else:
            density = diag_spectral_density_matern(SMOOTHNESS[self.kernel], amplitude, length, **shape)
        return jnp.sqrt(density)

    def __call__(self, sites: Any, losses: Any = None) -> None:
        """Sample the parameters and observe the losses."""
        places = as_jax(self.frame.coordinates(sites))
        seen = None if losses is None else _as_seen(losses, self.family)
        level = numpyro.sample("level", dist.Normal(self.center, 2 * self.spread))
        amplitude = numpyro.sample("amplitude", dist.HalfNormal(1.5 * self.spread))
        length = numpyro.sample("length", dist.LogNormal(np.log(0.4), 0.7))
        if self.collapsed:
            noise = numpyro.sample("noise", dist.HalfNormal(1.5 * self.spread))
            numpyro.sample("losses", self._marginal(places, level, amplitude, length, noise), obs=seen)
            return
        root = self._root(places, amplitude, length)
        base = numpyro.sample("process", dist.Normal(0.0, 1.0).expand([root.shape[1]]).to_event(1))
        surface = numpyro.deterministic("surface", level + root @ base)
        if self.family == "gamma":
            shape = numpyro.sample("shape", dist.LogNormal(0.0, 1.0))
            law: Any = dist.Gamma(shape, shape * jnp.exp(-surface))
        else:
            noise = numpyro.sample("noise", dist.HalfNormal(1.5 * self.spread))
            law = dist.StudentT(numpyro.sample("freedom", dist.Gamma(2.0, 0.1)), surface, noise)
        with numpyro.plate("site", len(places)):
            numpyro.sample("losses", law, obs=seen)

    def covariance(self, places: Any, others: Any, amplitude: Any, length: Any) -> Any:
        """Prior covariances [n, m] of the exact process at coordinates of the frame."""
        return amplitude**2 * covariance(self.kernel, places, others, length)

    def _marginal(self, places: Any, level: Any, amplitude: Any, length: Any, noise: Any) -> Any:
        if self.basis:
            return BasisNormal(self._phi(places), level, self.scales(amplitude, length), noise)
        whole = self.covariance(places, places, amplitude, length)
        whole += (noise**2 + JITTER * amplitude**2) * jnp.eye(len(places))
        return dist.MultivariateNormal(jnp.full(len(places), level), whole)

    def _root(self, places: Any, amplitude: Any, length: Any) -> Any:
        """A matrix that turns white noise into the process at the sites."""
        if self.basis:
            return self._phi(places) * self.scales(amplitude, length)
        whole = covariance(self.kernel, places, places, length) + 10 * JITTER * jnp.eye(len(places))
        return amplitude * jnp.linalg.cholesky(whole)

    def _phi(self, places: Any) -> Any:
        with jax.ensure_compile_time_eval():  # no parameter in it: a constant of the program
            return self.functions(places)

    def expected(self, surface: Any, sites: Any) -> Any:
        """Expected loss of a surface f under parameters: what the family makes of it."""
        if self.family == "log-normal":
            return np.exp(surface + 0.5 * np.square(sites["noise"]))
        return np.exp(surface) if self.family == "gamma" else surface


def _as_seen(losses: Any, family: str) -> Any:
    """What the model observes: logarithms for the log-normal family."""
    if not is_concrete(losses):
        return jnp.log(losses) if family == "log-normal" else losses
    values = np.asarray(losses)
    _check_positive(values, family)
    return as_jax(np.log(values) if family == "log-normal" else values)


def _check_positive(values: np.ndarray, family: str) -> None:
    if family in ("log-normal", "gamma") and not float(values.min()) > 0:
        zeros = int((values <= 0).sum())
        raise ValueError(
            f"{zeros} loss(es) are zero or negative, which the {family} family cannot have; use family='student' or "
            "'normal', or add the smallest loss that matters."
        )
