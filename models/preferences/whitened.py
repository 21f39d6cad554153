"""The posterior of a linear head in the units of a Gaussian near it: a NumPyro model of u, the data whitened once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from tercet.models._inputs import as_jax
from tercet.models.preferences.linear_form import DenseRows, GraphRows, LinearForm

if TYPE_CHECKING:
    from tercet.models.preferences.comparison_models import ComparisonModel


def whitened_model(
    model: ComparisonModel, form: LinearForm, center: np.ndarray, root: np.ndarray
) -> tuple[Callable[[dict[str, Any]], None], dict[str, Any]]:
    """NumPyro model of u, theta = center + R u, and its data: eta = D center + (D R) u.

    D R costs one matrix product; each step of a trajectory then two matrix-vector products with it, in the precision
    JAX is set to, and u is nearly standard normal where R R' is the inverse Hessian. The data are arguments of the
    compiled program, not constants of it.
    """
    return partial(_log_posterior, model, len(center), form.gauge), as_jax(_whitened(form, center, root))


def _whitened(form: LinearForm, center: np.ndarray, root: np.ndarray) -> dict[str, Any]:
    data = {
        "eta": form.predictor(center), "outcome": form.outcome, "weight": form.weight, "center": center,
        "root": root, "prior": form.prior_precision,
    }  # fmt: skip
    if isinstance(form.rows, DenseRows):
        return data | {"rows": form.rows.matrix @ root}
    assert isinstance(form.rows, GraphRows)
    own = root[:-1] if form.rows.order else root
    items = own if form.rows.features is None else form.rows.features @ own
    shift = {"shift": root[-1]} if form.rows.order else {}
    return data | shift | {"items": items, "first": form.rows.first, "second": form.rows.second}


def _log_posterior(model: ComparisonModel, size: int, gauge: int, data: dict[str, Any]) -> None:
    u = numpyro.sample("u", dist.ImproperUniform(dist.constraints.real_vector, (), (size,)))
    if "rows" in data:
        moved = data["rows"] @ u
    else:
        rewards = data["items"] @ u
        moved = rewards[data["first"]] - rewards[data["second"]]
        if "shift" in data:
            moved = moved + data["shift"] @ u
    likelihood = data["weight"] @ model.answer(data["eta"] + moved).log_prob(data["outcome"])
    theta = data["center"] + data["root"] @ u
    prior = -0.5 * jnp.sum(data["prior"] * jnp.square(theta))
    if gauge:
        prior = prior - 0.5 * jnp.square(jnp.mean(theta[:gauge]))
    numpyro.factor("log_posterior", likelihood + prior)
