"""The cost of a bridge, -log p_theta(y_j | x_i), as a factored ott geometry that never holds the whole matrix.

The Gaussian log density is linear in (1, y, y y'), so that the cost of all pairs is -L R' with 1 + d + d (d + 1) / 2
columns (2 + d where one covariance serves all): memory is linear in n + m, and a tile of rows is one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
from jaxtyping import Array, Float

from tercet.inference.trajectories.ott import Geometry
from tercet.models.trajectories.transitions import PENALTY, inverse_and_log_det

NO_WEIGHT = -1e30  # stands for a log weight of minus infinity, which a matrix product would turn into NaN
Tree = TypeVar("Tree")


def transition_factors(
    means: Float[Array, "n d"], covariances: Array, points: Float[Array, "m d"]
) -> tuple[Float[Array, "n p"], Float[Array, "m p"]]:
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
    precision, log_det, definite = inverse_and_log_det(covariances)
    shared = precision.ndim == 2
    linear = means @ precision if shared else (precision @ means[..., None])[..., 0]
    constant = -0.5 * ((linear * means).sum(axis=1) + log_det + d * np.log(2 * np.pi))
    ones = jnp.ones((len(points), 1), points.dtype)
    if shared:
        quadratic = -0.5 * ((points @ precision) * points).sum(axis=1, keepdims=True)
        left = jnp.concatenate([constant[:, None], jnp.ones_like(constant)[:, None], linear], axis=1)
        right = jnp.concatenate([ones, quadratic, points], axis=1)
    else:
        rows, columns = np.triu_indices(d)
        twice = jnp.asarray(np.where(rows == columns, -0.5, -1.0).astype(points.dtype))
        left = jnp.concatenate([constant[:, None], linear, precision[:, rows, columns] * twice], axis=1)
        right = jnp.concatenate([ones, points, points[:, rows] * points[:, columns]], axis=1)
    penalty = jnp.zeros(left.shape[1], left.dtype).at[0].set(PENALTY)
    return jnp.where((definite > 0).reshape(-1, 1), left, penalty), right


def log_sum_exp(
    left: Float[Array, "n p"], right: Float[Array, "m p"], shift: Array, eps: jax.typing.ArrayLike, tile: int
) -> Float[Array, " n"]:
    """Smoothed maximum eps log sum_j exp((L R' + shift)_ij / eps) [n], `tile` rows at a time."""
    # The shift is one more column of the product: one pass fewer over the tile.
    columns = jnp.concatenate([right, jnp.maximum(shift, NO_WEIGHT)[:, None]], axis=1) / eps

    def row_tile(rows: Array) -> Array:
        logs = jnp.concatenate([rows, jnp.ones((len(rows), 1), rows.dtype)], axis=1) @ columns.T
        top = jnp.max(logs, axis=1, keepdims=True)
        return top[:, 0] + jnp.log(jnp.exp(logs - top).sum(axis=1))

    return jnp.asarray(eps) * over_tiles(row_tile, left, tile)


def over_tiles(function: Callable[[Tree], Tree], rows: Tree, tile: int) -> Tree:
    """Map `function` over row tiles [tile, ...], one after the other, and join the results."""
    n = jax.tree.leaves(rows)[0].shape[0]
    count = -(-n // tile)
    padding = count * tile - n

    def cut(a: Array) -> Array:
        return jnp.concatenate([a, jnp.zeros((padding, *a.shape[1:]), a.dtype)]).reshape(count, tile, *a.shape[1:])

    tiles = jax.lax.map(function, jax.tree.map(cut, rows))
    joined: Tree = jax.tree.map(lambda a: a.reshape(count * tile, *a.shape[2:])[:n], tiles)
    return joined


@jax.tree_util.register_pytree_node_class
class TransitionGeometry(Geometry):
    """Cost C = -L R' between n starts and m ends, made `tile` rows (or columns) at a time.

    ott's own `PointCloud(batch_size=...)` does not run on JAX 0.9 and later.

    Parameters
    ----------
    left, right : arrays [n, p], [m, p] of `transition_factors`
    tile : rows (columns) held at once; memory is tile * max(n, m)
    epsilon : entropic regularisation; 1 is the Schroedinger problem of the reference itself
    """

    def __init__(self, left: Any, right: Any, tile: int, epsilon: Any = 1.0) -> None:  # JAX rebuilds with any leaves
        super().__init__(epsilon=epsilon)
        self.left: Array = left
        self.right: Array = right
        self.tile = tile

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers (n, m)."""
        return self.left.shape[0], self.right.shape[0]

    @property
    def dtype(self) -> jnp.dtype:
        """Precision of the cost."""
        return self.left.dtype

    @property
    def is_symmetric(self) -> bool:
        """False: a transition density is not symmetric."""
        return False

    @property
    def cost_matrix(self) -> Float[Array, "n m"]:
        """The whole matrix [n, m], for small problems."""
        return -self.left @ self.right.T

    def apply_lse_kernel(
        self, f: Array, g: Array, eps: jax.typing.ArrayLike, vec: Array | None = None, axis: int = 0
    ) -> tuple[Array, Array]:
        """Give eps log sum exp((shift - C) / eps) over the columns (axis 1, shift g) or the rows (axis 0, shift f)."""
        if vec is not None:
            raise NotImplementedError("a weighted kernel is not needed by Sinkhorn in the log domain.")
        if axis == 1:
            logs = log_sum_exp(self.left, self.right, g, eps, self.tile)
        else:
            logs = log_sum_exp(self.right, self.left, f, eps, self.tile)
        return logs, jnp.ones(1, logs.dtype)

    def tree_flatten(self) -> tuple[tuple[object, ...], dict[str, int]]:
        """Arrays and the static tile."""
        return (self.left, self.right, self._epsilon_init), {"tile": self.tile}

    @classmethod
    def tree_unflatten(cls, aux_data: dict[str, int], children: Any) -> TransitionGeometry:
        """Rebuild from what `tree_flatten` gave."""
        left, right, epsilon = children
        return cls(left, right, aux_data["tile"], epsilon)
