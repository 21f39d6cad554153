"""Features that stay where they are stored: rows are read, checked and mapped when they are needed."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float, Int

from tercet.models._inputs import check_finite
from tercet.models.items.features import Features
from tercet.models.items.projection import FeatureMap

AnyStored = TypeVar("AnyStored", bound="Stored")


@dataclass(frozen=True, eq=False, kw_only=True)
class Stored(Features):
    """Features out of memory. Reading `features[rows]` gives an array, checked: it holds no NaN.

    Attributes
    ----------
    rows : int array [n], row of the storage of each item
    width : number of columns of the storage
    maps : feature maps that rows go through once read
    """

    rows: Int[np.ndarray, " n"]
    width: int
    maps: tuple[FeatureMap, ...] = ()

    in_memory: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What messages call the storage."""

    @abc.abstractmethod
    def read(self, rows: slice | Int[np.ndarray, " k"]) -> np.ndarray:
        """Rows of the storage, in increasing order, as numbers [k, width]."""

    @cached_property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), (self[:1].shape[1] if self.maps else self.width)

    def __getitem__(self, rows: Any) -> Float[np.ndarray, "k d"]:
        wanted = self.rows[rows]
        unique, position = np.unique(wanted, return_inverse=True)
        contiguous = len(unique) and unique[-1] - unique[0] + 1 == len(unique)
        values = np.asarray(self.read(slice(int(unique[0]), int(unique[-1]) + 1) if contiguous else unique))
        if values.shape != (len(unique), self.width):
            raise ValueError(f"{self.name} gave {values.shape} where {(len(unique), self.width)} was asked for.")
        ordered = len(unique) == len(wanted) and (position[1:] > position[:-1]).all()
        read = prepared(f"{self.name}, rows {unique[0]} to {unique[-1]},", values, self.maps)
        return read if ordered else read[position]

    def take(self: AnyStored, index: Any) -> AnyStored:
        return replace(self, rows=self.rows[index])

    def mapped(self: AnyStored, feature_map: FeatureMap) -> AnyStored:
        return replace(self, maps=(*self.maps, feature_map))

    @property
    def block_rows(self) -> int:
        return max(1, self.block_bytes // (8 * self.width))  # as they are read, before the maps

    @cached_property
    def near_mean(self) -> Float[np.ndarray, " d"]:
        return super().near_mean


def prepared(name: str, values: np.ndarray, maps: tuple[FeatureMap, ...]) -> Float[np.ndarray, "k d"]:
    """Rows as they were read: checked, in 32 or 64 bit, and through the maps."""
    if values.dtype.itemsize < 4 or values.dtype.kind != "f":
        values = values.astype(np.float32 if values.dtype.kind == "f" else np.float64)
    check_finite(name, values)
    for feature_map in maps:
        values = feature_map.apply(values)
    return values
