"""Reward heads r(x): NumPyro functions from items to rewards, with the scale of their prior.

Scale of a prior: `prior_sd` is the prior standard deviation of the reward difference of two random items, in
logits (probits), whatever the number or the units of the features. `None` learns it, `math.inf` is a flat prior.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from tercet.models._partition import ModelPytree
from tercet.models._storable import Storable
from tercet.models.items.features import Features, Identity
from tercet.models.items.items import Items

HYPERPRIOR_SD = 2.0
"""Scale of the half-Normal prior of a learned `prior_sd`, in logits."""

AnyHead = TypeVar("AnyHead", bound="ScaledHead")  # not typing.Self: beartype reads methods one by one


def is_flat(prior_sd: Any) -> bool:
    """Whether this scale stands for no prior (a scale that JAX traces never does)."""
    return isinstance(prior_sd, (int, float)) and math.isinf(prior_sd)


class Head(ModelPytree, Storable, abc.ABC):
    """A reward r(x): a NumPyro model from items to rewards.

    A head of your own is a frozen dataclass with the two methods below. Derived from `ScaledHead` it has a prior scale,
    which can be learned; from `LinearInParameters`, the exact Newton route (both in `tercet.models.preferences`).

    Attributes
    ----------
    per_item : whether the parameters belong to the items of the fit themselves, so that rewards are those of all of
        them at once, and features play no part
    """

    per_item: ClassVar[bool] = False

    def check(self, items: Items) -> None:
        """Raise where the features of these items are not what this head expects (skipped while JAX traces)."""

    @abc.abstractmethod
    def __call__(self, items: Items) -> Float[Array, " n"]:
        """NumPyro model: sample the parameters, return the rewards of the items."""

    @abc.abstractmethod
    def rewards(self, sites: Mapping[str, Any], items: Items) -> Any:
        """Rewards [..., n] of items under these values [..., shape] of the head's sites."""


@dataclass(frozen=True)
class ScaledHead(Head):
    """A head whose last layer has a learned or a given prior scale.

    Parameters
    ----------
    prior_sd : float, optional
        Prior sd of the reward difference of two random items. None (default): learned, with a half-Normal(2)
        prior: by its Laplace evidence under `laplace`, as a site `prior_sd` under `nuts` and `svi`. `math.inf`: no
        prior at all.
    """

    prior_sd: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.prior_sd, (int, float)) and not self.prior_sd > 0:
            raise ValueError(f"prior_sd must be positive, None (learned) or math.inf, got {self.prior_sd}.")

    def with_prior_sd(self: AnyHead, prior_sd: float | None) -> AnyHead:
        """The same head with another prior scale."""
        return replace(self, prior_sd=prior_sd)


@dataclass(frozen=True)
class LinearInParameters(ScaledHead):
    """A reward linear in its parameters: r = X theta, theta ~ Normal(0, tau^2 I), tau = prior_sd * unit.

    A head of your own names its `site` and `plate`, and gives `features`.

    Parameters
    ----------
    prior_sd : prior sd of the reward difference of two random items; None: learned; `math.inf`: a flat prior

    Attributes
    ----------
    site, plate : names of the site theta and of its plate
    """

    site: ClassVar[str] = ""
    plate: ClassVar[str] = ""

    @abc.abstractmethod
    def features(self, items: Items) -> Features:
        """X [n, p], in NumPy, or in JAX inside a NumPyro model."""

    def size(self, items: Items) -> int:
        """Number of parameters for these items."""
        return int(self.features(items).shape[1])

    def unit(self, items: Items) -> Any:
        """Sd of one parameter for which the reward difference of two random items has sd 1: 1 / sqrt(2 tr Cov(x))."""
        spread = 2.0 * self.features(items).total_variance
        if isinstance(spread, jax.Array):  # inside the NumPyro model
            return 1.0 / jnp.sqrt(spread)
        if not spread > 0:
            raise ValueError("all items have the same features: a linear head cannot tell them apart.")
        return 1.0 / math.sqrt(spread)

    def __call__(self, items: Items) -> Float[Array, " n"]:
        parameters = scaled_normal(self.site, self.plate, self.size(items), self.unit(items), self.prior_sd)
        return jnp.asarray(self.rewards({self.site: parameters}, items))

    def rewards(self, sites: Mapping[str, Any], items: Items) -> Any:
        return sites[self.site] @ self.features(items)[:].T


