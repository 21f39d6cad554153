"""Features in a Dask array: rows are read chunk by chunk, and worked on where the chunks are, in tasks of Dask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from tercet.models.items.features import of_product
from tercet.models.items.projection import FeatureMap
from tercet.models.items.stored import Stored, prepared

DaskArray = Any  # of an optional package
NAME = "the Dask array"
Result = TypeVar("Result")


def is_dask(values: Any) -> bool:
    """Whether this is a Dask array; does not import Dask."""
    return type(values).__module__.startswith("dask.") and hasattr(values, "chunks") and hasattr(values, "dask")


@dataclass(frozen=True, eq=False, kw_only=True)
class Chunked(Stored):
    """Features [n, d] in a Dask array, whole rows in each chunk; made by `open_dask`."""

    array: DaskArray

    @property
    def name(self) -> str:
        return NAME

    def read(self, rows: slice | Int[np.ndarray, " k"]) -> np.ndarray:
        return np.asarray(self.array[rows].compute())

    def tabulate(
        self, matrix: np.ndarray, function: Callable[..., np.ndarray], width: int, *of_rows: np.ndarray
    ) -> DaskArray:
        import dask.array as da

        parts = self._tasks(partial(of_product, matrix, function), of_rows)
        sizes = self._in_order.chunks[0]
        arrays = [
            da.from_delayed(part, shape=(size, width), dtype=np.float32)
            for part, size in zip(parts, sizes, strict=True)
        ]
        return da.concatenate(arrays).persist()

    def _results(self, function: Callable[..., Result], of_rows: tuple[np.ndarray, ...]) -> Iterator[Result]:
        import dask

        yield from dask.compute(*self._tasks(function, of_rows))

    def _tasks(self, function: Callable[..., Any], of_rows: tuple[np.ndarray, ...]) -> list[Any]:
        """One task (dask.delayed) a chunk, in order: function(features of its rows, the same rows of `of_rows`)."""
        import dask

        array, call = self._in_order, dask.delayed(_call)
        shared = dask.delayed(_Work(function, self.maps), traverse=False)  # sent once, however many chunks there are
        starts = np.cumsum([0, *array.chunks[0][:-1]]).tolist()
        return [
            call(shared, chunk, start, tuple(values[start : start + size] for values in of_rows))
            for chunk, start, size in zip(array.to_delayed().ravel(), starts, array.chunks[0], strict=True)
        ]

    @property
    def _in_order(self) -> DaskArray:
        """The rows of the items, in their order."""
        everything = len(self) == self.array.shape[0] and bool((np.diff(self.rows) == 1).all())
        return self.array if everything else self.array[self.rows]


@dataclass(frozen=True, eq=False)
class _Work:
    """What is done with every chunk."""

    function: Callable[..., Any]
    maps: tuple[FeatureMap, ...]

    def __call__(self, values: np.ndarray, start: int, own: tuple[np.ndarray, ...]) -> Any:
        rows = prepared(f"{NAME}, rows {start} to {start + len(values) - 1},", np.asarray(values), self.maps)
        return self.function(rows, *own)


def _call(work: _Work, values: np.ndarray, start: int, own: tuple[np.ndarray, ...]) -> Any:
    return work(values, start, own)


def open_dask(array: DaskArray) -> Chunked:
    """A Dask array [n, d] as features that stay in it; nothing is computed.

    Parameters
    ----------
    array : dask.array.Array of numbers, of known chunks

    Returns
    -------
    Chunked

    Raises
    ------
    ValueError
        Not two dimensions, no rows, no numbers, or chunks of unknown size.

    Examples
    --------
    >>> import dask.array as da
    >>> from tercet.models.items.chunked import open_dask
    >>> open_dask(da.ones((5, 2), chunks=(2, 1)))[3:].tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    if array.ndim != 2:
        raise ValueError(
            f"a Dask array of features must have shape [n, d], got {array.shape}; array.reshape((-1, d)) makes items "
            "of prompts and responses, Items(..., prompt=...) says which is whose."
        )
    if np.isnan(array.shape).any():
        raise ValueError(
            f"this Dask array has chunks of unknown size (shape {array.shape}): array.compute_chunk_sizes() finds them."
        )
    if array.dtype.kind not in "fiub":
        raise ValueError(f"a Dask array of features must hold numbers, got dtype {array.dtype}.")
    if min(array.shape) < 1:
        raise ValueError(f"the Dask array of features is empty (shape {array.shape}); give at least one row.")
    whole = array.rechunk({1: -1})  # a task needs whole rows
    return Chunked(rows=np.arange(array.shape[0]), width=int(array.shape[1]), array=whole)
