"""What a criterion asks of candidates once a posterior is known: a pool."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from jaxtyping import Float


class Pool(abc.ABC):
    """m candidates with everything a criterion reads of them."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def sample(self, index: np.ndarray) -> Any:
        """A pool of these candidates alone: costs what it holds."""


class LinearPool(Pool):
    """Candidates under a Gaussian posterior of p parameters: a label tells of d'w, d the candidate's row [p]."""

    @property
    @abc.abstractmethod
    def variance(self) -> Float[np.ndarray, " m"]:
        """Posterior variance d' A d of what each label would tell of."""

    @property
    @abc.abstractmethod
    def information(self) -> Float[np.ndarray, " m"]:
        """Information of one label at the posterior mean."""

    @property
    @abc.abstractmethod
    def expected_information(self) -> Float[np.ndarray, " m"]:
        """Information of one label averaged over the posterior."""

    @property
    @abc.abstractmethod
    def covariance(self) -> Float[np.ndarray, "p p"]:
        """Posterior covariance A of the parameters."""

    @property
    @abc.abstractmethod
    def target_root(self) -> Float[np.ndarray, "p k"]:
        """R with R R' = S, the second moment of the rows that matter."""

    @abc.abstractmethod
    def toward(self, direction: np.ndarray) -> Float[np.ndarray, " p"]:
        """Product S . direction."""

    @abc.abstractmethod
    def levels(self, direction: np.ndarray) -> np.ndarray:
        """What `along` needs of a direction: its products with what the candidates are made of."""

    @abc.abstractmethod
    def along(self, levels: np.ndarray, part: slice | np.ndarray = slice(None)) -> Float[np.ndarray, " b"]:
        """Product d . direction for the candidates of a part, or at places, from the levels of it: a new array."""

    @abc.abstractmethod
    def row(self, index: int) -> Float[np.ndarray, " p"]:
        """The row d of one candidate."""

    @abc.abstractmethod
    def squared_norms(self, root: np.ndarray) -> Float[np.ndarray, " m"]:
        """Squared norm |root' d|^2 of every candidate, root [p, k]."""