def scaled_normal(site: str, plate: str, size: int, unit: Any, prior_sd: float | jax.Array | None) -> Any:
    """Sample theta [size] ~ Normal(0, (prior_sd unit)^2 I), `prior_sd` a site of its own where it is None.

    Parameters
    ----------
    site, plate : names of the site theta and of its plate
    size : number of parameters
    unit : sd of one parameter for which the reward difference of two random items has sd 1
    prior_sd : as of a `ScaledHead`
    """
    if prior_sd is None:
        # Not centred: the joint mode exists, and chains mix when the data say little about single weights.
        sd = numpyro.sample("prior_sd", dist.HalfNormal(HYPERPRIOR_SD))
        with numpyro.plate(plate, size):
            base = numpyro.sample(f"{site}_base", dist.Normal(0.0, 1.0))
            return numpyro.deterministic(site, sd * unit * base)
    with numpyro.plate(plate, size):
        if is_flat(prior_sd):
            return numpyro.sample(site, dist.ImproperUniform(dist.constraints.real, (), ()))
        return numpyro.sample(site, dist.Normal(0.0, prior_sd * unit))


@dataclass(frozen=True)
class LinearHead(LinearInParameters):
    """r(x) = x . w, with `weights` w ~ Normal(0, tau^2 I_d) in plate `feature`.

    tau = prior_sd / sqrt(2 tr Cov(x)), so that E Var(r_i - r_j) = prior_sd^2 over random items i, j.

    Parameters
    ----------
    prior_sd : prior sd of the reward difference of two random items; None: learned; `math.inf`: a flat prior

    Examples
    --------
    >>> from tercet.models import LinearHead
    >>> LinearHead(prior_sd=2.0).site
    'weights'
    """

    site: ClassVar[str] = "weights"
    plate: ClassVar[str] = "feature"

    def features(self, items: Items) -> Features:
        return items.operator


@dataclass(frozen=True)
class AbilityHead(LinearInParameters):
    """r(i) = ability_i, one for each item, Normal(0, prior_sd^2 / 2) in plate `item`: the classical model.

    A flat prior leaves the sum of abilities undetermined; it is then held at zero by a unit Normal on the mean,
    which changes no difference.

    Parameters
    ----------
    prior_sd : prior sd of the reward difference of two random items; None: learned; `math.inf`: a flat prior

    Examples
    --------
    >>> from tercet.models import AbilityHead
    >>> AbilityHead().site
    'ability'
    """

    site: ClassVar[str] = "ability"
    plate: ClassVar[str] = "item"
    per_item: ClassVar[bool] = True

    def features(self, items: Items) -> Identity:
        return Identity(len(items))

    def unit(self, items: Items) -> float:
        return 1.0 / math.sqrt(2.0)

    def rewards(self, sites: Mapping[str, Any], items: Items) -> Any:
        parameters = sites[self.site]
        if parameters.shape[-1] != len(items):
            raise ValueError(
                f"abilities belong to the {parameters.shape[-1]} items they were fitted on, got {len(items)}; "
                "unseen items need a head on features, such as LinearHead."
            )
        return parameters

    def __call__(self, items: Items) -> Float[Array, " n"]:
        abilities = super().__call__(items)
        if is_flat(self.prior_sd):
            numpyro.factor("mean_ability", -0.5 * jnp.mean(abilities) ** 2)
        return abilities
