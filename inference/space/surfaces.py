"""Draws of a fitted loss surface, as functions of place: values and gradients anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.linalg

from tercet.inference.posteriors.posterior import Posterior
from tercet.models._inputs import as_generator, as_jax
from tercet.models.space.geometry import as_sites
from tercet.models.space.kernels import frequencies, slope_over_distance, squares
from tercet.models.space.loss_surfaces import JITTER, LossSurface

FEATURES = 1_000
"""Random Fourier features of a prior draw; the data correct it with the exact kernel."""
HYPERPARAMETERS = 100
"""Draws of the parameters where the process is integrated out: each costs a Cholesky factor, serves several draws."""


@dataclass(frozen=True, eq=False)
class SurfaceDraws:
    """Draws f of the surface; `parameters` holds arrays [draws].

    On a basis f(s) = level + Phi(s) w. An exact process is drawn by pathwise conditioning (Wilson et al. 2020, ICML):
    f(s) = level + prior(s) + k(s, S) v, the prior draw by random features, v what the data correct.
    """

    model: LossSurface
    parameters: dict[str, np.ndarray]
    weights: np.ndarray | None = None
    paths: tuple[_Paths, ...] = ()

    def values(self, places: np.ndarray) -> np.ndarray:
        """F [draws, m] at coordinates [m, q] of the frame."""
        level = self.parameters["level"][:, None]
        if self.weights is not None:
            return level + self.weights @ basis_functions(self.model, places).T
        return level + np.concatenate([path.values(places) for path in self.paths])

    def gradients(self, places: np.ndarray) -> np.ndarray:
        """Gradients [draws, m, q] of f along the axes of the frame."""
        if self.model.kernel == "matern 1/2":
            slope_over_distance(self.model.kernel, np.zeros((1, 1)), 1.0)  # raises: it has none
        if self.weights is None:
            return np.concatenate([path.gradients(places) for path in self.paths])
        with jax.enable_x64(True):
            slopes = np.asarray(self.model.slopes(as_jax(places)))
        return np.stack([self.weights @ slope.T for slope in slopes], axis=-1)

    def expected(self, places: np.ndarray) -> np.ndarray:
        """Expected losses [draws, m]."""
        scalars = {name: value[:, None] for name, value in self.parameters.items()}
        return self.model.expected(self.values(places), scalars)


class _Paths(NamedTuple):
    """Draws of an exact process that share their parameters."""

    model: LossSurface
    amplitude: float
    length: float
    frequency: np.ndarray
    phase: np.ndarray
    weight: np.ndarray
    sites: np.ndarray
    pull: np.ndarray

    def prior(self, places: np.ndarray) -> np.ndarray:
        return self.weight @ np.cos(self.frequency @ places.T + self.phase[:, None])

    def values(self, places: np.ndarray) -> np.ndarray:
        return self.prior(places) + self.pull @ self.model.covariance(self.sites, places, self.amplitude, self.length)

    def gradients(self, places: np.ndarray) -> np.ndarray:
        wave = -np.sin(self.frequency @ places.T + self.phase[:, None])
        gap = squares(self.sites, places)
        steep = self.amplitude**2 * slope_over_distance(self.model.kernel, gap, self.length)
        whole = self.pull @ steep
        axes = [
            (self.weight * self.frequency[:, axis]) @ wave
            + whole * places[:, axis]
            - (self.pull * self.sites[:, axis]) @ steep
            for axis in range(places.shape[1])
        ]
        return np.stack(axes, axis=-1)


def surface_draws(posterior: Posterior, draws: int, key: Any = 0) -> SurfaceDraws:
    """Draw surfaces from the posterior of a LossSurface.

    Parameters
    ----------
    posterior : of a LossSurface (laplace, nuts)
    draws : number of surfaces
    key : int seed or JAX key
    """
    model = posterior.context.model
    if not isinstance(model, LossSurface):
        raise ValueError(f"the posterior is of a {type(model).__name__}, not of a LossSurface.")
    rng = as_generator(key)
    if model.basis and not model.collapsed:
        parameters = posterior.draws(draws, key)
        return SurfaceDraws(model, _scalars(parameters), _scales(model, parameters) * parameters["process"])
    if posterior.context.args is None:
        raise ValueError("this posterior was loaded without its data, which this question needs; load(path, *data).")
    sites, losses = posterior.context.args
    places = model.frame.coordinates(as_sites("sites", sites, model.frame.metric))
    seen = np.log(losses) if model.family == "log-normal" else np.asarray(losses, dtype=np.float64)
    count = min(draws, HYPERPARAMETERS)
    parameters, repeat = posterior.draws(count, key), -(-draws // count)
    repeated = {name: np.repeat(value, repeat) for name, value in _scalars(parameters).items()}
    if model.basis:
        return SurfaceDraws(model, repeated, _conditioned(model, parameters, places, seen, repeat, rng))
    paths = tuple(
        _paths(model, {name: value[i] for name, value in parameters.items()}, places, seen, repeat, rng)
        for i in range(count)
    )
    return SurfaceDraws(model, repeated, paths=paths)


def basis_functions(model: LossSurface, places: np.ndarray) -> np.ndarray:
    """Eigenfunctions [n, basis^q] in 64 bit."""
    with jax.enable_x64(True):
        return np.asarray(model.functions(as_jax(places)))


def _scalars(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float64) for name, value in parameters.items() if np.ndim(value) == 1}


def _scales(model: LossSurface, parameters: dict[str, np.ndarray]) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(model.scales)(*as_jax((parameters["amplitude"], parameters["length"]))))


def _conditioned(
    model: LossSurface, parameters: dict[str, Any], places: np.ndarray, seen: np.ndarray, repeat: int, rng: Any
) -> np.ndarray:
    """Weights [count * repeat, basis^q] given the values seen."""
    phi, scales = basis_functions(model, places), _scales(model, parameters)
    gram, moment, ones = phi.T @ phi, phi.T @ seen, phi.sum(axis=0)
    weights = []
    for draw, scale in enumerate(scales):
        noise, level = parameters["noise"][draw] ** 2, parameters["level"][draw]
        whole = scale[:, None] * gram * scale / noise
        whole[np.diag_indices_from(whole)] += 1.0
        factor = scipy.linalg.cholesky(whole, lower=True, overwrite_a=True)
        mean = scipy.linalg.cho_solve((factor, True), scale * (moment - level * ones) / noise)
        white = rng.standard_normal((len(scale), repeat))
        extra = scipy.linalg.solve_triangular(factor, white, lower=True, trans=1)
        weights.append((scale[:, None] * (mean[:, None] + extra)).T)
    return np.concatenate(weights)


def _paths(
    model: LossSurface, parameters: dict[str, Any], places: np.ndarray, seen: np.ndarray, repeat: int, rng: Any
) -> _Paths:
    n, q = places.shape
    amplitude, length = float(parameters["amplitude"]), float(parameters["length"])
    frequency, phase = frequencies(model.kernel, length, (FEATURES, q), rng), rng.uniform(0, 2 * np.pi, FEATURES)
    weight = amplitude * np.sqrt(2 / FEATURES) * rng.standard_normal((repeat, FEATURES))
    prior = _Paths(model, amplitude, length, frequency, phase, weight, places, np.zeros((repeat, n)))
    whole = model.covariance(places, places, amplitude, length)
    if model.collapsed:
        noise = np.sqrt(float(parameters["noise"]) ** 2 + JITTER * amplitude**2)
        target = seen - float(parameters["level"]) - noise * rng.standard_normal((repeat, n))
    else:
        noise = np.sqrt(10 * JITTER) * amplitude
        target = np.asarray(parameters["surface"] - parameters["level"])[None]
    whole[np.diag_indices(n)] += noise**2
    factor = scipy.linalg.cho_factor(whole, lower=True, overwrite_a=True)
    return prior._replace(pull=scipy.linalg.cho_solve(factor, (target - prior.prior(places)).T).T)
