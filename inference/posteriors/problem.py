"""A NumPyro model with its data, as functions of one flat unconstrained vector and of dicts of draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.distributions import Unit, biject_to
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.initialization import init_to_median
from numpyro.infer.util import constrain_fn, potential_energy

from tercet.models._inputs import as_jax, as_key
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.space.sites import Sites
from tercet.models.trajectories.snapshots import Snapshots

CHUNK = 100  # draws evaluated at once: bounds memory at chunk x observations


class Problem:
    """Potential, constraints and likelihoods of `model(*args, **kwargs)`.

    Parameters
    ----------
    model : NumPyro model
    args, kwargs : its data
    key : int seed or JAX key, for the starting point and for models that draw
    x64 : compute in 64 bit whatever JAX is set to; by default as JAX is set
    differences : take the Hessian by central differences of the gradient (good to 1e-6 in 64 bit) where compiling its
        exact form takes longer than the fit
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: Any = 0,
        x64: bool | None = None,
        differences: bool = False,
    ) -> None:
        self.model = model
        self.differences = differences
        self.x64 = bool(jax.config.read("jax_enable_x64")) if x64 is None else x64
        self.key = key
        self.latent: list[str] = []
        self._kept: dict[str, Any] = {}
        with self.precision():
            self.args, self.kwargs = own_arrays_as_jax((args, kwargs))
            self._build()

    def precision(self) -> Any:
        """Context in which this problem's JAX code runs; the user's own setting is left as it was."""
        return jax.enable_x64(self.x64)

    def _build(self) -> None:
        self._medians = self._median_program()
        shapes = jax.eval_shape(self._medians)
        flat, self.unravel = ravel_pytree({name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()})
        self.latent, self.size = list(shapes), len(flat)
        unravel, model, args, kwargs = self.unravel, self.model, self.args, self.kwargs

        def constrain_one(z: Any) -> Any:
            return constrain_fn(model, args, kwargs, unravel(z), return_deterministic=True)

        self.constrain_one = constrain_one
        if getattr(model, "data_may_be_traced", False):
            programs, data = _programs(model, self.x64), (args, kwargs)
            self.potential = lambda z: programs[0](z, data)
            self.value_and_gradient = lambda z: programs[1](z, data)
            self._constrain = lambda z: programs[2](z, data)
            return

        def potential(z: Any) -> Any:
            return potential_energy(model, args, kwargs, unravel(z))

        self.potential = jax.jit(potential)
        self.value_and_gradient = jax.jit(jax.value_and_grad(potential))
        self._constrain = jax.jit(jax.vmap(constrain_one))

    def _median_program(self) -> Callable[[], dict[str, Any]]:
        """Program of the unconstrained prior medians (one trace: NumPyro's own search costs seconds of tracing)."""
        if getattr(self.model, "data_may_be_traced", False):
            program, given = _start_program(self.model, self.x64), (as_key(self.key), (self.args, self.kwargs))
            return lambda: program(*given)
        # Traced, so that XLA drops the likelihood: run eagerly it would be compiled operation by operation.
        return jax.jit(lambda: _prior_medians(self.model, as_key(self.key), self.args, self.kwargs))

    @cached_property
    def start(self) -> np.ndarray:
        """Prior medians [p], where a search starts (drawing takes seconds to compile: only where it is asked for)."""
        with self.precision():
            return np.asarray(ravel_pytree(self._medians())[0])

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make()` gave when first asked for under this name: a program of this problem compiles once."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def hessian(self, z: np.ndarray) -> np.ndarray:
        """Hessian of the potential [p, p], by forward over reverse in blocks of columns, or by differences."""
        with self.precision():
            return self._differences(z) if self.differences else np.asarray(self._hessian(z))

    def _differences(self, z: np.ndarray) -> np.ndarray:
        step = 1e-4 if self.x64 else 1e-2
        rows = []
        for unit in np.eye(self.size):
            ahead, behind = (np.asarray(self.value_and_gradient(jnp.asarray(z + s * unit))[1]) for s in (step, -step))
            rows.append((ahead - behind) / (2.0 * step))
        whole = np.stack(rows)
        return (whole + whole.T) / 2.0

    @cached_property
    def _hessian(self) -> Callable[[np.ndarray], Any]:
        gradient = jax.grad(self.potential)

        def whole(z: Any) -> Any:
            columns = jax.lax.map(
                lambda tangent: jax.jvp(gradient, (z,), (tangent,))[1],
                jnp.eye(self.size),
                batch_size=min(self.size, 32),
            )
            return (columns + columns.T) / 2.0

        return jax.jit(whole)

    def constrain(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Constrained and deterministic sites [n, ...] of unconstrained vectors [n, p]."""
        with self.precision():
            return {name: np.asarray(value) for name, value in self._constrain(jnp.asarray(z)).items()}

    @cached_property
    def _trace(self) -> dict[str, Any]:
        with self.precision():
            return trace(seed(self.model, as_key(self.key))).get_trace(*self.args, **self.kwargs)

    @property
    def observed(self) -> dict[str, np.ndarray]:
        """Values of the observed sites (factors, which observe nothing, left out)."""
        sites = {n: s for n, s in self._trace.items() if s["type"] == "sample" and s["is_observed"]}
        return {n: np.asarray(s["value"]) for n, s in sites.items() if not isinstance(s["fn"], Unit)}

    @property
    def dims(self) -> dict[str, list[str]]:
        """Names of the dimensions of each site that come from plates."""
        found = {}
        for name, site in self._trace.items():
            if site["type"] not in ("sample", "deterministic"):
                continue
            shape = np.shape(site["value"])
            event = site["fn"].event_dim if site["type"] == "sample" else 0
            labels = [f"{name}_dim_{k}" for k in range(len(shape))]
            for frame in site.get("cond_indep_stack") or []:
                place = len(shape) - event + frame.dim
                if 0 <= place < len(shape) and shape[place] == frame.size:
                    labels[place] = frame.name
            found[name] = labels
        return found

    def replay(self, sites: dict[str, Any]) -> dict[str, Any]:
        """Trace of the model with these sites fixed (may run inside JAX transformations)."""
        model = substitute(seed(self.model, as_key(0)), data=sites)
        return trace(model).get_trace(*self.args, **self.kwargs)

    def _over_draws(
        self, function: Callable[[dict[str, Any]], Any], draws: dict[str, Any], extra: Sequence[str] = ()
    ) -> Any:
        missing = [name for name in self.latent if name not in draws]
        if missing:
            raise ValueError(f"draws lack the site(s) {missing}; they hold {sorted(draws)}.")
        with self.precision():
            sites = {name: jnp.asarray(draws[name]) for name in (*self.latent, *extra)}
            count = len(next(iter(sites.values())))
            mapped = jax.lax.map(function, sites, batch_size=min(count, CHUNK))
            return jax.tree.map(np.asarray, mapped)

    def log_density(self, draws: dict[str, np.ndarray]) -> np.ndarray:
        """Log joint density [n] of constrained draws (on the constrained scale, no Jacobian)."""

        def one(sites: dict[str, Any]) -> Any:
            sampled = [site for site in self.replay(sites).values() if site["type"] == "sample"]
            return sum(jnp.sum(log_prob(site)) for site in sampled)

        return self._over_draws(one, draws)

    def log_density_unconstrained(self, z: np.ndarray) -> np.ndarray:
        """Log joint density [n] of unconstrained vectors [n, p], Jacobian included: minus the potential."""
        with self.precision():
            return -np.asarray(jax.lax.map(self.potential, jnp.asarray(z), batch_size=min(len(z), CHUNK)))

    def log_likelihood(self, draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Log likelihood [n, observations...] of every observed site, weights included."""
        names = list(self.observed)

        def one(sites: dict[str, Any]) -> dict[str, Any]:
            replayed = self.replay(sites)
            return {name: log_prob(replayed[name]) for name in names}

        return self._over_draws(one, draws)

    def predictive(self, draws: dict[str, np.ndarray], key: Any = 0) -> dict[str, np.ndarray]:
        """Simulated answers [n, observations...] at every observed site, one data set a draw."""
        names = list(self.observed)
        count = len(next(iter(draws.values())))

        def one(sites: dict[str, Any]) -> dict[str, Any]:
            replayed = self.replay(sites)
            keys = jax.random.split(sites["_key"], len(names))
            return {name: replayed[name]["fn"].sample(k) for name, k in zip(names, keys, strict=True)}

        with self.precision():
            return self._over_draws(one, draws | {"_key": jax.random.split(as_key(key), count)}, ["_key"])


def _prior_medians(model: Any, key: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    median = init_to_median(num_samples=15)

    def free(site: dict[str, Any]) -> Any:
        if site["type"] == "sample" and site["value"] is not None and not site["is_observed"]:
            raise ValueError(
                f"site {site['name']!r} was given a value by numpyro.handlers.substitute, which leaves it to be "
                "inferred; to hold it fixed use numpyro.handlers.condition."
            )
        return median(site)

    sites = trace(substitute(seed(model, key), substitute_fn=free)).get_trace(*args, **kwargs)
    latent = {n: s for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}
    _check_sites(latent, sites)
    return _free(latent)


def prior_draw(model: Any, key: Any, *data: Any) -> dict[str, Any]:
    """A draw from the prior of every latent site, on the unconstrained scale."""
    sites = trace(seed(model, key)).get_trace(*data)
    return _free({n: s for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]})


def _free(latent: dict[str, Any]) -> dict[str, Any]:
    """Values of sites on the unconstrained scale."""
    return {n: jnp.asarray(biject_to(s["fn"].support).inv(s["value"]), float) for n, s in latent.items()}


@lru_cache(maxsize=64)
def _start_program(model: Any, x64: bool) -> Any:
    return jax.jit(lambda key, data: _prior_medians(model, key, *data))


@lru_cache(maxsize=64)
def _programs(model: Any, x64: bool) -> tuple[Any, Any, Any]:
    """Potential, its gradient, and constrained sites as functions of (z, data): one program for data of one shape.

    For models that say `data_may_be_traced` (they check shapes only, and compare as themselves): a second fit of the
    same model, to data of the same shape, compiles nothing.
    """

    def unravel(data: Any) -> Any:
        args, kwargs = data
        shapes = jax.eval_shape(lambda: _prior_medians(model, as_key(0), args, kwargs))
        return ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))[1]

    def potential(z: Any, data: Any) -> Any:
        return potential_energy(model, *data, unravel(data)(z))

    def constrain_many(z: Any, data: Any) -> Any:
        sites = unravel(data)
        return jax.vmap(lambda one: constrain_fn(model, *data, sites(one), return_deterministic=True))(z)

    return jax.jit(potential), jax.jit(jax.value_and_grad(potential)), jax.jit(constrain_many)


def own_arrays_as_jax(data: Any) -> Any:
    """Arguments of a model with bare NumPy arrays as JAX arrays; tercet's containers convert themselves."""
    containers = (Items, Comparisons, Snapshots, Sites)
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, containers) else as_jax(leaf),
        data,
        is_leaf=lambda node: isinstance(node, containers),
    )


def log_prob(site: dict[str, Any]) -> Any:
    """Log probability of a traced site, its scale counted."""
    value = site["fn"].log_prob(site["value"])
    return value if site["scale"] is None else site["scale"] * value


def _check_sites(latent: dict[str, Any], sites: dict[str, Any]) -> None:
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
