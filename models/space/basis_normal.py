"""The distribution of noisy values of a linear combination of functions, the normal weights integrated out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, cholesky
from jax.typing import ArrayLike
from numpyro.distributions import Distribution, constraints

from tercet.models._inputs import is_concrete


class BasisNormal(Distribution):  # type: ignore[misc]
    """y = level + Phi w + noise e, w_j ~ Normal(0, scale_j^2), e_i ~ Normal(0, 1): y [n] with w integrated out.

    With A = S Phi' Phi S / noise^2 + I, S = diag(scales), and r = y - level the log density costs O(b^3), whatever n:

        -(r'r - |L^-1 S Phi'r|^2 / noise^2) / (2 noise^2) - log|A| / 2 - n log(noise) - n log(2 pi) / 2,   L L' = A

    Phi' Phi and Phi' y hold no parameter: they are computed once, when the program is traced.

    Parameters
    ----------
    phi : array [n, b], known when the program is traced
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
        if is_concrete(value, self.phi):
            with jax.ensure_compile_time_eval():
                center, gram, moment, ones, square = _statistics(self.phi, value)
        else:
            center, gram, moment, ones, square = _statistics(self.phi, value)
        n, noise, scales = self.phi.shape[0], self.noise, self.scales
        shift = self.level - center
        factor = cholesky(scales[:, None] * gram * scales / noise**2 + jnp.eye(len(scales)), lower=True)
        projected = scales * (moment - shift * ones)
        explained = projected @ cho_solve((factor, True), projected) / noise**2
        quadratic = (square + n * shift**2 - explained) / noise**2
        log_det = 2 * jnp.log(jnp.diagonal(factor)).sum() + 2 * n * jnp.log(noise)
        return -0.5 * (quadratic + log_det + n * jnp.log(2 * jnp.pi))


def _statistics(phi: jax.Array, value: jax.Array) -> tuple[jax.Array, ...]:
    """Mean m of the values, Phi'Phi, Phi'(y - m), Phi'1 and |y - m|^2: centred, a large mean costs no digits."""
    center = value.mean()
    centred = value - center
    return center, phi.T @ phi, phi.T @ centred, phi.sum(axis=0), jnp.square(centred).sum()
