"""Learning curves of every criterion in four worlds: the evidence for the default, and the promise it must keep.

python benchmarks/design_study.py                                      # the whole study; tables of docs/design_study.md
python benchmarks/design_study.py --picture docs/design_study.png      # and its picture
python benchmarks/design_study.py --smoke                              # three seeds of a few criteria
python benchmarks/design_study.py --words FILE.npz                     # other rated words instead
python benchmarks/design_study.py --preferences FILE.npz               # chosen and rejected answers instead
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import design_worlds as worlds
import matplotlib
import numpy as np
import pandas as pd
from design_worlds import WORLDS, World
from tqdm import tqdm

from tercet.designs import CRITERIA, learning_curve, paired_differences
from tercet.designs.criteria.criterion import Criterion
from tercet.inference.preferences import simultaneous_bound
from tercet.plots import plot_learning_curve

DEFAULT, BASELINE = "greedy V", "random"
SCORES = {"spearman": 1, "log_loss": -1}  # 1 where larger is better, -1 where smaller is
BUDGETS = (50, 100, 150, 250, 350, 450, 600)  # columns of the report
COLORS = {"random": "0.25", "greedy V": "#0b6e99", "greedy D": "#d1662f", "D-optimal (published)": "#8a5a9e"}
"""Criteria of the smoke run, and their colours in the picture; all others are grey."""


def curve(name: str, world: Callable[[int], World], budget: int, task: tuple[int, str | Criterion]) -> pd.DataFrame:
    """One seed of one criterion in one world."""
    seed, criterion = task
    this = world(seed)
    table = learning_curve(
        this.items, this.answer, this.evaluate,
        criterion=criterion, model=this.model, candidates=this.candidates, target=this.target, budget=budget, key=seed,
    ).table  # fmt: skip
    return table.assign(world=name)


def study(
    criteria: Sequence[str | Criterion], seeds: Iterable[int], chosen: dict[str, Callable[[int], World]] = WORLDS,
    budget: int = 600, workers: int = 1, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Every criterion with every seed in every world, in one long table; criteria are paired by seed."""
    tasks = list(itertools.product(seeds, criteria))
    tables: list[pd.DataFrame] = []
    with tqdm(total=len(tasks) * len(chosen), desc="choosing pairs", unit="curve", disable=not progress) as bar:
        for name, world in chosen.items():
            job = functools.partial(curve, name, world, budget)
            for table in _map(job, tasks, workers):
                tables.append(table)
                bar.update()
    return pd.concat(tables, ignore_index=True)


def _map(job: Callable[[Any], Any], tasks: Sequence[Any], workers: int) -> Iterable[Any]:
    if workers == 1:
        yield from map(job, tasks)
        return
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when a worker starts; more threads than cores wait for each other
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(job, tasks)


