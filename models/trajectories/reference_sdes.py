"""Reference stochastic differential equations dX = b_theta(X, t) dt + s_theta(X, t) dW: drift, volatility, priors.

Drifts, volatilities and references are JAX pytrees whose leaves are their numbers (known parameters, scales of priors):
what was compiled for one serves any other that differs in these numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
import numpyro
import numpyro.distributions
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from tercet.models._inputs import as_jax
from tercet.models._partition import Fixed, Parts, Structure, is_real, partition
from tercet.models.trajectories.structure import Structural, content

Theta = Mapping[str, Array]
"""Parameters of drift and volatility: name of the site to value."""
Coefficient = Callable[[Theta, Array, jax.typing.ArrayLike], jax.typing.ArrayLike]
"""Drift or volatility, (theta, state [d], time) -> [d]; a volatility may also give one number, or [d, m]."""
Values = Mapping[str, ArrayLike | float]
"""Name of the site to its value, as a user gives it (at run time a float is not taken for complex)."""

if TYPE_CHECKING:  # not at run time: other types meet a ValueError that names the site
    from numpyro.distributions import Distribution

    Priors = Mapping[str, Distribution]
    """Name of the site to its prior distribution."""


@dataclass(frozen=True, eq=False)
class Drift(Structural):
    """b_theta(x, t) [d] and the priors of its parameters; `+` adds two drifts.

    Parameters
    ----------
    function : callable (theta, x, t) -> array [d]
        theta is a dict of the sites in `priors`, x the state [d], t the time; written with jax.numpy. A function
        defined at module level, or a `functools.partial` of one, lets drifts share compiled programs (the numbers of
        the partial are then arguments); a lambda equals only itself.
    priors : dict of site name -> NumPyro distribution
        In the units of the data and of its times.
    names : sequence of d names of coordinates
    affine : whether b is affine in x (then the moments are exact and one matrix serves all particles)

    Examples
    --------
    A drift of one's own:

    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from tercet.models import Drift, ReferenceSDE, constant_volatility
    >>> def decay(theta, x, t):
    ...     return -theta["rate"] * x**3
    >>> sde = ReferenceSDE(Drift(decay, {"rate": dist.LogNormal(0.0, 1.0)}, ["x"]), constant_volatility())
    >>> sorted(sde.priors)
    ['rate', 'volatility']
    """

    function: Coefficient
    priors: Priors
    names: tuple[str, ...]
    affine: bool = False

    def __init__(self, function: Coefficient, priors: Priors, names: Sequence[object], affine: bool = False) -> None:
        for site, prior in priors.items():
            check_prior(site, prior)
        labels = tuple(str(name) for name in names)
        if not labels or len(set(labels)) != len(labels):
            raise ValueError(f"names must be the distinct names of the coordinates, got {labels}.")
        for name, value in {"function": function, "priors": dict(priors), "names": labels, "affine": affine}.items():
            object.__setattr__(self, name, value)

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return len(self.names)

    def __add__(self, other: Drift) -> Drift:
        if self.dim != other.dim:
            raise ValueError(f"drifts of {self.dim} and {other.dim} coordinates cannot be added.")
        shared = set(self.priors) & set(other.priors)
        if shared:
            raise ValueError(
                f"both drifts have a parameter {sorted(shared)[0]!r}; tell them apart: drift.prefixed('second_')."
            )
        priors = {**self.priors, **other.priors}
        return Drift(partial(_sum, self.function, other.function), priors, self.names, self.affine and other.affine)

    def prefixed(self, prefix: str) -> Drift:
        """Give the same drift with `prefix` before the name of each parameter."""
        function = partial(_renamed, self.function, tuple((site, prefix + site) for site in self.priors))
        priors = {prefix + site: prior for site, prior in self.priors.items()}
        return Drift(function, priors, self.names, self.affine)

    def with_priors(self, **priors: Distribution) -> Drift:
        """Give the same drift with other priors for some of its parameters."""
        unknown = [site for site in priors if site not in self.priors]
        if unknown:
            raise ValueError(f"no parameter {unknown[0]!r} in this drift; it has {sorted(self.priors)}.")
        return Drift(self.function, {**self.priors, **priors}, self.names, self.affine)


def _sum(first: Coefficient, second: Coefficient, theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    return jnp.add(first(theta, x, t), second(theta, x, t))


def _renamed(
    function: Coefficient, names: tuple[tuple[str, str], ...], theta: Theta, x: Array, t: jax.typing.ArrayLike
) -> jax.typing.ArrayLike:
    return function({own: theta[site] for own, site in names}, x, t)


@dataclass(frozen=True, eq=False)
class Volatility(Structural):
    """s_theta(x, t) as [d] (independent noise in each coordinate) or [d, m], and the priors of its parameters.

    Parameters
    ----------
    function : callable (theta, x, t) -> array broadcasting to [d], or array [d, m]
    priors : dict of site name -> NumPyro distribution; empty where the volatility is known
    state_free : whether s does not depend on the state
    """

    function: Coefficient
    priors: Priors
    state_free: bool = False


@dataclass(frozen=True, eq=False)
class ReferenceSDE(Structural):
    """dX = b_theta(X, t) dt + s_theta(X, t) dW with priors on theta: the model of how particles move.

    Parameters
    ----------
    drift : Drift
    volatility : Volatility

    Examples
    --------
    >>> from tercet.models import ReferenceSDE, lotka_volterra, proportional_volatility
    >>> sde = ReferenceSDE(lotka_volterra(), proportional_volatility())
    >>> sde.names, list(sde.priors)
    (('prey', 'predator'), ['alpha', 'beta', 'gamma', 'delta', 'volatility'])
    >>> sde == ReferenceSDE(lotka_volterra(), proportional_volatility())
    True
    """

    drift: Drift
    volatility: Volatility

    def __post_init__(self) -> None:
        shared = set(self.drift.priors) & set(self.volatility.priors)
        if shared:
            raise ValueError(f"drift and volatility both have a parameter {sorted(shared)[0]!r}; prefix the drift's.")

    @cached_property
    def parts(self) -> Parts:
        """Numbers and structure; the numbers are structure too where the functions work on known ones only.

        A drift of a user's may hand an array of its `functools.partial` to NumPy, or branch on a number.
        """
        numbers, structure = partition((self.drift, self.volatility), is_real, strict=False)

        def values(numbers: tuple[object, ...]) -> tuple[Array, Array]:
            sde = ReferenceSDE(*structure.bind(numbers))
            theta = {site: jnp.zeros(prior.shape()) for site, prior in self.priors.items()}
            x, t = jnp.zeros(self.dim), jnp.zeros(())
            return sde.b(theta, x, t), sde.volatility_matrix(theta, x, t)

        try:
            jax.eval_shape(values, as_jax(numbers))
        except Exception:  # whatever is wrong with a function shows itself where it is called with values
            whole = Fixed((self.drift, self.volatility), (content(self.drift), content(self.volatility)))
            return (), Structure(jax.tree.structure(0), (whole,))
        return numbers, structure

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self.drift.dim

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return self.drift.names

    @property
    def priors(self) -> dict[str, Distribution]:
        """Priors of all parameters, drift first."""
        return {**self.drift.priors, **self.volatility.priors}

    @property
    def affine(self) -> bool:
        """Whether transitions are exactly Gaussian, with a covariance that does not depend on the start."""
        return self.drift.affine and self.volatility.state_free

    def b(self, theta: Theta, x: Float[Array, " d"], t: jax.typing.ArrayLike) -> Float[Array, " d"]:
        """Drift at one state."""
        return jnp.broadcast_to(jnp.asarray(self.drift.function(theta, x, t)), x.shape)

    def volatility_matrix(self, theta: Theta, x: Float[Array, " d"], t: jax.typing.ArrayLike) -> Float[Array, "d m"]:
        """Volatility s at one state, as a matrix."""
        value = jnp.asarray(self.volatility.function(theta, x, t))
        return value if value.ndim == 2 else jnp.diag(jnp.broadcast_to(value, x.shape))

    def diffusion(self, theta: Theta, x: Float[Array, " d"], t: jax.typing.ArrayLike) -> Float[Array, "d d"]:
        """Diffusion matrix s s' at one state."""
        value = jnp.asarray(self.volatility.function(theta, x, t))
        return value @ value.T if value.ndim == 2 else jnp.diag(jnp.broadcast_to(value, x.shape) ** 2)

    def sample_parameters(self) -> dict[str, Array]:
        """Sample every parameter from its prior, as NumPyro sites (inside a model)."""
        return {site: jnp.asarray(numpyro.sample(site, prior)) for site, prior in self.priors.items()}

    def parameters(self, theta: Values) -> dict[str, Array]:
        """Check values of all parameters and give them as JAX arrays."""
        missing = [site for site in self.priors if site not in theta]
        if missing:
            raise ValueError(f"theta lacks {missing}; this reference has the parameters {list(self.priors)}.")
        values = {}
        for site, prior in self.priors.items():
            value = np.asarray(theta[site], dtype=np.float64)
            if value.shape != tuple(prior.shape()):
                raise ValueError(f"theta[{site!r}] must have shape {tuple(prior.shape())}, got {value.shape}.")
            if not np.isfinite(value).all():
                raise ValueError(f"theta[{site!r}] is not finite: {value}.")
            values[site] = jnp.asarray(value.astype(jax.dtypes.canonicalize_dtype(np.float64)))
        return values


def check_prior(site: str, prior: object) -> None:
    """Raise where the prior of a site is no NumPyro distribution."""
    if not isinstance(prior, numpyro.distributions.Distribution):
        raise ValueError(f"the prior of {site!r} must be a NumPyro distribution, got {prior!r}.")


def as_number(known: jax.typing.ArrayLike, x: Array) -> Array:
    """A known number or array, which may be traced, in the precision of a state."""
    return jnp.asarray(known if isinstance(known, jax.Array) else np.asarray(known).astype(x.dtype), x.dtype)
