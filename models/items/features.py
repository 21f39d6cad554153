"""Features of items as a linear operator X [n, d]: the contract, an array, and the identity."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from tercet.models.items.projection import FeatureMap

BLOCK_BYTES = 2**25
"""Size of a block of rows, in bytes of 64-bit numbers: 32 MB."""
CACHED = 2**17  # numbers of a block that stays in a core's cache
FIRST = 1024  # rows whose mean is near that of all

Result = TypeVar("Result")
AnyFeatures = TypeVar("AnyFeatures", bound="Features")  # not typing.Self: beartype reads methods one by one


class Features(abc.ABC):
    """Features X [n, d] of n items, known by their rows and by products.

    Reading `features[rows]` gives an array. Everything else is done a block of rows at a time, so that a subclass has
    to say no more than its shape, how rows are read, and how it is subset and mapped.

    Attributes
    ----------
    in_memory : whether all rows are at hand as an array
    sparse : whether rows are nearly all zeros, so that differences of them are not worth writing out
    block_bytes : size of the blocks in which rows are read, in bytes of 64-bit numbers
    """

    in_memory: ClassVar[bool] = True
    sparse: ClassVar[bool] = False
    block_bytes: int = BLOCK_BYTES

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """Number of items n and of features d."""

    @abc.abstractmethod
    def __getitem__(self, rows: Any) -> Float[np.ndarray, "k d"]:
        """The features of these items (a slice, positions or booleans) as an array."""

    @abc.abstractmethod
    def take(self: AnyFeatures, index: Any) -> AnyFeatures:
        """The features of these items (positions or booleans), kept where they are."""

    @abc.abstractmethod
    def mapped(self, feature_map: FeatureMap) -> Features:
        """The features after a projection or the hidden layers of a network."""

    @property
    def public(self) -> Any:
        """What `Items.features` shows of these features: the array where they are one, else the object itself."""
        return self

    @property
    def prompt(self) -> Int[np.ndarray, " n"] | None:
        """The prompt of each item, where the storage knows it."""
        return None

    def __len__(self) -> int:
        return int(self.shape[0])

    def in_double(self) -> Features:
        """The same features, those in memory in 64 bit."""
        return self

    def loaded(self) -> Features:
        """The same features in memory, in 64 bit; read where they were not."""
        return self.in_double() if self.in_memory else InMemory(np.asarray(self[:], np.float64))

    @property
    def block_rows(self) -> int:
        """Number of rows of a block."""
        return max(1, self.block_bytes // (8 * max(1, self.shape[1])))

    def blocks(self) -> Iterator[tuple[slice, Float[np.ndarray, "k d"]]]:
        """All rows in order, a block at a time, and where in the whole each block is."""
        for start in range(0, max(1, len(self)), self.block_rows):  # without rows, one block without rows
            block = slice(start, min(start + self.block_rows, len(self)))
            yield block, self[block]

    def map_blocks(self, function: Callable[..., Result], *of_rows: np.ndarray) -> list[Result]:
        """Results of function(block of X, the same rows of each of `of_rows` [n]), blocks in order."""
        return list(self._results(function, of_rows))

    def sum_blocks(self, function: Callable[..., np.ndarray], *of_rows: np.ndarray) -> np.ndarray:
        """The sum of the results of `map_blocks`, added up as they come."""
        return reduce(np.add, self._results(function, of_rows))

    def _results(self, function: Callable[..., Result], of_rows: tuple[np.ndarray, ...]) -> Iterator[Result]:
        return (function(rows, *(each[block] for each in of_rows)) for block, rows in self.blocks())

    def map_products(self, matrix: np.ndarray, function: Callable[..., Result], *of_rows: np.ndarray) -> list[Result]:
        """Results of function(block of X @ matrix, the same rows of each of `of_rows` [n]), blocks in order."""
        return self.map_blocks(partial(of_product, matrix, function), *of_rows)

    def tabulate(
        self, matrix: np.ndarray, function: Callable[..., np.ndarray], width: int, *of_rows: np.ndarray
    ) -> Any:
        """`map_products` of a function that gives rows [k, width] in 32 bit, as one table [n, width].

        A NumPy array, or a Dask array, computed where its chunks are, for features that are chunked.
        """
        return np.concatenate(self.map_products(matrix, function, *of_rows))

    def __matmul__(self, matrix: np.ndarray) -> np.ndarray:
        """X @ matrix for a vector [d] or a matrix [d, k]."""
        return np.concatenate(self.map_products(matrix, np.asarray))

    def rmatvec(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
        """X' values."""
        return self.sum_blocks(_weighted_sum, values)

    def gram(self, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, "d d"]:
        """X' diag(weights) X, weights not negative."""
        return self.sum_blocks(_weighted_gram, weights)

    def sandwich(self, middle: scipy.sparse.sparray) -> Float[np.ndarray, "d d"]:
        """X' M X of a sparse matrix M [n, n]."""
        rows = self[:]
        return np.asarray(rows.T @ (middle @ rows))

    def levels(self, direction: Float[np.ndarray, " d"]) -> Float[np.ndarray, " n"]:
        """X @ direction, without threads of BLAS."""
        # These would go on spinning after a product this short, and take the cores from the work that follows.
        return np.concatenate(self.map_blocks(partial(_row_sums, direction)))

    @property
    def near_mean(self) -> Float[np.ndarray, " d"]:
        """A point near the mean of the rows, the mean of the first: sums about it lose no digits."""
        return np.asarray(self[: min(FIRST, self.block_rows)].mean(axis=0, dtype=np.float64))

    @cached_property
    def moments(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        """Mean and variance of each feature over the items, in one pass."""
        shift = self.near_mean
        first, second = self.sum_blocks(partial(_sums, shift)) / len(self)
        return shift + first, second - np.square(first)

    @property
    def total_variance(self) -> Any:
        """Trace of the covariance of the rows; zero where that is rounding."""
        center, variances = self.moments
        return _unless_rounding(float(variances.sum()), center)

    def scatter(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
        """Mean, and the sum of (x - mean) (x - mean)', in one pass."""
        shift = self.near_mean
        sums = self.sum_blocks(partial(_centred_products, shift))
        total, gap = sums[0], sums[0] / len(self)
        return shift + gap, sums[1:] - np.outer(total, gap)


@dataclass(frozen=True, eq=False)
class InMemory(Features):
    """Features in an array [n, d], of NumPy or, inside a NumPyro model, of JAX."""

    array: Any

    @property
    def shape(self) -> tuple[int, int]:
        n, d = self.array.shape
        return n, d

    @property
    def public(self) -> Any:
        return self.array

    def __getitem__(self, rows: Any) -> Any:
        return self.array if isinstance(rows, slice) and rows == slice(None) else self.array[rows]

    def take(self, index: Any) -> InMemory:
        return InMemory(self.array[index])

    def mapped(self, feature_map: FeatureMap) -> InMemory:
        return InMemory(feature_map.apply(self.array))

    def in_double(self) -> InMemory:
        return InMemory(self.array.astype(np.float64, copy=False))

    @property
    def near_mean(self) -> Float[np.ndarray, " d"]:
        return np.asarray(np.mean(self.array, axis=0, dtype=np.float64))

    @cached_property
    def moments(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        array = np.asarray(self.array)
        return array.mean(axis=0, dtype=np.float64), array.var(axis=0, dtype=np.float64)

    @property
    def total_variance(self) -> Any:
        if isinstance(self.array, jax.Array):
            return jnp.var(self.array, axis=0).sum()
        mean, step = self.near_mean, max(1, CACHED // self.shape[1])
        centred = (self.array[start : start + step] - mean for start in range(0, len(self), step))
        return _unless_rounding(float(sum(np.vdot(rows, rows) for rows in centred) / len(self)), mean)


@dataclass(frozen=True, eq=False)
class Identity(Features):
    """Features of a model with one parameter an item: rows of the identity [size, size], which is never written out.

    Parameters
    ----------
    size : number of items of the model, and of its parameters
    index : int array [n], the parameter of each row; None for all of them in order
    """

    size: int
    index: Int[np.ndarray, " n"] | None = None

    sparse: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[int, int]:
        return self.size if self.index is None else len(self.index), self.size

    @property
    def _index(self) -> Int[np.ndarray, " n"]:
        return np.arange(self.size) if self.index is None else self.index

    def __getitem__(self, rows: Any) -> Float[np.ndarray, "k d"]:
        chosen = self._index[rows]
        written = np.zeros((len(chosen), self.size))
        written[np.arange(len(chosen)), chosen] = 1.0
        return written

    def take(self, index: Any) -> Identity:
        return Identity(self.size, self._index[index])

    def mapped(self, feature_map: FeatureMap) -> InMemory:
        return InMemory(feature_map.apply(self[:]))

    def map_products(self, matrix: np.ndarray, function: Callable[..., Result], *of_rows: np.ndarray) -> list[Result]:
        return [function(self @ matrix, *of_rows)]

    def __matmul__(self, matrix: np.ndarray) -> np.ndarray:
        return matrix if self.index is None else matrix[self.index]

    def rmatvec(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
        return values if self.index is None else np.bincount(self.index, values, self.size)

    def gram(self, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, "d d"]:
        return np.diag(self.rmatvec(weights))

    def sandwich(self, middle: scipy.sparse.sparray) -> Float[np.ndarray, "d d"]:
        if self.index is not None:
            return super().sandwich(middle)
        return np.asarray(middle.toarray())

    def levels(self, direction: Float[np.ndarray, " d"]) -> Float[np.ndarray, " n"]:
        return self @ direction

    @property
    def near_mean(self) -> Float[np.ndarray, " d"]:
        return self.moments[0]

    @cached_property
    def moments(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        share = self.rmatvec(np.ones(len(self))) / len(self)
        return share, share * (1.0 - share)

    def scatter(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
        share = self.moments[0]
        return share, len(self) * (np.diag(share) - np.outer(share, share))


def of_product(matrix: np.ndarray, function: Callable[..., Result], rows: np.ndarray, *own: np.ndarray) -> Result:
    """Function of rows @ matrix."""
    return function(rows @ matrix, *own)


def _weighted_sum(rows: np.ndarray, values: np.ndarray) -> Float[np.ndarray, " d"]:
    return np.asarray(values @ rows)


def _weighted_gram(rows: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "d d"]:
    scaled = rows * np.sqrt(weights)[:, None]
    return np.asarray(scaled.T @ scaled)  # NumPy calls syrk here: half the work of a product


def _row_sums(direction: np.ndarray, rows: np.ndarray) -> Float[np.ndarray, " k"]:
    return np.asarray(np.einsum("ij,j->i", rows, direction))


def _sums(shift: np.ndarray, rows: np.ndarray) -> Float[np.ndarray, "2 d"]:
    centred = rows - shift
    return np.stack([centred.sum(axis=0), np.square(centred).sum(axis=0)])


def _centred_products(shift: np.ndarray, rows: np.ndarray) -> Float[np.ndarray, "_ d"]:
    """The sum of the rows, and below it that of their outer products."""
    centred = rows.astype(np.float64) - shift
    return np.vstack([centred.sum(axis=0), centred.T @ centred])


def _unless_rounding(total: float, center: np.ndarray) -> float:
    return total if total > 1e-14 * float(np.square(center).sum()) else 0.0
