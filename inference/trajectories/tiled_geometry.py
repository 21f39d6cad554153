"""The cost of a bridge, -log p_theta(y_j | x_i), as a factored ott geometry that never holds the whole matrix.

The Gaussian log density is linear in (1, y, y y'), so that the cost of all pairs is -L R' with 1 + d + d (d + 1) / 2
columns (2 + d where one covariance serves all): memory is linear in n + m, and a tile of rows is one matrix product.
"""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tercet.models.trajectories.transitions import PENALTY, inverse_and_log_det

with warnings.catch_warnings():
    # ott imports jaxopt, which says on import that nobody maintains it; ott's part of it is not used here.
    warnings.filterwarnings("ignore", message="JAXopt is no longer maintained", category=DeprecationWarning)
    from ott.geometry import geometry


def transition_factors(means: Any, covariances: Any, points: Any) -> tuple[Any, Any]:
    """Factors L [n, p] and R [m, p] of log Normal(y_j; m_i, S_i) = (L R')_ij.

    Parameters
    ----------
    means : array [n, d]
    covariances : array [n, d, d], or [d, d] where one serves all; one that is not positive definite gives a row of
        `transitions.PENALTY`
    points : array [m, d]
    """
    d = points.shape[1]
    middle = points.mean(axis=0)  # centred: the quadratic form cancels less
    points, means = points - middle, means - middle
    precision, log_det, sound = inverse_and_log_det(covariances)
    shared = precision.ndim == 2
    pull = means @ precision if shared else (precision @ means[..., None])[..., 0]
    constant = -0.5 * ((pull * means).sum(axis=1) + log_det + d * np.log(2 * np.pi))
    ones = jnp.ones((len(points), 1), points.dtype)
    if shared:
        quadratic = -0.5 * ((points @ precision) * points).sum(axis=1, keepdims=True)
        left = jnp.concatenate([constant[:, None], jnp.ones_like(constant)[:, None], pull], axis=1)
        right = jnp.concatenate([ones, quadratic, points], axis=1)
    else:
        rows, columns = np.triu_indices(d)
        twice = jnp.asarray(np.where(rows == columns, -0.5, -1.0).astype(points.dtype))
        left = jnp.concatenate([constant[:, None], pull, precision[:, rows, columns] * twice], axis=1)
        right = jnp.concatenate([ones, points, points[:, rows] * points[:, columns]], axis=1)
    penalty = jnp.zeros(left.shape[1], left.dtype).at[0].set(PENALTY)
    return jnp.where((sound > 0).reshape(-1, 1), left, penalty), right


def log_sum_exp(left: Any, right: Any, shift: Any, eps: Any, tile: int) -> Any:
    """Eps log sum_j exp((L R' + shift)_ij / eps) [n], `tile` rows at a time."""
    # The shift rides in the product as one more column: one pass fewer over the tile.
    columns = jnp.concatenate([right, shift[:, None]], axis=1) / eps

    def row_tile(rows: Any) -> Any:
        logs = jnp.concatenate([rows, jnp.ones((len(rows), 1), rows.dtype)], axis=1) @ columns.T
        top = jnp.max(logs, axis=1, keepdims=True)
        return top[:, 0] + jnp.log(jnp.exp(logs - top).sum(axis=1))

    return eps * over_tiles(row_tile, left, tile)


def over_tiles(function: Any, rows: Any, tile: int) -> Any:
    """`function` of row tiles [tile, ...], one after the other, its results joined."""
    n = jax.tree.leaves(rows)[0].shape[0]
    count = -(-n // tile)
    extra = count * tile - n

    def cut(a: Any) -> Any:
        return jnp.concatenate([a, jnp.zeros((extra, *a.shape[1:]), a.dtype)]).reshape(count, tile, *a.shape[1:])

    found = jax.lax.map(function, jax.tree.map(cut, rows))
    return jax.tree.map(lambda a: a.reshape(count * tile, *a.shape[2:])[:n], found)


@jax.tree_util.register_pytree_node_class
class TransitionGeometry(geometry.Geometry):
    """Cost C = -L R' between n starts and m ends, made `tile` rows (or columns) at a time.

    ott's own `PointCloud(batch_size=...)` does not run on JAX 0.9 and later.

    Parameters
    ----------
    left, right : arrays [n, p], [m, p] of `transition_factors`
    tile : rows (columns) held at once; memory is tile * max(n, m)
    epsilon : entropic regularisation; 1 is the Schroedinger problem of the reference itself
    """

    def __init__(self, left: Any, right: Any, tile: int, epsilon: Any = 1.0) -> None:
        super().__init__(epsilon=epsilon)
        self.left, self.right, self.tile = left, right, tile

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers (n, m)."""
        return self.left.shape[0], self.right.shape[0]

    @property
    def dtype(self) -> Any:
        """Precision of the cost."""
        return self.left.dtype

    @property
    def is_symmetric(self) -> bool:
        """Never taken for granted: a transition is not."""
        return False

    @property
    def cost_matrix(self) -> Any:
        """The whole matrix [n, m], for small problems."""
        return -self.left @ self.right.T

    def apply_lse_kernel(self, f: Any, g: Any, eps: Any, vec: Any = None, axis: int = 0) -> tuple[Any, Any]:
        """Eps log sum exp((shift - C) / eps) over the columns (axis 1, shift g) or the rows (axis 0, shift f)."""
        if vec is not None:
            raise NotImplementedError("a weighted kernel is not needed by Sinkhorn in the log domain.")
        if axis == 1:
            found = log_sum_exp(self.left, self.right, _finite(g), eps, self.tile)
        else:
            found = log_sum_exp(self.right, self.left, _finite(f), eps, self.tile)
        return found, jnp.ones(1, found.dtype)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Arrays and the static tile."""
        return (self.left, self.right, self._epsilon_init), {"tile": self.tile}

    @classmethod
    def tree_unflatten(cls, aux_data: Any, children: Any) -> TransitionGeometry:
        """Build again from what `tree_flatten` gave."""
        left, right, epsilon = children
        return cls(left, right, aux_data["tile"], epsilon)


def _finite(shift: Any) -> Any:
    """Log weights of minus infinity (a particle that does not count) as a number a product can carry."""
    return jnp.maximum(shift, -1e30)
