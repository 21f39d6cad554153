"""What a criterion asks of candidates once a posterior is known: a pool."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from tercet.designs.criteria.roots import gram_root, symmetric_root
from tercet.models._operators import Dense, Index, Operator

AnyPool = TypeVar("AnyPool", bound="Pool")  # not typing.Self: beartype reads methods one by one
AnyLinearPool = TypeVar("AnyLinearPool", bound="LinearPool")


class Pool(abc.ABC):
    """m candidates with everything a criterion reads of them."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def sample(self: AnyPool, index: np.ndarray) -> AnyPool:
        """A pool of these candidates alone, that costs no more than they do."""


class Moment(abc.ABC):
    """The second moment S [p, p] of the rows that matter, by products and by a `root` R [p, k], R R' = S."""

    root: Float[np.ndarray, "p k"]

    @abc.abstractmethod
    def __matmul__(self, direction: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        """S direction."""


@dataclass(frozen=True, eq=False)
class SecondMoment(Moment):
    """S = E[d d'] as a matrix; its root is computed once, however many pools share it.

    Parameters
    ----------
    matrix : array [p, p]
    """

    matrix: Float[np.ndarray, "p p"]

    def __matmul__(self, direction: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        return np.asarray(self.matrix @ direction)

    @cached_property
    def root(self) -> Float[np.ndarray, "p p"]:  # type: ignore[override]
        """R with R R' = S."""
        return symmetric_root(self.matrix)


@dataclass(frozen=True, eq=False)
class RootMoment(Moment):
    """S = R R' of low rank, by its root.

    Parameters
    ----------
    root : array [p, k], R
    """

    root: Float[np.ndarray, "p k"]

    def __matmul__(self, direction: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        return np.asarray(self.root @ (self.root.T @ direction))


@dataclass(frozen=True, eq=False)
class LinearPool(Pool):
    """Candidates under a Gaussian posterior of p parameters w: a label informs about d'w, d the candidate's row.

    Parameters
    ----------
    rows : Operator [m, p], the rows d
    root : array [p, k], R with R R' the posterior covariance of w
    information : array [m], Fisher information of one label about d'w at the posterior mean
    target : the second moment S [p, p] of the rows that matter
    """

    rows: Operator
    root: Float[np.ndarray, "p k"]
    information: Float[np.ndarray, " m"]
    target: Moment

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self: AnyLinearPool, index: np.ndarray) -> AnyLinearPool:
        """A pool of these candidates alone, in the few coordinates that they and the target span."""
        spanned = gram_root(np.vstack([self.rows.rows(index), self.target.root.T]) @ self.root)
        rows, target = spanned[: len(index)], RootMoment(spanned[len(index) :].T)
        information = self.information[index]
        return replace(self, rows=Dense(rows), root=np.eye(len(spanned)), information=information, target=target)

    @cached_property
    def variance(self) -> Float[np.ndarray, " m"]:
        """Posterior variance d' A d of what each label informs about."""
        return self.squared_norms(self.root)

    @property
    def expected_information(self) -> Float[np.ndarray, " m"]:
        """Information of one label averaged over the posterior: here it does not depend on w."""
        return self.information

    @property
    def covariance(self) -> Float[np.ndarray, "p p"]:
        """Posterior covariance A of w."""
        return np.asarray(self.root @ self.root.T)

    @property
    def target_root(self) -> Float[np.ndarray, "p k"]:
        """R with R R' = S."""
        return self.target.root

    def toward(self, direction: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        """S direction."""
        return self.target @ direction

    def row(self, index: int) -> Float[np.ndarray, " p"]:
        """The row d of one candidate."""
        return self.rows.row(index)

    def levels(self, direction: Float[np.ndarray, " p"]) -> np.ndarray:
        """What `along` needs of a direction: its products with what the rows are made of."""
        return self.rows.levels(direction)

    def along(self, levels: np.ndarray, part: Index = slice(None)) -> Float[np.ndarray, " b"]:
        """Product d . direction for some candidates, from the levels of the direction: a new array."""
        return self.rows.along(levels, part)

    def rmatvec(self, weights: Float[np.ndarray, " m"]) -> Float[np.ndarray, " p"]:
        """Sum over the candidates of weight d."""
        return self.rows.rmatvec(weights)

    def squared_norms(self, root: Float[np.ndarray, "p k"]) -> Float[np.ndarray, " m"]:
        """|root' d|^2 of every candidate."""
        return self.rows.squared_norms(root)
