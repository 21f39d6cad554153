"""The main job on bundled real data: fit a reward head, look at it, choose what to compare next.

python notebooks/demo.py [--seed 0] [--seeds 5] [--budget 600] [--out build/demo]
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)

import numpy as np
import pandas as pd
from matplotlib import pyplot
from tqdm import tqdm  # not tqdm.auto: it warns where ipywidgets is missing

import tercet
from tercet.datasets import word_valence
from tercet.datasets.preferences import RatedItems
from tercet.designs import candidate_pairs, learning_curve, select_pairs
from tercet.inference import laplace, log_loss, reward, spearman, summary, win_probability
from tercet.models import BradleyTerry
from tercet.plots import plot_learning_curve

OURS, THEIRS = "greedy V", "random"


def split(data: RatedItems, seed: int) -> tuple[RatedItems, RatedItems, np.ndarray]:
    """Four fifths of the words to choose from, one fifth and random pairs of it to test on."""
    rng = np.random.default_rng(seed)
    order, cut = rng.permutation(len(data.items)), int(0.8 * len(data.items))
    pairs = rng.integers(len(order) - cut, size=(4000, 2))
    return data.take(order[:cut]), data.take(order[cut:]), pairs[pairs[:, 0] != pairs[:, 1]]


def first_fit(pool: RatedItems, start: int, seed: int) -> None:
    """Fit the first labels and show what ArviZ and the diagnostics say."""
    asked = pool.answer(candidate_pairs(pool.items, "random", start, key=seed), key=seed)
    fit = laplace(BradleyTerry(), pool.items, asked)
    ties = int((asked.outcome == 0.5).sum())
    print(f"\n{start} random comparisons, answered by real ratings ({ties} ties):")
    print("  " + "   ".join(f"{pool.items.names[i]} / {pool.items.names[j]}" for i, j in asked.pairs[:4]) + " ...")
    container = fit.to_arviz(key=seed)
    print("\nPosterior of the first of 64 weights (ArviZ summary of independent draws):")
    print(summary(container).head(4).round(3).to_string())
    check, d = fit.importance_check(key=seed), fit.diagnostics
    print("\nDiagnostics of the Laplace approximation:")
    print(f"  converged {d['converged']} (largest gradient {d['gradient_norm']:.0e})")
    print(f"  prior sd of a reward difference, learned: {d['prior_sd']:.2f} logits")
    print(f"  the data determine {d['effective_parameters']:.1f} of {len(fit.center)} parameters")
    print(f"  Pareto k {check['pareto_k']:.2f} (below 0.7 is good), efficiency {check['efficiency']:.2f}")
    picked = select_pairs(pool.items, fit, 5, exclude=asked, key=seed)
    print(f"\nThe next pairs to ask, by {OURS}:")
    print(picked.table.round(3).to_string(index=False))


def run(data: RatedItems, options: argparse.Namespace) -> tuple[pd.DataFrame, Any]:
    """Learning curves of the default and of random pairs; the asked pairs of the first seed."""
    pool, held, pairs = split(data, options.seed)
    truth = held.expected_outcome(pairs)

    def evaluate(posterior: Any) -> dict[str, float]:
        probability = win_probability(posterior, held.items, pairs)
        return {
            "test_spearman": spearman(reward(posterior, held.items).mean, held.mean_rating),
            "test_log_loss": log_loss(probability, truth),
        }

    first_fit(pool, options.start, options.seed)
    print(f"\n{options.start} to {options.budget} labels, 50 a round, {options.seeds} seeds:", flush=True)
    rounds = 1 + -(-(options.budget - options.start) // 50)
    tables, chosen = [], None
    bar = tqdm(total=2 * rounds * options.seeds, desc="choosing pairs", unit="fit", disable=options.quiet)
    with bar:
        for seed in range(1000 * options.seed, 1000 * options.seed + options.seeds):
            for criterion in (OURS, THEIRS):
                curve = learning_curve(
                    pool.items,
                    pool.answer,
                    evaluate,
                    criterion=criterion,
                    start=options.start,
                    budget=options.budget,
                    key=seed,
                    progress=bar.update,
                )
                tables.append(curve.table)
                chosen = curve.asked if chosen is None else chosen
    assert chosen is not None
    names = pool.items.names
    first, second = ([names[i] for i in side] for side in (chosen.first, chosen.second))
    asked = pd.DataFrame({"first": first, "second": second, "outcome": chosen.outcome})
    return pd.concat(tables, ignore_index=True), asked


def picture(table: pd.DataFrame, path: Path) -> None:
    """Both scores against labels."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    plot_learning_curve(table, "test_spearman", ax=left).set_ylabel("Spearman with the mean rating (test words)")
    plot_learning_curve(table, "test_log_loss", ax=right).set_ylabel("log loss (test pairs)")
    right.axhline(np.log(2), color="0.6", linewidth=1, linestyle=":")
    right.annotate("random guessing", (table.labels.max(), np.log(2)), ha="right", va="bottom", fontsize=8, color="0.4")
    figure.suptitle("Which pairs of words should people compare next?  (bands: 90 % over seeds)", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="another seed, another split, other answers")
    parser.add_argument("--seeds", type=int, default=4, help="repetitions behind the bands")
    parser.add_argument("--start", type=int, default=50, help="random comparisons to begin with")
    parser.add_argument("--budget", type=int, default=600, help="labels in all")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder of picture and tables")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args()
    tercet.enable_compilation_cache()
    begin = time.perf_counter()
    data = word_valence(components=64)
    n, raters = data.ratings.shape
    print(f"{n:,} words, {raters} human ratings of each, MiniLM embeddings -> 64 components")
    table, asked = run(data, options)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "learning_curves.csv", index=False)
    asked.to_csv(options.out / "chosen_pairs.csv", index=False)
    picture(table, options.out / "learning_curves.png")
    shown = [n for n in (50, 100, 150, 250, 350, 450, 600) if n in set(table.labels)]
    for score in ("test_spearman", "test_log_loss"):
        wide = table.pivot_table(index="criterion", columns="labels", values=score)[shown]
        print(f"\n{score.replace('_', ' ')} against labels (mean of {options.seeds} seeds)")
        print(wide.round(3).to_string())
    print(f"\nDone in {time.perf_counter() - begin:.0f} s. Written:")
    print(f"  picture       {options.out / 'learning_curves.png'}")
    print(f"  chosen pairs  {options.out / 'chosen_pairs.csv'}")
    print(f"  all scores    {options.out / 'learning_curves.csv'}")
    print("\nNext: make notebooks   (the same job step by step: build/notebooks/choosing_pairs.ipynb)")
    print("      .venv/bin/python notebooks/demo.py --seed 1   (another split, other answers)")


if __name__ == "__main__":
    main()
