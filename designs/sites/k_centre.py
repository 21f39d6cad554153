"""The k-centre criterion: labels so placed that no target site is far from all of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from tercet.designs.criteria.baselines import PosteriorVariance, Random
from tercet.designs.criteria.criterion import Criterion
from tercet.designs.criteria.lazy_greedy import LazyGreedy
from tercet.designs.criteria.objective import ALL, HasPool, Objective, Part, Pick
from tercet.designs.criteria.optimality import DOptimality, VOptimality
from tercet.designs.criteria.search import Greedy, TopK
from tercet.designs.sites.fill_pool import AbstractSiteCandidates, FillPool, straight

ROUNDING = 1e-9
"""Share of a distance below which two are the same: a k-d tree and a plain sum differ in their last digits."""


class FillState(NamedTuple):
    """The pool, and the straight-line distance [n] of each target to its nearest site so far."""

    pool: FillPool
    distance: np.ndarray


@dataclass(frozen=True)
class KCentre(Objective[FillPool, FillState]):
    """The fall of the fill distance; greedily, the candidate nearest to the target that is farthest from every site.

    The fill distance h is the maximum over targets of the distance to the nearest site. Gains are reductions of h, in
    the units of the sites (kilometres on the sphere); a pick may gain nothing where several targets are equally far, or
    where no candidate is nearer to the farthest target than its nearest site (such targets are skipped). The batch ends
    early, with a warning, once no target can be brought nearer. Without any site h counts as the diagonal of the box
    that holds everything (half the circumference on the sphere), and the first target is the most central.

    h is at most 2 x the smallest possible where every target is a candidate, 3 x otherwise, at equal costs. With costs
    the fall of the farthest target's distance per cost decides, and no such bound holds.

    References
    ----------
    Gonzalez (1985), Theoretical Computer Science 38, for targets = candidates; Hochbaum, Shmoys (1986), Journal of the
    ACM 33, for the factor 3.
    """

    # Proof. Let R be the best h with k picks, and suppose h > c R after ours, at a target t_{k+1}. Each target t_i that
    # we went for was then as far or farther, so farther than c R from all labels before; its pick lies within e of it,
    # e = 0 if targets are candidates (c = 2), e <= R otherwise (c = 3: some site of the optimum is that near, and no
    # label is). So t_1 ... t_{k+1} are more than c R - e >= 2 R apart, and more than R from the first labels: no two
    # are served by the same of the k sites of the optimum. A contradiction. A target that is skipped has h = its best.

    def pool(self, candidates: HasPool, posterior: Any, target: Any) -> FillPool:
        if not isinstance(candidates, AbstractSiteCandidates):
            raise ValueError(f"{type(self).__name__} is for sites only; for pairs use 'greedy V'.")
        return candidates.fill_pool(posterior, target)

    def begin(self, pool: FillPool, rng: np.random.Generator) -> FillState:
        return FillState(pool, pool.start)

    def score(self, state: FillState, some: Part = ALL) -> Float[np.ndarray, " b"]:
        """Fall of the farthest target's distance: no pick lowers h by more."""
        far = _farthest(state, state.pool.nearest)
        return (np.zeros(len(state.pool)) if far is None else self._fall(state, far)[0])[some]

    def update(self, state: FillState, index: int) -> FillState:
        pool, distance = state
        return FillState(pool, np.minimum(distance, straight(pool.points[index], pool.targets)))

    def choose(self, state: FillState, free: np.ndarray, price: np.ndarray | None = None) -> Pick | None:
        pool = state.pool
        # All candidates first: a tree of the free ones is needed only where those that would help are too dear.
        for some in (None, free):
            far = _farthest(state, pool.nearest if some is None else pool.nearest_of(some))
            if far is None:
                break
            fall, nearer = self._fall(state, far)
            if (free & nearer).any():
                worth = fall if price is None else fall / price
                index = int(np.where(free & nearer, worth, -np.inf).argmax())
                return index, _fill(state) - _fill(self.update(state, index))
        warnings.warn(
            f"no candidate left brings any target nearer to a site (fill distance {_fill(state):.4g}): the selection "
            "ends before the budget does.",
            stacklevel=6,  # the caller of select
        )
        return None

    def batch_gain(self, pool: FillPool, rng: np.random.Generator) -> float:
        before, after = pool.start, np.minimum(pool.start, pool.nearest)
        return _fill(FillState(pool, before)) - _fill(FillState(pool, after))

    def _fall(self, state: FillState, far: int) -> tuple[np.ndarray, np.ndarray]:
        """Fall [m] of the distance of one target by each candidate, and whether it is one."""
        pool, distance = state
        gap = straight(pool.targets[far], pool.points)
        return pool.length(distance[far]) - pool.length(gap), gap < (1 - ROUNDING) * distance[far]


def _fill(state: FillState) -> float:
    return float(state.pool.length(state.distance.max()))


def _farthest(state: FillState, nearest: np.ndarray) -> int | None:
    """The farthest target (ties: the lowest index) that can come nearer; None where there is none."""
    pool, distance = state
    can = nearest < (1 - ROUNDING) * distance
    if not can.any():
        return None
    if np.isinf(distance[0]):
        middle = (pool.targets.min(axis=0) + pool.targets.max(axis=0)) / 2
        return int(straight(middle, pool.targets).argmin())
    return int(np.where(can, distance, -np.inf).argmax())


SITE_CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion("k-centre", KCentre(), Greedy()),
        Criterion("greedy V", VOptimality(), Greedy()),
        Criterion("greedy D", DOptimality(), LazyGreedy()),
        Criterion("posterior variance", PosteriorVariance(), TopK()),
        Criterion("random", Random(), TopK()),
    )
}
"""Every criterion under the name by which `select_sites` knows it."""
