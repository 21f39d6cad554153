"""Expected Fisher information of any NumPyro model at any design: J' I(eta) J summed over its observations.

eta are the parameters of each observation's distribution, J their derivative with respect to the model's parameters by
automatic differentiation, and I(eta) the closed form of the family. The observed information, a Hessian, is something
else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Float
from numpyro.handlers import seed, substitute, trace

from tercet.inference.posteriors.fisher_families import base_distribution, family_information
from tercet.inference.posteriors.sharing import Bind, Numbers, Prepared, abstract, compiled_once, shared
from tercet.inference.posteriors.sites import Layout, Model, Site, Trace
from tercet.models._inputs import KeyLike, as_jax, as_key

Observations = Callable[[jax.Array, Numbers], Trace]
"""From the parameters as one vector [p], and the numbers of a model and its data, to the observations' traced sites."""
Information = Callable[[jax.Array, Numbers, int | None, KeyLike], np.ndarray]
"""Function of (theta, numbers, samples, key)."""


def fisher_information(
    model: Model,
    sites: Mapping[str, ArrayLike],
    *args: object,
    samples: int | None = None,
    key: KeyLike = 0,
    **kwargs: object,
) -> Float[np.ndarray, "p p"]:
    """Expected information about the given sites in the observations of `model(*args)`.

    I(theta) = sum over observations of J' I(eta) J, J = d eta / d theta.

    Parameters
    ----------
    model : NumPyro model
    sites : dict of values (constrained)
        The parameters theta, and their values; every other sample site of the model is an observation, whether it has
        a value or not: for a design whose outcomes are not known, call the model without observed values.
    *args, **kwargs : arguments of the model: its data, or its design
    samples : number of simulated scores, for observations whose family has no closed form here
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
        values = {name: np.asarray(sites[name], np.float64) for name in sorted(sites)}
        shapes = tuple((name, value.shape) for name, value in values.items())
        theta = as_jax(np.concatenate([value.ravel() for value in values.values()]))
        bound = model.prepared(*args, **kwargs) if isinstance(model, Prepared) else (model, args, kwargs)
        program, numbers = shared(bound, _information_about, shapes)
        return program(theta, numbers, samples, key)


def _information_about(
    bind: Bind, numbers: tuple[Any, ...], shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> Information:
    """The program of the information about sites of these shapes."""
    layout = Layout(dict(shapes))

    def observations(theta: jax.Array, numbers: Numbers) -> Trace:
        model, args, kwargs = bind(numbers)
        traced: Trace = trace(substitute(seed(model, as_key(0)), data=layout.unravel(theta))).get_trace(*args, **kwargs)
        unknown = [n for n in layout.shapes if n not in traced or traced[n]["type"] not in ("sample", "param")]
        if unknown:
            raise ValueError(
                f"the model has no sample site named {unknown[0]!r}, it has "
                f"{[n for n, s in traced.items() if s['type'] == 'sample']}; where a head learns its scale, give "
                "it one first (model.with_prior_sd(...))."
            )
        return {n: s for n, s in traced.items() if n not in layout.shapes}

    return information_program(observations, layout.size, numbers)


def information_program(observations: Observations, size: int, numbers: tuple[Any, ...]) -> Information:
    """Information [p, p] as a function of (theta, numbers, samples, key), compiled once.

    Parameters
    ----------
    observations : from the parameters [p] and the numbers to the traced sites of the observations
    size : number of parameters p
    numbers : of which only shapes are read
    """
    families = _families(observations, size, numbers)
    if not families:
        raise ValueError("the model has no observations besides the given sites: there is no information about them.")
    closed = [compiled_once(_closed_form(observations, name)) for name, family in families.items() if family is None]
    simulated = {name: family for name, family in families.items() if family is not None}
    average = cache(partial(_simulated, observations))

    def information(theta: jax.Array, numbers: Numbers, samples: int | None, key: KeyLike) -> np.ndarray:
        total = np.zeros((len(theta), len(theta)))
        for part in closed:
            total += np.asarray(part(theta, numbers))
        for name, family in simulated.items():
            if samples is None:
                raise ValueError(
                    f"site {name!r} has the family {family}, whose Fisher information has no closed form here; pass "
                    "samples=10_000 (and a key) to average simulated scores."
                )
            total += np.asarray(average(name, samples)(theta, numbers, as_key(key)))
        return total

    return information


def _families(observations: Observations, size: int, numbers: tuple[Any, ...]) -> dict[str, str | None]:
    """Observed sites: None where the information has a closed form, else the name of the family."""
    families: dict[str, str | None] = {}

    def classify(theta: jax.Array, numbers: Numbers) -> None:  # traced, not run
        for name, site in observations(theta, numbers).items():
            if site["type"] == "sample" and not isinstance(site["fn"], dist.Unit):
                base = base_distribution(site["fn"])
                families[name] = type(base).__name__ if family_information(base) is None else None

    jax.eval_shape(classify, abstract((size,), jnp.result_type(float)), numbers)
    return families


def _closed_form(observations: Observations, name: str) -> Callable[[jax.Array, Numbers], jax.Array]:
    """Function from theta and the numbers to J' I(eta) J [p, p] of one site."""

    def parameters(flat: jax.Array, numbers: Numbers) -> jax.Array:
        fn = observations(flat, numbers)[name]["fn"]
        eta = _parameters_and_information(fn)[0]
        batch = fn.shape()[: len(fn.shape()) - base_distribution(fn).event_dim]
        return jnp.broadcast_to(eta, (*batch, eta.shape[-1]))

    def contribution(flat: jax.Array, numbers: Numbers) -> jax.Array:
        site = observations(flat, numbers)[name]
        fn, base = site["fn"], base_distribution(site["fn"])
        eta, jacobian = parameters(flat, numbers), jax.jacfwd(parameters)(flat, numbers)  # [..., k], [..., k, p]
        weight = _weight(site)  # of whole observations: the entries of one share it
        weight = weight.reshape(weight.shape + (1,) * (fn.event_dim - base.event_dim))
        inner = _parameters_and_information(fn)[1] * jnp.broadcast_to(weight, eta.shape[:-1])[..., None, None]
        return jnp.einsum("...ip,...ij,...jq->pq", jacobian, inner, jacobian)

    return contribution


