"""Models of comparisons: Bradley-Terry, Thurstone and Davidson (ties), on any reward head.

Each is a frozen object that *is* a NumPyro model, `model(items, comparisons)`, with sites

- those of its head (`weights` or `ability`, and `prior_sd` where that is learned),
- `order_effect` (optional): added to the logit of whichever item comes first,
- `precision` (optional, plate `annotator`) and `precision_spread`: how consistently each annotator answers, in units
  of the average of all,
- `tie_strength` (Davidson),
- `outcome` (observed, plate `comparison`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro.handlers import scale, substitute

from tercet.models._inputs import as_jax, is_concrete
from tercet.models._partition import ModelPytree
from tercet.models._storable import Storable
from tercet.models.items.items import Items, check_in_memory
from tercet.models.preferences.answers import Answers, DavidsonAnswers, LinkAnswers
from tercet.models.preferences.answers_at_draws import at_draws
from tercet.models.preferences.comparisons import Comparisons, check_compared
from tercet.models.preferences.differences import Differences, order_covariate
from tercet.models.preferences.distributions import SoftBernoulli
from tercet.models.preferences.heads import Head, LinearHead, LinearInParameters, ScaledHead
from tercet.models.preferences.linear_form import LinearForm, merge_repeats
from tercet.models.preferences.links import Link, Logistic, Probit
from tercet.models.preferences.whitened import WhitenedModel, whitened_data

ORDER_SD = 1.0
"""Prior sd of the order effect, in logits."""

AnyModel = TypeVar("AnyModel", bound="ComparisonModel")  # not typing.Self: beartype reads methods one by one


@dataclass(frozen=True)
class ComparisonModel(ModelPytree, Storable):
    """Outcome of a comparison given the reward difference r = r(first) - r(second).

    A model of your own is a frozen dataclass with a `link` (a class attribute), or with its own `answer`, the
    distribution of K answers, and `encode`, the outcome as this distribution takes it: whatever else is asked of a
    model follows from either. What follows can be overridden by closed forms.

    Parameters
    ----------
    head : Head
        `LinearHead()` (default), `AbilityHead()`, `MLPHead()`, or a head of your own.
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
        """The prior scale of the head; None: learned, NaN: the head has no such scale."""
        return self.head.prior_sd if isinstance(self.head, ScaledHead) else math.nan

    def with_prior_sd(self: AnyModel, prior_sd: float | None) -> AnyModel:
        """The same model with another prior scale."""
        if not isinstance(self.head, ScaledHead):
            raise ValueError(
                f"{type(self.head).__name__} has no prior scale: heads that have one derive from ScaledHead."
            )
        return replace(self, head=self.head.with_prior_sd(prior_sd))

    @property
    def effects(self) -> tuple[str, ...]:
        """Sites, one number each, that the covariates of a comparison are multiplied by."""
        return ("order_effect",) if self.order_effect else ()

    def covariates(self, size: int) -> Float[np.ndarray, "m c"] | None:
        """Covariates of `size` comparisons, a column for each of `effects`; None without any."""
        return order_covariate(size) if self.order_effect else None

    def shift(self, size: int, sites: Mapping[str, Any]) -> np.ndarray:
        """What covariates add to the logits of `size` comparisons [size or 1, ...] under draws [...] of `effects`."""
        covariates = self.covariates(size)
        if covariates is None:
            return np.zeros(1)
        rows = covariates[:1] if covariates.strides[0] == 0 else covariates  # one row where all are alike
        return np.asarray(rows @ np.stack([sites[name] for name in self.effects]))

    def design(self, items: Items, comparisons: Comparisons) -> Differences:
        """D [m, p + c], of which the logits are D theta: the head's features differenced, then covariates."""
        covariates = self.covariates(len(comparisons))
        return Differences(self._linear_head().features(items), comparisons.first, comparisons.second, covariates)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        missing = [name for name in ("prepared", "observed", "pointwise") if name not in vars(cls)]
        if "__call__" in vars(cls) and missing:
            raise TypeError(
                f"{cls.__name__} has a NumPyro model of its own, to which {', '.join(missing)} of ComparisonModel need "
                "not apply: define them as well, or keep __call__ and define answer and encode."
            )

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
        self.head.check(items)
        if self.annotators and comparisons.annotator is None:
            raise ValueError("annotators=True needs Comparisons(..., annotator=...), one entry a comparison.")

    def answer(self, logit: Any) -> Any:
        """The distribution of the outcome given the logit (may sample sites of its own)."""
        if self.link is None:
            raise NotImplementedError(f"{type(self).__name__} needs a link, or an answer(logit) of its own.")
        return SoftBernoulli(logit, self.link)

    def probabilities(self, logit: Any, sites: Mapping[str, Any]) -> np.ndarray:
        """Probability [..., K] of each answer given the logit [...], the worst for the first item before the best.

        With a link K = 2: P(second preferred), P(first preferred); otherwise those of the distribution of `answer`.
        """
        if self.link is None:
            return _of_answers(self, logit, sites)[0]
        logit = np.asarray(logit)
        return np.stack([self.link.probability(-logit), self.link.probability(logit)], axis=-1)

    def expected_outcome(self, logit: Any, sites: Mapping[str, Any]) -> Any:
        """E[outcome | logit]: the probability that the first is preferred, ties counted as half."""
        if self.link is not None:
            return self.link.probability(logit)
        p = self.probabilities(logit, sites)
        return p @ np.linspace(0.0, 1.0, p.shape[-1])

    def information(self, logit: Any, sites: Mapping[str, Any]) -> Any:
        """Fisher information of one answer about its logit: sum_k (dp_k / dr)^2 / p_k."""
        if self.link is not None:
            return self.link.information(logit)
        return _of_answers(self, logit, sites)[1]

    def encode(self, outcome: Any) -> Any:
        """The outcome as the distribution of `answer` takes it."""
        return outcome

    @property
    def answers(self) -> Answers | None:
        """Log probabilities of the answers in closed form, for the exact Newton route; None where there is none."""
        return None if self.link is None else LinkAnswers(self.link)

    def derived(self, sites: Mapping[str, Any]) -> dict[str, Any]:
        """Deterministic sites that are linear in the auxiliary ones, from draws [..., shape] of these."""
        return {}

    @property
    def has_linear_form(self) -> bool:
        """Whether logits are linear in the parameters and answers have a closed form (the exact Newton route)."""
        return self.answers is not None and not self.annotators and isinstance(self.head, LinearInParameters)

    def linear_form(self, items: Any, comparisons: Any) -> LinearForm:
        """The design matrix, the answers and the Gaussian prior, for the exact Newton route."""
        answers = self.answers
        if answers is None or not self.has_linear_form or self.prior_sd is None:
            raise ValueError(
                "a linear form needs a head linear in its parameters, a link or another closed form of the answers, no "
                "annotators, and a prior scale that is not None."
            )
        self.check(items, comparisons)
        head = self._linear_head()
        sd, size = self.prior_sd * head.unit(items), head.size(items)
        of_head = np.full(size, 0.0 if math.isinf(sd) else sd**-2)
        first, second, outcome, weight = merge_repeats(
            comparisons.first,
            comparisons.second,
            outcome=comparisons.outcome,
            weight=comparisons.weights,
            n_items=len(items),
            ordered=self.order_effect,
            levels=answers.levels,
        )
        auxiliary = np.ones(sum(site.size for site in answers.auxiliaries))  # log-normal: Normal(0, 1) in theta
        of_others = np.append(np.full(len(self.effects), ORDER_SD**-2), auxiliary)
        return LinearForm(
            rows=Differences(head.features(items), first, second, self.covariates(len(first))).compact(),
            answers=answers,
            outcome=outcome,
            weight=weight,
            prior_precision=np.append(of_head, of_others),
            gauge=size if head.per_item and math.isinf(sd) else 0,
            layout=((head.site, size), *((name, 0) for name in self.effects), *answers.auxiliaries),
        )

    def log_densities(self, z: np.ndarray, items: Any, comparisons: Any) -> np.ndarray:
        """Log joint density [n] of model and data at vectors z [n, p] of the linear form, whose sites they are."""
        return self.linear_form(items, comparisons).log_densities(z)

    def prepared(self, items: Any, comparisons: Any) -> tuple[ComparisonModel, tuple[Any, ...], dict[str, Any]]:
        """The model, and its data as compiled programs take them: checked, without names, filled up to a size class."""
        self.check(items, comparisons)
        check_in_memory(items)
        return self, (items.nameless(), comparisons.nameless().filled_up()), {}

    def observed(self, items: Any, comparisons: Any) -> dict[str, np.ndarray]:
        """The observed site: answers, as the distribution of `answer` takes them."""
        return {"outcome": np.asarray(self.encode(comparisons.outcome))}

    def pointwise(
        self, draws: Mapping[str, np.ndarray], rng: np.random.Generator, items: Any, comparisons: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Log likelihood [n, m] of every comparison, times its weight, and simulated answers [n, m], for n draws."""
        self.check(items, comparisons)
        logits = self.logits(draws, items, comparisons)
        found = at_draws(self, logits, draws, comparisons.outcome, comparisons.weights, rng)
        return {"outcome": found[0]}, {"outcome": found[1]}

    def logits(self, draws: Mapping[str, np.ndarray], items: Any, comparisons: Any) -> np.ndarray:
        """Logits [n, m] of the comparisons under n draws of the sites."""
        rewards = np.asarray(self.head.rewards(draws, items))
        logits = rewards[:, comparisons.first] - rewards[:, comparisons.second]
        logits += self.shift(len(comparisons), draws).T if self.effects else 0.0
        return np.asarray(logits * draws["precision"][:, comparisons.annotator] if self.annotators else logits)

    def _linear_head(self) -> LinearInParameters:
        if not isinstance(self.head, LinearInParameters):
            raise ValueError(f"{type(self.head).__name__} is not linear in its parameters.")
        return self.head

    def whitened(
        self, center: np.ndarray, root: np.ndarray, items: Any, comparisons: Any
    ) -> tuple[Callable[..., None], dict[str, Any]]:
        """The same posterior as a NumPyro model of u, theta = center + root u, and the data of that model."""
        check_in_memory(items)
        form = self.linear_form(items, comparisons)
        # The prior is part of the data: without it equal programs serve any scale.
        target = WhitenedModel(self.with_prior_sd(1.0).answer, form.answers.auxiliaries, len(center), form.gauge)
        return target, whitened_data(self.encode, form, center, root)

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

    Parameters
    ----------
    head, order_effect, annotators : see `ComparisonModel`

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


@dataclass(frozen=True)
class Thurstone(ComparisonModel):
    """P(first preferred) = Phi(r): case V, the unit being the sd of the noise of a difference.

    Parameters
    ----------
    head, order_effect, annotators : see `ComparisonModel`

    References
    ----------
    Thurstone (1927), Psychological Review 34.
    """

    link = Probit()


@dataclass(frozen=True)
class Davidson(ComparisonModel):
    """Ties as a third answer: P(first) : P(tie) : P(second) = exp(r / 2) : nu : exp(-r / 2).

    Outcomes must be 0, 0.5 or 1. nu is the site `tie_strength`, LogNormal(0, 1): two equal items tie with probability
    nu / (2 + nu). The Fisher information of r is ((1 - p_tie) - (p_first - p_second)^2) / 4.

    Parameters
    ----------
    head, order_effect, annotators : see `ComparisonModel`

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

    @property
    def answers(self) -> DavidsonAnswers:
        return DavidsonAnswers()

    def answer(self, logit: Any) -> Any:
        tie = numpyro.sample("tie_strength", dist.LogNormal(0.0, 1.0))
        return dist.CategoricalLogits(_davidson_logits(logit, tie, jnp))

    def encode(self, outcome: Any) -> Any:
        return (2 * outcome + 0.5).astype(int)

    def information(self, logit: Any, sites: Mapping[str, Any]) -> Any:
        second, tie, first = np.moveaxis(self.probabilities(logit, sites), -1, 0)
        return 0.25 * ((1.0 - tie) - np.square(first - second))

    def probabilities(self, logit: Any, sites: Mapping[str, Any]) -> np.ndarray:
        """P(second), P(tie), P(first) [..., 3]."""
        logits = _davidson_logits(np.asarray(logit), np.asarray(sites["tie_strength"]), np)
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def _of_answers(model: ComparisonModel, logit: Any, sites: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [..., K] of the answers and Fisher information [...] about the logit, from `model.answer` alone."""
    with jax.enable_x64(True):
        known = {name: np.asarray(value, np.float64) for name, value in sites.items()}
        p, information = _differentiated(model, *as_jax((np.asarray(logit, np.float64), known)))
        return np.asarray(p), np.asarray(information)


@partial(jax.jit, static_argnums=0)
def _differentiated(model: ComparisonModel, logit: Any, sites: dict[str, Any]) -> tuple[Any, Any]:
    def probabilities(logit: Any) -> Any:
        answer = substitute(model.answer, data=sites)(logit)
        return jnp.moveaxis(jnp.exp(answer.log_prob(answer.enumerate_support(expand=False))), 0, -1)

    p, slope = jax.jvp(probabilities, (logit,), (jnp.ones_like(logit),))
    return p, jnp.sum(jnp.square(slope) / jnp.maximum(p, 1e-300), axis=-1)


def _davidson_logits(logit: Any, tie: Any, library: Any) -> Any:
    return library.stack(library.broadcast_arrays(-0.5 * logit, library.log(tie), 0.5 * logit), axis=-1)
