"""The picture in the README: a reference fitted to snapshots, paths between them, a forecast.

python notebooks/draw_trajectories.py [--particles 200] [--seed 0] [--picture build/trajectories.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot

from tercet.datasets import lotka_volterra_snapshots
from tercet.inference import fit_reference, forecast, multimarginal_bridge
from tercet.models import SnapshotModel
from tercet.plots import plot_bands, plot_paths

HELD_OUT = (3, 6, 9, 10, 11, 12)


def draw(particles: int, seed: int, picture: Path) -> None:
    """Simulate thirteen snapshots, fit seven, draw the paths between them and the forecast after them."""
    truth = lotka_volterra_snapshots(particles, times=np.arange(13.0), volatility=0.05, key=seed)
    observed = truth.snapshots.take([k for k in range(9) if k not in HELD_OUT])
    fit = fit_reference(SnapshotModel(truth.sde), observed, key=seed)
    bridge = multimarginal_bridge(truth.sde, fit.mean(), observed)
    within, later = np.linspace(0.0, 8.0, 81), np.linspace(8.0, 12.0, 41)
    coming = forecast(fit, later, from_snapshot=-1, key=seed)

    figure, (plane, clock) = pyplot.subplots(1, 2, figsize=(11.0, 4.0), layout="constrained", width_ratios=[1.0, 1.3])
    plot_paths(observed, bridge.paths(within, n=60, key=seed), ax=plane)
    quantiles = bridge.bands(within, n=400, key=seed).quantiles
    held_out = truth.snapshots.take(HELD_OUT)
    plot_bands(within, quantiles, 0, snapshots=observed, held_out=held_out, ax=clock, label="bridge, 90 % of particles")
    plot_bands(later, coming.bands(), 0, ax=clock, label="forecast, 90 % of particles", color="#009E73")
    clock.legend(frameon=False, loc="upper left")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    print({site: f"{value.mean():.4f} +- {value.std():.4f}" for site, value in fit.draws(2000, key=seed).items()})
    print(f"written to {picture}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--particles", type=int, default=200, help="in each snapshot")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path("build/trajectories.png"))
    args = parser.parse_args()
    draw(args.particles, args.seed, args.picture)


if __name__ == "__main__":
    main()
