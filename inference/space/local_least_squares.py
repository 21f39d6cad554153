"""Weighted least squares over the nearest sites of many sites at once: predictions, and leave-one-out errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tercet.inference.space.neighbours import Neighbours, without_self
from tercet.models.space.sites import Sites

GROWTH = 1.25
"""Ratio of successive numbers of neighbours in the leave-one-out search."""
ENTRIES = 2**17
"""Neighbours held at once: so few that the same memory serves block after block."""
EDGE = 1e-7
"""The kernel ends this much, relatively, beyond the K-th site, so that sites at equal distance keep a weight."""
RIM = 1e-6
"""A covariate whose weighted variance is below this share of its plain one varies at the rim of the kernel only."""
CONSTANT = 1e-10
"""Local standard deviation, relative to the covariate's largest deviation anywhere, that counts as zero."""
COLLINEAR = 1e-9
"""Eigenvalues of the local correlation matrix below this count as zero."""


class LocalPrediction(NamedTuple):
    """Predictions at m sites.

    Attributes
    ----------
    mean : array [m], in the units of the response
    standard_error : array [m], of the mean (not of a new observation), from the local residual variance; it ignores
        the bias from coefficients that vary within the neighbourhood
    coefficients : array [m, 1 + p], intercept first, in the units of response and covariates
    coefficient_errors : array [m, 1 + p], standard errors of the coefficients
    weak : boolean array [m], where the neighbours do not determine all coefficients: a covariate does not vary among
        them, covariates are collinear (the solution of least norm is taken, 0 for a covariate that does not vary), or
        no residual degrees of freedom are left (the variance of the whole response is used)
    """

    mean: np.ndarray
    standard_error: np.ndarray
    coefficients: np.ndarray
    coefficient_errors: np.ndarray
    weak: np.ndarray


@dataclass(frozen=True, eq=False)
class ScaledData:
    """Covariates of mean 0 and largest deviation 1, and the centred response: columns [p + 1, n]; their units."""

    shift: np.ndarray
    spread: np.ndarray
    level: float
    variance: float
    columns: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> ScaledData:
        """Scale covariates [n, p] and a response [n]."""
        shift, level = x.mean(axis=0), float(y.mean())
        largest = np.abs(x - shift).max(axis=0)
        spread = np.where(largest > 1e-12 * np.abs(shift), largest, np.inf)  # a constant becomes exactly 0
        return cls(shift, spread, level, float(y.var()), np.concatenate([((x - shift) / spread).T, [y - level]]))

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Covariates [., p] in these units."""
        return np.asarray((x - self.shift) / self.spread)

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Ones, covariates and response [b, p + 2, k] of the sites of an index [b, k]."""
        z = np.empty((len(index), len(self.columns) + 1, index.shape[1]))
        z[:, 0] = 1.0
        for j, column in enumerate(self.columns):
            np.take(column, index, out=z[:, j + 1])
        return z


class _Regressions(NamedTuple):
    """Local regressions of a block: weighted means [b, p] and [b], slopes [b, p], inverse covariances [b, p, p]."""

    x: np.ndarray
    y: np.ndarray
    slope: np.ndarray
    inverse: np.ndarray
    weak: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        """Fitted values [b] at covariates [b, p]."""
        return np.asarray(self.y + ((x - self.x) * self.slope).sum(axis=1))


def leave_one_out_errors(
    sites: Sites, data: ScaledData, *, fewest: int, most: int, direct_below: float = 1e-4, entries: int = ENTRIES
) -> dict[int, float]:
    """Mean squared leave-one-out error of each number of neighbours on a geometric grid from `fewest` to `most`.

    The kernel is a polynomial in d^2, so that sums of (1, d^2, d^4) z z' over the nearest sites, accumulated from one K
    to the next, give the weighted moments of every K at once. Where the mean weight of the neighbours is smaller than
    `direct_below` that loses leading digits, and the moments are computed directly.
    """
    steps = 1 + int(np.ceil(np.log(most / fewest) / np.log(GROWTH)))
    ks = np.unique(np.geomspace(fewest, most, steps).round().astype(int))
    total = np.zeros(len(ks))
    for rows, distance, index in Neighbours(sites, entries).blocks(sites, most + 1):
        distance, index = without_self(np.arange(rows.start, rows.stop), distance, index)
        z, own = data.rows(index), data.columns[:, rows].T
        origin = z[:, 1:, :fewest].mean(axis=2)  # moments about a value of the neighbourhood lose no digits
        z[:, 1:] -= origin[:, :, None]
        x, y = own[:, :-1] - origin[:, :-1], own[:, -1] - origin[:, -1]
        for j, moments in enumerate(_moments(z, distance, ks)):
            inexact = ~(moments[0][:, 0, 0] >= direct_below * ks[j])
            if inexact.any():
                near = z[inexact, :, : ks[j]]
                weights = bisquare(distance[inexact, : ks[j]])[:, None]
                moments[0][inexact] = (near * weights) @ np.swapaxes(near, 1, 2)
            total[j] += np.square(_regress(*moments).at(x) - y).sum()
    return {int(k): float(error) for k, error in zip(ks, total / len(sites), strict=True)}


