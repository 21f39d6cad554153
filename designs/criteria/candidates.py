"""What `select` asks of candidates: what could be measured."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from tercet.designs.criteria.pools import LinearPool


class Candidates(abc.ABC):
    """What could be measured: what `select` chooses from."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def pool(self, posterior: Any, target: Any) -> LinearPool:
        """These candidates under a posterior."""

    @abc.abstractmethod
    def picks(self, chosen: np.ndarray) -> np.ndarray:
        """What `Selection.chosen` says of the candidates at these places."""

    def who(self, chosen: np.ndarray) -> np.ndarray | None:
        """Who would measure the candidates at these places, where that is part of the choice."""
        return None

    @abc.abstractmethod
    def table(self, chosen: np.ndarray, pool: Any, gains: np.ndarray) -> Any:
        """DataFrame, one row a pick."""
