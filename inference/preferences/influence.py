"""Which few comparisons, dropped, would change the order of two items? By the Hessian, and checked by fitting again."""

from __future__ import annotations

import math
from dataclasses import dataclass

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

RIVALS = 10  # items after the best whose claim to its place is examined
REFITS = 8  # sizes of the set that are tried


@dataclass(frozen=True, eq=False)
class OrderInfluence:
    """How many comparisons an order rests on.

    Attributes
    ----------
    first, second : positions of the better and of the worse item
    difference : posterior mean of their reward difference, all comparisons counted
    effects : array [m], change of it when each comparison alone is dropped (one Newton step)
    dropped : rows of the comparisons that turn the order when dropped together, the strongest first; empty where no
        set small enough was found
    predicted, refitted : the difference without them, by the sum of effects and by a new fit
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
        """Whether a set was found, and a new fit without it does turn the order."""
        return len(self.dropped) > 0 and self.refitted <= 0.0


def order_influence(
    posterior: Posterior, items: Items, pair: ArrayLike | None = None, at_most: float = 0.2
) -> OrderInfluence:
    """Find the fewest comparisons whose removal would put the second item before the first.

    Dropping comparison m moves a difference c . theta by -w_m s_m (c' A x_m) / (1 - w_m v_m x_m' A x_m), to one Newton
    step: s_m its score, v_m its curvature, x_m its row, A = H^-1. Effects are added up from the strongest until the
    sign turns; the set is then confirmed by a new fit (same prior scale) and grown where that does not yet turn.

    Parameters
    ----------
    posterior : Laplace posterior of a comparison model with a link (the exact route), with its data
    items : the items of the fit
    pair : positions of the better and of the worse item; by default the best item by posterior mean, and of its ten
        next rivals the one that the fewest comparisons keep behind
    at_most : share of the comparisons beyond which the order counts as safe

    Returns
    -------
    OrderInfluence

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
    >>> found = order_influence(laplace(BradleyTerry(AbilityHead()), teams, games), teams)
    >>> teams.names[found.first], found.turns
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
    return _confirmed(view, answers, pairs[chosen], each[chosen], counts[chosen], at_most)


def _effects(view: RewardView, answers: Comparisons, pairs: np.ndarray) -> np.ndarray:
    """Change [pairs, m] of each difference when a comparison is dropped."""
    model, rewards = view.model, view.gaussian
    link, design = model.link, rewards.rows(answers.pairs, model.covariates(len(answers)))
    rows, eta, weight = design.matmat(rewards.root), rewards.moments(design).mean, answers.weights
    assert link is not None
    leverage = weight * link.curvature(eta, answers.outcome) * np.einsum("ij,ij->i", rows, rows)
    push = -weight * link.score(eta, answers.outcome) / np.maximum(1.0 - leverage, 1e-6)
    return rewards.rows(pairs).matmat(rewards.head_root) @ rows.T * push


def _fewest(difference: float, effects: np.ndarray) -> int:
    """Number of comparisons whose effects turn this difference (one more than there are: none do)."""
    falling = np.cumsum(np.sort(effects)[: np.count_nonzero(effects < 0)])
    place = int(np.searchsorted(-falling, difference))
    return place + 1 if place < len(falling) else len(effects) + 1


def _confirmed(
    view: RewardView,
    answers: Comparisons,
    pair: np.ndarray,
    effects: np.ndarray,
    count: int,
    at_most: float,
) -> OrderInfluence:
    order = np.argsort(effects, kind="stable")
    i, j = int(pair[0]), int(pair[1])
    mean = view.gaussian.mean
    limit, size = int(at_most * len(answers)), count
    refitted = math.nan
    for _ in range(REFITS):
        if size > limit:
            return OrderInfluence(i, j, mean[i] - mean[j], effects, order[:0], math.nan, math.nan)
        dropped = order[: int(size)]
        kept = np.setdiff1d(np.arange(len(answers)), dropped)
        again = on(
            comparison_laplace(view.model, (view.items, answers.take(kept)), {}, 0, LaplaceOptions()), view.items
        )
        refitted = float(again.gaussian.mean[i] - again.gaussian.mean[j])
        if refitted <= 0.0:
            break
        size = math.ceil(1.15 * size)
    predicted = float(mean[i] - mean[j] + effects[dropped].sum())
    return OrderInfluence(i, j, float(mean[i] - mean[j]), effects, dropped, predicted, refitted)
