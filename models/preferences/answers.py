"""Log probabilities of answers as functions of the logit and of auxiliary parameters, such as the strength of ties.

With a link there are none; models of several answers have one (`Davidson`) or a few (`Graded`).
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from tercet.models.preferences.links import Link


class Auxiliary(NamedTuple):
    """A site of the distribution of an answer: positive, LogNormal(0, 1) a priori in every entry.

    Attributes
    ----------
    site : its name
    length : number of entries; 0 for a scalar
    """

    site: str
    length: int

    @property
    def size(self) -> int:
        """Number of parameters."""
        return max(self.length, 1)


class Derivatives(NamedTuple):
    """Log probability of each answer and its derivatives in (r, log a): the logit and k auxiliary parameters.

    Attributes
    ----------
    value : array [m]
    first : array [m, 1 + k]
    second : array [m, 1 + k, 1 + k]
    """

    value: Float[np.ndarray, " m"]
    first: Float[np.ndarray, "m q"]
    second: Float[np.ndarray, "m q q"]


class Scores(NamedTuple):
    """Log probability of each answer [m], its derivative in the logit [m] and in log a [m, k]."""

    value: np.ndarray
    logit: np.ndarray
    auxiliary: np.ndarray


class Curvatures(NamedTuple):
    """Minus the second derivatives of each log probability: in the logit [m], mixed [m, k], in log a [m, k, k]."""

    logit: np.ndarray
    mixed: np.ndarray
    auxiliary: np.ndarray


@runtime_checkable
class Answers(Protocol):
    """Log probabilities of answers given their logits eta [m] and the logarithms of k auxiliary parameters."""

    @property
    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """The sites of the k auxiliary parameters, in order."""
        ...

    @property
    def levels(self) -> int | None:
        """Number K of answers 0, 1 / (K - 1), ..., 1; None where outcomes are fractions of two answers."""
        ...

    def scores(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Scores:
        """Log probabilities of these outcomes and their first derivatives."""
        ...

    def curvatures(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Curvatures:
        """Minus their second derivatives."""
        ...

    def information(self, eta: np.ndarray, log_auxiliary: np.ndarray) -> Curvatures:
        """The Fisher information of one answer: the expectation of these curvatures."""
        ...


@dataclass(frozen=True)
class LinkAnswers:
    """Answers in [0, 1] under a link, y log F(eta) + (1 - y) log F(-eta): no auxiliary parameters.

    Parameters
    ----------
    link : Link F
    """

    link: Link
    auxiliaries: ClassVar[tuple[Auxiliary, ...]] = ()
    levels: ClassVar[int | None] = None

    def scores(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Scores:
        return Scores(*self.link.likelihood_and_score(eta, outcome), np.empty((len(eta), 0)))

    def curvatures(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Curvatures:
        return _of_logit(self.link.curvature(eta, outcome))

    def information(self, eta: np.ndarray, log_auxiliary: np.ndarray) -> Curvatures:
        return _of_logit(self.link.information(eta))


def _of_logit(curvature: np.ndarray) -> Curvatures:
    return Curvatures(curvature, np.empty((len(curvature), 0)), np.empty((len(curvature), 0, 0)))


class CategoricalAnswers(abc.ABC):
    """One of K answers, 0, 1 / (K - 1), ..., 1, whose probabilities depend on auxiliary parameters.

    A subclass says its auxiliary parameters, K and `log_probabilities`; the rest follows.

    Attributes
    ----------
    levels : number K of answers
    """

    levels: int

    @property
    @abc.abstractmethod
    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """The sites of the k auxiliary parameters, in order."""

    @abc.abstractmethod
    def log_probabilities(self, eta: np.ndarray, log_auxiliary: np.ndarray, answer: np.ndarray) -> Derivatives:
        """Log probability of the answers [m], numbered 0, ..., K - 1, and its derivatives."""

    def scores(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Scores:
        value, first, _ = self.log_probabilities(eta, log_auxiliary, self._numbered(outcome))
        return Scores(value, first[:, 0], first[:, 1:])

    def curvatures(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Curvatures:
        return _split(-self.log_probabilities(eta, log_auxiliary, self._numbered(outcome)).second)

    def information(self, eta: np.ndarray, log_auxiliary: np.ndarray) -> Curvatures:
        size = 1 + len(log_auxiliary)
        total = np.zeros((len(eta), size, size))
        for answer in range(self.levels):
            value, first, _ = self.log_probabilities(eta, log_auxiliary, np.full(len(eta), answer))
            total += np.exp(value)[:, None, None] * first[:, :, None] * first[:, None, :]
        return _split(total)

    def _numbered(self, outcome: np.ndarray) -> Int[np.ndarray, " m"]:
        return np.rint(outcome * (self.levels - 1)).astype(np.int64)


def _split(matrices: Float[np.ndarray, "m q q"]) -> Curvatures:
    return Curvatures(matrices[:, 0, 0], matrices[:, 0, 1:], matrices[:, 1:, 1:])


@dataclass(frozen=True)
class DavidsonAnswers(CategoricalAnswers):
    """Logits (-r / 2, t, r / 2) of second, tie, first, with t = log nu.

    Parameters
    ----------
    levels : 3
    """

    levels: int = 3

    @property
    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        return (Auxiliary("tie_strength", 0),)

    def log_probabilities(self, eta: np.ndarray, log_auxiliary: np.ndarray, answer: np.ndarray) -> Derivatives:
        slopes = np.array([[-0.5, 0.0], [0.0, 1.0], [0.5, 0.0]])  # of the three logits, in (r, t)
        logits = np.stack([-0.5 * eta, np.broadcast_to(log_auxiliary[0], eta.shape), 0.5 * eta], axis=1)
        logits -= scipy.special.logsumexp(logits, axis=1, keepdims=True)
        p = np.exp(logits)
        mean = p @ slopes
        rows = np.arange(len(eta))
        second = mean[:, :, None] * mean[:, None, :] - np.einsum("mk,ki,kj->mij", p, slopes, slopes)
        return Derivatives(logits[rows, answer], slopes[answer] - mean, second)


@dataclass(frozen=True)
class GradedAnswers(CategoricalAnswers):
    """P(Y >= k) = 1 / (1 + exp(c_k - r)), with symmetric cuts: sums of gaps from 0 outwards.

    Parameters
    ----------
    levels : K
    """

    levels: int

    @property
    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        return (Auxiliary("cut_gaps", self.levels // 2 - (self.levels % 2 == 0)),)

    @property
    def from_gaps(self) -> Float[np.ndarray, "c k"]:
        """The matrix that turns the gaps into the K - 1 cuts."""
        count = self.auxiliaries[0].length
        sums = np.tril(np.ones((count, count)))
        middle = np.zeros((int(self.levels % 2 == 0), count))
        return np.concatenate([-sums[::-1], middle, sums])

    def log_probabilities(self, eta: np.ndarray, log_auxiliary: np.ndarray, answer: np.ndarray) -> Derivatives:
        # With u = r - c_y and v = r - c_(y + 1): log(F(u) - F(v)) = log F(u) + log F(-v) + log(1 - exp(v - u)).
        jacobian = self.from_gaps * np.exp(log_auxiliary)  # of the cuts in the logarithms of the gaps
        k = len(log_auxiliary)
        cuts = np.concatenate([[-np.inf], jacobian.sum(axis=1), [np.inf]])
        slopes = np.concatenate([np.zeros((1, k)), jacobian, np.zeros((1, k))])
        u, v, gap = eta - cuts[answer], eta - cuts[answer + 1], cuts[answer + 1] - cuts[answer]
        up, down = scipy.special.expit(-u), scipy.special.expit(v)
        between = 1.0 / np.expm1(gap)  # the derivative of log(1 - exp(-gap)), 0 at either end of the scale
        bend = -between * (1.0 + between)
        du, dv = (np.column_stack([np.ones(len(eta)), -slopes[answer + end]]) for end in (0, 1))
        of_u, of_v = up + between, -down - between
        first = of_u[:, None] * du + of_v[:, None] * dv
        across = du - dv
        second = -(
            _outer((up * (1.0 - up))[:, None] * du, du)
            + _outer((down * (1.0 - down))[:, None] * dv, dv)
            - _outer(bend[:, None] * across, across)
        )
        diagonal = np.arange(1, k + 1)
        second[:, diagonal, diagonal] -= of_u[:, None] * slopes[answer] + of_v[:, None] * slopes[answer + 1]
        value = -np.logaddexp(0.0, -u) - np.logaddexp(0.0, v) + np.log(-np.expm1(-gap))
        return Derivatives(value, first, second)


def _outer(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left[:, :, None] * right[:, None, :]
