"""A NumPyro model with its data, as functions of one unconstrained vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Float
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import constrain_fn, potential_energy

from tercet.inference.posteriors.fisher import Information, information_program
from tercet.inference.posteriors.sites import (
    JaxSites,
    Model,
    Trace,
    bare_arrays_as_jax,
    log_prob,
    observed_sites,
    prior_medians,
)
from tercet.models._inputs import KeyLike, as_key

_Data = tuple[tuple[object, ...], Mapping[str, object]]
"""Positional and keyword arguments of a model."""


@runtime_checkable
class Potential(Protocol):
    """A potential (minus a log posterior density, up to a constant): what a search for its minimum evaluates."""

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, Float[np.ndarray, " p"]]:
        """Potential at z [p], and its gradient [p]."""
        ...

    def hessian(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Hessian of the potential at z."""
        ...

    def gauss_newton(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Fisher information of the observed sites plus the Hessian of minus the log prior."""
        ...


class _Programs(NamedTuple):
    """Compiled functions of z (and of the data): the potential, potential and gradient, and the sites of many z."""

    potential: Callable[..., jax.Array]
    value_and_gradient: Callable[..., tuple[jax.Array, jax.Array]]
    constrain: Callable[..., JaxSites]


@dataclass(frozen=True, eq=False)
class Problem:
    """Potential, transforms and curvature of `model(*args, **kwargs)`; programs are compiled when first asked for.

    Parameters
    ----------
    model : NumPyro model
    args, kwargs : its data
    key : int seed or JAX key, for the starting point and for models that draw
    x64 : compute in 64 bit whatever JAX is set to; None: as JAX is set
    differences : take the Hessian by central differences of the gradient (accurate to 1e-6 in 64 bit), for models
        whose exact Hessian takes longer to compile than the whole fit
    """

    model: Model
    args: tuple[object, ...]
    kwargs: Mapping[str, object] = field(default_factory=dict)
    key: KeyLike = 0
    x64: bool | None = None
    differences: bool = False

    def __post_init__(self) -> None:
        if self.x64 is None:
            object.__setattr__(self, "x64", jnp.result_type(float) == np.float64)
        with self.precision():
            args, kwargs = bare_arrays_as_jax((self.args, self.kwargs))
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "kwargs", kwargs)
        _ = self._flat  # sites that cannot be inferred are an error here, not at the first evaluation

    def precision(self) -> AbstractContextManager[None]:
        """Context in which this problem's JAX code runs; the user's own setting is left as it was."""
        return cast(AbstractContextManager[None], jax.enable_x64(bool(self.x64)))

    @property
    def latent(self) -> list[str]:
        """Names of the latent sites."""
        return list(self._flat[1])

    @property
    def size(self) -> int:
        """Number of parameters p."""
        return self._flat[2]

    @property
    def unravel(self) -> Callable[[jax.Array], JaxSites]:
        """Function from z [p] to the latent sites, on the unconstrained scale."""
        return self._flat[0]

    @cached_property
    def start(self) -> Float[np.ndarray, " p"]:
        """Prior medians [p], where a search starts (drawing takes seconds to compile: only where it is asked for)."""
        with self.precision():
            return np.asarray(ravel_pytree(self._medians())[0])

    def potential(self, z: ArrayLike) -> jax.Array:
        """Minus the log joint density at z [p], Jacobian included (may run inside JAX transformations)."""
        return self._programs.potential(z)

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, Float[np.ndarray, " p"]]:
        """Potential at z [p], and its gradient [p]."""
        with self.precision():
            value, gradient = self._programs.value_and_gradient(jnp.asarray(z))
            return float(value), np.asarray(gradient)

    def hessian(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Hessian of the potential, by forward over reverse in blocks of columns, or by differences."""
        if self.differences:
            return self._hessian_by_differences(z)
        with self.precision():
            return np.asarray(self._hessian(jnp.asarray(z)))

    def gauss_newton(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Fisher information of the observed sites plus the Hessian of minus the log prior, Jacobian included."""
        with self.precision():
            return np.asarray(self.information(z) + np.asarray(self._prior_hessian(jnp.asarray(z))))

    def information(self, z: np.ndarray, samples: int | None = None, key: KeyLike = 0) -> Float[np.ndarray, "p p"]:
        """Fisher information of the observed sites about z; `samples` as in `fisher_information`."""
        with self.precision():
            return self._information(jnp.asarray(z), samples, key)

    def constrain_one(self, z: jax.Array) -> JaxSites:
        """Constrained and deterministic sites of z [p] (may run inside JAX transformations)."""
        return _constrained(self.model, self.args, self.kwargs, self.unravel(z))

    def constrain(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Constrained and deterministic sites [n, ...] of unconstrained vectors [n, p]."""
        with self.precision():
            return {name: np.asarray(value) for name, value in self._programs.constrain(jnp.asarray(z)).items()}

    def replay(self, sites: Mapping[str, ArrayLike]) -> Trace:
        """Trace of the model with these sites fixed (may run inside JAX transformations)."""
        return _traced(substitute(seed(self.model, as_key(0)), data=sites), self.args, self.kwargs)

    @cached_property
    def sites(self) -> Trace:
        """Trace of the model with draws of its latent sites."""
        with self.precision():
            return _traced(seed(self.model, as_key(self.key)), self.args, self.kwargs)

    @cached_property
    def _medians(self) -> Callable[[], JaxSites]:
        """Program of the unconstrained prior medians (one trace: NumPyro's own search costs seconds of tracing)."""
        if getattr(self.model, "data_may_be_traced", False):
            program, given = _median_program(self.model, self.x64), (as_key(self.key), (self.args, self.kwargs))
            return lambda: program(*given)
        # Traced, so that XLA drops the likelihood: run eagerly it would be compiled operation by operation.
        return jax.jit(lambda: prior_medians(self.model, as_key(self.key), self.args, self.kwargs))

    @cached_property
    def _flat(self) -> tuple[Callable[[jax.Array], JaxSites], tuple[str, ...], int]:
        """Function from z to sites, their names, the length of z."""
        with self.precision():
            shapes = jax.eval_shape(self._medians)
            zeros = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
            flat, unravel = ravel_pytree(zeros)
        return unravel, tuple(shapes), len(flat)

    @cached_property
    def _programs(self) -> _Programs:
        if getattr(self.model, "data_may_be_traced", False):
            shared, data = _programs_of_data(self.model, self.x64), (self.args, self.kwargs)
            return _Programs(*(partial(_with_data, program, data) for program in shared))

        def potential(z: jax.Array) -> Any:
            return potential_energy(self.model, self.args, self.kwargs, self.unravel(z))

        return _Programs(
            jax.jit(potential), jax.jit(jax.value_and_grad(potential)), jax.jit(jax.vmap(self.constrain_one))
        )

    @cached_property
    def _hessian(self) -> Callable[[jax.Array], jax.Array]:
        gradient = jax.grad(self.potential)

        def hessian(z: jax.Array) -> jax.Array:
            columns = jax.lax.map(
                lambda tangent: jax.jvp(gradient, (z,), (tangent,))[1],
                jnp.eye(self.size),
                batch_size=min(self.size, 32),
            )
            return jnp.asarray((columns + columns.T) / 2.0)

        return jax.jit(hessian)

    def _hessian_by_differences(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        step = 1e-4 if self.x64 else 1e-2
        rows = []
        for unit in np.eye(self.size):
            forward, backward = (self.value_and_gradient(z + s * unit)[1] for s in (step, -step))
            rows.append((forward - backward) / (2.0 * step))
        hessian = np.stack(rows)
        return np.asarray((hessian + hessian.T) / 2.0)

    @cached_property
    def _information(self) -> Information:
        def observed(z: jax.Array) -> Trace:
            return observed_sites(self.replay(self.constrain_one(z)))

        return information_program(observed, jnp.zeros(self.size))

    @cached_property
    def _prior_hessian(self) -> Callable[[jax.Array], jax.Array]:
        def minus_log_prior(z: jax.Array) -> jax.Array:
            observed = observed_sites(self.replay(self.constrain_one(z))).values()
            return self.potential(z) + sum(jnp.sum(log_prob(site)) for site in observed)

        return jax.jit(jax.hessian(minus_log_prior))


@dataclass(frozen=True, eq=False)
class ConditionedProblem:
    """A problem in all its parameters but one scalar site, whose value is fixed; it compiles nothing of its own.

    Parameters
    ----------
    problem : Problem
    site : name of the scalar site
    value : its fixed value, on the unconstrained scale
    index : its position in the vector of the problem; see `on`
    """

    problem: Problem
    site: str
    value: float
    index: int

    @classmethod
    def on(cls, problem: Problem, site: str, value: float) -> ConditionedProblem:
        """The problem with `site` fixed at `value`."""
        with problem.precision():
            return cls(problem, site, value, int(problem.unravel(jnp.arange(float(problem.size)))[site]))

    def at(self, value: float) -> ConditionedProblem:
        """The same with the site fixed at another value."""
        return replace(self, value=value)

    @property
    def start(self) -> Float[np.ndarray, " p"]:
        """Where a search starts."""
        return np.delete(self.problem.start, self.index)

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, Float[np.ndarray, " p"]]:
        """Potential at z [p - 1], and its gradient."""
        value, gradient = self.problem.value_and_gradient(self._all_parameters(z))
        return value, np.delete(gradient, self.index)

    def hessian(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Hessian of the potential at z [p - 1]."""
        return self._without_site(self.problem.hessian(self._all_parameters(z)))

    def gauss_newton(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Fisher information plus the Hessian of minus the log prior at z [p - 1]."""
        return self._without_site(self.problem.gauss_newton(self._all_parameters(z)))

    def _all_parameters(self, z: np.ndarray) -> np.ndarray:
        return np.insert(z, self.index, self.value)

    def _without_site(self, matrix: np.ndarray) -> np.ndarray:
        return np.delete(np.delete(matrix, self.index, axis=0), self.index, axis=1)


def _traced(model: Model, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Trace:
    sites: Trace = trace(model).get_trace(*args, **kwargs)
    return sites


def _constrained(model: Model, args: tuple[object, ...], kwargs: Mapping[str, object], sites: JaxSites) -> JaxSites:
    """Constrained and deterministic sites."""
    constrained: JaxSites = constrain_fn(model, args, kwargs, sites, return_deterministic=True)
    return constrained


def _with_data(program: Callable[..., Any], data: _Data, z: ArrayLike) -> Any:
    return program(z, data)


@lru_cache(maxsize=64)
def _median_program(model: Model, x64: bool) -> Callable[[jax.Array, _Data], JaxSites]:
    """Prior medians as a function of (key, data)."""
    return jax.jit(lambda key, data: prior_medians(model, key, *data))


@lru_cache(maxsize=64)
def _programs_of_data(model: Model, x64: bool) -> _Programs:
    """Potential, its gradient, and constrained sites as functions of (z, data): one program for data of one shape.

    For models with a true `data_may_be_traced` (they check no values of their data, and compare and hash by what they
    are): a second fit of an equal model, to data of the same shapes, compiles nothing.
    """

    def unravel(data: _Data) -> Callable[[jax.Array], JaxSites]:
        args, kwargs = data
        shapes = jax.eval_shape(lambda: prior_medians(model, as_key(0), args, kwargs))
        return ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))[1]

    def potential(z: jax.Array, data: _Data) -> Any:
        return potential_energy(model, *data, unravel(data)(z))

    def constrain_many(z: jax.Array, data: _Data) -> JaxSites:
        sites = unravel(data)
        return jax.vmap(lambda one: _constrained(model, *data, sites(one)))(z)

    return _Programs(jax.jit(potential), jax.jit(jax.value_and_grad(potential)), jax.jit(constrain_many))
