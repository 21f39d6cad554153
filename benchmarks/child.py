"""Time one side of the benchmarks in a separate process: python child.py MODULE FOLDER FUNCTION:PROBLEM ...

For each FUNCTION:PROBLEM, load FOLDER/PROBLEM.npz, time FUNCTION of MODULE on it, write the estimates to the folder and
print one line of JSON: `cold` (seconds of imports and the first call), `warm` and `cpu` (wall and processor seconds of
the fastest later call), `peak` (peak memory in MB above that after the imports, the arrays of the problem included on
both sides), `notes`, `versions`.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

MAX_SECONDS = 15.0  # of all calls of a job
MAX_CALLS = 5


def resident() -> float:
    """Current resident memory [MB]."""
    try:
        return _status("VmRSS")
    except OSError:
        return _high_water()


def peak() -> float:
    """Peak resident memory of this process [MB]."""
    try:
        return _status("VmHWM")
    except OSError:
        return _high_water()


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024.0


def _high_water() -> float:
    # Not on Linux, where a child inherits ru_maxrss from its parent.
    unit = 1024.0**2 if sys.platform == "darwin" else 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def reset_peak() -> None:
    """Reset the peak of resident memory, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def measure(
    function: Callable[[dict[str, np.ndarray]], Callable[[], dict[str, Any]]],
    data: dict[str, np.ndarray],
    imports: float,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Timings and estimates of one job."""
    call = function(data)
    times: list[tuple[float, float]] = []
    while len(times) < MAX_CALLS and sum(wall for wall, _ in times) < MAX_SECONDS:
        wall, cpu = perf_counter(), process_time()
        estimates = call()
        times.append((perf_counter() - wall, process_time() - cpu))
    (first, _), (warm, cpu) = times[0], min(times[1:] or times)
    notes = {name[1:]: float(value) for name, value in estimates.items() if name.startswith("_")}
    kept = {name: value for name, value in estimates.items() if not name.startswith("_")}
    return {"cold": imports + first, "warm": warm, "cpu": cpu, "notes": notes}, kept


def main() -> None:
    name, folder, jobs = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    start = perf_counter()
    module = importlib.import_module(name)
    imports = perf_counter() - start
    for job in jobs:
        function, problem = job.split(":")
        reset_peak()
        baseline = resident()
        with np.load(folder / f"{problem}.npz") as file:
            data = dict(file)
        figures, estimates = measure(getattr(module, function), data, imports)
        figures |= {"job": job, "peak": peak() - baseline, "versions": module.versions()}
        np.savez(folder / f"{name}-{function}-{problem}.npz", **estimates)
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
