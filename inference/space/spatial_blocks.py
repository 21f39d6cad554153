"""Cross-validation by spatial blocks."""

from __future__ import annotations

import jax
import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.splitters import (
    FoldSplitter,
    balanced_folds,
    check_n_splits,
    checked_buffer,
    distinct_locations,
)
from tercet.models._inputs import as_generator
from tercet.models.space.geometry import EARTH_RADIUS, as_sites, shortest_arc
from tercet.models.space.sites import Sites

BLOCKS = 10
"""Blocks per fold, were the bounding box filled with sites."""


class SpatialBlocks(FoldSplitter):
    """Square blocks of sites, assigned to folds of about the same size; sites at one location are in one block.

    On the sphere: bands of latitude, each cut into equal cells, so that no block is wider or higher than `side`. No
    meridian is special: the cells start in the widest gap between longitudes. As with all blocks, neighbours across a
    border may be in different folds: `buffer` separates them.

    Parameters
    ----------
    sites : Sites or array [n, d], the rows of the data to be split
    n_splits : number of folds
    side : side of a block in the units of the plane or in kilometres; by default such that ten blocks per fold cover
        the bounding box of the sites, halved until two per fold hold sites
    buffer : training sites within this distance of a site of the fold are left out
    key : int seed or JAX key, for assigning blocks to folds

    Attributes
    ----------
    folds : int array [n], the fold in which each site is validated
    side : side of a block

    Raises
    ------
    ValueError
        Where there are fewer distinct locations, or blocks of the given side, than splits, or the buffer leaves no
        training site.

    References
    ----------
    Roberts et al. (2017), Ecography 40, 913-929.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import SpatialBlocks
    >>> sites = np.random.default_rng(0).uniform(size=(100, 2))
    >>> [len(test) for train, test in SpatialBlocks(sites, 4).split()]
    [25, 25, 25, 25]
    """

    def __init__(
        self,
        sites: Sites | ArrayLike,
        n_splits: int = 5,
        *,
        side: float | None = None,
        buffer: float = 0.0,
        key: int | jax.Array = 0,
    ) -> None:
        self.sites, self.buffer = as_sites("sites", sites), checked_buffer(buffer)
        first, location = distinct_locations(self.sites)
        check_n_splits(n_splits, len(first))
        if side is not None and not 0 < side < np.inf:
            raise ValueError(f"side must be a positive length, got {side}.")
        distinct = self.sites.take(first)
        if side is None:
            self.side, block = _default_blocks(distinct, n_splits)
        else:
            self.side, block = float(side), _blocks(distinct, side)
        self.folds = balanced_folds(block[location], n_splits, as_generator(key))
        for _ in self.split():  # a buffer that leaves no training site is reported now, not halfway through the fits
            pass


def _default_blocks(sites: Sites, n_splits: int) -> tuple[float, np.ndarray]:
    """Side of the default blocks, and the block [n] of each of these distinct locations."""
    side = _covering_side(sites, BLOCKS * n_splits)
    block = _blocks(sites, side)
    while block.max() + 1 < min(2 * n_splits, len(sites)) and side > 0:
        side /= 2
        block = _blocks(sites, side)
    return side, block


def _blocks(sites: Sites, side: float) -> np.ndarray:
    """Number [n] of the block in which each site lies."""
    array = np.asarray(sites.coordinates, dtype=np.float64)
    if sites.metric == "plane":
        cells = np.floor((array - array.min(axis=0)) / side)
    else:
        latitude, longitude = (
            np.radians(array[:, 0]),
            np.radians((array[:, 1] % 360 - shortest_arc(array[:, 1])[0]) % 360),
        )
        south, step = latitude.min(), side / EARTH_RADIUS
        band = np.floor((latitude - south) / step)
        low, high = south + band * step, south + (band + 1) * step
        widest = np.where((low <= 0) & (high >= 0), 1.0, np.cos(np.minimum(np.abs(low), np.abs(high))))
        around = np.ceil(np.maximum(2 * np.pi * widest / step, 1.0))
        cells = np.stack([band, np.minimum(np.floor(longitude / (2 * np.pi) * around), around - 1)], axis=1)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def _covering_side(sites: Sites, blocks: int) -> float:
    """Side with which that many square blocks cover the bounding box; directions without extent are left out."""
    array = np.asarray(sites.coordinates, dtype=np.float64)
    extent = np.ptp(array, axis=0)
    if sites.metric == "sphere":
        width = shortest_arc(array[:, 1])[1] * np.cos(np.radians(array[:, 0])).mean()
        extent = np.radians([extent[0], width]) * EARTH_RADIUS
    wide = extent[extent > 0]
    return float(np.exp(np.log(wide / blocks ** (1 / len(wide))).mean())) if wide.size else 1.0
