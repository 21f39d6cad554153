"""All pairs of items, and scores of them in tiles: from features, in memory or not, to the best pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tercet.designs.pairs.pool import PairPool
from tercet.designs.pairs.tiled.dask_tiles import best_pairs_by_tasks
from tercet.designs.pairs.tiled.tiles import BestPairs, TileScore, Tiling, best_pairs
from tercet.models.items.items import Items

ROUNDING = 200.0 * float(np.finfo(np.float32).eps)  # of a score in 32 bit, as a share of the largest there can be
LEVELS = 0.02  # that much less for levels: two of them and their difference are each rounded once


@dataclass(frozen=True, eq=False)
class AllPairs:
    """All pairs of n items, less those of one prompt (`across`), those excluded [x, 2], those not in a mask [n, n]."""

    items: Items
    across: bool = False
    exclude: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def prompt(self) -> np.ndarray | None:
        """Prompt of each item, where pairs of one prompt are left out."""
        return self.items.prompt if self.across else None

    def best(self, score: TileScore, n: int, tiling: Tiling) -> BestPairs:
        """Every one of these pairs that may be among the n best, in one pass of tiles."""
        if isinstance(score.numbers, np.ndarray):
            return best_pairs(score, n, prompt=self.prompt, exclude=self.exclude, mask=self.mask, tiling=tiling)
        if self.mask is not None:
            raise ValueError("a mask of pairs needs features in memory, not a Dask array; use prompts or exclude.")
        return best_pairs_by_tasks(score, n, self.prompt, self.exclude, tiling)


def tile_score(
    pool: PairPool,
    function: Any,
    roots: dict[str, np.ndarray],
    ceiling: Callable[[float], float] | None,
    off: float = 0.0,
) -> TileScore:
    """A score of the levels of items and of their rows x root.

    Parameters
    ----------
    pool : any pool of these items
    function : of two dicts of blocks: "mean", then each name of `roots`, and its squared norm as "name squared"
    roots : matrices [p, k] by name
    ceiling : what the score cannot exceed at a squared distance of the last of these rows, and grows with it; None for
        scores of levels only
    off : by how much the score is wrong at most, rounding apart, for each unit of that distance
    """
    features, mean = pool.rewards.features, pool.rewards.mean
    level = (mean - mean.mean()).astype(np.float32)
    widths = [root.shape[1] for root in roots.values()]
    columns = [("mean", 0)] + [
        part for name, width in zip(roots, widths, strict=True) for part in ((name, width), (f"{name} squared", 0))
    ]
    matrix = np.hstack([np.empty((features.shape[1], 0)), *roots.values()])
    of_block = partial(_item_numbers, tuple(widths), features.near_mean @ matrix)
    numbers = features.tabulate(matrix, of_block, 1 + sum(width + 1 for width in widths), level)
    largest = float(abs(numbers[:, -1]).max())
    most = LEVELS * largest if ceiling is None else ceiling(4.0 * largest)
    return TileScore(numbers, tuple(columns), function, ROUNDING * most + off * 4.0 * largest, ceiling)


def _item_numbers(
    widths: tuple[int, ...], shift: Float[np.ndarray, " k"], products: Float[np.ndarray, "b k"],
    level: Float[np.ndarray, " b"],
) -> Float[np.ndarray, "b c"]:  # fmt: skip
    """In 32 bit: the level of each item, then for every root its row of X root, shifted, and the square of that.

    Shifts are those of a row near the mean: the differences are the same, and 32 bit lose nothing to what all items
    share.
    """
    numbers = np.empty((len(level), 1 + sum(width + 1 for width in widths)), np.float32)
    numbers[:, 0], column = level, 1
    for part in np.split(products - shift, np.cumsum(widths)[:-1], axis=1) if widths else ():
        numbers[:, column : column + part.shape[1]] = part
        column += part.shape[1] + 1
        numbers[:, column - 1] = np.square(part).sum(axis=1)
    return numbers


def distance(name: str, left: dict[str, Any], right: dict[str, Any]) -> Any:
    """Squared distances |row_i - row_j|^2 of a tile, the rows of this name."""
    crossed = left[name] @ right[name].T
    squares = left[f"{name} squared"][:, None] + right[f"{name} squared"]
    return jnp.maximum(squares - 2.0 * crossed, 0.0)
