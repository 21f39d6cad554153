"""Sites where a label could be collected: with what is labelled already and the sites that matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tercet.designs.criteria.criterion import Criterion
from tercet.designs.criteria.pools import LinearPool
from tercet.designs.sites.fill_pool import AbstractSiteCandidates, FillPool, nearest_distances
from tercet.designs.sites.fitted_surface import labelled_sites, surface_pool
from tercet.designs.sites.k_centre import SITE_CRITERIA
from tercet.designs.sites.surface_pool import pick_sds
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.space.risk import normalised_shares
from tercet.models.space.geometry import EARTH_RADIUS, as_sites, check_same_space, positions
from tercet.models.space.sites import Sites

SAME = 1e-12
"""Sites closer than this, per unit of their coordinates, are one site (360 degrees are not exactly 0)."""


@dataclass(frozen=True, eq=False)
class SiteCandidates(AbstractSiteCandidates):
    """Sites that could be labelled: what `select` chooses from.

    Parameters
    ----------
    sites : Sites or array [m, d], where a label could be collected
    existing : Sites or array [k, d] that have labels (None: those the posterior was fitted on, if any)
    target : Sites or array [n, d] that matter (None: all of `sites`)
    target_weights : array [n], optional, what each target counts (people, area); k-centre does not read it
    exclude : positions [e] in `sites`, booleans [m], or Sites that are not to be chosen

    Attributes
    ----------
    sites : the candidates that are left
    positions : int [m], their positions in the sites given
    existing, target, target_weights : as given

    Examples
    --------
    >>> from tercet.designs import SiteCandidates, select
    >>> places = SiteCandidates([[0.0], [0.4], [1.0]], existing=[[0.1]])
    >>> select(places, None, 1, criterion="k-centre").chosen.tolist()
    [2]
    """

    sites: Sites
    positions: np.ndarray
    existing: Sites | None
    target: Sites | None
    target_weights: np.ndarray | None

    def __init__(
        self,
        sites: Sites | ArrayLike,
        existing: Sites | ArrayLike | None = None,
        target: Sites | ArrayLike | None = None,
        target_weights: ArrayLike | None = None,
        exclude: Sites | ArrayLike | None = None,
    ) -> None:
        known = as_sites("sites", sites)
        others = {"existing": existing, "target": target}
        given = {n: None if v is None else as_sites(n, v, known.metric) for n, v in others.items()}
        for other in given.values():
            if other is not None:
                check_same_space(known, other)
        if target_weights is not None:
            size = len(known) if given["target"] is None else len(given["target"])
            target_weights = normalised_shares(target_weights, size)
        kept = np.flatnonzero(~_excluded(known, exclude))
        left = known if len(kept) == len(known) else _take(known, kept)
        fields = {"sites": left, "positions": kept, **given, "target_weights": target_weights}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def criteria(self) -> Mapping[str, Criterion]:
        """The criteria that sites know by name."""
        return SITE_CRITERIA

    def __len__(self) -> int:
        return len(self.positions)

    def pool(self, posterior: Posterior | None, target: Sites | ArrayLike | None) -> LinearPool:
        """These candidates under a fitted loss surface."""
        if posterior is None:
            raise ValueError(
                "posterior is None, but every criterion except 'k-centre' needs one: fit "
                "laplace(LossSurface.around(losses, sites, test), sites, losses), or pass criterion='k-centre'."
            )
        targets, share = self._targets(target)
        return surface_pool(posterior, self.sites, self.existing, targets, share)

    def fill_pool(self, posterior: Posterior | None, target: Sites | ArrayLike | None) -> FillPool:
        """These candidates by their positions; of the posterior only the sites it was fitted on are read."""
        aimed_at, _ = self._targets(target)
        labelled = self.existing if self.existing is not None else labelled_sites(posterior)
        points, targets, start = positions(self.sites), positions(aimed_at), np.full(len(aimed_at), np.inf)
        if labelled is not None:
            check_same_space(labelled, aimed_at)
            start = nearest_distances(positions(labelled), targets)
        both = np.concatenate([points, targets])
        reach = np.linalg.norm(np.ptp(both, axis=0)) if aimed_at.metric == "plane" else np.pi * EARTH_RADIUS
        return FillPool(aimed_at.metric, points, targets, start, float(reach if labelled is None else np.inf))

    def picks(self, chosen: np.ndarray) -> Int[np.ndarray, " b"]:
        """Positions in the sites given."""
        return np.asarray(self.positions[chosen])

    def table(self, chosen: np.ndarray, pool: FillPool | LinearPool, gains: np.ndarray) -> Any:
        """DataFrame of the chosen sites: name, coordinates, gain, and what is left after each pick."""
        import pandas as pd

        sites, d = self.sites, self.sites.coordinates.shape[1]
        names = self.picks(chosen) if sites.ids is None else [sites.ids[i] for i in chosen]
        axes = ("latitude", "longitude") if sites.metric == "sphere" else [f"x{axis}" for axis in range(d)]
        coordinates = dict(zip(axes, sites.coordinates[chosen].T, strict=True))
        after = pool.columns(chosen) if isinstance(pool, FillPool) else pick_sds(pool, chosen)._asdict()
        return pd.DataFrame({"site": names, **coordinates, "gain": gains, **after})

    def _targets(self, target: Sites | ArrayLike | None) -> tuple[Sites, Float[np.ndarray, " n"]]:
        if target is not None and self.target is not None:
            raise ValueError("target was given twice, in SiteCandidates and to select; give it once.")
        targets = self.target if target is None else as_sites("target", target, self.sites.metric)
        if targets is None:
            targets = self.sites
        check_same_space(self.sites, targets)
        return targets, normalised_shares(self.target_weights, len(targets))


def _excluded(sites: Sites, exclude: Sites | ArrayLike | None) -> np.ndarray:
    """Booleans [m]: which of the sites are out."""
    if exclude is None:
        return np.zeros(len(sites), dtype=bool)
    if isinstance(exclude, Sites):
        check_same_space(sites, exclude)
        points = positions(sites)
        return nearest_distances(positions(exclude), points) <= SAME * max(1.0, float(np.abs(points).max()))
    array = np.asarray(exclude)
    if array.dtype == bool and array.shape == (len(sites),):
        return array
    if array.size == 0:
        return np.zeros(len(sites), dtype=bool)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= len(sites):
        raise ValueError(
            f"exclude must be positions in [0, {len(sites)}), {len(sites)} booleans, or Sites; "
            f"got {array.dtype} of shape {array.shape}."
        )
    return np.isin(np.arange(len(sites)), array)


def _take(sites: Sites, index: np.ndarray) -> Sites:
    if len(index) == 0:
        raise ValueError(f"exclude leaves none of the {len(sites)} candidate sites; exclude fewer.")
    ids = None if sites.ids is None else [sites.ids[i] for i in index]
    return Sites(sites.coordinates[index], sites.metric, ids)