def predict_locally(
    tree: Neighbours, data: ScaledData, sites: Sites, covariates: np.ndarray, neighbours: int
) -> LocalPrediction:
    """Predictions at sites with covariates [m, p] from their nearest neighbours; see `LocalRegression.predict`."""
    scaled = data.scaled(covariates)
    parts = [
        _predict(data, bisquare(distance), index, scaled[rows])
        for rows, distance, index in tree.blocks(sites, neighbours)
    ]
    return LocalPrediction(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def bisquare(distance: np.ndarray) -> np.ndarray:
    """Weights [b, k] of sites at increasing distances [b, k]."""
    reach = np.where(distance[:, -1:] > 0, distance[:, -1:], 1.0) * (1 + EDGE)
    return np.square((1 - distance / reach) * (1 + distance / reach))


def _moments(z: np.ndarray, distance: np.ndarray, ks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each K the moments [b, q, q] of the first K entries of z [b, q, k], weighted, and mean squares [b, q]."""
    squared = np.square(distance / np.where(distance[:, -1:] > 0, distance[:, -1:], 1.0))[:, None]
    powers = np.concatenate([z, squared * z, np.square(squared) * z], axis=1)
    q = z.shape[1]
    sums, begin = np.zeros((len(z), q, 3 * q)), 0
    for k in ks:
        sums += z[:, :, begin:k] @ np.swapaxes(powers[:, :, begin:k], 1, 2)
        begin = k
        reach = squared[:, 0, k - 1] * (1 + EDGE) ** 2
        a = (1 / np.where(reach > 0, reach, np.inf))[:, None, None]
        plain, second, fourth = sums[:, :, :q], sums[:, :, q : 2 * q], sums[:, :, 2 * q :]
        yield plain - 2 * a * second + np.square(a) * fourth, np.einsum("bii->bi", plain) / k


def _regress(moments: np.ndarray, plain: np.ndarray) -> _Regressions:
    """Regressions from weighted moments [b, q, q] of (1, x, y) and plain mean squares [b, q], about one origin."""
    mean = moments[:, 0, 1:] / moments[:, :1, 0]
    scatter = moments[:, 1:, 1:] / moments[:, :1, :1] - mean[:, :, None] * mean[:, None]
    variance = np.einsum("bii->bi", scatter)[:, :-1]
    constant = variance <= np.maximum(RIM * plain[:, 1:-1], CONSTANT**2)
    precision = np.where(constant, 0.0, 1 / np.sqrt(np.where(constant, 1.0, variance)))
    values, vectors = np.linalg.eigh(scatter[:, :-1, :-1] * precision[:, :, None] * precision[:, None])
    keep = values > COLLINEAR
    vectors = vectors * precision[:, :, None]
    inverse = (vectors * (keep / np.where(keep, values, 1.0))[:, None]) @ np.swapaxes(vectors, 1, 2)
    slope = (inverse @ scatter[:, :-1, -1:])[:, :, 0]
    return _Regressions(mean[:, :-1], mean[:, -1], slope, inverse, np.asarray(~keep.all(axis=1)))


def _predict(data: ScaledData, weight: np.ndarray, index: np.ndarray, x: np.ndarray) -> LocalPrediction:
    """Predictions at sites with scaled covariates [b, p] from weighted neighbours [b, k]."""
    z, total = data.rows(index), weight.sum(axis=1)
    middle = (z[:, 1:] @ weight[:, :, None]) / total[:, None, None]
    z[:, 1:] -= middle
    weighted = z * weight[:, None]
    fit = _regress(weighted @ np.swapaxes(z, 1, 2), np.square(z).mean(axis=2))
    residual = z[:, -1] - fit.at(np.zeros_like(fit.x))[:, None] - (fit.slope[:, None] @ z[:, 1:-1])[:, 0]
    inverse = np.zeros((len(x), 1 + x.shape[1], 1 + x.shape[1]))  # of X'WX about the weighted means
    inverse[:, 0, 0], inverse[:, 1:, 1:] = 1 / total, fit.inverse / total[:, None, None]
    design = weighted[:, :-1]
    sandwich = inverse @ (design @ np.swapaxes(design, 1, 2))
    freedom = total - np.einsum("bii->b", sandwich)
    saturated = freedom <= 1e-9 * total
    local = (weight * np.square(residual)).sum(axis=1) / np.where(saturated, 1.0, freedom)
    variance = np.where(saturated, data.variance, local)
    covariance = variance[:, None, None] * (sandwich @ inverse)

    def error(row: np.ndarray) -> np.ndarray:
        row = np.concatenate([np.ones((len(row), 1)), row], axis=1)
        return np.asarray(np.sqrt(np.maximum(np.einsum("bi,bij,bj->b", row, covariance, row), 0.0)))

    origin = data.scaled(np.zeros_like(x)) - middle[:, :-1, 0]
    centred, level = x - middle[:, :-1, 0], middle[:, -1, 0] + data.level
    slope_errors = np.sqrt(np.maximum(np.einsum("bii->bi", covariance)[:, 1:], 0.0)) / data.spread
    return LocalPrediction(
        fit.at(centred) + level,
        error(centred),
        np.concatenate([(fit.at(origin) + level)[:, None], fit.slope / data.spread], axis=1),
        np.concatenate([error(origin)[:, None], slope_errors], axis=1),
        fit.weak | saturated,
    )
