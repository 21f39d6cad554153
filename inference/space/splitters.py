"""Spatial cross-validation splits for scikit-learn's `cv=`: blocks, buffered leave-one-out, matched distances."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.stats import wasserstein_distance

from tercet.models._inputs import as_generator
from tercet.models.space.geometry import EARTH_RADIUS, as_sites, check_same_space, from_chord, positions, to_chord
from tercet.models.space.sites import Sites

BLOCKS = 10
"""Blocks a fold, where sites fill their box."""
CLUSTERINGS = 12
"""Numbers of clusters that distance matching tries, next to folds at random."""
BROKEN = (0.0, 0.25, 0.5, 0.75)
"""Shares of the clusters whose places are dealt one by one, for distances between those of clusters and of places."""
MOST_CAREFUL = 256
"""Clusters up to which their first centres are spread out (k-means++), at a cost of n each."""
MOST_MATCHED = 20_000
"""Quantiles of the prediction distances that folds are compared with."""
SAME_PLACE = 1e-12
"""Chords of the unit sphere (6 micrometres) that come from writing one place in two ways, -10 and 350 degrees."""

Split = Iterator[tuple[np.ndarray, np.ndarray]]


class _Splitter:
    """What scikit-learn asks of a `cv` object; the sites are given once, to the splitter."""

    sites: Sites
    buffer: float

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits; the arguments are scikit-learn's and not read."""
        raise NotImplementedError

    def _check(self, x: Any) -> None:
        rows = None if x is None else x.shape[0] if hasattr(x, "shape") else len(x)
        if rows is not None and rows != len(self.sites):
            raise ValueError(
                f"the splitter was built for {len(self.sites)} sites, the data have {rows} rows; build it from the "
                "sites of these rows (inside another cross-validation, from those of its training rows)."
            )

    def __repr__(self) -> str:
        more = f", buffer = {self.buffer:g}" if self.buffer else ""
        return f"{type(self).__name__}({len(self.sites)} sites, {self.get_n_splits()} splits{more})"


class _Folds(_Splitter):
    """Splits by a fold label [n] per site; training sites within `buffer` of the fold are left out."""

    folds: np.ndarray

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds; the arguments are scikit-learn's and not read."""
        return int(self.folds.max()) + 1

    def split(self, X: Any = None, y: Any = None, groups: Any = None) -> Split:
        """Pairs of training and validation row numbers."""
        self._check(X)
        points, reach = positions(self.sites), _reach(self.sites, self.buffer)
        for fold in range(self.get_n_splits()):
            inside = self.folds == fold
            train = np.flatnonzero(~inside)
            if self.buffer > 0:
                train = train[_nearest(points[inside], points[train])[0] > reach]
            if not train.size:
                raise ValueError(
                    f"no training site is left outside the buffer of {self.buffer:g} of fold {fold}; lower the buffer."
                )
            yield train, np.flatnonzero(inside)


