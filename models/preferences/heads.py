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

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from tercet.models._storable import Storable
from tercet.models.items.embeddings import Embeddings
from tercet.models.items.items import Items

HYPERPRIOR_SD = 2.0
"""Scale of the half-Normal prior of a learned `prior_sd`, in logits."""

AnyHead = TypeVar("AnyHead", bound="Head")  # not typing.Self: beartype reads methods one by one


def is_flat(prior_sd: Any) -> bool:
    """Whether this scale stands for no prior (a scale that JAX traces never does)."""
    return isinstance(prior_sd, (int, float)) and math.isinf(prior_sd)


@dataclass(frozen=True)
class Head(Storable, abc.ABC):
    """A reward r(x): a NumPyro model from items to rewards whose last layer has a learned or a given prior scale.

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

    @abc.abstractmethod
    def __call__(self, items: Items) -> Float[Array, " n"]:
        """NumPyro model: sample the parameters, return the rewards of the items."""

    @abc.abstractmethod
    def rewards(self, sites: Mapping[str, Any], items: Items) -> Any:
        """Rewards [..., n] of items under these values of the head's sites."""


@dataclass(frozen=True)
class LinearInParameters(Head):
    """A reward linear in its parameters: r = Phi theta, theta ~ Normal(0, tau^2 I), tau = prior_sd * unit."""

    site: ClassVar[str] = ""
    plate: ClassVar[str] = ""

    @abc.abstractmethod
    def size(self, items: Items) -> int:
        """Number of parameters for these items."""

    @abc.abstractmethod
    def unit(self, items: Items) -> float:
        """Sd of one parameter for which the reward difference of two random items has sd 1."""

    def __call__(self, items: Items) -> Float[Array, " n"]:
        parameters = scaled_normal(self.site, self.plate, self.size(items), self.unit(items), self.prior_sd)
        return self.rewards({self.site: parameters}, items)


def scaled_normal(site: str, plate: str, size: int, unit: Any, prior_sd: float | None) -> Any:
    """Sample theta [size] ~ Normal(0, (prior_sd unit)^2 I), `prior_sd` a site of its own where it is None."""
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


def _total_variance(features: np.ndarray | Embeddings) -> float:
    """Trace of the covariance of the rows, in 64 bit without a 64-bit copy of them; zero where that is rounding."""
    if isinstance(features, Embeddings):
        center, variances = features.moments
        total = float(variances.sum())
        return total if total > 1e-14 * float(np.square(center).sum()) else 0.0
    mean = features.mean(axis=0, dtype=np.float64)
    rows = max(1, 2**17 // features.shape[1])  # a block that stays in the cache
    centred = (features[start : start + rows] - mean for start in range(0, len(features), rows))
    total = float(sum(np.vdot(block, block) for block in centred) / len(features))
    return total if total > 1e-14 * float(np.square(mean).sum()) else 0.0


@dataclass(frozen=True)
class LinearHead(LinearInParameters):
    """r(x) = x . w, with `weights` w ~ Normal(0, tau^2 I_d) in plate `feature`.

    tau = prior_sd / sqrt(2 tr Cov(x)), so that E Var(r_i - r_j) = prior_sd^2 over random items i, j.

    Examples
    --------
    >>> from tercet.models import LinearHead
    >>> LinearHead(prior_sd=2.0).site
    'weights'
    """

    site: ClassVar[str] = "weights"
    plate: ClassVar[str] = "feature"

    def size(self, items: Items) -> int:
        return int(items.features.shape[1])

    def unit(self, items: Items) -> Any:
        if not isinstance(items.features, (np.ndarray, Embeddings)):  # inside the NumPyro model
            return 1.0 / jnp.sqrt(2.0 * jnp.var(items.features, axis=0).sum())
        spread = 2.0 * _total_variance(items.features)
        if not spread > 0:
            raise ValueError("all items have the same features: a linear head cannot tell them apart.")
        return 1.0 / math.sqrt(spread)

    def rewards(self, sites: Mapping[str, Any], items: Items) -> Any:
        features: Any = items.features
        return sites["weights"] @ features.T


@dataclass(frozen=True)
class AbilityHead(LinearInParameters):
    """r(i) = ability_i, one a item, Normal(0, prior_sd^2 / 2) in plate `item`: the classical model.

    A flat prior leaves the sum of abilities undetermined; it is then held at zero by a unit Normal on the mean,
    which changes no difference.

    Examples
    --------
    >>> from tercet.models import AbilityHead
    >>> AbilityHead().site
    'ability'
    """

    site: ClassVar[str] = "ability"
    plate: ClassVar[str] = "item"

    def size(self, items: Items) -> int:
        return len(items)

    def unit(self, items: Items) -> float:
        return 1.0 / math.sqrt(2.0)

    def rewards(self, sites: Mapping[str, Any], items: Items) -> Any:
        parameters = sites["ability"]
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
