"""A NumPyro model with its data, as functions of one flat unconstrained vector and of dicts of draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.distributions import Unit
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.initialization import init_to_median
from numpyro.infer.util import initialize_model

from tercet.models._inputs import as_key

CHUNK = 100  # draws evaluated at once: bounds memory at chunk x observations


class Problem:
    """Potential, constraints and likelihoods of `model(*args, **kwargs)`.

    Parameters
    ----------
    model : NumPyro model
    args, kwargs : its data
    key : int seed or JAX key, for the starting point and for models that draw
    x64 : compute in 64 bit whatever JAX is set to; by default as JAX is set
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: Any = 0,
        x64: bool | None = None,
    ) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        self.x64 = bool(jax.config.jax_enable_x64) if x64 is None else x64
        self.key = key
        with self.precision():
            self._build()

    def precision(self) -> Any:
        """Context in which this problem's JAX code runs; the user's own setting is left as it was."""
        return jax.enable_x64(self.x64)

    def _build(self) -> None:
        key = as_key(self.key)
        _check_sites(self.model, key, self.args, self.kwargs)
        info = initialize_model(
            key,
            self.model,
            init_strategy=init_to_median(num_samples=15),
            model_args=self.args,
            model_kwargs=self.kwargs,
        )
        flat, self.unravel = ravel_pytree(info.param_info.z)
        self.start = np.asarray(flat)
        self.size = len(self.start)
        unravel = self.unravel
        self.potential = jax.jit(lambda z: info.potential_fn(unravel(z)))
        self.value_and_gradient = jax.jit(jax.value_and_grad(lambda z: info.potential_fn(unravel(z))))
        self.constrain_one = lambda z: info.postprocess_fn(unravel(z))
        self._constrain = jax.jit(jax.vmap(self.constrain_one))

    def hessian(self, z: np.ndarray) -> np.ndarray:
        """Hessian of the potential [p, p], by forward over reverse in blocks of columns."""
        with self.precision():
            return np.asarray(self._hessian(z))

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
    def latent(self) -> list[str]:
        """Names of the unobserved sample sites."""
        return [name for name, site in self._trace.items() if site["type"] == "sample" and not site["is_observed"]]

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

    def _over_draws(self, function: Callable[[dict[str, Any]], Any], draws: dict[str, np.ndarray]) -> Any:
        missing = [name for name in self.latent if name not in draws]
        if missing:
            raise ValueError(f"draws lack the site(s) {missing}; they hold {sorted(draws)}.")
        with self.precision():
            sites = {name: jnp.asarray(draws[name]) for name in self.latent}
            count = len(next(iter(sites.values())))
            mapped = jax.lax.map(function, sites, batch_size=min(count, CHUNK))
            return jax.tree.map(np.asarray, mapped)

    def log_density(self, draws: dict[str, np.ndarray]) -> np.ndarray:
        """Log joint density [n] of constrained draws (on the constrained scale, no Jacobian)."""

        def one(sites: dict[str, Any]) -> Any:
            sampled = [site for site in self.replay(sites).values() if site["type"] == "sample"]
            return sum(jnp.sum(_log_prob(site)) for site in sampled)

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
            return {name: _log_prob(replayed[name]) for name in names}

        return self._over_draws(one, draws)


def _log_prob(site: dict[str, Any]) -> Any:
    log_prob = site["fn"].log_prob(site["value"])
    return log_prob if site["scale"] is None else site["scale"] * log_prob


def _check_sites(model: Callable[..., Any], key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    sites = trace(seed(model, key)).get_trace(*args, **kwargs)
    latent = [
        (name, site) for name, site in sites.items() if site["type"] == "sample" and not site["is_observed"]
    ]
    if not latent:
        raise ValueError("the model has no latent sample site: there is nothing to infer.")
    for name, site in latent:
        if site["fn"].support.is_discrete:
            raise ValueError(
                f"site {name!r} is discrete; a Gaussian or gradient-based posterior needs continuous sites: "
                "marginalise it out of the model first."
            )
    for name, site in sites.items():
        if site["type"] == "plate" and len(site["value"]) < site["args"][0]:
            raise ValueError(f"plate {name!r} subsamples its data; give the whole data to this method.")


