"""One round of a campaign: the pairs, the criterion and the prediction of each, the expected effect of the batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tercet.designs.campaigns.arguments import Candidates, Key
from tercet.designs.campaigns.labels import Facts
from tercet.designs.campaigns.prequential_check import batch_inflation
from tercet.designs.campaigns.stopping import batch_reduction
from tercet.designs.criteria.criterion import Criterion
from tercet.designs.pairs.candidates import listed_pairs, pair_code
from tercet.designs.pairs.pair_candidates import PairCandidates
from tercet.designs.pairs.select_pairs import select_pairs
from tercet.designs.pairs.target_moments import Target
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.reward_view import on
from tercet.models.items.items import Items

RANDOM = "random"


class Batch(NamedTuple):
    """Pairs to be compared.

    Attributes
    ----------
    pairs : int array [b, 2], positions of the items
    criteria : name of the criterion that chose each pair
    prediction : array [b], predicted probabilities that the first is preferred
    facts : what is known of the whole batch, by name
    """

    pairs: np.ndarray
    criteria: list[str]
    prediction: np.ndarray
    facts: Facts


def random_batch(pairs: np.ndarray, size: int, rng: np.random.Generator) -> Batch:
    """A first batch: without answers nothing can be designed, and every prediction is one half."""
    chosen = orient(pairs[rng.choice(len(pairs), size, replace=False)], rng)
    return Batch(chosen, [RANDOM] * size, np.full(size, 0.5), {"labels": 0})


def design_batch(
    items: Items,
    posterior: Posterior,
    pairs: np.ndarray,
    size: int,
    *,
    criterion: Criterion,
    target: Target = None,
    random_share: float = 0.0,
    rng: np.random.Generator,
) -> Batch:
    """Choose `size` of the candidates [m, 2], a share of them at random and at random positions, the others best first.

    The facts are `expected_reduction` of the target variance by this batch, `random_reduction` by a random one, the
    `target_variance` before, the `inflation` of its log loss (`batch_inflation`), `prior_sd` and `random_share`.
    """
    known, seed = on(posterior, items).items, int(rng.integers(2**31))
    at_random = np.zeros(size, dtype=bool)
    at_random[rng.choice(size, round(random_share * size), replace=False)] = True
    wanted = int(np.count_nonzero(~at_random))
    designed = select_pairs(known, posterior, wanted, candidates=pairs, criterion=criterion, target=target, key=seed)
    rest = _without(pairs, designed.chosen, len(known))
    batch = np.empty((size, 2), dtype=np.int64)
    batch[~at_random] = designed.chosen
    batch[at_random] = rest[rng.choice(len(rest), size - wanted, replace=False)]
    batch = orient(batch, rng)
    pool = PairCandidates(known, batch).pool(posterior, target)
    prediction = np.asarray(pool.expected_outcome, np.float64)
    expected = batch_reduction(pool, PairCandidates(known, pairs).pool(posterior, target), seed)
    facts = {
        "target_variance": expected.variance,
        "expected_reduction": expected.reduction,
        "random_reduction": expected.random_reduction,
        "inflation": batch_inflation(pool, prediction, seed),
        "prior_sd": posterior.diagnostics.get("prior_sd"),
        "random_share": random_share,
    }
    return Batch(batch, [RANDOM if random else criterion.name for random in at_random], prediction, facts)


def orient(pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw which item comes first, so that an annotator's preference for one side favours no item."""
    return np.where(rng.random(len(pairs))[:, None] < 0.5, pairs[:, ::-1], pairs)


def remaining_pairs(items: Items, candidates: Candidates, asked: np.ndarray, key: Key) -> np.ndarray:
    """The candidates [m, 2] that have not been asked, without repetitions, either way round."""
    pairs = listed_pairs(items, candidates, key, asked)
    if isinstance(candidates, (str, int, np.integer)):  # a scheme lists each pair once
        return pairs
    _, first = np.unique(pair_code(pairs, len(items)), return_index=True)
    return pairs[np.sort(first)]


def _without(pairs: np.ndarray, taken: np.ndarray, size: int) -> np.ndarray:
    return pairs[~np.isin(pairs @ [size, 1], taken @ [size, 1])]
