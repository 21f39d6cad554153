"""The distribution of an answer that may be soft, in [0, 1], under any link; NumPyro has none."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution, constraints
from numpyro.util import is_prng_key

from tercet.models.preferences.links import Link


class SoftBernoulli(Distribution):  # type: ignore[misc]
    """Log p(y) = y log F(r) + (1 - y) log F(-r) for y in [0, 1]; samples are 0 or 1.

    Parameters
    ----------
    logits : array, r
    link : Link, F
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012  (NumPyro's own convention)
    support = constraints.unit_interval
    pytree_aux_fields = ("link",)

    def __init__(self, logits: Any, link: Link, *, validate_args: bool | None = None) -> None:
        self.logits, self.link = jnp.asarray(logits), link
        super().__init__(batch_shape=jnp.shape(self.logits), validate_args=validate_args)

    @property
    def mean(self) -> Any:
        """P(y = 1)."""
        return jnp.exp(self.link.log_probability(self.logits))

    @property
    def variance(self) -> Any:
        """Variance of a sampled answer."""
        return jnp.exp(self.link.log_probability(self.logits) + self.link.log_probability(-self.logits))

    def fisher_information(self) -> tuple[Any, Any]:
        """The logits [..., 1], and the Fisher information [..., 1, 1] of an answer about them."""
        return self.logits[..., None], (self._slope(self.logits) * self._slope(-self.logits))[..., None, None]

    def _slope(self, r: Any) -> Any:
        """Derivative of log F; F'(r) = F(r) (log F)'(r) = F(-r) (log F)'(-r), as F(-r) = 1 - F(r)."""
        return jax.jvp(self.link.log_probability, (r,), (jnp.ones_like(r),))[1]

    def enumerate_support(self, expand: bool = True) -> Any:
        """The answers 0 and 1 [2, ...]."""
        values = jnp.arange(2.0).reshape((2,) + (1,) * len(self.batch_shape))
        return jnp.broadcast_to(values, (2, *self.batch_shape)) if expand else values

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Draw answers 0 or 1."""
        assert is_prng_key(key)
        shape = sample_shape + self.batch_shape
        return jax.random.bernoulli(key, self.mean, shape).astype(jnp.result_type(float))

    def log_prob(self, value: Any) -> Any:
        """Log likelihood of a soft outcome."""
        return value * self.link.log_probability(self.logits) + (1.0 - value) * self.link.log_probability(-self.logits)
