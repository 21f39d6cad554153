"""Posterior draws of a loss surface as functions of location, with values and gradients anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
import scipy.linalg

from tercet.inference.posteriors.posterior import Posterior
from tercet.models._inputs import as_generator
from tercet.models.space.kernels import derivative_over_distance, frequencies, squared_distances
from tercet.models.space.loss_surfaces import LossSurface
from tercet.models.space.marginal_likelihoods import JITTER

FEATURES = 1_000
"""Random Fourier features of a draw from the prior; conditioning on the data uses the exact kernel."""
HYPERPARAMETERS = 100
"""Draws of the parameters where the process is integrated out: each costs a Cholesky factor, used by several draws."""
Parameters = Mapping[str, np.ndarray]
"""Site of the model to its draws."""


@dataclass(frozen=True, eq=False)
class SurfaceDraws:
    """Draws f of the surface; `parameters` holds arrays [draws].

    With a basis f(s) = level + Phi(s) w, `weights` [draws, b]. An exact process is drawn by pathwise conditioning
    (Wilson et al. 2020, ICML): f(s) = level + prior(s) + k(s, S) v, the prior draw by random features.
    """

    model: LossSurface
    parameters: Parameters
    weights: np.ndarray | None = None
    paths: tuple[Paths, ...] = ()

    def __len__(self) -> int:
        return len(self.parameters["level"])

    def values(self, coordinates: np.ndarray) -> np.ndarray:
        """Values [draws, m] of f at coordinates [m, q] of the frame."""
        level = self.parameters["level"][:, None]
        if self.weights is not None:
            return np.asarray(level + self.weights @ self.model.functions(coordinates).T)
        return np.asarray(level + np.concatenate([path.values(coordinates) for path in self.paths]))

    def gradients(self, coordinates: np.ndarray) -> np.ndarray:
        """Gradients [draws, m, q] of f along the axes of the frame."""
        if self.model.kernel == "matern 1/2":
            derivative_over_distance(self.model.kernel, np.zeros((1, 1)), 1.0)  # raises: it has none
        if self.weights is None:
            return np.concatenate([path.gradients(coordinates) for path in self.paths])
        return np.stack([self.weights @ slopes.T for slopes in self.model.derivatives(coordinates)], axis=-1)

    def expected(self, coordinates: np.ndarray) -> np.ndarray:
        """Expected losses [draws, m]."""
        columns = {name: value[:, None] for name, value in self.parameters.items()}
        return np.asarray(self.model.expected(self.values(coordinates), columns))


class Paths(NamedTuple):
    """Draws of an exact process that share its parameters: random features of the prior, and v of the conditioning."""

    model: LossSurface
    amplitude: float
    length: float
    frequency: np.ndarray
    phase: np.ndarray
    weight: np.ndarray
    sites: np.ndarray
    correction: np.ndarray

    def prior(self, coordinates: np.ndarray) -> np.ndarray:
        """Values [draws, m] of the draws from the prior."""
        return np.asarray(self.weight @ np.cos(self.frequency @ coordinates.T + self.phase[:, None]))

    def values(self, coordinates: np.ndarray) -> np.ndarray:
        """Values [draws, m] of the process."""
        covariance = self.model.covariance(self.sites, coordinates, self.amplitude, self.length)
        return np.asarray(self.prior(coordinates) + self.correction @ covariance)

    def gradients(self, coordinates: np.ndarray) -> np.ndarray:
        """Gradients [draws, m, q] of the process."""
        wave = -np.sin(self.frequency @ coordinates.T + self.phase[:, None])
        squared = squared_distances(self.sites, coordinates)
        slope = self.amplitude**2 * derivative_over_distance(self.model.kernel, squared, self.length)
        total = self.correction @ slope
        axes = [
            (self.weight * self.frequency[:, axis]) @ wave
            + total * coordinates[:, axis]
            - (self.correction * self.sites[:, axis]) @ slope
            for axis in range(coordinates.shape[1])
        ]
        return np.stack(axes, axis=-1)


def surface_draws(posterior: Posterior, draws: int, key: int | jax.Array = 0) -> SurfaceDraws:
    """Draw surfaces from the posterior of a LossSurface.

    Parameters
    ----------
    posterior : of a LossSurface (laplace, nuts)
    draws : number of surfaces
    key : int seed or JAX key
    """
    model, rng = _fitted_model(posterior), as_generator(key)
    if model.basis and not model.collapsed:
        parameters = posterior.draws(draws, key)
        return SurfaceDraws(model, _scalars(parameters), _scales(model, parameters) * parameters["process"])
    coordinates, response = _fitted_data(posterior, model)
    count = min(draws, HYPERPARAMETERS)
    parameters, repeat = posterior.draws(count, key), -(-draws // count)
    repeated = {name: np.repeat(value, repeat) for name, value in _scalars(parameters).items()}
    if model.basis:
        weights = weight_draws(model, parameters, coordinates, response, repeat=repeat, rng=rng)
        return SurfaceDraws(model, repeated, weights)
    each = ({name: np.asarray(value[i]) for name, value in parameters.items()} for i in range(count))
    paths = [pathwise_draws(model, one, coordinates, response, repeat=repeat, rng=rng) for one in each]
    return SurfaceDraws(model, repeated, paths=tuple(paths))


def _fitted_model(posterior: Posterior) -> LossSurface:
    model = posterior.model
    if not isinstance(model, LossSurface):
        raise ValueError(f"the posterior is of a {type(model).__name__}, not of a LossSurface.")
    return model


def _fitted_data(posterior: Posterior, model: LossSurface) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [n, q] of the sites of the fit, and the (log) losses [n] that the model observed."""
    if posterior.sites is None or posterior.losses is None:
        raise ValueError("this posterior was loaded without its data, which this question needs; load(path, *data).")
    return model.data(posterior.sites, posterior.losses)


