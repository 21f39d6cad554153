"""Stationary covariance functions, for NumPy and for JAX arrays alike, and draws of their spectra."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SMOOTHNESS = {"matern 1/2": 0.5, "matern 3/2": 1.5, "matern 5/2": 2.5}
KERNELS = (*SMOOTHNESS, "squared exponential")


def covariance(kernel: str, x: Any, y: Any, length: Any) -> Any:
    """Correlations [n, m] of points x [n, q] and y [m, q] at Euclidean distance r, in units u = r / length.

    matern 1/2  exp(-u);   matern 3/2  (1 + sqrt(3) u) exp(-sqrt(3) u);
    matern 5/2  (1 + sqrt(5) u + 5 u^2 / 3) exp(-sqrt(5) u);   squared exponential  exp(-u^2 / 2)

    References
    ----------
    Rasmussen, Williams (2006), Gaussian Processes for Machine Learning, section 4.2.
    """
    xp: Any = jnp if any(isinstance(each, jax.Array) for each in (x, y, length)) else np
    gap = squares(x, y) / length**2
    if kernel == "squared exponential":
        return xp.exp(-0.5 * gap)
    u = xp.sqrt(2 * SMOOTHNESS[kernel] * gap + 1e-30)  # a derivative at zero, too
    if kernel == "matern 1/2":
        return xp.exp(-u)
    return (1 + u) * xp.exp(-u) if kernel == "matern 3/2" else (1 + u + u**2 / 3) * xp.exp(-u)


def squares(x: Any, y: Any) -> Any:
    """Squared Euclidean distances [n, m]."""
    xp: Any = jnp if any(isinstance(each, jax.Array) for each in (x, y)) else np
    return xp.maximum(xp.square(x).sum(axis=-1)[:, None] + xp.square(y).sum(axis=-1) - 2 * x @ y.T, 0.0)


def slope_over_distance(kernel: str, gap: np.ndarray, length: float) -> np.ndarray:
    """k'(r) / r [n, m] at squared distances r^2: the gradient of k(|x - y|) in x is this times x - y."""
    if kernel == "squared exponential":
        return -np.exp(-0.5 * gap / length**2) / length**2
    nu = SMOOTHNESS[kernel]
    u = np.sqrt(2 * nu * gap) / length
    if nu == 1.5:
        return -3 * np.exp(-u) / length**2
    if nu == 2.5:
        return -5 / 3 * (1 + u) * np.exp(-u) / length**2
    raise ValueError(f"a surface with the {kernel} kernel is nowhere smooth: it has no gradient.")


def frequencies(kernel: str, length: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Frequencies [count, q] whose law is the kernel's spectral density: normal, or Student's with 2 nu degrees."""
    normal = rng.standard_normal(shape) / length
    if kernel == "squared exponential":
        return normal
    freedom = 2 * SMOOTHNESS[kernel]
    return normal / np.sqrt(rng.chisquare(freedom, (shape[0], 1)) / freedom)
