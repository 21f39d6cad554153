"""Studies of designs: learning curves of criteria that choose, ask and refit, paired over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm  # not tqdm.auto: it warns where ipywidgets is missing

from tercet.designs.criteria.criterion import Criterion, as_criterion
from tercet.designs.pairs.candidates import candidate_pairs
from tercet.designs.pairs.registry import CRITERIA
from tercet.designs.pairs.select_pairs import select_pairs
from tercet.inference.posteriors.mode import laplace
from tercet.inference.posteriors.posterior import GaussianPosterior
from tercet.models._inputs import as_generator
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import BradleyTerry, ComparisonModel
from tercet.models.preferences.comparisons import Comparisons

if TYPE_CHECKING:
    import pandas as pd

Answer = Callable[[np.ndarray, Any], Comparisons]
"""Pairs [m, 2] and a key in, answered comparisons in the same order out."""
Evaluate = Callable[[GaussianPosterior], dict[str, float]]
"""A posterior in, scores by name out."""


class LearningCurve(NamedTuple):
    """Scores after each refit, and everything that was asked.

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
    candidates: Any = "random",
    target: Any = None,
    key: int = 0,
    progress: Callable[[], Any] | None = None,
) -> LearningCurve:
    """Start from random pairs, then fit, select, ask and refit until the budget is spent.

    Parameters
    ----------
    items : Items to choose from
    answer : who answers: pairs [m, 2] and a key in, Comparisons out
    evaluate : scores of a posterior, by name
    criterion : name or object
    model : default `BradleyTerry()`, a linear head with the prior scale learned at each refit
    start, batch, budget : numbers of labels: random ones of the candidates first, each round, in all
    candidates, target : as in `select_pairs`; random candidates are drawn anew each round
    key : int seed. The same seed starts every criterion from the same labels and shows it the same candidates
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
        rows.append(record | {"prior_sd": posterior.diagnostics["prior_sd"], **evaluate(posterior)})
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
    progress: bool = True,
    **settings: Any,
) -> pd.DataFrame:
    """Learning curves of several criteria over several seeds, in one long table.

    Parameters
    ----------
    items, answer, evaluate : as in `learning_curve`
    criteria : names or objects
    seeds : int seeds, shared by all criteria
    progress : show a progress bar
    **settings : of `learning_curve`

    Returns
    -------
    DataFrame
        The tables of `learning_curve`, one under the other.
    """
    import pandas as pd

    start, batch, budget = (settings.get(n, d) for n, d in (("start", 50), ("batch", 50), ("budget", 600)))
    fits = len(seeds) * len(criteria) * (1 + -(-(budget - start) // batch))
    tables = []
    with tqdm(total=fits, desc="choosing pairs", unit="fit", disable=not progress) as bar:
        for seed in seeds:
            for criterion in criteria:
                curve = learning_curve(
                    items, answer, evaluate, criterion=criterion, key=seed, progress=bar.update, **settings
                )
                tables.append(curve.table)
    return pd.concat(tables, ignore_index=True)


def paired_differences(
    table: pd.DataFrame, score: str, ours: str, theirs: str = "random"
) -> tuple[np.ndarray, np.ndarray]:
    """Differences ours - theirs of a score, paired by seed.

    Returns
    -------
    labels [budgets], differences [seeds, budgets]
    """
    wide = table.pivot_table(index=["criterion", "seed"], columns="labels", values=score)
    difference = wide.xs(ours) - wide.xs(theirs)
    return np.asarray(difference.columns), difference.to_numpy()
