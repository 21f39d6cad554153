"""What an objective says of itself so that candidates too many to list can be scored in tiles."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Float

P = TypeVar("P")
S = TypeVar("S")
Reads = Literal["expected information", "information at the mean", "mean", "nothing"]
"""What a ranking reads of a candidate beside squared norms: the information v of a label, averaged over the posterior
or at its mean; the posterior mean of what the label measures; or nothing."""


class TiledPool(abc.ABC):
    """Candidates that are differences of items and too many to list, under a Gaussian posterior."""

    @property
    @abc.abstractmethod
    def sample(self) -> Any:
        """A pool of some of the candidates that knows all items."""

    @property
    @abc.abstractmethod
    def covariance(self) -> Float[np.ndarray, "p p"]:
        """Posterior covariance A of the parameters."""

    @property
    @abc.abstractmethod
    def root(self) -> Float[np.ndarray, "p k"]:
        """R with R R' = A."""

    @property
    @abc.abstractmethod
    def target_root(self) -> Float[np.ndarray, "p k"]:
        """R with R R' = S, the second moment of the rows that matter."""

    @staticmethod
    @abc.abstractmethod
    def most_information(variance: float) -> float:
        """The most expected information of a label about something of at least this posterior variance."""

    @abc.abstractmethod
    def gram(self, reads: Reads) -> Float[np.ndarray, "p p"] | None:
        """Sum over all candidates of v d d' (d d' if "nothing" is read); None where they would have to be listed."""

    @abc.abstractmethod
    def ranking(
        self,
        score: Callable[..., Any],
        roots: Mapping[str, np.ndarray],
        ceiling: Callable[[float], float] | None,
        reads: Reads = "expected information",
    ) -> Any:
        """A score of every candidate d, to rank them by: score(v, |R_1' d|^2, |R_2' d|^2, ...), in 32 bit.

        Parameters
        ----------
        score : elementwise function of arrays, at the top level of a module: it is compiled once, and sent to workers
        roots : matrices R [p, k] by name
        ceiling : no score exceeds ceiling(|R' d|^2) for the last of the roots; grows. It is sent to workers too, and
            must not hold on to this pool. None: not known
        reads : what the first argument of `score` is; with "nothing" there is no such argument
        """


@dataclass(frozen=True)
class Tile(Generic[P, S]):
    """How an objective scores candidates that are never listed.

    Attributes
    ----------
    ranking : after the picks of a state (None: none yet), the `TiledPool.ranking` of all candidates
    state : of a pool of a few of the candidates, the state after the same picks, whose scores are exact
    gain : no candidate with a ranking score of at most x gains more than gain(x)
    """

    ranking: Callable[[S | None], Any]
    state: Callable[[P, S | None], S]
    gain: Callable[[float], float] = float
