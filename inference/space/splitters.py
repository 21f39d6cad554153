"""What spatial splitters for scikit-learn's `cv=` have in common."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sized

import numpy as np

from tercet.inference.space.folds import SAME_LOCATION, nearest_chord
from tercet.models.space.geometry import positions, to_chord
from tercet.models.space.sites import Sites

Split = Iterator[tuple[np.ndarray, np.ndarray]]
"""Pairs of training and validation row numbers."""
Rows = Sized | None
"""Data that scikit-learn hands over; no more than their number is read."""


class Splitter(abc.ABC):
    """The interface of scikit-learn's `cv` objects; the sites are given once, to the splitter."""

    sites: Sites
    buffer: float

    @abc.abstractmethod
    def get_n_splits(self, X: Rows = None, y: Rows = None, groups: Rows = None) -> int:
        """Return the number of splits; the arguments are scikit-learn's and not read."""

    @abc.abstractmethod
    def split(self, X: Rows = None, y: Rows = None, groups: Rows = None) -> Split:
        """Pairs of training and validation row numbers; the number of rows of X is checked."""

    @property
    def buffer_chord(self) -> float:
        """The buffer as a chord length, with what rounding may add to a distance."""
        chord = float(to_chord(self.sites.metric, self.buffer)) * (1 + SAME_LOCATION)
        return chord if self.sites.metric == "plane" else chord + SAME_LOCATION

    def check_rows(self, X: Rows) -> None:
        """Raise where the data have another number of rows than the splitter has sites."""
        rows = None if X is None else X.shape[0] if hasattr(X, "shape") else len(X)
        if rows is not None and rows != len(self.sites):
            raise ValueError(
                f"the splitter was built for {len(self.sites)} sites, the data have {rows} rows; build it from the "
                "sites of these rows (inside another cross-validation, from those of its training rows)."
            )

    def __repr__(self) -> str:
        more = f", buffer = {self.buffer:g}" if self.buffer else ""
        return f"{type(self).__name__}({len(self.sites)} sites, {self.get_n_splits()} splits{more})"


class FoldSplitter(Splitter):
    """Splits by the fold [n] of each site; training sites within `buffer` of the validation fold are left out."""

    folds: np.ndarray

    def get_n_splits(self, X: Rows = None, y: Rows = None, groups: Rows = None) -> int:
        return int(self.folds.max()) + 1

    def split(self, X: Rows = None, y: Rows = None, groups: Rows = None) -> Split:
        self.check_rows(X)
        points = positions(self.sites)
        for fold in range(self.get_n_splits()):
            inside = self.folds == fold
            train = np.flatnonzero(~inside)
            if self.buffer > 0:
                train = train[nearest_chord(points[inside], points[train])[0] > self.buffer_chord]
            if not train.size:
                raise ValueError(
                    f"no training site is left outside the buffer of {self.buffer:g} of fold {fold}; lower the buffer."
                )
            yield train, np.flatnonzero(inside)


def checked_buffer(buffer: float) -> float:
    """A finite buffer, not negative."""
    if not (np.isfinite(buffer) and buffer >= 0):
        raise ValueError(f"buffer must be a distance of zero or more, got {buffer}.")
    return float(buffer)


def check_n_splits(n_splits: int, locations: int) -> None:
    """Raise unless every fold can have a location."""
    if not (2 <= n_splits <= locations and n_splits == int(n_splits)):
        raise ValueError(f"n_splits must be a number from 2 to the {locations} distinct place(s), got {n_splits}.")
