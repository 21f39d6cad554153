"""A NumPyro model with its data, as functions of one unconstrained vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tercet.inference.posteriors.programs import Programs, Sharing, programs_of
from tercet.inference.posteriors.sharing import Prepared
from tercet.inference.posteriors.sites import JaxSites, Model
from tercet.models._inputs import KeyLike, as_jax, as_key


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


@runtime_checkable
class Completing(Protocol):
    """A model whose programs, for data filled up to a size class, leave out sites that have a row for each datum."""

    def completed(self, draws: Mapping[str, np.ndarray], *args: object, **kwargs: object) -> dict[str, np.ndarray]:
        """These deterministic sites [n, ...] of n draws of the others."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """Potential, transforms and curvature of `model(*args, **kwargs)`, by programs that equal models share.

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
        _ = self.sharing  # sites that cannot be inferred are an error here, not at the first evaluation

    @cached_property
    def sharing(self) -> Sharing:
        """The programs of the posterior, and the numbers they are called with."""
        model, args, kwargs = self.model, self.args, self.kwargs
        bound = model.prepared(*args, **kwargs) if isinstance(model, Prepared) else (model, args, kwargs)
        with self.precision():
            return programs_of(bound)

    @cached_property
    def as_given(self) -> Sharing:
        """The same on the data as they were given, not filled up: for densities and predictions point by point."""
        if not isinstance(self.model, Prepared):
            return self.sharing
        with self.precision():
            return programs_of((self.model, self.args, self.kwargs))

    def precision(self) -> AbstractContextManager[None]:
        """Context in which this problem's JAX code runs; the user's own setting is left as it was."""
        return cast(AbstractContextManager[None], jax.enable_x64(bool(self.x64)))

    @property
    def programs(self) -> Programs:
        """The programs of the posterior."""
        return self.sharing.programs

    @property
    def latent(self) -> list[str]:
        """Names of the latent sites."""
        return list(self.programs.latent)

    @property
    def size(self) -> int:
        """Number of parameters p."""
        return self.programs.size

    @property
    def unravel(self) -> Callable[[jax.Array], JaxSites]:
        """Function from z [p] to the latent sites, on the unconstrained scale."""
        return self.programs.unravel

    @cached_property
    def start(self) -> Float[np.ndarray, " p"]:
        """Prior medians [p], where a search starts (drawing takes a while to compile: only where it is asked for)."""
        with self.precision():
            return np.asarray(self.programs.start(as_key(self.key), self.sharing.numbers))

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, Float[np.ndarray, " p"]]:
        """Potential at z [p], and its gradient [p]."""
        with self.precision():
            value, gradient = self.programs.value_and_gradient(as_jax(np.asarray(z, np.float64)), self.sharing.numbers)
            return float(value), np.asarray(gradient)

    def hessian(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Hessian of the potential, by forward over reverse in blocks of columns, or by differences."""
        if self.differences:
            return self._hessian_by_differences(z)
        with self.precision():
            return np.asarray(self.programs.hessian(as_jax(np.asarray(z, np.float64)), self.sharing.numbers))

    def gauss_newton(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        """Fisher information of the observed sites plus the Hessian of minus the log prior, Jacobian included."""
        with self.precision():
            prior = self.programs.prior_hessian(as_jax(np.asarray(z, np.float64)), self.sharing.numbers)
            return np.asarray(self.information(z) + np.asarray(prior))

    def information(self, z: np.ndarray, samples: int | None = None, key: KeyLike = 0) -> Float[np.ndarray, "p p"]:
        """Fisher information of the observed sites about z; `samples` as in `fisher_information`."""
        with self.precision():
            return self.programs.information(as_jax(np.asarray(z, np.float64)), self.sharing.numbers, samples, key)

    def constrain(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Constrained and deterministic sites [n, ...] of unconstrained vectors [n, p]."""
        with self.precision():
            sites: dict[str, np.ndarray] = self.sharing.over_draws(self.programs.constrain, z)
        if isinstance(self.model, Completing):
            sites |= self.model.completed(sites, *self.args, **self.kwargs)
        return sites

    def _hessian_by_differences(self, z: np.ndarray) -> Float[np.ndarray, "p p"]:
        step = 1e-4 if self.x64 else 1e-2
        rows = []
        for unit in np.eye(self.size):
            forward, backward = (self.value_and_gradient(z + s * unit)[1] for s in (step, -step))
            rows.append((forward - backward) / (2.0 * step))
        hessian = np.stack(rows)
        return np.asarray((hessian + hessian.T) / 2.0)