class SpatialBlocks(_Folds):
    """Square blocks of sites, dealt to folds of about the same size; duplicates are in one block.

    On the sphere: bands of latitude, each cut into equal cells, so that no block is wider or higher than `side`, and
    there is no seam besides the borders of cells; these start in the widest gap between longitudes. As with all
    blocks, neighbours across a border may be in different folds: `buffer` parts them.

    Parameters
    ----------
    sites : Sites or array [n, d], the rows of the data to be split
    n_splits : number of folds
    side : side of a block in the units of the plane or in kilometres; by default such that there are ten blocks a
        fold if sites fill their box, halved until two a fold hold sites
    buffer : training sites as near as this to a site of the fold are left out
    key : int seed or JAX key, for dealing blocks to folds

    Attributes
    ----------
    folds : int array [n], the fold in which each site is validated
    side : side of a block

    Raises
    ------
    ValueError
        Where there are fewer places, or blocks of the given side, than splits, or the buffer leaves nothing.

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
        key: Any = 0,
    ) -> None:
        self.sites, self.buffer = as_sites("sites", sites), _as_buffer(buffer)
        first, place = _places(self.sites)
        _check_splits(n_splits, len(first))
        apart = _take(self.sites, first)
        if side is not None and not 0 < side < np.inf:
            raise ValueError(f"side must be a positive length, got {side}.")
        self.side = _typical_side(apart, BLOCKS * n_splits) if side is None else float(side)
        block = _cells(apart, self.side)
        while side is None and block.max() + 1 < min(2 * n_splits, len(first)) and self.side > 0:
            self.side /= 2
            block = _cells(apart, self.side)
        self.folds = _deal(block[place], n_splits, as_generator(key))
        for _ in self.split():  # a buffer that leaves nothing is said now, not after half of the fits
            pass


class BufferedLeaveOneOut(_Splitter):
    """Each site in turn, predicted from the sites farther away than a buffer.

    Parameters
    ----------
    sites : Sites or array [n, d]
    buffer : in the units of the plane or in kilometres; sites at exactly that distance (up to rounding) are left out
        too, so that a buffer of zero leaves out duplicates of the site
    most : optional, only so many sites are held out, drawn with `key`
    key : int seed or JAX key

    Attributes
    ----------
    held_out : int array, the sites that are held out, in this order

    Raises
    ------
    ValueError
        Where the buffer leaves nothing to train on for some site.

    References
    ----------
    Le Rest et al. (2014), Global Ecology and Biogeography 23, 811-820.

    Examples
    --------
    >>> from tercet.inference import BufferedLeaveOneOut
    >>> next(BufferedLeaveOneOut([[0.0], [0.4], [1.0], [2.0]], buffer=0.5).split())
    (array([2, 3]), array([0]))
    """

    def __init__(self, sites: Sites | ArrayLike, buffer: float = 0.0, *, most: int | None = None, key: Any = 0) -> None:
        self.sites, self.buffer = as_sites("sites", sites), _as_buffer(buffer)
        n = len(self.sites)
        if most is not None and most < 1:
            raise ValueError(f"most must be at least one site, got {most}.")
        self.held_out = np.arange(n)
        if most is not None and most < n:
            self.held_out = np.sort(as_generator(key).choice(n, int(most), replace=False))
        points = positions(self.sites)
        near = cKDTree(points).query_ball_point(
            points[self.held_out], _reach(self.sites, self.buffer), return_length=True, workers=-1
        )
        if (near == n).any():
            raise ValueError(
                f"no site is farther than {self.buffer:g} from site {self.held_out[np.argmax(near == n)]}; lower the "
                "buffer."
            )

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of sites held out; the arguments are scikit-learn's and not read."""
        return len(self.held_out)

    def split(self, X: Any = None, y: Any = None, groups: Any = None) -> Split:
        """Pairs of training and validation row numbers."""
        self._check(X)
        points, reach = positions(self.sites), _reach(self.sites, self.buffer)
        tree = cKDTree(points)
        for site in self.held_out:
            far = np.ones(len(points), dtype=bool)
            far[tree.query_ball_point(points[site], reach)] = False
            yield np.flatnonzero(far), np.array([site])


