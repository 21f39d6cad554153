"""Geographically weighted regression: linear regression whose coefficients change from place to place."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.neighbours import Neighbours
from tercet.models._inputs import as_floats
from tercet.models.space.geometry import as_sites, check_same_space
from tercet.models.space.sites import Sites

GROWTH = 1.25
"""From one number of neighbours to the next in the leave-one-out search."""
MOST_NEIGHBOURS = 1_000
"""Neighbours tried by the leave-one-out search; beyond that a regression is hardly local."""
BLOCK = 2**17
"""Neighbours held at once: small enough for the memory to be used again from block to block."""
EDGE = 1e-7
"""The kernel ends so little beyond the K-th site: sites that all lie at one distance keep a weight."""
THIN = 1e-4
"""Weights below this mean are computed directly, not by moments, which lose their leading digits."""
FAINT = 1e-6
"""A covariate whose weighted variance is this share of its plain one varies at the rim of the kernel only."""
FLAT = 1e-10
"""Local standard deviation, relative to the covariate's largest deviation anywhere, that counts as none."""
COLLINEAR = 1e-9
"""Eigenvalues of the local correlation matrix that count as zero."""


class LocalPrediction(NamedTuple):
    """Predictions at m sites.

    Attributes
    ----------
    mean : array [m], in the units of the response
    standard_error : array [m], of the mean (not of a new observation), from the local residual variance; it knows
        noise only, not the bias of a straight line where coefficients bend
    coefficients : array [m, 1 + p], intercept first, in the units of response and covariates
    coefficient_errors : array [m, 1 + p], standard errors of the coefficients
    weak : boolean array [m], where the neighbours do not tell all coefficients: a covariate does not vary among them,
        covariates are collinear (the solution of least norm is taken, 0 for a covariate that does not vary), or no
        residual freedom is left (the variance of the whole response stands in)
    """

    mean: np.ndarray
    standard_error: np.ndarray
    coefficients: np.ndarray
    coefficient_errors: np.ndarray
    weak: np.ndarray


