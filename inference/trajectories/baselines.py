"""Trivial baselines of trajectory inference, and a table of scores beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tercet.inference.trajectories.distances import mmd_squared, transport_plan, wasserstein
from tercet.models._inputs import KeyLike, as_floats, as_generator
from tercet.models.trajectories.snapshots import Snapshots

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Clouds = Snapshots | Mapping[float, ArrayLike]
    """Particles at some times: snapshots, or a dict of time to array [n, d]."""

PERSISTENCE, MIDPOINT, FLOOR = "persistence", "transport midpoint", "noise floor"


def persistence(snapshots: Snapshots, time: float) -> np.ndarray:
    """Prediction without motion: the particles [n, d] of the last snapshot before `time`.

    A snapshot at `time` itself is not used, so that held-out and training times are treated alike.

    Parameters
    ----------
    snapshots : Snapshots, the training data
    time : the time to predict

    Examples
    --------
    >>> from tercet.inference.trajectories import persistence
    >>> from tercet.models import Snapshots
    >>> persistence(Snapshots([[[0.0]], [[1.0]], [[4.0]]], [0, 1, 2]), 1.5).tolist()
    [[1.0]]
    """
    before = np.flatnonzero(snapshots.times < time)
    if not before.size:
        raise ValueError(f"no snapshot before t = {time:g}: the first is at {snapshots.times[0]:g}.")
    last: np.ndarray = snapshots.particles[before[-1]]
    return last


def transport_midpoint(snapshots: Snapshots, time: float) -> np.ndarray:
    """Prediction by straight lines between neighbouring snapshots: McCann's displacement interpolation.

    With the optimal plan of the last snapshot before `time` and the first after it, particle x goes to
    (1 - s) x + s y, s the elapsed share of the interval. From n and m particles there are max(n, m): one for each pair
    of the plan where n = m (or one divides the other), otherwise pairs by systematic sampling of the weights.

    A snapshot at `time` itself is not used. Only observed coordinates enter the plan.

    Parameters
    ----------
    snapshots : Snapshots, the training data
    time : the time to predict, between the first and the last of them

    References
    ----------
    McCann (1997), Advances in Mathematics 128; as interpolation of populations Schiebinger et al. (2019), Cell 176.

    Examples
    --------
    >>> from tercet.inference.trajectories import transport_midpoint
    >>> from tercet.models import Snapshots
    >>> transport_midpoint(Snapshots([[[0.0], [10.0]], [[14.0], [2.0]]], [0, 1]), 0.25).tolist()
    [[0.5], [11.0]]
    """
    after = np.flatnonzero(snapshots.times > time)
    if not after.size:
        raise ValueError(f"no snapshot after t = {time:g}: the last is at {snapshots.times[-1]:g}.")
    x, y = persistence(snapshots, time), snapshots.particles[after[0]]
    begin, end = snapshots.times[snapshots.times < time][-1], snapshots.times[after[0]]
    observed = list(snapshots.observed)
    plan = transport_plan(x[:, observed], y[:, observed])
    count = max(len(x), len(y))
    pairs = np.searchsorted(np.cumsum(plan.weight), (np.arange(count) + 0.5) / count)
    share = (time - begin) / (end - begin)
    midpoint: np.ndarray = (1.0 - share) * x[plan.first[pairs]] + share * y[plan.second[pairs]]
    return midpoint


def noise_floor(
    sampler: Callable[[int], Clouds],
    repeats: int = 10,
    distance: Callable[[np.ndarray, np.ndarray], float] = wasserstein,
    key: KeyLike = 0,
) -> np.ndarray:
    """Distance of two independent samples of the truth, which no method can be expected to beat.

    Parameters
    ----------
    sampler : callable (key) -> Snapshots or dict of time to array [n, d], a fresh sample of the truth
    repeats : number of pairs of samples
    distance : callable of two arrays [n, d]
    key : int seed or JAX key

    Returns
    -------
    array [repeats, times]
        The overall mean is the floor; the sd of the row means is that of a mean over the times.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference.trajectories import noise_floor
    >>> noise_floor(lambda key: {1.0: np.random.default_rng(key).normal(size=(50, 2))}, repeats=3).shape
    (3, 1)
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    keys = as_generator(key).integers(2**31, size=(repeats, 2)).tolist()
    rows = []
    for one, other in keys:
        first, second = _by_time(sampler(one)), _by_time(sampler(other))
        rows.append([distance(cloud, _at("the second sample", second, time)) for time, cloud in first.items()])
    return np.array(rows)


