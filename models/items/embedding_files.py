"""The kinds of storage that embeddings come in: each opened as a shape and a function that reads rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Fetch = Callable[[Any], np.ndarray]
"""From increasing rows of the storage (a slice, or an int array) to numbers [k, d]."""
Opened = tuple[tuple[int, ...], Fetch]
"""Shape of the storage, and how its rows are read."""


def rows_of(array: Any) -> Fetch:
    """Rows of an array of two or three dimensions; of three, the first two are flattened."""
    if len(array.shape) != 3:
        return lambda rows: array[rows]
    second = array.shape[1]

    def fetch(rows: Any) -> np.ndarray:
        index = _positions(rows)
        return np.asarray(array[index // second, index % second])

    return fetch


def open_npy(path: Path, name: str | None) -> Opened:
    """A .npy file, mapped."""
    if name is not None:
        raise ValueError(f"a .npy file holds one array; name={name!r} is for safetensors and parquet.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is no .npy file of numbers, or is cut short: {error}") from error
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path} must hold numbers, got dtype {array.dtype}.")
    return array.shape, rows_of(array)


def open_safetensors(path: Path, name: str | None) -> Opened:
    """A tensor of a .safetensors file, sliced by its own library."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError("safetensors files need an extra: pip install 'tercet[embeddings]'.") from error
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no safetensors file, or is cut short: {error}") from error
    tensor = file.get_slice(_only(path, "tensor", list(file.keys()), name))
    if tensor.get_dtype() not in ("F16", "F32", "F64"):
        raise ValueError(f"{path} holds {tensor.get_dtype()}; F16, F32 and F64 can be read: convert it first.")
    shape = tuple(tensor.get_shape())

    def fetch(rows: Any) -> np.ndarray:
        index = _positions(rows)
        if len(shape) == 2:
            return np.concatenate([tensor[a:b] for a, b in _runs(index)])
        out = np.empty((len(index), shape[2]), np.float64 if tensor.get_dtype() == "F64" else np.float32)
        outer = index // shape[1]
        for block in np.unique(outer):
            mine = outer == block
            inner = index[mine] % shape[1]
            out[mine] = np.concatenate([tensor[int(block) : int(block) + 1, a:b][0] for a, b in _runs(inner)])
        return out

    return shape, fetch


def open_parquet(path: Path, name: str | None) -> Opened:
    """A column of lists of equal length in a .parquet file, read by row groups."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("parquet files need an extra: pip install 'tercet[embeddings]'.") from error
    try:
        file = pyarrow.parquet.ParquetFile(path, memory_map=True)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is no parquet file, or is cut short: {error}") from error
    lists = [f.name for f in file.schema_arrow if pyarrow.types.is_list(f.type) or _is_fixed(pyarrow, f.type)]
    column = _only(path, "column of lists", lists, name)
    ends = np.cumsum([file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)])
    if not len(ends) or not ends[-1]:
        raise ValueError(f"{path} has no rows.")
    last: dict[int, np.ndarray] = {}

    def group(k: int) -> np.ndarray:
        if k not in last:  # one group is kept: rows come in order
            last.clear()
            last[k] = _matrix(path, column, file.read_row_group(k, columns=[column]).column(0).combine_chunks())
        return last[k]

    width = group(0).shape[1]

    def fetch(rows: Any) -> np.ndarray:
        index = _positions(rows)
        which = np.searchsorted(ends, index, side="right")
        starts = np.r_[0, ends[:-1]]
        return np.concatenate([group(int(k))[index[which == k] - starts[k]] for k in np.unique(which)])

    return (int(ends[-1]), width), fetch


def open_dataset(dataset: Any, name: str | None) -> Opened:
    """A column of a Hugging Face dataset."""
    column = _only("the dataset", "column", list(dataset.column_names), name)
    rows = dataset.with_format("numpy", columns=[column])
    if not len(rows):
        raise ValueError("the dataset has no rows.")
    width = np.asarray(rows[0][column]).shape
    if len(width) != 1:
        raise ValueError(f"column {column!r} must hold a vector a row, got shape {width} in the first.")
    return (len(rows), int(width[0])), lambda index: np.asarray(rows[index][column])


def _positions(rows: Any) -> np.ndarray:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else np.asarray(rows)


def _is_fixed(pyarrow: Any, kind: Any) -> bool:
    return bool(pyarrow.types.is_fixed_size_list(kind) or pyarrow.types.is_large_list(kind))


def _matrix(path: Path, column: str, values: Any) -> np.ndarray:
    """Lists of equal length as a matrix."""
    flat = values.flatten().to_numpy(zero_copy_only=False)
    if values.null_count or len(values) == 0 or len(flat) % len(values):
        raise ValueError(f"column {column!r} of {path} must hold lists of one length, without missing ones.")
    lengths = np.asarray(values.value_lengths())
    if (lengths != lengths[0]).any():
        raise ValueError(f"column {column!r} of {path} holds lists of {lengths.min()} to {lengths.max()} numbers.")
    return np.asarray(flat).reshape(len(values), -1)


def _only(where: Any, kind: str, names: list[str], wanted: str | None) -> str:
    """The name asked for, or the only one there is."""
    if wanted is not None and wanted not in names:
        raise ValueError(f"{where} has no {kind} {wanted!r}; it has {names}.")
    if wanted is None and len(names) != 1:
        raise ValueError(f"{where} has {len(names)} choices of a {kind}, {names}; say which by name=...")
    return wanted or names[0]


def _runs(index: np.ndarray) -> list[tuple[int, int]]:
    """Increasing indices as half-open runs."""
    breaks = np.flatnonzero(np.diff(index) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(index, breaks)]
