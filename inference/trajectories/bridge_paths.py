"""Whole-horizon paths through bridges: couplings chained by the Markov property, conditioned paths in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tercet.inference.trajectories.conditioning import paths_between
from tercet.inference.trajectories.couplings import Bridge
from tercet.models._inputs import KeyLike, as_floats, as_generator
from tercet.models.trajectories.snapshots import Snapshots


class Bands(NamedTuple):
    """Mean and quantiles of the coordinates over time.

    Attributes
    ----------
    times, levels : arrays [T] and [L]
    mean : array [T, d]
    quantiles : array [L, T, d]
    """

    times: np.ndarray
    levels: np.ndarray
    mean: np.ndarray
    quantiles: np.ndarray


@dataclass(frozen=True)
class MultimarginalBridge:
    """Bridges through all snapshots; made by `multimarginal_bridge`.

    Attributes
    ----------
    snapshots : Snapshots
    bridges : one `Bridge` between each two neighbours
    substeps : Runge-Kutta steps of the linear-noise moments per interval
    """

    snapshots: Snapshots
    bridges: tuple[Bridge, ...]
    substeps: int = 10

    @property
    def converged(self) -> bool:
        """Whether Sinkhorn has converged in every interval."""
        return all(bridge.converged for bridge in self.bridges)

    @property
    def objective(self) -> float:
        """Sum of the bridges' objectives, in nats."""
        return float(sum(bridge.objective for bridge in self.bridges))

    def chains(self, n: int, key: KeyLike = 0, from_snapshot: int = 0) -> Int[np.ndarray, "n K"]:
        """Index of the particle that each of n paths passes through at every snapshot.

        Particles of `from_snapshot` are drawn by their weights, stratified; the others from the couplings, forward and
        backward.
        """
        last = len(self.bridges)
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}.")
        if not 0 <= from_snapshot <= last:
            raise ValueError(f"from_snapshot must be from 0 to {last}, got {from_snapshot}.")
        rng = as_generator(key)
        chains = np.zeros((n, last + 1), dtype=np.int64)
        first = from_snapshot
        weights = self.bridges[first].source_weights if first < last else self.bridges[first - 1].target_weights
        level = (rng.permutation(n) + rng.random(n)) / n
        chains[:, first] = np.minimum(np.searchsorted(np.cumsum(weights), level, side="right"), len(weights) - 1)
        for k in range(first, last):
            chains[:, k + 1] = self.bridges[k].targets(chains[:, k], int(rng.integers(2**31)))
        for k in range(first, 0, -1):
            chains[:, k - 1] = self.bridges[k - 1].sources(chains[:, k], int(rng.integers(2**31)))
        return chains

    def paths(
        self, times: ArrayLike, n: int = 200, key: KeyLike = 0, *, from_snapshot: int = 0, relinearise: int = 0
    ) -> Float[np.ndarray, "n T d"]:
        """Draw n whole paths at these times (increasing, from the first snapshot's time to the last's).

        Each path goes exactly through one particle of every snapshot, and in between is a draw of the linearised
        reference given both ends, jointly over the times.

        Parameters
        ----------
        times : increasing array [T]
        n : number of paths
        key : int seed or JAX key
        from_snapshot : the snapshot whose particles are drawn first
        relinearise : see `conditioned_paths`

        Examples
        --------
        >>> import numpy as np
        >>> from tercet.inference import multimarginal_bridge
        >>> from tercet.models import ReferenceSDE, Snapshots, brownian, constant_volatility
        >>> cells = Snapshots([[[0.0], [1.0]], [[2.0], [3.0]], [[1.0]]], times=[0.0, 1.0, 2.0])
        >>> whole = multimarginal_bridge(ReferenceSDE(brownian(1), constant_volatility(0.5)), {}, cells)
        >>> whole.paths([0.0, 1.5, 2.0], n=4)[:, 2, 0].tolist()
        [1.0, 1.0, 1.0, 1.0]
        """
        clock = self._clock(times)
        rng = as_generator(key)
        chains = self.chains(n, int(rng.integers(2**31)), from_snapshot)
        interval = self._interval(clock)
        used = np.unique(interval)
        first = self.bridges[0]
        pieces = paths_between(
            first.sde,
            first.theta,
            source=np.stack([self.bridges[k].source[chains[:, k]] for k in used]),
            target=np.stack([self.bridges[k].target[chains[:, k + 1]] for k in used]),
            ends=np.array([[self.bridges[k].start, self.bridges[k].stop] for k in used]),
            times=[clock[interval == k] for k in used],
            relinearise=relinearise,
            substeps=self.substeps,
            key=int(rng.integers(2**31)),
        )
        return np.concatenate(pieces, axis=1)

    def marginal(
        self, time: float, n: int = 200, key: KeyLike = 0, *, relinearise: int = 0
    ) -> Float[np.ndarray, "n d"]:
        """Particles [n, d] of the bridge at one time."""
        clock = self._clock([time])
        first = int(self._interval(clock)[0])
        return self.paths(clock, n, key, from_snapshot=first, relinearise=relinearise)[:, 0]

    def bands(
        self, times: ArrayLike, levels: Sequence[float] = (0.05, 0.5, 0.95), n: int = 1000, key: KeyLike = 0
    ) -> Bands:
        """Mean and quantiles of each coordinate over time, from n paths."""
        probabilities = as_floats("levels", levels, 1).astype(np.float64)
        if (probabilities < 0).any() or (probabilities > 1).any():
            raise ValueError(f"levels must be within [0, 1], got {probabilities.tolist()}.")
        paths = self.paths(times, n, key)
        quantiles = np.quantile(paths, probabilities, axis=0)
        return Bands(self._clock(times), probabilities, paths.mean(axis=0), quantiles)

    def _clock(self, times: ArrayLike) -> np.ndarray:
        clock = as_floats("times", times, 1).astype(np.float64)
        first, last = self.snapshots.times[[0, -1]]
        if (np.diff(clock) <= 0).any():
            raise ValueError(f"times must increase, got {clock.tolist()}.")
        if clock[0] < first or clock[-1] > last:
            raise ValueError(
                f"times must be within the snapshots' [{first:g}, {last:g}], got {clock[0]:g} to {clock[-1]:g}; beyond "
                "the last snapshot simulate the reference."
            )
        return clock

    def _interval(self, clock: np.ndarray) -> np.ndarray:
        """Index of the interval that each time lies in."""
        last = len(self.bridges) - 1
        return np.clip(np.searchsorted(self.snapshots.times, clock, side="right") - 1, 0, last)
