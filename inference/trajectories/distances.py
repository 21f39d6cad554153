"""Distances of two clouds of particles: exact 2-Wasserstein, its sliced form, maximum mean discrepancy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import csc_array
from scipy.spatial.distance import cdist

from tercet.models._inputs import as_floats, as_generator

MOST_ASSIGNED = 5_000
"""Particles (copies included) of one assignment: its cost matrix is 200 MB, its time about a minute."""
MOST_COPIES = 2_000
"""Particles of one assignment after copying, about 5 s; beyond it the linear programme."""
MOST_PAIRS = 250_000
"""Pairs of particles in one linear programme, about 10 s."""
BLOCK = 2**22
"""Kernel values held at once: 32 MB."""


class TransportPlan(NamedTuple):
    """Who goes where: particle first[p] sends `weight[p]` of all mass to particle second[p].

    Attributes
    ----------
    first, second : int arrays [pairs]
    weight : array [pairs], positive, sum 1
    """

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray


def wasserstein(first: ArrayLike, second: ArrayLike) -> float:
    """Exact 2-Wasserstein distance of two empirical clouds, W2 = sqrt(min over plans of the mean of |x - y|^2).

    Exact at any sizes; see `transport_plan` for how, for what it costs and for the sizes that are refused.

    Parameters
    ----------
    first, second : arrays [n, d] and [m, d], every particle of a cloud with the same weight

    References
    ----------
    Peyré and Cuturi (2019), Computational Optimal Transport, sections 2.2 and 2.3.

    Examples
    --------
    >>> from tercet.inference import wasserstein
    >>> wasserstein([[0.0, 0.0], [1.0, 0.0]], [[1.0, 3.0], [0.0, 3.0]])
    3.0
    """
    x, y = _clouds(first, second)
    plan = _plan(x, y)
    return float(np.sqrt(plan.weight @ np.square(x[plan.first] - y[plan.second]).sum(axis=1)))


def transport_plan(first: ArrayLike, second: ArrayLike) -> TransportPlan:
    """Find the plan that moves one cloud on another at the least mean squared distance.

    One coordinate: sorting. Equal sizes n: an assignment, time n^3 (0.01 s at 200, 5 s at 2,000, refused above 5,000).
    Unequal sizes: copies of the particles up to the least common multiple where that is at most 2,000, otherwise
    the transport linear programme by HiGHS (5 s at 300 x 500, refused above 250,000 pairs). No more than n + m - 1
    pairs carry mass, except where copies were made.

    Parameters
    ----------
    first, second : arrays [n, d] and [m, d], every particle of a cloud with the same weight

    Raises
    ------
    ValueError
        Where the clouds are too large for an exact plan: take fewer particles or `sliced_wasserstein`.

    Examples
    --------
    >>> from tercet.inference import transport_plan
    >>> plan = transport_plan([[0.0], [10.0]], [[1.0], [9.0], [11.0]])
    >>> plan.first.tolist(), plan.second.tolist(), plan.weight.round(3).tolist()
    ([0, 0, 1, 1], [0, 1, 1, 2], [0.333, 0.167, 0.167, 0.333])
    """
    return _plan(*_clouds(first, second))


def sliced_wasserstein(first: ArrayLike, second: ArrayLike, directions: int = 200, key: Any = 0) -> float:
    """Root mean, over random unit directions u, of the exact squared 2-Wasserstein distance of the clouds along u.

    Time (n + m) log(n + m) a direction, at any sizes. A shift by v has expected square |v|^2 / d; never more than
    W2 itself.

    Parameters
    ----------
    first, second : arrays [n, d] and [m, d]
    directions : how many, the same for the same key
    key : int seed or JAX key

    References
    ----------
    Bonneel, Rabin, Peyré and Pfister (2015), Journal of Mathematical Imaging and Vision 51.

    Examples
    --------
    >>> from tercet.inference import sliced_wasserstein
    >>> sliced_wasserstein([[0.0], [2.0]], [[3.0], [5.0]])
    3.0
    """
    x, y = _clouds(first, second)
    if directions < 1:
        raise ValueError(f"directions must be at least 1, got {directions}.")
    u = as_generator(key).standard_normal((x.shape[1], directions))
    u /= np.sqrt(np.square(u).sum(axis=0))
    i, j, weight = _staircase(len(x), len(y))
    gap = np.sort(x @ u, axis=0)[i] - np.sort(y @ u, axis=0)[j]
    return float(np.sqrt(np.mean(weight @ np.square(gap))))


def mmd_squared(first: ArrayLike, second: ArrayLike, bandwidth: float = 1.0) -> float:
    """Squared maximum mean discrepancy with the kernel k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)).

    The biased V-statistic: mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over all pairs, a particle with itself
    included; for n and m particles of the same law its mean is about (1 - E k) (1 / n + 1 / m). Kernels are summed
    in blocks of 32 MB: memory stays there at 20,000 x 20,000 particles (10 s on two cores).

    Parameters
    ----------
    first, second : arrays [n, d] and [m, d]
    bandwidth : length scale of the kernel, in the units of the particles

    References
    ----------
    Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), Journal of Machine Learning Research 13, equation 5.

    Examples
    --------
    >>> from tercet.inference import mmd_squared
    >>> round(mmd_squared([[0.0]], [[1.0]]), 4)
    0.7869
    """
    x, y = _clouds(first, second)
    if not 0 < bandwidth < np.inf:
        raise ValueError(f"bandwidth must be positive and finite, got {bandwidth}.")
    x, y = x / bandwidth, y / bandwidth
    return max(0.0, _mean_kernel(x, x) + _mean_kernel(y, y) - 2.0 * _mean_kernel(x, y))


def _mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
    rows = max(1, BLOCK // len(y))
    total = sum(float(np.exp(-0.5 * cdist(x[at : at + rows], y, "sqeuclidean")).sum()) for at in range(0, len(x), rows))
    return total / (len(x) * len(y))


def _clouds(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = as_floats("first", first, 2).astype(np.float64), as_floats("second", second, 2).astype(np.float64)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"both clouds must have the same coordinates, got widths {x.shape[1]} and {y.shape[1]}.")
    return x, y


def _plan(x: np.ndarray, y: np.ndarray) -> TransportPlan:
    n, m = len(x), len(y)
    copies = int(np.lcm(n, m))
    if x.shape[1] == 1:
        i, j, weight = _staircase(n, m)
        return TransportPlan(np.argsort(x[:, 0], kind="stable")[i], np.argsort(y[:, 0], kind="stable")[j], weight)
    if n == m <= MOST_ASSIGNED or copies <= MOST_COPIES:
        i, j = np.repeat(np.arange(n), copies // n), np.repeat(np.arange(m), copies // m)
        rows, columns = linear_sum_assignment(cdist(x[i], y[j], "sqeuclidean"))
        return TransportPlan(i[rows], j[columns], np.full(copies, 1.0 / copies))
    if n != m and n * m <= MOST_PAIRS:
        return _programme(x, y)
    raise ValueError(
        f"clouds of {n} and {m} particles are too large for an exact plan: take sliced_wasserstein, or fewer particles "
        f"(best the same number in both clouds, at most {MOST_ASSIGNED})."
    )


def _staircase(n: int, m: int) -> TransportPlan:
    """Couple n and m sorted equal weights from the left: cuts of [0, 1] at i / n and j / m, in units of 1 / (n m)."""
    cuts = np.union1d(np.arange(n) * m, np.arange(m) * n)
    return TransportPlan(cuts // m, cuts // n, np.diff(cuts, append=n * m) / (n * m))


def _programme(x: np.ndarray, y: np.ndarray) -> TransportPlan:
    """Minimise sum of flow_ij cost_ij with whole flows: m / g leave each of n sources, n / g reach each of m sinks."""
    n, m = len(x), len(y)
    divisor = int(np.gcd(n, m))
    i, j = np.divmod(np.arange(n * m), m)
    cost = cdist(x, y, "sqeuclidean").ravel()
    ends = csc_array(
        (np.ones(2 * n * m), np.stack([i, n + j], 1).ravel(), 2 * np.arange(n * m + 1)), shape=(n + m, n * m)
    )
    mass = np.repeat([m // divisor, n // divisor], [n, m])
    # Interior points with crossover end in a corner, where flows are whole numbers: rounding takes off the tolerance.
    found = linprog(cost / max(cost.max(), 1e-300), A_eq=ends, b_eq=mass, method="highs-ipm")
    flow = np.round(found.x) if found.status == 0 else np.zeros(n * m)
    if not np.array_equal(ends @ flow, mass):
        raise RuntimeError(f"the transport linear programme failed: {found.message}; take sliced_wasserstein.")
    used = np.flatnonzero(flow)
    return TransportPlan(i[used], j[used], flow[used] * divisor / (n * m))
