"""Populations at other times under the posterior of the parameters, and a check of the linear-noise approximation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from tercet.inference.posteriors.posterior import Posterior
from tercet.models._inputs import KeyLike, as_floats, as_generator, as_jax
from tercet.models.trajectories.linear_noise import linear_noise_moments
from tercet.models.trajectories.reference_sdes import ReferenceSDE, Theta, Values
from tercet.models.trajectories.simulation import simulate
from tercet.models.trajectories.snapshot_model import SnapshotModel
from tercet.models.trajectories.snapshots import Snapshots

LARGEST_SPREAD = 1.25  # of simulated particles beside linear noise, beyond which a warning is given


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

    def cloud(self, time: float, n: int | None = None, key: KeyLike = 0) -> Float[np.ndarray, "n d"]:
        """Posterior predictive particles at one of the times: those of all draws together, or n of them."""
        pooled = self.particles[:, self._index(time)].reshape(-1, self.particles.shape[-1])
        return pooled if n is None else pooled[as_generator(key).choice(len(pooled), n, replace=n > len(pooled))]

    def bands(self, level: float = 0.9) -> Float[np.ndarray, "3 K d"]:
        """Lower end, median and upper end of the central `level` of particles, all uncertainty included."""
        return _interval(self.particles, level, (0, 2))

    def mean_bands(self, level: float = 0.9) -> Float[np.ndarray, "3 K d"]:
        """The same of the population's *mean*, which reflects the uncertainty of the parameters alone."""
        return _interval(self.particles.mean(axis=2), level, (0,))

    def _index(self, time: float) -> int:
        near = np.flatnonzero(np.isclose(self.times, time))
        if not near.size:
            raise ValueError(f"no forecast at t = {time:g}; there are {self.times.tolist()}.")
        return int(near[0])


def _interval(values: np.ndarray, level: float, axis: tuple[int, ...]) -> np.ndarray:
    tail = (1.0 - level) / 2.0
    quantiles: np.ndarray = np.quantile(values, [tail, 0.5, 1.0 - tail], axis=axis)
    return quantiles


