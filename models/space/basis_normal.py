"""The distribution of noisy values of a linear combination of functions, the normal weights integrated out."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, cholesky
from jax.typing import ArrayLike
from numpyro.distributions import Distribution, constraints


class Summary(NamedTuple):
    """All that the likelihood of values y [n] reads of them and of functions Phi [n, b]: its size does not depend on n.

    Attributes
    ----------
    count : n
    center : mean m of the values: centred, a large mean costs no digits
    square : |y - m|^2
    moment : array [b], Phi'(y - m)
    ones : array [b], Phi'1
    gram : array [b, b], Phi'Phi
    """

    count: Any
    center: Any
    square: Any
    moment: Any
    ones: Any
    gram: Any


def summarised(phi: Any, values: Any) -> Summary:
    """The summary of functions [n, b] and values [n], of NumPy or of JAX."""
    center = values.mean()
    centred = values - center
    count = np.float64(len(phi)) if isinstance(phi, np.ndarray) else float(len(phi))
    return Summary(count, center, (centred**2).sum(), phi.T @ centred, phi.sum(axis=0), phi.T @ phi)


class SummaryNormal(Distribution):  # type: ignore[misc]
    """y = level + Phi w + noise e, w_j ~ Normal(0, scale_j^2), e_i ~ Normal(0, 1), w integrated out, by its summary.

    With A = S Phi' Phi S / noise^2 + I, S = diag(scales), and r = y - level the log density of y costs O(b^3):

        -(r'r - |L^-1 S Phi'r|^2 / noise^2) / (2 noise^2) - log|A| / 2 - n log(noise) - n log(2 pi) / 2,   L L' = A

    A program that evaluates it serves any number of values n.

    Parameters
    ----------
    summary : of functions and values
    level, noise : scalars
    scales : array [b]
    validate_args : as in NumPyro
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (NumPyro's own convention)
    support = constraints.real_vector

    def __init__(
        self,
        summary: Summary,
        level: ArrayLike,
        scales: jax.Array,
        noise: ArrayLike,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.summary, self.level, self.scales, self.noise = summary, level, scales, noise
        super().__init__(batch_shape=(), event_shape=scales.shape, validate_args=validate_args)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density of the values whose moment [b] this is."""
        return _log_density(self.summary._replace(moment=value), self.level, self.scales, self.noise)


class BasisNormal(Distribution):  # type: ignore[misc]
    """The same distribution of the values y [n] themselves.

    Parameters
    ----------
    phi : array [n, b]
    level, noise : scalars
    scales : array [b]
    validate_args : as in NumPyro
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (NumPyro's own convention)
    support = constraints.real_vector

    def __init__(
        self,
        phi: jax.Array,
        level: ArrayLike,
        scales: jax.Array,
        noise: ArrayLike,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.phi, self.level, self.scales, self.noise = phi, level, scales, noise
        super().__init__(batch_shape=(), event_shape=(phi.shape[0],), validate_args=validate_args)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw values [n]."""
        first, second = jax.random.split(key)
        weights = self.scales * jax.random.normal(first, (*sample_shape, self.phi.shape[1]))
        noise = self.noise * jax.random.normal(second, (*sample_shape, self.phi.shape[0]))
        return jnp.asarray(self.level + weights @ self.phi.T + noise)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density of values [n]."""
        return _log_density(summarised(self.phi, value), self.level, self.scales, self.noise)


def _log_density(summary: Summary, level: Any, scales: jax.Array, noise: Any) -> jax.Array:
    n, center, square, moment, ones, gram = summary
    shift = level - center
    factor = cholesky(scales[:, None] * gram * scales / noise**2 + jnp.eye(len(scales)), lower=True)
    projected = scales * (moment - shift * ones)
    explained = projected @ cho_solve((factor, True), projected) / noise**2
    quadratic = (square + n * shift**2 - explained) / noise**2
    log_det = 2 * jnp.log(jnp.diagonal(factor)).sum() + 2 * n * jnp.log(noise)
    log_density: jax.Array = -0.5 * (quadratic + log_det + n * jnp.log(2 * jnp.pi))
    return log_density
