"""The history of a campaign, from its store alone: what each round was expected to bring, and what it brought."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tercet.designs.campaigns.label_store import LabelStore
from tercet.designs.campaigns.prequential_check import Prequential, prequential

if TYPE_CHECKING:
    import pandas as pd

RECENT = 200
"""Answers by which a model is judged overconfident: enough to tell, and few enough to forget a model since improved."""


class _Answered(NamedTuple):
    """Answers that had a prediction, in the order in which they were stored: arrays [m]."""

    round: np.ndarray
    prediction: np.ndarray
    outcome: np.ndarray
    inflation: np.ndarray

    def check(self, rows: slice | np.ndarray) -> Prequential:
        return prequential(self.prediction[rows], self.outcome[rows], self.inflation[rows])


def recent_z(store: LabelStore, answers: int = RECENT) -> float:
    """Prequential z of the last `answers` answers, whose predictions were made before they were given."""
    answered = _answered(store)
    return answered.check(slice(-answers, None)).z if len(answered.outcome) else 0.0


def campaign_history(store: LabelStore) -> pd.DataFrame:
    """Summarise a campaign, one row a round: whether design is paying, and whether predictions can be trusted.

    Parameters
    ----------
    store : LabelStore of the campaign

    Returns
    -------
    DataFrame
        `round`, `criterion`; number of `labels` before it; `asked`, `answered`, `skipped`; `prior_sd`; `random_share`;
        `target_variance` before it, its expected reduction by this batch, `expected_reduction`, and by a random batch
        of its size, `random_reduction` (design pays while the first is well above the second); the mean `log_loss` of
        the predictions of this batch, made before its answers, its expectation if they are calibrated,
        `expected_log_loss`, and `z`, the difference in standard deviations. NaN where nothing is known.
    """
    import pandas as pd

    answered, queries, labels = _answered(store), store.queries(), store.labels()
    round_of = {query.id: query.round for query in queries}
    numbers = ["prior_sd", "random_share", "target_variance", "expected_reduction", "random_reduction"]
    counts = ["labels", "asked", "answered", "skipped"]
    rows = []
    for batch in store.rounds():
        of_round = answered.round == batch.number
        check = answered.check(of_round) if of_round.any() else Prequential(0, np.nan, np.nan, np.nan)
        outcomes = [label.outcome for label in labels if round_of[label.query] == batch.number]
        rows.append(
            {"round": batch.number, "criterion": batch.criterion}
            | {name: batch.facts.get(name) for name in ["labels", *numbers]}
            | {"asked": sum(query.round == batch.number for query in queries)}
            | {"answered": sum(y is not None for y in outcomes), "skipped": sum(y is None for y in outcomes)}
            | {"log_loss": check.log_loss, "expected_log_loss": check.expected, "z": check.z}
        )
    columns = ["round", "criterion", *counts, *numbers, "log_loss", "expected_log_loss", "z"]
    types = dict.fromkeys(numbers, float) | dict.fromkeys(["round", *counts], int)
    return pd.DataFrame(rows, columns=columns).astype(types)


def _answered(store: LabelStore) -> _Answered:
    queries = {query.id: query for query in store.queries()}
    inflation = {batch.number: batch.facts.get("inflation", 1.0) for batch in store.rounds()}
    predicted = [(queries[label.query], label) for label in store.labels() if label.outcome is not None]
    rows = [
        (query.round, query.prediction, label.outcome, inflation[query.round])
        for query, label in predicted
        if query.prediction is not None
    ]
    return _Answered(*np.array(rows, dtype=float).reshape(-1, 4).T)