def forecast(
    posterior: Posterior,
    times: ArrayLike,
    *,
    particles: int = 200,
    draws: int = 20,
    from_snapshot: int = 0,
    step: float | None = None,
    key: KeyLike = 0,
) -> Forecast:
    """Simulate populations under draws of the posterior, beyond the last snapshot or between two.

    x(t_from) is drawn from that snapshot's particles (unobserved coordinates from their fitted distribution, which is
    known at the first snapshot only), theta from the posterior, and the path from dX = b dt + s dW itself, not
    linearised.

    Parameters
    ----------
    posterior : of a SnapshotModel
    times : increasing array [K], all at or after the snapshot that is started from
    particles : number of particles of each population
    draws : number of draws of the parameters
    from_snapshot : index of the snapshot to start from; -1, the last: errors of the drift before it do not matter
    step : of the simulation; default a hundredth of the median interval between snapshots
    key : int seed or JAX key

    Returns
    -------
    Forecast

    Raises
    ------
    ValueError
        Times before the start; a posterior without its model and data; particles that diverge.

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
    model, snapshots = fitted_snapshots(posterior)
    clock = as_floats("times", times, 1).astype(np.float64)
    origin = float(snapshots.times[from_snapshot])
    if np.any(np.diff(clock) <= 0) or clock[0] < origin:
        raise ValueError(
            f"times must increase from t = {origin:g} on, where the forecast starts; got {clock.tolist()}."
        )
    hidden = ~np.asarray(snapshots.observed)
    if hidden.any() and from_snapshot % len(snapshots):
        raise ValueError(
            "with unobserved coordinates start from the first snapshot: their distribution is known only there."
        )
    rng = as_generator(key)
    sites = posterior.draws(draws, key=int(rng.integers(2**31)))
    longest = float(np.median(np.diff(snapshots.times))) / 100.0 if step is None else step
    cloud = snapshots.particles[from_snapshot].astype(np.float64)
    whole = clock if clock[0] == origin else np.concatenate([[origin], clock])
    populations = []
    for i in range(draws):
        starts = cloud[rng.choice(len(cloud), particles, replace=particles > len(cloud))].copy()
        if hidden.any():
            mean, sd = sites["start_mean"][i], sites["start_sd"][i]
            starts[:, hidden] = rng.normal(mean, sd, size=(particles, int(hidden.sum())))
        theta = {site: sites[site][i] for site in model.sde.priors}
        paths = simulate(model.sde, theta, starts, whole, step=longest, key=int(rng.integers(2**31)))
        populations.append(paths[-len(clock) :])
    return Forecast(clock, np.stack(populations), model.sde.names)


def linear_noise_check(posterior: Posterior, particles: int = 500, key: KeyLike = 0) -> Float[np.ndarray, " K"]:
    """Spread of simulated particles relative to linear noise, one number for each later snapshot.

    E (x - m)' S^-1 (x - m) / d over particles simulated at the posterior mean, m and S the moments from their own
    starts: 1 where linear noise is right, more where the drift is nonlinear over a transition. Warns above 1.25: the
    estimates are then biased (the volatility upwards); use anchor="consecutive", or paths > 0.

    Parameters
    ----------
    posterior : of a SnapshotModel
    particles : number of particles to simulate
    key : int seed or JAX key

    Returns
    -------
    array [K]
        Ratio at each snapshot after the first; with consecutive snapshots, of transitions from the one before.
    """
    model, snapshots = fitted_snapshots(posterior)
    mean = posterior.mean()
    theta = {site: mean[site] for site in model.sde.priors}
    hidden, times = ~np.asarray(snapshots.observed), snapshots.times
    rng = as_generator(key)
    first = model.anchor == "first"
    runs = [(0, times)] if first else [(k, times[k : k + 2]) for k in range(len(times) - 1)]
    ratios = []
    for k, clock in runs:
        cloud = snapshots.particles[k].astype(np.float64)
        starts = cloud[rng.choice(len(cloud), particles)].copy()
        if hidden.any():
            starts[:, hidden] = mean["start_mean"]
        step = float(np.diff(clock).min()) / 50.0
        paths = simulate(model.sde, theta, starts, clock, step=step, key=int(rng.integers(2**31)))
        ratios.append(_spread(model, theta, paths, clock, snapshots.magnitude))
    ratio = np.concatenate(ratios)
    if ratio.max() > LARGEST_SPREAD:
        warnings.warn(
            f"linear noise is inaccurate for this reference: at snapshot {int(ratio.argmax()) + 1} the variance of "
            f"simulated particles is {ratio.max():.2f} times what it assumes. Estimates are biased, the volatility "
            'upwards: use anchor="consecutive", or paths=100 (simulated transitions).',
            stacklevel=2,
        )
    return ratio


def _spread(
    model: SnapshotModel, theta: Values, paths: np.ndarray, clock: np.ndarray, scale: float | Array
) -> Float[np.ndarray, " K"]:
    """Mean of (x - m)' S^-1 (x - m) / d over the paths [K + 1, n, d], at each time but the first."""
    with jax.enable_x64(True):
        given = as_jax((model.sde, model.sde.parameters(theta), paths, clock, np.asarray(scale)))
        return np.asarray(_mean_square(2 * model.substeps, *given).mean(axis=1)) / model.sde.dim


@jax.jit
def _mean_square(
    substeps: int | Array, sde: ReferenceSDE, theta: Theta, paths: Array, clock: Array, scale: Array
) -> Float[Array, "K n"]:
    """(x - m)' S^-1 (x - m) of each path at each time but the first."""
    moments = linear_noise_moments(sde, theta, paths[0], clock, substeps=jnp.asarray(substeps), scale=scale)
    offset = paths[1:] - moments.mean
    ridge = 1e-12 * scale**2 * jnp.eye(sde.dim)
    solved = jnp.linalg.solve(moments.covariance + ridge, offset[..., None])[..., 0]
    each: Array = (offset * solved).sum(axis=-1)
    return each


def fitted_snapshots(posterior: Posterior) -> tuple[SnapshotModel, Snapshots]:
    """The snapshot model and the snapshots of a posterior; raises where it has none."""
    model, snapshots = posterior.model, posterior.snapshots
    if not isinstance(model, SnapshotModel) or snapshots is None:
        raise ValueError("this needs the posterior of a SnapshotModel with its snapshots, as fit_reference gives it.")
    return model, snapshots
