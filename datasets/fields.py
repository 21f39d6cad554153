"""Simulated spatial regression with known risk: clustered or uniform labels, a grid, one point or a line to predict."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from tercet.models._inputs import as_generator
from tercet.models.space.kernels import covariance
from tercet.models.space.sites import Sites

TRAIN, SIDE = 1_000, 30
COVARIATE_LENGTH, RESPONSE_LENGTH, FIELD_LENGTH, FIELD_VARIANCE, NOISE_VARIANCE = 0.3, 1.0, 0.5, 0.5, 0.1
JITTER = 1e-9
COPIES = {"grid": 50, "point": 45_000}


class Field(NamedTuple):
    """Responses at sites.

    Attributes
    ----------
    sites : Sites [n]
    covariates : array [n, p]
    response : array [n]; of test sites [copies, n], every copy with its own noise
    """

    sites: Sites
    covariates: np.ndarray
    response: np.ndarray


class SpatialTask(NamedTuple):
    """Where a model is trained, where it is validated, where it matters."""

    train: Field
    validation: Field
    test: Field


def gaussian_field_task(task: str = "grid", validation: int = 1_000, key: Any = 0) -> SpatialTask:
    """Simulate the two tasks of the SNN paper, in [-1/2, 1/2]^2.

    Two covariates are Gaussian processes over space; the response is a process over both covariates, plus one over
    space, plus white noise of variance 0.1. Labels are clustered and the test sites a grid of 30 x 30 ("grid", Matern
    3/2), or uniform and the test site the origin ("point", squared exponential). The sites grow one after the other:
    the first validation sites of a larger task have the law of a smaller one.

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
        places = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
        labels, kernel, root = _clustered(count, rng), "matern 3/2", _root
    else:
        places, labels = np.zeros((1, 2)), rng.uniform(-0.5, 0.5, (count, 2))
        kernel, root = "squared exponential", _smooth_root
    sites = np.concatenate([labels, places])
    first = root(_covariance(kernel, sites, COVARIATE_LENGTH))
    x = first @ rng.standard_normal((first.shape[1], 2))
    whole = _covariance(kernel, x, RESPONSE_LENGTH)
    whole += FIELD_VARIANCE * _covariance(kernel, sites, FIELD_LENGTH)
    second = root(whole)
    mean = second @ rng.standard_normal(second.shape[1])
    noise = np.sqrt(NOISE_VARIANCE)
    response = mean[:count] + noise * rng.standard_normal(count)
    copies = mean[count:] + noise * rng.standard_normal((COPIES[task], len(places)))

    def part(rows: slice, values: np.ndarray) -> Field:
        return Field(Sites(sites[rows]), x[rows], values)

    return SpatialTask(
        part(slice(0, TRAIN), response[:TRAIN]),
        part(slice(TRAIN, count), response[TRAIN:]),
        part(slice(count, None), copies),
    )


def line_task(validation: int = 100, key: Any = 0) -> SpatialTask:
    """Simulate the model-selection task of the SNN paper: y = |s| + U[0, 0.02] on [-1/2, 1/2], labels to the right.

    References
    ----------
    Burt, Shen, Broderick (2024), arXiv 2402.03527, section 5.3.
    """
    rng = as_generator(key)

    def part(s: np.ndarray) -> Field:
        sites = s[:, None] - 0.5
        return Field(Sites(sites), np.zeros((len(s), 0)), np.abs(sites[:, 0]) + 0.02 * rng.uniform(size=len(s)))

    train, labels = np.sqrt(rng.uniform(size=100)), np.sqrt(rng.uniform(size=validation))
    test = part(np.linspace(0, 1, 21))
    return SpatialTask(part(train), part(labels), test._replace(response=test.response[None]))


def _clustered(count: int, rng: np.random.Generator) -> np.ndarray:
    """Sites of a growing cluster process: a new cluster has weight 1, a chosen one gains one over its weight."""
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


def _covariance(kernel: str, points: np.ndarray, length: float) -> np.ndarray:
    """All covariances [n, n], by JAX: ten thousand points fill a hundred million cells, on all cores."""
    with jax.enable_x64(True):
        there = jnp.asarray(points)
        return np.array(jax.jit(lambda x: covariance(kernel, x, x, length))(there))


def _root(whole: np.ndarray) -> np.ndarray:
    """Cholesky factor [n, n]."""
    whole[np.diag_indices_from(whole)] += JITTER
    return scipy.linalg.cholesky(whole, lower=True, overwrite_a=True, check_finite=False)


def _smooth_root(whole: np.ndarray) -> np.ndarray:
    """Pivoted Cholesky factor [n, r]: a few hundred columns make a smooth process to the same jitter."""
    factor, pivot, rank, _ = scipy.linalg.lapack.dpstrf(whole, tol=JITTER, lower=1, overwrite_a=True)
    factor = np.tril(factor[:, :rank])
    return factor[np.argsort(pivot)]
