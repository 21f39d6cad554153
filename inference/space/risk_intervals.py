"""Uncertainty of a weighted mean of losses: local variances, and intervals that allow for a bounded bias."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from tercet.inference.space.neighbours import Neighbours


def local_variance(losses: np.ndarray, tree: Neighbours, neighbours: int = 16) -> np.ndarray:
    """Variance [n] of the losses around their expectation: half the squared difference of neighbours, averaged locally.

    sigma_n^2 = mean over the 16 sites nearest to n of (loss - loss of its nearest neighbour)^2 / 2. Unbiased where
    neighbours have equal expectation and variance, too large where they do not.
    """
    half = np.square(losses - losses[tree.nearest_other[1]]) / 2
    variance = np.empty(len(losses))
    for rows, _, index in tree.blocks(tree.sites, min(neighbours, len(losses))):
        variance[rows] = half[index].mean(axis=1)
    return variance


def bias_aware_half_length(bias: float, sd: float, level: float) -> float:
    """Half-length h of the shortest centred interval that covers for any bias up to b: P(|N(b, s^2)| <= h) = level.

    Examples
    --------
    >>> from tercet.inference.space.risk_intervals import bias_aware_half_length
    >>> round(bias_aware_half_length(0.0, 1.0, 0.9), 3), round(bias_aware_half_length(1.0, 1e-9, 0.9), 3)
    (1.645, 1.0)
    """
    if not 0 < level < 1:
        raise ValueError(f"level is a probability in (0, 1), got {level}.")
    if sd == 0:
        return float(bias)

    def excess(extra: float) -> float:
        return float(ndtr(extra) - ndtr(-(2 * bias / sd + extra)) - level)

    return float(bias + sd * brentq(excess, -bias / sd, ndtri((1 + level) / 2) + 1e-9))
