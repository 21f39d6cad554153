"""One side of the benchmarks in a process of its own: python child.py MODULE FOLDER FUNCTION:PROBLEM ...

For each pair: loads FOLDER/PROBLEM.npz, times FUNCTION of MODULE on it, writes the estimates beside it and prints
one line of JSON: `cold` (imports and first call), `warm` and `cpu` (seconds of the fastest later call, by the clock
and of the processor), `peak` (MB above the process as it was after the imports; the arrays of the problem are in it,
for both sides alike), `notes`, `versions`.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

ENOUGH = 15.0  # seconds of calls
CALLS = 5


def resident() -> float:
    """Resident memory now [MB]."""
    try:
        return _status("VmRSS")
    except OSError:
        return _high_water()


def peak() -> float:
    """Highest resident memory of this process [MB]."""
    try:
        return _status("VmHWM")
    except OSError:
        return _high_water()


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024.0


def _high_water() -> float:
    # Outside Linux only: there a child inherits ru_maxrss from the process that spawned it.
    unit = 1024.0**2 if sys.platform == "darwin" else 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak() -> None:
    """Start the high-water mark again from here, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def measure(function: Any, data: dict[str, np.ndarray], imports: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures and estimates of one job."""
    call = function(data)
    times = []
    while len(times) < CALLS and sum(wall for wall, _ in times) < ENOUGH:
        start, busy = perf_counter(), process_time()
        estimates = call()
        times.append((perf_counter() - start, process_time() - busy))
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
        forget_peak()
        baseline = resident()
        with np.load(folder / f"{problem}.npz") as file:
            data = dict(file)
        figures, estimates = measure(getattr(module, function), data, imports)
        figures |= {"job": job, "peak": peak() - baseline, "versions": module.versions()}
        np.savez(folder / f"{name}-{function}-{problem}.npz", **estimates)
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
