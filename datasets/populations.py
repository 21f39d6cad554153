"""Simulated population snapshots with known truth: each an independent population started at the first time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import jax.typing
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array
from numpy.typing import ArrayLike

from tercet.models._inputs import KeyLike, as_floats, as_generator
from tercet.models.trajectories.families import big_vortex, coupled_springs, lamb_oseen, lotka_volterra, repressilator
from tercet.models.trajectories.reference_sdes import Drift, ReferenceSDE, Theta, Values
from tercet.models.trajectories.simulation import simulate
from tercet.models.trajectories.snapshots import Snapshots
from tercet.models.trajectories.volatilities import constant_volatility, diagonal_volatility, proportional_volatility

InitialDistribution = Callable[[np.random.Generator, int], ArrayLike]
"""(generator, n) -> [n, d]: n draws of the state at the first time."""

EACH_UNIT = tuple(range(11))
EACH_HALF = tuple(k / 2.0 for k in range(11))
NOISES = {"proportional": (proportional_volatility, 0.02), "constant": (constant_volatility, 0.1)}


class SimulatedPopulations(NamedTuple):
    """Simulated snapshots, with the truth that made them.

    Attributes
    ----------
    snapshots : Snapshots, zeros in the coordinates that are not observed
    theta : dict of the true parameters
    sde : ReferenceSDE with these parameters, priors included: the model to fit
    particles : tuple of arrays [n_k, d], all coordinates of the same particles
    """

    snapshots: Snapshots
    theta: dict[str, np.ndarray]
    sde: ReferenceSDE
    particles: tuple[np.ndarray, ...]


def population_snapshots(
    sde: ReferenceSDE,
    theta: Values,
    start: InitialDistribution | ArrayLike,
    times: ArrayLike,
    *,
    particles: int | ArrayLike = 200,
    step: float = 0.01,
    key: KeyLike = 0,
    observed: Sequence[bool] | None = None,
) -> SimulatedPopulations:
    """Draw snapshots as destructive measurements give them: at every time fresh particles, which started at times[0].

    Paths are those of `tercet.models.simulate`. For a second sample of the same populations take another key; for
    the truth at other times take other times, the first of them the same.

    Parameters
    ----------
    sde : ReferenceSDE of d coordinates
    theta : dict of the values of all its parameters
    start : callable (generator, n) -> array [n, d], or array [m, d]
        Distribution of the particles at times[0]; rows of an array are drawn, without replacement within a snapshot
        while there are enough.
    times : increasing array [K]
    particles : how many in each snapshot, or an array [K] of numbers
    step : longest substep of the simulation, in units of time
    key : int seed or JAX key
    observed : d booleans, which coordinates the snapshots show (default all)

    Examples
    --------
    >>> from tercet.datasets import population_snapshots
    >>> from tercet.models import ReferenceSDE, constant_volatility, ornstein_uhlenbeck
    >>> sde = ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility(0.3))
    >>> def start(generator, n):
    ...     return generator.normal(2.0, 0.1, size=(n, 1))
    >>> truth = population_snapshots(sde, {"rate": [1.0], "level": [0.0]}, start, [0, 1, 2], particles=[30, 20, 40])
    >>> [len(cloud) for cloud in truth.snapshots.particles]
    [30, 20, 40]
    """
    clock = as_floats("times", times, 1)
    sizes = _sizes(particles, len(clock))
    draw = start if callable(start) else _rows(start)
    rng = as_generator(key)
    begins = [_begin(draw(rng, n), n, sde.dim) for n in sizes]
    paths = simulate(sde, theta, np.concatenate(begins), clock, step=step, key=key)
    # All populations run to the end in one compiled program; each is observed at one time.
    groups = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    clouds = tuple(paths[k, group] for k, group in enumerate(groups))
    seen = [True] * sde.dim if observed is None else [bool(value) for value in observed]
    if len(seen) != sde.dim:
        raise ValueError(f"observed must have {sde.dim} booleans, got {len(seen)}.")
    snapshots = Snapshots([np.where(seen, cloud, 0.0) for cloud in clouds], clock, sde.names, seen)
    values = {site: np.asarray(theta[site], dtype=np.float64) for site in sde.priors}
    return SimulatedPopulations(snapshots, values, sde, clouds)


def lotka_volterra_snapshots(
    particles: int | ArrayLike = 200,
    times: ArrayLike = EACH_UNIT,
    *,
    volatility: float | None = None,
    noise: Literal["proportional", "constant"] = "proportional",
    step: float = 0.01,
    key: KeyLike = 0,
) -> SimulatedPopulations:
    """Predator and prey: alpha 1, beta 0.4, gamma 0.4, delta 0.1, started uniformly on [5, 5.1] x [4, 4.1].

    The setting of a published benchmark.

    Parameters
    ----------
    particles : how many in each snapshot, or an array [K] of numbers
    times : increasing array [K], the first the time of the start
    volatility : default 0.02 (times the state), or 0.1 for constant noise
    noise : "proportional" or "constant"
    step : longest substep of the simulation, in units of time
    key : int seed or JAX key

    References
    ----------
    Shen, Berlinghieri and Broderick (2024), arXiv 2408.06277; Berlinghieri, Shen et al. (2025), arXiv 2505.16082.

    Examples
    --------
    >>> from tercet.datasets import lotka_volterra_snapshots
    >>> truth = lotka_volterra_snapshots(particles=50, times=[0, 1, 2])
    >>> truth.snapshots.names, truth.snapshots.particles[2].shape
    (('prey', 'predator'), (50, 2))
    """
    sde, level = _reference(lotka_volterra(), noise, volatility)
    theta = {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1, "volatility": level}
    start = _box([5.0, 4.0], [5.1, 4.1])
    return population_snapshots(sde, theta, start, times, particles=particles, step=step, key=key)


def repressilator_snapshots(
    particles: int | ArrayLike = 200,
    times: ArrayLike = EACH_UNIT,
    *,
    volatility: float | None = None,
    noise: Literal["proportional", "constant"] = "proportional",
    protein: bool = False,
    step: float = 0.01,
    key: KeyLike = 0,
) -> SimulatedPopulations:
    """Three genes: beta 10, n 3, k 1, gamma 1, mRNA started uniformly on [1, 1.1] x [1, 1.1] x [2, 2.1].

    With `protein` the proteins follow at rate 1, all started at (1, 1, 2) and never observed: the snapshots hold zeros
    there, `SimulatedPopulations.particles` the truth.

    Parameters
    ----------
    particles : how many in each snapshot, or an array [K] of numbers
    times : increasing array [K], the first the time of the start
    volatility : default 0.02 (times the state), or 0.1 for constant noise
    noise : "proportional" or "constant"
    protein : simulate six coordinates, of which the three mRNA are observed
    step : longest substep of the simulation, in units of time
    key : int seed or JAX key

    References
    ----------
    Elowitz and Leibler (2000), Nature 403; the setting without proteins is that of Shen, Berlinghieri and Broderick
    (2024), arXiv 2408.06277.

    Examples
    --------
    >>> from tercet.datasets import repressilator_snapshots
    >>> truth = repressilator_snapshots(particles=20, times=[0, 1], protein=True)
    >>> truth.snapshots.observed
    (True, True, True, False, False, False)
    """
    sde, level = _reference(repressilator(protein), noise, volatility)
    theta = {"beta": 10.0, "n": 3.0, "k": 1.0, "gamma": 1.0, "volatility": level}
    low, high = [1.0, 1.0, 2.0], [1.1, 1.1, 2.1]
    if not protein:
        return population_snapshots(sde, theta, _box(low, high), times, particles=particles, step=step, key=key)
    start, seen = _box(low + low, high + low), [True] * 3 + [False] * 3
    return population_snapshots(
        sde, theta | {"rate": 1.0}, start, times, particles=particles, step=step, key=key, observed=seen
    )


def double_well_snapshots(
    particles: int | ArrayLike = 200,
    times: ArrayLike = EACH_HALF,
    *,
    volatility: float = 0.3,
    step: float = 0.01,
    key: KeyLike = 0,
) -> SimulatedPopulations:
    """Populations that split in two: b(x) = (force (x0 - x0^3), rate (level - x1)), force 1, rate 1, level 0.

    The first coordinate leaves the maximum at 0 of the potential force (x0^2 - 1)^2 / 4 for its wells at -1 and 1; the
    start is uniform on [-0.1, 0.1] x [0.9, 1.1]. Transitions over a long time are far from Gaussian.

    Parameters
    ----------
    particles : how many in each snapshot, or an array [K] of numbers
    times : increasing array [K], the first the time of the start
    volatility : the same constant for both coordinates
    step : longest substep of the simulation, in units of time
    key : int seed or JAX key

    Examples
    --------
    >>> from tercet.datasets import double_well_snapshots
    >>> ends = double_well_snapshots(particles=400, times=[0, 5]).snapshots.particles[1]
    >>> bool((ends[:, 0] < -0.5).any() and (ends[:, 0] > 0.5).any())
    True
    """
    sde, level = _reference(_double_well(), "constant", volatility)
    theta = {"force": 1.0, "rate": 1.0, "level": 0.0, "volatility": level}
    start = _box([-0.1, 0.9], [0.1, 1.1])
    return population_snapshots(sde, theta, start, times, particles=particles, step=step, key=key)


def spring_snapshots(
    masses: int = 2,
    dim: int = 1,
    *,
    particles: int | ArrayLike = 200,
    times: ArrayLike = EACH_HALF,
    volatility: float = 0.1,
    step: float = 0.01,
    key: KeyLike = 0,
) -> SimulatedPopulations:
    """A chain of masses whose positions are observed: stiffness 1, damping 0.2, noise on the velocities only.

    Mass i rests at i in every dimension. All start half a unit beyond their rest, uniform within 0.1 of it, at
    velocities uniform on [-0.1, 0.1]. The volatility is known, not a parameter of the reference.

    Parameters
    ----------
    masses, dim : number of masses, dimensions in which each moves
    particles : how many in each snapshot, or an array [K] of numbers
    times : increasing array [K], the first the time of the start
    volatility : of each velocity
    step : longest substep of the simulation, in units of time
    key : int seed or JAX key

    Examples
    --------
    >>> from tercet.datasets import spring_snapshots
    >>> truth = spring_snapshots(particles=20, times=[0, 1])
    >>> truth.snapshots.names, truth.snapshots.observed
    (('position 1', 'position 2', 'velocity 1', 'velocity 2'), (True, True, False, False))
    """
    rest = np.repeat(np.arange(1.0, masses + 1.0), dim)
    size = len(rest)
    noise = diagonal_volatility(2 * size, [0.0] * size + [volatility] * size)
    sde = ReferenceSDE(coupled_springs(masses, dim), noise)
    center = np.concatenate([rest + 0.5, np.zeros(size)])
    theta: Values = {"stiffness": 1.0, "damping": 0.2, "rest": rest}
    start, seen = _box(center - 0.1, center + 0.1), [True] * size + [False] * size
    return population_snapshots(sde, theta, start, times, particles=particles, step=step, key=key, observed=seen)


def vortex_snapshots(
    particles: int | ArrayLike = 200,
    times: ArrayLike = EACH_HALF,
    *,
    volatility: float = 0.1,
    kind: Literal["big_vortex", "lamb_oseen"] = "big_vortex",
    step: float = 0.01,
    key: KeyLike = 0,
) -> SimulatedPopulations:
    """Drifters in an eddy about (0.5, -0.3), started uniformly on [1.5, 2] x [-0.5, 0].

    "big_vortex" turns the whole plane (omega 1, inflow 0.1); "lamb_oseen" is one vortex of circulation 2 pi and core
    0.5, slower with the distance, so that a population is drawn out along its circle.

    Parameters
    ----------
    particles : how many in each snapshot, or an array [K] of numbers
    times : increasing array [K], the first the time of the start
    volatility : the same constant for both coordinates
    kind : "big_vortex" or "lamb_oseen"
    step : longest substep of the simulation, in units of time
    key : int seed or JAX key

    Examples
    --------
    >>> from tercet.datasets import vortex_snapshots
    >>> sorted(vortex_snapshots(particles=20, times=[0, 1], kind="lamb_oseen").theta)
    ['center', 'circulation', 'core', 'volatility']
    """
    truths: dict[str, tuple[Drift, dict[str, ArrayLike]]] = {
        "big_vortex": (big_vortex(), {"omega": 1.0, "inflow": 0.1, "center": [0.5, -0.3]}),
        "lamb_oseen": (lamb_oseen(), {"circulation": [2 * np.pi], "core": [0.5], "center": [[0.5, -0.3]]}),
    }
    if kind not in truths:
        raise ValueError(f"kind must be one of {list(truths)}, got {kind!r}.")
    drift, theta = truths[kind]
    sde, level = _reference(drift, "constant", volatility)
    start = _box([1.5, -0.5], [2.0, 0.0])
    return population_snapshots(
        sde, theta | {"volatility": level}, start, times, particles=particles, step=step, key=key
    )


def _double_well() -> Drift:
    priors = {"force": dist.LogNormal(0.0, 1.0), "rate": dist.LogNormal(0.0, 1.0), "level": dist.Normal(0.0, 3.0)}
    return Drift(_well_drift, priors, ("x0", "x1"))


def _well_drift(theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    return jnp.stack([theta["force"] * (x[0] - x[0] ** 3), theta["rate"] * (theta["level"] - x[1])])


def _reference(drift: Drift, noise: str, volatility: float | None) -> tuple[ReferenceSDE, float]:
    """The reference whose volatility is to be learned, and the true volatility."""
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {list(NOISES)}, got {noise!r}.")
    family, default = NOISES[noise]
    level = default if volatility is None else volatility
    if not 0 <= level < np.inf:
        raise ValueError(f"volatility must be at least 0 and finite, got {volatility!r}.")
    return ReferenceSDE(drift, family()), level


def _box(low: ArrayLike, high: ArrayLike) -> InitialDistribution:
    lower, upper = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return lambda rng, n: rng.uniform(lower, upper, size=(n, len(lower)))


def _rows(start: ArrayLike) -> InitialDistribution:
    rows = as_floats("start", start, 2)
    return lambda rng, n: rows[rng.choice(len(rows), size=n, replace=n > len(rows))]


def _begin(drawn: ArrayLike, n: int, dim: int) -> np.ndarray:
    cloud = as_floats("start", drawn, 2)
    if cloud.shape != (n, dim):
        raise ValueError(f"start must give [n, d] = [{n}, {dim}] particles, got {cloud.shape}.")
    return cloud


def _sizes(particles: int | ArrayLike, times: int) -> list[int]:
    numbers = np.asarray(particles)
    if numbers.dtype.kind not in "iu" or numbers.ndim > 1 or (numbers.ndim == 1 and len(numbers) != times):
        raise ValueError(f"particles must be a whole number, or one for each of {times} times, got {particles!r}.")
    if (numbers < 1).any():
        raise ValueError(f"every snapshot needs at least one particle, got {particles!r}.")
    return [int(n) for n in np.broadcast_to(numbers, times)]
