"""Checks and conversions of arguments: keys, arrays, indices, pairs and names, with the messages where they fail."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import jax

KeyLike: TypeAlias = Union[int, "np.integer[Any]", "jax.Array"]
"""Where random numbers come from: an int seed or a JAX key (quoted: importing JAX takes seconds)."""


def as_key(key: object) -> jax.Array:
    """Turn an int seed or a JAX key into a JAX key."""
    import jax

    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array) and jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32 and key.shape == (2,):
        wrapped: jax.Array = jax.random.wrap_key_data(jax.numpy.asarray(key))
        return wrapped
    raise ValueError(f"key must be an int seed or a JAX key, got {key!r}; pass for example key=0.")


def as_generator(key: object) -> np.random.Generator:
    """Turn an int seed or a JAX key into a NumPy generator; the same key gives the same stream."""
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return np.random.default_rng(abs(int(key)) * 2 + (int(key) < 0))
    import jax

    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))).tolist())


def is_concrete(*arrays: Any) -> bool:
    """Whether the values are known (False while JAX traces)."""
    import jax

    return not any(isinstance(array, jax.core.Tracer) for array in arrays)


def as_jax(tree: Any) -> Any:
    """The same pytree with NumPy arrays as JAX arrays of the precision in force; indices become 32-bit.

    Never hand 64-bit NumPy arrays to JAX operations themselves: JAX (0.10 to 0.12) caches what it compiled for them
    under `enable_x64` and gives it, with a dtype error, to code that later runs in 32 bit, the user's own included.
    """
    import jax

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "fiub":
            return leaf
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        if leaf.dtype.itemsize > 4 and leaf.dtype.kind in "iu" and leaf.size and np.abs(leaf).max() < 2**31:
            dtype = np.dtype(np.int32)
        return jax.device_put(leaf.astype(dtype))  # jnp.asarray would compile a program for each shape

    return jax.tree.map(convert, tree)


def as_floats(name: str, values: ArrayLike, ndim: int) -> np.ndarray:
    """Return a finite float array of `ndim` dimensions; half precision and integers become float32 and float64."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be numbers, got dtype {array.dtype}.")
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    elif array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), got shape {array.shape}.")
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); give at least one row.")
    check_finite(name, array)
    return array


def check_finite(name: str, array: np.ndarray) -> None:
    """Raise where `array` holds NaN or infinity, naming the first index."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):  # one pass, no temporary: the common case
            return
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        rows = int(np.unique(np.argwhere(bad)[:, 0]).size)
        raise ValueError(
            f"{name} has NaN or infinite values in {rows} row(s), the first at index {first}; "
            "drop or impute these rows first."
        )


def as_indices(name: str, values: ArrayLike, size: int | None = None) -> np.ndarray:
    """Return a non-empty 1-D integer array, each value in [0, size) where `size` is given."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have 1 dimension, got shape {array.shape}.")
    if array.size == 0:
        raise ValueError(f"{name} is empty; give at least one comparison.")
    if array.dtype.kind == "f" and np.all(np.isfinite(array) & (array == np.round(array))):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be integer positions of items, got dtype {array.dtype}; "
            "names go through Comparisons.from_frame(frame, items)."
        )
    check_range(name, array, size)
    return array.astype(np.int64)


def check_range(name: str, indices: np.ndarray, size: int | None) -> None:
    """Raise where an index is negative or at least `size`."""
    bad = (indices < 0) if size is None else (indices < 0) | (indices >= size)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        limit = "" if size is None else f" of {size} item(s)"
        raise ValueError(f"{name}[{at}] = {int(indices.flat[at])} is out of range{limit}; positions start at 0.")


def same_length(**arrays: Any) -> None:
    """Raise where the given arrays (None is skipped) differ in length."""
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"lengths differ: {', '.join(f'{name} {n}' for name, n in lengths.items())}; "
            "each comparison (or item) needs one entry in every array."
        )


def as_pairs(pairs: ArrayLike, n_items: int) -> np.ndarray:
    """Return an int array [m, 2] of two different items a row, each in [0, n_items)."""
    array = np.asarray(pairs)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"pairs must have shape [m, 2] (first, second), got {array.shape}.")
    if array.dtype.kind not in "iu":
        raise ValueError(f"pairs must be integer positions of items, got dtype {array.dtype}.")
    check_range("pairs", array.reshape(-1), n_items)
    check_distinct(array[:, 0], array[:, 1])
    return array.astype(np.int64)


def check_distinct(first: np.ndarray, second: np.ndarray) -> None:
    """Raise where an item is compared with itself."""
    same = np.flatnonzero(first == second)
    if same.size:
        raise ValueError(
            f"{same.size} comparison(s) set an item against itself, the first at row {int(same[0])} "
            f"(item {int(first[same[0]])}); drop these rows."
        )


def as_ids(name: str, ids: Sequence[Hashable] | None, size: int) -> tuple[Hashable, ...] | None:
    """Unique names, one a row, or None where none were given."""
    if ids is None:
        return None
    values = tuple(np.asarray(ids).tolist() if isinstance(ids, np.ndarray) else ids)
    if len(values) != size:
        raise ValueError(f"{name} has {len(values)} name(s) for {size} row(s); give one name a row.")
    if len(set(values)) != size:
        raise ValueError(f"{name} has {size - len(set(values))} repeated name(s); names must be unique.")
    return values
