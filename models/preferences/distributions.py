"""Observation distributions that NumPyro lacks: soft outcomes in [0, 1] under a logistic or a probit link."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from numpyro.distributions import Distribution, constraints
from numpyro.util import is_prng_key


class _SoftBernoulli(Distribution):
    """log p(y) = y log F(logit) + (1 - y) log F(-logit) for y in [0, 1]; samples are 0 or 1."""

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012  (NumPyro's own convention)
    support = constraints.unit_interval

    def __init__(self, logits: Any, *, validate_args: bool | None = None) -> None:
        self.logits = jnp.asarray(logits)
        super().__init__(batch_shape=jnp.shape(self.logits), validate_args=validate_args)

    def _log_probability(self, logits: Any) -> Any:
        """Log F(logit)."""
        raise NotImplementedError

    def _information(self, logits: Any) -> Any:
        """F'(logit)^2 / (F(logit) F(-logit))."""
        raise NotImplementedError

    @property
    def mean(self) -> Any:
        """P(y = 1)."""
        return jnp.exp(self._log_probability(self.logits))

    @property
    def variance(self) -> Any:
        """Variance of a sampled answer."""
        return jnp.exp(self._log_probability(self.logits) + self._log_probability(-self.logits))

    def fisher_information(self) -> tuple[Any, Any]:
        """The logits [..., 1] and the Fisher information [..., 1, 1] of one answer about them."""
        return self.logits[..., None], self._information(self.logits)[..., None, None]

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Draw answers 0 or 1."""
        assert is_prng_key(key)
        shape = sample_shape + self.batch_shape
        return jax.random.bernoulli(key, self.mean, shape).astype(jnp.result_type(float))

    def log_prob(self, value: Any) -> Any:
        """Log likelihood of a soft outcome."""
        yes, no = self._log_probability(self.logits), self._log_probability(-self.logits)
        return value * yes + (1.0 - value) * no


class SoftBernoulliLogits(_SoftBernoulli):
    """Logistic link, F(r) = 1 / (1 + exp(-r))."""

    def _log_probability(self, logits: Any) -> Any:
        return jax.nn.log_sigmoid(logits)

    def _information(self, logits: Any) -> Any:
        return jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)


class BernoulliProbit(_SoftBernoulli):
    """Probit link, F(r) = Phi(r), through log Phi so that both tails stay finite."""

    def _log_probability(self, logits: Any) -> Any:
        return log_ndtr(logits)

    def _information(self, logits: Any) -> Any:
        log_density = -0.5 * jnp.square(logits) - 0.5 * jnp.log(2 * jnp.pi)
        return jnp.exp(2 * log_density - log_ndtr(logits) - log_ndtr(-logits))
