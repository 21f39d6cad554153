"""Log likelihoods of loss surfaces with the process integrated out, and their derivatives in closed form, in NumPy.

All are functions of u = (log amplitude, log length, level, log noise): one Cholesky factor gives the value, its inverse
the gradient and the Hessian, so that nothing is compiled and nothing is differentiated through a factorisation.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg

from tercet.models.space.basis_normal import Summary
from tercet.models.space.kernels import Kernel, log_length_derivatives, second_log_length_derivative
from tercet.models.space.spectral_basis import AMPLITUDE_POWER, SpectralBasis

JITTER = 1e-8
"""Added to the correlations of an exact process, whose matrix may be singular to rounding."""


class Marginal(abc.ABC):
    """The log likelihood at one u, with derivatives that are computed when they are asked for."""

    @property
    @abc.abstractmethod
    def value(self) -> float:
        """Log likelihood; minus infinity where the covariance is not positive definite to rounding."""

    @property
    @abc.abstractmethod
    def gradient(self) -> np.ndarray:
        """Gradient [4] in u."""

    @property
    @abc.abstractmethod
    def hessian(self) -> np.ndarray:
        """Hessian [4, 4] in u."""

    @property
    @abc.abstractmethod
    def information(self) -> np.ndarray:
        """Fisher information [4, 4] about u: tr(K^-1 K_i K^-1 K_j) / 2, and 1' K^-1 1 for the level."""


