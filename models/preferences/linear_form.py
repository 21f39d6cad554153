"""Models linear in their parameters: eta = D theta with rows d = x_first - x_second, never more than the data.

Two ways to hold D, chosen by size. Where pairs outnumber items, everything goes through the items:
D theta = (X theta)[first] - (X theta)[second] and D' V D = X' L X with L the weighted graph Laplacian of the
comparisons, so that a million games among 50,000 items cost what 50,000 rows cost. Otherwise D is the smaller
matrix and is formed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from tercet.models.items.embeddings import Embeddings
from tercet.models.preferences.links import Link
from tercet.models.preferences.streamed_rows import StreamedRows

BLOCK = 4096  # rows of D a Hessian update scales at once: keeps temporaries small


Values = Callable[[np.ndarray, slice], np.ndarray]
"""From eta of some comparisons, and which they are, to one number each."""


@runtime_checkable
class Rows(Protocol):
    """The linear operator D [m, p]."""

    def predict(self, theta: np.ndarray) -> np.ndarray:
        """D theta [m]."""
        ...

    def pull(self, values: np.ndarray) -> np.ndarray:
        """D' values [p]."""
        ...

    def gram(self, weights: np.ndarray, single: bool = False) -> np.ndarray:
        """D' diag(weights) D [p, p]; `single` allows 32-bit products where they are twice as fast."""
        ...

    def sweep(self, theta: np.ndarray, values: Values) -> tuple[np.ndarray, np.ndarray]:
        """Eta = D theta [m] and D' values(eta) [p], the data read once."""
        ...

    def thin(self, step: int) -> Rows:
        """Every step-th row."""
        ...


class _InMemory:
    """Rows that two products cost no more than one sweep."""

    def sweep(self: Rows, theta: np.ndarray, values: Values) -> tuple[np.ndarray, np.ndarray]:
        """Eta = D theta [m] and D' values(eta) [p]."""
        eta = self.predict(theta)
        return eta, self.pull(values(eta, slice(None)))


@dataclass(frozen=True)
class DenseRows(_InMemory):
    """D as a matrix."""

    matrix: Float[np.ndarray, "m p"]

    def predict(self, theta: np.ndarray) -> np.ndarray:
        return self.matrix @ theta

    def pull(self, values: np.ndarray) -> np.ndarray:
        return values @ self.matrix

    def thin(self, step: int) -> DenseRows:
        return DenseRows(self.matrix[::step])

    def gram(self, weights: np.ndarray, single: bool = False) -> np.ndarray:
        total = np.zeros((self.matrix.shape[1],) * 2)
        roots, kind = np.sqrt(weights)[:, None], np.float32 if single else np.float64
        for start in range(0, len(weights), BLOCK):
            block = np.multiply(
                self.matrix[start : start + BLOCK], roots[start : start + BLOCK], dtype=kind, casting="same_kind"
            )
            total += block.T @ block  # NumPy calls syrk here: half the work of a product
        return total


@dataclass(frozen=True)
class GraphRows(_InMemory):
    """D through the items: features X [n, d], or the identity (`features` None) for one ability an item."""

    features: Float[np.ndarray, "n d"] | None
    size: int
    first: Int[np.ndarray, " m"]
    second: Int[np.ndarray, " m"]
    order: bool

    def predict(self, theta: np.ndarray) -> np.ndarray:
        own = theta[:-1] if self.order else theta
        rewards = own if self.features is None else self.features @ own
        eta = rewards[self.first] - rewards[self.second]
        return eta + theta[-1] if self.order else eta

    def pull(self, values: np.ndarray) -> np.ndarray:
        each = self._scatter(values)
        own = each if self.features is None else each @ self.features
        return np.append(own, values.sum()) if self.order else own

    def thin(self, step: int) -> GraphRows:
        return replace(self, first=self.first[::step], second=self.second[::step])

    def gram(self, weights: np.ndarray, single: bool = False) -> np.ndarray:
        own = self._laplacian_gram(weights)
        if not self.order:
            return own
        edge = self.pull(weights)
        return np.block([[own, edge[:-1, None]], [edge[None, :-1], edge[-1:, None]]])

    def _scatter(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.first, values, self.size) - np.bincount(self.second, values, self.size)

    def _laplacian_gram(self, weights: np.ndarray) -> np.ndarray:
        n = self.size
        degree = np.bincount(self.first, weights, n) + np.bincount(self.second, weights, n)
        if self.features is None:
            joint = np.bincount(self.first * n + self.second, weights, n * n).reshape(n, n)
            laplacian = -joint - joint.T
            laplacian[np.diag_indices(n)] += degree
            return laplacian
        order, starts = self._by_first
        joint = scipy.sparse.csr_array((weights[order], self.second[order], starts), shape=(n, n))
        crossed = self.features.T @ (joint @ self.features)
        scaled = self.features * np.sqrt(degree)[:, None]
        return scaled.T @ scaled - crossed - crossed.T

    @cached_property
    def _by_first(self) -> tuple[np.ndarray, np.ndarray]:
        """Order of the comparisons by their items, and where each first item starts: sorted once for all weights."""
        order = np.argsort(self.first * self.size + self.second)
        return order, np.concatenate([[0], np.cumsum(np.bincount(self.first, minlength=self.size))])


