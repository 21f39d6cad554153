"""The guard of a campaign: batches with more random pairs while the model is overconfident."""

from __future__ import annotations

import warnings

from tercet.designs.campaigns.history import recent_z
from tercet.designs.campaigns.label_store import LabelStore
from tercet.designs.campaigns.prequential_check import OVERCONFIDENT

SHARE = 0.5
"""Least share of random pairs in a batch while the model is overconfident."""


def guarded_share(store: LabelStore, random_share: float) -> tuple[float, float]:
    """Share of random pairs in the next batch, and the prequential z of recent answers that decides it."""
    z = recent_z(store)
    if z <= OVERCONFIDENT:
        return random_share, z
    share = max(random_share, SHARE)
    warnings.warn(
        f"the model is overconfident: the log loss of its recent predictions is {z:.1f} standard deviations above its "
        f"expectation, so that its uncertainty is no guide to design: {share:.0%} of this batch is random. Consider "
        "another model (a network, annotators, ties) and look at loop.history().",
        stacklevel=4,
    )
    return share, z
