"""The posterior of a linear form in the units of a Gaussian near it: a NumPyro model of u, the data whitened once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro.handlers import block, substitute

from tercet.models._inputs import as_jax
from tercet.models._operators import product_of
from tercet.models._partition import ModelPytree
from tercet.models._size_classes import padded, size_class
from tercet.models.preferences.answers import Auxiliary
from tercet.models.preferences.linear_form import LinearForm


@dataclass(frozen=True)
class WhitenedModel(ModelPytree):
    """The NumPyro model of u: `model(data)` with the data of `whitened_data`.

    Parameters
    ----------
    answer : from logits to the distribution of the outcome: a comparison model's method
    auxiliaries : sites of that distribution, the last entries of theta
    size : number of parameters
    gauge : of the linear form
    """

    answer: Callable[[Any], Any]
    auxiliaries: tuple[Auxiliary, ...]
    size: int
    gauge: int

    def __call__(self, data: dict[str, Any]) -> None:
        u = numpyro.sample("u", dist.ImproperUniform(dist.constraints.real_vector, (), (self.size,)))
        logit = data["eta"] + product_of(data["design"], u)
        theta = data["center"] + data["root"] @ u
        values, start = {}, self.size - sum(site.size for site in self.auxiliaries)
        for site in self.auxiliaries:
            own = jnp.exp(theta[start : start + site.size])
            values[site.site], start = (own if site.length else own[0]), start + site.size
        outcome = block(substitute(self.answer, data=values))(logit)  # its sites are part of u
        likelihood = data["weight"] @ outcome.log_prob(data["outcome"])
        prior = -0.5 * jnp.sum(data["prior"] * jnp.square(theta))
        if self.gauge:
            prior = prior - 0.5 * jnp.square(jnp.mean(theta[: self.gauge]))
        numpyro.factor("log_posterior", likelihood + prior)


def whitened_data(
    encode: Callable[[Any], Any],
    form: LinearForm,
    center: Float[np.ndarray, " q"],
    root: Float[np.ndarray, "q k"],
) -> dict[str, Any]:
    """Data of the model of u, theta = center + R u: the linear predictor is D center + (D R) u.

    D R costs one matrix product; each step of a trajectory then two matrix-vector products with it, in the precision
    JAX is set to, and u is nearly standard normal where R R' is the inverse Hessian. Rows are filled up to a size class
    with weight zero.

    Parameters
    ----------
    encode : from outcomes to what the distribution of an answer takes
    form : the log posterior of theta
    center, root : of the Gaussian
    """
    of_rows = {"eta": form.predictor(center), "outcome": np.asarray(encode(form.outcome)), "weight": form.weight}
    design = {name: values if name == "effects" else _filled_up(values)
              for name, values in form.rows.factors(root[: form.coefficients]).items()}  # fmt: skip
    data = {name: _filled_up(values) for name, values in of_rows.items()} | {
        "design": design, "center": center, "root": root, "prior": form.prior_precision,
    }  # fmt: skip
    return dict(as_jax(data))


def _filled_up(rows: np.ndarray) -> np.ndarray:
    """Rows of zeros after these, up to a size class: of weight zero, or items that no comparison is of."""
    return padded(rows, size_class(len(rows)))
