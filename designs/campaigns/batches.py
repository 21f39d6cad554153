"""One round of a campaign: the pairs, why each was chosen, what is predicted of it, what the batch should bring."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tercet.designs.campaigns.prequential import batch_inflation
from tercet.designs.campaigns.stopping import batch_worth
from tercet.designs.criteria.criterion import Criterion
from tercet.designs.pairs.candidates import pair_code
from tercet.designs.pairs.pair_candidates import PairCandidates
from tercet.designs.pairs.select_pairs import select_pairs
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.rewards import as_items
from tercet.models.items.items import Items

RANDOM = "random"


class Batch(NamedTuple):
    """Pairs [b, 2] to be asked, the criterion of each, P(first preferred) [b], and what is known of the whole."""

    pairs: np.ndarray
    criteria: list[str]
    prediction: np.ndarray
    facts: dict[str, Any]


def random_batch(pairs: np.ndarray, size: int, rng: np.random.Generator) -> Batch:
    """A first batch: without an answer there is nothing to design by, and each prediction is a coin."""
    chosen = orient(pairs[rng.choice(len(pairs), size, replace=False)], rng)
    return Batch(chosen, [RANDOM] * size, np.full(size, 0.5), {"labels": 0})


def design_batch(
    items: Items,
    posterior: Posterior,
    pairs: np.ndarray,
    size: int,
    *,
    criterion: Criterion,
    target: Any = None,
    random_share: float = 0.0,
    rng: np.random.Generator,
) -> Batch:
    """Choose `size` of the candidates [m, 2], a share of them at random, best first with the random ones among them.

    The facts are `expected_fall` of the target variance by this batch, `random_fall` by a random one, the
    `target_variance` before, the `inflation` of its log loss (`batch_inflation`), `prior_sd` and `random_share`.
    """
    known, seed = as_items(posterior, items), int(rng.integers(2**31))
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
    worth = batch_worth(pool, PairCandidates(known, pairs).pool(posterior, target), seed)
    facts = {
        "target_variance": worth.variance,
        "expected_fall": worth.fall,
        "random_fall": worth.random_fall,
        "inflation": batch_inflation(pool, prediction, seed),
        "prior_sd": posterior.diagnostics.get("prior_sd"),
        "random_share": random_share,
    }
    return Batch(batch, [RANDOM if r else criterion.name for r in at_random], prediction, facts)


def orient(pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw which item comes first: a habit of preferring the left one must not favour any item."""
    return np.where(rng.random(len(pairs))[:, None] < 0.5, pairs[:, ::-1], pairs)


def distinct(pairs: np.ndarray, size: int) -> np.ndarray:
    """The pairs of `size` items without those that came before, either way round."""
    _, first = np.unique(pair_code(pairs, size), return_index=True)
    return pairs[np.sort(first)]


def _without(pairs: np.ndarray, taken: np.ndarray, size: int) -> np.ndarray:
    return pairs[~np.isin(pairs @ [size, 1], taken @ [size, 1])]
