"""Uncertainty of a weighted mean of losses: local variances, intervals that know of bias, the block bootstrap."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from tercet.inference.space.neighbours import Neighbours

NEAR = 16
"""Validation sites whose differences to their nearest neighbours are averaged into one local variance."""


def local_variance(losses: np.ndarray, tree: Neighbours) -> np.ndarray:
    """Variance [n] of the losses around their expectation: half the squared difference of neighbours, averaged near by.

    sigma_n^2 = mean over the 16 sites nearest to n of (loss - loss of its nearest neighbour)^2 / 2. Unbiased where
    expectation and variance are the same for neighbours, too large where they are not.
    """
    half = np.square(losses - losses[tree.spacing[1]]) / 2
    variance = np.empty(len(losses))
    for rows, _, index in tree.blocks(tree.sites, min(NEAR, len(losses))):
        variance[rows] = half[index].mean(axis=1)
    return variance


def bias_aware_half_length(bias: float, sd: float, level: float) -> float:
    """Half-length h of the shortest interval that covers where the bias is at most b: P(|N(b, s^2)| <= h) = level.

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

    def short(extra: float) -> float:
        return float(norm.cdf(extra) - norm.cdf(-(2 * bias / sd + extra)) - level)

    return float(bias + sd * brentq(short, -bias / sd, norm.ppf((1 + level) / 2) + 1e-9))