def design_rows(
    features: np.ndarray | Embeddings | None, n_items: int, first: np.ndarray, second: np.ndarray, order: bool
) -> Rows:
    """The cheaper of the two operators for these comparisons; only items that occur are kept."""
    if isinstance(features, Embeddings):
        return StreamedRows(features, first, second, order)
    if features is None:
        return GraphRows(None, n_items, first, second, order)
    seen = np.zeros(n_items, dtype=bool)
    seen[first] = seen[second] = True
    used = int(seen.sum())
    if used > len(first):
        return DenseRows(_differences(features, first, second, order))
    own = features[seen].astype(np.float64)
    # Centred: differences are the same, sums of squares lose no digits to a large common mean.
    own -= own.mean(axis=0)
    place = np.cumsum(seen) - 1
    return GraphRows(own, used, place[first], place[second], order)


def _differences(features: np.ndarray, first: np.ndarray, second: np.ndarray, order: bool) -> np.ndarray:
    """Rows x_first - x_second in 64 bit (then 1 for the order effect), without a 64-bit copy of the features."""
    width = features.shape[1]
    matrix = np.ones((len(first), width + order))
    for start in range(0, len(first), BLOCK):
        block = slice(start, start + BLOCK)
        matrix[block, :width] = features[first[block]]
        matrix[block, :width] -= features[second[block]]
    return matrix


def merge_repeats(
    first: np.ndarray, second: np.ndarray, outcome: np.ndarray, weight: np.ndarray, n_items: int, order: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same likelihood with each pair once: first, second, outcome, weight, in the order of the pairs.

    Log likelihoods are linear in the outcome and symmetric, so that repeats of a pair, either way round (unless being
    first has an effect), are one comparison with their total weight and average outcome. Two million games among 300
    items become 44,850 rows; where nothing repeats, sorted rows still make every later pass faster.
    """
    if not order:
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


@dataclass(frozen=True)
class LinearForm:
    """A log posterior sum_m w_m log p(y_m | eta_m) - theta' P theta / 2, eta = D theta.

    Parameters
    ----------
    rows : Rows
    link : Link
    outcome, weight : array [m]
    prior_precision : array [p], the diagonal of P (zeros: flat)
    gauge : int
        Where positive, the first `gauge` parameters have mean zero by a unit Normal on their mean.
    layout : names and lengths (0: scalar) of the sites that make up theta, in order
    """

    rows: Rows
    link: Link
    outcome: np.ndarray
    weight: np.ndarray
    prior_precision: np.ndarray
    gauge: int
    layout: tuple[tuple[str, int], ...]

    def with_prior_precision(self, precision: np.ndarray) -> LinearForm:
        """The same likelihood under another Gaussian prior."""
        return replace(self, prior_precision=precision)

    @property
    def size(self) -> int:
        """Number of comparisons m, repeats merged."""
        return len(self.outcome)

    def subsample(self, step: int) -> LinearForm:
        """Every step-th comparison, counted `step` times: a rough copy of this form at a fraction of its cost."""
        rows, outcome, weight = self.rows.thin(step), self.outcome[::step], self.weight[::step] * step
        return replace(self, rows=rows, outcome=outcome, weight=weight)

    def predictor(self, theta: np.ndarray) -> np.ndarray:
        """The linear predictor eta = D theta [m]."""
        return self.rows.predict(theta)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Log posterior (up to a constant), its gradient [p], and eta [m]."""
        eta, gradient = self.rows.sweep(
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

    def precision(self, eta: np.ndarray, single: bool = False) -> np.ndarray:
        """Minus the Hessian of the log posterior [p, p] at eta = D theta; `single`: to 32-bit accuracy."""
        hessian = self.rows.gram(self.weight * self.link.curvature(eta, self.outcome), single)
        hessian[np.diag_indices_from(hessian)] += self.prior_precision
        if self.gauge:
            hessian[: self.gauge, : self.gauge] += 1.0 / self.gauge**2
        return hessian

    def log_prior_normaliser(self) -> float:
        """Log of the prior's normalising constant (flat directions and the gauge count nothing)."""
        proper = self.prior_precision[self.prior_precision > 0]
        return float(0.5 * np.sum(np.log(proper / (2.0 * np.pi))))
