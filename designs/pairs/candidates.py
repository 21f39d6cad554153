"""Candidate pairs: random, all, within prompts, across prompts, or given; indices only, never features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike

from tercet.models._inputs import KeyLike, as_generator, as_pairs
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons

Scheme = Literal["random", "all", "in-prompt", "cross-prompt"]
MOST = 100_000_000
"""Pairs that are listed at most (1.6 GB of indices); ask for a random sample of more."""
RANDOM = 20_000
"""Random pairs that are listed where no number is given."""
MASK_ROWS = 2048


def candidate_pairs(
    items: Items,
    scheme: Scheme | ArrayLike = "random",
    n: int | None = None,
    key: KeyLike = 0,
    exclude: Comparisons | ArrayLike | None = None,
    *,
    mask_rows: int = MASK_ROWS,
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
    mask_rows : rows of a mask that are read at once

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
        given = as_pairs(scheme, size) if mask is None else _masked(mask, mask_rows)
        kept = _without(given, _excluded(exclude, size), size)
        return kept if n is None else kept[rng.choice(len(kept), size=_at_most(n, len(kept)), replace=False)]
    pairs = _SchemePairs.of(items, scheme, exclude)
    if scheme == "random" and n is None:
        return _draw(pairs, RANDOM, rng, or_fewer=True)
    return _draw(pairs, n, rng)


def listed_pairs(
    items: Items,
    candidates: Scheme | int | ArrayLike,
    key: KeyLike = 0,
    exclude: Comparisons | ArrayLike | None = None,
    n: int | None = None,
) -> Int[np.ndarray, "m 2"]:
    """Candidates as `select_pairs` understands them: a scheme, a number of random pairs, or an array."""
    if isinstance(candidates, (int, np.integer)):
        return candidate_pairs(items, "random", int(candidates), key, exclude)
    return candidate_pairs(items, candidates, n, key, exclude)


def as_mask(candidates: Scheme | int | ArrayLike, size: int) -> Bool[np.ndarray, "n n"] | None:
    """The candidates where they are a mask; None where they are something else."""
    mask = None if isinstance(candidates, (str, int, np.integer)) else np.asarray(candidates)
    if mask is None or mask.dtype != bool:
        return None
    if mask.shape != (size, size):
        raise ValueError(
            f"a mask of candidates has a row and a column for each of the {size} items, got shape {mask.shape}; for a "
            "list of pairs give their positions, int [m, 2]."
        )
    return mask


def masked_tile(mask: np.ndarray, rows: slice, columns: slice) -> Bool[np.ndarray, "a b"]:
    """Pairs of these rows and columns that are true in a mask either way round."""
    return np.asarray(mask[rows, columns] | mask[columns, rows].T)


def count_pairs(
    items: Items,
    scheme: Scheme | np.ndarray,
    exclude: Comparisons | ArrayLike | None = None,
    mask_rows: int = MASK_ROWS,
) -> int:
    """Number of pairs that `candidate_pairs` would list; the scheme may be a mask."""
    if isinstance(scheme, str):
        return _SchemePairs.of(items, scheme, exclude).count
    excluded = _excluded(exclude, len(items))
    excluded = excluded[scheme[excluded[:, 0], excluded[:, 1]] | scheme[excluded[:, 1], excluded[:, 0]]]
    total = sum(len(flat) for _, flat in _masked_parts(scheme, mask_rows))
    return total - len(np.unique(pair_code(excluded, len(items))))


def pair_code(pairs: np.ndarray, size: int) -> Int[np.ndarray, " m"]:
    """One number for each pair of `size` items, the same either way round."""
    return np.asarray(pairs.min(axis=1) * size + pairs.max(axis=1))


def _masked_parts(mask: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """First row s of some rows of a mask, and flat positions of their pairs first < second among the columns from s."""
    for start in range(0, len(mask), rows):
        part = masked_tile(mask, slice(start, start + rows), slice(start, len(mask)))
        yield start, np.flatnonzero(np.triu(part, 1))


def _masked(mask: np.ndarray, rows: int) -> np.ndarray:
    size, parts, total = len(mask), [np.empty((0, 2), np.int64)], 0
    for start, flat in _masked_parts(mask, rows):
        total += len(flat)
        if total > MOST:
            raise ValueError(f"this mask holds more than {MOST:,} pairs, too many to list; give a sparser one.")
        parts.append(np.stack([start + flat // (size - start), start + flat % (size - start)], axis=1))
    return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class _SchemePairs:
    """The pairs of a named scheme, some or all of the pairs within groups of items.

    Attributes
    ----------
    groups : positions of the items of each group
    size : number of items
    total : pairs of all groups
    of_scheme : of these, the pairs of the scheme
    count : of these, the ones that are not excluded
    prompt : prompt of each item, where pairs of one prompt are not of the scheme
    excluded : pairs [k, 2] that are not to be listed
    """

    groups: list[np.ndarray]
    size: int
    total: int
    of_scheme: int
    count: int
    prompt: np.ndarray | None
    excluded: np.ndarray

    @classmethod
    def of(cls, items: Items, scheme: str, exclude: Comparisons | ArrayLike | None) -> _SchemePairs:
        """The pairs of a scheme, or an error where there is no such scheme."""
        if scheme not in ("random", "all", "in-prompt", "cross-prompt"):
            raise ValueError(
                f'scheme must be "random", "all", "in-prompt", "cross-prompt" or an array of pairs, got {scheme!r}.'
            )
        groups, size = _groups(items, scheme), len(items)
        total, excluded, across = int(_pairs_of(groups).sum()), _excluded(exclude, size), scheme == "cross-prompt"
        of_scheme, among = total, excluded
        if scheme in ("in-prompt", "cross-prompt"):
            assert items.prompt is not None
            among = excluded[(items.prompt[excluded[:, 0]] == items.prompt[excluded[:, 1]]) != across]
            counts = np.bincount(items.prompt)
            of_scheme -= int((counts * (counts - 1) // 2).sum()) if across else 0
        count = of_scheme - len(np.unique(pair_code(among, size)))
        return cls(groups, size, total, of_scheme, count, items.prompt if across else None, excluded)

    def candidates(self, index: np.ndarray) -> Int[np.ndarray, "m 2"]:
        """Those of the pairs at these positions in the list of all that are candidates."""
        pairs = _decode(index, self.groups)
        if self.prompt is not None:
            pairs = pairs[self.prompt[pairs[:, 0]] != self.prompt[pairs[:, 1]]]
        return _without(pairs, self.excluded, self.size)


def _draw(pairs: _SchemePairs, n: int | None, rng: np.random.Generator, or_fewer: bool = False) -> np.ndarray:
    if n is not None and n < pairs.total // 4:
        wanted = n + len(pairs.excluded)
        share = max(pairs.of_scheme / pairs.total, 1e-3)
        # Six standard deviations more than wanted: too few of them are candidates once in a billion draws.
        draws = min(pairs.total, int((wanted + 6 * np.sqrt(wanted) + 20) / share))
        drawn = pairs.candidates(rng.choice(pairs.total, size=draws, replace=False))
        if len(drawn) >= n:
            return _orient(drawn[:n], rng)
    if pairs.total > MOST:
        raise ValueError(f"there are {pairs.total:,} pairs, too many to list; pass n for a random sample of them.")
    listed = pairs.candidates(np.arange(pairs.total))
    if n is None:
        return listed
    count = min(n, len(listed)) if or_fewer else _at_most(n, len(listed))
    return _orient(listed[rng.choice(len(listed), size=count, replace=False)], rng)


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


def _pairs_of(groups: list[np.ndarray]) -> np.ndarray:
    sizes = np.array([len(group) for group in groups], dtype=np.int64)
    return np.asarray(sizes * (sizes - 1) // 2)


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


def _excluded(exclude: Comparisons | ArrayLike | None, size: int) -> Int[np.ndarray, "k 2"]:
    pairs = exclude.pairs if isinstance(exclude, Comparisons) else np.asarray([] if exclude is None else exclude)
    return as_pairs(pairs, size) if len(pairs) else np.empty((0, 2), np.int64)


def _without(pairs: np.ndarray, excluded: np.ndarray, size: int) -> np.ndarray:
    """The pairs that are not excluded, either way round."""
    if len(excluded) == 0:
        return pairs
    return np.asarray(pairs[~np.isin(pair_code(pairs, size), pair_code(excluded, size))])
