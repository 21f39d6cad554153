"""Results for `unchanged.py`, at small sizes and fixed seeds: how they are registered; preferences and designs."""

from __future__ import annotations

import importlib
import importlib.util
import math
import pkgutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

ROOMS = ("models", "inference", "designs", "datasets")
CRITERIA = (
    "random", "max difference", "entropy", "predictive entropy", "coreset", "XtX", "D-optimal (published)",
    "D-optimal (past-aware)", "posterior variance", "greedy D", "greedy A", "greedy V", "Fedorov exchange D",
    "Fedorov exchange V", "BatchBALD", "BatchBALD (joint entropy)", "BALD", "BALD (top-k)", "BALD (closed form)",
    "BALD (draws)", "EPIG", "EPIG (top-k)", "EPIG (draws)",
)  # fmt: skip
RESULTS: dict[str, Callable[[], Any]] = {}
Tree = dict[str, Any]


def packages() -> Iterator[ModuleType]:
    """The rooms, then every package inside them."""
    rooms = [importlib.import_module(f"tercet.{room}") for room in ROOMS]
    inside = (found for room in rooms for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}."))
    yield from rooms
    yield from (importlib.import_module(found.name) for found in inside if found.ispkg)


@cache
def tercet_name(name: str) -> Any:
    """A public name, wherever among the rooms and their sub-packages it lives."""
    for package in packages():
        found = getattr(package, name, None)
        if isinstance(found, ModuleType):  # a module or package may bear the name of a function
            found = getattr(found, name, None)
        if found is not None:
            return found
    raise AttributeError(f"no room of tercet exports {name!r}.")


class Names:
    """`t.laplace` is `tercet_name("laplace")`."""

    def __getattr__(self, name: str) -> Any:
        return tercet_name(name)


t = Names()


