"""Geographically weighted regression: linear regression whose coefficients vary in space."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.local_least_squares import (
    ENTRIES,
    LocalPrediction,
    ScaledData,
    leave_one_out_errors,
    predict_locally,
)
from tercet.inference.space.neighbours import Neighbours
from tercet.models._inputs import as_floats
from tercet.models.space.geometry import as_sites, check_same_space
from tercet.models.space.sites import Sites


@dataclass(frozen=True, eq=False)
class LocalRegression:
    """A geographically weighted regression, ready to predict at any site.

    Attributes
    ----------
    sites : Sites, n of them
    covariates : array [n, p]
    response : array [n]
    neighbours : number of sites K in each local regression
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
        v = sum_j w_j e_j^2 / (tr W - tr(G^-1 X'W^2X)), unbiased where the noise has constant variance; covariance of
        the coefficients v G^-1 X'W^2X G^-1.

        Parameters
        ----------
        sites : Sites or array [m, d]
        covariates : array [m, p], or None where the regression has none

        Warns
        -----
        UserWarning
            Where the neighbours of some sites do not determine all coefficients; see `LocalPrediction.weak`.
        """
        new = as_sites("sites", sites, self.sites.metric)
        check_same_space(self.sites, new)
        x = _covariates(covariates, len(new))
        if x.shape[1] != self.covariates.shape[1]:
            raise ValueError(f"covariates have {x.shape[1]} columns, the regression has {self.covariates.shape[1]}.")
        tree, data = Neighbours(self.sites, ENTRIES), ScaledData.of(self.covariates, self.response)
        prediction = predict_locally(tree, data, new, x, self.neighbours)
        if prediction.weak.any():
            warnings.warn(
                f"at {prediction.weak.sum()} of {len(new)} site(s) the {self.neighbours} neighbours do not determine "
                "all coefficients (see `weak`); take more neighbours, or leave out covariates.",
                stacklevel=2,
            )
        return prediction


def geographically_weighted_regression(
    sites: Sites | ArrayLike,
    covariates: ArrayLike | None,
    response: ArrayLike,
    *,
    neighbours: int | None = None,
    max_neighbours: int = 1_000,
) -> LocalRegression:
    """Fit y = b_0(s) + x' b(s) + error by weighted least squares around every site.

    The regression at s uses its K nearest sites with bisquare weights w = (1 - (d / d_K)^2)^2, d_K the distance of the
    K-th; of sites tied for the K-th rank, those of lowest index. Where K is not given it minimises the mean squared
    leave-one-out error over a geometric grid: each site is predicted from its K nearest *other* sites. For 28,000 sites
    and two covariates that takes about 10 s.

    Parameters
    ----------
    sites : Sites or array [n, d]
    covariates : array [n, p], or None for a local mean
    response : array [n]
    neighbours : K, optional, between 2 p + 3 and n
    max_neighbours : largest K of the leave-one-out search

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
    known, y = as_sites("sites", sites), as_floats("response", response, 1).astype(np.float64)
    x = _covariates(covariates, len(known))
    if len(y) != len(known):
        raise ValueError(f"response has {len(y)} entries for {len(known)} sites; give one per site.")
    fewest = 2 * (1 + x.shape[1]) + 1
    if len(y) <= fewest:
        raise ValueError(f"{x.shape[1]} covariate(s) need more than {fewest} sites, got {len(y)}.")
    if neighbours is not None:
        if not (fewest <= neighbours <= len(y) and neighbours == int(neighbours)):
            raise ValueError(f"neighbours must be a number from {fewest} to the {len(y)} sites, got {neighbours}.")
        return LocalRegression(known, x, y, int(neighbours), {})
    if max_neighbours < fewest:
        raise ValueError(f"max_neighbours must be at least {fewest}, got {max_neighbours}.")
    errors = leave_one_out_errors(known, ScaledData.of(x, y), fewest=fewest, most=min(len(y) - 1, max_neighbours))
    best = min(errors, key=lambda k: errors[k])
    if best == max(errors) < len(y) - 1:
        warnings.warn(
            f"the leave-one-out error is least at the most neighbours tried, {best:,} of {len(y):,} sites: "
            "coefficients hardly vary in space; one regression for all sites may do, or raise `max_neighbours`.",
            stacklevel=2,
        )
    return LocalRegression(known, x, y, best, errors)


def _covariates(covariates: ArrayLike | None, size: int) -> np.ndarray:
    x = np.zeros((size, 0)) if covariates is None else as_floats("covariates", covariates, 2).astype(np.float64)
    if len(x) != size:
        raise ValueError(f"covariates have {len(x)} rows for {size} sites; give one per site.")
    return x
