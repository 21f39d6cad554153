"""All pairs of items in a Dask array: tiles as tasks, the best of them merged along a tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from tercet.designs.pairs.tiled import tiles
from tercet.designs.pairs.tiled.tiles import TILING, BestPairs, Contenders, ItemBlock, Query, Tasks, TileScore, Tiling


def best_pairs_by_tasks(
    score: TileScore,
    n: int,
    prompt: np.ndarray | None = None,
    exclude: Int[np.ndarray, "x 2"] | None = None,
    tiling: Tiling = TILING,
) -> BestPairs:
    """The pairs of `tercet.designs.pairs.tiled.tiles.best_pairs`, of numbers in a Dask array.

    A task scores the pairs of two blocks of items and hands on those that may be among the n best; nothing else moves
    but the blocks. Tasks come in waves, each ten times all before it, that know the floor of the waves before: later
    ones have little to hand on. Which scheduler runs them is Dask's own choice: the active distributed client, or
    threads. A worker that dies costs what only it held, which Dask computes again.

    Parameters
    ----------
    score : TileScore of a Dask array [N, c]
    n, prompt, exclude, tiling : as there
    """
    import dask

    query = tiles.query_of(score, n, exclude, tiling)
    blocks = _blocks(score.numbers, prompt, tiling)
    shared = dask.delayed(query, traverse=False)  # sent once
    scan, merged = dask.delayed(_scan), dask.delayed(_merged)
    best = dask.delayed(Contenders.none())
    for wave in _waves(len(blocks), tiling.tasks):
        floor = dask.delayed(_floor)(best)
        parts = [best, *(scan(shared, floor, blocks[i], blocks[j]) for i, j in wave)]
        best = _tree(parts, shared, merged, tiling.tasks.merged)
    return tiles.sorted_pairs(query, best.compute())


def _blocks(numbers: Any, prompt: np.ndarray | None, tiling: Tiling) -> list[Any]:
    """Blocks of items, of whole tiles each, where Dask has them."""
    import dask

    size = numbers.shape[0]
    side = tiling.side * max(tiling.tasks.tiles, -(-size // (tiling.side * tiling.tasks.blocks)))
    parts = numbers.rechunk((side, -1)).to_delayed().ravel()
    block = dask.delayed(ItemBlock)
    prompt = None if prompt is None else prompt.astype(np.int32)  # travels with the graph
    return [
        block(start, part, None if prompt is None else prompt[start : start + side])
        for start, part in zip(range(0, size, side), parts, strict=True)
    ]


def _waves(blocks: int, tasks: Tasks) -> Iterator[list[tuple[int, int]]]:
    """All pairs of blocks, a few first, then ever more; in random order, so that the first ones stand for all."""
    pairs = [(i, j) for i in range(blocks) for j in range(i, blocks)]
    order = np.random.default_rng(0).permutation(len(pairs))
    done = 0
    while done < len(pairs):
        until = max(tasks.first, done * (1 + tasks.growth))
        yield [pairs[k] for k in order[done:until]]
        done = min(until, len(pairs))


def _tree(parts: list[Any], shared: Any, merged: Any, fan: int) -> Any:
    """What all parts hold together, merged a few at a time."""
    while len(parts) > 1:
        parts = [merged(shared, parts[at : at + fan]) for at in range(0, len(parts), fan)]
    return parts[0]


def _scan(query: Query, floor: float, left: ItemBlock, right: ItemBlock) -> Contenders:
    return tiles.scan(query, Contenders.none(floor), left, right)


def _merged(query: Query, parts: list[Contenders]) -> Contenders:
    return tiles.merged(query, parts)


def _floor(contenders: Contenders) -> float:
    return contenders.floor
