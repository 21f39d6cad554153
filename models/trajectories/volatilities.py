"""Volatility families: constant, proportional to the state, one number for each coordinate; known or learned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax.typing
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array
from numpy.typing import ArrayLike

from tercet.models.trajectories.reference_sdes import Theta, Volatility, as_number, check_prior

if TYPE_CHECKING:  # not at run time: what is no distribution meets our ValueError
    from numpyro.distributions import Distribution


def constant_volatility(value: float | None = None, prior: Distribution | None = None) -> Volatility:
    """Constant volatility, s(x) = volatility for all coordinates and states; learned where `value` is None.

    Parameters
    ----------
    value : known volatility (data units / sqrt(time unit)), or None
    prior : NumPyro distribution of the site `volatility`; default LogNormal(log 0.3, 1.5)
    """
    return _scalar(_constant, value, prior, state_free=True)


def proportional_volatility(value: float | None = None, prior: Distribution | None = None) -> Volatility:
    """Volatility in proportion to the state, s(x) = volatility * x coordinate by coordinate.

    Parameters
    ----------
    value : known volatility (1 / sqrt(time unit)), or None
    prior : NumPyro distribution of the site `volatility`; default LogNormal(log 0.3, 1.5)
    """
    return _scalar(_proportional, value, prior, state_free=False)


def diagonal_volatility(dim: int, value: ArrayLike | None = None, prior: Distribution | None = None) -> Volatility:
    """Diagonal volatility, s = diag(volatility): one number for each coordinate, learned where `value` is None.

    Parameters
    ----------
    dim : number of coordinates d
    value : d known volatilities, zero where a coordinate has no noise of its own; or None
    prior : NumPyro distribution of one entry of the site `volatility` [d]; default LogNormal(log 0.3, 1.5)
    """
    if value is None:
        return Volatility(partial(_constant, None), {"volatility": _prior(prior).expand([dim]).to_event(1)}, True)
    known = np.asarray(value, dtype=np.float64)
    if known.shape != (dim,) or not np.isfinite(known).all() or (known < 0).any() or not known.any():
        raise ValueError(f"value must be {dim} volatilities >= 0, not all zero, got {value}.")
    return Volatility(partial(_constant, known), {}, True)


def _scalar(
    function: Callable[..., Array], value: float | None, prior: Distribution | None, state_free: bool
) -> Volatility:
    if value is None:
        return Volatility(partial(function, None), {"volatility": _prior(prior)}, state_free)
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"a known volatility must be positive, got {value!r}; leave it out to learn it.")
    return Volatility(partial(function, float(value)), {}, state_free)


def _constant(known: float | np.ndarray | Array | None, theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    return theta["volatility"] if known is None else as_number(known, x)


def _proportional(known: float | Array | None, theta: Theta, x: Array, t: jax.typing.ArrayLike) -> Array:
    return (theta["volatility"] if known is None else known) * x


def _prior(prior: Distribution | None) -> Distribution:
    if prior is None:
        return dist.LogNormal(float(np.log(0.3)), 1.5)
    check_prior("volatility", prior)
    return prior
