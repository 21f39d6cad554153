"""The work of `tercet-select`: read, fit, choose, write."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import ArrayLike

from tercet.compilation_cache import enable_compilation_cache
from tercet.designs.campaigns.arguments import Candidates
from tercet.designs.campaigns.batches import random_batch
from tercet.designs.campaigns.pair_tables import (
    SUFFIXES,
    Answers,
    check_output,
    positions_of,
    read_answers,
    read_names,
    read_pairs,
    write_table,
)
from tercet.designs.criteria.criterion import as_criterion
from tercet.designs.pairs.candidates import Scheme, listed_pairs
from tercet.designs.pairs.registry import CRITERIA
from tercet.designs.pairs.select_pairs import select_pairs
from tercet.designs.pairs.target_moments import Target
from tercet.inference.laplace import laplace
from tercet.models._inputs import as_generator
from tercet.models.items.items import Items
from tercet.models.items.on_disk import Axes, open_embeddings
from tercet.models.items.principal_components import project
from tercet.models.preferences.comparison_models import BradleyTerry

if TYPE_CHECKING:
    import pandas as pd

FEATURES = (".npy", ".npz", ".safetensors")
SCHEMES = get_args(Scheme)


def select_job(options: argparse.Namespace, report: Callable[[str], None]) -> None:
    """Do what the options of `tercet-select` ask for.

    Parameters
    ----------
    options : as the parser of `tercet-select` gives them
    report : function that is called with each line of progress
    """
    as_criterion(options.criterion, CRITERIA)
    out = None if options.out in (None, "-") else Path(options.out)
    if out is not None:
        given = (options.features, options.labels, options.ids, options.candidates, options.target, *options.exclude)
        check_output(out, [Path(name) for name in given if name is not None])
    items = read_items(options)
    report(f"read {len(items):,} items x {items.features.shape[1]} features")
    positions = positions_of(items.names)
    answers = Answers(None, np.empty((0, 2), np.int64))
    if options.labels is not None:
        answers = read_answers(Path(options.labels), positions)
    exclude = np.concatenate([answers.asked, *(read_pairs(Path(name), positions) for name in options.exclude)])
    candidates = _candidates(options.candidates, positions)
    target = _target(options, positions)
    if answers.comparisons is None:
        report("no labels yet: a random batch")
        table = _random_table(items, options.budget, candidates, exclude, options.key)
    else:
        try:
            enable_compilation_cache()
        except OSError as error:  # a convenience: without it the same pairs are chosen, somewhat later
            report(str(error))
        report(f"fitting {len(answers.comparisons):,} labels")
        fit = laplace(BradleyTerry(), items, answers.comparisons)
        report(f"prior sd of the reward difference of two random items: {fit.diagnostics['prior_sd']:.2f} logits")
        picked = select_pairs(
            items, fit, options.budget,
            candidates=candidates, criterion=options.criterion, target=target, exclude=exclude, key=options.key,
        )  # fmt: skip
        table = picked.table
        report(
            f"chose {len(table)} pairs by {options.criterion}: total gain {picked.gains.sum():.4g}, of as many random "
            f"pairs {picked.expected_random:.4g}"
        )
    write_table(table, out)


def read_items(options: argparse.Namespace) -> Items:
    """Read the items from the files that the options name, projected where they say so."""
    features, prompt = _read_features(Path(options.features), options.name, options.axes)
    names = None
    if options.ids is not None:
        names, given = read_names(Path(options.ids))
        prompt = prompt if given is None else given
    items = Items(features, ids=names, prompt=prompt)
    return items if options.components is None else project(items, options.components)


def _read_features(path: Path, name: str | None, axes: Axes | None) -> tuple[np.ndarray, ArrayLike | None]:
    if path.suffix != ".npz":
        opened = open_embeddings(path, name=name, axes=axes)
        return opened[:], opened.prompt
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if name in (None, key) or name not in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not an .npz file of numbers, or is incomplete: {error}") from error
    if len(arrays) != 1 or (name is not None and name not in arrays):
        raise ValueError(f"{path} holds the arrays {', '.join(arrays) or '(none)'}; choose one by --name.")
    opened = open_embeddings(next(iter(arrays.values())), axes=axes)
    return opened[:], opened.prompt


def _candidates(wanted: str, positions: dict[str, int]) -> Candidates:
    if wanted in SCHEMES:
        return wanted
    if not wanted.isdecimal() and Path(wanted).suffix not in SUFFIXES:
        choices = f"{', '.join(SCHEMES)}, a number of random pairs, or a table ({', '.join(SUFFIXES)})"
        raise ValueError(f"--candidates must be {choices}, got {wanted!r}.")
    return int(wanted) if wanted.isdecimal() else read_pairs(Path(wanted), positions)


def _target(options: argparse.Namespace, positions: dict[str, int]) -> Target:
    if options.target == "all":
        return None
    if options.target == "in-prompt":
        return "in-prompt"
    path = Path(options.target)
    if path.suffix in FEATURES:
        return Items(_read_features(path, options.name if path.suffix != ".npy" else None, options.axes)[0])
    if path.suffix not in SUFFIXES:
        choices = f"all, in-prompt, a table of pairs ({', '.join(SUFFIXES)}), or features ({', '.join(FEATURES)})"
        raise ValueError(f"--target must be {choices}, got {options.target!r}.")
    return read_pairs(path, positions)


def _random_table(items: Items, budget: int, candidates: Candidates, exclude: np.ndarray, key: int) -> pd.DataFrame:
    """The table of a random batch: without labels nothing can be designed."""
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
