"""Space: simulated regression over sites with known risk, and elevations of the world's airfields."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from tercet.models._inputs import as_generator
from tercet.models.space.kernels import Kernel, covariance
from tercet.models.space.sites import Sites

TRAIN, SIDE = 1_000, 30
COVARIATE_LENGTH, RESPONSE_LENGTH, FIELD_LENGTH, FIELD_VARIANCE, NOISE_VARIANCE = 0.3, 1.0, 0.5, 0.5, 0.1
JITTER = 1e-9
COPIES = {"grid": 50, "point": 45_000}
FOOT = 0.3048


class SiteData(NamedTuple):
    """Covariates and responses at sites.

    Attributes
    ----------
    sites : Sites [n]
    covariates : array [n, p]
    response : array [n]; of test sites [copies, n], every copy with independent noise
    """

    sites: Sites
    covariates: np.ndarray
    response: np.ndarray


class SpatialTask(NamedTuple):
    """Data to train a model on, to validate it on, and those at the sites that matter."""

    train: SiteData
    validation: SiteData
    test: SiteData


def gaussian_field_task(
    task: Literal["grid", "point"] = "grid", validation: int = 1_000, key: int | jax.Array = 0
) -> SpatialTask:
    """Simulate the two tasks of the SNN paper, in [-1/2, 1/2]^2.

    Two covariates are Gaussian processes over space; the response is a process over both covariates, plus one over
    space, plus white noise of variance 0.1. Either the labels are clustered and the test sites a grid of 30 x 30
    ("grid", Matern 3/2), or they are uniform and the test site is the origin ("point", squared exponential). Sites are
    drawn one after the other: the first validation sites of a larger task are distributed as those of a smaller one.

    Parameters
    ----------
    task : "grid" or "point"
    validation : number of validation sites (training sites: 1,000)
    key : int seed or JAX key

    References
    ----------
    Burt, Shen, Broderick (2024), arXiv 2402.03527, section 5.1.
    """
    if task not in COPIES:
        raise ValueError(f'task must be "grid" or "point", got {task!r}.')
    rng = as_generator(key)
    count = TRAIN + validation
    if task == "grid":
        line = np.linspace(-0.5, 0.5, SIDE)
        targets = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
        labels = _clustered(count, rng)
    else:
        targets, labels = np.zeros((1, 2)), rng.uniform(-0.5, 0.5, (count, 2))
    kernel: Kernel = "matern 3/2" if task == "grid" else "squared exponential"
    root = _root if task == "grid" else _low_rank_root
    sites = np.concatenate([labels, targets])
    first = root(_covariance(kernel, sites, COVARIATE_LENGTH))
    x = first @ rng.standard_normal((first.shape[1], 2))
    total = _covariance(kernel, x, RESPONSE_LENGTH)
    total += FIELD_VARIANCE * _covariance(kernel, sites, FIELD_LENGTH)
    second = root(total)
    mean = second @ rng.standard_normal(second.shape[1])
    noise = np.sqrt(NOISE_VARIANCE)
    response = mean[:count] + noise * rng.standard_normal(count)
    copies = mean[count:] + noise * rng.standard_normal((COPIES[task], len(targets)))

    def part(rows: slice, values: np.ndarray) -> SiteData:
        return SiteData(Sites(sites[rows]), x[rows], values)

    return SpatialTask(
        part(slice(0, TRAIN), response[:TRAIN]),
        part(slice(TRAIN, count), response[TRAIN:]),
        part(slice(count, None), copies),
    )


def line_task(validation: int = 100, key: int | jax.Array = 0) -> SpatialTask:
    """Simulate the model-selection task of the SNN paper: y = |s| + U[0, 0.02] on [-1/2, 1/2], labels to the right.

    Parameters
    ----------
    validation : number of validation sites (training sites: 100)
    key : int seed or JAX key

    References
    ----------
    Burt, Shen, Broderick (2024), arXiv 2402.03527, section 5.3.
    """
    rng = as_generator(key)

    def part(s: np.ndarray) -> SiteData:
        sites = s[:, None] - 0.5
        return SiteData(Sites(sites), np.zeros((len(s), 0)), np.abs(sites[:, 0]) + 0.02 * rng.uniform(size=len(s)))

    train, labels = np.sqrt(rng.uniform(size=100)), np.sqrt(rng.uniform(size=validation))
    test = part(np.linspace(0, 1, 21))
    return SpatialTask(part(train), part(labels), test._replace(response=test.response[None]))


def _clustered(count: int, rng: np.random.Generator) -> np.ndarray:
    """Sites of a cluster process: a new cluster has weight 1, one that is chosen gains one over its weight."""
    centers: list[np.ndarray] = []
    sds: list[float] = []
    weights: list[float] = []
    sites: list[np.ndarray] = []
    while len(sites) < count:
        chances = np.append(weights, 1.0)
        chosen = int(np.searchsorted(np.cumsum(chances), rng.uniform() * chances.sum()))
        if chosen == len(weights):
            centers.append(rng.uniform(-0.5, 0.5, 2))
            sds.append(rng.uniform(0.05, 0.15))
            weights.append(1.0)
        sites.append(centers[chosen] + sds[chosen] * rng.standard_normal(2))
        weights[chosen] += 1 / weights[chosen]
    return np.array(sites)


def _covariance(kernel: Kernel, points: np.ndarray, length: float) -> np.ndarray:
    """All covariances [n, n], by JAX: ten thousand points make a hundred million of them, on all cores."""
    with jax.enable_x64(True):
        return np.array(jax.jit(lambda x: covariance(kernel, x, x, length))(jnp.asarray(points)))


def _root(matrix: np.ndarray) -> np.ndarray:
    """Cholesky factor [n, n]."""
    matrix[np.diag_indices_from(matrix)] += JITTER
    return np.asarray(scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False))


def _low_rank_root(matrix: np.ndarray) -> np.ndarray:
    """Pivoted Cholesky factor [n, r]: for a smooth process a few hundred columns reach the precision of the jitter."""
    factor, pivot, rank, _ = scipy.linalg.lapack.dpstrf(matrix, tol=JITTER, lower=1, overwrite_a=True)
    return np.asarray(np.tril(factor[:, :rank])[np.argsort(pivot)])


class Airfields(NamedTuple):
    """Airfields of the world.

    Attributes
    ----------
    sites : Sites on the sphere [n], their codes as ids
    elevation : array [n], metres above sea level
    country : array [n] of ISO codes ("US", "BR", ...)
    region : array [n], first part of the time zone ("America", "Europe", ...)
    """

    sites: Sites
    elevation: np.ndarray
    country: np.ndarray
    region: np.ndarray


def airfields() -> Airfields:
    """Load the 28,000 airfields that the package airportsdata lists with a position, sorted by code.

    Real sites that are dense where people fly.

    Raises
    ------
    ImportError
        Where airportsdata is not installed: `pip install "tercet[airfields]"`.

    Examples
    --------
    >>> from tercet.datasets import airfields
    >>> fields = airfields()  # doctest: +SKIP
    >>> len(fields.sites)  # doctest: +SKIP
    28298
    """
    try:
        import airportsdata
    except ImportError as error:
        raise ImportError('the airfields come with airportsdata: pip install "tercet[airfields]".') from error
    rows = [row for _, row in sorted(airportsdata.load("ICAO").items())]
    coordinates = np.array([(row["lat"], row["lon"]) for row in rows])
    known = np.isfinite(coordinates).all(axis=1) & (coordinates != 0).any(axis=1)
    rows = [row for row, keep in zip(rows, known, strict=True) if keep]
    return Airfields(
        Sites(coordinates[known], "sphere", ids=[row["icao"] for row in rows]),
        np.array([row["elevation"] for row in rows]) * FOOT,
        np.array([row["country"] for row in rows]),
        np.array([str(row["tz"]).split("/")[0] for row in rows]),
    )
