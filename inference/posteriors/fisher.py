"""Fisher information of any NumPyro model at any design: J' I(eta) J over the answers the model would give.

eta are the parameters of each answer's distribution, J their derivative in the model's own parameters by automatic
differentiation, and I(eta) the closed form of the family. The observed Hessian is something else and has another
name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from numpyro.handlers import seed, substitute, trace

from tercet.inference.posteriors.fisher_families import base_of, family_information
from tercet.inference.posteriors.sites import Model, Site, own_arrays_as_jax
from tercet.models._inputs import as_key

Answers = Callable[[Any], Mapping[str, Site]]
"""From the parameters as one vector to the traced sites of the answers."""
Information = Callable[[Any, int | None, Any], np.ndarray]
"""Function of (theta, samples, key)."""


def fisher_information(
    model: Model,
    sites: Mapping[str, Any],
    *args: Any,
    samples: int | None = None,
    key: Any = 0,
    **kwargs: Any,
) -> Float[np.ndarray, "p p"]:
    """Expected information of the answers of `model(*args)` about the sites given.

    I(theta) = sum over answers of J' I(eta) J, J = d eta / d theta.

    Parameters
    ----------
    model : NumPyro model
    sites : dict of values (constrained)
        The parameters theta and where they are; every other sample site of the model is an answer, whether it has
        been observed or not, so a design is asked about by calling the model without observations.
    *args, **kwargs : arguments of the model: its data, or its design
    samples : number of simulated scores, for answers whose family has no closed form here
    key : int seed or JAX key, for simulated scores

    Returns
    -------
    array [p, p]
        In the order of `jax.flatten_util.ravel_pytree(sites)`: names sorted, each flattened.

    Raises
    ------
    ValueError
        A family without closed form and no `samples`.

    References
    ----------
    Lehmann and Casella (1998), Theory of Point Estimation, section 2.6.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> from tercet.inference import fisher_information
    >>> def model(n):
    ...     rate = numpyro.sample("rate", dist.Exponential(1.0))
    ...     with numpyro.plate("count", n):
    ...         numpyro.sample("y", dist.Poisson(rate))
    >>> round(float(fisher_information(model, {"rate": 4.0}, 12)[0, 0]), 4)
    3.0
    """
    with jax.enable_x64(True):
        args, kwargs = own_arrays_as_jax((args, kwargs))
        theta, unravel = ravel_pytree({name: jnp.asarray(value, float) for name, value in sites.items()})

        def answers(flat: Any) -> dict[str, Site]:
            fixed = substitute(seed(model, as_key(key)), data=unravel(flat))
            traced = trace(fixed).get_trace(*args, **kwargs)
            unknown = [n for n in sites if n not in traced or traced[n]["type"] not in ("sample", "param")]
            if unknown:
                raise ValueError(
                    f"the model has no sample site named {unknown[0]!r}, it has "
                    f"{[n for n, s in traced.items() if s['type'] == 'sample']}; where a head learns its scale, give "
                    "it one first (model.with_prior_sd(...))."
                )
            return {n: s for n, s in traced.items() if n not in sites}

        return information_program(answers, theta)(theta, samples, key)


def information_program(answers: Answers, theta: Any) -> Information:
    """Information [p, p] as a function of (theta, samples, key); what has a closed form is compiled once.

    Parameters
    ----------
    answers : from the parameters [p] to the traced sites of the answers
    theta : array [p], of which only the shape is looked at
    """
    closed_form: dict[str, bool] = {}

    def look(flat: Any) -> None:  # traced, not run: only the classes are looked at
        for name, site in answers(flat).items():
            if site["type"] == "sample" and not isinstance(site["fn"], dist.Unit):
                closed_form[name] = family_information(base_of(site["fn"])) is not None

    jax.eval_shape(look, theta)
    if not closed_form:
        raise ValueError("the model gives no answers besides the sites named: there is nothing to learn from.")
    closed = [jax.jit(_closed(answers, name)) for name, known in closed_form.items() if known]
    simulated = [name for name, known in closed_form.items() if not known]

    def run(theta: Any, samples: int | None, key: Any) -> np.ndarray:
        total = np.zeros((len(theta), len(theta)))
        for part in closed:
            total += np.asarray(part(theta))
        for name in simulated:
            total += _simulated(answers, theta, name, samples, key)
        return total

    return run


def _closed(answers: Answers, name: str) -> Callable[[Any], Any]:
    """Function from theta to J' I(eta) J [p, p] of one site."""

    def parameters(flat: Any) -> Any:
        fn = answers(flat)[name]["fn"]
        eta = _known_information(fn)[0]
        batch = fn.shape()[: len(fn.shape()) - base_of(fn).event_dim]
        return jnp.broadcast_to(eta, (*batch, eta.shape[-1]))

    def contribution(flat: Any) -> Any:
        site = answers(flat)[name]
        fn, base = site["fn"], base_of(site["fn"])
        eta, jacobian = parameters(flat), jax.jacfwd(parameters)(flat)  # [..., k], [..., k, p]
        weight = jnp.asarray(_scaled(site, 1.0))  # one an answer: its entries share it
        weight = weight.reshape(weight.shape + (1,) * (fn.event_dim - base.event_dim))
        inner = _known_information(fn)[1] * jnp.broadcast_to(weight, eta.shape[:-1])[..., None, None]
        return jnp.einsum("...ip,...ij,...jq->pq", jacobian, inner, jacobian)

    return contribution


def _known_information(fn: Any) -> tuple[Any, Any]:
    known = family_information(base_of(fn))
    assert known is not None
    return known


def _simulated(answers: Answers, theta: Any, name: str, samples: int | None, key: Any) -> np.ndarray:
    if samples is None:
        families: list[str] = []
        jax.eval_shape(lambda flat: families.append(type(base_of(answers(flat)[name]["fn"])).__name__), theta)
        raise ValueError(
            f"site {name!r} has the family {families[0]}, whose Fisher information has no closed form "
            "here; pass samples=10_000 (and a key) to average simulated scores."
        )

    def draw(flat: Any, key: Any) -> tuple[Any, Any]:
        site = answers(flat)[name]
        values = site["fn"].sample(key, (samples,))
        shape = jax.eval_shape(site["fn"].log_prob, values[0]).shape
        return values, jnp.broadcast_to(_scaled(site, 1.0), shape).ravel()

    values, weight = jax.jit(draw)(theta, as_key(key))

    def log_likelihood(flat: Any, answer: Any) -> Any:
        return jnp.atleast_1d(answers(flat)[name]["fn"].log_prob(answer)).ravel()

    by = jax.jacfwd if len(theta) <= len(weight) else jax.jacrev

    def outer(answer: Any) -> Any:
        scores = by(log_likelihood)(theta, answer)  # [answers, p]: independent, so their outer products add
        return (scores * weight[:, None]).T @ scores

    batch = max(1, min(samples, 256, 1_000_000 // max(1, len(weight))))
    return np.asarray(jax.jit(lambda drawn: jax.lax.map(outer, drawn, batch_size=batch).mean(axis=0))(values))


def _scaled(site: Site, value: Any) -> Any:
    return value if site["scale"] is None else site["scale"] * value
