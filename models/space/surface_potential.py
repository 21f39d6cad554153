"""Minus the log posterior of a loss surface with the process integrated out: four parameters, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
from scipy.spatial.distance import cdist

from tercet.models.space.basis_normal import Summary
from tercet.models.space.kernels import Kernel
from tercet.models.space.marginal_likelihoods import BasisMarginal, Marginal, ProcessMarginal
from tercet.models.space.spectral_basis import SpectralBasis

LOG_LENGTH, LOG_LENGTH_SD = math.log(0.4), 0.7
"""Mean and standard deviation of the logarithm of the length, in units of the frame, under the prior."""
LEVEL_SPREADS, SD_SPREADS = 2.0, 1.5
"""Prior scales of the level, and of amplitude and noise, in units of the spread of the losses."""
MEDIAN_HALF_NORMAL = 0.6744897501960817
STRIDE, LEAST = 4, 100
"""A search starts at the mode of every fourth site, or of half the functions an axis, where enough are left."""


@dataclass(frozen=True, eq=False)
class SurfacePotential:
    """Potential of z = (log amplitude, log length, level, log noise), Jacobian included.

    Parameters
    ----------
    marginal : from z [4] to the log likelihood there
    center, spread : of the priors, see `LossSurface`
    smaller : the same for a part of the data or a coarser basis, whose minimum is near and soon found
    """

    marginal: Callable[[np.ndarray], Marginal]
    center: float
    spread: float
    smaller: SurfacePotential | None = None
    _last: dict[bytes, Marginal] = field(default_factory=dict)

    layout: ClassVar[tuple[tuple[str, int], ...]] = (("amplitude", 0), ("length", 0), ("level", 0), ("noise", 0))
    positive: ClassVar[tuple[str, ...]] = ("amplitude", "length", "noise")

    @property
    def start(self) -> np.ndarray:
        """The prior medians."""
        sd = math.log(MEDIAN_HALF_NORMAL * SD_SPREADS * self.spread)
        return np.array([sd, LOG_LENGTH, self.center, sd])

    def value(self, z: np.ndarray) -> float:
        """Potential at z; infinite where the covariance of the data is singular to rounding."""
        z = np.asarray(z, np.float64)
        with np.errstate(all="ignore"):
            found = -self._at(z).value - self._log_prior(z)
        return float(found) if np.isfinite(found) else math.inf

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Potential at z, and its gradient [4]."""
        z = np.asarray(z, np.float64)
        value = self.value(z)
        if not math.isfinite(value):
            return value, np.full(4, np.nan)
        return value, -self._at(z).gradient - self._log_prior_slope(z)

    def hessian(self, z: np.ndarray) -> np.ndarray:
        """Hessian [4, 4] of the potential."""
        return np.asarray(self._prior_precision(z) - self._at(np.asarray(z, np.float64)).hessian)

    def gauss_newton(self, z: np.ndarray) -> np.ndarray:
        """Fisher information of the losses plus the Hessian [4, 4] of minus the log prior."""
        return np.asarray(self._prior_precision(z) + self._at(np.asarray(z, np.float64)).information)

    def _prior_precision(self, z: np.ndarray) -> np.ndarray:
        growth = 2 * np.exp(2 * np.asarray(z)) / (SD_SPREADS * self.spread) ** 2
        level = 1 / (LEVEL_SPREADS * self.spread) ** 2
        return np.diag([growth[0], 1 / LOG_LENGTH_SD**2, level, growth[3]])

    def _at(self, z: np.ndarray) -> Marginal:
        """The likelihood at z: a search asks for value, gradient and Hessian in turn."""
        key = z.tobytes()
        if key not in self._last:
            self._last.clear()
            self._last[key] = self.marginal(z)
        return self._last[key]

    def _log_prior(self, z: np.ndarray) -> float:
        scale, level = SD_SPREADS * self.spread, LEVEL_SPREADS * self.spread
        half_normals = 2 * (0.5 * math.log(2 / math.pi) - math.log(scale)) + z[0] + z[3]
        half_normals -= 0.5 * (np.exp(2 * z[0]) + np.exp(2 * z[3])) / scale**2
        of_length = -0.5 * ((z[1] - LOG_LENGTH) / LOG_LENGTH_SD) ** 2 - math.log(LOG_LENGTH_SD)
        of_level = -0.5 * ((z[2] - self.center) / level) ** 2 - math.log(level)
        return float(half_normals + of_length + of_level - math.log(2 * math.pi))

    def _log_prior_slope(self, z: np.ndarray) -> np.ndarray:
        growth = 1 - np.exp(2 * z) / (SD_SPREADS * self.spread) ** 2
        of_length = -(z[1] - LOG_LENGTH) / LOG_LENGTH_SD**2
        of_level = -(z[2] - self.center) / (LEVEL_SPREADS * self.spread) ** 2
        return np.array([growth[0], of_length, of_level, growth[3]])


def basis_potential(basis: SpectralBasis, summary: Summary, center: float, spread: float) -> SurfacePotential:
    """The potential of a surface on a basis."""
    smaller = None
    if len(summary.moment) >= LEAST:
        coarse = SpectralBasis(basis.kernel, basis.size // 2, basis.dim)
        kept = np.flatnonzero((basis.indices <= coarse.size).all(axis=0))
        moment, ones, gram = summary.moment[kept], summary.ones[kept], summary.gram[np.ix_(kept, kept)]
        part = summary._replace(moment=moment, ones=ones, gram=gram)
        smaller = SurfacePotential(partial(BasisMarginal, coarse, part), center, spread)
    return SurfacePotential(partial(BasisMarginal, basis, summary), center, spread, smaller)


def process_potential(
    kernel: Kernel, coordinates: np.ndarray, response: np.ndarray, center: float, spread: float
) -> SurfacePotential:
    """The potential of an exact process at coordinates [n, q] with values [n]."""
    distance = cdist(coordinates, coordinates)
    smaller = None
    if len(response) >= LEAST * STRIDE:
        few = partial(ProcessMarginal, kernel, distance[::STRIDE, ::STRIDE].copy(), response[::STRIDE])
        smaller = SurfacePotential(few, center, spread)
    return SurfacePotential(partial(ProcessMarginal, kernel, distance, response), center, spread, smaller)
