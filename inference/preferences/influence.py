"""The fewest comparisons whose removal would reverse the order of two items, by influence functions and a refit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.inference.posteriors.options import LaplaceOptions
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.linear_laplace import comparison_laplace
from tercet.inference.preferences.reward_view import RewardView, on
from tercet.models._inputs import as_pairs
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons

RIVALS = 10  # items ranked next to the best that are compared with it by default
REFITS = 8  # largest number of refits, each without a larger set
GROWTH = 1.15  # factor between the sizes of these sets


@dataclass(frozen=True, eq=False)
class OrderInfluence:
    """How many comparisons determine the order of two items.

    Attributes
    ----------
    first, second : indices of the better and of the worse item
    difference : posterior mean of their reward difference, given all comparisons
    effects : array [m], change of it when one comparison alone is dropped (one Newton step)
    dropped : rows of the comparisons that reverse the order when dropped together, by decreasing influence; empty
        where no set within the limit does
    predicted, refitted : the difference without them, by the sum of their effects and by a new fit
    """

    first: int
    second: int
    difference: float
    effects: Float[np.ndarray, " m"]
    dropped: Int[np.ndarray, " k"]
    predicted: float
    refitted: float

    @property
    def turns(self) -> bool:
        """Whether a new fit without the dropped comparisons reverses the order."""
        return len(self.dropped) > 0 and self.refitted <= 0.0


def order_influence(
    posterior: Posterior, items: Items, pair: ArrayLike | None = None, at_most: float = 0.2
) -> OrderInfluence:
    """Find the fewest comparisons whose removal would rank the second item before the first.

    Dropping comparison m changes a difference c . theta by -w_m s_m (c' A x_m) / (1 - w_m v_m x_m' A x_m), to one
    Newton step: s_m its score, v_m its curvature, x_m its row, A = H^-1. Effects are summed from the largest until the
    sign changes; a new fit without this set (same prior scale) then confirms it, or the set is enlarged.

    Parameters
    ----------
    posterior : Laplace posterior of a comparison model with a link (the exact route), with its data
    items : the items of the fit
    pair : indices of the better and of the worse item; by default the best item by posterior mean, and among the next
        ten the one whose rank below it depends on the fewest comparisons
    at_most : largest share of the comparisons that may be dropped

    Returns
    -------
    OrderInfluence

    Raises
    ------
    ValueError
        Another kind of posterior, or one that was loaded without its data.

    References
    ----------
    Broderick, Giordano, Meager (2020), An automatic finite-sample robustness metric, arXiv 2011.14999; Pregibon
    (1981), Annals of Statistics 9 (the one-step deletion).

    Examples
    --------
    >>> from tercet.datasets import american_league_1987
    >>> from tercet.inference import laplace, order_influence
    >>> from tercet.models import AbilityHead, BradleyTerry
    >>> teams, games = american_league_1987()
    >>> influence = order_influence(laplace(BradleyTerry(AbilityHead()), teams, games), teams)
    >>> teams.names[influence.first], influence.turns
    ('Milwaukee', True)
    """
    view = on(posterior, items)
    model, answers, known = view.model, view.answers, view.items
    if not isinstance(posterior, GaussianPosterior) or not model.has_linear_form or model.link is None:
        raise ValueError(
            "influence needs the Laplace posterior of Bradley-Terry or Thurstone on a linear or ability head; got "
            f"a {posterior.kind} posterior of {type(model).__name__}({type(model.head).__name__})."
        )
    if answers is None:
        raise ValueError("this posterior was loaded without its data; load(path, items, comparisons).")
    if not 0 < at_most < 1:
        raise ValueError(f"at_most must be a share between 0 and 1, got {at_most}.")
    mean = view.gaussian.mean
    if pair is None:
        order = np.argsort(-mean, kind="stable")[: RIVALS + 1]
        pairs = np.column_stack([np.full(len(order) - 1, order[0]), order[1:]])
    else:
        pairs = as_pairs(np.atleast_2d(np.asarray(pair)), len(known))
        if mean[pairs[0, 0]] < mean[pairs[0, 1]]:
            pairs = pairs[:, ::-1]
    each = _effects(view, answers, pairs)
    counts = [_fewest(mean[i] - mean[j], effects) for (i, j), effects in zip(pairs, each, strict=True)]
    chosen = int(np.argmin(counts))
    i, j = (int(index) for index in pairs[chosen])
    untested = OrderInfluence(i, j, float(mean[i] - mean[j]), each[chosen], np.empty(0, np.int64), math.nan, math.nan)
    return _confirmed(untested, view, answers, counts[chosen], int(at_most * len(answers)))


def _effects(view: RewardView, answers: Comparisons, pairs: Int[np.ndarray, "k 2"]) -> Float[np.ndarray, "k m"]:
    """Change [pairs, m] of each difference when one comparison is dropped, by one Newton step."""
    model, rewards = view.model, view.gaussian
    link, design = model.link, rewards.rows(answers.pairs, model.covariates(len(answers)))
    rows, eta, weight = design.matmat(rewards.root), rewards.moments(design).mean, answers.weights
    assert link is not None
    leverage = weight * link.curvature(eta, answers.outcome) * np.einsum("ij,ij->i", rows, rows)
    step = -weight * link.score(eta, answers.outcome) / np.maximum(1.0 - leverage, 1e-6)
    return np.asarray(rewards.rows(pairs).matmat(rewards.head_root) @ rows.T * step)


def _fewest(difference: float, effects: np.ndarray) -> int:
    """Least number of comparisons whose effects change the sign of this difference; len(effects) + 1 where none do."""
    changes = np.cumsum(np.sort(effects)[: np.count_nonzero(effects < 0)])
    index = int(np.searchsorted(-changes, difference))
    return index + 1 if index < len(changes) else len(effects) + 1


def _confirmed(
    influence: OrderInfluence,
    view: RewardView,
    answers: Comparisons,
    size: int,
    limit: int,
) -> OrderInfluence:
    """The influence with the set of `size` comparisons or more, up to `limit`, without which a new fit was made."""
    i, j, order = influence.first, influence.second, np.argsort(influence.effects, kind="stable")
    tested = influence
    for _ in range(REFITS):
        if size > limit:
            return influence
        dropped = order[:size]
        kept = np.setdiff1d(np.arange(len(answers)), dropped)
        refit = comparison_laplace(view.model, view.items, answers.take(kept), key=0, options=LaplaceOptions())
        rewards = on(refit, view.items).gaussian.mean
        predicted = float(influence.difference + influence.effects[dropped].sum())
        tested = replace(influence, dropped=dropped, predicted=predicted, refitted=float(rewards[i] - rewards[j]))
        if tested.refitted <= 0.0:
            break
        size = math.ceil(GROWTH * size)
    return tested
