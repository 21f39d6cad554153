"""Geographically weighted regression: time, memory and accuracy, beside mgwr.

python benchmarks/local_regression.py                            # 28,000 sites of the globe, prediction at 10,000
python benchmarks/local_regression.py --peer .bench/mgwr/bin/python --sizes 1000 2000
python benchmarks/local_regression.py --smoke                    # small sizes

Ours: cold in a fresh process, imports included; leave-one-out search of the number of neighbours, then prediction at
new sites with standard errors; memory is the peak of the process. Accuracy: root mean square error of the predicted
mean, and of one regression for all sites; rms z: root mean square of error over standard error, bias included. Peer:
mgwr (python -m venv .bench/mgwr; .bench/mgwr/bin/pip install mgwr) in a process of its own, after its imports and with
one thread (several slow it down): the same adaptive bisquare kernel, its golden-section search by cross-validation
(from 47 neighbours, its default, to 1,000), the fit at its own sites and prediction at a quarter as many; ours is warm
there, too. Agreement: largest difference of the coefficients at the same number of neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = [1_000, 2_000, 4_000]
NOISE = 0.3


def problem(n: int, layout: str = "uniform", key: int = 0) -> dict[str, np.ndarray]:
    """Latitudes and longitudes [n, 2], two covariates, a response whose coefficients change over the globe."""
    rng = np.random.default_rng(key)
    if layout == "clustered":  # towns, as airfields are
        towns = np.random.default_rng(1).normal(size=(300, 3))
        points = towns[rng.integers(300, size=n)] + 0.05 * rng.normal(size=(n, 3))
    else:
        points = rng.normal(size=(n, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    latitude, longitude = np.arcsin(points[:, 2]), np.arctan2(points[:, 1], points[:, 0])
    x = rng.normal(size=(n, 2))
    mean = points[:, 0] + points[:, 1] * x[:, 0] + np.sin(5 * points[:, 2]) * x[:, 1]
    sites = np.degrees(np.stack([latitude, longitude], axis=1))
    return {"sites": sites, "x": x, "y": mean + NOISE * rng.normal(size=n), "mean": mean}


def cold(n: int, m: int, layout: str) -> None:
    """In a fresh process: everything, imports included (making the data is not the user's wait)."""
    data, new = problem(n, layout), problem(m, layout, key=2)
    begin = time.perf_counter()
    from tercet.inference import geographically_weighted_regression
    from tercet.models import Sites

    sites_new = Sites(new["sites"], "sphere")
    fit = geographically_weighted_regression(Sites(data["sites"], "sphere"), data["x"], data["y"])
    fitted = time.perf_counter()
    prediction = fit.predict(sites_new, new["x"])
    end = time.perf_counter()
    design, design_new = (np.column_stack([np.ones(len(d["x"])), d["x"]]) for d in (data, new))
    everywhere = design_new @ np.linalg.lstsq(design, data["y"], rcond=None)[0]
    row = {
        "sites": n,
        "new": m,
        "layout": layout,
        "cold s": round(end - begin, 1),
        "of it prediction": round(end - fitted, 1),
        "MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "neighbours": fit.neighbours,
        "rmse": round(float(np.sqrt(np.mean((prediction.mean - new["mean"]) ** 2))), 3),
        "rmse of one regression": round(float(np.sqrt(np.mean((everywhere - new["mean"]) ** 2))), 3),
        "rms z": round(float(np.sqrt(np.mean(((prediction.mean - new["mean"]) / prediction.standard_error) ** 2))), 2),
    }
    print(json.dumps(row))


PEER = """
import sys, time
import numpy as np
from mgwr.gwr import GWR
from mgwr.sel_bw import Sel_BW
d = np.load(sys.argv[1])
coords, y, x = d["sites"][:, ::-1].copy(), d["y"][:, None], d["x"]
begin = time.perf_counter()
k = Sel_BW(coords, y, x, spherical=True, n_jobs=1).search(criterion="CV", bw_max=min(1000, len(y) - 1))
searched = time.perf_counter()
model = GWR(coords, y, x, k, spherical=True, n_jobs=1)
params = model.fit().params
fitted = time.perf_counter()
mean = model.predict(d["new"][:, ::-1].copy(), d["x_new"]).predictions[:, 0]
np.savez(sys.argv[2], k=k, params=params, mean=mean, took=[searched - begin, fitted - searched,
         time.perf_counter() - fitted])
"""


def against_mgwr(python: Path, n: int) -> None:
    """Search, fit and prediction by both, one after the other."""
    from tercet.inference import geographically_weighted_regression
    from tercet.models import Sites

    data, new = problem(n), problem(n // 4, key=2)
    sites, sites_new = Sites(data["sites"], "sphere"), Sites(new["sites"], "sphere")
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder, "given.npz"), Path(folder, "answer.npz")
        np.savez(given, **data, new=new["sites"], x_new=new["x"])
        alone = os.environ | {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
        run = subprocess.run([python, "-c", PEER, given, answer], capture_output=True, text=True, env=alone)
        if run.returncode:
            print(f"mgwr failed at {n} sites: {run.stderr.strip().splitlines()[-1]}")
            return
        peer = dict(np.load(answer))
    geographically_weighted_regression(sites, data["x"], data["y"], neighbours=50)  # imports
    clock = [time.perf_counter()]
    fit = geographically_weighted_regression(sites, data["x"], data["y"])
    clock.append(time.perf_counter())
    fit.predict(sites, data["x"])
    clock.append(time.perf_counter())
    fit.predict(sites_new, new["x"])
    clock.append(time.perf_counter())
    same: Any = geographically_weighted_regression(sites, data["x"], data["y"], neighbours=int(peer["k"]))
    difference = np.abs(same.predict(sites, data["x"]).coefficients - peer["params"]).max()
    difference_new = np.abs(same.predict(sites_new, new["x"]).mean - peer["mean"]).max()
    ours, theirs = np.diff(clock), peer["took"]
    print(f"\n{n} sites, search / fit at its own sites / prediction at {n // 4} new ones")
    print(f"  ours {ours[0]:.2f} / {ours[1]:.2f} / {ours[2]:.2f} s, {fit.neighbours} neighbours")
    print(f"  mgwr {theirs[0]:.2f} / {theirs[1]:.2f} / {theirs[2]:.2f} s, {int(peer['k'])} neighbours")
    print(
        f"  ratio {theirs.sum() / ours.sum():.0f}; at equal neighbours coefficients differ by at most {difference:.1e},"
    )
    print(f"  predictions by {difference_new:.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--sites", type=int, default=28_000)
    parser.add_argument("--new", type=int, default=10_000)
    parser.add_argument("--peer", type=Path, default=Path(".bench/mgwr/bin/python"), help="a python that has mgwr")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="sites at which the peer is timed")
    parser.add_argument("--child", nargs=3)
    args = parser.parse_args()
    if args.child:
        cold(int(args.child[0]), int(args.child[1]), args.child[2])
        return
    n, m = (600, 200) if args.smoke else (args.sites, args.new)
    for layout in ("uniform", "clustered"):
        call = [sys.executable, __file__, "--child", str(n), str(m), layout]
        print(subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip(), flush=True)
    if not args.peer.exists() or subprocess.run([args.peer, "-c", "import mgwr"], capture_output=True).returncode:
        print(f"mgwr is not installed for {args.peer}: no peer")
        return
    for size in [200] if args.smoke else args.sizes:
        against_mgwr(args.peer, size)


if __name__ == "__main__":
    main()
