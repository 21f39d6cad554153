"""Trajectories from snapshots: time, memory and accuracy, on simulated populations or on files of snapshots.

python benchmarks/trajectories.py                      # every table, simulated data
python benchmarks/trajectories.py --files DIR          # accuracy on DIR/*.npz (snapshots [K, n, d], times) instead
python benchmarks/trajectories.py --smoke              # small sizes

End to end: fit (8 starts), bridges, paths at the half-way times; cold in a fresh process, imports included; warm
again in the same process, on new data. Accuracy: half-way 2-Wasserstein distance to a new sample of the truth beside
the distance of two such samples (the floor), over draws of the truth. Growth: one gradient of the snapshot likelihood.
Cells: real ones, DIR/embryoid_body.npz, every second snapshot held out (only with --files). Tiles: iterations of
Sinkhorn on n x n particles, peak memory above that of the process after its imports. Peer: POT's log-domain Sinkhorn
where it is installed (pip install pot), at sizes where the whole matrix fits.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

TRUTH: dict[str, dict[str, float]] = {
    "lotka_volterra": {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1},
    "repressilator": {"beta": 10.0, "n": 3.0, "k": 1.0, "gamma": 1.0},
}
SETS = {  # particles, times to fit, half-way times, noise, its size, anchor
    "lotka_volterra_50": (50, np.arange(0.0, 9.0, 2.0), np.arange(1.0, 9.0, 2.0), "constant", 0.1, "first"),
    "repressilator_50": (50, np.arange(0.0, 8.0, 1.5), np.arange(0.75, 7.5, 1.5), "constant", 0.1, "consecutive"),
    "lotka_volterra_200": (200, np.arange(10.0), np.arange(0.5, 9.0), "proportional", 0.02, "first"),
    "repressilator_200": (200, np.arange(10.0), np.arange(0.5, 9.0), "proportional", 0.02, "consecutive"),
}

PARTS = ("sets", "cells", "growth", "tiles", "pot")


def simulated(name: str, times: np.ndarray, key: int) -> Any:
    """Snapshots of the system at these times (the first of them the start, at 0)."""
    from tercet.datasets import lotka_volterra_snapshots, repressilator_snapshots

    particles, _, _, noise, size, _ = SETS[name]
    draw = lotka_volterra_snapshots if name.startswith("lotka") else repressilator_snapshots
    return draw(particles=particles, times=times, volatility=size, noise=noise, key=key).snapshots


def model_of(name: str) -> Any:
    from tercet.models import (
        ReferenceSDE,
        SnapshotModel,
        constant_volatility,
        lotka_volterra,
        proportional_volatility,
        repressilator,
    )

    drift = lotka_volterra() if name.startswith("lotka") else repressilator()
    _, _, _, noise, _, anchor = SETS[name]
    volatility = constant_volatility() if noise == "constant" else proportional_volatility()
    return SnapshotModel(ReferenceSDE(drift, volatility), anchor=anchor, jackknife=anchor == "consecutive")


def end_to_end(name: str, model: Any, data: Any, halves: np.ndarray, key: int) -> dict[str, Any]:
    """Fit, bridge, paths: parameters, how many starts agree, clouds at the half-way times."""
    from tercet.inference import fit_reference, multimarginal_bridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = fit_reference(model, data, key=key)
        theta = {site: value for site, value in fit.mean().items() if site in model.sde.priors}
        whole = multimarginal_bridge(model.sde, theta, data)
    paths = whole.paths(halves, n=len(data.particles[0]), key=key)
    return {"theta": {k: float(v) for k, v in theta.items()}, "agree": fit.diagnostics["agree"], "paths": paths}


def child(name: str, draws: int, file: str | None) -> None:
    """In a fresh process: cold and warm times, and accuracy over draws of the truth."""
    begin = time.perf_counter()
    from tercet.inference import wasserstein
    from tercet.models import Snapshots

    _, times, halves, _, _, _ = SETS[name]
    model = model_of(name)
    given = None
    if file:
        stored = np.load(file)
        keep = slice(0, 10) if name.endswith("200") else slice(None, None, 2)
        given = Snapshots(stored["snapshots"][keep], stored["times"][keep], names=model.sde.names)
        if name.endswith("50"):
            halves = stored["times"][1::2]
    imported = time.perf_counter() - begin
    data = given or simulated(name, times, 0)
    begin = time.perf_counter() - imported  # simulating is not the user's wait
    first = end_to_end(name, model, data, halves, 0)
    cold = time.perf_counter() - begin
    again = simulated(name, times, 1)
    begin = time.perf_counter()
    end_to_end(name, model, again, halves, 1)
    warm = time.perf_counter() - begin
    grid = np.concatenate([[0.0], halves])
    distances, floors = [], []
    for draw in range(draws):
        one, two = (simulated(name, grid, 100 + 2 * draw + k).particles[1:] for k in (0, 1))
        floors.append([wasserstein(a, b) for a, b in zip(one, two, strict=True)])
        data = simulated(name, times, 50 + draw)
        fitted = first if given and draw == 0 else end_to_end(name, model, data, halves, draw)
        clouds = np.moveaxis(fitted["paths"], 1, 0)
        distances.append([wasserstein(a, b) for a, b in zip(clouds, one, strict=True)])
    truth = TRUTH[name.rsplit("_", 1)[0]]
    row = {
        "set": name,
        "cold": round(cold, 1),
        "warm": round(warm, 1),
        "agree": f"{first['agree']} of 8",
        "largest error of a rate": f"{max(abs(first['theta'][k] / v - 1) for k, v in truth.items()):.1%}",
        "W2": round(float(np.mean(distances)), 4),
        "floor": round(float(np.mean(floors)), 4),
        "floor sd": round(float(np.std(np.mean(floors, axis=1), ddof=draws > 1)), 4),
        "theta": {k: round(v, 4) for k, v in first["theta"].items()},
    }
    print(json.dumps(row))


def held_out(file: Path) -> None:
    """Real cells: references fitted to every second snapshot, judged at those between by 2-Wasserstein distance.

    The sd is that of the difference to the best trivial baseline when cells are drawn anew (bootstrap of both clouds).
    """
    from tercet.inference import reference_mode, wasserstein
    from tercet.inference.trajectories import persistence, transport_midpoint
    from tercet.inference.trajectories.reference_selection import bridge_marginal
    from tercet.models import ReferenceSDE, SnapshotModel, Snapshots, brownian, constant_volatility, gradient_field

    stored = np.load(file)
    clouds, times = stored["snapshots"], stored["times"]
    training, dim = Snapshots(list(clouds[::2]), times[::2]), clouds.shape[2]
    fields = {"Brownian": brownian(dim)} | {
        kind: gradient_field(training.center, training.scale, kind) for kind in ("linear", "quadratic")
    }
    models = {
        name: SnapshotModel(ReferenceSDE(drift, constant_volatility(0.3)), anchor="consecutive")
        for name, drift in fields.items()
    }
    theta = {
        name: reference_mode(model, training, starts=4, progress=False).theta if model.sde.priors else {}
        for name, model in models.items()
    }
    rng = np.random.default_rng(0)
    for k in range(1, len(times), 2):
        clouds_of = {"persistence": persistence(training, times[k]), "midpoint": transport_midpoint(training, times[k])}
        clouds_of |= {
            n: bridge_marginal(m, theta[n], training, times[k], n=len(clouds[k]), key=0) for n, m in models.items()
        }
        again = []
        for _ in range(50):
            held = rng.choice(clouds[k], len(clouds[k]))
            again.append([wasserstein(rng.choice(cloud, len(cloud)), held) for cloud in clouds_of.values()])
        whole = [wasserstein(cloud, clouds[k]) for cloud in clouds_of.values()]
        best = int(np.argmin(whole[:2]))
        sd = (np.array(again) - np.array(again)[:, [best]]).std(axis=0)
        shown = ", ".join(f"{n} {w:.3f} (sd {s:.3f})" for n, w, s in zip(clouds_of, whole, sd, strict=True))
        print(f"{file.stem}, t = {times[k]:g}: {shown}", flush=True)


def growth(smoke: bool) -> None:
    """One gradient of the first-anchored likelihood as particles and dimensions grow."""
    from tercet.inference.posteriors.problem import Problem
    from tercet.models import ReferenceSDE, SnapshotModel, Snapshots, constant_volatility, ornstein_uhlenbeck

    print("\none gradient of the likelihood: seconds after compiling, and the compilation")
    for particles in (50, 100) if smoke else (200, 400, 800, 1600):
        SETS["lotka_growing"] = (particles, np.arange(10.0), np.arange(1.0), "proportional", 0.02, "first")
        model = model_of("lotka_growing")
        data = simulated("lotka_growing", np.arange(3.0 if smoke else 10.0), 0)
        _time_gradient(Problem(model, (data,), {}, x64=True), f"Lotka-Volterra, {particles} particles")
    sizes = ((3, 3, 50),) if smoke else ((2, 21, 500), (10, 21, 500), (30, 21, 500))
    for dim, times, particles in sizes:
        rng = np.random.default_rng(0)
        data = Snapshots(rng.standard_normal((times, particles, dim)), np.arange(times, dtype=float))
        model = SnapshotModel(ReferenceSDE(ornstein_uhlenbeck(dim), constant_volatility()), anchor="consecutive")
        name = f"Ornstein-Uhlenbeck, {dim} dimensions, {times} x {particles}"
        _time_gradient(Problem(model, (data,), {}, x64=True), name)


def _time_gradient(problem: Any, name: str) -> None:
    z, laps = problem.start, []
    for _ in range(4):
        begin = time.perf_counter()
        problem.value_and_gradient(z)
        laps.append(time.perf_counter() - begin)
    compiled = laps.pop(0)
    print(f"  {name:45s} {min(laps):8.3f} s   ({compiled:.1f} s)   peak so far {_peak():.0f} MB")


def tiles(n: int, iterations: int) -> None:
    """Sinkhorn in tiles on n x n particles in the plane, stopped after some iterations."""
    from tercet.inference import sinkhorn_bridge
    from tercet.models import ReferenceSDE, brownian, constant_volatility

    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((n, 2)), rng.standard_normal((n, 2)) + 1.0
    sde = ReferenceSDE(brownian(2), constant_volatility(3.0))  # wide: no annealing, so exactly these iterations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sinkhorn_bridge(sde, {}, source[:200], target[:200], start=0.0, stop=1.0, max_iterations=2, tile=16)  # imports
        before, begin = _peak(), time.perf_counter()
        bridge = sinkhorn_bridge(
            sde, {}, source, target, start=0.0, stop=1.0, tolerance=1e-12, max_iterations=iterations
        )
    took = time.perf_counter() - begin
    lap = took / max(1, bridge.iterations)
    print(f"\ntiled Sinkhorn, {n:,} x {n:,}: {lap:.2f} s an iteration, compilation and last pass included")
    print(f"  {bridge.iterations} iterations; memory {_peak() - before:.0f} MB above {before:.0f} MB before")


def against_pot(n: int) -> None:
    """The same bridge by POT's log-domain Sinkhorn: time and largest difference of the couplings."""
    try:
        import ot
    except ImportError:
        print("\nPOT is not installed: no peer for Sinkhorn (pip install pot)")
        return
    from tercet.inference import brownian_epsilon, sinkhorn_bridge
    from tercet.models import ReferenceSDE, brownian, constant_volatility

    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((n, 2)), rng.standard_normal((n, 2)) + 1.0
    sde, weights = ReferenceSDE(brownian(2), constant_volatility(0.5)), np.full(n, 1.0 / n)
    laps = []
    for _ in range(2):
        begin = time.perf_counter()
        ours = sinkhorn_bridge(sde, {}, source, target, start=0.0, stop=1.0, tolerance=1e-6)
        laps.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    theirs = ot.bregman.sinkhorn_log(
        weights, weights, ot.dist(source, target), brownian_epsilon(0.5, 1.0), stopThr=1e-6, numItermax=10_000
    )
    took = time.perf_counter() - begin
    apart = np.abs(ours.coupling - theirs).sum()
    print(f"\nbridge of {n} x {n}: ours {laps[0]:.2f} s cold, {laps[1]:.2f} s warm; POT {took:.2f} s")
    print(f"  couplings apart by {apart:.1e} (sum of absolute differences)")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--files", type=Path, help="folder of npz files named as the sets")
    parser.add_argument("--draws", type=int, default=5, help="draws of the truth")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--child")
    parser.add_argument("--file")
    args = parser.parse_args()
    if args.child:
        child(args.child, args.draws, args.file)
        return
    if "sets" in args.only:
        for name in ["lotka_volterra_50"] if args.smoke else SETS:
            call = [sys.executable, __file__, "--child", name, "--draws", "1" if args.smoke else str(args.draws)]
            if args.files:
                call += ["--file", str(args.files / f"{name}.npz")]
            print(subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip(), flush=True)
    if len(args.only) > 1:  # each in a process of its own, for the peaks of memory
        files = ["--files", str(args.files)] if args.files else []
        for part in [part for part in PARTS[1:] if part in args.only]:
            subprocess.run([sys.executable, __file__, "--only", part, *files, *["--smoke"] * args.smoke], check=True)
        return
    if "cells" in args.only and args.files and not args.smoke:
        held_out(args.files / "embryoid_body.npz")
    if "growth" in args.only:
        growth(args.smoke)
    if "tiles" in args.only:
        tiles(2_000 if args.smoke else 20_000, 10)
    if "pot" in args.only:
        against_pot(200 if args.smoke else 1000)


if __name__ == "__main__":
    main()
