"""What `select` asks of candidates: what could be measured."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tercet.designs.criteria.criterion import Criterion

if TYPE_CHECKING:
    import pandas as pd


class Candidates(abc.ABC):
    """What could be measured: what `select` chooses from."""

    @property
    @abc.abstractmethod
    def criteria(self) -> Mapping[str, Criterion]:
        """The criteria that these candidates know by name."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def pool(self, posterior: Any, target: Any) -> Any:
        """These candidates under a posterior, as a `LinearPool`."""

    @abc.abstractmethod
    def picks(self, chosen: np.ndarray) -> np.ndarray:
        """What `Selection.chosen` says of the candidates at these positions."""

    def annotators(self, chosen: np.ndarray) -> np.ndarray | None:
        """Who would measure the candidates at these positions, where that is part of the choice."""
        return None

    @abc.abstractmethod
    def table(self, chosen: np.ndarray, pool: Any, gains: np.ndarray) -> pd.DataFrame:
        """One row a pick."""
