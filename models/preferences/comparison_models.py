"""Models of comparisons: Bradley-Terry, Thurstone and Davidson (ties), on any reward head.

Each is a frozen object that *is* a NumPyro model, `model(items, comparisons)`, with sites

- those of its head (`weights` or `ability`, and `prior_sd` where that is learned),
- `order_effect` (optional): added to the logit of whichever item comes first,
- `precision` (optional, plate `annotator`) and `precision_spread`: how sharply each annotator tells items apart,
  beside the average of all,
- `tie_strength` (Davidson),
- `outcome` (observed, plate `comparison`).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import scale

from tercet.models._inputs import as_jax, is_concrete
from tercet.models._storable import Storable
from tercet.models.items.items import Items, check_in_memory
from tercet.models.preferences.comparisons import Comparisons, check_compared
from tercet.models.preferences.distributions import BernoulliProbit, SoftBernoulliLogits
from tercet.models.preferences.heads import AbilityHead, Head, LinearHead, LinearInParameters
from tercet.models.preferences.linear_form import LinearForm, design_rows, merge_repeats
from tercet.models.preferences.links import Link, Logistic, Probit
from tercet.models.preferences.whitened import whitened_model

ORDER_SD = 1.0
"""Prior sd of the order effect, in logits."""

AnyModel = TypeVar("AnyModel", bound="ComparisonModel")  # not typing.Self: beartype reads methods one by one


@dataclass(frozen=True)
class ComparisonModel(Storable, abc.ABC):
    """Outcome of a comparison given the reward difference r = r(first) - r(second).

    Parameters
    ----------
    head : Head
        `LinearHead()` (default), `AbilityHead()` or `MLPHead()`.
    order_effect : bool
        Add an effect of being shown first, Normal(0, 1), to the logit.
    annotators : bool
        Multiply the logit by the annotator's precision, exp(s z_a) / mean_b exp(s z_b) with z_a ~ Normal(0, 1) and s
        half-Normal(1): the average is 1, so that the scale of rewards is the head's alone; a precision near zero is
        an annotator who answers at random.
    """

    head: Head = field(default_factory=LinearHead)
    order_effect: bool = False
    annotators: bool = False

    link: ClassVar[Link | None] = None

    @property
    def prior_sd(self) -> float | None:
        """The prior scale of the head (None: learned)."""
        return self.head.prior_sd

    def with_prior_sd(self: AnyModel, prior_sd: float | None) -> AnyModel:
        """The same model with another prior scale."""
        return replace(self, head=self.head.with_prior_sd(prior_sd))

    def __call__(self, items: Any, comparisons: Any) -> None:
        """The NumPyro model."""
        self.check(items, comparisons)
        check_in_memory(items)
        items, comparisons = as_jax((items, comparisons))
        rewards = self.head(items)
        logit = rewards[comparisons.first] - rewards[comparisons.second]
        if self.order_effect:
            logit = logit + numpyro.sample("order_effect", dist.Normal(0.0, ORDER_SD))
        if self.annotators:
            logit = logit * self._precision(comparisons)[comparisons.annotator]
        weight = 1.0 if comparisons.weight is None else comparisons.weight
        answer = self.answer(logit)
        with numpyro.plate("comparison", len(comparisons)), scale(scale=weight):
            numpyro.sample("outcome", answer, obs=self.encode(comparisons.outcome))

    def check(self, items: Any, comparisons: Any) -> None:
        """Raise where the data cannot be data of this model."""
        if not isinstance(items, Items) or not isinstance(comparisons, Comparisons):
            raise ValueError(
                f"the data of {type(self).__name__} are Items and Comparisons, got {type(items).__name__} and "
                f"{type(comparisons).__name__}; wrap them: Items(features), Comparisons(first, second, outcome)."
            )
        check_compared(items, comparisons)
        if self.annotators and comparisons.annotator is None:
            raise ValueError("annotators=True needs Comparisons(..., annotator=...), one entry a comparison.")

    @abc.abstractmethod
    def answer(self, logit: Any) -> Any:
        """The distribution of the outcome given the logit (may sample sites of its own)."""

    @abc.abstractmethod
    def expected_outcome(self, logit: Any, sites: dict[str, Any]) -> Any:
        """E[outcome | logit]: the probability that the first is preferred, ties counted as half."""

    @abc.abstractmethod
    def information(self, logit: Any, sites: dict[str, Any]) -> Any:
        """Fisher information of one answer about its logit."""

    def probabilities(self, logit: Any, sites: dict[str, Any]) -> np.ndarray:
        """Probability [..., K] of each answer given the logit [...], the worst for the first item before the best.

        Here K = 2: P(second preferred), P(first preferred).
        """
        if self.link is None:
            raise NotImplementedError(f"{type(self).__name__} has no link and says nothing of its answers.")
        return np.stack([self.link.probability(-np.asarray(logit)), self.link.probability(np.asarray(logit))], axis=-1)

    def encode(self, outcome: Any) -> Any:
        """The outcome as the likelihood wants it."""
        return outcome

    @property
    def has_linear_form(self) -> bool:
        """Whether the logit is linear in the parameters and the likelihood log-concave (the exact Newton route)."""
        return self.link is not None and not self.annotators and isinstance(self.head, LinearInParameters)

    def linear_form(self, items: Any, comparisons: Any) -> LinearForm:
        """The design operator, the link and the Gaussian prior, for the exact Newton route."""
        if not self.has_linear_form or self.prior_sd is None:
            raise ValueError(
                "a linear form needs a head linear in its parameters, a link, no annotators, and a prior scale that is "
                "not None."
            )
        self.check(items, comparisons)
        assert self.link is not None
        assert isinstance(self.head, LinearInParameters)
        sd = self.prior_sd * self.head.unit(items)
        precision = np.full(self.head.size(items), 0.0 if math.isinf(sd) else sd**-2)
        if self.order_effect:
            precision = np.append(precision, ORDER_SD**-2)
        features = None if isinstance(self.head, AbilityHead) else items.features
        first, second, outcome, weight = merge_repeats(
            comparisons.first,
            comparisons.second,
            comparisons.outcome,
            comparisons.weights,
            len(items),
            self.order_effect,
        )
        return LinearForm(
            rows=design_rows(features, len(items), first, second, self.order_effect),
            link=self.link,
            outcome=outcome,
            weight=weight,
            prior_precision=precision,
            gauge=len(items) if features is None and math.isinf(sd) else 0,
            layout=((self.head.site, self.head.size(items)),) + ((("order_effect", 0),) * self.order_effect),
        )

    def whitened(
        self, center: np.ndarray, root: np.ndarray, items: Any, comparisons: Any
    ) -> tuple[Callable[..., None], dict[str, Any]]:
        """The same posterior as a NumPyro model of u, theta = center + root u, and the data of that model."""
        check_in_memory(items)
        return whitened_model(self, self.linear_form(items, comparisons), center, root)

    def _precision(self, comparisons: Comparisons) -> Any:
        assert comparisons.annotator_ids is not None
        spread = numpyro.sample("precision_spread", dist.HalfNormal(1.0))
        with numpyro.plate("annotator", len(comparisons.annotator_ids)):
            base = numpyro.sample("precision_base", dist.Normal(0.0, 1.0))
            # Not LogNormal: rewards could shrink while every precision grows, and the joint mode has them do so.
            relative = jax.nn.softmax(spread * base) * base.shape[0]
            return numpyro.deterministic("precision", relative)


@dataclass(frozen=True)
class BradleyTerry(ComparisonModel):
    """P(first preferred) = 1 / (1 + exp(-r)); soft outcomes and ties (0.5) enter as fractions of an answer.

    References
    ----------
    Bradley and Terry (1952), Biometrika 39.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.models import AbilityHead, BradleyTerry, Comparisons, Items
    >>> from tercet.inference import laplace
    >>> items = Items.named(["tea", "coffee"])
    >>> games = Comparisons([0, 0, 0, 1], [1, 1, 1, 0], [1, 1, 0, 0])
    >>> laplace(BradleyTerry(AbilityHead(prior_sd=1.0)), items, games).mean()["ability"].round(3).tolist()
    [0.253, -0.253]
    """

    link = Logistic()

    def answer(self, logit: Any) -> Any:
        return SoftBernoulliLogits(logit)

    def expected_outcome(self, logit: Any, sites: dict[str, Any]) -> Any:
        return Logistic().probability(logit)

    def information(self, logit: Any, sites: dict[str, Any]) -> Any:
        return Logistic().information(logit)


@dataclass(frozen=True)
class Thurstone(ComparisonModel):
    """P(first preferred) = Phi(r): case V, the unit being the sd of the noise of a difference.

    References
    ----------
    Thurstone (1927), Psychological Review 34.
    """

    link = Probit()

    def answer(self, logit: Any) -> Any:
        return BernoulliProbit(logit)

    def expected_outcome(self, logit: Any, sites: dict[str, Any]) -> Any:
        return Probit().probability(logit)

    def information(self, logit: Any, sites: dict[str, Any]) -> Any:
        return Probit().information(logit)


@dataclass(frozen=True)
class Davidson(ComparisonModel):
    """Ties as a third answer: P(first) : P(tie) : P(second) = exp(r / 2) : nu : exp(-r / 2).

    Outcomes must be 0, 0.5 or 1. nu is the site `tie_strength`, LogNormal(0, 1): two equal items tie with probability
    nu / (2 + nu). The Fisher information of r is ((1 - p_tie) - (p_first - p_second)^2) / 4.

    References
    ----------
    Davidson (1970), JASA 65, equation 2.2.
    """

    def check(self, items: Any, comparisons: Any) -> None:
        super().check(items, comparisons)
        outcome = comparisons.outcome
        if is_concrete(outcome) and not np.isin(outcome, (0.0, 0.5, 1.0)).all():
            raise ValueError(
                "Davidson's model needs outcomes 0 (second), 0.5 (tie) or 1 (first); got soft outcomes such as "
                f"{outcome[~np.isin(outcome, (0.0, 0.5, 1.0))][0]}. Use BradleyTerry or Thurstone for these."
            )

    def answer(self, logit: Any) -> Any:
        tie = numpyro.sample("tie_strength", dist.LogNormal(0.0, 1.0))
        return dist.CategoricalLogits(_davidson_logits(logit, tie, jnp))

    def encode(self, outcome: Any) -> Any:
        return (2 * outcome).astype(int)

    def expected_outcome(self, logit: Any, sites: dict[str, Any]) -> Any:
        _, tie, first = np.moveaxis(self.probabilities(logit, sites), -1, 0)
        return first + 0.5 * tie

    def information(self, logit: Any, sites: dict[str, Any]) -> Any:
        second, tie, first = np.moveaxis(self.probabilities(logit, sites), -1, 0)
        return 0.25 * ((1.0 - tie) - np.square(first - second))

    def probabilities(self, logit: Any, sites: dict[str, Any]) -> np.ndarray:
        """P(second), P(tie), P(first) [..., 3]."""
        logits = _davidson_logits(np.asarray(logit), np.asarray(sites["tie_strength"]), np)
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return odds / odds.sum(axis=-1, keepdims=True)


def _davidson_logits(logit: Any, tie: Any, library: Any) -> Any:
    return library.stack(library.broadcast_arrays(-0.5 * logit, library.log(tie), 0.5 * logit), axis=-1)
