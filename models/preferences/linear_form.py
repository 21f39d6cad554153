"""Log posteriors of models linear in their parameters: a design matrix, a link, soft outcomes and a Gaussian prior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from tercet.models._operators import Operator
from tercet.models.preferences.answers import Answers, Curvatures

EVALUATED = 4_000_000
"""Log probabilities that are evaluated at once."""


def merge_repeats(
    first: Int[np.ndarray, " m"],
    second: Int[np.ndarray, " m"],
    *,
    outcome: Float[np.ndarray, " m"],
    weight: Float[np.ndarray, " m"],
    n_items: int,
    ordered: bool,
    levels: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same likelihood with each pair once: first, second, outcome, weight, in the order of the pairs.

    Under a link log likelihoods are linear in the outcome and symmetric, so that repeats of a pair, either way round,
    are one comparison with their total weight and average outcome. Two million games among 300 items become 44,850
    rows; where nothing repeats, sorted rows still make every later pass faster. Among K answers each pair has a row
    for each answer that was given.

    Parameters
    ----------
    first, second, outcome, weight : of the comparisons
    n_items : number of items
    ordered : whether being shown first matters, so that a pair is another pair the other way round
    levels : number K of answers; None under a link
    """
    if not ordered:
        flip = first > second
        first, second = np.where(flip, second, first), np.where(flip, first, second)
        outcome = np.where(flip, 1.0 - outcome, outcome)
    kinds = 1 if levels is None else levels
    code = (first * n_items + second) * kinds
    if levels is not None:
        code += np.rint(outcome * (levels - 1)).astype(np.int64)
    if (cells := n_items**2 * kinds) <= len(first):
        table, wins = np.bincount(code, weight, cells), np.bincount(code, weight * outcome, cells)
        code = np.flatnonzero(table)
        total, won = table[code], wins[code]
    else:
        by_pair = np.argsort(code)
        code, weight, outcome = code[by_pair], weight[by_pair], outcome[by_pair]
        starts = np.flatnonzero(np.diff(code, prepend=-1))
        code, total, won = code[starts], np.add.reduceat(weight, starts), np.add.reduceat(weight * outcome, starts)
    pair = code // kinds
    return pair // n_items, pair % n_items, np.clip(won / total, 0.0, 1.0), total


