"""Reproduce the numbers of the SNN paper (Burt, Shen, Broderick 2024, arXiv 2402.03527, section 5); interval coverage.

python benchmarks/spatial_study.py                            # ten seeds, a few minutes
python benchmarks/spatial_study.py --seeds 100 --out FILE     # the whole study; resumes where FILE ends
python benchmarks/spatial_study.py --smoke

grid, point: absolute error of the estimated risk (median over seeds), n validation sites, and the k that SNN chose.
line: how often the better of two models is chosen, by holdout and by SNN. coverage: 90 % intervals with clustered
labels, random surfaces of known Lipschitz constant. surface: the same for the model-based risk where its model is true.
SNN has the paper's constants: loss bound 1, Lipschitz constant 1, `published=True`. One simulation per seed serves
every n: the sites are drawn one after the other.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import linprog
from scipy.stats import norm

from tercet.datasets import gaussian_field_task, line_task
from tercet.inference import (
    compare_risks,
    holdout_risk,
    laplace,
    nearest_neighbour_risk,
    pointwise_losses,
    sampling_variability,
    snn_risk,
    surface_risk,
)
from tercet.models import LossSurface
from tercet.models.space.kernels import covariance

SIZES = (250, 500, 1000, 2000, 4000, 8000)
LINE_SIZES = tuple(range(5, 76, 10))
RIDGE = 0.1
PAPER = {
    ("grid", 250): (0.0329, 0.0276, 0.0276),
    ("grid", 8000): (0.0232, 0.0059, 0.0052),
    ("point", 250): (0.0315, 0.0919, 0.0262),
    ("point", 8000): (0.0331, 0.1021, 0.0146),
}
PAPER_LINE = {"holdout": (25, 13, 7, 5, 3, 5, 2, 3), "SNN": (41, 80, 94, 98, 100, 100, 100, 100)}


def kernel_ridge(train: Any, kernel: str) -> Any:
    """Predict from the first covariate and the coordinates: the second covariate is left out, as in the paper."""

    def gram(a: Any, b: Any) -> np.ndarray:
        return covariance(kernel, a.covariates[:, :1], b.covariates[:, :1], 1.0) + 0.5 * covariance(
            kernel, a.sites.coordinates, b.sites.coordinates, 0.5
        )

    matrix = gram(train, train)
    matrix[np.diag_indices_from(matrix)] += RIDGE
    dual = cho_solve(cho_factor(matrix, lower=True), train.response)
    return lambda data: gram(data, train) @ dual


def field_rows(task: str, seed: int, sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    simulated = gaussian_field_task(task, max(sizes), seed)
    predict = kernel_ridge(simulated.train, "matern 3/2" if task == "grid" else "squared exponential")
    test = simulated.test
    truth = float(np.minimum(np.square(test.response - predict(test)), 1.0).mean())
    losses = pointwise_losses(simulated.validation.response, predict(simulated.validation), bound=1.0)
    sites = simulated.validation.sites.coordinates
    for n in sizes:
        data = losses[:n], sites[:n], test.sites
        risks = {
            "holdout": holdout_risk(*data),
            "1NN": nearest_neighbour_risk(*data),
            "SNN": snn_risk(*data, lipschitz=1.0, loss_bound=1.0, published=True),
        }
        for method, risk in risks.items():
            error = abs(risk.estimate - truth)
            yield {"task": task, "seed": seed, "n": n, "method": method, "error": error, "k": risk.k}


def line_rows(seed: int) -> Iterator[dict[str, Any]]:
    """The constant .25 against the line of least absolute error, judged at the test sites by either estimator."""
    simulated = line_task(max(LINE_SIZES), seed)
    x, y = simulated.train.sites.coordinates[:, 0], simulated.train.response
    ones = np.ones((len(x), 1))
    design = np.column_stack([ones, x])
    answer = linprog(  # least absolute deviations: y = design b + plus - minus
        np.concatenate([np.zeros(2), np.ones(2 * len(x))]),
        A_eq=np.hstack([design, np.eye(len(x)), -np.eye(len(x))]),
        b_eq=y,
        bounds=[(None, None)] * 2 + [(0, None)] * (2 * len(x)),
    )
    models = {"constant": lambda s: np.full(len(s), 0.25), "line": lambda s: answer.x[0] + answer.x[1] * s[:, 0]}
    test = simulated.test
    truths = {name: np.abs(test.response[0] - f(test.sites.coordinates)).mean() for name, f in models.items()}
    better = min(truths, key=lambda name: truths[name])
    for n in LINE_SIZES:
        sites, response = simulated.validation.sites.coordinates[:n], simulated.validation.response[:n]
        losses = {name: pointwise_losses(response, f(sites), "absolute", bound=1.0) for name, f in models.items()}
        snn = partial(snn_risk, lipschitz=1.0, loss_bound=1.0, published=True)
        for method, estimator in (("holdout", holdout_risk), ("SNN", snn)):
            chosen = compare_risks(losses, sites, test.sites, estimator).index[0]
            yield {"task": "line", "seed": seed, "n": n, "method": method, "error": float(chosen != better), "k": 0}


def coverage(surfaces: int) -> None:
    """Labels Beta(1, 3) on the square, a test grid; losses uniform within .2 of a surface of Lipschitz constant 1.5."""
    line = np.linspace(0, 1, 12)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    covered: dict[str, list[bool]] = {}
    width: dict[str, list[float]] = {}
    for seed in range(surfaces):
        rng = np.random.default_rng(seed)
        frequency, phase, weight = rng.normal(size=(6, 2)), rng.uniform(0, 2 * np.pi, 6), rng.dirichlet(np.ones(6))
        frequency *= 1.5 / (0.3 * weight @ np.linalg.norm(frequency, axis=1))
        sites = rng.beta(1, 3, (300, 2))
        loss, truth = (0.5 + 0.3 * np.cos(s @ frequency.T + phase) @ weight for s in (sites, grid))
        losses = loss + rng.uniform(-0.2, 0.2, 300)
        holdout = holdout_risk(losses, sites, grid)
        snn = snn_risk(losses, sites, grid, lipschitz=1.5, loss_bound=1.0)
        half = norm.ppf(0.95) * snn.standard_error
        intervals = {
            "holdout": holdout.interval(),
            "holdout, block bootstrap": sampling_variability(holdout, losses, sites, key=seed).interval(),
            "1NN, bias-aware": nearest_neighbour_risk(losses, sites, grid, lipschitz=1.5).interval(),
            "SNN, bias-aware": snn.interval(),
            "SNN, normal": (snn.estimate - half, snn.estimate + half),
            "SNN, the paper's bound": (snn.estimate - snn.bound, snn.estimate + snn.bound),
        }
        for name, (low, high) in intervals.items():
            covered.setdefault(name, []).append(bool(low <= truth.mean() <= high))
            width.setdefault(name, []).append(high - low)
    print(f"\ncoverage of 90 % intervals, {surfaces} surfaces, and their mean width")
    for name, hits in covered.items():
        print(f"{name:26}{np.mean(hits):.2f}   {np.mean(width[name]):.3f}")


def surface_coverage(sets: int) -> None:
    """Losses of a log-normal surface (Matern 3/2) on a line, labels Beta(1, 2); the risk over the whole line."""
    test = np.linspace(0, 1, 50)[:, None]
    covered: dict[str, list[bool]] = {"loss surface": [], "holdout": []}
    width: dict[str, list[float]] = {"loss surface": [], "holdout": []}
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        sites = rng.beta(1, 2, (120, 1))
        both = np.concatenate([sites, test])
        correlation = covariance("matern 3/2", both, both, 0.3) + 1e-8 * np.eye(170)
        surface = np.linalg.cholesky(correlation) @ rng.normal(size=170)
        losses, truth = np.exp(surface[:120] + 0.4 * rng.normal(size=120)), np.exp(surface[120:] + 0.4**2 / 2).mean()
        fit = laplace(LossSurface.around(losses, sites, test, family="log-normal", basis=30), sites, losses)
        risks = {"loss surface": surface_risk(fit, test), "holdout": holdout_risk(losses, sites, test)}
        for name, risk in risks.items():
            low, high = risk.interval()
            covered[name].append(bool(low <= truth <= high))
            width[name].append(high - low)
    print(f"\ncoverage of 90 % intervals where the model is true, {sets} sets, and their mean width")
    for name, hits in covered.items():
        print(f"{name:26}{np.mean(hits):.2f}   {np.mean(width[name]):.3f}")


def report(rows: pd.DataFrame) -> None:
    for task in ("grid", "point"):
        mine = rows[rows.task == task]
        if mine.empty:
            continue
        print(f"\n{task}: median absolute error of {mine.seed.nunique()} seeds, the paper's in brackets")
        table = mine.pivot_table(index="n", columns="method", values="error", aggfunc="median")
        for n, row in table.iterrows():
            paper = PAPER.get((task, int(n)))
            cells = [
                f"{row[method]:.4f}" + (f" ({paper[i]:.4f})" if paper else "         ")
                for i, method in enumerate(("holdout", "1NN", "SNN"))
            ]
            ks = mine[(mine.n == n) & (mine.method == "SNN")].k.value_counts(normalize=True).sort_index()
            print(f"{n:>6}  " + "  ".join(cells) + "   k: " + ", ".join(f"{k} {share:.0%}" for k, share in ks.items()))
    mine = rows[rows.task == "line"]
    for method, paper in PAPER_LINE.items():
        right = 1 - mine[mine.method == method].groupby("n").error.mean()
        if len(right):
            cells = ", ".join(f"{n}: {value:.0%} ({p} %)" for (n, value), p in zip(right.items(), paper, strict=False))
            print(f"\nline, {method} right: {cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", nargs="+", default=["coverage", "surface", "line", "point", "grid"])
    parser.add_argument("--out", type=Path, help="CSV of all errors; seeds that are in it are not run again")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="a test site lies")
    sizes = SIZES[:1] if args.smoke else SIZES
    seeds = 2 if args.smoke else args.seeds
    rows: list[dict[str, Any]] = []
    if args.out and args.out.exists():
        rows = pd.read_csv(args.out).to_dict("records")
    done = {(row["task"], row["seed"]) for row in rows}
    begin = time.time()
    if "coverage" in args.tasks:
        coverage(10 if args.smoke else 20 * seeds)
    if "surface" in args.tasks:
        surface_coverage(2 if args.smoke else 10 * seeds)
    for task in [task for task in args.tasks if task not in ("coverage", "surface")]:
        for seed in range(seeds):
            if (task, seed) in done:
                continue
            new = list(line_rows(seed) if task == "line" else field_rows(task, seed, sizes))
            rows += new
            if args.out:
                fresh = not args.out.exists()
                with args.out.open("a", newline="") as file:
                    writer = csv.DictWriter(file, list(new[0]))
                    if fresh:
                        writer.writeheader()
                    writer.writerows(new)
    if rows:
        report(pd.DataFrame(rows))
    print(f"\n{time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
