"""Bradley-Terry or point-wise heads? The grid of arms, qualities, quantities and pair schemes, with known truth.

python benchmarks/pointwise_study.py              # the whole grid: --seeds 5, --tasks linear MLP words, --out FILE.csv
python benchmarks/pointwise_study.py --smoke

Each cell: 500 prompts of 10 responses answered (1 or 4 pairs a prompt), the mean Spearman correlation of rewards with
the truth within 100 other prompts. Tasks: simulated embeddings (32 dimensions, half the variance between prompts) with
a linear or MLP truth, anew for every seed; bundled words in groups of ten (their prompts), mean ratings as the truth.
Networks of all seeds and qualities are trained side by side in one program; linear heads are exact, LightGBM is looped.

Trends claimed by the paper (arXiv 2411.04991), and how each is tested here. Written down before the first run:
1. noise: point-wise heads lose less than Bradley-Terry as labels get noisier. Slope over error rates of the difference
   BT MLP - point-wise MLP, per seed; claimed: negative. Expected size: -.1 a unit of error or steeper.
2. clean: below 10 % error Bradley-Terry is the better of the two. Mean difference there; claimed: positive, about .01.
3. cross: cross-prompt pairs help most where in-prompt pairs are similar. Mean of (cross-prompt - similar) minus
   (cross-prompt - diverse), over arms; claimed: positive, about .05.
4. harmless: cross-prompt pairs never hurt. Mean of cross-prompt - random, over arms; claimed: not negative.
A trend counts as seen, or as contradicted, where its mean over seeds is two standard errors from zero; every cell is
shown.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from tercet.datasets import (
    annotate,
    annotation_error,
    annotation_pairs,
    simulated_prompts,
    simulated_rewards,
    word_valence,
)
from tercet.inference import TrainingOptions, fit_pointwise, laplace, reward, spearman_within_prompts, train
from tercet.models import BradleyTerry, Items, MLPHead, PointwiseClassifier, project

QUALITIES = (0.5, 0.7, 1.0, 3.0, 5.0, 10.0)
SCHEMES = ("random", "similar", "diverse", "cross-prompt")
ARMS = ("BT linear", "BT MLP", "point-wise MLP", "point-wise LightGBM")
TESTED = 100  # prompts nobody is asked about


def task(name: str, seeds: int, prompts: int) -> tuple[Items, list[np.ndarray]]:
    """Standardised items with prompts, and the true rewards of each seed."""
    if name == "words":
        words = word_valence(components=32)
        order = np.random.default_rng(40).permutation(len(words.items))[: 10 * min(prompts + TESTED, 400)]
        chosen = words.items.take(order)
        items = Items(chosen.features, prompt=np.repeat(np.arange(len(order) // 10), 10))
        return project(items, None), [words.mean_rating[order]] * seeds
    items = simulated_prompts(prompts + TESTED, 10, 32, key=41).items
    return project(items, None), [simulated_rewards(items, name, key=seed) for seed in range(seeds)]


def cells(
    name: str, scheme: str, per_prompt: int, seeds: int, prompts: int, options: TrainingOptions
) -> list[dict[str, Any]]:
    """One scheme and quantity: every arm, quality and seed."""
    items, truths = task(name, seeds, prompts)
    assert items.prompt is not None
    test = items.prompt >= items.prompt.max() + 1 - TESTED
    asked = items.take(~test)
    grid = list(itertools.product(range(seeds), QUALITIES))
    sets = []
    for seed, quality in grid:
        pairs = annotation_pairs(asked, truths[seed][~test], scheme, per_prompt, key=1000 + seed)
        sets.append(annotate(truths[seed][~test], pairs, quality, key=2000 + seed))
    scores: dict[str, Any] = {"BT linear": [reward(laplace(BradleyTerry(), asked, y), items).mean for y in sets]}
    for arm, model in (("BT MLP", BradleyTerry(MLPHead())), ("point-wise MLP", PointwiseClassifier(MLPHead()))):
        sites = train(model, asked, sets, key=3, options=options).sites
        scores[arm] = model.head.rewards(sites, items)
    try:
        from lightgbm import LGBMClassifier

        trees = LGBMClassifier(n_estimators=100, num_leaves=15, learning_rate=0.05, n_jobs=1, verbose=-1)
        scores["point-wise LightGBM"] = [fit_pointwise(trees, asked, y)(items) for y in sets]
    except ImportError:
        print("LightGBM is not installed: its arm is left out")
    rows = []
    for arm, found in scores.items():
        for (seed, quality), score in zip(grid, found, strict=True):
            rank = spearman_within_prompts(score[test], truths[seed][test], items.prompt[test]).mean
            labels = dict(task=name, scheme=scheme, pairs=len(sets[0]), arm=arm, quality=quality, seed=seed)
            rows.append(labels | {"spearman": rank})
    return rows


def trends(table: pd.DataFrame) -> None:
    """The four claims, per task: mean over seeds, standard error, verdict."""
    error = {quality: annotation_error(quality, 0.5) for quality in QUALITIES}
    for name, mine in table.groupby("task", sort=False):
        wide = mine.pivot_table("spearman", ["seed", "scheme", "pairs", "quality"], "arm").reset_index()
        wide["gap"], wide["error"] = wide["BT MLP"] - wide["point-wise MLP"], wide["quality"].map(error)
        slope = wide.groupby("seed").apply(
            lambda part: np.polyfit(part["error"], part["gap"], 1)[0], include_groups=False
        )
        clean = wide[wide["error"] < 0.1].groupby("seed")["gap"].mean()
        by = mine.pivot_table("spearman", "seed", "scheme")
        claims = {
            "noise (claimed: negative)": slope,
            "clean (claimed: positive)": clean,
            "cross (claimed: positive)": by["diverse"] - by["similar"],
            "harmless (claimed: not negative)": by["cross-prompt"] - by["random"],
        }
        for claim, values in claims.items():
            mean, spread = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
            sign = "positive" if mean > 2 * spread else "negative" if mean < -2 * spread else "not told apart from zero"
            print(f"{name:7s} {claim:34s} {mean:+.4f} +- {spread:.4f}: {sign}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=("linear", "MLP", "words"), default=["linear", "MLP", "words"])
    parser.add_argument("--out", type=Path, help="write every cell to this file")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="training stopped")
    begin, rows = time.time(), []
    seeds, prompts, quantities = (2, 40, (1,)) if args.smoke else (args.seeds, 500, (1, 4))
    work = list(itertools.product(args.tasks[: 1 if args.smoke else None], SCHEMES, quantities))
    for name, scheme, per_prompt in tqdm(work, unit="scheme"):
        rows += cells(name, scheme, per_prompt, seeds, prompts, TrainingOptions(rounds=3 if args.smoke else 300))
    table = pd.DataFrame(rows)
    if args.out:
        table.to_csv(args.out, index=False)
    for name, mine in table.groupby("task", sort=False):
        print(f"\n{name}: Spearman within test prompts, mean of {seeds} seeds")
        shown = mine.pivot_table("spearman", ["scheme", "pairs", "arm"], "quality", sort=False)
        print(shown.round(3).to_string())
    print()
    trends(table)
    print(f"\n{time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