class NearestNeighbourMatching(_Folds):
    """Folds whose distances from validation to training match those from prediction sites to all sites (kNNDM).

    Candidates are folds at random and folds made of k-means clusters: from as many as folds to one for every two
    places, whole or with a share of them broken into places, dealt to folds of about the same size, no fold with more
    than half of the sites (of two folds, three quarters). The one with the least Wasserstein distance W1 between the
    two distributions of nearest-neighbour distances is taken. Sites at one place stay together. The published
    algorithm draws its candidates in another way.

    Parameters
    ----------
    sites : Sites or array [n, d], the rows of the data to be split
    prediction : Sites or array [m, d], where the model will be used
    n_splits : number of folds
    key : int seed or JAX key

    Attributes
    ----------
    folds : int array [n], the fold in which each site is validated
    mismatch : W1 that is left, in the units of the distances (kilometres on the sphere)
    random_mismatch : W1 of the folds at random

    Raises
    ------
    ValueError
        Where there are fewer places than splits, or `prediction` has another metric or dimension.

    References
    ----------
    Linnenbrink, Milà, Ludwig, Meyer (2024), Geoscientific Model Development 17, 5897-5912.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import NearestNeighbourMatching
    >>> sites = np.random.default_rng(0).uniform(size=(60, 2))
    >>> folds = NearestNeighbourMatching(sites, sites + 5.0, 3)
    >>> folds.get_n_splits(), folds.mismatch < folds.random_mismatch
    (3, True)
    """

    def __init__(
        self, sites: Sites | ArrayLike, prediction: Sites | ArrayLike, n_splits: int = 5, *, key: Any = 0
    ) -> None:
        self.sites, self.buffer = as_sites("sites", sites), 0.0
        there = as_sites("prediction", prediction, self.sites.metric)
        check_same_space(self.sites, there)
        first, place = _places(self.sites)
        _check_splits(n_splits, len(first))
        chord = np.sort(_nearest(positions(self.sites), positions(there))[0])
        if len(chord) > MOST_MATCHED:
            chord = chord[np.linspace(0, len(chord) - 1, MOST_MATCHED).round().astype(int)]
        wanted = from_chord(self.sites.metric, chord)
        self.mismatch = np.inf
        for folds in _partitions(_take(self.sites, first), place, n_splits, as_generator(key)):
            off = float(wasserstein_distance(to_training(self.sites, folds), wanted))
            if self.mismatch == np.inf:
                self.random_mismatch = off
            if off < self.mismatch:
                self.mismatch, self.folds = off, folds


def to_training(sites: Sites, folds: np.ndarray) -> np.ndarray:
    """Distance [n] of each site to the nearest site of another fold."""
    points, chord = positions(sites), np.empty(len(sites))
    for fold in np.unique(folds):
        inside = folds == fold
        chord[inside] = _nearest(points[~inside], points[inside])[0]
    return from_chord(sites.metric, chord)