@dataclass(frozen=True, kw_only=True)
class LinearForm:
    """A log posterior sum_m w_m log p(y_m | eta_m, a) - theta' P theta / 2, theta = (beta, log a), eta = D beta.

    Parameters
    ----------
    rows : Operator, D [m, p]
    answers : log probability of the answers, given their logits and the k auxiliary parameters a
    outcome, weight : array [m]
    prior_precision : array [p + k], the diagonal of P (zeros: flat)
    gauge : int
        Where positive, the mean of the first `gauge` parameters has a unit Normal prior, which holds it at zero.
    layout : names and lengths (0: scalar) of the sites that make up theta, in order, the auxiliary ones last
    """

    rows: Operator
    answers: Answers
    outcome: Float[np.ndarray, " m"]
    weight: Float[np.ndarray, " m"]
    prior_precision: Float[np.ndarray, " q"]
    gauge: int
    layout: tuple[tuple[str, int], ...]

    def with_prior_precision(self, precision: Float[np.ndarray, " q"]) -> LinearForm:
        """The same likelihood under another Gaussian prior."""
        return replace(self, prior_precision=precision)

    @property
    def size(self) -> int:
        """Number of comparisons m, repeats merged."""
        return len(self.outcome)

    @property
    def coefficients(self) -> int:
        """Number p of coefficients beta: the first parameters of theta."""
        return self.rows.shape[1]

    def subsample(self, step: int) -> LinearForm:
        """Every step-th comparison, counted `step` times: an approximation of this form at a fraction of its cost."""
        rows, outcome, weight = self.rows.subsample(step), self.outcome[::step], self.weight[::step] * step
        return replace(self, rows=rows, outcome=outcome, weight=weight)

    def predictor(self, theta: Float[np.ndarray, " q"]) -> Float[np.ndarray, " m"]:
        """The linear predictor eta = D beta."""
        return self.rows.matvec(theta[: self.coefficients])

    def value_and_gradient(
        self, theta: Float[np.ndarray, " q"]
    ) -> tuple[float, Float[np.ndarray, " q"], Float[np.ndarray, " m"]]:
        """Log posterior (up to a constant), its gradient, and eta."""
        parts: list[tuple[float, np.ndarray]] = []
        beta, log_auxiliary = theta[: self.coefficients], theta[self.coefficients :]
        eta, of_beta = self.rows.matvec_rmatvec(beta, partial(self._scores, log_auxiliary, parts))
        values, of_auxiliary = zip(*parts, strict=True)
        value = sum(values)
        gradient = np.append(of_beta, sum(of_auxiliary)) - self.prior_precision * theta
        value -= 0.5 * self.prior_precision @ np.square(theta)
        if self.gauge:
            mean = theta[: self.gauge].mean()
            value -= 0.5 * mean**2
            gradient[: self.gauge] -= mean / self.gauge
        return float(value), gradient, eta

    def _scores(
        self, log_auxiliary: np.ndarray, parts: list[tuple[float, np.ndarray]], eta: np.ndarray, part: slice
    ) -> np.ndarray:
        """Weighted scores of some rows; log likelihood and auxiliary scores of these rows are added to `parts`."""
        weight = self.weight[part]
        value, score, auxiliary = self.answers.scores(eta, log_auxiliary, self.outcome[part])
        parts.append((float(weight @ value), weight @ auxiliary))
        return np.asarray(weight * score)

    def precision(
        self, theta: Float[np.ndarray, " q"], eta: Float[np.ndarray, " m"], single: bool = False
    ) -> Float[np.ndarray, "q q"]:
        """Minus the Hessian of the log posterior at theta, eta = D beta; `single`: to 32-bit accuracy."""
        return self._precision(self.answers.curvatures(eta, theta[self.coefficients :], self.outcome), single)

    def expected_precision(
        self, theta: Float[np.ndarray, " q"], eta: Float[np.ndarray, " m"]
    ) -> Float[np.ndarray, "q q"]:
        """The Fisher information of the answers at theta plus the prior precision: positive definite with a prior."""
        return self._precision(self.answers.information(eta, theta[self.coefficients :]))

    def _precision(self, curvatures: Curvatures, single: bool = False) -> Float[np.ndarray, "q q"]:
        own, mixed, auxiliary = curvatures
        hessian = self.rows.gram(self.weight * own, single)
        if mixed.shape[1]:
            edge = np.column_stack([self.rows.rmatvec(self.weight * column) for column in mixed.T])
            corner = np.tensordot(self.weight, auxiliary, 1)
            hessian = np.block([[hessian, edge], [edge.T, corner]])
        hessian[np.diag_indices_from(hessian)] += self.prior_precision
        if self.gauge:
            hessian[: self.gauge, : self.gauge] += 1.0 / self.gauge**2
        return hessian

    def log_prior_normaliser(self) -> float:
        """Log of the prior's normalising constant (flat directions and the gauge count nothing)."""
        proper = self.prior_precision[self.prior_precision > 0]
        return float(0.5 * np.sum(np.log(proper / (2.0 * np.pi))))

    def log_densities(self, thetas: Float[np.ndarray, "n q"]) -> Float[np.ndarray, " n"]:
        """Log joint density of parameters and answers at each theta, normalised as the prior is."""
        step = max(1, EVALUATED // max(1, self.size))
        values = [self._log_densities(thetas[start : start + step]) for start in range(0, len(thetas), step)]
        return np.concatenate([np.empty(0), *values]) + self.log_prior_normaliser()

    def _log_densities(self, thetas: Float[np.ndarray, "n q"]) -> Float[np.ndarray, " n"]:
        etas = self.rows.matmat(np.ascontiguousarray(thetas[:, : self.coefficients].T)).T
        values = -0.5 * np.square(thetas) @ self.prior_precision
        for k, (eta, theta) in enumerate(zip(etas, thetas, strict=True)):
            values[k] += self.weight @ self.answers.log_probability(eta, theta[self.coefficients :], self.outcome)
        if self.gauge:
            values -= 0.5 * np.square(thetas[:, : self.gauge].mean(axis=1))
        return np.asarray(values)
