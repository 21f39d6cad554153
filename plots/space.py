"""Pictures of spatial validation: maps of sites, risks, the bound of SNN, the infill check, distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.infill import InfillCheck
from tercet.inference.space.neighbours import Neighbours
from tercet.inference.space.risk import Risk, RiskEstimate
from tercet.inference.space.splitters import distance_to_other_folds
from tercet.models.space.geometry import as_sites
from tercet.models.space.sites import Sites
from tercet.plots.style import COLORS, axes, log_ticks

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
    test : Sites or array [m, 2], drawn in grey behind them
    ax : matplotlib Axes, optional
    label : of the colours

    Returns
    -------
    Axes
    """
    ax, known = axes(ax, (6.5, 4.2)), as_sites("sites", sites)
    if test is not None:
        ax.scatter(*_map(as_sites("test", test, known.metric)), s=5, color="0.75", linewidths=0, zorder=1)
    x, y = _map(known)
    if values is None:
        ax.scatter(x, y, s=8, color=COLORS[0], linewidths=0, zorder=2)
    else:
        shade = np.asarray(values, dtype=np.float64)
        order = np.argsort(shade, kind="stable")
        low, high, end = float(shade.min()), float(shade.max()), float(np.quantile(shade, CLIPPED))
        end = end if end > low else high  # a few large weights would leave no colours for the others
        marks = ax.scatter(
            x[order], y[order], c=shade[order], s=10, linewidths=0, cmap="viridis", zorder=2, vmin=low, vmax=end
        )
        ax.figure.colorbar(marks, ax=ax, label=label, shrink=0.8, extend="max" if high > end else "neither")
    if known.metric == "sphere":
        ax.set(xlabel="longitude (degrees)", ylabel="latitude (degrees)")
        ax.set_aspect(1 / max(0.3, float(np.cos(np.radians(y)).mean())))
    else:
        ax.set_aspect("equal")
    return ax


def plot_risks(
    risks: Mapping[str, RiskEstimate], truth: float | None = None, level: float = 0.9, ax: Axes | None = None
) -> Axes:
    """Draw estimates and intervals of several risks, one per row, beside the truth where it is known.

    Parameters
    ----------
    risks : name to Risk or SurfaceRisk
    truth : optional, drawn as a line
    level : of the intervals
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    ax = axes(ax, (6.0, 0.6 + 0.42 * len(risks)))
    for row, risk in enumerate(risks.values()):
        low, high = risk.interval(level)
        ignores_bias = isinstance(risk, Risk) and risk.bias is None
        color = "0.6" if ignores_bias else COLORS[0]
        ax.plot([low, high], [row, row], color=color, linewidth=3, solid_capstyle="butt")
        ax.plot(risk.estimate, row, "o", color="0.1", markersize=5)
    if truth is not None:
        ax.axvline(truth, color=COLORS[1], linewidth=1.2, label="truth")
        ax.legend(frameon=False)
    ax.set_yticks(range(len(risks)), list(risks))
    ax.set_ylim(len(risks) - 0.5, -0.5)
    ax.set_xlabel(f"risk and its {level:.0%} interval (grey: ignores bias)")
    return ax


def plot_bound(risk: Risk, ax: Axes | None = None) -> Axes:
    """Draw the bound that SNN minimises against k: distance term, noise term, their sum, and the k chosen.

    Parameters
    ----------
    risk : of `snn_risk`
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    if not risk.bound_terms:
        raise ValueError("only snn_risk minimises a bound; this risk has none.")
    ax = axes(ax)
    ks, distance, noise = (np.array(column) for column in zip(*risk.bound_terms, strict=True))
    ax.plot(ks, distance, color=COLORS[0], marker="o", label="L x distance to the k-th neighbour")
    ax.plot(ks, noise, color=COLORS[1], marker="o", label="noise of the weighted mean")
    ax.plot(ks, distance + noise, color="0.2", marker="o", label="bound: their sum")
    ax.axvline(risk.k, color="0.6", linestyle=":", zorder=0, label=f"k = {risk.k}, which minimises it")
    log_ticks(ax, ks.tolist())
    ax.set(xlabel="neighbours k", ylabel="error of the estimated risk")
    _legend_below(ax)
    return ax


def plot_infill(check: InfillCheck, ax: Axes | None = None) -> Axes:
    """Draw root mean squared error against the number of validation sites, with the slopes in the legend.

    Parameters
    ----------
    check : of `infill_check`
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    ax = axes(ax)
    for color, (name, rows) in zip(COLORS * 3, check.table.groupby("estimator", sort=False), strict=False):
        verdict = "passes" if check.passes[str(name)] else "fails"
        label = f"{name}: slope {check.slopes[str(name)]:.2f}, {verdict}"
        ax.plot(rows["sites"], rows["error"], marker="o", color=color, label=label)
    log_ticks(ax, sorted({int(n) for n in check.table["sites"]}))
    ax.set(xlabel="validation sites", ylabel="RMS error of the estimated risk", yscale="log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}" if check.table["error"].max() < 10 * check.table["error"].min() else "")
    _legend_below(ax)
    return ax


def plot_distances(
    validation: Sites | ArrayLike, test: Sites | ArrayLike, folds: ArrayLike | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the distributions of nearest-neighbour distances among validation sites and from test sites to them.

    Where the curve of the test sites lies to the right of the other, prediction is harder than validation.

    Parameters
    ----------
    validation : Sites or array [n, d]
    test : Sites or array [m, d]
    folds : int array [n], optional, such as the attribute of a splitter: adds the distance of each validation site to
        the other folds
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    labelled = as_sites("validation", validation)
    tree = Neighbours(labelled)
    curves = {
        "validation site to nearest other": tree.nearest_other[0],
        "test site to nearest validation site": tree.nearest(as_sites("test", test, labelled.metric))[0][:, 0],
    }
    if folds is not None:
        curves["validation site to nearest in another fold"] = distance_to_other_folds(labelled, np.asarray(folds))
    ax = axes(ax)
    for color, (name, distance) in zip(COLORS, curves.items(), strict=False):
        share = np.arange(1, len(distance) + 1) / len(distance)
        ax.step(np.sort(distance), share, where="post", color=color, label=name)
    unit = " (km)" if labelled.metric == "sphere" else ""
    ax.set(xlabel="distance" + unit, ylabel="share of sites within the distance")
    ax.legend(frameon=False, fontsize="small")
    return ax


def _legend_below(ax: Axes) -> None:
    ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _map(sites: Sites) -> tuple[np.ndarray, np.ndarray]:
    """Horizontal and vertical coordinates [n] of a map: longitudes from -180 to 180 and latitudes on the sphere."""
    array = np.asarray(sites.coordinates)
    if array.shape[1] != 2:
        raise ValueError(f"a map has two coordinates, the sites have {array.shape[1]}.")
    if sites.metric == "plane":
        return array[:, 0], array[:, 1]
    return (array[:, 1] + 180) % 360 - 180, array[:, 0]