@dataclass(frozen=True, eq=False)
class LocalRegression:
    """A geographically weighted regression, ready to predict at any site.

    Attributes
    ----------
    sites : Sites, n of them
    covariates : array [n, p]
    response : array [n]
    neighbours : number of sites K that a local regression sees
    leave_one_out : dict of numbers of neighbours tried to mean squared leave-one-out error (empty where K was given)
    """

    sites: Sites
    covariates: np.ndarray
    response: np.ndarray
    neighbours: int
    leave_one_out: dict[int, float]

    def predict(self, sites: Sites | ArrayLike, covariates: ArrayLike | None = None) -> LocalPrediction:
        """Predict at m sites.

        With W = diag(w), G = X'WX and H = X G^-1 X'W: coefficients b = G^-1 X'Wy; local residual variance
        v = sum_j w_j e_j^2 / (tr W - tr(G^-1 X'W^2X)), unbiased where the noise has one variance; covariance of the
        coefficients v G^-1 X'W^2X G^-1.

        Parameters
        ----------
        sites : Sites or array [m, d]
        covariates : array [m, p], or None where the regression has none

        Warns
        -----
        UserWarning
            Where the neighbours of some sites do not tell all coefficients; see `LocalPrediction.weak`.
        """
        there = as_sites("sites", sites, self.sites.metric)
        check_same_space(self.sites, there)
        x = _covariates(covariates, len(there))
        if x.shape[1] != self.covariates.shape[1]:
            raise ValueError(f"covariates have {x.shape[1]} columns, the regression has {self.covariates.shape[1]}.")
        table = _Table(self.covariates, self.response)
        parts = [
            _predict(table, _bisquare(gap), index, table.scaled(x[rows]))
            for rows, gap, index in _blocks(Neighbours(self.sites), there, self.neighbours)
        ]
        found = LocalPrediction(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        if found.weak.any():
            warnings.warn(
                f"at {found.weak.sum()} of {len(there)} site(s) the {self.neighbours} neighbours do not tell all "
                "coefficients (see `weak`); take more neighbours, or leave out covariates.",
                stacklevel=2,
            )
        return found


def geographically_weighted_regression(
    sites: Sites | ArrayLike,
    covariates: ArrayLike | None,
    response: ArrayLike,
    *,
    neighbours: int | None = None,
) -> LocalRegression:
    """Fit y = b_0(s) + x' b(s) + error by weighted least squares around every site.

    A regression at s sees its K nearest sites with bisquare weights w = (1 - (d / d_K)^2)^2, d_K the distance of the
    K-th; of sites as far as the K-th, those of lowest index. Where K is not given it minimises the mean squared
    leave-one-out error over a geometric grid up to 1,000 neighbours: each site is predicted by the K nearest *other*
    sites. For 28,000 sites and two covariates that takes about 10 s.

    Parameters
    ----------
    sites : Sites or array [n, d]
    covariates : array [n, p], or None for a local mean
    response : array [n]
    neighbours : K, optional, between 2 p + 3 and n

    Raises
    ------
    ValueError
        Where lengths differ, values are missing, or there are no more than 2 p + 3 sites.

    Warns
    -----
    UserWarning
        Where the search ends at its largest K though there are more sites: coefficients may well be constant.

    References
    ----------
    Fotheringham, Brunsdon, Charlton (2002), Geographically Weighted Regression, chapter 2.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import geographically_weighted_regression
    >>> rng = np.random.default_rng(0)
    >>> sites, x = rng.uniform(size=(300, 2)), rng.normal(size=(300, 1))
    >>> fit = geographically_weighted_regression(sites, x, sites[:, 0] * x[:, 0], neighbours=40)
    >>> fit.predict([[0.5, 0.5]], [[2.0]]).mean.round(1).tolist()
    [1.0]
    """
    here, y = as_sites("sites", sites), as_floats("response", response, 1).astype(np.float64)
    x = _covariates(covariates, len(here))
    if len(y) != len(here):
        raise ValueError(f"response has {len(y)} entries for {len(here)} sites; give one a site.")
    least = 2 * (1 + x.shape[1]) + 1
    if len(y) <= least:
        raise ValueError(f"{x.shape[1]} covariate(s) need more than {least} sites, got {len(y)}.")
    if neighbours is not None:
        if not (least <= neighbours <= len(y) and neighbours == int(neighbours)):
            raise ValueError(f"neighbours must be a number from {least} to the {len(y)} sites, got {neighbours}.")
        return LocalRegression(here, x, y, int(neighbours), {})
    tried = _search(here, _Table(x, y), least)
    best = min(tried, key=lambda k: tried[k])
    if best == max(tried) < len(y) - 1:
        warnings.warn(
            f"the leave-one-out error is least at the most neighbours tried, {best:,} of {len(y):,} sites: "
            "coefficients hardly vary in space; one regression for all sites may do, or give more `neighbours`.",
            stacklevel=2,
        )
    return LocalRegression(here, x, y, best, tried)


class _Table:
    """Covariates, of mean 0 and largest deviation 1, and the centred response: columns [p + 1, n]."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.shift, self.level = x.mean(axis=0), y.mean()
        span = np.abs(x - self.shift).max(axis=0)
        self.spread = np.where(span > 1e-12 * np.abs(self.shift), span, np.inf)  # a constant becomes exactly 0
        self.variance = float(np.var(y))
        self.columns = np.concatenate([self.scaled(x).T, [y - self.level]])

    def scaled(self, x: np.ndarray) -> np.ndarray:
        return (x - self.shift) / self.spread

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Ones, covariates and response [b, p + 2, k] of the sites of an index [b, k]."""
        z = np.empty((len(index), len(self.columns) + 1, index.shape[1]))
        z[:, 0] = 1.0
        for j, column in enumerate(self.columns):
            np.take(column, index, out=z[:, j + 1])
        return z


class _Fit(NamedTuple):
    """Local regressions of a block: weighted means [b, p] and [b], slopes [b, p], inverse covariance [b, p, p]."""

    x: np.ndarray
    y: np.ndarray
    slope: np.ndarray
    inverse: np.ndarray
    weak: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        return self.y + ((x - self.x) * self.slope).sum(axis=1)


def _search(sites: Sites, table: _Table, least: int) -> dict[int, float]:
    """Mean squared leave-one-out error of each number of neighbours on a geometric grid.

    The kernel is a polynomial in d^2, so that sums of (1, d^2, d^4) z z' over the nearest sites, grown from one K to
    the next, give the weighted moments of every K at once.
    """
    most = min(len(sites) - 1, MOST_NEIGHBOURS)
    steps = 1 + int(np.ceil(np.log(most / least) / np.log(GROWTH)))
    ks = np.unique(np.geomspace(least, most, steps).round().astype(int))
    total = np.zeros(len(ks))
    for rows, gap, index in _blocks(Neighbours(sites), sites, most + 1):
        gap, index = _others(rows, gap, index)
        z, own = table.rows(index), table.columns[:, rows].T
        nearby = z[:, 1:, :least].mean(axis=2)
        z[:, 1:] -= nearby[:, :, None]  # moments about a place nearby lose no digits
        x, y = own[:, :-1] - nearby[:, :-1], own[:, -1] - nearby[:, -1]
        for j, moments in enumerate(_moments(z, gap, ks)):
            thin = ~(moments[0][:, 0, 0] >= THIN * ks[j])
            if thin.any():
                direct = z[thin, :, : ks[j]]
                moments[0][thin] = (direct * _bisquare(gap[thin, : ks[j]])[:, None]) @ np.swapaxes(direct, 1, 2)
            total[j] += np.square(_regress(*moments).at(x) - y).sum()
    return {int(k): float(error) for k, error in zip(ks, total / len(sites), strict=True)}


def _moments(z: np.ndarray, gap: np.ndarray, ks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each K the moments [b, q, q] of the first K entries of z [b, q, k], with bisquare weights and without."""
    squared = np.square(gap / np.where(gap[:, -1:] > 0, gap[:, -1:], 1.0))[:, None]
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


def _regress(moments: np.ndarray, plain: np.ndarray) -> _Fit:
    """Regressions from weighted moments [b, q, q] of (1, x, y) and plain mean squares [b, q], about one origin."""
    mean = moments[:, 0, 1:] / moments[:, :1, 0]
    scatter = moments[:, 1:, 1:] / moments[:, :1, :1] - mean[:, :, None] * mean[:, None]
    variance = np.einsum("bii->bi", scatter)[:, :-1]
    flat = variance <= np.maximum(FAINT * plain[:, 1:-1], FLAT**2)
    precision = np.where(flat, 0.0, 1 / np.sqrt(np.where(flat, 1.0, variance)))
    values, vectors = np.linalg.eigh(scatter[:, :-1, :-1] * precision[:, :, None] * precision[:, None])
    keep = values > COLLINEAR
    vectors = vectors * precision[:, :, None]
    inverse = (vectors * (keep / np.where(keep, values, 1.0))[:, None]) @ np.swapaxes(vectors, 1, 2)
    slope = (inverse @ scatter[:, :-1, -1:])[:, :, 0]
    return _Fit(mean[:, :-1], mean[:, -1], slope, inverse, np.asarray(~keep.all(axis=1)))


def _predict(table: _Table, weight: np.ndarray, index: np.ndarray, x: np.ndarray) -> LocalPrediction:
    """Predictions at sites with scaled covariates [b, p] from weighted neighbours [b, k]; see `LocalRegression`."""
    z, total = table.rows(index), weight.sum(axis=1)
    middle = (z[:, 1:] @ weight[:, :, None]) / total[:, None, None]
    z[:, 1:] -= middle
    weighted = z * weight[:, None]
    fit = _regress(weighted @ np.swapaxes(z, 1, 2), np.square(z).mean(axis=2))
    residual = z[:, -1] - fit.at(np.zeros_like(fit.x))[:, None] - (fit.slope[:, None] @ z[:, 1:-1])[:, 0]
    inverse = np.zeros((len(x), 1 + x.shape[1], 1 + x.shape[1]))  # of X'WX about the weighted means
    inverse[:, 0, 0], inverse[:, 1:, 1:] = 1 / total, fit.inverse / total[:, None, None]
    design = weighted[:, :-1]
    spread = inverse @ (design @ np.swapaxes(design, 1, 2))
    freedom = total - np.einsum("bii->b", spread)
    saturated = freedom <= 1e-9 * total
    variance = (weight * np.square(residual)).sum(axis=1) / np.where(saturated, 1.0, freedom)
    covariance = np.where(saturated, table.variance, variance)[:, None, None] * (spread @ inverse)

    def error(row: np.ndarray) -> np.ndarray:
        row = np.concatenate([np.ones((len(row), 1)), row], axis=1)
        return np.sqrt(np.maximum(np.einsum("bi,bij,bj->b", row, covariance, row), 0.0))

    origin = table.scaled(np.zeros_like(x)) - middle[:, :-1, 0]
    place, level = x - middle[:, :-1, 0], middle[:, -1, 0] + table.level
    slopes = np.sqrt(np.maximum(np.einsum("bii->bi", covariance)[:, 1:], 0.0)) / table.spread
    return LocalPrediction(
        fit.at(place) + level,
        error(place),
        np.concatenate([(fit.at(origin) + level)[:, None], fit.slope / table.spread], axis=1),
        np.concatenate([error(origin)[:, None], slopes], axis=1),
        fit.weak | saturated,
    )


def _blocks(tree: Neighbours, sites: Sites, k: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rows of the sites, distances [b, k] and indices [b, k] of their nearest neighbours, block by block."""
    size = max(1, BLOCK // k)
    for begin in range(0, len(sites), size):
        part = Sites(sites.coordinates[begin : begin + size], sites.metric)
        yield slice(begin, begin + len(part)), *tree.nearest(part, k)


def _others(rows: slice, gap: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours without the site itself; the last goes where so many duplicates hide it."""
    own = index == np.arange(rows.start, rows.stop)[:, None]
    own[:, -1] |= ~own.any(axis=1)
    return gap[~own].reshape(len(gap), -1), index[~own].reshape(len(index), -1)


def _bisquare(gap: np.ndarray) -> np.ndarray:
    """Weights [b, k] of sites at increasing distances [b, k]."""
    reach = np.where(gap[:, -1:] > 0, gap[:, -1:], 1.0) * (1 + EDGE)
    return np.square((1 - gap / reach) * (1 + gap / reach))


def _covariates(covariates: ArrayLike | None, size: int) -> np.ndarray:
    x = np.zeros((size, 0)) if covariates is None else as_floats("covariates", covariates, 2).astype(np.float64)
    if len(x) != size:
        raise ValueError(f"covariates have {len(x)} rows for {size} sites; give one a site.")
    return x
