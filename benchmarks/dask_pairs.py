"""The best of all pairs of items in a Dask array, by two worker processes, beside the same call in memory.

python benchmarks/dask_pairs.py                   # 20,480 items x 64, best 256; --items, --criterion, --smoke

The workers hold the array. The two sides take turns in one run, each warm after a call that is not counted; figures
are medians. Processor time (of both workers, of the one process) is what a busy machine disturbs least. Workers'
memory is the peak of one of them above what it held after its imports.
"""

from __future__ import annotations

import argparse
import logging
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
    """Largest memory of this process so far, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def warm_up() -> float:
    import tercet.designs.pairs.tiled.dask_tiles  # noqa: F401

    return peak()


def timed(cpu: Callable[[], float], *args: Any, **options: Any) -> tuple[tuple[float, float], Selection]:
    start, used = time.perf_counter(), cpu()
    found = select_pairs(*args, **options)
    return (time.perf_counter() - start, cpu() - used), found


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
    call = {"candidates": "all", "criterion": options.criterion}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0",
                     memory_limit=0, silence_logs=logging.ERROR) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        before = client.run(warm_up)
        array = da.from_array(data.items.features, chunks=(max(1, options.items // 7), 64)).persist()
        seconds: dict[str, list[tuple[float, float]]] = {"memory": [], "two processes": []}

        def of_workers() -> float:
            return sum(client.run(time.process_time).values())

        for turn in range(options.repeats + 1):
            here, expected = timed(time.process_time, data.items, fit, options.picks, **call)
            there, found = timed(of_workers, array, fit, options.picks, **call)
            same = int((found.chosen == expected.chosen).all(axis=1).sum())
            gap = float(np.abs(found.gains - expected.gains).max())
            if turn:
                seconds["memory"].append(here)
                seconds["two processes"].append(there)
        above = max(after - before[worker] for worker, after in client.run(peak).items())
    pairs = options.items * (options.items - 1) // 2
    print(f"{pairs:,} pairs, best {options.picks} by {options.criterion}: {same} of {options.picks} picks alike, "
          f"gains within {gap:.1e}; a worker {above:,.0f} MB above its imports")  # fmt: skip
    for name, values in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name:>14}: {wall:.2f} s by the clock, {cpu:.2f} s of processors")


if __name__ == "__main__":
    main()
