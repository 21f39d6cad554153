"""One look for every picture: colours that colour-blind readers can tell apart, no upper and right spines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#999999")
"""Okabe and Ito (2008)."""


def axes(ax: Axes | None = None, figsize: tuple[float, float] = (5.5, 3.8)) -> Axes:
    """The given Axes, or those of a new figure, without upper and right spines."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=figsize, layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def log_ticks(ax: Axes, values: Sequence[int]) -> None:
    """A logarithmic horizontal axis with these numbers, written out, at its ticks."""
    ax.set_xscale("log")
    ax.set_xticks(values, [f"{value:,}" for value in values])
    ax.minorticks_off()
