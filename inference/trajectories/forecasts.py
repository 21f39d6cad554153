"""Populations at other times, the parameters' uncertainty propagated; and whether linear noise was good enough."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tercet.inference.posteriors.posterior import Posterior
from tercet.models._inputs import as_floats, as_generator, as_jax
from tercet.models.trajectories.linear_noise import linear_noise_moments as moments
from tercet.models.trajectories.simulation import simulate
from tercet.models.trajectories.snapshot_model import SnapshotModel
from tercet.models.trajectories.snapshots import Snapshots


@dataclass(frozen=True)
class Forecast:
    """Predicted populations: one for each draw of the parameters.

    Attributes
    ----------
    times : array [K]
    particles : array [draws, K, n, d]
    names : d names of coordinates
    """

    times: np.ndarray
    particles: np.ndarray
    names: tuple[str, ...]

    def cloud(self, time: float, n: int | None = None, key: Any = 0) -> Float[np.ndarray, "n d"]:
        """Particles at one of the times, those of all draws together (the posterior predictive); n of them if asked."""
        pooled = self.particles[:, self._place(time)].reshape(-1, self.particles.shape[-1])
        return pooled if n is None else pooled[as_generator(key).choice(len(pooled), n, replace=n > len(pooled))]

    def bands(self, level: float = 0.9) -> Float[np.ndarray, "3 K d"]:
        """Lower end, median and upper end of the central `level` of particles, parameters' uncertainty included."""
        tail = (1.0 - level) / 2.0
        return np.quantile(self.particles, [tail, 0.5, 1.0 - tail], axis=(0, 2))

    def mean_bands(self, level: float = 0.9) -> Float[np.ndarray, "3 K d"]:
        """The same of the population's *mean*: what the parameters' uncertainty alone leaves open."""
        tail = (1.0 - level) / 2.0
        return np.quantile(self.particles.mean(axis=2), [tail, 0.5, 1.0 - tail], axis=0)

    def _place(self, time: float) -> int:
        near = np.flatnonzero(np.isclose(self.times, time))
        if not near.size:
            raise ValueError(f"no forecast at t = {time:g}; there are {self.times.tolist()}.")
        return int(near[0])


def forecast(
    posterior: Posterior,
    times: ArrayLike,
    *,
    particles: int = 200,
    draws: int = 20,
    from_snapshot: int = 0,
    step: float | None = None,
    key: Any = 0,
) -> Forecast:
    """Simulate populations under draws of the posterior, beyond the last snapshot or between two.

    x(t_from) is drawn from that snapshot's particles (unobserved coordinates from their fitted law, which is known at
    the first snapshot only), theta from the posterior, and the path from dX = b dt + s dW itself, not linearised.

    Parameters
    ----------
    posterior : of a SnapshotModel
    times : increasing array [K], all at or after the snapshot that is started from
    particles : number of particles of each population
    draws : number of draws of the parameters
    from_snapshot : which snapshot to start from; -1 the last, which forgets errors of the drift made before it
    step : of the simulation; default a hundredth of the median interval between snapshots
    key : int seed or JAX key

    Returns
    -------
    Forecast

    Raises
    ------
    ValueError
        Times before the start; a posterior without its model and data; particles that run off to infinity.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import fit_reference, forecast
    >>> from tercet.models import ReferenceSDE, SnapshotModel, Snapshots, constant_volatility, ornstein_uhlenbeck
    >>> rng = np.random.default_rng(0)
    >>> cells = Snapshots([rng.normal(k, 1.0, (40, 1)) for k in range(3)], times=[0.0, 1.0, 2.0])
    >>> fit = fit_reference(SnapshotModel(ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility())), cells)
    >>> forecast(fit, [3.0, 4.0], draws=5, from_snapshot=-1).particles.shape
    (5, 2, 200, 1)
    """
    model, snapshots = model_and_data(posterior)
    clock = as_floats("times", times, 1).astype(np.float64)
    origin = float(snapshots.times[from_snapshot])
    if np.any(np.diff(clock) <= 0) or clock[0] < origin:
        raise ValueError(
            f"times must increase from t = {origin:g} on, where the forecast starts; got {clock.tolist()}."
        )
    hidden = ~np.asarray(snapshots.observed)
    if hidden.any() and from_snapshot % len(snapshots):
        raise ValueError("with unobserved coordinates start from the first snapshot: their law is known only there.")
    rng = as_generator(key)
    sites = posterior.draws(draws, key=int(rng.integers(2**31)))
    pace = float(np.median(np.diff(snapshots.times))) / 100.0 if step is None else step
    cloud = snapshots.particles[from_snapshot].astype(np.float64)
    whole = clock if clock[0] == origin else np.concatenate([[origin], clock])
    found = []
    for i in range(draws):
        starts = cloud[rng.choice(len(cloud), particles, replace=particles > len(cloud))].copy()
        if hidden.any():
            law = sites["start_mean"][i], sites["start_sd"][i]
            starts[:, hidden] = rng.normal(*law, size=(particles, int(hidden.sum())))
        theta = {site: sites[site][i] for site in model.sde.priors}
        found.append(simulate(model.sde, theta, starts, whole, pace, key=int(rng.integers(2**31)))[-len(clock) :])
    return Forecast(clock, np.stack(found), model.sde.names)


