"""Gaussian transitions between snapshots: their log densities, all pairs at once, and their mixtures."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import validate_sample

PENALTY = -1e6  # log density under a transition whose moments have failed


@jax.custom_jvp
def inverse_and_log_det(matrix: Array) -> tuple[Array, Array, Array]:
    """Inverse [..., d, d] and log determinant [...] of symmetric positive definite matrices, and 1.0 where they are.

    Elsewhere the identity, 0 and 0.0. By the sweep operator (Gauss-Jordan without pivots, as stable as Cholesky for
    these matrices) over the whole batch at once: XLA's batched triangular solves are slow on processors.
    """
    d = matrix.shape[-1]

    def sweep(carry: tuple[Array, Array, Array], k: Array | int) -> tuple[tuple[Array, Array, Array], None]:
        a, log_det, definite = carry
        column = jnp.take(a, k, axis=-1)
        pivot = jnp.take(column, k, axis=-1)
        positive = jnp.isfinite(pivot) & (pivot > 0)
        pivot = jnp.where(positive, pivot, 1.0)
        unit = jax.nn.one_hot(k, d, dtype=a.dtype)
        # a_ij - a_ik a_kj / p, with row and column k replaced by a_k / p and the corner by -1 / p.
        ratio = column / pivot[..., None]
        swept = a - ratio[..., :, None] * column[..., None, :]
        side = jnp.where(unit > 0, -1.0 / pivot[..., None], ratio)
        swept = jnp.where(unit[:, None] > 0, side[..., None, :], swept)
        swept = jnp.where(unit > 0, side[..., :, None], swept)
        return (swept, log_det + jnp.log(pivot), definite & positive), None

    batch = matrix.shape[:-2]
    carry = (matrix, jnp.zeros(batch, matrix.dtype), jnp.ones(batch, bool))
    if d <= 4:
        for k in range(d):
            carry, _ = sweep(carry, k)
    else:
        carry, _ = jax.lax.scan(sweep, carry, jnp.arange(d))
    swept, log_det, definite = carry
    inverse = jnp.where(definite[..., None, None], -swept, jnp.eye(d, dtype=matrix.dtype))
    return inverse, jnp.where(definite, log_det, 0.0), definite.astype(matrix.dtype)


@inverse_and_log_det.defjvp
def _inverse_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    inverse, log_det, definite = inverse_and_log_det(*primals)
    step = (inverse @ tangents[0]) * definite[..., None, None]
    trace = jnp.trace(step, axis1=-2, axis2=-1)
    return (inverse, log_det, definite), (-step @ inverse, trace, jnp.zeros_like(definite))


def gaussian_log_densities(means: Array, covariances: Array, points: Array) -> Float[Array, "*batch n m"]:
    """Log Normal(y_j; m_i, S_i) of means [..., n, d], covariances [..., n, d, d] and points [..., m, d].

    As one matrix product: the quadratic form is linear in (1, y, y y'), so the cost is n m (1 + d + d (d + 1) / 2) and
    the gradient is two more products. Points are centred first, which keeps the cancellation harmless. A covariance
    that is not positive definite gives a finite penalty. One covariance for all, [..., 1, d, d], needs products with
    d numbers only.
    """
    d = points.shape[-1]
    middle = jax.lax.stop_gradient(points.mean(axis=-2, keepdims=True))
    points, means = points - middle, means - middle
    precision, log_det, definite = inverse_and_log_det(covariances)
    linear = (precision * means[..., None, :]).sum(axis=-1)
    constant = -0.5 * ((linear * means).sum(axis=-1) + log_det + d * np.log(2 * np.pi))
    if covariances.shape[-3] == 1 != means.shape[-2]:
        quadratic = -0.5 * ((points @ precision[..., 0, :, :]) * points).sum(axis=-1)
        logs = constant[..., :, None] + linear @ jnp.swapaxes(points, -1, -2) + quadratic[..., None, :]
    else:
        rows, columns = np.triu_indices(d)
        twice = jnp.asarray(np.where(rows == columns, -0.5, -1.0).astype(points.dtype))
        left = jnp.concatenate([constant[..., None], linear, precision[..., rows, columns] * twice], axis=-1)
        ones = jnp.ones((*points.shape[:-1], 1), points.dtype)
        right = jnp.concatenate([ones, points, points[..., rows] * points[..., columns]], axis=-1)
        logs = left @ jnp.swapaxes(right, -1, -2)
    return jnp.where(definite[..., None] > 0, logs, PENALTY)


class SnapshotMixture(Distribution):  # type: ignore[misc]
    """Particles of K snapshots, each from its mixture sum_i w_ki Normal(m_ki, S_ki); one row a particle.

    Parameters
    ----------
    means : array [K, n, d]
    covariances : array [K, n, d, d], or [K, 1, d, d] where all components share theirs
    counts : number of particles in each of the K snapshots
    log_weights : array [K, n], minus infinity for components that only fill up; default equal weights
    jackknife : remove the bias of a mean over n components, log f + (1/2) sum_i (1/n) (p_i / f - 1)^2 / (n - 1)
    """

    support = constraints.real_vector
    reparametrized_params = ["means", "covariances"]  # noqa: RUF012  (NumPyro's own convention)

    def __init__(
        self,
        means: Array,
        covariances: Array,
        counts: Sequence[int],
        log_weights: Array | None = None,
        jackknife: bool = False,
    ) -> None:
        self.means, self.covariances, self.counts = means, covariances, tuple(counts)
        shape = means.shape[:2]
        self.log_weights = jnp.full(shape, -np.log(shape[1])) if log_weights is None else log_weights
        self.jackknife = jackknife
        super().__init__(batch_shape=(sum(self.counts),), event_shape=means.shape[-1:])

    @property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Snapshot of each particle and its row within."""
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        return owner, np.concatenate([np.arange(count) for count in self.counts])

    @validate_sample  # type: ignore[untyped-decorator]
    def log_prob(self, value: Array) -> Array:
        """Log density [sum of counts] of particles [sum of counts, d]."""
        equal = len(set(self.counts)) == 1  # cut and joined without gathers, which take long to compile
        if equal:
            points = value.reshape(len(self.counts), -1, value.shape[-1])
        else:  # short snapshots repeat their last particle
            last = np.minimum(np.arange(max(self.counts)), np.array(self.counts)[:, None] - 1)
            points = value[np.concatenate([[0], np.cumsum(self.counts)[:-1]])[:, None] + last]
        logs = gaussian_log_densities(self.means, self.covariances, points)
        density: Array = jax.scipy.special.logsumexp(logs + self.log_weights[..., None], axis=1)
        if self.jackknife:
            used = jnp.isfinite(self.log_weights)
            count = used.sum(axis=1)[:, None]
            excess = jnp.where(used[..., None], jnp.exp(logs - density[:, None]) - 1.0, 0.0)
            density = density + 0.5 * jnp.square(excess).sum(axis=1) / (count * (count - 1.0))
        return density.reshape(-1) if equal else density[self._rows]

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Fresh particles [*sample_shape, sum of counts, d]."""
        owner, _ = self._rows
        pick, noise = jax.random.split(key)
        shape = (*sample_shape, len(owner))
        component = jax.random.categorical(pick, self.log_weights[owner], shape=shape)
        d = self.event_shape[0]
        spread = jnp.broadcast_to(self.covariances, (*self.means.shape, d))
        factor = jnp.linalg.cholesky(spread)[owner, component]
        offset: Array = (factor @ jax.random.normal(noise, (*shape, d, 1)))[..., 0]
        return self.means[owner, component] + offset
