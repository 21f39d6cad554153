"""Compiled programs of a NumPyro model, as functions of unconstrained vectors and of the numbers of model and data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import constrain_fn, potential_energy

from tercet.inference.posteriors.fisher import Information, information_program
from tercet.inference.posteriors.sharing import Bind, Bound, Numbers, compiled_once, shared
from tercet.inference.posteriors.sites import JaxSites, Layout, Trace, log_prob, observed_sites, prior_medians
from tercet.models._inputs import as_jax, as_key

FEW, BLOCK = 16, 128
"""Draws that a program is called with at once."""
EVALUATED = 10_000_000
"""Numbers read at once, draws times data: they bound the memory."""
COLUMNS = 32
"""Columns of a Hessian that are computed at once where it is large."""
QUICK = 30_000_000
"""Numbers read by a program from which on optimising it pays, though it runs once."""


class Sharing(NamedTuple):
    """Programs, and the numbers they are called with."""

    programs: Programs
    numbers: Numbers

    def over_draws(self, program: Callable[..., Any], *draws: Any) -> Any:
        """Results [n, ...] of a program of (draws, ..., numbers) on n draws, from blocks of one of two sizes."""
        count = len(jax.tree.leaves(draws)[0])
        largest = max((number.size for number in self.numbers), default=1)
        block = min(FEW if count <= FEW else BLOCK, max(1, EVALUATED // max(1, largest)))
        parts = [program(*part, self.numbers) for part in _blocks(draws, count, block)]
        return jax.tree.map(lambda *own: np.concatenate(own)[:count], *parts)


def _blocks(draws: Any, count: int, block: int) -> Iterator[Any]:
    """The draws a block at a time; the last one is filled up with copies of its first."""
    for start in range(0, count, block):
        rows = np.arange(start, start + block)
        rows = np.where(rows < count, rows, start)
        yield as_jax(jax.tree.map(partial(_taken, rows), draws))


def _taken(rows: np.ndarray, values: Any) -> np.ndarray:
    return np.asarray(np.asarray(values)[rows])


def programs_of(bound: Bound) -> Sharing:
    """The programs of a model with its data, shared with all of the same structure and shapes."""
    return Sharing(*shared(bound, Programs))


class Programs:
    """Functions of unconstrained vectors z and of the numbers of a model and its data; compiled when first called.

    Parameters
    ----------
    bind : from numbers to the model and its arguments
    numbers : such numbers, of which only shapes are read

    Attributes
    ----------
    layout : of the latent sites in z
    unravel : from z [p] to the latent sites, on the unconstrained scale
    latent : names of the latent sites
    size : number of parameters p
    """

    def __init__(self, bind: Bind, numbers: tuple[Any, ...]) -> None:
        self.bind, self._abstract = bind, numbers
        self.layout = Layout.of(jax.eval_shape(self._medians, jax.eval_shape(lambda: as_key(0)), numbers))
        self.unravel, self.latent, self.size = self.layout.unravel, list(self.layout.shapes), self.layout.size

    def potential_at(self, z: jax.Array, numbers: Numbers) -> jax.Array:
        """Minus the log joint density at z [p], Jacobian included (to be traced)."""
        model, args, kwargs = self.bind(numbers)
        potential: jax.Array = potential_energy(model, args, kwargs, self.unravel(z))
        return potential

    def constrained(self, z: jax.Array, numbers: Numbers) -> JaxSites:
        """Constrained and deterministic sites of z [p] (to be traced)."""
        model, args, kwargs = self.bind(numbers)
        sites: JaxSites = constrain_fn(model, args, kwargs, self.unravel(z), return_deterministic=True)
        return sites

    def replayed(self, sites: Mapping[str, Any], numbers: Numbers) -> Trace:
        """Trace of the model with these sites fixed, the others drawn (to be traced)."""
        model, args, kwargs = self.bind(numbers)
        found: Trace = trace(substitute(seed(model, as_key(0)), data=dict(sites))).get_trace(*args, **kwargs)
        return found

    def _medians(self, key: jax.Array, numbers: Numbers) -> JaxSites:
        model, args, kwargs = self.bind(numbers)
        return prior_medians(model, key, args, kwargs)

    @cached_property
    def start(self) -> Callable[[jax.Array, Numbers], jax.Array]:
        """Prior medians [p] as a function of (key, numbers)."""
        return compiled_once(lambda key, numbers: self.layout.ravel(self._medians(key, numbers)))

    @cached_property
    def starts(self) -> Callable[[jax.Array, Numbers], jax.Array]:
        """Prior medians [n, p], each estimated from draws of its own, as a function of (key data [n, 2], numbers)."""

        def one(key: jax.Array, numbers: Numbers) -> jax.Array:
            return self.layout.ravel(self._medians(jax.random.wrap_key_data(key), numbers))

        return compiled_once(jax.vmap(one, (0, None)))

    @cached_property
    def value_and_gradient(self) -> Callable[[jax.Array, Numbers], tuple[jax.Array, jax.Array]]:
        """The potential at z and its gradient [p]."""
        return jax.jit(jax.value_and_grad(self.potential_at))

    @cached_property
    def hessian(self) -> Callable[[jax.Array, Numbers], jax.Array]:
        """The Hessian [p, p] of the potential at z, by forward over reverse, in blocks of columns."""

        def hessian(z: jax.Array, numbers: Numbers) -> jax.Array:
            _, along = jax.linearize(jax.grad(lambda z: self.potential_at(z, numbers)), z)
            units = jnp.eye(self.size)
            whole = self.size <= 8 * COLUMNS
            columns = jax.vmap(along)(units) if whole else jax.lax.map(along, units, batch_size=COLUMNS)
            return jnp.asarray((columns + columns.T) / 2.0)

        return self._by_cost(hessian, self.size)

    @cached_property
    def constrain(self) -> Callable[[jax.Array, Numbers], JaxSites]:
        """Constrained and deterministic sites [n, ...] of z [n, p]."""
        return compiled_once(jax.vmap(self.constrained, (0, None)))

    @cached_property
    def potentials(self) -> Callable[[jax.Array, Numbers], jax.Array]:
        """The potential at each z [n, p]."""
        return compiled_once(jax.vmap(self.potential_at, (0, None)))

    @cached_property
    def log_densities(self) -> Callable[[JaxSites, Numbers], jax.Array]:
        """Log joint density of draws [n, ...] of the latent sites, on the constrained scale."""

        def log_density(sites: JaxSites, numbers: Numbers) -> Any:
            sampled = [site for site in self.replayed(sites, numbers).values() if site["type"] == "sample"]
            return sum(jnp.sum(log_prob(site)) for site in sampled)

        return compiled_once(jax.vmap(log_density, (0, None)))

    @cached_property
    def evaluate(self) -> Callable[[JaxSites, jax.Array, Numbers], tuple[JaxSites, JaxSites]]:
        """Log likelihood [n, ...] of every observed site and simulated data, for draws [n] and key data [n, 2]."""

        def evaluate(sites: JaxSites, key: jax.Array, numbers: Numbers) -> tuple[JaxSites, JaxSites]:
            observed = observed_sites(self.replayed(sites, numbers))
            keys = jax.random.split(jax.random.wrap_key_data(key), max(1, len(observed)))
            simulated = {name: site["fn"].sample(k) for (name, site), k in zip(observed.items(), keys, strict=False)}
            return {name: log_prob(site) for name, site in observed.items()}, simulated

        return compiled_once(jax.vmap(evaluate, (0, 0, None)))

    @cached_property
    def observed(self) -> Callable[[Numbers], JaxSites]:
        """Values of the observed sites."""

        def observed(numbers: Numbers) -> JaxSites:
            return {
                name: jnp.asarray(site["value"]) for name, site in observed_sites(self.replayed({}, numbers)).items()
            }

        return compiled_once(observed)

    @cached_property
    def dimensions(self) -> dict[str, list[str]]:
        """Names of the dimensions of each site: those of its plates, the others numbered."""
        names: dict[str, list[str]] = {}
        jax.eval_shape(lambda numbers: names.update(_dimensions(self.replayed({}, numbers))), self._abstract)
        return names

    @cached_property
    def prior_hessian(self) -> Callable[[jax.Array, Numbers], jax.Array]:
        """Hessian [p, p] of minus the log prior at z, Jacobian included."""

        def minus_log_prior(z: jax.Array, numbers: Numbers) -> jax.Array:
            observed = self._observed_at(z, numbers).values()
            return self.potential_at(z, numbers) + sum(jnp.sum(log_prob(site)) for site in observed)

        return self._by_cost(jax.hessian(minus_log_prior), self.size)

    @cached_property
    def information(self) -> Information:
        """Fisher information [p, p] of the observed sites about z."""
        return information_program(self._observed_at, self.size, self._abstract)

    def _observed_at(self, z: jax.Array, numbers: Numbers) -> Trace:
        """The observed sites of the trace at z."""
        return observed_sites(self.replayed(self.constrained(z, numbers), numbers))

    def _by_cost(self, function: Callable[..., Any], passes: int) -> Callable[..., Any]:
        """Compiled for speed where the data are passed over often, else quickly."""
        cost = passes * (self.size + sum(int(np.prod(number.shape)) for number in self._abstract))
        return jax.jit(function) if cost > QUICK else compiled_once(function)


def _dimensions(sites: Trace) -> dict[str, list[str]]:
    names = {}
    for name, site in sites.items():
        if site["type"] not in ("sample", "deterministic"):
            continue
        shape = np.shape(site["value"])
        event = site["fn"].event_dim if site["type"] == "sample" else 0
        labels = [f"{name}_dim_{k}" for k in range(len(shape))]
        for plate in site.get("cond_indep_stack") or []:
            axis = len(shape) - event + plate.dim
            if 0 <= axis < len(shape) and shape[axis] == plate.size:
                labels[axis] = plate.name
        names[name] = labels
    return names
