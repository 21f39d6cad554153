"""Stationary covariance functions, for NumPy and for JAX arrays, and draws from their spectral densities."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tercet.models._inputs import as_jax

Kernel = Literal["matern 1/2", "matern 3/2", "matern 5/2", "squared exponential"]
Array = TypeVar("Array", np.ndarray, jax.Array)
SMOOTHNESS = {"matern 1/2": 0.5, "matern 3/2": 1.5, "matern 5/2": 2.5}
KERNELS: tuple[Kernel, ...] = get_args(Kernel)


def covariance(kernel: Kernel, x: Array, y: Array, length: float | Array) -> Array:
    """Correlations [n, m] of points x [n, q] and y [m, q] at Euclidean distance r, in units u = r / length.

    matern 1/2  exp(-u);   matern 3/2  (1 + sqrt(3) u) exp(-sqrt(3) u);
    matern 5/2  (1 + sqrt(5) u + 5 u^2 / 3) exp(-sqrt(5) u);   squared exponential  exp(-u^2 / 2)

    References
    ----------
    Rasmussen, Williams (2006), Gaussian Processes for Machine Learning, section 4.2.
    """
    xp = module(x, y, length)
    squared = squared_distances(x, y) / length**2
    values: Array
    if kernel == "squared exponential":
        values = xp.exp(-0.5 * squared)
        return values
    u = xp.sqrt(2 * SMOOTHNESS[kernel] * squared + 1e-30)  # differentiable at zero
    if kernel == "matern 1/2":
        values = xp.exp(-u)
    else:
        values = (1 + u) * xp.exp(-u) if kernel == "matern 3/2" else (1 + u + u**2 / 3) * xp.exp(-u)
    return values


def squared_distances(x: Array, y: Array) -> Array:
    """Squared Euclidean distances [n, m]."""
    xp = module(x, y)
    squared: Array = xp.maximum(xp.square(x).sum(axis=-1)[:, None] + xp.square(y).sum(axis=-1) - 2 * x @ y.T, 0.0)
    return squared


def derivative_over_distance(kernel: Kernel, squared: np.ndarray, length: float) -> np.ndarray:
    """k'(r) / r [n, m] at squared distances r^2: the gradient of k(|x - y|) in x is this times x - y."""
    if kernel == "squared exponential":
        return np.asarray(-np.exp(-0.5 * squared / length**2) / length**2)
    nu = SMOOTHNESS[kernel]
    u = np.sqrt(2 * nu * squared) / length
    if nu == 1.5:
        return np.asarray(-3 * np.exp(-u) / length**2)
    if nu == 2.5:
        return np.asarray(-5 / 3 * (1 + u) * np.exp(-u) / length**2)
    raise ValueError(f"a surface with the {kernel} kernel is nowhere smooth: it has no gradient.")


def log_length_derivatives(kernel: Kernel, distance: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Correlations [n, m] at distances r [n, m], and their derivatives in the logarithm of the length."""
    if kernel == "squared exponential":
        v = np.square(distance) * (0.5 / length**2)
        values = np.exp(-v)
        return values, np.asarray(2 * v * values)
    u = distance * (np.sqrt(2 * SMOOTHNESS[kernel]) / length)
    decay = np.exp(-u)
    if kernel == "matern 1/2":
        return decay, np.asarray(u * decay)
    squared = np.square(u)
    if kernel == "matern 3/2":
        return (1 + u) * decay, np.asarray(squared * decay)
    return (1 + u + squared / 3) * decay, np.asarray(squared * (1 + u) * decay / 3)


def second_log_length_derivative(kernel: Kernel, distance: np.ndarray, length: float) -> np.ndarray:
    """Second derivatives [n, m] of the correlations in the logarithm of the length."""
    if kernel == "squared exponential":
        v = np.square(distance) * (0.5 / length**2)
        return np.asarray(4 * v * (v - 1) * np.exp(-v))
    u = distance * (np.sqrt(2 * SMOOTHNESS[kernel]) / length)
    factor = {"matern 1/2": u * (u - 1), "matern 3/2": u**2 * (u - 2), "matern 5/2": u**2 * (u**2 - 2 * u - 2) / 3}
    return np.asarray(factor[kernel] * np.exp(-u))


def frequencies(kernel: Kernel, length: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Frequencies [count, q] drawn from the kernel's spectral density: normal, or Student's t with 2 nu degrees."""
    normal = rng.standard_normal(shape) / length
    if kernel == "squared exponential":
        return normal
    freedom = 2 * SMOOTHNESS[kernel]
    return np.asarray(normal / np.sqrt(rng.chisquare(freedom, (shape[0], 1)) / freedom))


def module(*arrays: float | np.ndarray | jax.Array) -> Any:
    """The array module: JAX's where any array is JAX's, otherwise NumPy."""
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def constant(xp: Any, values: np.ndarray) -> Any:
    """An array for use with arrays of the module `xp`."""
    return as_jax(values) if xp is jnp else values
