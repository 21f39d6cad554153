"""How much a risk would vary were other validation sites drawn: blocks of sites resampled. It knows nothing of bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.risk import Risk, checked
from tercet.models._inputs import as_generator
from tercet.models.space.frames import Frame
from tercet.models.space.sites import Sites

BLOCKS = 50
"""Blocks of the default side, were the sites spread evenly over their box."""
FEWEST = 5


@dataclass(frozen=True, eq=False)
class SamplingVariability:
    """Resampled estimates [draws]: sampling variability, no bias. Never read `interval()` as one of the risk."""

    draws: np.ndarray

    @property
    def standard_error(self) -> float:
        """Standard deviation of the draws."""
        return float(self.draws.std(ddof=1))

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Percentile interval."""
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def sampling_variability(
    risk: Risk,
    losses: ArrayLike,
    validation: Sites | ArrayLike,
    *,
    side: float | None = None,
    draws: int = 1000,
    key: object = 0,
) -> SamplingVariability:
    """Block bootstrap of an estimated risk: sum over resampled blocks of w_n loss_n / sum over them of w_n.

    Blocks are the cells of a square grid over the sites; as many as there are get drawn with replacement. It shows
    what other labels in the same regions would have given. Where the estimator is biased, because labels lie elsewhere,
    the truth may be far outside: for that use `risk.interval()` with a Lipschitz constant, or `surface_risk`.

    Parameters
    ----------
    risk : Risk
    losses : array [n], those it was estimated from
    validation : Sites or array [n, d]
    side : of the blocks, in the units of the plane or in kilometres; losses of different blocks should be unrelated.
        By default such that fifty blocks fill the box of the sites
    draws : number of resamples
    key : int seed or JAX key

    References
    ----------
    Lahiri (2003), Resampling Methods for Dependent Data, chapter 12.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import holdout_risk, sampling_variability
    >>> rng = np.random.default_rng(0)
    >>> sites, losses = rng.uniform(size=(400, 2)), rng.normal(size=400)
    >>> risk = holdout_risk(losses, sites, [[0.5, 0.5]])
    >>> bool(0.03 < sampling_variability(risk, losses, sites).standard_error < 0.08)
    True
    """
    values, here, _ = checked(losses, validation, validation)
    if len(risk.weights) != len(values):
        raise ValueError(f"the risk has {len(risk.weights)} weights, there are {len(values)} losses.")
    block = _blocks(here, side)
    count = int(block.max()) + 1
    if count < FEWEST:
        raise ValueError(f"side = {side} makes {count} block(s), too few to resample; at least {FEWEST} are needed.")
    mass, sums = np.bincount(block, risk.weights), np.bincount(block, risk.weights * values)
    times = as_generator(key).multinomial(count, np.full(count, 1 / count), size=draws)
    total = times @ mass
    kept = total > 0  # all weight may lie in blocks that a resample misses
    if kept.mean() < 0.5:
        raise ValueError("the estimate listens to so few blocks that resampling says nothing; give a smaller side.")
    return SamplingVariability((times @ sums)[kept] / total[kept])


def _blocks(sites: Sites, side: float | None) -> np.ndarray:
    """Cell number [n] of each site in a square grid; on the globe the cells are cubes through the sphere: no seam."""
    frame = Frame.around(sites)
    places = frame.coordinates(sites)
    low, extent = places.min(axis=0), np.ptp(places, axis=0)
    wide = extent[extent > 0]
    if side is None:
        width = float((wide.prod() / BLOCKS) ** (1 / len(wide))) if wide.size else 1.0
    elif np.isfinite(side) and side > 0:
        width = side / frame.scale
    else:
        raise ValueError(f"side must be a positive length, got {side}.")
    cells = np.floor((places - low) / width).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
