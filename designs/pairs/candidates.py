"""Candidate pairs: random, all, within prompts, across prompts, or given; indices only, never features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from tercet.models._inputs import as_generator, as_pairs
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons

Scheme = Literal["random", "all", "in-prompt", "cross-prompt"]
MOST = 100_000_000
"""Pairs that are listed at most (1.6 GB of indices); ask for a random sample of more."""


MASKED_ROWS = 2048  # of a mask that are read at once
RANDOM = 20_000
"""Random pairs that are listed where no number is given."""


def candidate_pairs(
    items: Items, scheme: Scheme | ArrayLike = "random", n: int | None = None, key: Any = 0, exclude: Any = None
) -> Int[np.ndarray, "m 2"]:
    """List pairs of items that could be compared, without repetition (an explicit array is taken as it is).

    Parameters
    ----------
    items : Items [N]
    scheme : "random" or "all" (of N (N - 1) / 2), "in-prompt", "cross-prompt", an explicit array [m, 2], or a mask,
        bool [N, N]: pairs that are true in it, either way round
    n : how many, drawn at random; None lists all of the scheme ("random" then means 20,000, or all if fewer)
    key : int seed or JAX key
    exclude : pairs [k, 2] or Comparisons that are not to be listed, either way round

    Returns
    -------
    int array [m, 2]
        In random order and orientation where drawn, else sorted with first < second.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.designs import candidate_pairs
    >>> from tercet.models import Items
    >>> candidate_pairs(Items(np.eye(4)), "all", exclude=[[1, 0]]).tolist()
    [[0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    """
    rng, size = as_generator(key), len(items)
    if n is not None and n < 0:
        raise ValueError(f"n, the number of candidate pairs, must not be negative, got {n}.")
    if not isinstance(scheme, str):
        mask = as_mask(scheme, size)
        given = as_pairs(scheme, size) if mask is None else _masked(mask)
        kept = given[~_is_excluded(given, exclude, size)]
        return kept if n is None else kept[rng.choice(len(kept), size=_at_most(n, len(kept)), replace=False)]
    if scheme not in ("random", "all", "in-prompt", "cross-prompt"):
        raise ValueError(
            f'scheme must be "random", "all", "in-prompt", "cross-prompt" or an array of pairs, got {scheme!r}.'
        )
    groups = _groups(items, scheme)
    total = int(_pairs_of(groups).sum())
    across = scheme == "cross-prompt"
    left = total - (_within(items) if across else 0)
    if scheme == "random" and n is None:
        return _draw(items, groups, total, left, RANDOM, rng, exclude, across, or_fewer=True)
    return _draw(items, groups, total, left, n, rng, exclude, across)


def listed_pairs(items: Items, candidates: Any, key: Any = 0, exclude: Any = None, n: int | None = None) -> np.ndarray:
    """Candidates [m, 2] as `select_pairs` understands them: a scheme, a number of random pairs, or an array."""
    if isinstance(candidates, (int, np.integer)):
        candidates, n = "random", int(candidates)
    return candidate_pairs(items, candidates, n, key, exclude)


def as_mask(candidates: Any, size: int) -> np.ndarray | None:
    """Candidates that are a mask, bool [size, size]; None where they are something else."""
    mask = None if isinstance(candidates, (str, int, np.integer)) else np.asarray(candidates)
    if mask is None or mask.dtype != bool:
        return None
    if mask.shape != (size, size):
        raise ValueError(
            f"a mask of candidates has a row and a column for each of the {size} items, got shape {mask.shape}; for a "
            "list of pairs give their positions, int [m, 2]."
        )
    return mask


def masked_tile(mask: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Pairs of these rows and columns that are true in a mask either way round."""
    return mask[rows, columns] | mask[columns, rows].T


def count_pairs(items: Items, scheme: Scheme | np.ndarray, exclude: Any = None) -> int:
    """Number of pairs that `candidate_pairs` would list; the scheme may be a mask."""
    if not isinstance(scheme, str):
        out = np.empty((0, 2), int) if exclude is None or len(exclude) == 0 else _as_array(exclude, len(items))
        out = out[scheme[out[:, 0], out[:, 1]] | scheme[out[:, 1], out[:, 0]]]
        return sum(len(part) for part in _masked_parts(scheme)) - len(np.unique(pair_code(out, len(items))))
    groups, across = _groups(items, scheme), scheme == "cross-prompt"
    total = int(_pairs_of(groups).sum()) - (_within(items) if across else 0)
    if exclude is None or len(exclude) == 0:
        return total
    out = _as_array(exclude, len(items))
    if scheme in ("in-prompt", "cross-prompt"):
        assert items.prompt is not None
        out = out[(items.prompt[out[:, 0]] == items.prompt[out[:, 1]]) != across]
    return total - len(np.unique(pair_code(out, len(items))))


def _masked_parts(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Places of the pairs first < second of a mask, some rows at a time, among the columns from the first on."""
    size = len(mask)
    for start in range(0, size, MASKED_ROWS):
        part = masked_tile(mask, slice(start, start + MASKED_ROWS), slice(start, size))
        yield np.flatnonzero(np.triu(part, 1))


def _masked(mask: np.ndarray) -> np.ndarray:
    size, found, total = len(mask), [np.empty((0, 2), np.int64)], 0
    for start, places in zip(range(0, size, MASKED_ROWS), _masked_parts(mask), strict=True):
        total += len(places)
        if total > MOST:
            raise ValueError(f"this mask holds more than {MOST:,} pairs, too many to list; give a sparser one.")
        found.append(np.stack([start + places // (size - start), start + places % (size - start)], axis=1))
    return np.concatenate(found)


def _draw(
    items: Items, groups: list[np.ndarray], total: int, left: int, n: int | None, rng: np.random.Generator,
    exclude: Any, across: bool, or_fewer: bool = False,
) -> np.ndarray:  # fmt: skip
    size = len(items)

    def usable(pairs: np.ndarray) -> np.ndarray:
        out = _is_excluded(pairs, exclude, size)
        if across:
            assert items.prompt is not None
            out |= items.prompt[pairs[:, 0]] == items.prompt[pairs[:, 1]]
        return pairs[~out]

    if n is not None and n < total // 4:
        wanted = n + (0 if exclude is None else len(exclude))
        share = max(left / total, 1e-3)
        # Six standard deviations more than wanted: enough of them are usable but for one time in a billion.
        draws = min(total, int((wanted + 6 * np.sqrt(wanted) + 20) / share))
        found = usable(_decode(rng.choice(total, size=draws, replace=False), groups))
        if len(found) >= n:
            return _orient(found[:n], rng)
    if total > MOST:
        raise ValueError(f"there are {total:,} pairs, too many to list; pass n for a random sample of them.")
    found = usable(_decode(np.arange(total), groups))
    if n is None:
        return found
    count = min(n, len(found)) if or_fewer else _at_most(n, len(found))
    return _orient(found[rng.choice(len(found), size=count, replace=False)], rng)


def _at_most(n: int, available: int) -> int:
    if n > available:
        raise ValueError(f"{n:,} candidate pairs were asked for, but only {available:,} are left; lower n.")
    return n


def _orient(pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    flip = rng.random(len(pairs)) < 0.5
    return np.where(flip[:, None], pairs[:, ::-1], pairs)


def _groups(items: Items, scheme: str) -> list[np.ndarray]:
    if scheme in ("random", "all"):
        return [np.arange(len(items))]
    if items.prompt is None:
        raise ValueError(f'scheme="{scheme}" needs Items(..., prompt=...), the prompt of each item.')
    if scheme == "cross-prompt":
        return [np.arange(len(items))]
    order = np.argsort(items.prompt, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(items.prompt[order])) + 1)
    parts = [part for part in parts if len(part) > 1]
    if not parts:
        raise ValueError("every prompt has a single item: there are no in-prompt pairs.")
    return parts


def _within(items: Items) -> int:
    counts = np.bincount(np.asarray(items.prompt))
    return int((counts * (counts - 1) // 2).sum())


def _pairs_of(groups: list[np.ndarray]) -> np.ndarray:
    sizes = np.array([len(group) for group in groups], dtype=np.int64)
    return sizes * (sizes - 1) // 2


def _decode(index: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """Pairs (first < second within a group) of positions in the list of all pairs of all groups."""
    ends = np.cumsum(_pairs_of(groups))
    group = np.searchsorted(ends, index, side="right")
    local = index - (ends[group] - _pairs_of(groups)[group])
    sizes = np.array([len(g) for g in groups])[group].astype(np.int64)
    # Row i of the upper triangle starts at i (2 s - i - 1) / 2; the root may be off by one in floating point.
    row = ((2 * sizes - 1 - np.sqrt(np.maximum((2.0 * sizes - 1) ** 2 - 8.0 * local, 0))) / 2).astype(np.int64)
    row = np.where(local < row * (2 * sizes - row - 1) // 2, row - 1, row)
    row = np.where(local >= (row + 1) * (2 * sizes - row - 2) // 2, row + 1, row)
    column = local - row * (2 * sizes - row - 1) // 2 + row + 1
    starts = np.cumsum([0] + [len(g) for g in groups[:-1]])[group]
    flat = np.concatenate(groups)
    return np.stack([flat[starts + row], flat[starts + column]], axis=1)


def _as_array(exclude: Any, size: int) -> np.ndarray:
    return as_pairs(exclude.pairs if isinstance(exclude, Comparisons) else exclude, size)


def pair_code(pairs: np.ndarray, size: int) -> np.ndarray:
    """One number a pair [m] of `size` items, the same either way round."""
    return pairs.min(axis=1) * size + pairs.max(axis=1)


def _is_excluded(pairs: np.ndarray, exclude: Any, size: int) -> np.ndarray:
    if exclude is None or len(exclude) == 0:
        return np.zeros(len(pairs), dtype=bool)
    return np.isin(pair_code(pairs, size), pair_code(_as_array(exclude, size), size))
