"""Time and memory of spatial nearest neighbours, beside the algorithm as published.

python benchmarks/spatial.py                       # part of make bench; --only snn million, --smoke

snn: 10,000 validation and 50,000 test sites; the peer is the published algorithm, implemented again here: the full
distance matrix, sorted. million: 1,000,000 of each, on the plane and on the sphere. Every part runs in a process of its
own; peak memory is counted from what the process uses after its imports.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

PARTS = ("snn", "published", "million", "sphere")


def uniform(n: int, metric: str, rng: np.random.Generator) -> Any:
    from tercet.models import Sites

    if metric == "plane":
        return Sites(rng.uniform(-0.5, 0.5, (n, 2)))
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    return Sites(np.stack([latitude, rng.uniform(-180, 180, n)], axis=1), "sphere")


def published(losses: np.ndarray, validation: Any, test: Any) -> tuple[int, float]:
    """Sort every row of the distance matrix; then each power of two in turn. delta as in `published=True`."""
    from tercet.inference.space.fill_distances import bisected_fill
    from tercet.models import distances

    gap = distances(test, validation)
    order = np.argsort(gap, axis=1, kind="stable")
    delta = min(1.0, bisected_fill(validation.coordinates, [-0.5] * 2, [0.5] * 2))
    best, chosen = np.inf, (0, 0.0)
    for j in range(len(losses).bit_length() - 1):
        k = 2**j
        weights = np.bincount(order[:, :k].ravel(), minlength=len(losses)) / (k * len(gap))
        farthest = np.take_along_axis(gap, order[:, k - 1 : k], axis=1).max()
        value = farthest + np.sqrt(0.5 * np.log(2 / delta)) * np.linalg.norm(weights)
        if value < best:
            best, chosen = value, (k, float(weights @ losses))
    return chosen


def ours(losses: np.ndarray, validation: Any, test: Any) -> tuple[int, float]:
    from tercet.inference import snn_risk

    plane = validation.metric == "plane"
    risk = snn_risk(losses, validation, test, lipschitz=1.0 if plane else 1e-4, loss_bound=1.0, published=plane)
    return risk.k, risk.estimate


def timed(name: str, work: Callable[..., tuple[int, float]], n: int, m: int, metric: str) -> None:
    import tercet.inference.space.spatial_risk  # noqa: F401  (imports are not what is timed)

    rng = np.random.default_rng(0)
    validation, test, losses = uniform(n, metric, rng), uniform(m, metric, rng), rng.uniform(size=n)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    k, estimate = work(losses, validation, test)
    seconds = time.perf_counter() - begin
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    size = f"{n:,} x {m:,}, {metric}"
    print(f"{name}, {size}: {seconds:.2f} s, {peak:.0f} MB, k = {k}, estimate {estimate:.15f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if len(args.only) > 1:
        for part in args.only:
            subprocess.run([sys.executable, __file__, "--only", part, *["--smoke"] * args.smoke], check=True)
        return
    fraction = 100 if args.smoke else 1
    if "snn" in args.only:
        timed("SNN", ours, 10_000 // fraction, 50_000 // fraction, "plane")
    if "published" in args.only:
        timed("SNN as published", published, 10_000 // fraction, 50_000 // fraction, "plane")
    if "million" in args.only:
        timed("SNN", ours, 1_000_000 // fraction, 1_000_000 // fraction, "plane")
    if "sphere" in args.only:
        timed("SNN", ours, 1_000_000 // fraction, 1_000_000 // fraction, "sphere")


if __name__ == "__main__":
    main()
