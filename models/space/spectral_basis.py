"""A Gaussian process on a box by eigenfunctions of the Laplacian: values, slopes, prior scales of their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tercet.models.space.kernels import SMOOTHNESS, Array, Kernel, constant, module

WALL = 1.5
"""Half-width of the box, in units of the frame; at its boundary the process is zero."""


class LogScales(NamedTuple):
    """Logarithms [b] of the prior scales, and their first and second derivatives in the logarithm of the length."""

    value: np.ndarray
    slope: np.ndarray
    bend: np.ndarray


@dataclass(frozen=True)
class SpectralBasis:
    """Products over the axes of phi_j(x) = sin(j pi (x + L) / (2 L)) / sqrt(L), j = 1, ..., `size`, L = 1.5.

    The last axis varies fastest. A weight has the variance S(omega), the kernel's spectral density at the frequencies
    omega_j = j pi / (2 L) of its function.

    Parameters
    ----------
    kernel : of the process
    size : functions per axis
    dim : number of axes q

    References
    ----------
    Solin, Särkkä (2020), Statistics and Computing 30, equations 56 and 57.
    """

    kernel: Kernel
    size: int
    dim: int

    @cached_property
    def indices(self) -> np.ndarray:
        """The j [q, size^q] of each function along each axis."""
        grids = np.meshgrid(*[np.arange(1, self.size + 1)] * self.dim, indexing="ij")
        return np.stack([grid.ravel() for grid in grids])

    @cached_property
    def squared_frequencies(self) -> np.ndarray:
        """|omega|^2 [size^q] of each function."""
        return np.asarray(np.square(self.indices * (math.pi / (2 * WALL))).sum(axis=0))

    def functions(self, coordinates: Array) -> Array:
        """Values [n, size^q] at coordinates [n, q]."""
        values: Array = self._product(coordinates, axis=None)
        return values

    def derivatives(self, coordinates: Array) -> Array:
        """Derivatives [q, n, size^q] along each axis."""
        slopes: Array = module(coordinates).stack([self._product(coordinates, axis=axis) for axis in range(self.dim)])
        return slopes

    def scales(self, amplitude: float | Array, length: float | Array) -> Array:
        """Prior standard deviations [..., size^q] of the weights, for parameters [...]."""
        xp = module(amplitude, length)
        scaled = xp.asarray(length)[..., None]
        squared = scaled**2 * constant(xp, self.squared_frequencies)
        if self.kernel == "squared exponential":
            density = (math.sqrt(2 * math.pi) * scaled) ** self.dim * xp.exp(-0.5 * squared)
        else:
            nu, half = SMOOTHNESS[self.kernel], self.dim / 2
            density = math.exp(self._log_constant) * scaled**self.dim * (2 * nu + squared) ** (-nu - half)
        scales: Array = xp.sqrt(xp.asarray(amplitude)[..., None] * density)
        return scales

    def log_scales(self, log_length: float) -> LogScales:
        """Logarithms of the scales at amplitude 1, with derivatives; that of the amplitude is `AMPLITUDE_POWER`."""
        squared = np.exp(2 * log_length) * self.squared_frequencies
        level = self._log_constant + self.dim * log_length
        if self.kernel == "squared exponential":
            return LogScales(0.5 * (level - 0.5 * squared), 0.5 * (self.dim - squared), -squared)
        nu = SMOOTHNESS[self.kernel]
        total, order = 2 * nu + squared, 2 * nu + self.dim
        share = squared / total
        return LogScales(
            0.5 * (level - 0.5 * order * np.log(total)),
            0.5 * (self.dim - order * share),
            -order * share * (2 * nu / total),
        )

    @property
    def _log_constant(self) -> float:
        half = self.dim / 2
        if self.kernel == "squared exponential":
            return half * math.log(2 * math.pi)
        nu = SMOOTHNESS[self.kernel]
        gammas = math.lgamma(nu + half) - math.lgamma(nu)
        return self.dim * math.log(2) + half * math.log(math.pi) + nu * math.log(2 * nu) + gammas

    def _product(self, coordinates: Array, axis: int | None) -> Any:
        """The functions, the factor of one axis differentiated."""
        xp = module(coordinates)
        waves = constant(xp, np.arange(1, self.size + 1) * (math.pi / (2 * WALL)))
        values = None
        for k in range(self.dim):
            phase = (coordinates[:, k, None] + WALL) * waves
            factor = (waves * xp.cos(phase) if k == axis else xp.sin(phase)) / math.sqrt(WALL)
            values = factor if values is None else (values[:, :, None] * factor[:, None]).reshape(len(factor), -1)
        return values


AMPLITUDE_POWER = 0.5
"""The scales of the weights are proportional to this power of the amplitude."""
