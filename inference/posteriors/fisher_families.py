"""Parameters and Fisher information of one observation, in closed form, by the family of its distribution."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import polygamma

Information = tuple[jax.Array, jax.Array]
"""Parameters eta [..., k] of a distribution, and the information [..., k, k] of one observation about them."""


@singledispatch
def family_information(fn: dist.Distribution) -> Information | None:
    """Parameters of a distribution and the information of one observation about them; None without a closed form.

    A distribution of your own has a closed form here once it has a method `fisher_information()` that returns both.
    """
    own: Callable[[], Information] | None = getattr(fn, "fisher_information", None)
    return None if own is None else own()


def base_distribution(fn: dist.Distribution) -> dist.Distribution:
    """The distribution of one observation, without the wrappers that repeat it."""
    while isinstance(fn, (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)):
        if isinstance(fn, dist.MaskedDistribution) and fn._mask is not True:
            raise ValueError("an observation is masked: give the model only the observations that count.")
        fn = fn.base_dist
    return fn


def _scalar(eta: jax.Array, information: Callable[[jax.Array], jax.Array]) -> Information:
    values = jnp.asarray(eta, float)
    return values[..., None], information(values)[..., None, None]


def _bernoulli_variance(logits: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)


@family_information.register(dist.BernoulliLogits)
def _bernoulli_logits(fn: dist.Distribution) -> Information:
    return _scalar(fn.logits, _bernoulli_variance)


@family_information.register(dist.BernoulliProbs)
def _bernoulli_probs(fn: dist.Distribution) -> Information:
    return _scalar(fn.probs, lambda p: 1.0 / (p * (1.0 - p)))


@family_information.register(dist.CategoricalLogits)
@family_information.register(dist.CategoricalProbs)  # ordered families are of this kind
def _categorical(fn: dist.Distribution) -> Information:
    p = jax.nn.softmax(fn.logits, axis=-1)
    return fn.logits, p[..., None] * jnp.eye(p.shape[-1]) - p[..., :, None] * p[..., None, :]


@family_information.register(dist.Normal)
@family_information.register(dist.LogNormal)
def _normal(fn: dist.Distribution) -> Information:
    eta = jnp.stack(jnp.broadcast_arrays(fn.loc, fn.scale), axis=-1)
    inverse = eta[..., 1] ** -2
    return eta, jnp.stack([inverse, 2.0 * inverse], axis=-1)[..., None] * jnp.eye(2)


@family_information.register(dist.MultivariateNormal)
def _multivariate_normal(fn: dist.Distribution) -> Information:
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
def _poisson(fn: dist.Distribution) -> Information:
    return _scalar(fn.rate, lambda rate: 1.0 / rate)


@family_information.register(dist.Exponential)
def _exponential(fn: dist.Distribution) -> Information:
    return _scalar(fn.rate, lambda rate: rate**-2)


@family_information.register(dist.Gamma)
def _gamma(fn: dist.Distribution) -> Information:
    eta = jnp.stack(jnp.broadcast_arrays(fn.concentration, fn.rate), axis=-1)
    shape, rate = eta[..., 0], eta[..., 1]
    rows = [[polygamma(1, shape), -1.0 / rate], [-1.0 / rate, shape / rate**2]]
    return eta, jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


@family_information.register(dist.BinomialLogits)
@family_information.register(dist.BinomialProbs)
def _binomial(fn: dist.Distribution) -> Information:
    return fn.logits[..., None], (fn.total_count * _bernoulli_variance(fn.logits))[..., None, None]
