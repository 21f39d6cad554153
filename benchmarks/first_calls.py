"""What a user waits for: processor seconds of calls in a fresh process, and the programs that XLA compiles for them.

Each row is a process of its own: the call for the first time, again on other data of the same shape, and on more data.

    python benchmarks/first_calls.py                       every row (some four minutes)
    python benchmarks/first_calls.py --only davidson svi   some of them
    python benchmarks/first_calls.py --smoke               small sizes
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

Call = Callable[[], object]
Row = Callable[[bool], list[tuple[str, Call]]]
"""From whether sizes are small to the calls of a row, in order, with their names."""

EVENT = "/jax/core/compile/backend_compile_duration"
DIM, ANSWERS = 64, 50


def words() -> Any:
    from tercet.datasets import word_valence

    return word_valence(components=DIM)


def answered(count: int, key: int, levels: int = 2) -> Any:
    """Comparisons of words, on a scale of so many answers, by three people."""
    from tercet.designs import candidate_pairs
    from tercet.models import Comparisons

    pairs = candidate_pairs(words().items, n=count, key=key)
    rng = np.random.default_rng(key)
    items = words().items.features
    gap = (items[pairs[:, 0]] - items[pairs[:, 1]])[:, :4].sum(axis=1) + rng.logistic(size=count)
    outcome = np.rint((levels - 1) / (1.0 + np.exp(-gap))) / (levels - 1)
    return Comparisons(pairs[:, 0], pairs[:, 1], outcome, annotator=np.arange(count) % 3)


def on_words(fit: Callable[[Any, Any], object], levels: int = 2) -> Row:
    """A fit of comparisons of words: 50 of them, 50 others, 75."""

    def row(small: bool) -> list[tuple[str, Call]]:
        items, sizes = words().items, (ANSWERS, ANSWERS, ANSWERS + ANSWERS // 2)
        data = [answered(count, key, levels) for key, count in enumerate(sizes)]
        return [(name, partial(fit, items, given)) for name, given in zip(NAMES, data, strict=True)]

    return row


NAMES = ("first", "again, other data", "half as many again")


def laplace_of(model: str, **options: Any) -> Callable[[Any, Any], Any]:
    def fit(items: Any, data: Any) -> Any:
        from tercet import inference, models

        return inference.laplace(getattr(models, model)(**options), items, data)

    return fit


def sampled(method: str, **options: Any) -> Callable[[Any, Any], Any]:
    def fit(items: Any, data: Any) -> Any:
        from tercet import inference, models

        return getattr(inference, method)(models.BradleyTerry(), items, data, **options)

    return fit


def chains_from_laplace(items: Any, data: Any) -> Any:
    from tercet.inference import laplace, nuts
    from tercet.models import BradleyTerry

    start = laplace(BradleyTerry(), items, data)
    return nuts(start.model, items, data, start=start, warmup=50, samples=50)


def shown(model: str, **options: Any) -> Row:
    """`to_arviz` alone."""

    def row(small: bool) -> list[tuple[str, Call]]:
        import arviz  # noqa: F401  (its import is not ours)

        items, levels = words().items, 3 if model == "Davidson" else 2
        fits = [laplace_of(model, **options)(items, answered(ANSWERS, key, levels)) for key in range(2)]
        return [(name, fit.to_arviz) for name, fit in zip(NAMES, fits, strict=False)]

    return row


def games(players: int, count: int, key: int = 0) -> tuple[Any, Any]:
    from tercet.models import Comparisons, Items

    rng = np.random.default_rng(key)
    ability = rng.normal(size=players)
    first = rng.integers(players, size=count)
    second = (first + rng.integers(1, players, size=count)) % players
    gap = ability[first] - ability[second] + rng.logistic(size=count)
    outcome = np.where(np.abs(gap) < 0.5, 0.5, gap > 0)
    return Items.named(range(players)), Comparisons(first, second, outcome)


def many_games(small: bool) -> list[tuple[str, Call]]:
    from tercet.inference import laplace
    from tercet.models import AbilityHead, Davidson

    items, data = games(200, 10_000 if small else 100_000)
    return [("first", lambda: laplace(Davidson(AbilityHead()), items, data))]


def a_million_shown(small: bool) -> list[tuple[str, Call]]:
    import arviz  # noqa: F401

    from tercet.inference import laplace
    from tercet.models import AbilityHead, Davidson

    items, data = games(200, 10_000 if small else 1_000_000)
    fit = laplace(Davidson(AbilityHead()), items, data)
    return [("log_likelihood=False", lambda: fit.to_arviz(log_likelihood=False))]


def campaign(small: bool) -> list[tuple[str, Call]]:
    from tercet.inference import laplace
    from tercet.models import Davidson

    items = words().items
    rounds = range(50, 151 if small else 601, 50)

    def run() -> None:
        for count in rounds:
            laplace(Davidson(), items, answered(count, 0, 3)).to_arviz(draws=100)

    return [(f"{len(rounds)} rounds, to_arviz after each", run)]


def surface(small: bool, basis: int = 24, count: int = 400) -> list[tuple[str, Call]]:
    from tercet.inference import laplace
    from tercet.models import LossSurface

    def call(key: int) -> Call:
        rng = np.random.default_rng(key)
        sites = rng.uniform(size=(100 if small else count, 2))
        losses = np.exp(np.sin(6 * sites[:, 0]) + 0.3 * rng.normal(size=len(sites)))
        return lambda: laplace(LossSurface.around(losses, sites, family="log-normal", basis=basis), sites, losses)

    return [("first", call(0)), ("again, other data", call(1))]


def exact_surface(small: bool) -> list[tuple[str, Call]]:
    return surface(small, basis=0, count=1_500)


def steepness(small: bool) -> list[tuple[str, Call]]:
    from tercet.inference import lipschitz_constant

    calls = []
    for key, name in enumerate(NAMES[:2]):
        rng = np.random.default_rng(key)
        fit = surface(small)[key][1]()
        calls.append((name, partial(lipschitz_constant, fit, rng.uniform(size=(200, 2)))))
    return calls


def cells(sizes: tuple[int, ...], key: int) -> Any:
    from tercet.models import ReferenceSDE, Snapshots, lotka_volterra, proportional_volatility, simulate

    rng = np.random.default_rng(key)
    theta = {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1, "volatility": 0.1}
    times = 0.5 * np.arange(len(sizes))
    start = rng.uniform(4.0, 5.0, (max(sizes), 2))
    paths = simulate(ReferenceSDE(lotka_volterra(), proportional_volatility()), theta, start, times, key=key)
    return Snapshots([paths[k][:count] for k, count in enumerate(sizes)], times)


def reference(small: bool) -> list[tuple[str, Call]]:
    from tercet.inference import fit_reference
    from tercet.models import ReferenceSDE, SnapshotModel, lotka_volterra, proportional_volatility

    model = SnapshotModel(ReferenceSDE(lotka_volterra(), proportional_volatility()))
    data = [cells((30,) * 4, key) for key in range(2)]
    return [(name, partial(fit_reference, model, given)) for name, given in zip(NAMES, data, strict=False)]


def chosen(small: bool) -> list[tuple[str, Call]]:
    from tercet.inference import choose_reference
    from tercet.models import (
        ReferenceSDE,
        SnapshotModel,
        Snapshots,
        brownian,
        constant_volatility,
        ornstein_uhlenbeck,
    )

    drifts = {"Brownian": brownian(2), "Ornstein-Uhlenbeck": ornstein_uhlenbeck(2)}
    candidates = {
        name: SnapshotModel(ReferenceSDE(drift, constant_volatility()), anchor="consecutive")
        for name, drift in drifts.items()
    }

    def drifting(sizes: tuple[int, ...], key: int) -> Any:
        rng = np.random.default_rng(key)
        return Snapshots([rng.normal(0.5 * k, 1.0, (n, 2)) for k, n in enumerate(sizes)], np.arange(float(len(sizes))))

    data = [drifting((40, 41, 42, 43, 44, 45), 0), drifting((45, 43, 44, 40, 42, 41), 1)]
    names = ("six snapshots of 40 to 45", "again, other data")
    return [(name, partial(choose_reference, candidates, given)) for name, given in zip(names, data, strict=True)]


def bridges(small: bool) -> list[tuple[str, Call]]:
    from tercet.inference import multimarginal_bridge
    from tercet.models import ReferenceSDE, lotka_volterra, proportional_volatility

    sde = ReferenceSDE(lotka_volterra(), proportional_volatility())
    theta = {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1, "volatility": 0.1}
    data = [cells((50,) * 5, 0), cells((50,) * 5, 1), cells((51, 60, 64, 55, 58), 2)]
    names = ("bridge, first", "bridge, other data", "bridge, unequal sizes of the class")
    made: list[Any] = []

    def bridge(given: Any) -> None:
        made.append(multimarginal_bridge(sde, theta, given))

    calls: list[tuple[str, Call]] = [(name, partial(bridge, given)) for name, given in zip(names, data, strict=True)]
    return [
        *calls,
        ("paths, first", lambda: made[0].paths([0.25, 1.2])),
        ("paths, other bridge", lambda: made[1].paths([0.25, 1.2])),
    ]


ROWS: dict[str, Row] = {
    "bradley-terry": on_words(laplace_of("BradleyTerry")),
    "davidson": on_words(laplace_of("Davidson"), levels=3),
    "graded": on_words(laplace_of("Graded", levels=5), levels=5),
    "rao-kupper": on_words(laplace_of("RaoKupper"), levels=3),
    "annotators": on_words(laplace_of("BradleyTerry", annotators=True)),
    "many-games": many_games,
    "svi": on_words(sampled("svi", steps=100)),
    "nuts": on_words(sampled("nuts", warmup=50, samples=50)),
    "nuts-from-laplace": on_words(chains_from_laplace),
    "arviz": shown("BradleyTerry"),
    "arviz-davidson": shown("Davidson"),
    "arviz-annotators": shown("BradleyTerry", annotators=True),
    "arviz-million": a_million_shown,
    "campaign": campaign,
    "surface": surface,
    "exact-surface": exact_surface,
    "lipschitz": steepness,
    "reference": reference,
    "choose-reference": chosen,
    "bridges": bridges,
}


def child(name: str, small: bool) -> None:
    """Run a row in this process and print its figures as JSON."""
    warnings.simplefilter("ignore")
    import jax

    from tercet import inference, models

    _ = inference.laplace, models.BradleyTerry  # imports are not the calls'
    programs = 0

    def listen(event: str, _: float, **__: Any) -> None:
        nonlocal programs
        programs += event == EVENT

    jax.monitoring.register_event_duration_secs_listener(listen)
    figures = []
    for label, call in ROWS[name](small):
        before, compiled = resource.getrusage(resource.RUSAGE_SELF), programs
        call()
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        figures.append({"call": label, "seconds": seconds, "programs": programs - compiled})
    print(json.dumps({"figures": figures, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[*ROWS], default=[*ROWS])
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.smoke)
        return
    print(f"{'row':18} {'call':36} {'processor s':>11} {'programs':>9}")
    for name in options.only:
        command = [sys.executable, __file__, "--child", name, *(["--smoke"] if options.smoke else [])]
        environment = {"OPENBLAS_NUM_THREADS": "1"} | os.environ  # idle BLAS threads wait at the cost of a processor
        run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        done = json.loads(run.stdout.splitlines()[-1])
        for figure in done["figures"]:
            print(f"{name:18} {figure['call']:36} {figure['seconds']:11.2f} {figure['programs']:9}")
        print(f"{'':18} {'largest memory':36} {done['megabytes']:8.0f} MB", flush=True)


if __name__ == "__main__":
    main()
