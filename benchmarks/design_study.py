"""Learning curves of every criterion on real human ratings: the measurement behind the default.

python benchmarks/design_study.py                                              # the bundled words
python benchmarks/design_study.py --words FILE.npz                             # another file of rated words
python benchmarks/design_study.py --preferences FILE.npz                       # chosen and rejected answers
python benchmarks/design_study.py --picture docs/learning_curves.png           # the README's picture
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from tercet.datasets import RatedItems, word_valence
from tercet.designs import CRITERIA, compare_designs, learning_curve, paired_differences
from tercet.inference import log_loss, reward, simultaneous_bound, spearman, win_probability
from tercet.models import BradleyTerry, Comparisons, Items, LinearHead, project
from tercet.plots import plot_learning_curve

BUDGETS = (50, 100, 150, 250, 350, 450, 600)
WEAK = 16.0  # logits: a prior scale that says nothing


def word_study(data: RatedItems, criteria: list[Any], seeds: range, model: Any = None, **settings: Any) -> pd.DataFrame:
    """80 % of the words to choose from; the others, and random pairs of them, to test on."""
    rng = np.random.default_rng(7)
    order, cut = rng.permutation(len(data.items)), int(0.8 * len(data.items))
    pool, held = data.take(order[:cut]), data.take(order[cut:])
    pairs = rng.integers(len(held.items), size=(8000, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    truth = held.expected_outcome(pairs)

    def evaluate(posterior: Any) -> dict[str, float]:
        return {
            "spearman": spearman(reward(posterior, held.items).mean, held.mean_rating),
            "log_loss": log_loss(win_probability(posterior, held.items, pairs), truth),
        }

    return compare_designs(pool.items, pool.answer, evaluate, criteria=criteria, seeds=seeds, model=model, **settings)


def preference_study(path: Path, criteria: list[str], seeds: range, budget: int = 700) -> pd.DataFrame:
    """Real pairs of answers of which a person preferred one: 80 % as pool, the rest as test."""
    file = np.load(path)
    n = len(file["chosen"])
    items = project(Items(np.concatenate([file["chosen"], file["rejected"]]).astype(np.float32)), 64)
    tables = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(n)
        pairs = np.stack([np.arange(n), np.arange(n) + n], axis=1)  # the first was preferred
        pool, test = pairs[order[: int(0.8 * n)]], pairs[order[int(0.8 * n) :]]

        def evaluate(posterior: Any, test: np.ndarray = test) -> dict[str, float]:
            p = win_probability(posterior, items, test)
            return {"log_loss": log_loss(p, np.ones(len(p))), "accuracy": float(np.mean(p > 0.5))}

        for criterion in criteria:
            curve = learning_curve(
                items, lambda chosen, key: Comparisons(chosen[:, 0], chosen[:, 1], np.ones(len(chosen))),
                evaluate, criterion=criterion, candidates=pool, budget=budget, key=seed,
            )  # fmt: skip
            tables.append(curve.table)
    return pd.concat(tables, ignore_index=True)


def report(table: pd.DataFrame, scores: dict[str, int], budgets: tuple[int, ...]) -> str:
    """Means at each budget, and the default's paired simultaneous bounds against random."""
    lines = []
    for score, sign in scores.items():
        wide = table.pivot_table(index="criterion", columns="labels", values=score)
        lines += [f"\n{score}", wide[[b for b in budgets if b in wide]].round(4).to_string()]
        labels, difference = paired_differences(table, score, "greedy V")
        bound = simultaneous_bound(sign * difference)
        frame = pd.DataFrame({"mean": bound.mean, "lower": bound.lower, "se": bound.standard_error}, index=labels)
        lines += [f"\n{score}: greedy V better than random by (lower: simultaneous 95 %)", frame.round(4).T.to_string()]
    return "\n".join(lines)


def picture(data: RatedItems, seeds: range, path: Path) -> None:
    """The default and random pairs, with the scale of the prior learned and with a fixed weak one."""
    from matplotlib import pyplot

    tables = []
    for scale, name in ((None, "learned scale"), (WEAK, "fixed weak prior")):
        table = word_study(data, ["greedy V", "random"], seeds, BradleyTerry(LinearHead(scale)))
        print(f"\n{name}", report(table, {"spearman": 1, "log_loss": -1}, BUDGETS))
        tables.append(table.assign(criterion=table.criterion + ", " + name))
    both = pd.concat(tables)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    plot_learning_curve(both, "spearman", ax=left).set_ylabel("Spearman with the mean rating (test words)")
    plot_learning_curve(both, "log_loss", ax=right).set_ylabel("log loss (test pairs)")
    right.axhline(np.log(2), color="0.6", linewidth=1, linestyle=":")
    right.annotate("a coin", (600, np.log(2)), ha="right", va="bottom", fontsize=8, color="0.4")
    right.get_legend().remove()
    figure.savefig(path, dpi=130)


def load_words(path: Path | None, components: int = 64) -> RatedItems:
    """The bundled words, or those of a file with ratings and embeddings (whose words may repeat)."""
    if path is None:
        return word_valence(components)
    file = np.load(path)
    return RatedItems(project(Items(file["embeddings"].astype(np.float32)), components), file["ratings"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=Path, help="npz with ratings, embeddings (default: the bundled)")
    parser.add_argument("--preferences", type=Path, help="npz with chosen, rejected: run that study instead")
    parser.add_argument("--picture", type=Path, help="draw the README's picture instead")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--criteria", nargs="*", default=list(CRITERIA))
    parser.add_argument("--out", type=Path, default=Path("build/design_study.csv"))
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if options.picture:
        matplotlib.use("Agg")
        picture(load_words(options.words), seeds, options.picture)
        return
    if options.preferences:
        table = preference_study(options.preferences, options.criteria, seeds)
        scores = {"log_loss": -1, "accuracy": 1}
    else:
        table = word_study(load_words(options.words), options.criteria, seeds)
        scores = {"spearman": 1, "log_loss": -1}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out, index=False)
    print(report(table, scores, BUDGETS))


if __name__ == "__main__":
    main()
