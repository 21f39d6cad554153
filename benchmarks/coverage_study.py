"""Do the intervals of a reference fit cover? Independent populations, many data sets, 90 % intervals.

python benchmarks/coverage_study.py --sets 200                   # Lotka-Volterra, every likelihood
python benchmarks/coverage_study.py --sets 200 --start-width 1   # the same from a wide first cloud

Each data set: fresh particles at every time, volatility 0.02 of the state, rates (1, .4, .4, .1). The true rates are
never a start: each fit begins at draws of its priors. Prints coverage with its standard error, bias and width.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from tercet.datasets import population_snapshots
from tercet.inference import fit_reference
from tercet.models import ReferenceSDE, SnapshotModel, lotka_volterra, proportional_volatility

TRUTH = {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1, "volatility": 0.02}
SDE = ReferenceSDE(lotka_volterra(), proportional_volatility())
ARMS = {
    "first, Hessian": (SnapshotModel(SDE), "hessian"),
    "first, sandwich": (SnapshotModel(SDE), "sandwich"),
    "first, Gaussian start": (SnapshotModel(SDE, start="gaussian"), "hessian"),
    "consecutive, Hessian": (SnapshotModel(SDE, anchor="consecutive"), "hessian"),
    "consecutive, sandwich": (SnapshotModel(SDE, anchor="consecutive"), "sandwich"),
    "consecutive, jackknife, sandwich": (SnapshotModel(SDE, anchor="consecutive", jackknife=True), "sandwich"),
}


def one_set(particles: int, times: np.ndarray, width: float, arms: list[str], starts: int, key: int) -> list[dict]:
    """Fit each arm to one data set."""

    def start(generator: np.random.Generator, n: int) -> np.ndarray:
        return np.array([5.0, 4.0]) + width * generator.random((n, 2))

    data = population_snapshots(SDE, TRUTH, start, times, particles=particles, step=0.02, key=key).snapshots
    rows = []
    for arm in arms:
        model, kind = ARMS[arm]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = fit_reference(model, data, starts=starts, covariance=kind, key=key)
        draws = fit.draws(4000, key=0)
        for name, truth in TRUTH.items():
            low, high = np.quantile(draws[name], [0.05, 0.95])
            middle = float(np.median(draws[name]))
            rows.append({
                "set": key, "likelihood": arm, "parameter": name, "covered": bool(low <= truth <= high),
                "bias": middle / truth - 1.0, "width": (high - low) / truth, "converged": fit.diagnostics["converged"],
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--particles", type=int, default=50)
    parser.add_argument("--times", type=int, default=5, help="snapshots at 0, 1, ..., this less one")
    parser.add_argument("--start-width", type=float, default=0.1, help="side of the square of starts")
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--out", type=Path, help="write every interval here, as CSV")
    args = parser.parse_args()
    rows: list[dict] = []
    for key in tqdm(range(args.sets), desc="data sets"):
        rows += one_set(
            args.particles, np.arange(args.times, dtype=float), args.start_width, args.arms, args.starts, key
        )
    table = pd.DataFrame(rows)
    if args.out:
        table.to_csv(args.out, index=False)
    groups = table.groupby(["likelihood", "parameter"])
    shown = groups.agg(coverage=("covered", "mean"), bias=("bias", "mean"), width=("width", "mean"))
    shown["se"] = np.sqrt(shown["coverage"] * (1 - shown["coverage"]) / args.sets)
    print(shown.round(3).to_string())
    print(f"converged: {table['converged'].mean():.1%} of fits; {args.sets} sets of {args.times} x {args.particles}")


if __name__ == "__main__":
    main()
