"""Candidate sites under a fitted loss surface: each label tells of one linear function of Gaussian coefficients."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.designs.criteria.pools import LinearPool
from tercet.designs.criteria.roots import gram_root

BLOCK = 4_000
"""Rows that are written out at once."""
STEP = 1_000
"""Rows that meet a direction at once: they stay in the cache, and the product below what BLAS splits over threads."""


class Rows(abc.ABC):
    """Rows [m, p]: what the surface at each of m sites is in p coefficients."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def take(self, index: Any) -> Float[np.ndarray, "b p"]:
        """The rows at these places (a slice or positions)."""

    @abc.abstractmethod
    def along(self, direction: np.ndarray) -> Float[np.ndarray, " m"]:
        """Product of every row with one direction [p]."""


@dataclass(frozen=True, eq=False)
class WrittenRows(Rows):
    """Rows that are written out."""

    array: Float[np.ndarray, "m p"]

    def __len__(self) -> int:
        return len(self.array)

    def take(self, index: Any) -> Float[np.ndarray, "b p"]:
        """The rows at these places."""
        return self.array[index]

    def along(self, direction: np.ndarray) -> Float[np.ndarray, " m"]:
        """Product of every row with one direction."""
        return self.array @ direction


@dataclass(frozen=True, eq=False)
class ProductRows(Rows):
    """Rows scale * (1, phi_1 x ... x phi_q): a product basis kept as its factors, q m b numbers and not m b^q.

    Attributes
    ----------
    factors : q arrays [m, b], the functions along each axis
    scales : array [1 + b^q], prior standard deviations; that of the level first
    """

    factors: tuple[np.ndarray, ...]
    scales: np.ndarray

    def __len__(self) -> int:
        return len(self.factors[0])

    def take(self, index: Any) -> Float[np.ndarray, "b p"]:
        """The rows at these places, written out."""
        product = self.factors[0][index]
        for factor in self.factors[1:]:
            product = (product[:, :, None] * factor[index][:, None, :]).reshape(len(product), -1)
        return np.hstack([np.ones((len(product), 1)), product]) * self.scales

    def along(self, direction: np.ndarray) -> Float[np.ndarray, " m"]:
        """Product of every row with one direction, an axis at a time."""
        weights, values = direction * self.scales, np.empty(len(self))
        core = weights[1:].reshape(self.factors[0].shape[1], -1)
        for begin in range(0, len(self), STEP):
            first, *others = (factor[begin : begin + STEP] for factor in self.factors)
            left = first @ core
            for factor in others:
                left = np.einsum("nb,nbk->nk", factor, left.reshape(*factor.shape, -1))
            values[begin : begin + STEP] = left.sum(axis=1)
        return weights[0] + values


@dataclass(frozen=True, eq=False)
class SurfacePool(LinearPool):
    """m candidate sites; a label at one of them tells of its row d'w, and t'w is the risk at the target sites.

    Attributes
    ----------
    rows : d of each candidate
    root : R with R R' the posterior covariance of w
    target : t
    label : information of one label about d'w
    """

    rows: Rows
    root: Float[np.ndarray, "p p"]
    target: Float[np.ndarray, " p"]
    label: float

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: np.ndarray) -> SurfacePool:
        """A pool of these candidates alone, in the few coordinates that they and the target span."""
        spanned = gram_root(np.vstack([self.rows.take(index), self.target]) @ self.root)
        return SurfacePool(WrittenRows(spanned[:-1]), np.eye(len(spanned)), spanned[-1], self.label)

    @property
    def covariance(self) -> Float[np.ndarray, "p p"]:
        """Posterior covariance of w."""
        return self.root @ self.root.T

    @cached_property
    def variance(self) -> Float[np.ndarray, " m"]:
        """Posterior variance of the surface at each candidate."""
        return self.squared_norms(self.root)

    @property
    def information(self) -> Float[np.ndarray, " m"]:
        """Information of one label: the same at every site."""
        return np.full(len(self), self.label)

    @property
    def expected_information(self) -> Float[np.ndarray, " m"]:
        """The same: it does not depend on the surface."""
        return self.information

    @property
    def target_root(self) -> Float[np.ndarray, "p 1"]:
        """The target t itself, S = t t'."""
        return self.target[:, None]

    def toward(self, direction: np.ndarray) -> Float[np.ndarray, " p"]:
        """Product S . direction."""
        return self.target * (self.target @ direction)

    def levels(self, direction: np.ndarray) -> Float[np.ndarray, " m"]:
        """Product d . direction for every candidate."""
        return self.rows.along(direction)

    def along(self, levels: np.ndarray, part: slice | np.ndarray = slice(None)) -> Float[np.ndarray, " b"]:
        """The levels of the candidates of a part."""
        return levels[part].copy()

    def row(self, index: int) -> Float[np.ndarray, " p"]:
        """The row of one candidate."""
        return self.rows.take(slice(index, index + 1))[0]

    def squared_norms(self, root: np.ndarray) -> Float[np.ndarray, " m"]:
        """Squared norm |root' d|^2 of every candidate, block by block."""
        if root.shape[1] == 1:
            return np.square(self.levels(root[:, 0]))
        norms = np.empty(len(self))
        for begin in range(0, len(self), BLOCK):
            whitened = self.rows.take(slice(begin, begin + BLOCK)) @ root
            norms[begin : begin + BLOCK] = np.einsum("ij,ij->i", whitened, whitened)
        return norms

    def columns(self, chosen: np.ndarray, gains: np.ndarray) -> dict[str, np.ndarray]:
        """Standard deviations: of the surface at each pick before any, of the risk once this pick has its label too."""
        if len(chosen) == 0:
            return {"surface_sd": np.empty(0), "risk_sd": np.empty(0)}
        rows, risk = self.rows.take(chosen) @ self.root, self.target @ self.root
        # Cholesky by rows conditions on the picks one after the other: what each takes off the risk's variance.
        factor = scipy.linalg.cholesky(rows @ rows.T + np.eye(len(rows)) / self.label, lower=True)
        taken = np.square(scipy.linalg.solve_triangular(factor, rows @ risk, lower=True))
        left = np.maximum(risk @ risk - np.cumsum(taken), 0.0)
        return {"surface_sd": np.sqrt(np.square(rows).sum(axis=1)), "risk_sd": np.sqrt(left)}
