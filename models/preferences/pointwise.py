"""The order-consistent point-wise head: winners and losers as two classes, the class logit as the reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import scale

from tercet.models._inputs import as_jax
from tercet.models._operators import Dense
from tercet.models.items.items import Items, check_in_memory
from tercet.models.preferences.answers import LinkAnswers
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.distributions import SoftBernoulli
from tercet.models.preferences.heads import Head, LinearHead, LinearInParameters, is_flat
from tercet.models.preferences.linear_form import LinearForm
from tercet.models.preferences.links import Logistic

INTERCEPT_SD = 5.0
"""Prior sd of the intercept, in logits."""


@dataclass(frozen=True)
class PointwiseClassifier(ComparisonModel):
    """P(item i of a comparison is its winner) = sigma(r_i + b): classification instead of Bradley-Terry.

    Every comparison gives two examples, its winner of class 1 and its loser of class 0 (y and 1 - y of one where the
    outcome is soft), as if they were independent. Rewards in the order of these logits are consistent for ranking
    where both items of a pair are drawn alike; sum over pairs of [r_winner < r_loser] is at most the sum over examples
    of the classifier's errors. Intervals of rewards count each comparison twice and are too narrow.

    The logit is *not* that of winning against a given item: `win_probability` refuses, `calibrate_rewards` answers.

    Sites: those of the head, `intercept` b ~ Normal(0, 25), `label` (observed, plate `example`, winners first).

    Parameters
    ----------
    head : a reward head on features, with a prior scale that is learned or finite
    order_effect, annotators : False; a classifier sees single items

    References
    ----------
    Sun, Shen, Ton (2025), Rethinking Bradley-Terry models in preference-based reward modeling, section 4.

    Examples
    --------
    >>> from tercet.datasets import simulated_preferences
    >>> from tercet.inference import laplace, reward, spearman
    >>> from tercet.models import PointwiseClassifier
    >>> truth = simulated_preferences(n_comparisons=5000)
    >>> fit = laplace(PointwiseClassifier(), truth.items, truth.comparisons)
    >>> spearman(reward(fit, truth.items).mean, truth.rewards) > 0.98
    True
    """

    head: Head = field(default_factory=LinearHead)

    def __post_init__(self) -> None:
        if self.head.per_item:
            raise ValueError("one ability an item leaves nothing to classify by; use BradleyTerry(AbilityHead()).")
        if self.order_effect or self.annotators:
            raise ValueError("a point-wise classifier sees single items: it has no order effect and no annotators.")
        if is_flat(self.prior_sd):
            raise ValueError("a point-wise classifier needs a prior scale: prior_sd=None (learned) or a finite number.")

    def __call__(self, items: Any, comparisons: Any) -> None:
        self.check(items, comparisons)
        check_in_memory(items)
        items, comparisons = as_jax((items, comparisons))
        shown = jnp.concatenate([comparisons.first, comparisons.second])
        label = jnp.concatenate([comparisons.outcome, 1.0 - comparisons.outcome])
        weight = 1.0 if comparisons.weight is None else jnp.concatenate([comparisons.weight] * 2)
        logit = self.head(items)[shown] + numpyro.sample("intercept", dist.Normal(0.0, INTERCEPT_SD))
        with numpyro.plate("example", len(shown)), scale(scale=weight):
            numpyro.sample("label", SoftBernoulli(logit, Logistic()), obs=label)

    def prepared(self, items: Any, comparisons: Any) -> tuple[ComparisonModel, tuple[Any, ...], dict[str, Any]]:
        self.check(items, comparisons)
        check_in_memory(items)
        return self, (items.nameless(), comparisons.nameless()), {}

    def observed(self, items: Any, comparisons: Any) -> dict[str, np.ndarray]:
        return {"label": np.concatenate([comparisons.outcome, 1.0 - comparisons.outcome])}

    def pointwise(
        self, draws: Mapping[str, np.ndarray], rng: np.random.Generator, items: Any, comparisons: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        self.check(items, comparisons)
        shown = np.concatenate([comparisons.first, comparisons.second])
        logits = np.asarray(self.head.rewards(draws, items))[:, shown] + np.asarray(draws["intercept"])[:, None]
        label, weight = self.observed(items, comparisons)["label"], np.tile(comparisons.weights, 2)
        chosen = (rng.random(logits.shape) < Logistic().probability(logits)).astype(np.float64)
        return {"label": weight * Logistic().log_likelihood(logits, label)}, {"label": chosen}

    @property
    def has_linear_form(self) -> bool:
        """Whether the exact Newton route is open: for heads linear in their parameters."""
        return isinstance(self.head, LinearInParameters)

    def linear_form(self, items: Any, comparisons: Any) -> LinearForm:
        """Logistic regression of the share of comparisons won, one row an item."""
        self.check(items, comparisons)
        if not isinstance(self.head, LinearInParameters) or self.prior_sd is None:
            raise ValueError("a linear form needs a head linear in its parameters and a prior scale that is not None.")
        seen, won, lost = wins_and_losses(items, comparisons)
        precision = np.full(self.head.size(items) + 1, (self.prior_sd * self.head.unit(items)) ** -2.0)
        precision[-1] = INTERCEPT_SD**-2
        return LinearForm(
            rows=Dense(np.column_stack([self.head.features(items)[seen].astype(np.float64), np.ones(len(seen))])),
            answers=LinkAnswers(Logistic()),
            outcome=won / (won + lost),
            weight=won + lost,
            prior_precision=precision,
            gauge=0,
            layout=((self.head.site, self.head.size(items)), ("intercept", 0)),
        )

    def answer(self, logit: Any) -> NoReturn:
        self._refuse()

    def expected_outcome(self, logit: Any, sites: Mapping[str, Any]) -> NoReturn:
        self._refuse()

    def information(self, logit: Any, sites: Mapping[str, Any]) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(
            "the logit of a point-wise classifier is no probability of winning against a given item: calibrate it with "
            "calibrate_rewards(...), or fit BradleyTerry, whose logits are."
        )


def wins_and_losses(items: Items, comparisons: Comparisons) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items that were compared, and how often (weights and soft outcomes counted) each won and lost."""
    up, down = comparisons.weights * comparisons.outcome, comparisons.weights * (1.0 - comparisons.outcome)
    n, first, second = len(items), comparisons.first, comparisons.second
    won = np.bincount(first, up, n) + np.bincount(second, down, n)
    lost = np.bincount(first, down, n) + np.bincount(second, up, n)
    seen = np.flatnonzero(won + lost)
    return seen, won[seen], lost[seen]