@dataclass(frozen=True, eq=False)
class BasisMarginal(Marginal):
    """y = level + Phi w + noise e: with w = scales x, x standard normal, the posterior of x is Normal(m, V).

    V = (I + S Phi'Phi S / noise^2)^-1 and m = V S Phi'(y - level) / noise^2. By Fisher's identity the derivative in
    log scale_j is E[x_j^2] - 1 = m_j^2 + V_jj - 1; the derivatives of m and V are products of themselves.

    Parameters
    ----------
    basis, summary : functions, and what of them and the values the likelihood reads
    u : array [4]
    """

    basis: SpectralBasis
    summary: Summary
    u: np.ndarray

    @cached_property
    def _noise(self) -> float:
        return float(np.exp(2 * self.u[3]))  # its square

    @cached_property
    def _scales(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scales [b], the first derivatives of their logarithms [2, b] in u_0 and u_1, and the second in u_1."""
        logs = self.basis.log_scales(float(self.u[1]))
        slopes = np.stack([np.full(len(logs.slope), AMPLITUDE_POWER), logs.slope])
        return np.exp(AMPLITUDE_POWER * self.u[0] + logs.value), slopes, logs.bend

    @cached_property
    def _factor(self) -> np.ndarray | None:
        scales = self._scales[0]
        precision = self.summary.gram * (scales[:, None] / self._noise)
        precision *= scales
        precision[np.diag_indices_from(precision)] += 1.0
        return lower_factor(precision.T)

    @cached_property
    def _residual(self) -> tuple[float, float, np.ndarray]:
        """Level less the mean of the values, |r|^2, and S Phi'r, for r = y - level."""
        shift, known = float(self.u[2] - self.summary.center), self.summary
        return (
            shift,
            float(known.square + known.count * shift**2),
            self._scales[0] * (known.moment - shift * known.ones),
        )

    @cached_property
    def _mean(self) -> np.ndarray:
        return (
            np.asarray(scipy.linalg.cho_solve((self._factor, True), self._residual[2], check_finite=False))
            / self._noise
        )

    @cached_property
    def value(self) -> float:
        """Log likelihood."""
        if self._factor is None:
            return -math.inf
        _, square, projected = self._residual
        log_det = 2 * np.log(self._factor.diagonal()).sum() + self.summary.count * np.log(2 * np.pi * self._noise)
        return float(-0.5 * ((square - projected @ self._mean) / self._noise + log_det))

    @cached_property
    def _inverse_factor(self) -> np.ndarray:
        inverse, _ = scipy.linalg.lapack.dtrtri(self._factor, lower=1)
        return np.asarray(inverse)

    @cached_property
    def _inverse(self) -> np.ndarray:
        """V [b, b]."""
        return np.asarray(self._inverse_factor.T @ self._inverse_factor)

    @cached_property
    def gradient(self) -> np.ndarray:
        """Gradient [4] in u."""
        mean, variances = self._mean, np.einsum("ij,ij->j", self._inverse_factor, self._inverse_factor)
        (scales, slopes, _), (shift, square, projected) = self._scales, self._residual
        of_scales = mean**2 + variances - 1.0
        level = -(self.summary.count * shift + (self.summary.ones * scales) @ mean) / self._noise
        spent = len(mean) - variances.sum() - self.summary.count
        noise = spent + (square - projected @ mean) / self._noise - mean @ mean
        return np.array([*(slopes @ of_scales), level, noise])

    @cached_property
    def hessian(self) -> np.ndarray:
        """Hessian [4, 4] in u."""
        inverse, mean, v = self._inverse, self._mean, self._noise
        (scales, slopes, bend), (shift, square, projected) = self._scales, self._residual
        ones, variances = self.summary.ones * scales, inverse.diagonal()
        squares = np.square(inverse)
        moved, one = inverse @ mean, inverse @ ones
        between = 4 * inverse * (mean[:, None] * mean) + 2 * squares  # derivatives of E[x_j^2] in log scale_k
        between[np.diag_indices_from(between)] -= 2 * (mean**2 + variances)
        by_noise = -4 * mean * moved + 2 * (variances - squares.sum(axis=1))
        by_level = -2 * mean * one / v
        hessian = np.empty((4, 4))
        hessian[:2, :2] = slopes @ between @ slopes.T
        hessian[1, 1] += bend @ (mean**2 + variances - 1.0)
        hessian[:2, 2], hessian[:2, 3] = slopes @ by_level, slopes @ by_noise
        hessian[2, 2] = -(self.summary.count - ones @ one / v) / v
        hessian[2, 3] = 2 * (self.summary.count * shift + ones @ mean + one @ mean) / v
        explained = -2 * (square - projected @ mean) / v + 2 * mean @ mean + 4 * mean @ moved
        hessian[3, 3] = explained + 2 * (squares.sum() - variances.sum())
        return _symmetric(hessian)

    @cached_property
    def information(self) -> np.ndarray:
        """Fisher information [4, 4] about u."""
        squares, (scales, slopes, _) = np.square(self._inverse), self._scales
        variances, ones = self._inverse.diagonal(), self.summary.ones * scales
        between = 2 * squares
        between[np.diag_indices_from(between)] += 2 - 4 * variances  # 2 (I - V)_jk^2
        information = np.zeros((4, 4))
        information[:2, :2] = slopes @ between @ slopes.T
        information[:2, 3] = slopes @ (2 * (variances - squares.sum(axis=1)))
        information[2, 2] = (self.summary.count - ones @ self._inverse @ ones / self._noise) / self._noise
        information[3, 3] = 2 * (self.summary.count - len(variances) + squares.sum())
        return _symmetric(information)


@dataclass(frozen=True, eq=False)
class ProcessMarginal(Marginal):
    """y ~ Normal(level, K), K = amplitude^2 (C + 1e-8 I) + noise^2 I, C the correlations of the sites.

    Derivatives are r' K^-1 K_i K^-1 r / 2 - tr(K^-1 K_i) / 2 and so on; of the derivatives K_i of K only the one in the
    length is not a combination of K and I.

    Parameters
    ----------
    kernel : of the process
    distance : array [n, n] of the sites
    response : array [n]
    u : array [4]

    References
    ----------
    Rasmussen, Williams (2006), Gaussian Processes for Machine Learning, section 5.4.1.
    """

    kernel: Kernel
    distance: np.ndarray
    response: np.ndarray
    u: np.ndarray

    @cached_property
    def _variances(self) -> tuple[float, float]:
        return float(np.exp(2 * self.u[0])), float(np.exp(2 * self.u[3]))

    @cached_property
    def _correlations(self) -> tuple[np.ndarray, np.ndarray]:
        return log_length_derivatives(self.kernel, self.distance, float(np.exp(self.u[1])))

    @cached_property
    def _factor(self) -> np.ndarray | None:
        process, noise = self._variances
        covariance = (process * self._correlations[0]).T  # symmetric, in the order of LAPACK
        covariance[np.diag_indices_from(covariance)] += JITTER * process + noise
        return lower_factor(covariance)

    def _solve(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(scipy.linalg.cho_solve((self._factor, True), values, check_finite=False))

    @cached_property
    def _weights(self) -> np.ndarray:
        """K^-1 r."""
        return self._solve(self.response - self.u[2])

    @cached_property
    def value(self) -> float:
        """Log likelihood."""
        if self._factor is None:
            return -math.inf
        log_det = 2 * np.log(self._factor.diagonal()).sum() + len(self.response) * np.log(2 * np.pi)
        return float(-0.5 * ((self.response - self.u[2]) @ self._weights + log_det))

    @cached_property
    def _inverse_triangle(self) -> np.ndarray:
        """The upper triangle of K^-1, zeros below."""
        inverse, _ = scipy.linalg.lapack.dpotri(self._factor, lower=1)
        return np.asarray(inverse.T)

    @cached_property
    def _inverse(self) -> np.ndarray:
        """K^-1."""
        return np.asarray(self._inverse_triangle + np.triu(self._inverse_triangle, 1).T)

    @cached_property
    def _traces(self) -> tuple[float, float, np.ndarray]:
        """Traces of K^-1 and K^-1 K_1, and of K^-1 K_i K^-1 K_j [3, 3] (upper triangle) without the level."""
        (process, noise), n = self._variances, len(self.response)
        product = self._inverse @ (process * self._correlations[1])
        trace, along = float(np.trace(self._inverse)), float(np.trace(product))
        square, crossed = np.vdot(self._inverse, self._inverse), np.vdot(product, self._inverse)
        first = 4 * (n - 2 * noise * trace + noise**2 * square)
        traces = np.diag([first, np.vdot(product, product.T), 4 * noise**2 * square])
        traces[0, 1:] = 2 * (along - noise * crossed), 4 * noise * (trace - noise * square)
        traces[1, 2] = 2 * noise * crossed
        return trace, along, traces

    @cached_property
    def gradient(self) -> np.ndarray:
        """Gradient [4] in u."""
        (process, noise), weights, n = self._variances, self._weights, len(self.response)
        slope, trace, square = self._correlations[1], float(np.trace(self._inverse_triangle)), float(weights @ weights)
        level = self.response - self.u[2]
        # The diagonal of the slope is zero.
        length = process * (0.5 * weights @ (slope @ weights) - np.vdot(self._inverse_triangle, slope))
        amplitude = level @ weights - noise * square - n + noise * trace
        return np.array([amplitude, length, weights.sum(), noise * (square - trace)])

    @cached_property
    def hessian(self) -> np.ndarray:
        """Hessian [4, 4] in u: one product of n x n matrices."""
        (process, noise), a, inverse, n = self._variances, self._weights, self._inverse, len(self.response)
        r = self.response - self.u[2]
        slope = process * self._correlations[1]
        bend = process * second_log_length_derivative(self.kernel, self.distance, float(np.exp(self.u[1])))
        trace, along, traces = self._traces
        # K_i a, and K^-1 K_j a, in the order of u without the level
        moved = np.stack([2 * (r - noise * a), slope @ a, 2 * noise * a])
        solved = self._solve(np.column_stack([moved.T, np.ones(n)])).T
        second = np.array(
            [
                [4 * (a @ r - noise * a @ a - n + noise * trace), 2 * (a @ moved[1] - along), 0.0],
                [0.0, a @ bend @ a - np.vdot(inverse, bend), 0.0],
                [0.0, 0.0, 4 * noise * (a @ a - trace)],
            ]
        )
        inner = _symmetric(0.5 * second - moved @ solved[:3].T + 0.5 * traces)
        hessian = np.empty((4, 4))
        others = [0, 1, 3]
        hessian[np.ix_(others, others)] = inner
        hessian[2, others] = hessian[others, 2] = -solved[:3].sum(axis=1)
        hessian[2, 2] = -solved[3].sum()
        return hessian

    @cached_property
    def information(self) -> np.ndarray:
        """Fisher information [4, 4] about u."""
        information = np.zeros((4, 4))
        others = [0, 1, 3]
        information[np.ix_(others, others)] = _symmetric(0.5 * self._traces[2])
        information[2, 2] = self._inverse.sum()
        return information


def lower_factor(matrix: np.ndarray) -> np.ndarray | None:
    """Lower Cholesky factor of a symmetric matrix, which is overwritten; None where it has none to rounding."""
    factor, failed = scipy.linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    return None if failed or not np.isfinite(factor.diagonal()).all() else np.asarray(factor)


def _symmetric(upper: np.ndarray) -> np.ndarray:
    """The symmetric matrix with this upper triangle."""
    triangle = np.triu(upper)
    return np.asarray(triangle + np.triu(upper, 1).T)
