"""One look for every picture: colours that colour-blind readers can tell apart, no frame, quiet grid."""

from __future__ import annotations

from typing import Any

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#999999")
"""Okabe and Ito (2008)."""


def axes(ax: Any = None, figsize: tuple[float, float] = (5.5, 3.8)) -> Any:
    """The given Axes, or those of a new figure, without upper and right frame."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=figsize, layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    return ax
