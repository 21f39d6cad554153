"""Snapshots, the paths between them, and bands over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.models.trajectories.snapshots import Snapshots
from tercet.plots.style import COLORS
from tercet.plots.style import axes as plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import ColorType


def plot_paths(
    snapshots: Snapshots,
    paths: ArrayLike | None = None,
    coordinates: Sequence[int] = (0, 1),
    ax: Axes | None = None,
    show: int = 60,
) -> Axes:
    """Draw particles in the plane of two coordinates, coloured by time, and paths between them.

    Parameters
    ----------
    snapshots : Snapshots
    paths : array [n, T, d], for example `MultimarginalBridge.paths(...)`
    coordinates : indices of the two to show
    ax : matplotlib axes, or None for new ones
    show : number of paths drawn, at most

    Returns
    -------
    Axes
    """
    first, second = (int(c) for c in coordinates)
    axes: Axes = plain_axes(ax, (6.0, 5.0))
    if paths is not None:
        lines = np.asarray(paths)[:show]
        axes.plot(lines[:, :, first].T, lines[:, :, second].T, color="0.55", linewidth=0.6, alpha=0.5, zorder=1)
    stamps = np.concatenate([np.full(n, t) for n, t in zip(snapshots.counts, snapshots.times, strict=True)])
    cloud = np.concatenate(snapshots.particles)
    marks = axes.scatter(cloud[:, first], cloud[:, second], c=stamps, s=8, cmap="viridis", zorder=2, linewidths=0)
    axes.figure.colorbar(marks, ax=axes, label="time")
    axes.set_xlabel(str(snapshots.names[first]))
    axes.set_ylabel(str(snapshots.names[second]))
    return axes


def plot_bands(
    times: ArrayLike,
    bands: ArrayLike,
    coordinate: int = 0,
    *,
    snapshots: Snapshots | None = None,
    held_out: Snapshots | None = None,
    ax: Axes | None = None,
    label: str | None = None,
    color: ColorType = COLORS[0],
) -> Axes:
    """Draw a band of one coordinate over time, with observed and held-out particles.

    Parameters
    ----------
    times : array [T]
    bands : array [3, T, d]: lower end, middle, upper end, as `Forecast.bands` and `Bands.quantiles` give them
    coordinate : index of the one to show
    snapshots, held_out : Snapshots to draw as points, filled ("observed") and hollow ("held out")
    ax : matplotlib axes, or None for new ones
    label : of the band, in the legend
    color : of the band

    Returns
    -------
    Axes
    """
    axes: Axes = plain_axes(ax, (7.0, 3.5))
    clock, ends = np.asarray(times), np.asarray(bands)
    if ends.ndim != 3 or ends.shape[:2] != (3, len(clock)):
        raise ValueError(f"bands must be [3, {len(clock)}, d] (low, middle, high), got {ends.shape}.")
    low, middle, high = ends[:, :, coordinate]
    axes.fill_between(clock, low, high, color=color, alpha=0.25, linewidth=0, label=label)
    axes.plot(clock, middle, color=color, linewidth=1.2)
    styles: list[tuple[Snapshots | None, dict[str, Any]]] = [
        (snapshots, {"color": "0.2", "label": "observed"}),
        (held_out, {"facecolors": "none", "edgecolors": COLORS[1], "label": "held out"}),
    ]
    for clouds, style in styles:
        if clouds is None:
            continue
        stamps = np.repeat(clouds.times, clouds.counts)
        values = np.concatenate(clouds.particles)[:, coordinate]
        axes.scatter(stamps, values, s=6, zorder=3, linewidths=0.6, **style)
        axes.set_ylabel(str(clouds.names[coordinate]))
    axes.set_xlabel("time")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False)
    return axes
