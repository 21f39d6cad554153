"""All pairs of items in a Dask array: tiles as tasks, the best of them merged along a tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from tercet.designs.pairs.tiled import tiles
from tercet.designs.pairs.tiled.tiles import Block, Found, Leaders, Search, TileScore

BLOCKS = 64
"""Blocks of items at most: 2,080 tasks, each of so many tiles as that takes."""
LEAST = 4  # tiles on a side of a block: fewer tasks, and more tiles to leave out in each
FIRST = 4  # tasks before a floor is known
GROWTH = 10  # tasks of a wave for each task before it
FAN = 16  # results that one task merges


def leading_pairs_by_tasks(
    score: TileScore,
    n: int,
    prompt: np.ndarray | None = None,
    exclude: Int[np.ndarray, "x 2"] | None = None,
) -> Leaders:
    """The pairs of `tercet.designs.pairs.tiled.tiles.leading_pairs`, of numbers in a Dask array.

    A task scores the pairs of two blocks of items and hands on those that may be among the n best; nothing else moves
    but the blocks. Tasks come in waves, each ten times all before it, that know the floor of the waves before: later
    ones have little to hand on. Which scheduler runs them is Dask's own choice: the active distributed client, or
    threads. A worker that dies costs what only it held, which Dask computes again.

    Parameters
    ----------
    score : TileScore of a Dask array [N, c]
    n, prompt, exclude : as there
    """
    import dask

    search = tiles.search_for(score, n, exclude)
    blocks = _blocks(score.numbers, prompt)
    shared = dask.delayed(search, traverse=False)  # sent once
    scan, merged = dask.delayed(_scan), dask.delayed(_merged)
    found = dask.delayed(Found.nothing())
    for wave in _waves(len(blocks)):
        floor = dask.delayed(_floor)(found)
        found = _tree([found, *(scan(shared, floor, blocks[i], blocks[j]) for i, j in wave)], shared, merged)
    return tiles.leaders(search, found.compute())


def _blocks(numbers: Any, prompt: np.ndarray | None) -> list[Any]:
    """Blocks of items, of whole tiles each, where Dask has them."""
    import dask

    size = numbers.shape[0]
    side = tiles.TILE * max(LEAST, -(-size // (tiles.TILE * BLOCKS)))
    parts = numbers.rechunk((side, -1)).to_delayed().ravel()
    block = dask.delayed(Block)
    prompt = None if prompt is None else prompt.astype(np.int32)  # travels with the graph
    return [
        block(start, part, None if prompt is None else prompt[start : start + side])
        for start, part in zip(range(0, size, side), parts, strict=True)
    ]


def _waves(blocks: int) -> Iterator[list[tuple[int, int]]]:
    """All pairs of blocks, a few first, then ever more; in no order, so that the first ones stand for all."""
    places = [(i, j) for i in range(blocks) for j in range(i, blocks)]
    order = np.random.default_rng(0).permutation(len(places))
    done = 0
    while done < len(places):
        until = max(FIRST, done * (1 + GROWTH))
        yield [places[k] for k in order[done:until]]
        done = min(until, len(places))


def _tree(parts: list[Any], shared: Any, merged: Any) -> Any:
    """What all parts hold together, merged a few at a time."""
    while len(parts) > 1:
        parts = [merged(shared, parts[at : at + FAN]) for at in range(0, len(parts), FAN)]
    return parts[0]


def _scan(search: Search, floor: float, left: Block, right: Block) -> Found:
    return tiles.scan(search, Found.nothing(floor), left, right)


def _merged(search: Search, parts: list[Found]) -> Found:
    return tiles.merged(search, parts)


def _floor(found: Found) -> float:
    return found.floor
