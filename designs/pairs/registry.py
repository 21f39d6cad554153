"""Every criterion under the name by which `select_pairs` knows it."""

from __future__ import annotations

from collections.abc import Mapping

from tercet.designs.criteria.criterion import Criterion
from tercet.designs.criteria.exchange import ExchangeD, ExchangeV
from tercet.designs.criteria.greedy import BatchBALD, GreedyA, GreedyD, GreedyV
from tercet.designs.criteria.one_shot import Entropy, MaxDifference, PosteriorVariance, PredictiveEntropy, RandomPairs
from tercet.designs.pairs.coreset import Coreset
from tercet.designs.pairs.draws import BALDByDraws, EPIGByDraws
from tercet.designs.pairs.epig import EPIG, TopEPIG
from tercet.designs.pairs.information_gain import BALD, ClosedFormBALD, TopBALD
from tercet.designs.pairs.joint_entropy import JointEntropy
from tercet.designs.pairs.published import PastAwareD, PublishedD, PublishedXtX

CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        RandomPairs(),
        MaxDifference(),
        Entropy(),
        PredictiveEntropy(),
        Coreset(),
        PublishedXtX(),
        PublishedD(),
        PastAwareD(),
        PosteriorVariance(),
        GreedyD(),
        GreedyA(),
        GreedyV(),
        ExchangeD(),
        ExchangeV(),
        BatchBALD(),
        JointEntropy(),
        BALD(),
        TopBALD(),
        ClosedFormBALD(),
        BALDByDraws(),
        EPIG(),
        TopEPIG(),
        EPIGByDraws(),
    )
}
"""Every criterion under the name by which `select_pairs` knows it."""


def as_criterion(criterion: str | Criterion, known: Mapping[str, Criterion] = CRITERIA) -> Criterion:
    """A criterion by name, or itself."""
    if isinstance(criterion, Criterion):
        return criterion
    if criterion not in known:
        raise ValueError(f"criterion must be one of {sorted(known)} or a Criterion, got {criterion!r}.")
    return known[criterion]
