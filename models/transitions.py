"""Gaussian transitions between snapshots: their log densities, all pairs at once, and their mixtures."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import validate_sample

PENALTY = -1e6  # log density under a transition whose moments have failed


@jax.custom_jvp
def inverse_and_log_det(matrix: Any) -> tuple[Any, Any, Any]:
    """Inverse [..., d, d] and log determinant [...] of symmetric positive definite matrices, and 1.0 where they are.

    Elsewhere the identity, 0 and 0.0. By sweeping (Gauss-Jordan without pivots, as stable as Cholesky here) over the
    whole batch at once: XLA's batched triangular solves are slow on processors.
    """
    d = matrix.shape[-1]

    def sweep(carry: tuple[Any, Any, Any], k: Any) -> tuple[tuple[Any, Any, Any], None]:
        a, log_det, sound = carry
        column = jnp.take(a, k, axis=-1)
        pivot = jnp.take(column, k, axis=-1)
        good = jnp.isfinite(pivot) & (pivot > 0)
        pivot = jnp.where(good, pivot, 1.0)
        unit = jax.nn.one_hot(k, d, dtype=a.dtype)
        # a_ij - a_ik a_kj / p, with row and column k replaced by a_k / p and the corner by -1 / p.
        ratio = column / pivot[..., None]
        swept = a - ratio[..., :, None] * column[..., None, :]
        side = jnp.where(unit > 0, -1.0 / pivot[..., None], ratio)
        swept = jnp.where(unit[:, None] > 0, side[..., None, :], swept)
        swept = jnp.where(unit > 0, side[..., :, None], swept)
        return (swept, log_det + jnp.log(pivot), sound & good), None

    batch = matrix.shape[:-2]
    carry = (matrix, jnp.zeros(batch, matrix.dtype), jnp.ones(batch, bool))
    if d <= 4:
        for k in range(d):
            carry, _ = sweep(carry, k)
    else:
        carry, _ = jax.lax.scan(sweep, carry, jnp.arange(d))
    swept, log_det, sound = carry
    inverse = jnp.where(sound[..., None, None], -swept, jnp.eye(d, dtype=matrix.dtype))
    return inverse, jnp.where(sound, log_det, 0.0), sound.astype(matrix.dtype)


@inverse_and_log_det.defjvp
def _inverse_jvp(primals: tuple[Any], tangents: tuple[Any]) -> Any:
    inverse, log_det, sound = inverse_and_log_det(*primals)
    moved = (inverse @ tangents[0]) * sound[..., None, None]
    trace = jnp.trace(moved, axis1=-2, axis2=-1)
    return (inverse, log_det, sound), (-moved @ inverse, trace, jnp.zeros_like(sound))


def gaussian_log_densities(means: Any, covariances: Any, points: Any) -> Float[Array, "n m"]:
    """Log Normal(y_j; m_i, S_i) for means [n, d], covariances [n, d, d] (or [d, d], shared) and points [m, d].

    As one matrix product: the quadratic form is linear in (1, y, y y'), so the cost is n m (1 + d + d (d + 1) / 2) and
    the gradient is two more products. Points are centred first, which keeps the cancellation harmless. A covariance
    that is not positive definite gives a finite penalty.
    """
    d = points.shape[1]
    middle = jax.lax.stop_gradient(points.mean(axis=0))
    points, means = points - middle, means - middle
    precision, log_det, sound = inverse_and_log_det(covariances)
    if precision.ndim == 2:
        pull = means @ precision
        constant = -0.5 * ((pull * means).sum(axis=1) + log_det + d * np.log(2 * np.pi))
        quadratic = -0.5 * ((points @ precision) * points).sum(axis=1)
        return jnp.where(sound > 0, constant[:, None] + pull @ points.T + quadratic[None], PENALTY)
    rows, columns = np.triu_indices(d)
    pull = (precision @ means[..., None])[..., 0]
    constant = -0.5 * ((pull * means).sum(axis=1) + log_det + d * np.log(2 * np.pi))
    twice = jnp.asarray(np.where(rows == columns, -0.5, -1.0).astype(points.dtype))
    left = jnp.concatenate([constant[:, None], pull, precision[:, rows, columns] * twice], axis=1)
    right = jnp.concatenate([jnp.ones((len(points), 1), points.dtype), points, points[:, rows] * points[:, columns]], 1)
    return jnp.where(sound[:, None] > 0, left @ right.T, PENALTY)


class TransitionMixture(Distribution):
    """sum_i w_i Normal(m_i, S_i): where a particle is, not knowing which start it came from.

    Parameters
    ----------
    means : array [n, d]
    covariances : array [n, d, d]
    log_weights : array [n], or None for equal ones
    jackknife : take off the bias of a mean over n centres, log f + (1/2) sum_i (1/n) (p_i / f - 1)^2 / (n - 1)
    """

    support = constraints.real_vector
    reparametrized_params = ["means", "covariances"]  # noqa: RUF012 (NumPyro's own way)

    def __init__(
        self, means: Any, covariances: Any, log_weights: Any = None, jackknife: bool = False, targets: int = 1
    ) -> None:
        self.means, self.covariances, self.log_weights, self.jackknife = means, covariances, log_weights, jackknife
        super().__init__(batch_shape=(targets,), event_shape=means.shape[-1:])

    @validate_sample
    def log_prob(self, value: Any) -> Any:
        """Log density [m] of particles [m, d]; a finite floor where no transition is anywhere near."""
        logs = gaussian_log_densities(self.means, self.covariances, value)
        n = len(self.means)
        weights = jnp.full(n, -jnp.log(n)) if self.log_weights is None else self.log_weights
        density = jax.scipy.special.logsumexp(logs + weights[:, None], axis=0)
        if self.jackknife:
            share = jnp.exp(logs - density)  # p_i / f
            density = density + 0.5 * jnp.square(share - 1.0).mean(axis=0) / (n - 1)
        return density

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Fresh particles [*sample_shape, m, d]."""
        shape = (*sample_shape, *self.batch_shape)
        pick, noise = jax.random.split(key)
        weights = jnp.zeros(len(self.means)) if self.log_weights is None else self.log_weights
        index = jax.random.categorical(pick, weights, shape=shape)
        root = jnp.linalg.cholesky(self.covariances)[index]
        return self.means[index] + (root @ jax.random.normal(noise, (*shape, *self.event_shape, 1)))[..., 0]
