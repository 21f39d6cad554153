"""Logistic and probit links of a comparison: probabilities, scores, curvatures and Fisher information.

NumPy, vectorised, stable in both tails; r = reward difference (logit or probit) of first against second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import expit, log_expit, log_ndtr, ndtr


class Link(Protocol):
    """A symmetric link F: P(first preferred | r) = F(r), with F(-r) = 1 - F(r)."""

    def probability(self, r: np.ndarray) -> np.ndarray:
        """F(r)."""
        ...

    def log_likelihood(self, r: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        """Outcome log F(r) + (1 - outcome) log F(-r)."""
        ...

    def score(self, r: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        """First derivative of the log likelihood in r."""
        ...

    def curvature(self, r: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        """Minus the second derivative of the log likelihood in r (positive: the links are log-concave)."""
        ...

    def information(self, r: np.ndarray) -> np.ndarray:
        """Fisher information of one answer about r: the expected curvature."""
        ...

    def integrate(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """E F(r) for r ~ Normal(mean, variance)."""
        ...


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Logistic:
    """F(r) = 1 / (1 + exp(-r)): Bradley-Terry."""

    def probability(self, r: np.ndarray) -> np.ndarray:
        return expit(r)

    def log_likelihood(self, r: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        return log_expit(r) - (1.0 - outcome) * r

    def score(self, r: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        return outcome - expit(r)

    def curvature(self, r: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        return self.information(r)

    def information(self, r: np.ndarray) -> np.ndarray:
        p = expit(-np.abs(r))
        return p * (1.0 - p)

    def integrate(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return gauss_hermite(self.probability, mean, variance)


@dataclass(frozen=True)
class Probit:
    """F(r) = Phi(r): Thurstone's case V with unit noise on the difference."""

    def probability(self, r: np.ndarray) -> np.ndarray:
        return ndtr(r)

    def log_likelihood(self, r: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        return outcome * log_ndtr(r) + (1.0 - outcome) * log_ndtr(-r)

    def score(self, r: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        return outcome * inverse_mills(r) - (1.0 - outcome) * inverse_mills(-r)

    def curvature(self, r: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        up, down = inverse_mills(r), inverse_mills(-r)
        return outcome * up * (up + r) + (1.0 - outcome) * down * (down - r)

    def information(self, r: np.ndarray) -> np.ndarray:
        return inverse_mills(r) * inverse_mills(-r)  # phi^2 / (Phi (1 - Phi))

    def integrate(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return ndtr(mean / np.sqrt(1.0 + variance))


def inverse_mills(r: np.ndarray) -> np.ndarray:
    """phi(r) / Phi(r), finite in both tails."""
    return np.exp(-0.5 * np.square(r) - 0.5 * np.log(2.0 * np.pi) - log_ndtr(r))


def gauss_hermite(function, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """E f(r) for r ~ Normal(mean, variance), by 32 nodes (error below 5e-5 for sd up to 5 with logistic f)."""
    mean, sd = np.asarray(mean, dtype=np.float64), np.sqrt(np.asarray(variance, dtype=np.float64))
    total = np.zeros(np.broadcast(mean, sd).shape)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):  # no [m, 32] temporary
        total += weight * function(mean + sd * node)
    return total
