"""Comparisons of two items: who was shown first, which was preferred, by whom, how often."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.models._inputs import as_floats, as_ids, as_indices, check_distinct, check_range, is_concrete, same_length
from tercet.models._pytree import Container, pytree
from tercet.models._size_classes import padded, size_class
from tercet.models.items.items import Items

LEAST_SIZE = 64
"""Comparisons in the smallest size class."""


@pytree("annotator_ids")
@dataclass(frozen=True)
class Comparisons(Container):
    """Answered comparisons of two items; outcome 1 means that the first is preferred.

    Parameters
    ----------
    first, second : int array [m]
        Positions of the two items. A pair may occur more than once; each counts.
    outcome : array [m] in [0, 1]
        1 first preferred, 0 second preferred, 0.5 a tie, anything between a soft outcome.
    weight : positive array [m], optional
        Each comparison counts this many times.
    annotator : int array [m], optional
        Who answered, 0..k-1.
    annotator_ids : sequence of k unique names, optional

    Examples
    --------
    >>> from tercet.models import Comparisons
    >>> answers = Comparisons(first=[0, 1], second=[1, 2], outcome=[1, 0.5])
    >>> len(answers), answers.swap().outcome.tolist()
    (2, [0.0, 0.5])
    """

    first: np.ndarray
    second: np.ndarray
    outcome: np.ndarray
    weight: np.ndarray | None = None
    annotator: np.ndarray | None = None
    annotator_ids: tuple[Hashable, ...] | None = None

    def __init__(
        self,
        first: ArrayLike,
        second: ArrayLike,
        outcome: ArrayLike,
        weight: ArrayLike | None = None,
        annotator: ArrayLike | None = None,
        *,
        annotator_ids: Sequence[Hashable] | None = None,
    ) -> None:
        i, j = as_indices("first", first), as_indices("second", second)
        y = as_floats("outcome", outcome, 1).astype(np.float64)
        w = None if weight is None else as_floats("weight", weight, 1).astype(np.float64)
        who = None if annotator is None else as_indices("annotator", annotator)
        same_length(first=i, second=j, outcome=y, weight=w, annotator=who)
        check_distinct(i, j)
        if y.min() < 0 or y.max() > 1:
            at = int(np.flatnonzero((y < 0) | (y > 1))[0])
            raise ValueError(
                f"outcome[{at}] = {y[at]} is outside [0, 1]; 1 means the first is preferred, 0 the second, "
                "0.5 a tie (outcomes coded -1/1 become (outcome + 1) / 2)."
            )
        if w is not None and w.min() <= 0:
            raise ValueError(f"weight must be positive, got a smallest of {w.min()}; drop rows of weight 0.")
        if who is None and annotator_ids is not None:
            raise ValueError("annotator_ids was given without annotator; give both or neither.")
        size = None if who is None else (len(annotator_ids) if annotator_ids else int(who.max()) + 1)
        if who is not None:
            check_range("annotator", who, size)
        names = None if size is None else as_ids("annotator_ids", annotator_ids or range(size), size)
        fields = {"first": i, "second": j, "outcome": y, "weight": w, "annotator": who, "annotator_ids": names}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        items: Items,
        first: str = "first",
        second: str = "second",
        outcome: str = "outcome",
        *,
        weight: str | None = None,
        annotator: str | None = None,
    ) -> Comparisons:
        """Build from a DataFrame whose first and second columns hold ids of `items` (or positions)."""
        who = None if annotator is None else list(dict.fromkeys(frame[annotator].tolist()))
        return cls(
            _codes(first, frame[first].tolist(), items.names),
            _codes(second, frame[second].tolist(), items.names),
            frame[outcome].to_numpy(),
            weight=None if weight is None else frame[weight].to_numpy(),
            annotator=None if who is None else _codes(str(annotator), frame[annotator].tolist(), tuple(who)),
            annotator_ids=who,
        )

    @classmethod
    def from_wins(cls, wins: ArrayLike) -> Comparisons:
        """Build from a square table: wins[i, j] games that i won against j. Equal games become one weighted row."""
        table = as_floats("wins", wins, 2)
        if table.shape[0] != table.shape[1] or np.any(np.diag(table) != 0) or table.min() < 0:
            raise ValueError(f"wins must be square, non-negative, with a zero diagonal; got shape {table.shape}.")
        first, second = np.nonzero(table)
        return cls(first, second, np.ones(len(first)), weight=table[first, second])

    def __len__(self) -> int:
        return int(self.first.shape[0])

    @property
    def weights(self) -> np.ndarray:
        """How often each comparison counts [m]: `weight`, or ones where none was given."""
        return np.ones(len(self)) if self.weight is None else self.weight

    @property
    def pairs(self) -> np.ndarray:
        """Int array [m, 2] of first and second."""
        return np.stack([self.first, self.second], axis=1)

    @property
    def coords(self) -> dict[str, list[Hashable]]:
        """The names along plate `annotator`, where there are annotators."""
        return {} if self.annotator_ids is None else {"annotator": list(self.annotator_ids)}

    def nameless(self) -> Comparisons:
        """The same answers, the annotators without names."""
        names = None if self.annotator_ids is None else tuple(range(len(self.annotator_ids)))
        return replace(self, annotator_ids=names)

    def filled_up(self) -> Comparisons:
        """These comparisons and others of weight zero, up to a size class: what compiled programs take."""
        size = size_class(max(len(self), LEAST_SIZE))
        rows = {
            name: None if values is None else padded(values, size)
            for name, values in vars(replace(self, weight=self.weights)).items()
            if name != "annotator_ids"
        }
        filled: Comparisons = object.__new__(Comparisons)  # past the checks: users' weights are positive
        for name, values in (rows | {"annotator_ids": self.annotator_ids}).items():
            object.__setattr__(filled, name, values)
        return filled

    def swap(self) -> Comparisons:
        """The same answers with first and second exchanged: a comparison means the same either way."""
        return replace(self, first=self.second, second=self.first, outcome=1.0 - self.outcome)

    def take(self, rows: ArrayLike) -> Comparisons:
        """The comparisons at these rows (int or boolean array)."""
        index = np.arange(len(self))[np.asarray(rows)]
        kept: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[index]
            for name in ("first", "second", "outcome", "weight", "annotator")
        }
        return Comparisons(**kept, annotator_ids=self.annotator_ids)

    def extend(self, other: Comparisons) -> Comparisons:
        """These comparisons followed by `other` (both with annotators, named alike, or both without)."""
        if self.annotator_ids != other.annotator_ids:
            raise ValueError("both sets of comparisons must have the same annotator_ids.")
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("first", "second", "outcome")
        }
        if self.weight is not None or other.weight is not None:
            joined["weight"] = np.concatenate([self.weights, other.weights])
        if self.annotator is not None and other.annotator is not None:
            joined["annotator"] = np.concatenate([self.annotator, other.annotator])
        return Comparisons(**joined, annotator_ids=self.annotator_ids)


def check_compared(items: Items, comparisons: Comparisons) -> None:
    """Raise where a comparison is of an item out of range (skipped while JAX traces)."""
    if is_concrete(comparisons.first, comparisons.second):
        check_range("first", comparisons.first, len(items))
        check_range("second", comparisons.second, len(items))


def _codes(name: str, values: Any, names: tuple[Hashable, ...]) -> np.ndarray:
    position = {value: i for i, value in enumerate(names)}
    unknown = [value for value in values if value not in position]
    if unknown:
        raise ValueError(
            f"{name} holds {len(unknown)} unknown name(s), for example {unknown[0]!r}; known are "
            f"{len(names)} ids such as {names[0]!r}."
        )
    return np.array([position[value] for value in values], dtype=np.int64)
