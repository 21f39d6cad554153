"""Pictures of spatial validation: losses and weights on a map, k against its bound, risks, infill, distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.infill import InfillCheck
from tercet.inference.space.neighbours import Neighbours
from tercet.inference.space.risk import Risk
from tercet.models.space.geometry import as_sites
from tercet.models.space.sites import Sites
from tercet.plots.style import COLORS
from tercet.plots.style import axes as plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLIPPED = 0.98
"""Quantile of the values at which the colours of a map end."""


def plot_sites(
    sites: Sites | ArrayLike,
    values: ArrayLike | None = None,
    test: Sites | ArrayLike | None = None,
    ax: Axes | None = None,
    label: str = "",
) -> Axes:
    """Draw a map of sites, coloured by losses or by the weights of an estimator; degrees on the sphere.

    Parameters
    ----------
    sites : Sites or array [n, 2]
    values : array [n], optional; the largest are drawn last
    test : Sites or array [m, 2], drawn behind
    ax : matplotlib axes, or None for new ones
    label : of the colours

    Returns
    -------
    Axes
    """
    axes, known = plain_axes(ax, (6.5, 4.2)), as_sites("sites", sites)
    if test is not None:
        axes.scatter(*_map(as_sites("test", test, known.metric)), s=5, color="0.75", linewidths=0, zorder=1)
    x, y = _map(known)
    if values is None:
        axes.scatter(x, y, s=8, color=COLORS[0], linewidths=0, zorder=2)
    else:
        shade = np.asarray(values, dtype=np.float64)
        order = np.argsort(shade, kind="stable")
        most = float(np.quantile(shade, CLIPPED))  # a few large weights would leave no colours for the others
        limits = {"vmin": float(shade.min()), "vmax": most if most > shade.min() else float(shade.max())}
        marks = axes.scatter(x[order], y[order], c=shade[order], s=10, linewidths=0, cmap="viridis", zorder=2, **limits)
        over = "max" if shade.max() > limits["vmax"] else "neither"
        axes.figure.colorbar(marks, ax=axes, label=label, shrink=0.8, extend=over)
    if known.metric == "sphere":
        axes.set(xlabel="longitude", ylabel="latitude")
        axes.set_aspect(1 / max(0.3, float(np.cos(np.radians(y)).mean())))
    else:
        axes.set_aspect("equal")
    return axes


def plot_bound(risk: Risk, ax: Axes | None = None) -> Axes:
    """Draw the bound that SNN minimises against k: distance term, noise term, their sum, the k chosen."""
    if not risk.ladder:
        raise ValueError("only snn_risk minimises a bound; this risk has none.")
    axes = plain_axes(ax)
    ks, far, spread = (np.array(column) for column in zip(*risk.ladder, strict=True))
    axes.plot(ks, far, color=COLORS[0], marker="o", label="L x distance to the k-th neighbour")
    axes.plot(ks, spread, color=COLORS[1], marker="o", label="noise of the weighted mean")
    axes.plot(ks, far + spread, color="0.2", marker="o", label="bound")
    axes.axvline(risk.k, color="0.6", linestyle=":", zorder=0)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="neighbours k", ylabel="loss")
    axes.legend(frameon=False)
    return axes


def plot_risks(
    risks: Mapping[str, Any], truth: float | None = None, level: float = 0.9, ax: Axes | None = None
) -> Axes:
    """Draw estimates and intervals of several risks, one a row, beside the truth where it is known."""
    axes = plain_axes(ax, (6.0, 0.6 + 0.42 * len(risks)))
    for row, risk in enumerate(risks.values()):
        low, high = risk.interval(level)
        aware = getattr(risk, "bias", None) is not None or not isinstance(risk, Risk)
        axes.plot([low, high], [row, row], color=COLORS[0] if aware else "0.6", linewidth=3, solid_capstyle="butt")
        axes.plot(risk.estimate, row, "o", color="0.1", markersize=5)
    if truth is not None:
        axes.axvline(truth, color=COLORS[1], linewidth=1.2, label="truth")
        axes.legend(frameon=False)
    axes.set_yticks(range(len(risks)), list(risks))
    axes.invert_yaxis()
    axes.set_xlabel(f"risk, {level:.0%} interval (grey: knows no bias)")
    return axes


def plot_infill(check: InfillCheck, ax: Axes | None = None) -> Axes:
    """Draw root mean squared error against the number of validation sites, and name the slopes."""
    axes = plain_axes(ax)
    for color, (name, rows) in zip(COLORS * 3, check.table.groupby("estimator", sort=False), strict=False):
        verdict = "passes" if check.passes[str(name)] else "fails"
        label = f"{name}: slope {check.slopes[str(name)]:.2f}, {verdict}"
        axes.plot(rows["sites"], rows["error"], marker="o", color=color, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="validation sites", ylabel="error of the estimated risk")
    axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return axes


def plot_distances(
    validation: Sites | ArrayLike, test: Sites | ArrayLike, folds: ArrayLike | None = None, ax: Axes | None = None
) -> Axes:
    """Draw distributions of nearest-neighbour distances: validation to validation, test to validation, and folds.

    Where the curve of the test sites lies to the right of the other, validation is easier than prediction. `folds` [n]
    (the attribute of a splitter) adds the distance of each validation site to the other folds.
    """
    here = as_sites("validation", validation)
    tree = Neighbours(here)
    curves = {
        "validation to nearest validation": tree.within(1)[0][:, 0],
        "test to nearest validation": tree.nearest(as_sites("test", test, here.metric))[0][:, 0],
    }
    if folds is not None:
        from tercet.inference.space.splitters import to_training

        curves["fold to nearest other fold"] = to_training(here, np.asarray(folds))
    axes = plain_axes(ax)
    for color, (name, gap) in zip(COLORS, curves.items(), strict=False):
        axes.step(np.sort(gap), np.arange(1, len(gap) + 1) / len(gap), where="post", color=color, label=name)
    axes.set(xlabel="distance" + (" (km)" if here.metric == "sphere" else ""), ylabel="share of sites within")
    axes.legend(frameon=False, fontsize="small")
    return axes


def _map(sites: Sites) -> tuple[np.ndarray, np.ndarray]:
    array = np.asarray(sites.coordinates)
    if array.shape[1] != 2:
        raise ValueError(f"a map has two coordinates, the sites have {array.shape[1]}.")
    if sites.metric == "plane":
        return array[:, 0], array[:, 1]
    return (array[:, 1] + 180) % 360 - 180, array[:, 0]
