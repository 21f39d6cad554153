"""Learning curves: a score against the number of labels, one line a design, bands over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats

from tercet.plots.style import COLORS, axes

if TYPE_CHECKING:
    import pandas as pd


LINES = ("-", "--", ":")  # told apart by these once the colours have been used up


def plot_learning_curve(
    table: pd.DataFrame, score: str, level: float = 0.9, ax: Any = None, colors: Mapping[str, str] | None = None
) -> Any:
    """Mean score against labels for each criterion, with an interval of the mean over seeds.

    Parameters
    ----------
    table : DataFrame from `tercet.designs.compare_designs` or `learning_curve`
        Columns criterion, seed, labels, and the score.
    score : column to show
    level : of the t interval of the mean (no band with a single seed)
    ax : matplotlib Axes, optional
    colors : of each criterion, by name; the others get the default ones

    Returns
    -------
    Axes
    """
    if score not in table:
        raise ValueError(f"the table has no column {score!r}; it has {list(table.columns)}.")
    ax = axes(ax)
    for k, criterion in enumerate(dict.fromkeys(table["criterion"])):
        wide = table[table["criterion"] == criterion].pivot_table(index="seed", columns="labels", values=score)
        labels, values = wide.columns.to_numpy(), wide.to_numpy()
        mean, color = values.mean(axis=0), (colors or {}).get(criterion, COLORS[k % len(COLORS)])
        line = LINES[k // len(COLORS) % len(LINES)]
        ax.plot(labels, mean, "o", linestyle=line, color=color, markersize=3.5, linewidth=1.6, label=criterion)
        if len(values) > 1:
            quantile = scipy.stats.t.ppf(0.5 + level / 2, len(values) - 1)
            half = quantile * values.std(axis=0, ddof=1) / np.sqrt(len(values))
            ax.fill_between(labels, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)
    ax.set(xlabel="labels", ylabel=score.replace("_", " "))
    ax.grid(axis="y", color="0.92")
    ax.legend(frameon=False)
    return ax
