"""The average loss where it matters, estimated from losses elsewhere: what every estimator is given and gives back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.neighbours import Neighbours
from tercet.inference.space.risk_intervals import bias_aware_half_length, local_variance
from tercet.models._inputs import as_floats
from tercet.models.space.geometry import as_sites, check_same_space
from tercet.models.space.sites import Sites

FAR = 3.0
"""Test sites farther from validation than this many fill distances of the validation sites are warned about."""


@dataclass(frozen=True, eq=False, repr=False)
class Risk:
    """Average loss at the test sites, estimated from losses at validation sites.

    Attributes
    ----------
    method : how it was estimated
    estimate : weights @ losses
    weights : array [n], the share of each validation site; they sum to one
    standard_error : sd of the estimate given the sites, from the local variance of the losses; no bias in it
    k : neighbours a test site listens to (0 where the method has none)
    mean_distance : from a test site to those neighbours, on average (None where the method has none)
    farthest : largest distance of a test site to its k-th neighbour
    lipschitz : Lipschitz constant of the expected loss, per unit of distance, where given
    spread : half-width of the bound's noise term, M sqrt(log(2 / delta) / 2) |w|, where a bound was minimised
    loss_bound : M, given or the largest loss seen
    delta : probability that the bound leaves to chance
    limits : between which every loss, and so the risk, is known to lie; intervals end there
    ladder : for each k looked at: k, L x distance to the k-th neighbour, noise term
    """

    method: str
    estimate: float
    weights: np.ndarray
    standard_error: float
    k: int = 0
    mean_distance: float | None = None
    farthest: float | None = None
    lipschitz: float | None = None
    spread: float | None = None
    loss_bound: float | None = None
    delta: float | None = None
    limits: tuple[float, float] = (-np.inf, np.inf)
    ladder: tuple[tuple[int, float, float], ...] = ()

    @property
    def bias(self) -> float | None:
        """Largest bias that the Lipschitz constant allows: L x mean neighbour distance."""
        return None if self.lipschitz is None or self.mean_distance is None else self.lipschitz * self.mean_distance

    @property
    def bound(self) -> float | None:
        """|estimate - risk| stays below it with probability 1 - delta: L x farthest + spread."""
        if self.spread is None or self.lipschitz is None or self.farthest is None:
            return None
        return self.lipschitz * self.farthest + self.spread

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Confidence interval.

        With a Lipschitz constant it is bias-aware: half-length b + D with b the largest bias, s the standard error
        and Phi(D / s) - Phi(-(2 b + D) / s) = level. Without one it is the normal interval, which knows no bias.
        """
        half = bias_aware_half_length(self.bias or 0.0, self.standard_error, level)
        return max(self.estimate - half, self.limits[0]), min(self.estimate + half, self.limits[1])

    def __repr__(self) -> str:
        low, high = self.interval()
        aware = "bias-aware" if self.bias is not None else "sampling only"
        more = f", k = {self.k}" if self.k else ""
        more += f", L = {self.lipschitz:.3g}" if self.lipschitz is not None else ""
        return f"Risk({self.method}: {self.estimate:.4g}, 90 % {aware} {low:.4g} to {high:.4g}{more})"


def pointwise_losses(
    response: ArrayLike, prediction: ArrayLike, loss: Any = "squared", bound: float | None = None
) -> np.ndarray:
    """Losses [n] of predictions at n sites.

    Parameters
    ----------
    response, prediction : arrays [n]
    loss : "squared" (y - f)^2, "absolute" |y - f|, "zero-one" 1{y != f}, or a function of two arrays [n]
    bound : optional; losses are cut off there, min(loss, bound)

    Examples
    --------
    >>> from tercet.inference import pointwise_losses
    >>> pointwise_losses([0.0, 1.0], [0.5, 3.0], bound=1.0).tolist()
    [0.25, 1.0]
    """
    y, f = as_floats("response", response, 1), as_floats("prediction", prediction, 1)
    if len(y) != len(f):
        raise ValueError(f"response has {len(y)} entries and prediction {len(f)}; both need one a site.")
    rules = {"squared": lambda: np.square(y - f), "absolute": lambda: np.abs(y - f), "zero-one": lambda: 1.0 * (y != f)}
    if not callable(loss) and loss not in rules:
        raise ValueError(f"loss must be one of {list(rules)} or a function of two arrays, got {loss!r}.")
    values = as_floats("losses", loss(y, f) if callable(loss) else rules[loss](), 1).astype(np.float64)
    return values if bound is None else np.minimum(values, bound)


def weighted_risk(method: str, losses: np.ndarray, tree: Neighbours, weights: np.ndarray, **terms: Any) -> Risk:
    """A risk w @ losses with standard error s, s^2 = sum of w_n^2 sigma_n^2."""
    variance = local_variance(losses, tree)
    return Risk(method, float(weights @ losses), weights, float(np.sqrt(np.square(weights) @ variance)), **terms)


def warn_far(tree: Neighbours, distance: float) -> None:
    """Warn of a test site at this distance from its nearest validation site, if nothing was measured near it."""
    fill = float(tree.spacing[0].max())
    if distance > FAR * fill > 0:
        unit = "km" if tree.sites.metric == "sphere" else "units"
        warnings.warn(
            f"a test site lies {distance:.3g} {unit} from the nearest validation site, {distance / fill:.1f} times the "
            f"fill distance of the validation sites themselves ({fill:.3g} {unit}, the largest gap between one and the "
            "next): nothing was measured there, only a model of the losses (surface_risk) says anything about it.",
            stacklevel=3,
        )


def checked(losses: ArrayLike, validation: Any, test: Any) -> tuple[np.ndarray, Sites, Sites]:
    """What every estimator asks of its input: losses [n] and two sets of sites in one space."""
    here = as_sites("validation", validation)
    there = as_sites("test", test, here.metric)
    check_same_space(here, there)
    values = as_floats("losses", losses, 1).astype(np.float64)
    if len(values) != len(here):
        raise ValueError(f"losses has {len(values)} entries for {len(here)} validation sites; give one a site.")
    if len(values) < 2:
        raise ValueError("one validation site says nothing about uncertainty; at least two are needed.")
    return values, here, there


def normalised_shares(weights: ArrayLike | None, size: int) -> np.ndarray:
    """Weights of test sites that sum to one."""
    if weights is None:
        return np.full(size, 1 / size)
    array = as_floats("test_weights", weights, 1).astype(np.float64)
    if len(array) != size or array.min() < 0 or array.sum() <= 0:
        raise ValueError(f"test_weights needs {size} numbers, none negative, not all zero; got {len(array)}.")
    return array / array.sum()
