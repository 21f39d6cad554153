"""Reference stochastic differential equations dX = b_theta(X, t) dt + s_theta(X, t) dW: drift, volatility, priors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

Theta = dict[str, Any]
"""Parameters of drift and volatility: site name to value."""
Field = Callable[[Theta, Any, Any], Any]
"""(theta, state [d], time) -> [d] (a volatility may also give [d, m])."""


@dataclass(frozen=True)
class Drift:
    """b_theta(x, t) [d] and the priors of its parameters; `+` adds two drifts.

    Parameters
    ----------
    function : callable (theta, x, t) -> array [d]
        theta is a dict of the sites in `priors`, x the state [d], t the time; written with jax.numpy.
    priors : dict of site name -> NumPyro distribution
        In the units of the data and of its times.
    names : sequence of d names of coordinates
    affine : whether b is affine in x (then the moments are exact and one matrix serves all particles)

    Examples
    --------
    A family of one's own:

    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from tercet.models import Drift, ReferenceSDE, constant_volatility
    >>> def decay(theta, x, t):
    ...     return -theta["rate"] * x**3
    >>> sde = ReferenceSDE(Drift(decay, {"rate": dist.LogNormal(0.0, 1.0)}, ["x"]), constant_volatility())
    >>> sorted(sde.priors)
    ['rate', 'volatility']
    """

    function: Field
    priors: Mapping[str, Any]
    names: tuple[str, ...]
    affine: bool = False

    def __init__(self, function: Field, priors: Mapping[str, Any], names: Any, affine: bool = False) -> None:
        for site, prior in priors.items():
            _check_prior(site, prior)
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
        first, second = self.function, other.function
        return Drift(
            lambda theta, x, t: first(theta, x, t) + second(theta, x, t),
            {**self.priors, **other.priors},
            self.names,
            self.affine and other.affine,
        )

    def prefixed(self, prefix: str) -> Drift:
        """Give the same drift with `prefix` before the name of each parameter."""
        function, sites = self.function, tuple(self.priors)
        return Drift(
            lambda theta, x, t: function({site: theta[prefix + site] for site in sites}, x, t),
            {prefix + site: prior for site, prior in self.priors.items()},
            self.names,
            self.affine,
        )

    def with_priors(self, **priors: Any) -> Drift:
        """Give the same drift with other priors for some of its parameters."""
        unknown = [site for site in priors if site not in self.priors]
        if unknown:
            raise ValueError(f"no parameter {unknown[0]!r} here; this drift has {sorted(self.priors)}.")
        return Drift(self.function, {**self.priors, **priors}, self.names, self.affine)


@dataclass(frozen=True)
class Volatility:
    """s_theta(x, t) as [d] (independent noise a coordinate) or [d, m], and the priors of its parameters.

    Parameters
    ----------
    function : callable (theta, x, t) -> array broadcasting to [d], or array [d, m]
    priors : dict of site name -> NumPyro distribution; empty where the volatility is known
    state_free : whether s does not depend on the state
    """

    function: Field
    priors: Mapping[str, Any]
    state_free: bool = False


@dataclass(frozen=True)
class ReferenceSDE:
    """dX = b_theta(X, t) dt + s_theta(X, t) dW with priors on theta: the family that trajectories come from.

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
    """

    drift: Drift
    volatility: Volatility

    def __post_init__(self) -> None:
        shared = set(self.drift.priors) & set(self.volatility.priors)
        if shared:
            raise ValueError(f"drift and volatility both have a parameter {sorted(shared)[0]!r}; prefix the drift's.")

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self.drift.dim

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return self.drift.names

    @property
    def priors(self) -> dict[str, Any]:
        """Priors of all parameters, drift first."""
        return {**self.drift.priors, **self.volatility.priors}

    @property
    def affine(self) -> bool:
        """Whether transitions are exactly Gaussian with a covariance that no start changes."""
        return self.drift.affine and self.volatility.state_free

    def b(self, theta: Theta, x: Any, t: Any) -> Any:
        """Drift at one state [d]."""
        return jnp.broadcast_to(jnp.asarray(self.drift.function(theta, x, t)), x.shape)

    def root(self, theta: Theta, x: Any, t: Any) -> Any:
        """Volatility at one state as a matrix [d, m]."""
        value = jnp.asarray(self.volatility.function(theta, x, t))
        return value if value.ndim == 2 else jnp.diag(jnp.broadcast_to(value, x.shape))

    def diffusion(self, theta: Theta, x: Any, t: Any) -> Any:
        """S s' [d, d] at one state."""
        value = jnp.asarray(self.volatility.function(theta, x, t))
        return value @ value.T if value.ndim == 2 else jnp.diag(jnp.broadcast_to(value, x.shape) ** 2)

    def sample_parameters(self) -> Theta:
        """Sample every parameter from its prior, as NumPyro sites (inside a model)."""
        return {site: numpyro.sample(site, prior) for site, prior in self.priors.items()}

    def parameters(self, theta: Mapping[str, Any]) -> Theta:
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


def constant_volatility(value: float | None = None, prior: Any = None) -> Volatility:
    """S = volatility, one number for all coordinates and states; learned where `value` is None.

    Parameters
    ----------
    value : known volatility (data units / sqrt(time unit)), or None
    prior : NumPyro distribution of the site `volatility`; default LogNormal(log 0.3, 1.5)
    """
    return _scaled(value, prior, lambda level, x: level, state_free=True)


def proportional_volatility(value: float | None = None, prior: Any = None) -> Volatility:
    """s(x) = volatility * x, coordinate by coordinate: noise that grows with the state.

    Parameters
    ----------
    value : known volatility (1 / sqrt(time unit)), or None
    prior : NumPyro distribution of the site `volatility`; default LogNormal(log 0.3, 1.5)
    """
    return _scaled(value, prior, lambda level, x: level * x, state_free=False)


def diagonal_volatility(dim: int, value: Any = None, prior: Any = None) -> Volatility:
    """S = diag(volatility), one number a coordinate, learned where `value` is None.

    Parameters
    ----------
    dim : number of coordinates d
    value : d known volatilities, zero where a coordinate has no noise of its own; or None
    prior : NumPyro distribution of one entry of the site `volatility` [d]; default LogNormal(log 0.3, 1.5)
    """
    if value is None:
        base = _volatility_prior() if prior is None else prior
        _check_prior("volatility", base)
        return Volatility(lambda theta, x, t: theta["volatility"], {"volatility": base.expand([dim]).to_event(1)}, True)
    known = np.asarray(value, dtype=np.float64)
    if known.shape != (dim,) or not np.isfinite(known).all() or (known < 0).any() or not known.any():
        raise ValueError(f"value must be {dim} volatilities >= 0, not all zero, got {value}.")
    return Volatility(lambda theta, x, t: jnp.asarray(known.astype(x.dtype)), {}, True)


def _scaled(value: float | None, prior: Any, function: Callable[[Any, Any], Any], state_free: bool) -> Volatility:
    if value is None:
        base = _volatility_prior() if prior is None else prior
        _check_prior("volatility", base)
        return Volatility(lambda theta, x, t: function(theta["volatility"], x), {"volatility": base}, state_free)
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"a known volatility must be positive, got {value!r}; leave it out to learn it.")
    return Volatility(lambda theta, x, t: function(value, x), {}, state_free)


def _volatility_prior() -> Any:
    return dist.LogNormal(float(np.log(0.3)), 1.5)


def _check_prior(site: str, prior: Any) -> None:
    if not isinstance(prior, dist.Distribution):
        raise ValueError(f"the prior of {site!r} must be a NumPyro distribution, got {prior!r}.")
