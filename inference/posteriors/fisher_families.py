"""Parameters and Fisher information of one answer, in closed form, by the family of its distribution."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import polygamma


@singledispatch
def family_information(fn: Any) -> tuple[Any, Any] | None:
    """Parameters eta [..., k] of a distribution and the information [..., k, k] of one answer about them, or None.

    A distribution of your own has a closed form here once it has a method `fisher_information()` that returns both.
    """
    own: Callable[[], tuple[Any, Any]] | None = getattr(fn, "fisher_information", None)
    return None if own is None else own()


def base_of(fn: Any) -> Any:
    """The distribution of one answer, without the wrappers that make many of it."""
    while isinstance(fn, (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)):
        if isinstance(fn, dist.MaskedDistribution) and fn._mask is not True:
            raise ValueError("a masked answer: give the model only the observations that count.")
        fn = fn.base_dist
    return fn


def _scalar(eta: Any, information: Callable[[Any], Any]) -> tuple[Any, Any]:
    values = jnp.asarray(eta, float)
    return values[..., None], information(values)[..., None, None]


def _logistic(eta: Any) -> Any:
    return jax.nn.sigmoid(eta) * jax.nn.sigmoid(-eta)


@family_information.register(dist.BernoulliLogits)
def _bernoulli_logits(fn: Any) -> tuple[Any, Any]:
    return _scalar(fn.logits, _logistic)


@family_information.register(dist.BernoulliProbs)
def _bernoulli_probs(fn: Any) -> tuple[Any, Any]:
    return _scalar(fn.probs, lambda p: 1.0 / (p * (1.0 - p)))


@family_information.register(dist.CategoricalLogits)
@family_information.register(dist.CategoricalProbs)  # ordered families are of this kind
def _categorical(fn: Any) -> tuple[Any, Any]:
    p = jax.nn.softmax(fn.logits, axis=-1)
    return fn.logits, p[..., None] * jnp.eye(p.shape[-1]) - p[..., :, None] * p[..., None, :]


@family_information.register(dist.Normal)
@family_information.register(dist.LogNormal)
def _normal(fn: Any) -> tuple[Any, Any]:
    eta = jnp.stack(jnp.broadcast_arrays(fn.loc, fn.scale), axis=-1)
    inverse = eta[..., 1] ** -2
    return eta, jnp.stack([inverse, 2.0 * inverse], axis=-1)[..., None] * jnp.eye(2)


@family_information.register(dist.MultivariateNormal)
def _multivariate_normal(fn: Any) -> tuple[Any, Any]:
    d = fn.event_shape[0]
    covariance = jnp.broadcast_to(fn.covariance_matrix, (*fn.batch_shape, d, d))
    location = jnp.broadcast_to(fn.loc, (*fn.batch_shape, d))
    inverse = jnp.linalg.inv(covariance)
    kron = jnp.einsum("...ij,...kl->...ikjl", inverse, inverse).reshape(*fn.batch_shape, d * d, d * d)
    top = jnp.concatenate([inverse, jnp.zeros((*fn.batch_shape, d, d * d))], axis=-1)
    bottom = jnp.concatenate([jnp.zeros((*fn.batch_shape, d * d, d)), 0.5 * kron], axis=-1)
    eta = jnp.concatenate([location, covariance.reshape(*fn.batch_shape, d * d)], axis=-1)
    return eta, jnp.concatenate([top, bottom], axis=-2)


@family_information.register(dist.Poisson)
def _poisson(fn: Any) -> tuple[Any, Any]:
    return _scalar(fn.rate, lambda rate: 1.0 / rate)


@family_information.register(dist.Exponential)
def _exponential(fn: Any) -> tuple[Any, Any]:
    return _scalar(fn.rate, lambda rate: rate**-2)


@family_information.register(dist.Gamma)
def _gamma(fn: Any) -> tuple[Any, Any]:
    eta = jnp.stack(jnp.broadcast_arrays(fn.concentration, fn.rate), axis=-1)
    shape, rate = eta[..., 0], eta[..., 1]
    rows = [[polygamma(1, shape), -1.0 / rate], [-1.0 / rate, shape / rate**2]]
    return eta, jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


@family_information.register(dist.BinomialLogits)
@family_information.register(dist.BinomialProbs)
def _binomial(fn: Any) -> tuple[Any, Any]:
    return fn.logits[..., None], (fn.total_count * _logistic(fn.logits))[..., None, None]
