"""The README's picture of spatial validation: where labels are, where the risk is wanted, and every estimate of it.

python notebooks/draw_spatial.py [--picture build/spatial.png]          needs airportsdata
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
warnings.filterwarnings("ignore", message="a test site lies")

import numpy as np
from matplotlib import pyplot

from tercet.datasets import airfields
from tercet.inference import (
    geographically_weighted_regression,
    holdout_risk,
    laplace,
    lipschitz_constant,
    nearest_neighbour_risk,
    pointwise_losses,
    snn_risk,
    surface_risk,
    weighted_holdout_risk,
)
from tercet.models import LossSurface
from tercet.plots import plot_risks, plot_sites


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=Path("build/spatial.png"))
    picture = parser.parse_args().picture
    world, rng = airfields(), np.random.default_rng(4)
    location, height = world.sites.coordinates, np.log1p(np.maximum(world.elevation, 0.0))
    inside = (location > [15, -130]).all(axis=1) & (location < [62, -60]).all(axis=1)
    north = rng.permutation(np.flatnonzero(inside))
    _, first = np.unique(np.floor(location[north] / 2.0), axis=0, return_index=True)
    grid = north[first]
    train, validation = np.split(rng.choice(np.setdiff1d(north, grid), 800, replace=False), 2)
    labels, targets = world.sites.take(validation), world.sites.take(grid)
    model = geographically_weighted_regression(world.sites.take(train), None, height[train])
    losses, held_out = (
        pointwise_losses(height[rows], model.predict(sites).mean, "absolute", bound=4.0)
        for rows, sites in [(validation, labels), (grid, targets)]
    )
    surface = laplace(LossSurface.around(losses, labels, targets), labels, losses)
    steepness = lipschitz_constant(surface, targets)
    risks = {
        "holdout": holdout_risk(losses, labels, targets),
        "weighted, kernel": weighted_holdout_risk(losses, labels, targets),
        "1NN": nearest_neighbour_risk(losses, labels, targets, lipschitz=steepness),
        "SNN": snn_risk(losses, labels, targets, lipschitz=steepness, loss_bound=4.0),
        "loss surface": surface_risk(surface, targets),
    }
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained", width_ratios=[1.1, 1])
    plot_sites(labels, losses, targets, ax=axes[0], label="loss").set_title("labels; grey: where the risk is wanted")
    plot_risks(risks, float(held_out.mean()), ax=axes[1]).set_title("the risk at the grey sites")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    print(f"written to {picture}")


if __name__ == "__main__":
    main()