def areas(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Area under each curve of one world, divided by its range of labels: its mean height [seeds, criteria]."""
    wide = table.pivot_table(index=["seed", "criterion"], columns="labels", values=score, sort=False)
    labels = np.asarray(wide.columns, float)
    return pd.Series(np.trapezoid(wide, labels, axis=1) / np.ptp(labels), wide.index).unstack("criterion")


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Is the default never worse than random, and is it among the best? One row a world and score.

    `worse at`, `better at`: number of budgets at which it is worse, better than random by a simultaneous 95 % bound.
    `rank` of its area; how far it is `behind` the best, with standard error; `beaten by`: criteria whose area is
    larger, by a bound that is simultaneous over all of them.
    """
    rows = []
    for (world, mine), (score, sign) in itertools.product(table.groupby("world", sort=False), SCORES.items()):
        labels, difference = paired_differences(mine, score, DEFAULT, BASELINE)
        designed = sign * difference[:, labels > labels.min()]
        area = sign * areas(mine, score)
        ahead = area.drop(columns=DEFAULT).sub(area[DEFAULT], axis=0)
        best = area.mean().idxmax()
        gap = (area[best] - area[DEFAULT]).to_numpy()
        beaten = ahead.columns[simultaneous_bound(ahead.to_numpy()).lower > 0]
        rows.append({
            "world": world, "score": score, "budgets": designed.shape[1],
            "worse at": int(np.sum(simultaneous_bound(-designed).lower > 0)),
            "better at": int(np.sum(simultaneous_bound(designed).lower > 0)),
            "smallest gain": designed.mean(axis=0).min(),
            "rank": int(area.mean().rank(ascending=False)[DEFAULT]), "best": best,
            "behind": gap.mean(), "se": gap.std(ddof=1) / np.sqrt(len(gap)), "beaten by": ", ".join(beaten) or "none",
        })  # fmt: skip
    return pd.DataFrame(rows)


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The criteria that were run with every seed, as pairs by seed need."""
    seeds = table.groupby("criterion")["seed"].nunique()
    return table[table["criterion"].isin(seeds.index[seeds == table["seed"].nunique()])]


def beaten_anywhere(table: pd.DataFrame) -> pd.DataFrame:
    """How far each other criterion is ahead of the default in area, with one simultaneous 95 % bound over everything.

    One row a world, score and criterion, the most significant first: mean, lower bound, standard error, paired by seed.
    """
    columns = {}
    for (world, mine), (score, sign) in itertools.product(table.groupby("world", sort=False), SCORES.items()):
        area = sign * areas(mine, score)
        for rival in area.columns.drop(DEFAULT):
            columns[world, score, rival] = area[rival] - area[DEFAULT]
    ahead = pd.DataFrame(columns)
    bound = simultaneous_bound(ahead.to_numpy())
    differences = pd.DataFrame(
        {"ahead by": bound.mean, "lower": bound.lower, "se": bound.standard_error}, ahead.columns
    )
    order = (differences["ahead by"] / differences["se"].clip(lower=1e-12)).sort_values(ascending=False).index
    return differences.loc[order]


def report(table: pd.DataFrame) -> str:
    """Areas of all criteria in all worlds, the curves of the default and of random pairs, and the promise."""
    lines = []
    for score, sign in SCORES.items():
        by_world = {world: areas(mine, score) for world, mine in table.groupby("world", sort=False)}
        mean = pd.DataFrame({world: area.mean() for world, area in by_world.items()})
        gain = sign * (mean - mean.loc[BASELINE])
        order = gain.rank().mean(axis=1).sort_values(ascending=False).index
        error = {w: a.sub(a[BASELINE], axis=0).std(ddof=1) / np.sqrt(len(a)) for w, a in by_world.items()}
        both = pd.concat({"area": mean, "gain over random": gain, "se": pd.DataFrame(error)}, axis=1).loc[order]
        lines += [f"\n{score}: mean height of the curve, best mean rank first", both.round(4).to_string()]
    for (world, mine), score in itertools.product(table.groupby("world", sort=False), SCORES):
        wide = mine.pivot_table(index="criterion", columns="labels", values=score)
        lines += [
            f"\n{world}, {score}",
            wide.loc[[DEFAULT, BASELINE], [b for b in BUDGETS if b in wide]].round(4).to_string(),
        ]
    lines += ["\nthe promise", verdicts(table).round(4).to_string(index=False)]
    lines += [
        "\nclosest to beating it, one simultaneous bound over all",
        beaten_anywhere(table).head(5).round(4).to_string(),
    ]
    return "\n".join(lines)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw both scores in every world: four criteria with bands, all others as thin grey lines."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(table["world"]))
    size = (3.1 * len(names), 5.6)
    figure, axes = pyplot.subplots(2, len(names), figsize=size, squeeze=False, layout="constrained")
    for (row, score), (column, name) in itertools.product(enumerate(SCORES), enumerate(names)):
        ax, mine = axes[row, column], table[table["world"] == name]
        others = mine[~mine["criterion"].isin(COLORS)]
        for _, each in others.groupby("criterion"):
            ax.plot(*each.groupby("labels")[score].mean().reset_index().to_numpy().T, color="0.8", linewidth=0.8)
        (other,) = ax.plot([], [], color="0.8", linewidth=0.8)
        coloured = [c for c in COLORS if c in set(mine["criterion"])]
        shown = pd.concat([mine[mine["criterion"] == c] for c in coloured])
        plot_learning_curve(shown, score, ax=ax, colors=COLORS)
        ax.set_xlabel("labels" if row else "")
        ax.set_ylabel("" if column else {"spearman": "Spearman, held out", "log_loss": "log loss, held out"}[score])
        if row == 0:
            ax.set_title(name, fontsize=10)
        ax.get_legend().remove()
        spread = mine[mine["criterion"].isin(COLORS)][score]
        ax.set_ylim(spread.quantile(0.01), spread.quantile(0.99))
    lines, names = axes[0, 0].get_legend_handles_labels()
    figure.legend([*lines, other], [*names, "any other criterion"], loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=130)


def draw_scales(seeds: range, path: Path) -> None:
    """Draw the README's picture: the default and random pairs, with the prior scale learned and fixed."""
    from matplotlib import pyplot

    tables = []
    for world, name in ((worlds.words, "learned scale"), (worlds.words_weak, "fixed weak prior")):
        table = study([DEFAULT, BASELINE], seeds, {name: world}, workers=os.cpu_count() or 1)
        print(f"\n{name}", report(table))
        tables.append(table.assign(criterion=table.criterion + ", " + name))
    both = pd.concat(tables)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    plot_learning_curve(both, "spearman", ax=left).set_ylabel("Spearman with the mean rating (test words)")
    plot_learning_curve(both, "log_loss", ax=right).set_ylabel("log loss (test pairs)")
    right.axhline(np.log(2), color="0.6", linewidth=1, linestyle=":")
    right.annotate("fair coin", (600, np.log(2)), ha="right", va="bottom", fontsize=8, color="0.4")
    right.get_legend().remove()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=Path, help=".npz with ratings and embeddings, instead of the worlds")
    parser.add_argument(
        "--preferences",
        type=Path,
        help=".npz with chosen and rejected, instead of the worlds (its spearman is the accuracy)",
    )
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA))
    parser.add_argument("--budget", type=int, default=600)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("build/design_study.csv"))
    parser.add_argument("--report", type=Path, nargs="+", help="report these tables, written by --out, instead")
    parser.add_argument("--picture", type=Path, help="draw the curves")
    parser.add_argument("--scales", type=Path, help="draw the README's picture of prior scales instead")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    matplotlib.use("Agg")
    begin, seeds = time.perf_counter(), range(options.first_seed, options.first_seed + options.seeds)
    if options.scales:
        draw_scales(seeds, options.scales)
        return
    chosen = {name: WORLDS[name] for name in options.worlds}
    if options.words:
        chosen = {"words": functools.partial(worlds.words, data=worlds.load_words(options.words))}
    if options.preferences:
        chosen = {"preferences": functools.partial(worlds.preferences, path=options.preferences)}
    if options.smoke:
        table = study(list(COLORS), range(3), chosen, budget=150, workers=options.workers)
    elif options.report:
        table = complete(pd.concat([pd.read_csv(path) for path in options.report], ignore_index=True))
    else:
        table = study(options.criteria, seeds, chosen, options.budget, options.workers)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.out, index=False)
    print(report(table))
    if options.picture:
        draw(table, options.picture)
    print(f"\n{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
