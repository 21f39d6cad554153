"""What each round of a campaign was expected to bring, and what came of it: read from the store alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tercet.designs.campaigns.label_store import LabelStore
from tercet.designs.campaigns.prequential import Prequential, prequential

if TYPE_CHECKING:
    import pandas as pd

RECENT = 200
"""Answers by which the guard judges: enough to see overconfidence, few enough to forget what has been mended."""


class _Answered(NamedTuple):
    """Answers that had a prediction, in the order in which they came: arrays [m]."""

    round: np.ndarray
    prediction: np.ndarray
    outcome: np.ndarray
    inflation: np.ndarray

    def report(self, which: Any) -> Prequential:
        return prequential(self.prediction[which], self.outcome[which], self.inflation[which])


def recent_z(store: LabelStore, answers: int = RECENT) -> float:
    """Z of the last so many answers against the predictions made before they were asked (see `prequential`)."""
    found = _answered(store)
    return found.report(slice(-answers, None)).z if len(found.outcome) else 0.0


def campaign_history(store: LabelStore) -> pd.DataFrame:
    """Give one row a round: whether design is paying, and whether its predictions can be trusted.

    Parameters
    ----------
    store : LabelStore

    Returns
    -------
    DataFrame
        `round`, `criterion`; `labels` before it; `asked`, `answered`, `skipped`; `prior_sd`; `random_share`;
        `target_variance` before it, its expected fall by this batch, `expected_fall`, and by a random one of its
        size, `random_fall` (design pays while the first is well above the second); the mean `log_loss` of the
        predictions of this batch, made before it was asked, the `expected_log_loss` were they right, and `z`, the
        difference in standard deviations. NaN where nothing is known.
    """
    import pandas as pd

    found, asks, labels = _answered(store), store.asks(), store.labels()
    round_of = {ask.id: ask.round for ask in asks}
    rows = []
    for batch in store.rounds():
        mine = found.round == batch.number
        report = found.report(mine) if mine.any() else Prequential(0, np.nan, np.nan, np.nan)
        given = [label.outcome for label in labels if round_of[label.ask] == batch.number]
        facts = ("labels", "prior_sd", "random_share", "target_variance", "expected_fall", "random_fall")
        rows.append(
            {"round": batch.number, "criterion": batch.criterion}
            | {name: batch.facts.get(name) for name in facts}
            | {"asked": sum(ask.round == batch.number for ask in asks)}
            | {"answered": sum(y is not None for y in given), "skipped": sum(y is None for y in given)}
            | {"log_loss": report.log_loss, "expected_log_loss": report.expected, "z": report.z}
        )
    numbers = ["prior_sd", "random_share", "target_variance", "expected_fall", "random_fall"]
    counts = ["round", "labels", "asked", "answered", "skipped"]
    columns = ["round", "criterion", *counts[1:], *numbers, "log_loss", "expected_log_loss", "z"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(numbers, float) | dict.fromkeys(counts, int))


def _answered(store: LabelStore) -> _Answered:
    asks = {ask.id: ask for ask in store.asks()}
    inflation = {batch.number: batch.facts.get("inflation", 1.0) for batch in store.rounds()}
    rows = [
        (asks[label.ask].round, asks[label.ask].prediction, label.outcome, inflation[asks[label.ask].round])
        for label in store.labels()
        if label.outcome is not None and asks[label.ask].prediction is not None
    ]
    return _Answered(*np.array(rows, dtype=float).reshape(-1, 4).T)
