"""Best of n: the reward that is had against how many responses it is picked from, one line a rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tercet.inference.preferences.best_of_n import BestOfN
from tercet.plots.style import COLORS, axes


def plot_best_of_n(found: Mapping[str, BestOfN], ax: Any = None) -> Any:
    """Expected gold reward of the best-scored of n responses, with one standard error over prompts.

    Where a line turns down, its score is over-optimised: what it likes best is no longer what is good.

    Parameters
    ----------
    found : name of a rule (or "the truth itself") to what `tercet.inference.preferences.best_of_n` gave for it
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    if not found:
        raise ValueError("there is nothing to show: give at least one result of best_of_n.")
    ax = axes(ax)
    for (name, result), color in zip(found.items(), COLORS * (1 + len(found) // len(COLORS)), strict=False):
        ax.plot(result.n, result.reward, "o-", color=color, markersize=3.5, linewidth=1.6, label=name)
        if len(result.each) > 1:
            low, high = result.reward - result.standard_error, result.reward + result.standard_error
            ax.fill_between(result.n, low, high, color=color, alpha=0.15, linewidth=0)
    ax.set(xlabel="n", ylabel="expected gold reward", xscale="log")
    ax.grid(axis="y", color="0.92")
    ax.legend(frameon=False)
    return ax
