"""What `tercet-select` does once its words are understood: read, fit, choose, write."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tercet.designs.campaigns.batches import random_batch
from tercet.designs.campaigns.pair_tables import (
    SUFFIXES,
    Answers,
    check_target,
    positions_of,
    read_answers,
    read_names,
    read_pairs,
    write_table,
)
from tercet.designs.criteria.criterion import as_criterion
from tercet.designs.pairs.candidates import listed_pairs
from tercet.designs.pairs.registry import CRITERIA
from tercet.designs.pairs.select_pairs import select_pairs
from tercet.inference.posteriors.mode import laplace
from tercet.models._inputs import as_generator
from tercet.models.items.embeddings import open_embeddings
from tercet.models.items.items import Items, project
from tercet.models.preferences.comparison_models import BradleyTerry

if TYPE_CHECKING:
    import pandas as pd

FEATURES = (".npy", ".npz", ".safetensors")
SCHEMES = ("random", "all", "in-prompt", "cross-prompt")


def select_job(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Do what the options of `tercet.designs.campaigns.command_line.parser` ask for; `say` hears of progress."""
    as_criterion(options.criterion, CRITERIA)
    out = None if options.out in (None, "-") else Path(options.out)
    if out is not None:
        given = (options.features, options.labels, options.ids, options.candidates, options.target, *options.exclude)
        check_target(out, [Path(name) for name in given if name is not None])
    items = read_items(options)
    say(f"read {len(items):,} items x {items.features.shape[1]} features")
    places = positions_of(items.names)
    answers = Answers(None, np.empty((0, 2), np.int64))
    if options.labels is not None:
        answers = read_answers(Path(options.labels), places)
    exclude = np.concatenate([answers.asked, *(read_pairs(Path(name), places) for name in options.exclude)])
    candidates = _candidates(options.candidates, places)
    target = _target(options, places)
    if answers.comparisons is None:
        say("no labels yet: a random batch")
        table = _cold(items, options.budget, candidates, exclude, options.key)
    else:
        say(f"fitting {len(answers.comparisons):,} labels")
        fit = laplace(BradleyTerry(), items, answers.comparisons)
        say(f"the rewards of two random items differ by {fit.diagnostics['prior_sd']:.2f} logits (prior sd, learned)")
        picked = select_pairs(
            items, fit, options.budget,
            candidates=candidates, criterion=options.criterion, target=target, exclude=exclude, key=options.key,
        )  # fmt: skip
        table = picked.table
        say(
            f"chose {len(table)} pairs by {options.criterion}: gain {picked.gains.sum():.4g}, of as many random pairs "
            f"{picked.expected_random:.4g}"
        )
    write_table(table, out)


def read_items(options: argparse.Namespace) -> Items:
    """The items in the options' files, projected where that is asked for."""
    features, prompt = _read_features(Path(options.features), options.name, options.axes)
    names = None
    if options.ids is not None:
        names, given = read_names(Path(options.ids))
        prompt = prompt if given is None else given
    items = Items(features, ids=names, prompt=prompt)
    return items if options.components is None else project(items, options.components)


def _read_features(path: Path, name: str | None, axes: str | None) -> tuple[np.ndarray, Any]:
    if path.suffix != ".npz":
        opened = open_embeddings(path, name=name, axes=axes)
        return opened[:], opened.prompt
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if name in (None, key) or name not in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is no .npz file of numbers, or is cut short: {error}") from error
    if len(arrays) != 1 or (name is not None and name not in arrays):
        raise ValueError(f"{path} holds the arrays {', '.join(arrays) or '(none)'}; say which by --name.")
    opened = open_embeddings(next(iter(arrays.values())), axes=axes)
    return opened[:], opened.prompt


def _candidates(wanted: str, places: dict[str, int]) -> Any:
    if wanted in SCHEMES:
        return wanted
    if not wanted.isdecimal() and Path(wanted).suffix not in SUFFIXES:
        choices = f"{', '.join(SCHEMES)}, a number of random pairs, or a table ({', '.join(SUFFIXES)})"
        raise ValueError(f"--candidates must be {choices}, got {wanted!r}.")
    return int(wanted) if wanted.isdecimal() else read_pairs(Path(wanted), places)


def _target(options: argparse.Namespace, places: dict[str, int]) -> Any:
    if options.target in ("all", "in-prompt"):
        return None if options.target == "all" else options.target
    path = Path(options.target)
    if path.suffix in FEATURES:
        return Items(_read_features(path, options.name if path.suffix != ".npy" else None, options.axes)[0])
    if path.suffix not in SUFFIXES:
        choices = f"all, in-prompt, a table of pairs ({', '.join(SUFFIXES)}), or features ({', '.join(FEATURES)})"
        raise ValueError(f"--target must be {choices}, got {options.target!r}.")
    return read_pairs(path, places)


def _cold(items: Items, budget: int, candidates: Any, exclude: np.ndarray, key: int) -> pd.DataFrame:
    """A random batch: without a label there is nothing to design by."""
    import pandas as pd

    pairs = listed_pairs(items, candidates, key, exclude)
    if not 0 <= budget <= len(pairs):
        raise ValueError(f"budget must be between 0 and the {len(pairs):,} candidates left, got {budget}.")
    chosen = random_batch(pairs, budget, as_generator(key).spawn(1)[0]).pairs
    names = items.names
    unknown = np.full(budget, np.nan)
    return pd.DataFrame(
        {
            "first": [names[i] for i in chosen[:, 0]],
            "second": [names[j] for j in chosen[:, 1]],
            "gain": unknown,
            "difference_mean": np.zeros(budget),
            "difference_sd": unknown,
            "win_probability": np.full(budget, 0.5),
        }
    )
