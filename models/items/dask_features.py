"""Features in a Dask array: read chunk by chunk, and worked on where the chunks are, in tasks of Dask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.models.items.embeddings import Embeddings, prepared
from tercet.models.items.projection import FeatureMap

NAME = "the Dask array"


def is_dask(values: Any) -> bool:
    """Whether this is a Dask array; does not import Dask."""
    return type(values).__module__.startswith("dask.") and hasattr(values, "chunks") and hasattr(values, "dask")


def open_dask(array: Any) -> Embeddings:
    """A Dask array [n, d] as features that stay in it; nothing is computed.

    Parameters
    ----------
    array : dask.array.Array of numbers, of known chunks

    Returns
    -------
    Embeddings

    Raises
    ------
    ValueError
        Not two dimensions, no rows, no numbers, or chunks of unknown size.

    Examples
    --------
    >>> import dask.array as da
    >>> from tercet.models.items.dask_features import open_dask
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
    whole = array.rechunk({1: -1})  # a task sees whole rows

    def fetch(rows: Any) -> np.ndarray:
        return np.asarray(whole[rows].compute())

    return Embeddings(fetch, np.arange(array.shape[0]), int(array.shape[1]), chunked=whole)


@dataclass(frozen=True, eq=False)
class _Work:
    """What is done with every chunk; sent once, however many chunks there are."""

    function: Callable[..., Any]
    maps: tuple[FeatureMap, ...]

    def __call__(self, values: np.ndarray, start: int, own: tuple[np.ndarray, ...]) -> Any:
        rows = prepared(f"{NAME}, rows {start} to {start + len(values) - 1},", np.asarray(values), self.maps)
        return self.function(rows, *own)


def over_chunks(features: Embeddings, function: Callable[..., Any], *of_rows: np.ndarray) -> list[Any]:
    """Tasks (dask.delayed), one a chunk in order: function(features of its rows, what `of_rows` hold for them)."""
    import dask

    array = _rows_of(features)
    shared = dask.delayed(_Work(function, features.maps), traverse=False)
    call = dask.delayed(_call)
    return [
        call(shared, chunk, start, tuple(values[start : start + size] for values in of_rows))
        for chunk, start, size in zip(array.to_delayed().ravel(), _starts(array), array.chunks[0], strict=True)
    ]


def rows_by_chunk(features: Embeddings, function: Callable[..., Any], width: int, *of_rows: np.ndarray) -> Any:
    """A Dask array [n, width] in 32 bit of what `function` makes of the rows of each chunk."""
    import dask.array as da

    sizes = _rows_of(features).chunks[0]
    parts = over_chunks(features, function, *of_rows)
    arrays = [
        da.from_delayed(part, shape=(size, width), dtype=np.float32) for part, size in zip(parts, sizes, strict=True)
    ]
    return da.concatenate(arrays)


def _call(work: _Work, values: np.ndarray, start: int, own: tuple[np.ndarray, ...]) -> Any:
    return work(values, start, own)


def _starts(array: Any) -> list[int]:
    return np.cumsum([0, *array.chunks[0][:-1]]).tolist()


def _rows_of(features: Embeddings) -> Any:
    """The Dask array of the items, in their order."""
    array = features.chunked
    everything = len(features) == array.shape[0] and bool((np.diff(features.rows) == 1).all())
    return array if everything else array[features.rows]
