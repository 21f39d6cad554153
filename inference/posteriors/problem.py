"""A NumPyro model with its data, as functions of one unconstrained vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import constrain_fn, potential_energy

from tercet.inference.posteriors.fisher import Information, information_program
from tercet.inference.posteriors.sites import (
    Model,
    Site,
    log_prob,
    observed_sites,
    own_arrays_as_jax,
    prior_medians,
)
from tercet.models._inputs import as_key


@runtime_checkable
class Potential(Protocol):
    """A potential (minus a log posterior density, up to a constant) with what a search for its minimum needs."""

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Potential at z [p], and its gradient [p]."""
        ...

    def hessian(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Hessian of the potential at z."""
        ...

    def gauss_newton(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Fisher information of the observed sites plus the Hessian of minus the log prior."""
        ...


class _Programs(NamedTuple):
    """Compiled functions of z: the potential, potential and gradient, and the sites of many z."""

    potential: Callable[[Any], Any]
    value_and_gradient: Callable[[Any], Any]
    constrain: Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Problem:
    """Potential, transforms and curvature of `model(*args, **kwargs)`; programs are compiled when first asked for.

    Parameters
    ----------
    model : NumPyro model
    args, kwargs : its data
    key : int seed or JAX key, for the starting point and for models that draw
    x64 : compute in 64 bit whatever JAX is set to; None: as JAX is set
    differences : take the Hessian by central differences of the gradient (good to 1e-6 in 64 bit) where compiling its
        exact form takes longer than the fit
    """

    model: Model
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    key: Any = 0
    x64: bool | None = None
    differences: bool = False

    def __post_init__(self) -> None:
        if self.x64 is None:
            object.__setattr__(self, "x64", bool(jax.config.read("jax_enable_x64")))
        with self.precision():
            args, kwargs = own_arrays_as_jax((self.args, self.kwargs))
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "kwargs", kwargs)
        _ = self._flat  # sites that cannot be inferred are an error here, not at the first evaluation

    def precision(self) -> AbstractContextManager[Any]:
        """Context in which this problem's JAX code runs; the user's own setting is left as it was."""
        return jax.enable_x64(bool(self.x64))

    @property
    def latent(self) -> list[str]:
        """Names of the latent sites."""
        return list(self._flat[1])

    @property
    def size(self) -> int:
        """Number of parameters p."""
        return self._flat[2]

    @property
    def unravel(self) -> Callable[[Any], dict[str, Any]]:
        """Function from z [p] to the latent sites, on the unconstrained scale."""
        return self._flat[0]

    @cached_property
    def start(self) -> Float[np.ndarray, " p"]:
        """Prior medians [p], where a search starts (drawing takes seconds to compile: only where it is asked for)."""
        with self.precision():
            return np.asarray(ravel_pytree(self._medians())[0])

    def potential(self, z: Any) -> Any:
        """Minus the log joint density at z [p], Jacobian included (may run inside JAX transformations)."""
        return self._programs.potential(z)

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Potential at z [p], and its gradient [p]."""
        with self.precision():
            value, gradient = self._programs.value_and_gradient(jnp.asarray(z))
            return float(value), np.asarray(gradient)

    def hessian(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Hessian of the potential, by forward over reverse in blocks of columns, or by differences."""
        if self.differences:
            return self._by_differences(z)
        with self.precision():
            return np.asarray(self._hessian(jnp.asarray(z)))

    def gauss_newton(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Fisher information of the observed sites plus the Hessian of minus the log prior, Jacobian included."""
        with self.precision():
            return self.information(z) + np.asarray(self._prior_hessian(jnp.asarray(z)))

    def information(self, z: np.ndarray, samples: int | None = None, key: Any = 0) -> Float[np.ndarray, "p p"]:
        """Fisher information of the observed sites about z; `samples` as in `fisher_information`."""
        with self.precision():
            return self._information(jnp.asarray(z), samples, key)

    def constrain_one(self, z: Any) -> dict[str, Any]:
        """Constrained and deterministic sites of z [p] (may run inside JAX transformations)."""
        return constrain_fn(self.model, self.args, self.kwargs, self.unravel(z), return_deterministic=True)

    def constrain(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Constrained and deterministic sites [n, ...] of unconstrained vectors [n, p]."""
        with self.precision():
            return {name: np.asarray(value) for name, value in self._programs.constrain(jnp.asarray(z)).items()}

    def replay(self, sites: Mapping[str, Any]) -> dict[str, Site]:
        """Trace of the model with these sites fixed (may run inside JAX transformations)."""
        model = substitute(seed(self.model, as_key(0)), data=sites)
        return trace(model).get_trace(*self.args, **self.kwargs)

    @cached_property
    def sites(self) -> dict[str, Site]:
        """Trace of the model with draws of its latent sites."""
        with self.precision():
            return trace(seed(self.model, as_key(self.key))).get_trace(*self.args, **self.kwargs)

    @cached_property
    def _medians(self) -> Callable[[], dict[str, Any]]:
        """Program of the unconstrained prior medians (one trace: NumPyro's own search costs seconds of tracing)."""
        if getattr(self.model, "data_may_be_traced", False):
            program, given = _median_program(self.model, self.x64), (as_key(self.key), (self.args, self.kwargs))
            return lambda: program(*given)
        # Traced, so that XLA drops the likelihood: run eagerly it would be compiled operation by operation.
        return jax.jit(lambda: prior_medians(self.model, as_key(self.key), self.args, self.kwargs))

    @cached_property
    def _flat(self) -> tuple[Callable[[Any], dict[str, Any]], tuple[str, ...], int]:
        """How z becomes sites, their names, the length of z."""
        with self.precision():
            shapes = jax.eval_shape(self._medians)
            zeros = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
            flat, unravel = ravel_pytree(zeros)
        return unravel, tuple(shapes), len(flat)

    @cached_property
    def _programs(self) -> _Programs:
        if getattr(self.model, "data_may_be_traced", False):
            shared, data = _programs_of_data(self.model, self.x64), (self.args, self.kwargs)
            return _Programs(*(lambda z, program=program: program(z, data) for program in shared))

        def potential(z: Any) -> Any:
            return potential_energy(self.model, self.args, self.kwargs, self.unravel(z))

        return _Programs(
            jax.jit(potential), jax.jit(jax.value_and_grad(potential)), jax.jit(jax.vmap(self.constrain_one))
        )

    @cached_property
    def _hessian(self) -> Callable[[Any], Any]:
        gradient = jax.grad(self.potential)

        def whole(z: Any) -> Any:
            columns = jax.lax.map(
                lambda tangent: jax.jvp(gradient, (z,), (tangent,))[1],
                jnp.eye(self.size),
                batch_size=min(self.size, 32),
            )
            return (columns + columns.T) / 2.0

        return jax.jit(whole)

    def _by_differences(self, z: np.ndarray) -> np.ndarray:
        step = 1e-4 if self.x64 else 1e-2
        rows = []
        for unit in np.eye(self.size):
            ahead, behind = (self.value_and_gradient(z + s * unit)[1] for s in (step, -step))
            rows.append((ahead - behind) / (2.0 * step))
        whole = np.stack(rows)
        return (whole + whole.T) / 2.0

    @cached_property
    def _information(self) -> Information:
        def observed(z: Any) -> dict[str, Site]:
            return observed_sites(self.replay(self.constrain_one(z)))

        return information_program(observed, jnp.zeros(self.size))

    @cached_property
    def _prior_hessian(self) -> Callable[[Any], Any]:
        def minus_log_prior(z: Any) -> Any:
            answers = observed_sites(self.replay(self.constrain_one(z))).values()
            return self.potential(z) + sum(jnp.sum(log_prob(site)) for site in answers)

        return jax.jit(jax.hessian(minus_log_prior))


@dataclass(frozen=True, eq=False)
class ConditionedProblem:
    """A problem in all its parameters but one scalar site, which is held: the programs are those of the problem.

    Parameters
    ----------
    problem : Problem
    site : name of the scalar site
    value : where it is held, on the unconstrained scale
    index : its position in the vector of the problem; see `condition`
    """

    problem: Problem
    site: str
    value: float
    index: int

    @classmethod
    def on(cls, problem: Problem, site: str, value: float) -> ConditionedProblem:
        """The problem with `site` held at `value`."""
        with problem.precision():
            return cls(problem, site, value, int(problem.unravel(jnp.arange(float(problem.size)))[site]))

    def at(self, value: float) -> ConditionedProblem:
        """The same with the site held elsewhere."""
        return replace(self, value=value)

    @property
    def start(self) -> Float[np.ndarray, " p"]:
        """Where a search starts."""
        return np.delete(self.problem.start, self.index)

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Potential at z [p - 1], and its gradient."""
        value, gradient = self.problem.value_and_gradient(self._whole(z))
        return value, np.delete(gradient, self.index)

    def hessian(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Hessian of the potential at z [p - 1]."""
        return self._free(self.problem.hessian(self._whole(z)))

    def gauss_newton(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Fisher information plus the Hessian of minus the log prior at z [p - 1]."""
        return self._free(self.problem.gauss_newton(self._whole(z)))

    def _whole(self, z: np.ndarray) -> np.ndarray:
        return np.insert(z, self.index, self.value)

    def _free(self, matrix: np.ndarray) -> np.ndarray:
        return np.delete(np.delete(matrix, self.index, axis=0), self.index, axis=1)


@lru_cache(maxsize=64)
def _median_program(model: Any, x64: bool) -> Any:
    return jax.jit(lambda key, data: prior_medians(model, key, *data))


@lru_cache(maxsize=64)
def _programs_of_data(model: Any, x64: bool) -> _Programs:
    """Potential, its gradient, and constrained sites as functions of (z, data): one program for data of one shape.

    For models that say `data_may_be_traced` (they check shapes only, and compare as themselves): a second fit of the
    same model, to data of the same shape, compiles nothing.
    """

    def unravel(data: Any) -> Any:
        args, kwargs = data
        shapes = jax.eval_shape(lambda: prior_medians(model, as_key(0), args, kwargs))
        return ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))[1]

    def potential(z: Any, data: Any) -> Any:
        return potential_energy(model, *data, unravel(data)(z))

    def constrain_many(z: Any, data: Any) -> Any:
        sites = unravel(data)
        return jax.vmap(lambda one: constrain_fn(model, *data, sites(one), return_deterministic=True))(z)

    return _Programs(jax.jit(potential), jax.jit(jax.value_and_grad(potential)), jax.jit(constrain_many))
