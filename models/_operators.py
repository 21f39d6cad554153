"""A matrix known by its products: what rows of comparisons and rows of a loss surface have in common."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

BLOCK = 4096
"""Rows that are written out at once: temporaries stay small."""

Index = slice | np.ndarray
Values = Callable[[np.ndarray, slice], np.ndarray]
"""From eta of some rows, and which rows they are, to a number for each."""


class Operator(abc.ABC):
    """A matrix D [m, p] with a row for each observation or candidate.

    A subclass says its shape, writes out some of its rows, and is subset; products then write out a block of rows at a
    time. It overrides those that it has a faster way to.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """Number of rows m and of parameters p."""

    @abc.abstractmethod
    def rows(self, index: Index) -> Float[np.ndarray, "b p"]:
        """Some rows (a slice, positions or booleans), written out."""

    @abc.abstractmethod
    def take(self, index: Index) -> Operator:
        """The operator of these rows alone."""

    @property
    def block_rows(self) -> int:
        """Number of rows that are written out at once."""
        return BLOCK

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[tuple[slice, Float[np.ndarray, "b p"]]]:
        """All rows in order, a block at a time, and where in the whole each block is."""
        for start in range(0, len(self), self.block_rows):
            part = slice(start, min(start + self.block_rows, len(self)))
            yield part, self.rows(part)

    def row(self, index: int) -> Float[np.ndarray, " p"]:
        """One row."""
        return np.asarray(self.rows(slice(index, index + 1))[0])

    def dense(self) -> Dense:
        """The matrix written out, in 64 bit."""
        matrix = np.empty(self.shape)
        for part, rows in self.blocks():
            matrix[part] = rows
        return Dense(matrix)

    def subsample(self, step: int) -> Operator:
        """Every step-th row."""
        return self.take(slice(None, None, step))

    def matvec(self, theta: Float[np.ndarray, " p"]) -> Float[np.ndarray, " m"]:
        """D theta."""
        return np.concatenate([np.empty(0), *(rows @ theta for _, rows in self.blocks())])

    def matmat(self, root: Float[np.ndarray, "p k"]) -> Float[np.ndarray, "m k"]:
        """D root."""
        return np.concatenate([np.empty((0, root.shape[1])), *(rows @ root for _, rows in self.blocks())])

    def rmatvec(self, values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " p"]:
        """D' values."""
        total = np.zeros(self.shape[1])
        for part, rows in self.blocks():
            total += values[part] @ rows
        return total

    def matvec_rmatvec(
        self, theta: Float[np.ndarray, " p"], values: Values
    ) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " p"]]:
        """Eta = D theta and D' values(eta), each row written out once."""
        eta, total = np.empty(len(self)), np.zeros(self.shape[1])
        for part, rows in self.blocks():
            eta[part] = rows @ theta
            total += values(eta[part], part) @ rows
        return eta, total

    def gram(self, weights: Float[np.ndarray, " m"], single: bool = False) -> Float[np.ndarray, "p p"]:
        """D' diag(weights) D, weights not negative; `single` allows products in 32 bit where they are faster."""
        roots, kind = np.sqrt(weights)[:, None], np.float32 if single else np.float64
        total = np.zeros((self.shape[1],) * 2)
        for part, rows in self.blocks():
            scaled = np.multiply(rows, roots[part], dtype=kind, casting="same_kind")
            total += scaled.T @ scaled  # NumPy calls syrk here: half the work of a product
        return total

    def squared_norms(self, root: Float[np.ndarray, "p k"]) -> Float[np.ndarray, " m"]:
        """|root' d|^2 of every row d."""
        if root.shape[1] == 1:
            return np.asarray(np.square(self.matvec(root[:, 0])))
        products = (rows @ root for _, rows in self.blocks())
        return np.concatenate([np.empty(0), *(np.einsum("ij,ij->i", block, block) for block in products)])

    def levels(self, direction: Float[np.ndarray, " p"]) -> np.ndarray:
        """What `along` needs of a direction: its products with what the rows are made of."""
        return self.matvec(direction)

    def along(self, levels: np.ndarray, part: Index = slice(None)) -> Float[np.ndarray, " b"]:
        """D direction for some rows, from the levels of the direction: a new array."""
        return np.array(levels[part])

    def factors(self, root: Float[np.ndarray, "p k"]) -> Mapping[str, np.ndarray]:
        """D root as arrays from which `product_of` computes D root u."""
        return {"rows": self.matmat(root)}


@dataclass(frozen=True, eq=False)
class Dense(Operator):
    """A matrix that is written out.

    Parameters
    ----------
    matrix : array [m, p]
    """

    matrix: Float[np.ndarray, "m p"]

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def rows(self, index: Index) -> Float[np.ndarray, "b p"]:
        return np.asarray(self.matrix[index])

    def take(self, index: Index) -> Dense:
        return Dense(self.matrix[index])

    def dense(self) -> Dense:
        return self


def product_of(factors: Mapping[str, Any], u: Any) -> Any:
    """D root u [m] from `Operator.factors(root)`, in NumPy or in JAX."""
    if "rows" in factors:
        return factors["rows"] @ u
    levels = factors["items"] @ u
    product = levels[factors["first"]] - levels[factors["second"]]
    if "covariates" in factors:
        product = product + factors["covariates"] @ (factors["effects"] @ u)
    return product
