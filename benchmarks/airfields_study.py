"""The error of a map of elevations where airfields are few: real sites, the truth held out, every estimator.

python benchmarks/airfields_study.py              # six draws, ten minutes
python benchmarks/airfields_study.py --draws 3 --smoke

Labels are a random sample of the world's airfields (nearly half of them in the United States): half train a local
regression of log(1 + elevation) on location, half validate it. The risk, its mean absolute error (truncated at 4), is
estimated for three layouts of airfields without labels: one per cell of three degrees (grid), all of Africa, and those
within 200 km of eight cities. Table: mean error of the estimate, coverage of its 90 % interval, its mean width.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from tercet.datasets import airfields
from tercet.datasets.space import Airfields
from tercet.inference import (
    NearestNeighbourMatching,
    geographically_weighted_regression,
    holdout_risk,
    laplace,
    lipschitz_constant,
    nearest_neighbour_risk,
    pointwise_losses,
    sampling_variability,
    snn_risk,
    surface_risk,
    weighted_holdout_risk,
)
from tercet.models import LossSurface, Sites, distances

LABELS, BOUND, CELL, REACH = 700, 4.0, 3.0, 200.0
CITIES = {
    "Denver": (39.7, -105.0),
    "Mexico City": (19.4, -99.1),
    "Bogota": (4.7, -74.1),
    "Sao Paulo": (-23.6, -46.6),
    "Munich": (48.1, 11.6),
    "Nairobi": (-1.3, 36.8),
    "Delhi": (28.6, 77.2),
    "Sydney": (-33.9, 151.2),
}


def layouts(world: Airfields) -> dict[str, np.ndarray]:
    """Rows of the test airfields of each layout."""
    location = world.sites.coordinates
    cell = np.floor(location / CELL).astype(int)
    from_middle = np.abs(location / CELL - cell - 0.5).max(axis=1)
    order = np.lexsort((from_middle, cell[:, 1], cell[:, 0]))
    first = np.r_[True, (np.diff(cell[order], axis=0) != 0).any(axis=1)]
    near = distances(world.sites, Sites(list(CITIES.values()), "sphere")).min(axis=1) < REACH
    return {"grid": order[first], "Africa": np.flatnonzero(world.region == "Africa"), "cities": np.flatnonzero(near)}


def study(world: Airfields, seed: int, labels: int) -> list[dict[str, Any]]:
    height = np.log1p(np.maximum(world.elevation, 0.0))
    tests = layouts(world)
    rng = np.random.default_rng(seed)
    labelled = rng.permutation(len(height))[: 2 * labels]
    train, validation = labelled[:labels], labelled[labels:]
    fit = geographically_weighted_regression(world.sites.take(train), None, height[train])

    def loss(rows: np.ndarray) -> np.ndarray:
        return pointwise_losses(height[rows], fit.predict(world.sites.take(rows)).mean, "absolute", bound=BOUND)

    sites, losses = world.sites.take(validation), loss(validation)
    surface = laplace(LossSurface.around(losses, world.sites, basis=0), sites, losses)
    rows: list[dict[str, Any]] = []
    for name, airfields_of_layout in tests.items():
        held_out = np.setdiff1d(airfields_of_layout, labelled)
        targets, truth = world.sites.take(held_out), float(loss(held_out).mean())
        steepness = lipschitz_constant(surface, targets, draws=100)
        holdout = holdout_risk(losses, sites, targets)
        risks: dict[str, Any] = {
            "holdout": holdout,
            "holdout, block bootstrap": sampling_variability(holdout, losses, sites),
            "weighted (kernel)": weighted_holdout_risk(losses, sites, targets),
            "weighted (classifier)": weighted_holdout_risk(losses, sites, targets, ratio="classifier"),
            "matched splits": matched(world, height, labelled, targets),
            "1NN": nearest_neighbour_risk(losses, sites, targets, lipschitz=steepness),
            "SNN": snn_risk(losses, sites, targets, lipschitz=steepness, loss_bound=BOUND),
            "loss surface": surface_risk(surface, targets),
        }
        for method, risk in risks.items():
            low, high = risk.interval()
            estimate = getattr(risk, "estimate", holdout.estimate)
            row = {"layout": name, "method": method, "draw": seed, "truth": truth, "estimate": estimate}
            rows.append(row | {"error": abs(estimate - truth), "covers": low <= truth <= high, "width": high - low})
    return rows


def matched(world: Airfields, height: np.ndarray, labelled: np.ndarray, targets: Sites) -> Any:
    """Cross-validation on all labels, folds as far from training sites as the test sites are from the labels."""
    sites, response = world.sites.take(labelled), height[labelled]
    losses = np.empty(len(labelled))
    for train, fold in NearestNeighbourMatching(sites, targets, 5).split():
        part = geographically_weighted_regression(sites.take(train), None, response[train])
        losses[fold] = pointwise_losses(response[fold], part.predict(sites.take(fold)).mean, "absolute", bound=BOUND)
    return holdout_risk(losses, sites, targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="tercet|__main__")
    begin, world, rows = time.time(), airfields(), []
    for seed in tqdm(range(1 if args.smoke else args.draws)):
        rows += study(world, seed, 150 if args.smoke else LABELS)
    table = pd.DataFrame(rows)
    order = table.method.unique()
    for name, mine in table.groupby("layout", sort=False):
        print(f"\n{name}: risk {mine.truth.mean():.3f}")
        shown = mine.groupby("method").agg(
            estimate=("estimate", "mean"), error=("error", "mean"), covers=("covers", "mean"), width=("width", "mean")
        )
        print(shown.loc[order].round(3).to_string())
    print(f"\n{time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