def _nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chord [m] and row [m] of the nearest of n points; threads where they are worth their start."""
    return cKDTree(points).query(others, workers=-1 if len(others) > 5_000 else 1)


def _partitions(places: Sites, place: np.ndarray, n_splits: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Fold labels [n] of sites at these places: at random, then of clusters, from as few as folds to many."""
    yield _deal(place, n_splits, rng)
    points = positions(places)
    most = max(len(place) // 2, -(-3 * len(place) // (2 * n_splits)))  # half of the sites; of two folds three quarters
    for number in np.unique(np.geomspace(n_splits, max(n_splits, len(points) // 2), CLUSTERINGS).astype(int)):
        cluster = _clusters(points, int(number), rng)
        turn = rng.random(number)[cluster]
        for share in BROKEN:
            label = np.where(turn < share, number + np.arange(len(points)), cluster)[place]
            if np.unique(label).size >= n_splits:
                folds = _deal(label, n_splits, rng)
                if np.bincount(folds).max() <= most:
                    yield folds


def _clusters(points: np.ndarray, number: int, rng: np.random.Generator, rounds: int = 10) -> np.ndarray:
    """k-means labels [n] by a k-d tree of the centres, which also serves thousands of them."""
    first = rng.choice(len(points), number, replace=False)
    if number <= MOST_CAREFUL:
        gap = np.square(points - points[first[0]]).sum(axis=1)
        for j in range(1, number):
            if not gap.sum() > 0:
                break
            first[j] = rng.choice(len(points), p=gap / gap.sum())
            gap = np.minimum(gap, np.square(points - points[first[j]]).sum(axis=1))
    centres = points[first]
    for _ in range(rounds):
        label = _nearest(centres, points)[1]
        size = np.bincount(label, minlength=number)
        total = np.stack([np.bincount(label, column, number) for column in points.T], axis=1)
        centres = np.where(size[:, None] > 0, total / np.maximum(size, 1)[:, None], centres)
    return label


def _deal(group: np.ndarray, n_splits: int, rng: np.random.Generator) -> np.ndarray:
    """Fold labels [n]: whole groups, the largest first, each to the fold with the fewest sites."""
    names, code, size = np.unique(group, return_inverse=True, return_counts=True)
    if len(names) < n_splits:
        raise ValueError(f"{len(names)} block(s) cannot fill {n_splits} folds; give a shorter side, or fewer splits.")
    order = rng.permutation(len(names))
    order = order[np.argsort(-size[order], kind="stable")]
    fold = np.empty(len(names), dtype=np.int64)
    heap = [(0, label) for label in range(n_splits)]  # sites dealt so far
    for name, more in zip(order.tolist(), size[order].tolist(), strict=True):
        filled, fold[name] = heap[0]
        heapq.heapreplace(heap, (filled + more, heap[0][1]))
    return fold[code.reshape(-1)]


def _places(sites: Sites) -> tuple[np.ndarray, np.ndarray]:
    """One row of each place, and the place [n] of each site; on the sphere however its degrees are written."""
    points = positions(sites) + 0.0  # a zero has no sign
    distinct, first, place = np.unique(points, axis=0, return_index=True, return_inverse=True)
    place = place.reshape(-1)
    if sites.metric == "sphere":
        pairs = cKDTree(distinct).query_pairs(SAME_PLACE, output_type="ndarray")
        links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(first), len(first)))
        joined = connected_components(links, directed=False)[1]
        first, place = first[np.unique(joined, return_index=True)[1]], joined[place]
    return first, place


def _cells(sites: Sites, side: float) -> np.ndarray:
    """Number [n] of the block in which each site lies."""
    array = np.asarray(sites.coordinates, dtype=np.float64)
    if sites.metric == "plane":
        cells = np.floor((array - array.min(axis=0)) / side)
    else:
        latitude, longitude = np.radians(array[:, 0]), np.radians(_from_gap(array[:, 1])[0])
        south, step = latitude.min(), side / EARTH_RADIUS
        band = np.floor((latitude - south) / step)
        low, high = south + band * step, south + (band + 1) * step
        widest = np.where((low <= 0) & (high >= 0), 1.0, np.cos(np.minimum(np.abs(low), np.abs(high))))
        around = np.ceil(np.maximum(2 * np.pi * widest / step, 1.0))
        cells = np.stack([band, np.minimum(np.floor(longitude / (2 * np.pi) * around), around - 1)], axis=1)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def _from_gap(longitude: np.ndarray) -> tuple[np.ndarray, float]:
    """Degrees [n] east of the widest gap between longitudes, and the degrees that the sites span."""
    east = longitude % 360
    ordered = np.unique(east)
    gaps = np.diff(ordered, append=ordered[0] + 360)
    start = ordered[(gaps.argmax() + 1) % len(ordered)]
    return (east - start) % 360, float(360 - gaps.max())


def _typical_side(sites: Sites, blocks: int) -> float:
    """Side with which that many square blocks fill the box of the sites, directions without extent left out."""
    array = np.asarray(sites.coordinates, dtype=np.float64)
    extent = np.ptp(array, axis=0)
    if sites.metric == "sphere":
        width = _from_gap(array[:, 1])[1] * np.cos(np.radians(array[:, 0])).mean()
        extent = np.radians([extent[0], width]) * EARTH_RADIUS
    wide = extent[extent > 0]
    return float(np.exp(np.log(wide / blocks ** (1 / len(wide))).mean())) if wide.size else 1.0


def _reach(sites: Sites, buffer: float) -> float:
    """Straight-line length of a buffer, with what rounding may add to a distance."""
    reach = float(to_chord(sites.metric, buffer)) * (1 + SAME_PLACE)
    return reach if sites.metric == "plane" else reach + SAME_PLACE


def _take(sites: Sites, rows: Any) -> Sites:
    return Sites(sites.coordinates[rows], sites.metric)


def _as_buffer(buffer: float) -> float:
    if not (np.isfinite(buffer) and buffer >= 0):
        raise ValueError(f"buffer must be a distance of zero or more, got {buffer}.")
    return float(buffer)


def _check_splits(n_splits: int, places: int) -> None:
    if not (2 <= n_splits <= places and n_splits == int(n_splits)):
        raise ValueError(f"n_splits must be a number from 2 to the {places} distinct place(s), got {n_splits}.")
