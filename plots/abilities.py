"""Abilities as intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tercet.plots.style import COLORS, axes

if TYPE_CHECKING:
    import pandas as pd


def plot_abilities(table: pd.DataFrame, most: int = 40, ax: Any = None) -> Any:
    """Posterior means and intervals of rewards, best on top, with the probability of being best beside them.

    Parameters
    ----------
    table : DataFrame from `tercet.inference.ability_table`
    most : rows shown at most: the best and the worst of them, half each
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    ordered: Any = table.sort_values("mean", ascending=False)
    cut = len(ordered) > most
    if cut:
        half = most // 2
        ordered = ordered.iloc[np.r_[:half, -half:0]]
    ax = axes(ax, figsize=(5.5, 0.9 + 0.26 * len(ordered)))
    place = -np.arange(len(ordered))
    ax.hlines(place, ordered["lower"], ordered["upper"], color=COLORS[0], linewidth=2, alpha=0.45)
    ax.plot(ordered["mean"], place, "o", color=COLORS[0], markersize=5)
    if cut:
        ax.axhline(-(len(ordered) // 2) + 0.5, color="0.8", linestyle=":", linewidth=1)
    for y, probability in zip(place, ordered["p_best"], strict=True):
        if probability >= 0.005:
            ax.annotate(
                f"P(best) {probability:.2f}", (1.01, y), xycoords=("axes fraction", "data"),
                va="center", fontsize=8, color="0.35",
            )  # fmt: skip
    ax.set_yticks(place, [str(name) for name in ordered.index])
    ax.set(xlabel="reward relative to the mean (logits)", ylim=(place[-1] - 0.6, 0.6))
    ax.grid(axis="x", color="0.92")
    return ax