def trajectory_table(
    truth: Clouds,
    predictions: Mapping[str, Clouds],
    train: Snapshots | None = None,
    floor: Clouds | None = None,
    bandwidth: float = 1.0,
) -> pd.DataFrame:
    """Score predicted clouds against the truth at each of its times, beside the baselines.

    Rows "persistence" and "transport midpoint" come from `train`, "noise floor" from `floor`. A baseline has no row
    where it gives no prediction: both at the first time of `train`, the midpoint at its last and in forecasts.
    Coordinates that the truth (or `train`) does not observe are left out of both distances.

    Parameters
    ----------
    truth : Snapshots, or dict of time to array [n, d]
    predictions : dict of name of the method to the same form, covering every time of the truth
        Arrays are [m, d], or hold the observed coordinates only.
    train : Snapshots that the methods were fitted to; those at a time of the truth are not used
    floor : a second independent sample of the truth
    bandwidth : of the kernel of the maximum mean discrepancy, in the units of the particles

    Returns
    -------
    DataFrame
        One row a method and time: `method`, `time`, `wasserstein` (exact 2-Wasserstein, in the units of the
        particles), `mmd2` (squared maximum mean discrepancy, V-statistic).

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import trajectory_table
    >>> from tercet.models import Snapshots
    >>> train = Snapshots([np.zeros((4, 2)), np.full((4, 2), 3.0)], [0, 2])
    >>> table = trajectory_table({1.0: np.ones((4, 2))}, {"mine": {1.0: np.ones((4, 2))}}, train)
    >>> table.set_index("method")["wasserstein"].round(3).to_dict()
    {'mine': 0.0, 'persistence': 1.414, 'transport midpoint': 0.707}
    """
    targets = _by_time(truth)
    reserved = {PERSISTENCE, MIDPOINT, FLOOR} & set(predictions)
    if reserved:
        raise ValueError(f"the name {reserved.pop()!r} is a baseline's; call the method something else.")
    methods = dict(predictions)
    if train is not None:
        methods[PERSISTENCE] = {t: persistence(train, t) for t in targets if t > train.times[0]}
        inner = [t for t in targets if train.times[0] < t < train.times[-1]]
        methods[MIDPOINT] = {t: transport_midpoint(train, t) for t in inner}
    if floor is not None:
        methods[FLOOR] = floor
    observed = next((list(s.observed) for s in (truth, train) if isinstance(s, Snapshots)), None)
    rows = []
    for name, clouds in methods.items():
        predicted = _by_time(clouds)
        for time in predicted if name in (PERSISTENCE, MIDPOINT) else targets:
            target = _observed("truth", targets[time], observed)
            prediction = _observed(name, _at(name, predicted, time), observed)
            distances = wasserstein(target, prediction), mmd_squared(target, prediction, bandwidth)
            rows.append((name, time, *distances))
    return pd.DataFrame(rows, columns=["method", "time", "wasserstein", "mmd2"])


def _by_time(clouds: Clouds) -> dict[float, np.ndarray]:
    if isinstance(clouds, Snapshots):
        return dict(zip(clouds.times.tolist(), clouds.particles, strict=True))
    return {float(time): as_floats(f"particles at t = {time:g}", cloud, 2) for time, cloud in clouds.items()}


def _at(name: str, clouds: dict[float, np.ndarray], time: float) -> np.ndarray:
    """Look a time up, up to rounding: 0.1 + 0.2 is 0.3."""
    for known, cloud in clouds.items():
        if np.isclose(known, time, rtol=1e-9, atol=1e-12):
            return cloud
    raise ValueError(f"{name} has no particles at t = {time:g}; it has {sorted(clouds)}.")


def _observed(name: str, cloud: np.ndarray, observed: list[bool] | None) -> np.ndarray:
    if observed is None or cloud.shape[1] == sum(observed):
        return cloud
    if cloud.shape[1] != len(observed):
        expected = f"{len(observed)} coordinates, or the {sum(observed)} observed ones"
        raise ValueError(f"{name} has particles of {cloud.shape[1]} coordinates; expected {expected}.")
    return cloud[:, observed]
