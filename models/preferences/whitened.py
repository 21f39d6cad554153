"""The posterior of a linear head in the units of a Gaussian near it: a NumPyro model of u, the data whitened once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float

from tercet.models._inputs import as_jax
from tercet.models._operators import product_of
from tercet.models.preferences.linear_form import LinearForm


def whitened_model(
    answer: Callable[[Any], Any], form: LinearForm, center: Float[np.ndarray, " p"], root: Float[np.ndarray, "p k"]
) -> tuple[Callable[[dict[str, Any]], None], dict[str, Any]]:
    """NumPyro model of u, theta = center + R u, and its data: eta = D center + (D R) u.

    D R costs one matrix product; each step of a trajectory then two matrix-vector products with it, in the precision
    JAX is set to, and u is nearly standard normal where R R' is the inverse Hessian. The data are arguments of the
    compiled program, not constants of it.

    Parameters
    ----------
    answer : from logits to the distribution of the outcome
    form : the log posterior of theta
    center, root : of the Gaussian
    """
    data = {
        "eta": form.predictor(center), "outcome": form.outcome, "weight": form.weight, "center": center, "root": root,
        "prior": form.prior_precision, "design": dict(form.rows.factors(root)),
    }  # fmt: skip
    return partial(_log_posterior, answer, len(center), form.gauge), as_jax(data)


def _log_posterior(answer: Callable[[Any], Any], size: int, gauge: int, data: dict[str, Any]) -> None:
    u = numpyro.sample("u", dist.ImproperUniform(dist.constraints.real_vector, (), (size,)))
    logit = data["eta"] + product_of(data["design"], u)
    likelihood = data["weight"] @ answer(logit).log_prob(data["outcome"])
    theta = data["center"] + data["root"] @ u
    prior = -0.5 * jnp.sum(data["prior"] * jnp.square(theta))
    if gauge:
        prior = prior - 0.5 * jnp.square(jnp.mean(theta[:gauge]))
    numpyro.factor("log_posterior", likelihood + prior)
