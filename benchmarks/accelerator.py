"""Fits, all pairs, bridges and chains on whatever device JAX finds, the CPU included; under five minutes on two cores.

python benchmarks/accelerator.py                  # JSON on the standard output, progress on the standard error
python benchmarks/accelerator.py results.json     # JSON in a file
python benchmarks/accelerator.py --smoke          # toy sizes, seconds
python benchmarks/accelerator.py --only nuts      # some jobs

Each job runs twice in this process, the second time on other data of the same shape. `first_seconds`: the first call;
`compile_seconds`: what XLA took of it, in `programs` compilations (tracing and lowering are the rest of the
difference); `run_seconds`: the second call, with its own compilations in `programs_again`. `engine` says who computes:
JAX on its device, or NumPy on the host, whatever the device. `precision` is that of the numbers computed with. Programs
are not kept between runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import expit

import tercet
from tercet.datasets import lotka_volterra_snapshots
from tercet.designs import select_pairs
from tercet.inference import LaplaceOptions, TrainingOptions, fit_reference, laplace, multimarginal_bridge, nuts, svi
from tercet.models import (
    BradleyTerry,
    Comparisons,
    Davidson,
    Items,
    LinearHead,
    MLPHead,
    ReferenceSDE,
    SnapshotModel,
    lotka_volterra,
    proportional_volatility,
)

Call = Callable[[], Any]
XLA = "/jax/core/compile/backend_compile_duration"


class Job(NamedTuple):
    """A job: who computes, in which precision, its sizes in full and for a smoke test, and how a call is made."""

    engine: str
    precision: str
    sizes: dict[str, int]
    smoke: dict[str, int]
    make: Callable[..., Call]


def comparisons(rng: np.random.Generator, items: int, features: int, answers: int) -> tuple[Items, Comparisons]:
    """Bradley-Terry answers; differences of two rewards have standard deviation 2."""
    known = Items(rng.standard_normal((items, features), dtype=np.float32))
    reward = known.features @ rng.normal(size=features) * np.sqrt(2.0 / features)
    first = rng.integers(items, size=answers)
    second = (first + rng.integers(1, items, size=answers)) % items
    return known, Comparisons(first, second, 1.0 * (rng.random(answers) < expit(reward[first] - reward[second])))


def newton_fit(rng: np.random.Generator, items: int, features: int, answers: int) -> Call:
    known, asked = comparisons(rng, items, features, answers)
    return lambda: laplace(BradleyTerry(LinearHead()), known, asked)


def network_fit(rng: np.random.Generator, items: int, features: int, answers: int, width: int, rounds: int) -> Call:
    known, asked = comparisons(rng, items, features, answers)
    options = LaplaceOptions(training=TrainingOptions(rounds=rounds, patience=rounds, batch=1024))
    return lambda: laplace(BradleyTerry(MLPHead(1.0, widths=(width,))), known, asked, options=options)


def all_pairs(rng: np.random.Generator, items: int, features: int, answers: int, budget: int) -> Call:
    known, asked = comparisons(rng, items, features, answers)
    fit = laplace(BradleyTerry(LinearHead(2.0)), known, asked)
    return lambda: select_pairs(known, fit, budget, candidates="all", criterion="greedy V")


def reference_fit(rng: np.random.Generator, particles: int, starts: int) -> Call:
    seed = int(rng.integers(1000))
    data = lotka_volterra_snapshots(particles=particles, times=np.arange(0.0, 5.0), key=seed).snapshots
    model = SnapshotModel(ReferenceSDE(lotka_volterra(), proportional_volatility()))
    return lambda: fit_reference(model, data, starts=starts, key=seed)


def bridges(rng: np.random.Generator, particles: int, snapshots: int) -> Call:
    times = np.arange(0.0, snapshots)
    data = lotka_volterra_snapshots(particles=particles, times=times, key=int(rng.integers(1000))).snapshots
    sde = ReferenceSDE(lotka_volterra(), proportional_volatility())
    theta = {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1, "volatility": 0.1}
    half = times[:-1] + 0.5

    def run() -> Any:
        whole = multimarginal_bridge(sde, theta, data)
        return whole, whole.paths(half, n=particles, key=0)

    return run


def chains(rng: np.random.Generator, items: int, features: int, answers: int, warmup: int, samples: int) -> Call:
    known, asked = comparisons(rng, items, features, answers)
    return lambda: nuts(Davidson(LinearHead()), known, asked, warmup=warmup, samples=samples)


def variational(rng: np.random.Generator, items: int, features: int, answers: int, steps: int) -> Call:
    known, asked = comparisons(rng, items, features, answers)
    return lambda: svi(Davidson(LinearHead()), known, asked, steps=steps)


SET, TOY = {"items": 2_000, "features": 32, "answers": 20_000}, {"items": 40, "features": 3, "answers": 80}
JOBS = {
    "newton": Job(
        "NumPy on the host", "float64", {"items": 20_000, "features": 256, "answers": 100_000}, TOY, newton_fit
    ),
    "network": Job(
        "JAX; the last layer NumPy on the host", "default", SET | {"width": 128, "rounds": 5},
        TOY | {"width": 4, "rounds": 1}, network_fit,
    ),
    "all pairs": Job(
        "NumPy on the host", "float64", {"items": 8_192, "features": 64, "answers": 256, "budget": 64},
        TOY | {"budget": 4}, all_pairs,
    ),
    "reference": Job("JAX", "float64", {"particles": 50, "starts": 8}, {"particles": 6, "starts": 1}, reference_fit),
    "bridges": Job(
        "JAX", "float64", {"particles": 1_000, "snapshots": 4}, {"particles": 12, "snapshots": 2}, bridges
    ),
    "nuts": Job("JAX", "default", SET | {"warmup": 100, "samples": 100}, TOY | {"warmup": 4, "samples": 4}, chains),
    "svi": Job("JAX", "default", SET | {"steps": 500}, TOY | {"steps": 5}, variational),
}  # fmt: skip


class Compilations:
    """Seconds and number of compilations by XLA since the start of this process."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, seconds: float, **_: Any) -> None:
        if event == XLA:
            self.total.update({"seconds": seconds, "programs": 1})  # type: ignore[dict-item]

    @contextmanager
    def counted(self) -> Iterator[dict[str, float]]:
        """What has been compiled within the block, once it has ended, and how long the block took."""
        before, begin, found = self.total.copy(), perf_counter(), dict[str, float]()
        yield found
        found |= {name: self.total[name] - before[name] for name in ("seconds", "programs")}
        found["elapsed"] = perf_counter() - begin


