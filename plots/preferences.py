"""Pictures of preferences: abilities, best-of-n curves, calibration, learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from tercet.inference.preferences.best_of_n import BestOfN
from tercet.inference.preferences.scores import calibration_curve
from tercet.plots.style import COLORS, axes, log_ticks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LINES = ("-", "--", ":")
"""Line styles, one for each round through the colours."""


def plot_abilities(table: pd.DataFrame, most: int = 40, ax: Axes | None = None) -> Axes:
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
    height = -np.arange(len(ordered))
    ax.hlines(height, ordered["lower"], ordered["upper"], color=COLORS[0], linewidth=2, alpha=0.45)
    ax.plot(ordered["mean"], height, "o", color=COLORS[0], markersize=5)
    if cut:
        ax.axhline(-(len(ordered) // 2) + 0.5, color="0.8", linestyle=":", linewidth=1)
    for y, probability in zip(height, ordered["p_best"], strict=True):
        if probability >= 0.005:
            ax.annotate(
                f"P(best) {probability:.2f}", (1.01, y), xycoords=("axes fraction", "data"),
                va="center", fontsize=8, color="0.35",
            )  # fmt: skip
    ax.set_yticks(height, [str(name) for name in ordered.index])
    ax.set(xlabel="reward relative to the mean (logits)", ylim=(height[-1] - 0.6, 0.6))
    ax.grid(axis="x", color="0.92")
    return ax


def plot_best_of_n(results: Mapping[str, BestOfN], ax: Axes | None = None) -> Axes:
    """Expected gold reward of the best-scored of n responses, with one standard error over prompts.

    Where a line turns down, its score is over-optimised: the responses that it ranks highest are no longer the best.

    Parameters
    ----------
    results : name of a score (or "gold reward") to the result of `tercet.inference.best_of_n` for it
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    if not results:
        raise ValueError("there is nothing to show: give at least one result of best_of_n.")
    ax = axes(ax)
    for k, (name, result) in enumerate(results.items()):
        color = COLORS[k % len(COLORS)]
        ax.plot(result.n, result.reward, "o-", color=color, markersize=3.5, linewidth=1.6, label=name)
        if len(result.each) > 1:
            low, high = result.reward - result.standard_error, result.reward + result.standard_error
            ax.fill_between(result.n, low, high, color=color, alpha=0.15, linewidth=0)
    ax.set(xlabel="n responses to choose from", ylabel="expected gold reward of the best-scored")
    log_ticks(ax, sorted({int(n) for result in results.values() for n in result.n}))
    ax.grid(axis="y", color="0.92")
    ax.legend(frameon=False)
    return ax


def plot_calibration(
    probability: ArrayLike, outcome: ArrayLike, bins: int = 10, label: str | None = None, ax: Axes | None = None
) -> Axes:
    """Mean outcome against mean prediction, with 95 % bars; the diagonal is perfect calibration.

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


def plot_learning_curve(
    table: pd.DataFrame,
    score: str,
    level: float = 0.9,
    ax: Axes | None = None,
    colors: Mapping[str, str] | None = None,
) -> Axes:
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
