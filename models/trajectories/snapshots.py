"""Snapshots: populations of particles at some times, the particles of different times unrelated."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from tercet.models._inputs import KeyLike, as_floats, as_generator, as_ids, as_indices, is_concrete, same_length
from tercet.models._pytree import Container, pytree
from tercet.models._size_classes import size_class

FEW_PARTICLES = 256  # up to so many classes of sizes are powers of two, beyond that finer: run times grow as the square


@pytree("names", "observed")
@dataclass(frozen=True)
class Snapshots(Container):
    """Populations of particles observed at some times, the particles of different times unrelated.

    Parameters
    ----------
    particles : sequence of arrays [n_k, d], or one array [K, n, d]
        One for each time; the numbers n_k may differ.
    times : increasing array [K]
    names : d unique names of the coordinates, optional (default x0, x1, ...)
    observed : d booleans, optional
        Which coordinates are observed (default all); the others may hold any finite filler, such as zeros.
    """

    particles: tuple[np.ndarray, ...]
    times: np.ndarray
    names: tuple[Hashable, ...]
    observed: tuple[bool, ...]

    def __init__(
        self,
        particles: Sequence[ArrayLike] | np.ndarray,
        times: ArrayLike,
        names: Sequence[Hashable] | None = None,
        observed: Sequence[bool] | None = None,
    ) -> None:
        clouds = tuple(as_floats(f"particles[{k}]", cloud, 2) for k, cloud in enumerate(particles))
        clock = as_floats("times", times, 1).astype(np.float64)
        same_length(particles=clouds, times=clock)
        widths = {cloud.shape[1] for cloud in clouds}
        if len(widths) != 1:
            raise ValueError(f"every snapshot must have the same coordinates, got widths {sorted(widths)}.")
        if np.any(np.diff(clock) <= 0):
            raise ValueError(f"times must increase, got {clock.tolist()}; sort the snapshots by time.")
        width = widths.pop()
        labels = as_ids("names", names or [f"x{i}" for i in range(width)], width)
        seen = (True,) * width if observed is None else tuple(bool(v) for v in observed)
        if len(seen) != width or not any(seen):
            raise ValueError(f"observed must have {width} booleans, at least one true; got {seen}.")
        for name, value in {"particles": clouds, "times": clock, "names": labels, "observed": seen}.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def dim(self) -> int:
        """Number of coordinates d, unobserved ones included."""
        return len(self.names)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of particles of each snapshot."""
        return tuple(len(cloud) for cloud in self.particles)

    @property
    def center(self) -> np.ndarray:
        """Mean [d] over all particles of all times."""
        mean: np.ndarray = np.concatenate(self.particles).mean(axis=0)
        return mean

    @property
    def scale(self) -> np.ndarray:
        """Standard deviation [d] over all particles of all times (1 where a coordinate never varies)."""
        spread = np.concatenate(self.particles).std(axis=0)
        return np.where(spread > 0, spread, 1.0)

    @property
    def magnitude(self) -> float | Array:
        """Largest absolute observed coordinate (1 where all are zero); an array while JAX traces."""
        seen = np.flatnonzero(self.observed)
        if not is_concrete(*self.particles):
            largest = jnp.stack([jnp.abs(cloud[:, seen]).max() for cloud in self.particles]).max()
            return jnp.where(largest > 0, largest, 1.0)
        return float(max(np.abs(cloud[:, seen]).max() for cloud in self.particles)) or 1.0

    def take(self, which: Sequence[int]) -> Snapshots:
        """Give the snapshots with these indices, in order of time."""
        index = sorted(int(k) for k in as_indices("which", np.asarray(which), len(self)))
        return Snapshots([self.particles[k] for k in index], self.times[index], self.names, self.observed)

    def subsample(self, particles: int, key: KeyLike = 0) -> Snapshots:
        """Keep at most this many particles of each snapshot, drawn without replacement."""
        if particles < 1:
            raise ValueError(f"particles must be at least 1, got {particles}.")
        rng = as_generator(key)
        kept = [
            cloud[np.sort(rng.choice(len(cloud), particles, replace=False))] if len(cloud) > particles else cloud
            for cloud in self.particles
        ]
        return Snapshots(kept, self.times, self.names, self.observed)


@pytree("names", "observed")
@dataclass(frozen=True, init=False)
class FilledSnapshots(Snapshots):
    """Snapshots filled up to classes of sizes: one for the first, one that holds all later ones.

    A compiled program of these serves snapshots of any names, and of any sizes in the same classes. What fills up is
    copies of the first particle of each snapshot, so that every function of them is finite; `present` leaves them out.

    Parameters
    ----------
    snapshots : Snapshots

    Attributes
    ----------
    present : one array [n_k] a snapshot, 1 for its particles and 0 for what fills up
    """

    present: tuple[np.ndarray, ...]

    def __init__(self, snapshots: Snapshots) -> None:
        counts = snapshots.counts
        sizes = [size_class(counts[0], FEW_PARTICLES)]
        sizes += [size_class(max(counts[1:], default=1), FEW_PARTICLES)] * (len(counts) - 1)
        rows = [np.arange(size) for size in sizes]
        present = tuple((row < count).astype(np.float64) for row, count in zip(rows, counts, strict=True))
        particles = tuple(
            cloud[np.where(row < len(cloud), row, 0)] for row, cloud in zip(rows, snapshots.particles, strict=True)
        )
        names = tuple(f"x{i}" for i in range(snapshots.dim))
        kept = {"times": snapshots.times, "names": names, "observed": snapshots.observed}
        for name, value in {**kept, "particles": particles, "present": present}.items():
            object.__setattr__(self, name, value)
