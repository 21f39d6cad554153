"""The design matrix of comparisons, D [m, d + c]: differences of features of two items, then covariates.

It is never larger than the data. Where pairs outnumber items, everything goes through the items: D theta = (X
theta)[first] - (X theta)[second] and D' V D = X' L X with L the weighted graph Laplacian of the comparisons, so that a
million games among 50,000 items cost what 50,000 rows cost. Otherwise D is the smaller matrix, and is written out once.
Features on disk are read a block of pairs at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from tercet.models._blocks import in_blocks
from tercet.models._operators import BLOCK, Index, Operator, Values
from tercet.models.items.features import Features, InMemory

GATHERED = 2048  # pairs whose whitened differences are held at once, in a core's cache

AnyDifferences = TypeVar("AnyDifferences", bound="Differences")


def order_covariate(size: int) -> Float[np.ndarray, "m 1"]:
    """The covariate of the order effect: 1 for each of `size` comparisons, stored as one number."""
    return np.broadcast_to(np.ones((1, 1)), (size, 1))


@dataclass(frozen=True, eq=False)
class Differences(Operator):
    """D with rows (x_first - x_second, covariates), features being read for every product.

    A product costs a pass over the items that were compared; pairs sorted by their first item, as `merge_repeats`
    leaves them, make the pass over a file nearly sequential.

    Parameters
    ----------
    features : Features X [n, d]
    first, second : int array [m], rows of X
    covariates : array [m, c], what else a comparison's logit is linear in; None where c = 0. Constant columns may be
        broadcast from one row (`order_covariate`)
    """

    features: Features
    first: Int[np.ndarray, " m"]
    second: Int[np.ndarray, " m"]
    covariates: Float[np.ndarray, "m c"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        effects = 0 if self.covariates is None else self.covariates.shape[1]
        return len(self.first), self.features.shape[1] + effects

    @property
    def block_rows(self) -> int:
        return min(BLOCK, self.features.block_rows)

    def rows(self, index: Index) -> Float[np.ndarray, "b p"]:
        first, second = self.first[index], self.second[index]
        size, d = len(first), self.features.shape[1]
        ends = self.features[np.concatenate([first, second])]
        written = np.empty((size, self.shape[1]))
        written[:, :d] = ends[:size]
        written[:, :d] -= ends[size:]
        if self.covariates is not None:
            written[:, d:] = self._covariates(index)
        return written

    def take(self: AnyDifferences, index: Index) -> AnyDifferences:
        covariates = self.covariates
        if covariates is not None:
            size = len(self.first[index])
            covariates = np.broadcast_to(self._covariates(index), (size, covariates.shape[1]))
        return replace(self, first=self.first[index], second=self.second[index], covariates=covariates)

    def compact(self) -> Operator:
        """The operator of the same matrix that is cheapest for many products; of the items, only those that occur."""
        if not self.features.in_memory:
            return self
        if self.features.sparse:
            return self.through_items()
        used = np.zeros(len(self.features), dtype=bool)
        used[self.first] = used[self.second] = True
        if used.sum() > len(self):
            return self.dense()
        own = self.features.take(used)[:].astype(np.float64)
        # Centred: differences are the same, sums of squares lose no digits to a large common mean.
        own -= own.mean(axis=0)
        position = np.cumsum(used) - 1
        return GraphDifferences(InMemory(own), position[self.first], position[self.second], self.covariates)

    def through_items(self) -> GraphDifferences:
        """The same matrix, its products through those of the items."""
        return GraphDifferences(self.features, self.first, self.second, self.covariates)

    def _covariates(self, index: Index) -> Float[np.ndarray, "_ c"]:
        """Covariates of some comparisons, or one row for all of them."""
        assert self.covariates is not None
        return self.covariates[:1] if self.covariates.strides[0] == 0 else self.covariates[index]


@dataclass(frozen=True, eq=False)
class GraphDifferences(Differences):
    """D through the items: a product with X, and a difference of two of its entries for each comparison."""

    def matvec(self, theta: Float[np.ndarray, " p"]) -> Float[np.ndarray, " m"]:
        d = self.features.shape[1]
        return self.along(np.append(self.features @ theta[:d], theta[d:]))

    def matmat(self, root: Float[np.ndarray, "p k"]) -> Float[np.ndarray, "m k"]:
        d = self.features.shape[1]
        return self._gaps(self.features @ root[:d], root[d:], slice(None))

    def rmatvec(self, values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " p"]:
        size = len(self.features)
        own = self.features.rmatvec(np.bincount(self.first, values, size) - np.bincount(self.second, values, size))
        if self.covariates is None:
            return own
        constant = self.covariates.strides[0] == 0
        return np.append(own, values.sum() * self.covariates[0] if constant else values @ self.covariates)

    def matvec_rmatvec(
        self, theta: Float[np.ndarray, " p"], values: Values
    ) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " p"]]:
        eta = self.matvec(theta)
        return eta, self.rmatvec(values(eta, slice(None)))

    def gram(self, weights: Float[np.ndarray, " m"], single: bool = False) -> Float[np.ndarray, "p p"]:
        n, d = self.features.shape
        degree = np.bincount(self.first, weights, n) + np.bincount(self.second, weights, n)
        order, starts = self._by_first
        joint = scipy.sparse.csr_array((weights[order], self.second[order], starts), shape=(n, n))
        crossed = self.features.sandwich(joint)
        own: np.ndarray = self.features.gram(degree) - crossed - crossed.T
        if self.covariates is None:
            return own
        edge = np.column_stack([self.rmatvec(weights * column) for column in self.covariates.T])
        return np.block([[own, edge[:d]], [edge[:d].T, edge[d:]]])

    def squared_norms(self, root: Float[np.ndarray, "p k"]) -> Float[np.ndarray, " m"]:
        return self.squared_gaps(self.features @ root[: self.features.shape[1]], root)

    def squared_gaps(
        self, whitened: Float[np.ndarray, "n k"], root: Float[np.ndarray, "p k"]
    ) -> Float[np.ndarray, " m"]:
        """|root' d|^2 of every row d, where X root, `whitened`, is known."""
        effects = root[self.features.shape[1] :]
        blocks = in_blocks(lambda part: self._squared_gaps(whitened, effects, part), len(self), GATHERED)
        return np.concatenate([np.empty(0), *blocks])

    def _squared_gaps(self, whitened: np.ndarray, effects: np.ndarray, part: slice) -> Float[np.ndarray, " b"]:
        gap = self._gaps(whitened, effects, part)
        return np.asarray(np.einsum("ij,ij->i", gap, gap))

    def _gaps(self, whitened: np.ndarray, effects: np.ndarray, part: slice) -> Float[np.ndarray, "b k"]:
        gap: np.ndarray = whitened[self.first[part]]
        gap -= whitened[self.second[part]]
        if self.covariates is not None:
            gap += self._covariates(part) @ effects
        return gap

    def levels(self, direction: Float[np.ndarray, " p"]) -> Float[np.ndarray, " _"]:
        d = self.features.shape[1]
        return np.append(self.features.levels(direction[:d]), direction[d:])

    def along(self, levels: np.ndarray, part: Index = slice(None)) -> Float[np.ndarray, " b"]:
        along = levels.take(self.first[part], mode="clip")  # no index is out of range: do not look
        along -= levels.take(self.second[part], mode="clip")
        if self.covariates is not None:
            along += self._covariates(part) @ levels[len(self.features) :]
        return along

    def factors(self, root: Float[np.ndarray, "p k"]) -> Mapping[str, np.ndarray]:
        d = self.features.shape[1]
        own = {"items": self.features @ root[:d], "first": self.first, "second": self.second}
        if self.covariates is None:
            return own
        return own | {"covariates": self._covariates(slice(None)), "effects": root[d:]}

    @cached_property
    def _by_first(self) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " _"]]:
        """Order of the comparisons by their items, and where each first item starts: sorted once for all weights."""
        size = len(self.features)
        order = np.argsort(self.first * size + self.second)
        return order, np.concatenate([[0], np.cumsum(np.bincount(self.first, minlength=size))])
