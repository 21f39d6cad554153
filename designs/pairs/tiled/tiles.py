"""The exact best of all pairs of all items, scored tile by tile; nothing else is kept of a pair.

A score that grows with the distance of two rows cannot exceed what it would be at |a| + |b|. Items are sorted by their
norm, tiles are taken by that ceiling, highest first, and those that cannot hold one of the best are never scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tercet.designs.pairs.candidates import masked_tile, pair_code


@dataclass(frozen=True)
class Tasks:
    """How tiles of a Dask array become tasks.

    Parameters
    ----------
    blocks : blocks of items at most: 64 make 2,080 tasks, each of as many tiles as that takes
    tiles : tiles on a side of a block at least: fewer tasks, and more tiles to leave out in each
    first : tasks before a floor is known
    growth : tasks of a wave for each task before it
    merged : results that one task merges
    """

    blocks: int = 64
    tiles: int = 4
    first: int = 4
    growth: int = 10
    merged: int = 16


@dataclass(frozen=True)
class Tiling:
    """How pairs are scored that are too many to list. The picks do not depend on it.

    Parameters
    ----------
    listed : more pairs than this are scored in tiles, by criteria that can
    side : items on a side of a tile (1,024: a million pairs, 4 MB in 32 bit)
    kept : pairs above the floor that are collected before it is raised
    shortlist : pairs that a pass of tiles brings where gains only fall (greedy D): picks come from them for as long as
        no other pair can be better
    tasks : of a Dask array
    """

    listed: int = 1_000_000
    side: int = 1024
    kept: int = 16_384
    shortlist: int = 16_384
    tasks: Tasks = Tasks()


TILING = Tiling()


class TileScore(NamedTuple):
    """A score of pairs that reads numbers of their items.

    Attributes
    ----------
    numbers : array [n, c], NumPy or Dask
    columns : name and width of consecutive columns of it (0: one column, handed on as a vector)
    function : two dicts of blocks of them [a, ...], [b, ...] in, scores [a, b] out; symmetric in the two items
    slack : by how much a score may be wrong, rounding included; 0 or more
    ceiling : no score is higher than its value at (a + b)^2, a^2 and b^2 the last numbers of the two; None: not known
    """

    numbers: Any
    columns: tuple[tuple[str, int], ...]
    function: Callable[[dict[str, Any], dict[str, Any]], Any]
    slack: float
    ceiling: Callable[[float], float] | None = None


class BestPairs(NamedTuple):
    """Pairs [k, 2] with first < second, their scores [k], and the score that no other pair exceeds."""

    pairs: Int[np.ndarray, "k 2"]
    scores: Float[np.ndarray, " k"]
    rest: float


class Query(NamedTuple):
    """The n best pairs of `size` items by a score, without the numbers of the items.

    Attributes
    ----------
    columns, function, slack, ceiling : of the score
    n, size : how many pairs, of how many items
    excluded : codes of pairs that are left out
    tiling : sizes of tiles and of what is kept
    mask : bool [size, size], pairs that are wanted (either way round); None: all
    """

    columns: tuple[tuple[str, int], ...]
    function: Callable[[dict[str, Any], dict[str, Any]], Any]
    slack: float
    ceiling: Callable[[float], float] | None
    n: int
    size: int
    excluded: Int[np.ndarray, " x"]
    tiling: Tiling
    mask: np.ndarray | None = None


class ItemBlock(NamedTuple):
    """Numbers [b, c] of consecutive items from `start` on, and their prompts [b] where pairs of one are left out."""

    start: int
    numbers: np.ndarray
    prompt: np.ndarray | None


class Side(NamedTuple):
    """The items [t] on a side of a tile, the rank of the first among all, their numbers, and their largest norm."""

    items: np.ndarray
    rank: int
    numbers: dict[str, Any]
    norm: float


class Contenders(NamedTuple):
    """Codes and scores of pairs that may be among the n best, and a floor below which none is."""

    codes: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]
    floor: float

    @classmethod
    def none(cls, floor: float = -np.inf) -> Contenders:
        """No pair yet; the floor may be known."""
        return cls(np.empty(0, np.int64), np.empty(0), floor)


def best_pairs(
    score: TileScore,
    n: int,
    *,
    prompt: np.ndarray | None = None,
    exclude: Int[np.ndarray, "x 2"] | None = None,
    mask: np.ndarray | None = None,
    tiling: Tiling = TILING,
) -> BestPairs:
    """Every pair that may be among the n best: the n best scores, and whatever is within twice the slack of them.

    N (N - 1) / 2 pairs in N^2 / 2 / side^2 tiles, each one compiled product and one comparison with the floor, the n-th
    best score so far less twice the slack; tiles with their ceiling below it are left out. `dask_tiles` does the same
    in tasks of Dask.

    Parameters
    ----------
    score : TileScore of a NumPy array
    n : at least 1
    prompt : int array [N], optional: pairs of one prompt are left out
    exclude : pairs that are left out, either way round
    mask : bool array [N, N], optional: only pairs that are true in it, either way round
    tiling : sizes of tiles and of what is kept
    """
    query = query_of(score, n, exclude, tiling)._replace(mask=mask)
    whole = ItemBlock(0, score.numbers, prompt)
    return sorted_pairs(query, scan(query, Contenders.none(), whole, whole))


def query_of(score: TileScore, n: int, exclude: Int[np.ndarray, "x 2"] | None, tiling: Tiling) -> Query:
    """The n best pairs by a score, as a question without the numbers of the items."""
    size = int(score.numbers.shape[0])
    excluded = np.empty(0, np.int64) if exclude is None else np.unique(pair_code(exclude, size))
    return Query(score.columns, score.function, score.slack, score.ceiling, n, size, excluded, tiling)


def scan(query: Query, known: Contenders, left: ItemBlock, right: ItemBlock) -> Contenders:
    """The contenders known so far and the best pairs of an item of one block with a later item of the other."""
    (codes, scores, floor), n, slack = known, query.n, query.slack
    across = left.prompt is not None
    for ceiling, above, beside in _by_ceiling(query, left, right):
        if ceiling + slack <= floor:
            break
        tile, top = _tile(query.function, across, above.numbers, beside.numbers, _wanted(query, above, beside))
        if float(top) <= floor:
            continue
        tile = np.asarray(tile)
        index, floor = _above(tile, floor, n + len(query.excluded), slack, query.tiling.kept)
        pairs = np.stack([above.items[index // len(tile)], beside.items[index % len(tile)]], axis=1)
        new = pair_code(pairs, query.size)
        free = ~np.isin(new, query.excluded)
        codes, scores = np.append(codes, new[free]), np.append(scores, tile.reshape(-1)[index][free])
        if len(scores) > max(query.tiling.kept, 4 * n):
            codes, scores, floor = _raised(query, codes, scores, floor)
    return _raised(query, codes, scores, floor)


def merged(query: Query, parts: Sequence[Contenders]) -> Contenders:
    """The contenders of several parts, together."""
    codes, scores = np.concatenate([part.codes for part in parts]), np.concatenate([part.scores for part in parts])
    return _raised(query, codes, scores, max(part.floor for part in parts))


def sorted_pairs(query: Query, contenders: Contenders) -> BestPairs:
    """The contenders as pairs, best first (ties: the first pair)."""
    codes, scores, floor = contenders
    order = np.lexsort((codes, -scores))
    pairs = np.stack([codes[order] // query.size, codes[order] % query.size], axis=1)
    return BestPairs(pairs, scores[order], floor + query.slack if np.isfinite(floor) else -np.inf)


def _above(scores: np.ndarray, floor: float, most: int, slack: float, kept: int) -> tuple[np.ndarray, float]:
    """Flat positions of the scores above the floor, which the `most` best of the tile raise while it is low."""
    flat = scores.reshape(-1)
    if np.count_nonzero(flat > floor) > max(kept, 4 * most):
        floor = max(floor, float(np.partition(flat, len(flat) - most)[len(flat) - most]) - 2.0 * slack)
    return np.flatnonzero((flat >= floor) & np.isfinite(flat)), floor


def _by_ceiling(query: Query, left: ItemBlock, right: ItemBlock) -> list[tuple[float, Side, Side]]:
    """The tiles of two blocks, and what no score in them exceeds, highest first."""
    rows = _sides(query, left)
    columns = rows if right is left else _sides(query, right)
    ceiling = query.ceiling or _unknown
    sides = [(a, b) for a in rows for b in columns if left is not right or a.rank <= b.rank]
    return sorted(((ceiling((a.norm + b.norm) ** 2), a, b) for a, b in sides), key=itemgetter(0), reverse=True)


def _unknown(_: float) -> float:
    return np.inf


def _sides(query: Query, block: ItemBlock) -> list[Side]:
    """The items of a block in tiles, those of large norm first where that says anything; a mask leaves their order."""
    square = block.numbers[:, -1]
    sort = query.ceiling is not None and query.mask is None
    order = np.argsort(-square, kind="stable") if sort else np.arange(len(square))
    side = min(query.tiling.side, query.size)
    return [_side(query, block, order[rank : rank + side], rank, side) for rank in range(0, len(order), side)]


def _side(query: Query, block: ItemBlock, rows: np.ndarray, rank: int, side: int) -> Side:
    """These rows of a block, padded to the side, their numbers on the device; each item knows its rank among all."""
    norm = float(np.sqrt(block.numbers[rows, -1].max())) if query.ceiling else 0.0
    missing = (0, side - len(rows))
    ranks = np.pad(block.start + rank + np.arange(len(rows)), missing, constant_values=-1)
    rows = np.pad(rows, missing, mode="edge")
    on_device: dict[str, Any] = {"rank": jnp.asarray(ranks)}
    numbers, column = block.numbers[rows], 0
    for name, width in query.columns:
        on_device[name] = jnp.asarray(numbers[:, column : column + width] if width else numbers[:, column])
        column += max(1, width)
    on_device["prompt"] = jnp.asarray(rows if block.prompt is None else block.prompt[rows])
    return Side(block.start + rows, block.start + rank, on_device, norm)


def _wanted(query: Query, above: Side, beside: Side) -> np.ndarray | None:
    """The mask of a tile, padded to its sides."""
    if query.mask is None:
        return None
    side = len(above.items)
    part = masked_tile(query.mask, *(slice(one.rank, one.rank + side) for one in (above, beside)))
    return np.pad(part, [(0, side - length) for length in part.shape])


@partial(jax.jit, static_argnums=(0, 1))
def _tile(
    function: Any, across: bool, left: dict[str, Any], right: dict[str, Any], wanted: Any = None
) -> tuple[Any, Any]:
    """Scores of a tile, minus infinity where they do not count, and the best of them."""
    scores = function(left, right)
    kept = (left["rank"][:, None] < right["rank"]) & (left["rank"][:, None] >= 0)
    if across:
        kept &= left["prompt"][:, None] != right["prompt"]
    if wanted is not None:
        kept &= wanted
    scores = jnp.where(kept, scores, -jnp.inf)
    return scores, jnp.max(scores)


def _raised(query: Query, codes: np.ndarray, scores: np.ndarray, floor: float) -> Contenders:
    """The contenders left when the n-th best score raises the floor."""
    if len(scores) >= query.n:
        floor = max(
            floor, float(np.partition(scores, len(scores) - query.n)[len(scores) - query.n]) - 2.0 * query.slack
        )
    kept = scores >= floor
    return Contenders(codes[kept], scores[kept], floor)
