"""Log posteriors of models linear in their parameters: a design matrix, a link, soft outcomes and a Gaussian prior."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from tercet.models._operators import Operator
from tercet.models.preferences.links import Link


def merge_repeats(
    first: Int[np.ndarray, " m"],
    second: Int[np.ndarray, " m"],
    *,
    outcome: Float[np.ndarray, " m"],
    weight: Float[np.ndarray, " m"],
    n_items: int,
    ordered: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same likelihood with each pair once: first, second, outcome, weight, in the order of the pairs.

    Log likelihoods are linear in the outcome and symmetric, so that repeats of a pair, either way round, are one
    comparison with their total weight and average outcome. Two million games among 300 items become 44,850 rows; where
    nothing repeats, sorted rows still make every later pass faster.

    Parameters
    ----------
    first, second, outcome, weight : of the comparisons
    n_items : number of items
    ordered : whether being shown first matters, so that a pair is another pair the other way round
    """
    if not ordered:
        flip = first > second
        first, second = np.where(flip, second, first), np.where(flip, first, second)
        outcome = np.where(flip, 1.0 - outcome, outcome)
    code = first * n_items + second
    if n_items**2 <= len(first):
        table = np.bincount(code, weight, n_items**2)
        code = np.flatnonzero(table)
        total, won = table[code], np.bincount(first * n_items + second, weight * outcome, n_items**2)[code]
    else:
        by_pair = np.argsort(code)
        code, weight, outcome = code[by_pair], weight[by_pair], outcome[by_pair]
        starts = np.flatnonzero(np.diff(code, prepend=-1))
        code, total, won = code[starts], np.add.reduceat(weight, starts), np.add.reduceat(weight * outcome, starts)
    return code // n_items, code % n_items, np.clip(won / total, 0.0, 1.0), total


@dataclass(frozen=True, kw_only=True)
class LinearForm:
    """A log posterior sum_m w_m log p(y_m | eta_m) - theta' P theta / 2, eta = D theta.

    Parameters
    ----------
    rows : Operator, D [m, p]
    link : Link
    outcome, weight : array [m]
    prior_precision : array [p], the diagonal of P (zeros: flat)
    gauge : int
        Where positive, the mean of the first `gauge` parameters has a unit Normal prior, which holds it at zero.
    layout : names and lengths (0: scalar) of the sites that make up theta, in order
    """

    rows: Operator
    link: Link
    outcome: Float[np.ndarray, " m"]
    weight: Float[np.ndarray, " m"]
    prior_precision: Float[np.ndarray, " p"]
    gauge: int
    layout: tuple[tuple[str, int], ...]

    def with_prior_precision(self, precision: Float[np.ndarray, " p"]) -> LinearForm:
        """The same likelihood under another Gaussian prior."""
        return replace(self, prior_precision=precision)

    @property
    def size(self) -> int:
        """Number of comparisons m, repeats merged."""
        return len(self.outcome)

    def subsample(self, step: int) -> LinearForm:
        """Every step-th comparison, counted `step` times: an approximation of this form at a fraction of its cost."""
        rows, outcome, weight = self.rows.subsample(step), self.outcome[::step], self.weight[::step] * step
        return replace(self, rows=rows, outcome=outcome, weight=weight)

    def predictor(self, theta: Float[np.ndarray, " p"]) -> Float[np.ndarray, " m"]:
        """The linear predictor eta = D theta."""
        return self.rows.matvec(theta)

    def value_and_gradient(
        self, theta: Float[np.ndarray, " p"]
    ) -> tuple[float, Float[np.ndarray, " p"], Float[np.ndarray, " m"]]:
        """Log posterior (up to a constant), its gradient, and eta."""
        eta, gradient = self.rows.matvec_rmatvec(
            theta, lambda eta, part: self.weight[part] * self.link.score(eta, self.outcome[part])
        )
        value = self.weight @ self.link.log_likelihood(eta, self.outcome)
        value -= 0.5 * self.prior_precision @ np.square(theta)
        gradient = gradient - self.prior_precision * theta
        if self.gauge:
            mean = theta[: self.gauge].mean()
            value -= 0.5 * mean**2
            gradient[: self.gauge] -= mean / self.gauge
        return float(value), gradient, eta

    def precision(self, eta: Float[np.ndarray, " m"], single: bool = False) -> Float[np.ndarray, "p p"]:
        """Minus the Hessian of the log posterior at eta = D theta; `single`: to 32-bit accuracy."""
        hessian = self.rows.gram(self.weight * self.link.curvature(eta, self.outcome), single)
        hessian[np.diag_indices_from(hessian)] += self.prior_precision
        if self.gauge:
            hessian[: self.gauge, : self.gauge] += 1.0 / self.gauge**2
        return hessian

    def log_prior_normaliser(self) -> float:
        """Log of the prior's normalising constant (flat directions and the gauge count nothing)."""
        proper = self.prior_precision[self.prior_precision > 0]
        return float(0.5 * np.sum(np.log(proper / (2.0 * np.pi))))
