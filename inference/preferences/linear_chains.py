"""Chains of a linear head in the units of its Laplace approximation: the data whitened once, not at every step."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from numpyro.infer.initialization import init_to_uniform

from tercet.inference.posteriors.posterior import GaussianPosterior
from tercet.models._inputs import as_jax
from tercet.models._operators import product_of
from tercet.models.items.items import check_in_memory
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.linear_form import LinearForm


def has_whitened_form(start: GaussianPosterior, model: Any) -> bool:
    """Whether chains of this model can move in the whitened data of `start`: both the exact route of one model."""
    return isinstance(model, ComparisonModel) and start.layout is not None and start.context.model == model


def sample_whitened(
    start: GaussianPosterior, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: Any,
    target_accept: float, schedule: dict[str, Any], fields: tuple[str, ...],
) -> tuple[MCMC, dict[str, np.ndarray]]:  # fmt: skip
    """Chains of u, theta = center + R u, with R R' the inverse Hessian: eta = D center + (D R) u.

    D R costs one matrix product; each step of a trajectory then two matrix-vector products with it, in the precision
    JAX is set to, and u is nearly standard normal. The data are arguments of the compiled program, not constants of it.
    """
    items = args[0] if args else kwargs["items"]
    check_in_memory(items)
    form = model.linear_form(*args, **kwargs)
    data = as_jax(_whitened(form, start.center, start.root))
    target = partial(_target, model, len(start.center), form.gauge)
    kernel = NUTS(target, target_accept_prob=target_accept, init_strategy=init_to_uniform(radius=1.0))
    sampler = MCMC(kernel, jit_model_args=True, **schedule)
    sampler.run(key, data, extra_fields=fields)
    u = np.asarray(sampler.get_samples(group_by_chain=True)["u"], np.float64)
    return sampler, {name: np.asarray(value) for name, value in start.unravel(start.center + u @ start.root.T).items()}


def _whitened(form: LinearForm, center: np.ndarray, root: np.ndarray) -> dict[str, Any]:
    return {
        "eta": form.predictor(center), "outcome": form.outcome, "weight": form.weight, "center": center, "root": root,
        "prior": form.prior_precision, "design": dict(form.rows.factors(root)),
    }  # fmt: skip


def _target(model: ComparisonModel, size: int, gauge: int, data: dict[str, Any]) -> None:
    u = numpyro.sample("u", dist.ImproperUniform(dist.constraints.real_vector, (), (size,)))
    logit = data["eta"] + product_of(data["design"], u)
    likelihood = data["weight"] @ model.answer(logit).log_prob(data["outcome"])
    theta = data["center"] + data["root"] @ u
    prior = -0.5 * jnp.sum(data["prior"] * jnp.square(theta))
    if gauge:
        prior = prior - 0.5 * jnp.square(jnp.mean(theta[:gauge]))
    numpyro.factor("log_posterior", likelihood + prior)
