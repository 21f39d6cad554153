"""The exact best of all pairs of all items, scored tile by tile; nothing else is kept of a pair.

A score that grows with the distance of two rows cannot exceed what it would be at |a| + |b|. Items are sorted by their
norm, tiles are taken by that ceiling, highest first, and those that cannot hold one of the best are never scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tercet.designs.pairs.candidates import masked_tile, pair_code

TILE = 1024
"""Items on a side of a tile: a million pairs, 4 MB in 32 bit."""
KEPT = 16384  # pairs above the floor that are collected before it is raised


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


class Leaders(NamedTuple):
    """Pairs [k, 2] with first < second, their scores [k], and the score that no other pair exceeds."""

    pairs: Int[np.ndarray, "k 2"]
    scores: Float[np.ndarray, " k"]
    rest: float


class Search(NamedTuple):
    """What is sought: the n best by a score among pairs of `size` items.

    Attributes
    ----------
    columns, function, slack, ceiling : of the score
    n, size : how many pairs, of how many items
    out : codes of pairs that are left out
    mask : bool [size, size], pairs that are wanted (either way round); None: all
    """

    columns: tuple[tuple[str, int], ...]
    function: Callable[[dict[str, Any], dict[str, Any]], Any]
    slack: float
    ceiling: Callable[[float], float] | None
    n: int
    size: int
    out: Int[np.ndarray, " x"]
    mask: np.ndarray | None = None


class Block(NamedTuple):
    """Numbers [b, c] of consecutive items from `start` on, and the prompts [b] of which no two may meet (if any)."""

    start: int
    numbers: np.ndarray
    prompt: np.ndarray | None


class Side(NamedTuple):
    """The items [t] on a side of a tile, the rank of the first among all, their numbers, and their largest norm."""

    items: np.ndarray
    rank: int
    numbers: dict[str, Any]
    norm: float


class Found(NamedTuple):
    """Codes and scores of pairs that may be among the n best, and a floor below which none is."""

    codes: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]
    floor: float

    @classmethod
    def nothing(cls, floor: float = -np.inf) -> Found:
        """No pair yet; the floor may be known."""
        return cls(np.empty(0, np.int64), np.empty(0), floor)


def leading_pairs(
    score: TileScore,
    n: int,
    prompt: np.ndarray | None = None,
    exclude: Int[np.ndarray, "x 2"] | None = None,
    mask: np.ndarray | None = None,
) -> Leaders:
    """Every pair that may be among the n best: the n best scores, and whatever is within twice the slack of them.

    N (N - 1) / 2 pairs in N^2 / 2 / TILE^2 tiles, each one compiled product and one comparison with the floor, the n-th
    best score so far less twice the slack; tiles with their ceiling below it are left out. `dask_tiles`
    does the same in tasks of Dask.

    Parameters
    ----------
    score : TileScore of a NumPy array
    n : at least 1
    prompt : int array [N], optional: pairs of one prompt are left out
    exclude : pairs that are left out, either way round
    mask : bool array [N, N], optional: only pairs that are true in it, either way round
    """
    search = search_for(score, n, exclude)._replace(mask=mask)
    whole = Block(0, score.numbers, prompt)
    return leaders(search, scan(search, Found.nothing(), whole, whole))


def search_for(score: TileScore, n: int, exclude: Int[np.ndarray, "x 2"] | None) -> Search:
    """What is sought, without the numbers of the items."""
    size = int(score.numbers.shape[0])
    out = np.empty(0, np.int64) if exclude is None else np.unique(pair_code(exclude, size))
    return Search(score.columns, score.function, score.slack, score.ceiling, n, size, out)


def scan(search: Search, so_far: Found, left: Block, right: Block) -> Found:
    """What was found so far and the best pairs of an item of one block with a later item of the other."""
    (codes, scores, floor), n, slack = so_far, search.n, search.slack
    across = left.prompt is not None
    for ceiling, above, beside in _by_ceiling(search, left, right):
        if ceiling + slack <= floor:
            break
        tile, top = _tile(search.function, across, above.numbers, beside.numbers, _wanted(search, above, beside))
        if float(top) <= floor:
            continue
        tile = np.asarray(tile)
        place, floor = _above(tile, floor, n + len(search.out), slack)
        pairs = np.stack([above.items[place // len(tile)], beside.items[place % len(tile)]], axis=1)
        new = pair_code(pairs, search.size)
        free = ~np.isin(new, search.out)
        codes, scores = np.append(codes, new[free]), np.append(scores, tile.reshape(-1)[place][free])
        if len(scores) > max(KEPT, 4 * n):
            codes, scores, floor = _raised(search, codes, scores, floor)
    return _raised(search, codes, scores, floor)


def merged(search: Search, parts: Sequence[Found]) -> Found:
    """What was found in several places, together."""
    codes, scores = np.concatenate([part.codes for part in parts]), np.concatenate([part.scores for part in parts])
    return _raised(search, codes, scores, max(part.floor for part in parts))


def leaders(search: Search, found: Found) -> Leaders:
    """The pairs found, best first (ties: the first pair)."""
    codes, scores, floor = found
    order = np.lexsort((codes, -scores))
    pairs = np.stack([codes[order] // search.size, codes[order] % search.size], axis=1)
    return Leaders(pairs, scores[order], floor + search.slack if np.isfinite(floor) else -np.inf)


def _above(scores: np.ndarray, floor: float, most: int, slack: float) -> tuple[np.ndarray, float]:
    """Places of the scores above the floor, which the `most` best of the tile raise while it is low."""
    flat = scores.reshape(-1)
    if np.count_nonzero(flat > floor) > max(KEPT, 4 * most):
        floor = max(floor, float(np.partition(flat, len(flat) - most)[len(flat) - most]) - 2.0 * slack)
    return np.flatnonzero((flat >= floor) & np.isfinite(flat)), floor


def _by_ceiling(search: Search, left: Block, right: Block) -> list[tuple[float, Side, Side]]:
    """The tiles of two blocks, and what no score in them exceeds, highest first."""
    rows = _sides(search, left)
    columns = rows if right is left else _sides(search, right)
    ceiling = search.ceiling or _unknown
    found = [(a, b) for a in rows for b in columns if left is not right or a.rank <= b.rank]
    return sorted(((ceiling((a.norm + b.norm) ** 2), a, b) for a, b in found), key=itemgetter(0), reverse=True)


def _unknown(_: float) -> float:
    return np.inf


def _sides(search: Search, block: Block) -> list[Side]:
    """The items of a block in tiles, those of large norm first where that says anything; a mask leaves their order."""
    square = block.numbers[:, -1]
    sort = search.ceiling is not None and search.mask is None
    order = np.argsort(-square, kind="stable") if sort else np.arange(len(square))
    side = min(TILE, search.size)
    return [_side(search, block, order[rank : rank + side], rank, side) for rank in range(0, len(order), side)]


def _side(search: Search, block: Block, rows: np.ndarray, rank: int, side: int) -> Side:
    """These rows of a block, filled up to the side, their numbers on the device; each item knows its rank among all."""
    norm = float(np.sqrt(block.numbers[rows, -1].max())) if search.ceiling else 0.0
    missing = (0, side - len(rows))
    place = np.pad(block.start + rank + np.arange(len(rows)), missing, constant_values=-1)
    rows = np.pad(rows, missing, mode="edge")
    known: dict[str, Any] = {"place": jnp.asarray(place)}
    numbers, column = block.numbers[rows], 0
    for name, width in search.columns:
        known[name] = jnp.asarray(numbers[:, column : column + width] if width else numbers[:, column])
        column += max(1, width)
    known["prompt"] = jnp.asarray(rows if block.prompt is None else block.prompt[rows])
    return Side(block.start + rows, block.start + rank, known, norm)


def _wanted(search: Search, above: Side, beside: Side) -> np.ndarray | None:
    """The mask of a tile, filled up to its sides."""
    if search.mask is None:
        return None
    side = len(above.items)
    part = masked_tile(search.mask, *(slice(one.rank, one.rank + side) for one in (above, beside)))
    return np.pad(part, [(0, side - length) for length in part.shape])


@partial(jax.jit, static_argnums=(0, 1))
def _tile(
    function: Any, across: bool, left: dict[str, Any], right: dict[str, Any], wanted: Any = None
) -> tuple[Any, Any]:
    """Scores of a tile, minus infinity where they do not count, and the best of them."""
    scores = function(left, right)
    kept = (left["place"][:, None] < right["place"]) & (left["place"][:, None] >= 0)
    if across:
        kept &= left["prompt"][:, None] != right["prompt"]
    if wanted is not None:
        kept &= wanted
    scores = jnp.where(kept, scores, -jnp.inf)
    return scores, jnp.max(scores)


def _raised(search: Search, codes: np.ndarray, scores: np.ndarray, floor: float) -> Found:
    """Those that may be among the n best, and a floor below which there are none."""
    if len(scores) >= search.n:
        floor = max(
            floor, float(np.partition(scores, len(scores) - search.n)[len(scores) - search.n]) - 2.0 * search.slack
        )
    kept = scores >= floor
    return Found(codes[kept], scores[kept], floor)