def linear_noise_check(posterior: Posterior, particles: int = 500, key: Any = 0) -> Float[np.ndarray, " K"]:
    """Spread of simulated particles in units of the linear-noise law they should follow, one number a later snapshot.

    E (x - m)' S^-1 (x - m) / d over particles simulated at the posterior mean, m and S the moments from their own
    starts: 1 where linear noise is right, more where the drift bends the cloud. Warns above 1.25: the estimates are
    then biased (the volatility upwards); use anchor="consecutive", or paths > 0.

    Parameters
    ----------
    posterior : of a SnapshotModel
    particles : how many to simulate
    key : int seed or JAX key

    Returns
    -------
    array [K]
        Ratio at each snapshot after the first; with consecutive snapshots each from the one before.
    """
    model, snapshots = model_and_data(posterior)
    theta = {site: value for site, value in posterior.mean().items() if site in model.sde.priors}
    rng = as_generator(key)
    first = model.anchor == "first"
    ratios = []
    times = snapshots.times
    runs = [(0, times)] if first else [(k, times[k : k + 2]) for k in range(len(times) - 1)]
    for k, clock in runs:
        cloud = snapshots.particles[k].astype(np.float64)
        starts = cloud[rng.choice(len(cloud), particles)].copy()
        if not all(snapshots.observed):
            starts[:, ~np.asarray(snapshots.observed)] = posterior.mean()["start_mean"]
        paths = simulate(
            model.sde, theta, starts, clock, float(np.diff(clock).min()) / 50.0, key=int(rng.integers(2**31))
        )
        with jax.enable_x64(True):
            given, (at, ticks) = model.sde.parameters(theta), as_jax((starts, clock))
            law = moments(model.sde, given, at, ticks, 2 * model.substeps, None, snapshots.magnitude)
            away = jnp.asarray(paths[1:]) - law.mean
            ridge = 1e-12 * snapshots.magnitude**2 * jnp.eye(model.sde.dim)
            solved = jnp.linalg.solve(law.covariance + ridge, away[..., None])[..., 0]
            ratios.append(np.asarray((away * solved).sum(axis=-1).mean(axis=1) / model.sde.dim))
    found = np.concatenate(ratios)
    if found.max() > 1.25:
        warnings.warn(
            f"linear noise is too crude here: simulated particles spread {found.max():.2f} times as far (squared) as "
            f"it says at snapshot {int(found.argmax()) + 1}. Estimates are biased, the volatility upwards: use "
            'anchor="consecutive", or paths=100 (simulated transitions).',
            stacklevel=2,
        )
    return found


def model_and_data(posterior: Posterior) -> tuple[SnapshotModel, Snapshots]:
    """The snapshot model and the snapshots of a posterior, or an error that says what is missing."""
    model, args = posterior.context.model, posterior.context.args
    snapshots = next((value for value in args or () if isinstance(value, Snapshots)), None)
    if not isinstance(model, SnapshotModel) or snapshots is None:
        raise ValueError("this needs the posterior of a SnapshotModel with its snapshots, as fit_reference gives it.")
    return model, snapshots
