"""Sites: locations on the plane or on the sphere."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tercet.models._inputs import as_floats, as_ids
from tercet.models._pytree import Container, pytree

Metric = Literal["plane", "sphere"]


@pytree("metric", "ids")
@dataclass(frozen=True)
class Sites(Container):
    """Locations: where labels were observed, or where predictions are needed.

    Parameters
    ----------
    coordinates : array [n, d]
        For the sphere [n, 2]: latitude in [-90, 90] and longitude in [-180, 360], degrees, in this order.
    metric : "plane" or "sphere"
        Distances are in the units of the coordinates, or in kilometres on the sphere.
    ids : sequence of n unique names, optional
    """

    coordinates: np.ndarray
    metric: Metric = "plane"
    ids: tuple[Hashable, ...] | None = None

    def __init__(
        self,
        coordinates: ArrayLike,
        metric: Metric = "plane",
        ids: Sequence[Hashable] | None = None,
    ) -> None:
        array = as_floats("coordinates", coordinates, 2)
        if metric not in ("plane", "sphere"):
            raise ValueError(f'metric must be "plane" or "sphere", got {metric!r}.')
        if metric == "sphere":
            _check_degrees(array)
        object.__setattr__(self, "coordinates", array)
        object.__setattr__(self, "metric", metric)
        object.__setattr__(self, "ids", as_ids("ids", ids, len(array)))

    def __len__(self) -> int:
        return int(self.coordinates.shape[0])

    def take(self, index: slice | ArrayLike) -> Sites:
        """The sites at these positions (a slice, integers or booleans), with their ids."""
        kept = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        return Sites(self.coordinates[kept], self.metric, None if self.ids is None else [self.ids[i] for i in kept])


def _check_degrees(array: np.ndarray) -> None:
    if array.shape[1] != 2:
        raise ValueError(f"on the sphere coordinates are latitude and longitude [n, 2], got {array.shape}.")
    latitude, longitude = array[:, 0], array[:, 1]
    if np.abs(latitude).max() > 90:
        swapped = " They look swapped: pass latitude first." if np.abs(longitude).max() <= 90 else ""
        raise ValueError(f"latitude must be within [-90, 90], got up to {np.abs(latitude).max()}.{swapped}")
    if longitude.min() < -180 or longitude.max() > 360:
        raise ValueError(f"longitude must be within [-180, 360] degrees, got {longitude.min()} to {longitude.max()}.")