def _scalars(parameters: Parameters) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float64) for name, value in parameters.items() if np.ndim(value) == 1}


def _scales(model: LossSurface, parameters: Parameters) -> np.ndarray:
    amplitude, length = (np.asarray(parameters[name], np.float64) for name in ("amplitude", "length"))
    return model.scales(amplitude, length)


def weight_draws(
    model: LossSurface,
    parameters: Parameters,
    coordinates: np.ndarray,
    response: np.ndarray,
    *,
    repeat: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Weights [draws * repeat, basis^q] given the response: `repeat` draws for each draw of the parameters."""
    phi, scales = model.functions(coordinates), _scales(model, parameters)
    gram, moment, ones = phi.T @ phi, phi.T @ response, phi.sum(axis=0)
    weights, work = [], np.empty_like(gram)
    for draw, scale in enumerate(scales):
        noise, level = parameters["noise"][draw] ** 2, parameters["level"][draw]
        np.multiply(gram, scale[:, None] / noise, out=work)
        work *= scale
        work[np.diag_indices_from(work)] += 1.0
        factor = scipy.linalg.cholesky(work.T, lower=True, overwrite_a=True, check_finite=False)
        mean = scipy.linalg.cho_solve((factor, True), scale * (moment - level * ones) / noise, check_finite=False)
        white = rng.standard_normal((len(scale), repeat))
        deviation = scipy.linalg.solve_triangular(factor, white, lower=True, trans=1, check_finite=False)
        weights.append((scale[:, None] * (mean[:, None] + deviation)).T)
    return np.concatenate(weights)


def pathwise_draws(
    model: LossSurface,
    parameters: Mapping[str, np.ndarray | float],
    coordinates: np.ndarray,
    response: np.ndarray,
    *,
    repeat: int,
    rng: np.random.Generator,
) -> Paths:
    """Draws of the exact process given the response and one draw of the parameters."""
    n, q = coordinates.shape
    amplitude, length = float(parameters["amplitude"]), float(parameters["length"])
    frequency, phase = frequencies(model.kernel, length, (FEATURES, q), rng), rng.uniform(0, 2 * np.pi, FEATURES)
    weight = amplitude * np.sqrt(2 / FEATURES) * rng.standard_normal((repeat, FEATURES))
    prior = Paths(model, amplitude, length, frequency, phase, weight, coordinates, np.zeros((repeat, n)))
    covariance = model.covariance(coordinates, coordinates, amplitude, length)
    if model.collapsed:
        noise = np.sqrt(float(parameters["noise"]) ** 2 + JITTER * amplitude**2)
        target = response - float(parameters["level"]) - noise * rng.standard_normal((repeat, n))
    else:
        noise = np.sqrt(10 * JITTER) * amplitude
        target = np.asarray(parameters["surface"] - parameters["level"])[None]
    covariance[np.diag_indices(n)] += noise**2
    factor = scipy.linalg.cho_factor(covariance, lower=True, overwrite_a=True)
    return prior._replace(correction=scipy.linalg.cho_solve(factor, (target - prior.prior(coordinates)).T).T)
