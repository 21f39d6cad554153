"""The best of all pairs of items in a Dask array, by two worker processes, compared with the same call in memory.

python benchmarks/dask_pairs.py                   # 20,480 items x 64, best 256; --items, --criterion, --smoke

The workers hold the array. The two sides alternate, each after a warm-up call; times are medians. Processor time (of
both workers, or of the one process) is least disturbed by a busy machine. Memory is the peak of a worker above that
after its imports.
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tercet.datasets import simulated_preferences
from tercet.designs import select_pairs
from tercet.designs.select import Selection
from tercet.inference import laplace
from tercet.models import BradleyTerry


def peak() -> float:
    """Peak memory of this process [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def warm_up() -> float:
    import tercet.designs.pairs.tiled.dask_tiles  # noqa: F401

    return peak()


def timed(cpu: Callable[[], float], select: Callable[[], Selection]) -> tuple[tuple[float, float], Selection]:
    """Wall and processor seconds of a selection, and the selection."""
    wall, busy = time.perf_counter(), cpu()
    picked = select()
    return (time.perf_counter() - wall, cpu() - busy), picked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=20_480)
    parser.add_argument("--picks", type=int, default=256)
    parser.add_argument("--criterion", default="posterior variance")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.items, options.repeats = 2_100, 1
    import dask.array as da
    from distributed import Client, LocalCluster

    data = simulated_preferences(options.items, 64, 500)
    fit = laplace(BradleyTerry(), data.items, data.comparisons)

    def select(features: Any) -> Selection:
        return select_pairs(features, fit, options.picks, candidates="all", criterion=options.criterion)

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0",
                     memory_limit=0, silence_logs=logging.ERROR) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        before = client.run(warm_up)
        array = da.from_array(data.items.features, chunks=(max(1, options.items // 7), 64)).persist()
        seconds: dict[str, list[tuple[float, float]]] = {"in memory": [], "two workers": []}

        def of_workers() -> float:
            return sum(client.run(time.process_time).values())

        for repeat in range(options.repeats + 1):
            local, expected = timed(time.process_time, lambda: select(data.items))
            remote, picked = timed(of_workers, lambda: select(array))
            same = int((picked.chosen == expected.chosen).all(axis=1).sum())
            gap = float(np.abs(picked.gains - expected.gains).max())
            if repeat:
                seconds["in memory"].append(local)
                seconds["two workers"].append(remote)
        above = max(after - before[worker] for worker, after in client.run(peak).items())
    pairs = options.items * (options.items - 1) // 2
    print(f"{pairs:,} pairs, best {options.picks} by {options.criterion}: {same} of {options.picks} picks agree, "
          f"gains differ by {gap:.1e} at most; peak of a worker {above:,.0f} MB above its imports")  # fmt: skip
    for name, values in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name:>12}: {wall:.2f} s wall time, {cpu:.2f} s processor time")


if __name__ == "__main__":
    main()
