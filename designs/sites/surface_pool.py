"""Candidate sites under a fitted loss surface: each label informs about a linear function of Gaussian coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.designs.criteria.pools import LinearPool
from tercet.models._operators import Index, Operator

STEP = 1_000
"""Rows that meet a direction at once: they stay in the cache, and the product below what BLAS splits over threads."""


@dataclass(frozen=True, eq=False)
class ProductBasis(Operator):
    """Rows scale * (1, phi_1 x ... x phi_q): a product basis kept as its factors, q m b numbers and not m b^q.

    Parameters
    ----------
    bases : q arrays [m, b], the functions along each axis
    scales : array [1 + b^q], prior standard deviations; that of the level first
    """

    bases: tuple[Float[np.ndarray, "m b"], ...]
    scales: Float[np.ndarray, " p"]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.bases[0]), len(self.scales)

    def rows(self, index: Index) -> Float[np.ndarray, "k p"]:
        product = self.bases[0][index]
        for basis in self.bases[1:]:
            product = (product[:, :, None] * basis[index][:, None, :]).reshape(len(product), -1)
        return np.asarray(np.hstack([np.ones((len(product), 1)), product]) * self.scales)

    def take(self, index: Index) -> ProductBasis:
        return ProductBasis(tuple(basis[index] for basis in self.bases), self.scales)

    def matvec(self, theta: Float[np.ndarray, " p"]) -> Float[np.ndarray, " m"]:
        """Product of every row with one direction, an axis at a time."""
        weights, values = theta * self.scales, np.empty(len(self))
        core = weights[1:].reshape(self.bases[0].shape[1], -1)
        for start in range(0, len(self), STEP):
            first, *others = (basis[start : start + STEP] for basis in self.bases)
            left = first @ core
            for basis in others:
                left = np.einsum("nb,nbk->nk", basis, left.reshape(*basis.shape, -1))
            values[start : start + STEP] = left.sum(axis=1)
        return np.asarray(weights[0] + values)


class PickSds(NamedTuple):
    """Posterior standard deviations [b] of a batch of sites.

    Attributes
    ----------
    surface_sd : of the surface at each pick, before any of them is labelled
    risk_sd : of the risk, once this pick and those before it are labelled
    """

    surface_sd: Float[np.ndarray, " b"]
    risk_sd: Float[np.ndarray, " b"]


def pick_sds(pool: LinearPool, chosen: np.ndarray) -> PickSds:
    """Standard deviations of the surface and of the risk, whose row is the root of the pool's target."""
    if len(chosen) == 0:
        return PickSds(np.empty(0), np.empty(0))
    rows, risk = pool.rows.rows(chosen) @ pool.root, pool.target.root[:, 0] @ pool.root
    # Cholesky by rows conditions on the picks one after the other: what each takes off the risk's variance.
    factor = scipy.linalg.cholesky(rows @ rows.T + np.diag(1.0 / pool.information[chosen]), lower=True)
    removed = np.square(scipy.linalg.solve_triangular(factor, rows @ risk, lower=True))
    left = np.maximum(risk @ risk - np.cumsum(removed), 0.0)
    return PickSds(np.sqrt(np.square(rows).sum(axis=1)), np.sqrt(left))
