"""Bradley-Terry or point-wise heads? Arms x qualities x numbers of pairs x pair schemes, with known true rewards.

python benchmarks/pointwise_study.py              # the whole grid: --seeds 5, --tasks linear MLP words, --out FILE.csv
python benchmarks/pointwise_study.py --smoke

Each cell: 500 prompts of 10 responses, 1 or 4 answered pairs a prompt; the mean Spearman correlation of predicted with
true rewards within 100 other prompts. Tasks: simulated embeddings (32 dimensions, half of the variance between prompts)
with linear or MLP true rewards, drawn anew for every seed; bundled words in groups of ten (as prompts), whose true
rewards are their mean ratings. The networks of all seeds and qualities are trained in one vectorised program; linear
heads are fitted exactly, LightGBM models one by one.

Trends claimed by the paper (arXiv 2411.04991) and their tests, specified before the first run:
1. noise: point-wise heads lose less than Bradley-Terry as labels get noisier. Slope of the difference BT MLP -
   point-wise MLP over error rates, per seed; claimed: negative. Expected size: -.1 per unit of error rate or steeper.
2. clean: at error rates below 10 % Bradley-Terry is the better of the two. Mean difference; claimed: positive, about
   .01.
3. cross: cross-prompt pairs help most where in-prompt pairs are similar. Mean of (cross-prompt - similar) minus
   (cross-prompt - diverse), over arms; claimed: positive, about .05.
4. harmless: cross-prompt pairs never hurt. Mean of cross-prompt - random, over arms; claimed: not negative.
A trend counts as confirmed or contradicted where its mean over seeds is two standard errors from zero. All cells are
printed.
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
TESTED = 100  # prompts held out


def task(name: str, seeds: int, prompts: int) -> tuple[Items, list[np.ndarray]]:
    """Standardised items with prompts, and true rewards for each seed."""
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
    """Every arm, quality and seed for one pair scheme and number of pairs a prompt."""
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
        print("LightGBM is not installed: this arm is skipped")
    rows = []
    for arm, rewards in scores.items():
        for (seed, quality), score in zip(grid, rewards, strict=True):
            rank = spearman_within_prompts(score[test], truths[seed][test], items.prompt[test]).mean
            labels = dict(task=name, scheme=scheme, pairs=len(sets[0]), arm=arm, quality=quality, seed=seed)
            rows.append(labels | {"spearman": rank})
    return rows


def trends(table: pd.DataFrame) -> None:
    """Print the four claims for each task: mean over seeds, standard error, sign."""
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
            sign = "positive" if mean > 2 * spread else "negative" if mean < -2 * spread else "not different from zero"
            print(f"{name:7s} {claim:34s} {mean:+.4f} +- {spread:.4f}: {sign}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=("linear", "MLP", "words"), default=["linear", "MLP", "words"])
    parser.add_argument("--out", type=Path, help="write all cells to this .csv file")
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
        print(f"\n{name}: Spearman correlation within test prompts, mean of {seeds} seeds; columns: annotator quality")
        shown = mine.pivot_table("spearman", ["scheme", "pairs", "arm"], "quality", sort=False)
        print(shown.round(3).to_string())
    print()
    trends(table)
    print(f"\n{time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
