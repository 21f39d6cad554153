"""Learning curves of every criterion on real human ratings: the measurement behind the default.

python benchmarks/design_study.py --out build/design_study                     # the bundled words
python benchmarks/design_study.py --words FILE.npz --preferences FILE.npz      # data sets that do not ship
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tercet.datasets import RatedItems, word_valence
from tercet.designs import CRITERIA, compare_designs, learning_curve, paired_differences
from tercet.inference import log_loss, reward, simultaneous_bound, spearman, win_probability
from tercet.models import BradleyTerry, Comparisons, Items, LinearHead, project

BUDGETS = (50, 100, 150, 250, 350, 450, 600)


def word_study(data: RatedItems, criteria: list[str], seeds: range, model: Any = None, **settings: Any) -> pd.DataFrame:
    """80 % of the words to choose from; the others, and random pairs of them, to test on."""
    items = project(data.items, 64)
    rng = np.random.default_rng(7)
    order = rng.permutation(len(items))
    train, test = order[: int(0.8 * len(items))], order[int(0.8 * len(items)) :]
    pool, held = data.take(train), data.take(test)
    pool, held = RatedItems(items.take(train), pool.ratings), RatedItems(items.take(test), held.ratings)
    pairs = rng.integers(len(test), size=(8000, 2))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=Path, help="npz with words, ratings, embeddings (default: the bundled)")
    parser.add_argument("--preferences", type=Path, help="npz with chosen, rejected: run that study instead")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--prior-sd", type=float, help="fix the prior scale instead of learning it")
    parser.add_argument("--criteria", nargs="*", default=list(CRITERIA))
    parser.add_argument("--out", type=Path, default=Path("build/design_study"))
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if options.preferences:
        table = preference_study(options.preferences, options.criteria, seeds)
        scores = {"log_loss": -1, "accuracy": 1}
    else:
        data = word_valence()
        if options.words:
            file = np.load(options.words)
            data = RatedItems(Items(file["embeddings"].astype(np.float32)), file["ratings"])  # has repeated words
        model = BradleyTerry(LinearHead(options.prior_sd))
        table = word_study(data, options.criteria, seeds, model)
        scores = {"spearman": 1, "log_loss": -1}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out.with_suffix(".csv"), index=False)
    print(report(table, scores, BUDGETS))


if __name__ == "__main__":
    main()