def measure(job: Job, sizes: dict[str, int], compilations: Compilations) -> dict[str, Any]:
    """The two calls of one job."""
    counts = []
    for seed in (0, 1):
        call = job.make(np.random.default_rng(seed), **sizes)
        with compilations.counted() as found:
            jax.block_until_ready(call())
        counts.append(found)
    first, again = counts
    precision = f"float{64 if jax.config.values['jax_enable_x64'] else 32}" if job.precision == "default" else ""
    return {
        "engine": job.engine,
        "precision": precision or job.precision,
        "sizes": sizes,
        "first_seconds": round(first["elapsed"], 3),
        "compile_seconds": round(first["seconds"], 3),
        "programs": int(first["programs"]),
        "run_seconds": round(again["elapsed"], 3),
        "programs_again": int(again["programs"]),
    }


def machine() -> dict[str, Any]:
    devices = jax.devices()
    return {
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "versions": {"tercet": tercet.__version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, help="file for the JSON (default: standard output)")
    parser.add_argument("--smoke", action="store_true", help="toy sizes")
    parser.add_argument("--only", nargs="+", choices=list(JOBS), help="only these jobs")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)  # what is kept already would not be compiled
    warnings.simplefilter("ignore")  # short chains and fits do not converge
    begin, compilations, results = perf_counter(), Compilations(), {}
    for name in options.only or JOBS:
        job = JOBS[name]
        results[name] = measure(job, job.smoke if options.smoke else job.sizes, compilations)
        print(f"{name}: {json.dumps(results[name])}", file=sys.stderr, flush=True)
    text = json.dumps({**machine(), "jobs": results, "seconds": round(perf_counter() - begin, 1)}, indent=1)
    if options.out is None:
        print(text)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
