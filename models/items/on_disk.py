"""Embeddings on disk: files far larger than memory, read a block of rows at a time, as the features of items."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from tercet.models.items import embedding_files as files
from tercet.models.items.features import BLOCK_BYTES
from tercet.models.items.stored import Stored

Axes = Literal["prompts, responses", "responses, prompts"]
OPENERS: dict[str, Callable[[Path, str | None], files.Opened]] = {
    ".npy": files.open_npy,
    ".safetensors": files.open_safetensors,
    ".parquet": files.open_parquet,
}


class Stamp(NamedTuple):
    """A file as it was when it was opened: its name, its size in bytes, and the time it was last changed."""

    name: str
    size: int
    changed: int

    def check(self) -> None:
        """Raise where the file has changed since."""
        now = os.stat(self.name) if os.path.exists(self.name) else None
        if now is None or (now.st_size, now.st_mtime_ns) != (self.size, self.changed):
            state = "is gone" if now is None else f"has changed ({self.size:,} bytes when opened, {now.st_size:,} now)"
            raise ValueError(
                f"{self.name} {state}; open it again with open_embeddings, and fit again what it was used for."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class OnDisk(Stored):
    """Features [n, d] in a file, a dataset or a mapped array; made by `open_embeddings`.

    Attributes
    ----------
    fetch : reads increasing rows (a slice or an int array) of the storage
    grid : prompts, and responses to each, where the storage has three dimensions
    stamp : the file when it was opened; None for other storage
    block_bytes : size of the blocks that are read, in bytes of 64-bit numbers
    """

    fetch: files.Fetch
    grid: tuple[int, int] | None = None
    stamp: Stamp | None = None
    block_bytes: int = BLOCK_BYTES

    @property
    def name(self) -> str:
        return "the embeddings" if self.stamp is None else self.stamp.name

    @property
    def prompt(self) -> Int[np.ndarray, " n"] | None:
        return None if self.grid is None else np.repeat(np.arange(self.grid[0]), self.grid[1])

    def read(self, rows: slice | Int[np.ndarray, " k"]) -> np.ndarray:
        if self.stamp is not None:
            self.stamp.check()
        return self.fetch(rows)

    def take(self, index: Any) -> OnDisk:
        return replace(self, rows=self.rows[index], grid=None)


def open_embeddings(
    source: Any, *, name: str | None = None, axes: Axes | None = None, block_bytes: int = BLOCK_BYTES
) -> OnDisk:
    """Open embeddings without reading them, as features of items that are far larger than memory.

    Parameters
    ----------
    source : one of
        path of a .npy file (mapped), of a .safetensors file (extra `embeddings`), of a .parquet file (the same
        extra); a Hugging Face dataset; an array [n, d], [prompts, responses, d] or [responses, prompts, d], such as
        np.memmap, that is left where it is
    name : the tensor of a safetensors file, the column of a parquet file or dataset (where there are several)
    axes : "prompts, responses" (default) or "responses, prompts": the order of the first two axes of three
    block_bytes : size of the blocks in which they are read, in bytes of 64-bit numbers; a fit holds a few of them

    Returns
    -------
    OnDisk
        Items in the order of prompts, then responses; with three axes `Items(embeddings)` knows their prompts.

    Raises
    ------
    ValueError
        A file that is cut short, or of another kind; a name that is not in it, an axis order that does not fit.

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
    shape, fetch, stamp = _opened(source, name)
    order, grid = _order(shape, axes)
    return OnDisk(rows=order, width=int(shape[-1]), fetch=fetch, grid=grid, stamp=stamp, block_bytes=block_bytes)


def _opened(source: Any, name: str | None) -> tuple[tuple[int, ...], files.Fetch, Stamp | None]:
    """Shape of the storage, how its rows are read, and the file it is in."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}.")
        if path.suffix not in OPENERS:
            raise ValueError(f"{path.name} is none of {', '.join(OPENERS)}; convert it, for example by numpy.save.")
        state = path.stat()
        return *OPENERS[path.suffix](path, name), Stamp(str(path), state.st_size, state.st_mtime_ns)
    if hasattr(source, "column_names"):
        return *files.open_dataset(source, name), None
    array = source if hasattr(source, "shape") else np.asarray(source)
    return array.shape, files.rows_of(array), None


def _order(shape: tuple[int, ...], axes: Axes | None) -> tuple[Int[np.ndarray, " n"], tuple[int, int] | None]:
    """Row of the storage of each item, and the numbers of prompts and of responses to each."""
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"embeddings must have shape [n, d] or [prompts, responses, d], got {tuple(shape)}.")
    if len(shape) == 2:
        if axes is not None:
            raise ValueError(f"axes={axes!r} is for three dimensions, these embeddings have shape {tuple(shape)}.")
        return np.arange(shape[0]), None
    first, second = int(shape[0]), int(shape[1])
    item = np.arange(first * second)
    if axes == "responses, prompts":
        return item % first * second + item // first, (second, first)
    return item, (first, second)
