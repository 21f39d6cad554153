"""The coupling of two snapshots that a static Schroedinger bridge gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tercet.inference.trajectories.bridge_problem import MOST_ENTRIES, Parameters
from tercet.models._inputs import KeyLike, as_generator
from tercet.models.trajectories.reference_sdes import ReferenceSDE


@dataclass(frozen=True)
class Bridge:
    """Coupling of two snapshots, P_ij = a_i b_j exp(f_i + g_j) p_theta(y_j | x_i).

    Attributes
    ----------
    sde, theta : the reference and its parameters
    source, target : arrays [n, d], [m, d] at times `start`, `stop`
    source_weights, target_weights : arrays a [n], b [m], each of sum 1
    f, g : arrays [n], [m], the Schroedinger potentials
    objective : sum_ij P_ij log(P_ij / (a_i b_j p_theta(y_j | x_i))) in nats: <P, C> + KL(P | a b'), C the cost
    error : L1 error of the column sums; rows are exact
    iterations : of Sinkhorn, annealing included
    converged : whether `error` is below the tolerance
    factors : arrays L [n, p], R [m, p] with log p_theta(y_j | x_i) = (L R')_ij
    """

    sde: ReferenceSDE
    theta: Parameters
    source: np.ndarray
    target: np.ndarray
    start: float
    stop: float
    source_weights: np.ndarray
    target_weights: np.ndarray
    f: np.ndarray
    g: np.ndarray
    objective: float
    error: float
    iterations: int
    converged: bool
    factors: tuple[np.ndarray, np.ndarray]

    @property
    def coupling(self) -> Float[np.ndarray, "n m"]:
        """P [n, m]; an error where it would have more than 30 million entries."""
        n, m = len(self.source), len(self.target)
        if n * m > MOST_ENTRIES:
            raise ValueError(
                f"the coupling of {n} x {m} particles is too large to hold; draw pairs by .targets(rows, key), or use "
                "snapshots.subsample(...)."
            )
        coupling: np.ndarray = self.source_weights[:, None] * self._target_probabilities(np.arange(n))
        return coupling

    def targets(self, rows: ArrayLike, key: KeyLike = 0) -> np.ndarray:
        """Draw for each of these sources the index of its target, from P(j | i)."""
        return _draw(self._target_probabilities, np.asarray(rows), as_generator(key))

    def sources(self, columns: ArrayLike, key: KeyLike = 0) -> np.ndarray:
        """Draw for each of these targets the index of its source, from P(i | j)."""
        return _draw(self._source_probabilities, np.asarray(columns), as_generator(key))

    def _target_probabilities(self, index: np.ndarray) -> np.ndarray:
        logs = self.factors[0][index] @ self.factors[1].T + self.g + self.f[index, None]
        probabilities: np.ndarray = np.exp(logs) * self.target_weights
        return probabilities

    def _source_probabilities(self, index: np.ndarray) -> np.ndarray:
        logs = self.factors[1][index] @ self.factors[0].T + self.f + self.g[index, None]
        probabilities: np.ndarray = np.exp(logs) * self.source_weights
        return probabilities


def _draw(probabilities: Callable[[np.ndarray], np.ndarray], index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One draw from each row of `probabilities(index)`, in chunks."""
    draws = []
    for begin in range(0, len(index), 1000):
        total = np.cumsum(probabilities(index[begin : begin + 1000]), axis=1)
        level = rng.random((len(total), 1)) * total[:, -1:]
        draws.append((total <= level).sum(axis=1))
    return np.concatenate(draws)
