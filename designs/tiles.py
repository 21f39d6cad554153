"""The exact best of all pairs of all items, scored tile by tile; nothing else is kept of a pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tercet.designs.candidates import pair_code

TILE = 2048
"""Items on a side of a tile: 4 million pairs, 16 MB in 32 bit."""
KEPT = 16384  # pairs above the floor that are collected before it is raised


class TileScore(NamedTuple):
    """A score of pairs that reads numbers of their items.

    Attributes
    ----------
    items : arrays [n, ...] by name
    function : two dicts of blocks of them [a, ...], [b, ...] in, scores [a, b] out; symmetric in the two items
    slack : by how much a score may be wrong, rounding included; 0 or more
    """

    items: dict[str, np.ndarray]
    function: Callable[[dict[str, Any], dict[str, Any]], Any]
    slack: float


class Leaders(NamedTuple):
    """Pairs [k, 2] with first < second, their scores [k], and the score that no other pair exceeds."""

    pairs: Int[np.ndarray, "k 2"]
    scores: Float[np.ndarray, " k"]
    rest: float


def leading_pairs(
    score: TileScore,
    n: int,
    prompt: np.ndarray | None = None,
    exclude: Int[np.ndarray, "x 2"] | None = None,
) -> Leaders:
    """Every pair that may be among the n best: the n best scores, and whatever is within twice the slack of them.

    N (N - 1) / 2 pairs in N^2 / 2 / TILE^2 tiles, each one compiled product and one comparison with the floor, the n-th
    best score so far less twice the slack.

    Parameters
    ----------
    score : TileScore
    n : at least 1
    prompt : int array [N], optional: pairs of one prompt are left out
    exclude : pairs that are left out, either way round
    """
    size = len(next(iter(score.items.values())))
    out = np.empty(0, np.int64) if exclude is None else np.unique(pair_code(exclude, size))
    code, values, floor = np.empty(0, np.int64), np.empty(0), -np.inf
    for left, right, scores, top in _tiles(score, size, prompt):
        if top <= floor:
            continue
        place, floor = _above(scores, floor, n + len(out), score.slack)
        new = pair_code(np.stack([left + place // len(scores), right + place % len(scores)], axis=1), size)
        free = ~np.isin(new, out)
        code, values = np.append(code, new[free]), np.append(values, scores.reshape(-1)[place][free])
        if len(values) > max(KEPT, 4 * n):
            code, values, floor = _raised(code, values, n, score.slack, floor)
    code, values, floor = _raised(code, values, n, score.slack, floor)
    order = np.lexsort((code, -values))
    pairs = np.stack([code[order] // size, code[order] % size], axis=1)
    return Leaders(pairs, values[order], floor + score.slack if np.isfinite(floor) else -np.inf)


def _tiles(score: TileScore, size: int, prompt: np.ndarray | None) -> Iterator[tuple[int, int, np.ndarray, float]]:
    """First item of each side of a tile, its scores (minus infinity where they do not count) and the best of them."""
    side = min(TILE, size)
    starts = range(0, size, side)
    blocks = [_block(score.items, prompt, start, side, size) for start in starts]
    places = [(i, j) for i in range(len(starts)) for j in range(i, len(starts))]
    for i, j in places:
        scores, top = _tile(score.function, prompt is not None, blocks[i], blocks[j])
        yield starts[i], starts[j], np.asarray(scores), float(top)


def _above(scores: np.ndarray, floor: float, most: int, slack: float) -> tuple[np.ndarray, float]:
    """Places of the scores above the floor, which the `most` best of the tile raise while it is low."""
    flat = scores.reshape(-1)
    if np.count_nonzero(flat > floor) > max(KEPT, 4 * most):
        floor = max(floor, float(np.partition(flat, len(flat) - most)[len(flat) - most]) - 2.0 * slack)
    return np.flatnonzero((flat >= floor) & np.isfinite(flat)), floor


def _block(items: dict[str, np.ndarray], prompt: np.ndarray | None, start: int, side: int, size: int) -> dict[str, Any]:
    """One block of items on the device, filled up to the side of a tile; each knows its place."""
    rows = np.minimum(np.arange(start, start + side), size - 1)
    block = {name: jnp.asarray(array[rows]) for name, array in items.items()}
    place = jnp.asarray(np.where(np.arange(start, start + side) < size, np.arange(start, start + side), -1))
    return block | {"place": place, "prompt": jnp.asarray(np.zeros(side, int) if prompt is None else prompt[rows])}


@partial(jax.jit, static_argnums=(0, 1))
def _tile(function: Any, across: bool, left: dict[str, Any], right: dict[str, Any]) -> tuple[Any, Any]:
    scores = function(left, right)
    kept = (left["place"][:, None] < right["place"]) & (left["place"][:, None] >= 0)
    if across:
        kept &= left["prompt"][:, None] != right["prompt"]
    scores = jnp.where(kept, scores, -jnp.inf)
    return scores, jnp.max(scores)


def _raised(
    code: np.ndarray, values: np.ndarray, n: int, slack: float, floor: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Those that may be among the n best, and a floor below which there are none."""
    if len(values) >= n:
        floor = max(floor, float(np.partition(values, len(values) - n)[len(values) - n]) - 2.0 * slack)
    return code[values >= floor], values[values >= floor], floor