def _parameters_and_information(fn: dist.Distribution) -> tuple[jax.Array, jax.Array]:
    known = family_information(base_distribution(fn))
    assert known is not None
    return known


def _simulated(
    observations: Observations, name: str, samples: int
) -> Callable[[jax.Array, Numbers, jax.Array], jax.Array]:
    """Average outer product [p, p] of the scores of simulated observations at one site, of (theta, numbers, key)."""

    def average(theta: jax.Array, numbers: Numbers, key: jax.Array) -> jax.Array:
        site = observations(theta, numbers)[name]
        values = jax.lax.stop_gradient(site["fn"].sample(key, (samples,)))
        shape = jax.eval_shape(site["fn"].log_prob, values[0]).shape
        weight = jnp.broadcast_to(_weight(site), shape).ravel()

        def log_likelihood(theta: jax.Array, value: jax.Array) -> jax.Array:
            return jnp.atleast_1d(observations(theta, numbers)[name]["fn"].log_prob(value)).ravel()

        jacobian = (jax.jacfwd if len(theta) <= len(weight) else jax.jacrev)(log_likelihood)

        def outer_product(value: jax.Array) -> jax.Array:
            scores = jacobian(theta, value)  # [observations, p]: independent, so their outer products add
            return jnp.asarray((scores * weight[:, None]).T @ scores)

        batch = max(1, min(samples, 256, 1_000_000 // max(1, len(weight))))
        return jnp.asarray(jax.lax.map(outer_product, values, batch_size=batch).mean(axis=0))

    return jax.jit(average)


def _weight(site: Site) -> jax.Array:
    """The scale of a traced site, 1 where it has none."""
    return jnp.asarray(1.0 if site["scale"] is None else site["scale"] * 1.0)
