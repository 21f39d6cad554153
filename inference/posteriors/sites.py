"""Sites of a NumPyro model: which are latent and which observed, their prior medians, draws and log densities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from numpyro.distributions import Unit, biject_to
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.initialization import init_to_median

from tercet.models._inputs import as_jax
from tercet.models._pytree import Container

Model = Callable[..., Any]
"""A NumPyro model."""
Site = dict[str, Any]
"""One site of a NumPyro trace: type, value, distribution, scale, plates."""
Trace = dict[str, Site]
"""Sites by name."""
JaxSites = dict[str, jax.Array]
"""Values of sites by name."""
Tree = TypeVar("Tree")


def prior_medians(model: Model, key: jax.Array, args: tuple[object, ...], kwargs: Mapping[str, object]) -> JaxSites:
    """Prior median of every latent site, on the unconstrained scale; raises where a site cannot be inferred."""
    median = init_to_median(num_samples=15)

    def initial(site: Site) -> Any:  # NumPyro's protocol: None for plates and observed sites
        if site["type"] == "sample" and site["value"] is not None and not site["is_observed"]:
            raise ValueError(
                f"site {site['name']!r} was given a value by numpyro.handlers.substitute, which leaves it to be "
                "inferred; to hold it fixed use numpyro.handlers.condition."
            )
        return median(site)

    sites = trace(substitute(seed(model, key), substitute_fn=initial)).get_trace(*args, **kwargs)
    latent = latent_sites(sites)
    _check_sites(latent, sites)
    return unconstrained(latent)


def prior_draw(model: Model, key: jax.Array, *data: object) -> JaxSites:
    """A draw from the prior of every latent site, on the unconstrained scale."""
    return unconstrained(latent_sites(trace(seed(model, key)).get_trace(*data)))


class Layout(NamedTuple):
    """How sites lie in one vector: by name, in alphabetical order, each raveled.

    Attributes
    ----------
    shapes : of the sites, by name
    """

    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, sites: Mapping[str, Any]) -> Layout:
        """The layout of these sites (arrays, or anything with a shape)."""
        return cls({name: tuple(sites[name].shape) for name in sorted(sites)})

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def ravel(self, sites: Mapping[str, Any]) -> jax.Array:
        """The vector of these sites (to be traced)."""
        return jnp.concatenate([jnp.zeros(0), *(jnp.ravel(sites[name]) for name in self.shapes)])

    def unravel(self, z: Any) -> dict[str, Any]:
        """The sites in a vector."""
        start, sites = 0, {}
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            sites[name], start = z[start:stop].reshape(shape), stop
        return sites


def latent_sites(sites: Mapping[str, Site]) -> Trace:
    """The latent sample sites of a trace."""
    return {n: s for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}


def observed_sites(sites: Mapping[str, Site]) -> Trace:
    """The observed sample sites of a trace, without factors, which observe nothing."""
    observed = {n: s for n, s in sites.items() if s["type"] == "sample" and s["is_observed"]}
    return {n: s for n, s in observed.items() if not isinstance(s["fn"], Unit)}


def unconstrained(latent: Mapping[str, Site]) -> JaxSites:
    """Values of sites on the unconstrained scale."""
    return {n: jnp.asarray(biject_to(s["fn"].support).inv(s["value"]), float) for n, s in latent.items()}


def log_prob(site: Site) -> jax.Array:
    """Log density of the value of a traced site, times its scale."""
    value: jax.Array = site["fn"].log_prob(site["value"])
    return value if site["scale"] is None else site["scale"] * value


def bare_arrays_as_jax(data: Tree) -> Tree:
    """Arguments of a model with bare NumPy arrays as JAX arrays; tercet's containers convert themselves."""
    converted: Tree = jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, Container) else as_jax(leaf),
        data,
        is_leaf=lambda node: isinstance(node, Container),
    )
    return converted


def _check_sites(latent: Mapping[str, Site], sites: Mapping[str, Site]) -> None:
    if not latent:
        raise ValueError("the model has no latent sample site: there is nothing to infer.")
    for name, site in latent.items():
        if site["fn"].support.is_discrete:
            raise ValueError(
                f"site {name!r} is discrete; a Gaussian or gradient-based posterior needs continuous sites: "
                "marginalise it out of the model first."
            )
    for name, site in sites.items():
        if site["type"] == "plate" and len(site["value"]) < site["args"][0]:
            raise ValueError(f"plate {name!r} subsamples its data; give the whole data to this method.")
