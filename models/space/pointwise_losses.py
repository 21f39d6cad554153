"""Log likelihoods of losses and simulated losses at draws of the parameters of a surface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import gammaln, xlogy

from tercet.models.space.marginal_likelihoods import Marginal

Draws = Mapping[str, Any]
"""Site to its draws [n, ...]."""
Process = Callable[[float, float], np.ndarray]
"""From amplitude and length to a draw [sites] of the process."""


def integrated_out(
    marginal: Callable[[np.ndarray], Marginal], process: Process, draws: Draws, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Joint log likelihood [n] of all sites, the process integrated out, and simulated (log) losses [n, sites]."""
    columns = (np.asarray(draws[name], np.float64) for name in ("amplitude", "length", "level", "noise"))
    densities, simulated = [], []
    for amplitude, length, level, noise in zip(*columns, strict=True):
        densities.append(marginal(np.array([np.log(amplitude), np.log(length), level, np.log(noise)])).value)
        surface = level + process(amplitude, length)
        simulated.append(surface + noise * rng.standard_normal(len(surface)))
    return np.array(densities), np.array(simulated)


def at_surface(
    family: str, surface: np.ndarray, draws: Draws, response: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood [n, sites] and simulated losses [n, sites] around a surface [n, sites]; gamma or student."""
    column = {name: np.asarray(draws[name], np.float64)[:, None] for name in draws if np.ndim(draws[name]) == 1}
    return (_gamma if family == "gamma" else _student)(surface, column, response, rng)


# In the functions of scipy.special: scipy.stats takes half a second to import.


def _gamma(
    surface: np.ndarray, column: Draws, response: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    shape = column["shape"]
    scale = np.exp(surface) / shape
    density = xlogy(shape - 1.0, response) - response / scale - gammaln(shape) - shape * np.log(scale)
    return density, rng.gamma(np.broadcast_to(shape, surface.shape), scale)


def _student(
    surface: np.ndarray, column: Draws, response: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    freedom, scale = column["freedom"], column["noise"]
    normaliser = gammaln(0.5 * (freedom + 1.0)) - gammaln(0.5 * freedom) - 0.5 * np.log(np.pi * freedom) - np.log(scale)
    distance = np.square((response - surface) / scale) / freedom
    simulated = surface + scale * rng.standard_t(np.broadcast_to(freedom, surface.shape))
    return normaliser - 0.5 * (freedom + 1.0) * np.log1p(distance), simulated
