"""Block bootstrap of an estimated risk: its sampling variability under other validation sites, not its bias."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.risk import Risk, checked_inputs
from tercet.models._inputs import as_generator
from tercet.models.space.frames import Frame
from tercet.models.space.sites import Sites

BLOCKS = 50
"""Blocks of the default side that would cover the bounding box of the sites."""
FEWEST = 5


@dataclass(frozen=True, eq=False)
class SamplingVariability:
    """Resampled estimates. They show sampling variability and no bias: `interval()` is not one of the risk.

    Attributes
    ----------
    draws : array [draws]
    """

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
    key: int | jax.Array = 0,
) -> SamplingVariability:
    """Block bootstrap of an estimated risk: sum of w_n loss_n over resampled blocks / sum of w_n over them.

    Blocks are the cells of a square grid over the sites, drawn with replacement, as many as there are. The draws show
    how much the estimate would vary with other labels in the same regions. Where the estimator is biased, because
    labels are elsewhere, the true risk may be far outside: for that use `risk.interval()` with a Lipschitz constant, or
    `surface_risk`.

    Parameters
    ----------
    risk : Risk
    losses : array [n], those it was estimated from
    validation : Sites or array [n, d]
    side : of the blocks, in the units of the plane or in kilometres; losses of different blocks should be independent.
        By default fifty blocks cover the bounding box of the sites
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
    values, labelled, _ = checked_inputs(losses, validation, validation)
    if len(risk.weights) != len(values):
        raise ValueError(f"the risk has {len(risk.weights)} weights, there are {len(values)} losses.")
    block = _blocks(labelled, side)
    count = int(block.max()) + 1
    if count < FEWEST:
        raise ValueError(f"side = {side} makes {count} block(s), too few to resample; at least {FEWEST} are needed.")
    mass, sums = np.bincount(block, risk.weights), np.bincount(block, risk.weights * values)
    times = as_generator(key).multinomial(count, np.full(count, 1 / count), size=draws)
    total = times @ mass
    kept = total > 0  # a resample may miss every block that has weight
    if kept.mean() < 0.5:
        raise ValueError("most resamples have no site of positive weight; give a smaller side.")
    return SamplingVariability((times @ sums)[kept] / total[kept])


def _blocks(sites: Sites, side: float | None) -> np.ndarray:
    """Block [n] of each site in a square grid of the frame; on the whole sphere the blocks are cubes cut by it."""
    frame = Frame.around(sites)
    coordinates = frame.coordinates(sites)
    low, extent = coordinates.min(axis=0), np.ptp(coordinates, axis=0)
    wide = extent[extent > 0]
    if side is None:
        width = float((wide.prod() / BLOCKS) ** (1 / len(wide))) if wide.size else 1.0
    elif np.isfinite(side) and side > 0:
        width = side / frame.scale
    else:
        raise ValueError(f"side must be a positive length, got {side}.")
    cells = np.floor((coordinates - low) / width).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
