"""Surfaces of losses over sites as NumPyro models: a Gaussian process, exact or by its Hilbert-space basis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpy.typing import ArrayLike

from tercet.models._inputs import as_floats, as_jax, is_concrete
from tercet.models._partition import ModelPytree
from tercet.models._size_classes import padded, size_class
from tercet.models._storable import Storable
from tercet.models.space.basis_normal import BasisNormal, summarised
from tercet.models.space.frames import Frame
from tercet.models.space.kernels import KERNELS, Array, Kernel, covariance, module
from tercet.models.space.marginal_likelihoods import JITTER
from tercet.models.space.pointwise_losses import at_surface, integrated_out
from tercet.models.space.sites import Sites
from tercet.models.space.spectral_basis import SpectralBasis
from tercet.models.space.surface_models import (
    CollapsedProcess,
    Family,
    SampledSurface,
    SummarisedSurface,
    SurfacePrior,
)
from tercet.models.space.surface_potential import SurfacePotential, basis_potential, process_potential

FAMILIES: tuple[Family, ...] = get_args(Family)
POSITIVE = ("log-normal", "gamma")
"""Families of positive losses: the surface is the logarithm of the expected loss, up to a constant."""
BASIS = {1: 64, 2: 24, 3: 12}
"""Eigenfunctions per dimension, by number of dimensions; 24 resolve a tenth of the extent of the sites."""
COARSE, COARSE_ROWS = 128, 4096
"""Numbers of sites where finer size classes begin: of an exact process, whose cost is their cube, and of a basis."""


@dataclass(frozen=True)
class LossSurface(ModelPytree, Storable):
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

    @property
    def spectrum(self) -> SpectralBasis:
        """The basis of the process."""
        return SpectralBasis(self.kernel, self.basis, self.frame.dim)

    def functions(self, coordinates: Array) -> Array:
        """Eigenfunctions [n, basis^q] at coordinates [n, q] of the frame."""
        return self.spectrum.functions(coordinates)

    def derivatives(self, coordinates: Array) -> Array:
        """Derivatives [q, n, basis^q] of the eigenfunctions along the axes of the frame."""
        return self.spectrum.derivatives(coordinates)

    def scales(self, amplitude: float | Array, length: float | Array) -> Array:
        """Prior standard deviations [..., basis^q] of the weights: square roots of the kernel's spectral density."""
        return self.spectrum.scales(amplitude, length)

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
        prior = self._prior
        level, amplitude, length = prior.process()
        if self.collapsed:
            marginal = self._marginal(coordinates, level, amplitude, length, prior.noise())
            numpyro.sample("losses", marginal, obs=response)
            return
        root = self._root(coordinates, amplitude, length)
        white = numpyro.sample("process", dist.Normal(0.0, 1.0).expand([root.shape[1]]).to_event(1))
        likelihood = prior.around(numpyro.deterministic("surface", level + root @ white), self.family)
        with numpyro.plate("site", len(coordinates)):
            numpyro.sample("losses", likelihood, obs=response)

    def data(self, sites: Sites | ArrayLike, losses: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates [n, q] in the frame, and what the model observes there: the losses, or their logarithms [n]."""
        coordinates, values = self.frame.coordinates(sites), as_floats("losses", losses, 1).astype(np.float64)
        _check_positive(values, self.family)
        if len(values) != len(coordinates):
            raise ValueError(f"losses has {len(values)} entries for {len(coordinates)} sites; give one per site.")
        return coordinates, np.log(values) if self.family == "log-normal" else values

    def prepared(
        self, sites: Sites | ArrayLike, losses: ArrayLike | None = None
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """An equal model on checked data: a summary where that is enough, else filled up to a size class."""
        if losses is None:
            return self, (sites,), {}
        coordinates, response = self.data(sites, losses)
        if self.collapsed and self.basis:
            summary = summarised(self.functions(coordinates), response)
            return SummarisedSurface(self._prior, self.spectrum), (summary,), {}
        if not self.basis and not self.collapsed:  # the process has an entry for each site: no room for others
            return self, (sites, losses), {}
        size = size_class(len(response), COARSE if self.collapsed else COARSE_ROWS)
        weight = padded(np.ones(len(response)), size)
        filled = padded(response, size, 1.0)
        if self.collapsed:
            return CollapsedProcess(self._prior, self.kernel), (padded(coordinates, size), filled, weight), {}
        model = SampledSurface(self._prior, self.spectrum, self.family)
        return model, (padded(self.functions(coordinates), size), filled, weight), {}

    def completed(
        self, draws: Mapping[str, np.ndarray], sites: Sites | ArrayLike, losses: ArrayLike | None = None
    ) -> dict[str, np.ndarray]:
        """The surface [n, sites] under n draws, for the families in which it is sampled."""
        if self.collapsed or "process" not in draws:
            return {}
        coordinates = self.frame.coordinates(sites)
        level, process = np.asarray(draws["level"])[:, None], np.asarray(draws["process"], np.float64)
        amplitude, length = (np.asarray(draws[name], np.float64) for name in ("amplitude", "length"))
        if self.basis:
            return {"surface": level + (self.scales(amplitude, length) * process) @ self.functions(coordinates).T}
        rows = zip(amplitude, length, process, strict=True)
        return {"surface": level + np.stack([self._root(coordinates, a, one) @ white for a, one, white in rows])}

    def potential(self, sites: Sites | ArrayLike, losses: ArrayLike | None = None) -> SurfacePotential | None:
        """Minus the log posterior in closed form, where the process is integrated out; None where it is not."""
        if losses is None or not self.collapsed:
            return None
        coordinates, response = self.data(sites, losses)
        prior = float(self.center), float(self.spread)
        if self.basis:
            return basis_potential(self.spectrum, summarised(self.functions(coordinates), response), *prior)
        return process_potential(self.kernel, coordinates, response, *prior)

    def log_densities(self, z: np.ndarray, sites: Sites | ArrayLike, losses: ArrayLike) -> np.ndarray:
        """Log joint density [n] at vectors z [n, 4], Jacobian included, where the process is integrated out."""
        potential = self.potential(sites, losses)
        if potential is None:
            raise ValueError(f"the process of a surface of the {self.family} family is not integrated out.")
        return np.array([-potential.value(each) for each in z])

    def derived(self, sites: Mapping[str, Any]) -> dict[str, Any]:
        """Deterministic sites from others: none where the process is integrated out."""
        return {}

    def observed(self, sites: Sites | ArrayLike, losses: ArrayLike | None = None) -> dict[str, np.ndarray]:
        """The observed site: the losses, or their logarithms for the log-normal family."""
        return {} if losses is None else {"losses": self.data(sites, losses)[1]}

    def pointwise(
        self,
        draws: Mapping[str, np.ndarray],
        rng: np.random.Generator,
        sites: Sites | ArrayLike,
        losses: ArrayLike | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Log likelihood for n draws, [n] with the process integrated out or else [n, sites], and simulated losses."""
        if losses is None:
            return {}, {}
        coordinates, response = self.data(sites, losses)
        if not self.collapsed:
            surface = draws["surface"] if "surface" in draws else self.completed(draws, sites)["surface"]
            found = at_surface(self.family, np.asarray(surface), draws, response, rng)
        else:
            potential = self.potential(sites, losses)
            assert potential is not None
            found = integrated_out(potential.marginal, self._process_draws(coordinates, rng), draws, rng)
        return {"losses": found[0]}, {"losses": found[1]}

    def _process_draws(self, coordinates: np.ndarray, rng: np.random.Generator) -> Callable[[float, float], np.ndarray]:
        """From amplitude and length to a draw [n] of the process at the sites."""
        if self.basis:
            phi, spectrum = self.functions(coordinates), self.spectrum
            return lambda *parameters: phi @ (spectrum.scales(*parameters) * rng.standard_normal(phi.shape[1]))
        return lambda *parameters: self._root(coordinates, *parameters) @ rng.standard_normal(len(coordinates))

    @property
    def _prior(self) -> SurfacePrior:
        return SurfacePrior(self.center, self.spread)

    def _marginal(
        self, coordinates: jax.Array, level: jax.Array, amplitude: jax.Array, length: jax.Array, noise: jax.Array
    ) -> dist.Distribution:
        """Distribution of the (log) losses, the process integrated out."""
        if self.basis:
            return BasisNormal(self.functions(coordinates), level, self.scales(amplitude, length), noise)
        total = self.covariance(coordinates, coordinates, amplitude, length)
        total += (noise**2 + JITTER * amplitude**2) * jnp.eye(len(coordinates))
        return dist.MultivariateNormal(jnp.full(len(coordinates), level), total)

    def _root(self, coordinates: Array, amplitude: float | Array, length: float | Array) -> Array:
        """R [n, b] with R R' the covariance of the process at the sites."""
        root: Array
        if self.basis:
            root = self.functions(coordinates) * self.scales(amplitude, length)
            return root
        xp, correlation = module(coordinates), covariance(self.kernel, coordinates, coordinates, length)
        root = amplitude * xp.linalg.cholesky(correlation + 10 * JITTER * xp.eye(len(coordinates)))
        return root


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
