"""Embeddings on disk: files far larger than memory, read a block of rows at a time, as the features of items."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tercet.models._inputs import check_finite
from tercet.models.items.projection import FeatureMap

BLOCK_BYTES = 2**25
"""Size of the blocks that are read, in bytes of 64-bit numbers: 32 MB."""

NEAR = 1024  # rows whose mean stands near that of all

Fetch = Callable[[Any], np.ndarray]
"""From increasing rows of the storage (a slice, or an int array) to numbers [k, d]."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Features [n, d] that stay where they are stored; made by `open_embeddings`, given to `Items` as its features.

    Reading `embeddings[rows]` gives an array, checked: no NaN, and the file is the one that was opened. `over_blocks`
    goes through all rows: of files one block after the other, of a Dask array in its tasks.

    Attributes
    ----------
    fetch : reads rows of the storage
    rows : int array [n], row of the storage of each item
    width : d of the storage
    grid : prompts and responses a prompt, where the storage has three dimensions
    maps : feature maps that rows go through once read
    stamp : file, its size and its time of change when it was opened
    chunked : the Dask array that the rows are in (None: no Dask array)
    """

    fetch: Fetch
    rows: Int[np.ndarray, " n"]
    width: int
    grid: tuple[int, int] | None = None
    maps: tuple[FeatureMap, ...] = ()
    stamp: tuple[str, int, int] | None = None
    chunked: Any = None

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Number of items, number of features."""
        return len(self.rows), (self.width if not self.maps else self[:1].shape[1])

    @property
    def prompt(self) -> Int[np.ndarray, " n"] | None:
        """The prompt of each item, where the storage has three dimensions."""
        return None if self.grid is None else np.repeat(np.arange(self.grid[0]), self.grid[1])

    def __getitem__(self, key: Any) -> Float[np.ndarray, "k d"]:
        self._check_unchanged()
        wanted = self.rows[key]
        unique, place = np.unique(wanted, return_inverse=True)
        contiguous = len(unique) and unique[-1] - unique[0] + 1 == len(unique)
        values = np.asarray(self.fetch(slice(int(unique[0]), int(unique[-1]) + 1) if contiguous else unique))
        if values.shape != (len(unique), self.width):
            raise ValueError(f"{self._name} gave {values.shape} where {(len(unique), self.width)} was asked for.")
        ordered = len(unique) == len(wanted) and (place[1:] > place[:-1]).all()
        rows = prepared(f"{self._name}, rows {unique[0]} to {unique[-1]},", values, self.maps)
        return rows if ordered else rows[place]

    def blocks(self) -> Iterator[tuple[slice, Float[np.ndarray, "k d"]]]:
        """All rows in order, about 32 MB at a time."""
        for start in range(0, len(self), self._step):
            block = slice(start, min(start + self._step, len(self)))
            yield block, self[block]

    def over_blocks(self, function: Callable[..., Any], *of_rows: np.ndarray) -> list[Any]:
        """Results of function(features [k, d], what each of `of_rows` [n] holds for them), all rows in order.

        Of a Dask array this happens in the tasks of its chunks: `function` and its results can be pickled.
        """
        if self.chunked is None:
            return [function(values, *(each[block] for each in of_rows)) for block, values in self.blocks()]
        import dask

        from tercet.models.items.dask_features import over_chunks

        return list(dask.compute(*over_chunks(self, function, *of_rows)))

    def take(self, positions: Any) -> Embeddings:
        """The items at these positions (int or boolean array), still on disk."""
        return replace(self, rows=self.rows[positions], grid=None)

    def mapped(self, feature_map: FeatureMap) -> Embeddings:
        """The same rows through a projection or a network, applied as they are read."""
        return replace(self, maps=(*self.maps, feature_map))

    @cached_property
    def near_mean(self) -> Float[np.ndarray, " d"]:
        """Mean of the first rows, which stands near that of all."""
        return self[: min(NEAR, self._step)].mean(axis=0, dtype=np.float64)

    @cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance [d] of the features, in one pass (about a point near the mean)."""
        shift = self.near_mean
        first, second = sum(self.over_blocks(partial(_sums, shift))) / len(self)
        return shift + first, second - np.square(first)

    @property
    def _step(self) -> int:
        """Rows of a block."""
        return max(1, BLOCK_BYTES // (8 * self.width))

    @property
    def _name(self) -> str:
        if self.chunked is not None:
            return "the Dask array"
        return "the embeddings" if self.stamp is None else self.stamp[0]

    def _check_unchanged(self) -> None:
        if self.stamp is None:
            return
        name, size, changed = self.stamp
        now = os.stat(name) if os.path.exists(name) else None
        if now is None or (now.st_size, now.st_mtime_ns) != (size, changed):
            state = "is gone" if now is None else f"has changed ({size:,} bytes when opened, {now.st_size:,} now)"
            raise ValueError(f"{name} {state}; open it again with open_embeddings, and fit again what it was used for.")


def prepared(name: str, values: np.ndarray, maps: tuple[FeatureMap, ...]) -> Float[np.ndarray, "k d"]:
    """Rows as they were read: checked, in 32 or 64 bit, and through the maps."""
    if values.dtype.itemsize < 4 or values.dtype.kind != "f":
        values = values.astype(np.float32 if values.dtype.kind == "f" else np.float64)
    check_finite(name, values)
    for feature_map in maps:
        values = feature_map.apply(values)
    return values


def _sums(shift: np.ndarray, rows: np.ndarray) -> Float[np.ndarray, "2 d"]:
    centred = rows - shift
    return np.stack([centred.sum(axis=0), np.square(centred).sum(axis=0)])


def open_embeddings(source: Any, *, name: str | None = None, axes: str | None = None) -> Embeddings:
    """Open embeddings without reading them.

    Parameters
    ----------
    source : one of
        path of a .npy file (mapped), of a .safetensors file (extra `embeddings`), of a .parquet file (the same
        extra); a Hugging Face dataset; an array [n, d], [prompts, responses, d] or [responses, prompts, d], such as
        np.memmap, that is left where it is
    name : the tensor of a safetensors file, the column of a parquet file or dataset (where there are several)
    axes : "prompts, responses" (default) or "responses, prompts": the order of the first two axes of three

    Returns
    -------
    Embeddings
        Items in the order of prompts, then responses; with three axes `Items(embeddings)` knows their prompts.

    Raises
    ------
    ValueError
        A file that is cut short, or of another kind; a name that is not there, an axis order that does not fit.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> from tercet.models import Items, open_embeddings
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "answers.npy")
    ...     np.save(path, np.zeros((4, 3, 2), np.float16))  # 4 responses to each of 3 prompts
    ...     items = Items(open_embeddings(path, axes="responses, prompts"))
    ...     items.features.shape, items.prompt.tolist()
    ((12, 2), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    """
    if axes not in (None, "prompts, responses", "responses, prompts"):
        raise ValueError(f'axes must be "prompts, responses" or "responses, prompts", got {axes!r}.')
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}.")
        from tercet.models.items import embedding_files as files

        openers = {".npy": files.open_npy, ".safetensors": files.open_safetensors, ".parquet": files.open_parquet}
        if path.suffix not in openers:
            raise ValueError(f"{path.name} is none of {', '.join(openers)}; convert it, for example by numpy.save.")
        state = path.stat()
        shape, fetch = openers[path.suffix](path, name)
        return _arranged(shape, fetch, axes, (str(path), state.st_size, state.st_mtime_ns))
    if hasattr(source, "column_names"):
        from tercet.models.items.embedding_files import open_dataset

        return _arranged(*open_dataset(source, name), axes, None)
    array = source if hasattr(source, "shape") else np.asarray(source)
    return _arranged(array.shape, rows_of(array), axes, None)


def map_features(features: np.ndarray | Embeddings, feature_map: FeatureMap) -> np.ndarray | Embeddings:
    """Features through a projection or a network: now, or as they are read from disk."""
    return features.mapped(feature_map) if isinstance(features, Embeddings) else feature_map.apply(features)


def rows_of(array: Any) -> Fetch:
    """Rows of an array of two or three dimensions, the first two counted through."""
    if len(array.shape) != 3:
        return lambda rows: array[rows]
    second = array.shape[1]

    def fetch(rows: Any) -> np.ndarray:
        index = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return np.asarray(array[index // second, index % second])

    return fetch


def _arranged(shape: tuple[int, ...], fetch: Fetch, axes: str | None, stamp: Any) -> Embeddings:
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"embeddings must have shape [n, d] or [prompts, responses, d], got {tuple(shape)}.")
    if len(shape) == 2:
        if axes is not None:
            raise ValueError(f"axes={axes!r} is for three dimensions, these embeddings have shape {tuple(shape)}.")
        return Embeddings(fetch, np.arange(shape[0]), int(shape[1]), stamp=stamp)
    first, second, width = (int(size) for size in shape)
    if axes == "responses, prompts":
        item = np.arange(first * second)
        return Embeddings(fetch, item % first * second + item // first, width, (second, first), stamp=stamp)
    return Embeddings(fetch, np.arange(first * second), width, (first, second), stamp=stamp)
