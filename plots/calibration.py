"""Reliability of predicted probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.preferences.scores import calibration_curve
from tercet.plots.style import COLORS, axes


def plot_calibration(
    probability: ArrayLike, outcome: ArrayLike, bins: int = 10, label: str | None = None, ax: Any = None
) -> Any:
    """Mean outcome against mean prediction, with 95 % bars; the diagonal is perfect.

    Parameters
    ----------
    probability : array [m], predicted probability that the first is preferred
    outcome : array [m] in [0, 1]
    bins : bins of equal count
    label : name in the legend
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    ax = axes(ax, figsize=(4.2, 4.2))
    curve = calibration_curve(probability, outcome, bins)
    color = COLORS[len(ax.containers) % len(COLORS)]
    if not ax.containers:
        ax.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0)
    ax.errorbar(
        curve.predicted, curve.observed, yerr=1.96 * curve.standard_error,
        fmt="o-", color=color, markersize=4, linewidth=1.2, elinewidth=1, label=label,
    )  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set(xlabel="predicted probability", ylabel="observed frequency")
    ax.set(xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
    if label is not None:
        ax.legend(frameon=False, loc="upper left")
    return ax
