"""Studies of designs: learning curves of criteria that choose, ask and refit, paired by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm  # not tqdm.auto: it warns where ipywidgets is missing

from tercet.designs.campaigns.arguments import Candidates
from tercet.designs.criteria.criterion import Criterion, as_criterion
from tercet.designs.pairs.candidates import candidate_pairs
from tercet.designs.pairs.registry import CRITERIA
from tercet.designs.pairs.select_pairs import select_pairs
from tercet.designs.pairs.target_moments import Target
from tercet.inference.laplace import laplace
from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.models._inputs import as_generator
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import BradleyTerry, ComparisonModel
from tercet.models.preferences.comparisons import Comparisons

if TYPE_CHECKING:
    import pandas as pd

Answer = Callable[[np.ndarray, int], Comparisons]
"""Pairs [m, 2] and an int seed in, answered comparisons in the same order out."""
Evaluate = Callable[[GaussianPosterior], Mapping[str, float]]
"""A posterior in, scores by name out."""


class LearningCurve(NamedTuple):
    """Scores after each refit, and every answer.

    Attributes
    ----------
    table : DataFrame, one row a refit: criterion, seed, labels, prior_sd, and one column a score
    asked : Comparisons in the order in which they were answered
    posterior : the last fit
    """

    table: pd.DataFrame
    asked: Comparisons
    posterior: GaussianPosterior


def learning_curve(
    items: Items,
    answer: Answer,
    evaluate: Evaluate,
    *,
    criterion: str | Criterion,
    model: ComparisonModel | None = None,
    start: int = 50,
    batch: int = 50,
    budget: int = 600,
    candidates: Candidates = "random",
    target: Target = None,
    key: int = 0,
    progress: Callable[[], object] | None = None,
) -> LearningCurve:
    """Start from random pairs, then fit, select, ask and refit until the budget is spent.

    Parameters
    ----------
    items : Items to choose from
    answer : the annotators: a function of pairs [m, 2] and an int seed that gives Comparisons
    evaluate : a function of the posterior that gives scores by name
    criterion : name or object
    model : default `BradleyTerry()`, a linear head with the prior scale learned at each refit
    start : number of random pairs among the candidates to start from
    batch : labels a round
    budget : labels in all
    candidates, target : as in `select_pairs`; random candidates are drawn anew each round
    key : int seed; with the same seed all criteria start from the same labels and choose from the same candidates
    progress : called after each refit

    Returns
    -------
    LearningCurve
    """
    import pandas as pd

    rule, model = as_criterion(criterion, CRITERIA), BradleyTerry() if model is None else model
    seeds = as_generator(key).integers(2**31, size=(2 + 2 * (budget // batch + 1)))
    scheme = "random" if isinstance(candidates, (int, np.integer)) else candidates
    first = candidate_pairs(items, scheme, start, int(seeds[0]))
    asked, rows = answer(first, int(seeds[1])), []
    for step in range(1, len(seeds) // 2 + 1):
        posterior = laplace(model, items, asked)
        record = {"criterion": rule.name, "seed": key, "labels": len(asked)}
        rows.append({**record, "prior_sd": posterior.diagnostics["prior_sd"], **evaluate(posterior)})
        if progress is not None:
            progress()
        size = min(batch, budget - len(asked))
        if size <= 0:
            break
        picked = select_pairs(
            items, posterior, size,
            candidates=candidates, criterion=rule, target=target, exclude=asked, key=int(seeds[2 * step]),
        )  # fmt: skip
        asked = asked.extend(answer(picked.chosen, int(seeds[2 * step + 1])))
    return LearningCurve(pd.DataFrame(rows), asked, posterior)


def compare_designs(
    items: Items,
    answer: Answer,
    evaluate: Evaluate,
    *,
    criteria: Sequence[str | Criterion],
    seeds: Sequence[int] = range(10),
    model: ComparisonModel | None = None,
    start: int = 50,
    batch: int = 50,
    budget: int = 600,
    candidates: Candidates = "random",
    target: Target = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Learning curves of several criteria over several seeds, in one long table.

    Parameters
    ----------
    items, answer, evaluate, model, start, batch, budget, candidates, target : as in `learning_curve`
    criteria : names or objects
    seeds : int seeds, shared by all criteria
    progress : show a progress bar

    Returns
    -------
    DataFrame
        The tables of `learning_curve`, one below the other.
    """
    import pandas as pd

    fits = len(seeds) * len(criteria) * (1 + -(-(budget - start) // batch))
    tables = []
    with tqdm(total=fits, desc="choosing pairs", unit="fit", disable=not progress) as bar:
        for seed in seeds:
            for criterion in criteria:
                curve = learning_curve(
                    items, answer, evaluate,
                    criterion=criterion, model=model, start=start, batch=batch, budget=budget,
                    candidates=candidates, target=target, key=seed, progress=bar.update,
                )  # fmt: skip
                tables.append(curve.table)
    return pd.concat(tables, ignore_index=True)


def paired_differences(
    table: pd.DataFrame, score: str, criterion: str, baseline: str = "random"
) -> tuple[Int[np.ndarray, " budgets"], Float[np.ndarray, "seeds budgets"]]:
    """Differences of a score between two criteria, paired by seed.

    Parameters
    ----------
    table : DataFrame of `compare_designs`
    score : name of the column with the score
    criterion, baseline : names of the two criteria

    Returns
    -------
    labels : int array [budgets]
    differences : array [seeds, budgets], score of `criterion` minus score of `baseline`
    """
    wide = table.pivot_table(index=["criterion", "seed"], columns="labels", values=score)
    difference = wide.xs(criterion) - wide.xs(baseline)
    return np.asarray(difference.columns), difference.to_numpy()
