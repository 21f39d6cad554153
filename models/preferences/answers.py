"""Log probabilities of answers as functions of the logit and of auxiliary parameters, such as the strength of ties.

With a link there are none; models of several answers have one (`Davidson`) or a few (`Graded`).
"""

from __future__ import annotations

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

    def log_probability(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        """Log probabilities [m] of these outcomes."""
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

    def log_probability(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        return self.link.log_likelihood(eta, outcome)

    def scores(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Scores:
        return Scores(*self.link.likelihood_and_score(eta, outcome), np.empty((len(eta), 0)))

    def curvatures(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Curvatures:
        return _of_logit(self.link.curvature(eta, outcome))

    def information(self, eta: np.ndarray, log_auxiliary: np.ndarray) -> Curvatures:
        return _of_logit(self.link.information(eta))


def _of_logit(curvature: np.ndarray) -> Curvatures:
    return Curvatures(curvature, np.empty((len(curvature), 0)), np.empty((len(curvature), 0, 0)))


@dataclass(frozen=True)
class DavidsonAnswers:
    """Logits (-r / 2, t, r / 2) of second, tie, first, with t = log nu.

    Parameters
    ----------
    levels : 3
    """

    levels: int = 3

    @property
    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        return (Auxiliary("tie_strength", 0),)

    def log_probability(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        distance = np.abs(eta)
        odds = np.exp(-0.5 * distance)
        rest = odds * (odds + np.exp(log_auxiliary[0]))
        value = (outcome - 0.5) * eta - 0.5 * distance - np.log1p(rest)
        return np.asarray(value + np.where(outcome == 0.5, log_auxiliary[0], 0.0))

    def scores(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Scores:
        _, tie, mean = self._probabilities(eta, log_auxiliary)
        value = self.log_probability(eta, log_auxiliary, outcome)
        return Scores(value, outcome - 0.5 - mean, ((outcome == 0.5) - tie)[:, None])

    def curvatures(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Curvatures:
        return self.information(eta, log_auxiliary)  # of an exponential family: the same for every outcome

    def information(self, eta: np.ndarray, log_auxiliary: np.ndarray) -> Curvatures:
        decided, tie, mean = self._probabilities(eta, log_auxiliary)
        own = 0.25 * decided - np.square(mean)
        return Curvatures(own, (-mean * tie)[:, None], (tie * (1.0 - tie))[:, None, None])

    def _probabilities(self, eta: np.ndarray, log_auxiliary: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """P(decided), P(tie), and half of P(first) - P(second)."""
        odds = np.exp(-0.5 * np.abs(eta))
        square, tie = np.square(odds), odds * np.exp(log_auxiliary[0])
        total = 1.0 + square + tie
        return (1.0 + square) / total, tie / total, 0.5 * np.sign(eta) * (1.0 - square) / total


@dataclass(frozen=True)
class GradedAnswers:
    """P(Y >= k) = 1 / (1 + exp(c_k - r)), with symmetric cuts: sums of gaps from 0 outwards.

    With u = r - c_y and v = r - c_(y + 1), log(F(u) - F(v)) = log F(u) + log F(-v) + log(1 - exp(v - u)).

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

    def log_probability(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        cuts, answer = self._cuts(log_auxiliary), self._numbered(outcome)
        u, v = eta - cuts[answer], eta - cuts[answer + 1]
        between = np.log(-np.expm1(-np.diff(cuts)))
        return np.asarray(between[answer] - np.logaddexp(0.0, -u) - np.logaddexp(0.0, v))

    def scores(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Scores:
        answer, slopes = self._numbered(outcome), self._slopes(log_auxiliary)
        of_u, of_v, _, _ = self._derivatives(eta, log_auxiliary, answer)
        auxiliary = -of_u[:, None] * slopes[answer] - of_v[:, None] * slopes[answer + 1]
        return Scores(self.log_probability(eta, log_auxiliary, outcome), of_u + of_v, auxiliary)

    def curvatures(self, eta: np.ndarray, log_auxiliary: np.ndarray, outcome: np.ndarray) -> Curvatures:
        answer, slopes = self._numbered(outcome), self._slopes(log_auxiliary)
        of_u, of_v, up, down = self._derivatives(eta, log_auxiliary, answer)
        at_u, at_v = slopes[answer], slopes[answer + 1]
        gap = np.diff(self._cuts(log_auxiliary))[answer]
        bend = 1.0 / np.expm1(gap) / -np.expm1(-gap)  # minus the second derivative of log(1 - exp(-gap))
        square = up[:, None, None] * _outer(at_u, at_u) + down[:, None, None] * _outer(at_v, at_v)
        square += bend[:, None, None] * _outer(at_v - at_u, at_v - at_u)
        diagonal = np.arange(len(log_auxiliary))
        square[:, diagonal, diagonal] += of_u[:, None] * at_u + of_v[:, None] * at_v
        return Curvatures(up + down, -up[:, None] * at_u - down[:, None] * at_v, square)

    def information(self, eta: np.ndarray, log_auxiliary: np.ndarray) -> Curvatures:
        own, mixed, square = np.zeros(len(eta)), 0.0, 0.0
        for outcome in np.linspace(0.0, 1.0, self.levels):
            value, logit, auxiliary = self.scores(eta, log_auxiliary, np.full(len(eta), outcome))
            p = np.exp(value)
            own += p * np.square(logit)
            mixed = mixed + (p * logit)[:, None] * auxiliary
            square = square + p[:, None, None] * _outer(auxiliary, auxiliary)
        return Curvatures(own, np.asarray(mixed), np.asarray(square))

    def _derivatives(
        self, eta: np.ndarray, log_auxiliary: np.ndarray, answer: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Derivatives of the log probability in u and in v, and the curvatures F'(u), F'(v) of its first two terms."""
        cuts = self._cuts(log_auxiliary)
        up, down = scipy.special.expit(cuts[answer] - eta), scipy.special.expit(eta - cuts[answer + 1])
        between = (1.0 / np.expm1(np.diff(cuts)))[answer]  # 0 at either end of the scale
        return up + between, -down - between, up * (1.0 - up), down * (1.0 - down)

    def _cuts(self, log_auxiliary: np.ndarray) -> Float[np.ndarray, " c"]:
        """The cuts between infinite ends."""
        return np.concatenate([[-np.inf], self.from_gaps @ np.exp(log_auxiliary), [np.inf]])

    def _slopes(self, log_auxiliary: np.ndarray) -> Float[np.ndarray, "c k"]:
        """Derivatives of the cuts in the logarithms of the gaps, zero at either end."""
        return np.pad(self.from_gaps * np.exp(log_auxiliary), ((1, 1), (0, 0)))

    def _numbered(self, outcome: np.ndarray) -> Int[np.ndarray, " m"]:
        return np.asarray(np.rint(outcome * (self.levels - 1)), np.int64)


def _outer(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.asarray(left[:, :, None] * right[:, None, :])