def result(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function of no arguments whose numbers are kept under this name."""
    return lambda function: RESULTS.setdefault(name, function)


def pick(value: Any, names: str) -> Tree:
    """Some attributes of an object, by name."""
    return {name: getattr(value, name) for name in names.split()}


def believed(fit: Any) -> Tree:
    """Where a posterior is, how wide, some draws of it, and its diagnostics."""
    gaussian = pick(fit, "center precision_factor") if hasattr(fit, "center") else {}
    return gaussian | {"mean": fit.mean(), "draws": fit.draws(5, key=3), "diagnostics": dict(fit.diagnostics)}


@cache
def world() -> tuple[Any, np.ndarray, Any]:
    """60 items of 12 prompts, their rewards, and 120 answers about pairs within prompts."""
    items, rewards = t.simulated_prompts(prompts=12, responses=5, dim=4, key=1)
    pairs = t.annotation_pairs(items, rewards, "random", 10, key=2)
    return items, rewards, t.annotate(rewards, pairs, quality=2.0, key=3)


def answers(levels: int, **more: Any) -> Any:
    """The pairs of the world with answers on a scale."""
    _, rewards, known = world()
    gap = rewards[known.first] - rewards[known.second] + 0.4 * np.random.default_rng(4).logistic(size=len(known))
    grade = np.clip(np.round((gap / 4 + 0.5) * (levels - 1)), 0, levels - 1)
    return t.Comparisons(known.first, known.second, grade / (levels - 1), **more)


def quick() -> Any:
    """Training that stops after a few rounds."""
    return t.TrainingOptions(learning_rate=0.01, batch=32, rounds=8, patience=3)


FITS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "linear": lambda: (t.BradleyTerry(), world()[2]),
    "fixed scale": lambda: (t.BradleyTerry(t.LinearHead(2.0)), world()[2]),
    "flat prior": lambda: (t.BradleyTerry(t.LinearHead(math.inf)), answers(9)),
    "abilities": lambda: (t.BradleyTerry(t.AbilityHead()), world()[2]),
    "order effect": lambda: (t.BradleyTerry(order_effect=True), world()[2]),
    "soft, weighted": lambda: (t.BradleyTerry(), answers(9, weight=np.linspace(0.5, 2, 120))),
    "annotators": lambda: (t.BradleyTerry(t.LinearHead(2.0), False, True), answers(2, annotator=np.arange(120) % 3)),
    "Thurstone": lambda: (t.Thurstone(), world()[2]),
    "Davidson": lambda: (t.Davidson(t.LinearHead(2.0)), answers(3)),
    "RaoKupper": lambda: (t.RaoKupper(t.LinearHead(2.0)), answers(3)),
    "Graded": lambda: (t.Graded(t.LinearHead(2.0), levels=5), answers(5)),
    "point-wise": lambda: (t.PointwiseClassifier(), world()[2]),
    "last layer": lambda: (t.BradleyTerry(t.MLPHead(widths=(6,))), world()[2]),
}


@cache
def fitted(kind: str = "linear") -> Any:
    """Laplace fits of comparisons, by name."""
    model, data = FITS[kind]()
    items = t.project(world()[0], None) if kind == "last layer" else world()[0]
    options = {"options": t.LaplaceOptions(training=quick())} if kind == "last layer" else {}
    return t.laplace(model, items, data, **options)


@cache
def members() -> Any:
    """An ensemble of three networks."""
    call = {"members": 3, "bootstrap": True, "options": quick(), "key": 1}
    return t.ensemble(t.BradleyTerry(t.MLPHead(widths=(6,))), t.project(world()[0], None), world()[2], **call)


RESULTS |= {f"preferences/laplace {kind}": lambda kind=kind: believed(fitted(kind)) for kind in FITS}
RESULTS["preferences/ensemble"] = lambda: believed(members())
RESULTS["preferences/svi"] = lambda: believed(t.svi(t.BradleyTerry(), *world()[::2], steps=200, particles=2, key=1))
RESULTS["preferences/projection"] = lambda: [t.project(world()[0], k).features for k in (None, 2)]


@result("preferences/nuts")
def _() -> Tree:
    return believed(t.nuts(t.BradleyTerry(t.LinearHead(2.0)), *world()[::2], warmup=60, samples=40, chains=2, key=1))


@result("preferences/laplace of any NumPyro model")
def _() -> Tree:
    model = t.BradleyTerry(t.LinearHead(2.0), order_effect=True)
    fit = t.laplace(lambda *data: model(*data), *world()[::2])
    return {"fit": believed(fit), "check": fit.importance_check(200)}


@result("preferences/reward, reward_difference, win_probability")
def _() -> Tree:
    (items, _, known), found = world(), {}
    for kind in set(FITS) - {"point-wise", "last layer"}:
        call = fitted(kind), items, known.pairs[:20]
        found[kind] = t.reward(*call[:2]), t.reward_difference(*call), t.win_probability(*call)
    networks = [(fit, t.project(items, None), known.pairs[:20]) for fit in (fitted("last layer"), members())]
    found["networks"] = [(t.reward(*call[:2]), t.win_probability(*call)) for call in networks]
    return found | {"shown": t.win_probability(fitted("order effect"), items, known, order=True)}


@result("preferences/tables and scores")
def _() -> Tree:
    items, rewards, known = world()
    rules = {rule: t.selection_score(fitted(), items, rule, key=2) for rule in ("mean", "lower bound", "minimum")}
    mean, given = rules["mean"], (t.win_probability(fitted(), items, known), known.outcome)
    return {
        "rules": rules, "abilities": t.ability_table(fitted("abilities"), items, draws=500, relative_to=3),
        "members": t.selection_score(members(), t.project(items, None), "minimum"),
        "best": t.best_of_n(rules["lower bound"], rewards, items.prompt, n=[1, 2, 4]),
        "scores": [score(*given) for score in (t.accuracy, t.brier, t.log_loss, partial(t.calibration_curve, bins=4))],
        "order": [t.spearman(mean, rewards), t.spearman_within_prompts(mean, rewards, items.prompt)],
        "bound": t.simultaneous_bound(np.random.default_rng(6).normal(size=(9, 3)), draws=500),
    }  # fmt: skip


@result("preferences/calibrate_rewards, fit_pointwise")
def _() -> Tree:
    from sklearn.linear_model import LogisticRegression

    (items, _, known), found = world(), {}
    for method, by in (("platt", "answers"), ("isotonic", "items")):
        call = {"method": method, "folds": 3, "by": by, "key": 1}
        done = t.calibrate_rewards(partial(t.fit_pointwise, LogisticRegression()), items, known, **call)
        found[method] = pick(done, "slope differences probabilities held_out log_loss")
        found[method]["win"] = done.win_probability(items, known.pairs[:9])
    return found | {"rewards": t.fit_pointwise(LogisticRegression(), items, known)(items)}


@result("preferences/order_influence, compare_models, information")
def _() -> Tree:
    items, _, known = world()
    given = {"weights": fitted("fixed scale").mean()["weights"]}
    rests, ties = t.order_influence(fitted("fixed scale"), items), fitted("Davidson").mean()
    sums = {"closed": t.comparison_information, "general": t.fisher_information}
    return {name: of(t.BradleyTerry(t.LinearHead(2.0)), given, items, known) for name, of in sums.items()} | {
        "scores": t.fisher_information(t.Davidson(t.LinearHead(2.0)), ties, items, known, samples=9, key=1),
        "rests": pick(rests, "first second difference effects dropped predicted refitted turns"),
        "compared": t.compare_models({kind: fitted(kind) for kind in ("linear", "Thurstone")}, draws=200),
    }  # fmt: skip


@result("preferences/embeddings on disk and in Dask")
def _() -> Tree:
    (items, _, known), found = world(), {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "features.npy", items.features)
        stored = {"npy": t.open_embeddings(str(Path(folder) / "features.npy"))}
        if importlib.util.find_spec("dask"):
            stored["dask"] = importlib.import_module("dask.array").from_array(items.features, chunks=(17, 2))
        for name, features in stored.items():
            each = t.Items(features, prompt=items.prompt)
            fit, narrow = (t.laplace(t.BradleyTerry(), some, known) for some in (each, t.project(each, 2)))
            pairs = t.select_pairs(each, fit, 4, candidates=200, exclude=known)
            found[name] = [believed(fit), t.reward(fit, each), pairs, narrow.center]
    return found


@result("preferences/to_arviz, save, load")
def _() -> Tree:
    items, container = world()[0], fitted().to_arviz(draws=40, key=1)
    groups = container.groups() if callable(container.groups) else [g.strip("/") for g in container.groups if g != "/"]
    found: Tree = {g: {name: values.to_numpy() for name, values in container[g].items()} for g in groups}
    with tempfile.TemporaryDirectory() as folder:
        for k, fit in enumerate((fitted(), fitted("last layer"), members())):
            again = t.load(fit.save(Path(folder) / f"fit {k}"))
            found[f"loaded {k}"] = again.mean(), t.reward(again, items)
        whole = t.load(fitted("Davidson").save(Path(folder) / "davidson"), items, answers(3))
        return found | {"likelihood": whole.log_likelihood(whole.draws(5, key=1)), "summary": t.summary(container)}


def designed(criterion: str) -> Tree:
    """Picks by a criterion, for pairs within prompts or any, what was asked left out."""
    call = {"criterion": criterion, "candidates": 300, "exclude": world()[2], "key": 1}
    return {str(aim): t.select_pairs(world()[0], fitted(), 6, target=aim, **call) for aim in (None, "in-prompt")}


RESULTS |= {f"designs/criterion {name}": partial(designed, name) for name in CRITERIA}
RESULTS["designs/criteria by name"] = lambda: sorted(t.CRITERIA) + sorted(t.SITE_CRITERIA)


@result("designs/targets, costs, annotators, models")
def _() -> Tree:
    items, rng = world()[0], np.random.default_rng(7)
    pairs = t.candidate_pairs(items, "cross-prompt", 90, key=2)
    given, priced = {"target": world()[2].pairs[:20]}, {"cost": rng.uniform(1, 3, 90)}
    people = {"candidates": pairs[:30], "annotators": "all"}
    calls: list[tuple[str, str, Tree]] = [
        ("linear", "greedy V", given), ("linear", "EPIG", given), ("linear", "greedy V", priced),
        ("linear", "BALD", priced), ("linear", "greedy V", {"target": items.take(np.arange(20))}),
        ("linear", "greedy V", {"candidates": rng.random((60, 60)) < 0.1}), ("Thurstone", "greedy V", {}),
        ("Davidson", "EPIG", {}), ("Graded", "BALD", {}), ("order effect", "greedy V", {}),
        ("abilities", "greedy D", {"candidates": "in-prompt"}), ("annotators", "BALD (draws)", people),
        ("annotators", "EPIG (draws)", people), ("annotators", "BatchBALD (joint entropy)", people),
    ]  # fmt: skip
    found = {f"{k} {kind}, {name}": t.select_pairs(items, fitted(kind), 5, **({"candidates": pairs} | more),
             criterion=name) for k, (kind, name, more) in enumerate(calls)}  # fmt: skip
    for k, fit in enumerate((fitted("last layer"), members())):
        call = {"candidates": pairs, "criterion": ("greedy V", "BALD (draws)")[k]}
        found[f"network {k}"] = t.select_pairs(t.project(items, None), fit, 5, **call)
    return found


@result("designs/all pairs in tiles")
def _() -> Tree:
    data = t.simulated_preferences(1500, 3, 100, key=1)  # 1,124,250 pairs: too many to be listed
    fit = t.laplace(t.BradleyTerry(t.LinearHead(2.0)), data.items, data.comparisons)
    names = ("greedy D", "greedy V", "entropy", "D-optimal (published)")
    found = {name: t.select_pairs(data.items, fit, 3, candidates="all", criterion=name) for name in names}
    if importlib.util.find_spec("dask"):
        chunked = importlib.import_module("dask.array").from_array(data.items.features, chunks=(600, 3))
        found |= {
            f"{name}, Dask": t.select_pairs(chunked, fit, 3, candidates="all", criterion=name) for name in names[:3]
        }
    return found


@result("designs/relaxation, optimality_gap, stopping_curve, prequential")
def _() -> Tree:
    items, call = world()[0], {"candidates": 200, "exclude": world()[2], "key": 1}
    picked = t.select_pairs(items, fitted(), 8, criterion="greedy D", **call)
    found = [t.relaxation(items, fitted(), 8, **call), t.optimality_gap(picked, items, fitted(), **call)]
    found += [t.stopping_curve(items, fitted(), 9, **call), t.prequential([0.9, 0.8, 0.3, 0.5], [1, 0, 0.5, 1], 1.5)]
    return dict(zip(("relaxation", "gap", "curve", "prequential"), found, strict=True))


@result("designs/campaign")
def _() -> Tree:
    items, rewards, _ = world()
    person = t.simulated_annotator(items, rewards, quality=3.0, ties=0.1, skips=0.1, key=1)
    with tempfile.TemporaryDirectory() as folder, t.LabelStore(Path(folder) / "labels.db") as store:
        loop = t.AnnotationLoop(items, store, batch=8, target="in-prompt", random_share=0.25, key=2)
        loop.run(person, 30, who="simulated", progress=False)
        queries = pd.DataFrame(store.queries()).astype({"prediction": float})
        labels = pd.DataFrame(store.labels()).astype({"outcome": float}).drop(columns="answered")  # the time of day
        return {"queries": queries, "labels": labels, "history": t.campaign_history(store),
                "ahead": loop.stopping_curve(5), "fit": believed(loop.fit())}  # fmt: skip


@result("designs/learning_curve, compare_designs")
def _() -> Tree:
    items, rewards, _ = world()
    both = (lambda pairs, key: t.annotate(rewards, pairs, 2.0, key=key),
            lambda fit: {"spearman": t.spearman(t.reward(fit, items).mean, rewards)})  # fmt: skip
    call = {"start": 10, "batch": 10, "budget": 30, "candidates": "all"}
    curve = t.learning_curve(items, *both, criterion="greedy V", key=1, **call)
    names = ["greedy V", "random"]
    table = t.compare_designs(items, *both, criteria=names, seeds=[0, 1], progress=False, **call)
    ahead = t.paired_differences(table, "spearman", "greedy V")
    return {"curve": curve.table, "asked": curve.asked.pairs, "table": table, "ahead": ahead}
