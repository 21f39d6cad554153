"""Risk: the mean expected loss at test sites, estimated from losses at validation sites; shared input checks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.neighbours import Neighbours
from tercet.inference.space.risk_intervals import bias_aware_half_length, local_variance
from tercet.models._inputs import as_floats
from tercet.models.space.geometry import as_sites, check_same_space
from tercet.models.space.sites import Sites

REMOTE = 3.0
"""A test site farther from all labels than this many fill distances of the validation sites is warned about."""


@runtime_checkable
class RiskEstimate(Protocol):
    """An estimated risk with an interval: `Risk`, `SurfaceRisk`, or an object of your own."""

    @property
    def estimate(self) -> float:
        """The estimate."""

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Interval of this level."""


Estimator = Callable[[np.ndarray, Sites, Sites], RiskEstimate | float]
"""From losses [n], validation sites and test sites to a risk."""


@dataclass(frozen=True, eq=False, repr=False)
class Risk:
    """Mean expected loss at the test sites, estimated from losses at validation sites.

    Attributes
    ----------
    method : name of the estimator
    estimate : weights @ losses
    weights : array [n], the weight of each validation site; they sum to one
    standard_error : sd of the estimate given the sites, from the local variance of the losses; it ignores bias
    k : validation sites averaged for each test site (0 where the method has none)
    mean_distance : from a test site to those neighbours, on average (None where the method has none)
    max_distance : largest distance of a test site to its k-th neighbour
    lipschitz : Lipschitz constant of the expected loss, per unit of distance, where given
    noise_term : of the bound, M sqrt(log(2 / delta) / 2) |w|, where a bound was minimised
    loss_bound : M, given or the largest loss observed
    delta : probability with which the bound may fail
    limits : between which every loss, and so the risk, is known to lie; intervals end there
    bound_terms : for each k tried: k, distance term L x distance to the k-th neighbour, noise term
    """

    method: str
    estimate: float
    weights: np.ndarray
    standard_error: float
    _: KW_ONLY
    k: int = 0
    mean_distance: float | None = None
    max_distance: float | None = None
    lipschitz: float | None = None
    noise_term: float | None = None
    loss_bound: float | None = None
    delta: float | None = None
    limits: tuple[float, float] = (-np.inf, np.inf)
    bound_terms: tuple[tuple[int, float, float], ...] = ()

    @property
    def bias(self) -> float | None:
        """Largest bias that the Lipschitz constant allows: L x mean neighbour distance."""
        return None if self.lipschitz is None or self.mean_distance is None else self.lipschitz * self.mean_distance

    @property
    def bound(self) -> float | None:
        """|estimate - risk| stays below it with probability at least 1 - delta: L x max_distance + noise_term."""
        if self.noise_term is None or self.lipschitz is None or self.max_distance is None:
            return None
        return self.lipschitz * self.max_distance + self.noise_term

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Confidence interval.

        With a Lipschitz constant it is bias-aware: half-length b + D with b the largest bias, s the standard error
        and Phi(D / s) - Phi(-(2 b + D) / s) = level. Without one it is the normal interval, which ignores bias.
        """
        half = bias_aware_half_length(self.bias or 0.0, self.standard_error, level)
        return max(self.estimate - half, self.limits[0]), min(self.estimate + half, self.limits[1])

    def __repr__(self) -> str:
        low, high = self.interval()
        kind = "bias-aware" if self.bias is not None else "sampling only"
        more = f", k = {self.k}" if self.k else ""
        more += f", L = {self.lipschitz:.3g}" if self.lipschitz is not None else ""
        return f"Risk({self.method}: {self.estimate:.4g}, 90 % {kind} {low:.4g} to {high:.4g}{more})"


def pointwise_losses(
    response: ArrayLike,
    prediction: ArrayLike,
    loss: Literal["squared", "absolute", "zero-one"] | Callable[[np.ndarray, np.ndarray], ArrayLike] = "squared",
    bound: float | None = None,
) -> np.ndarray:
    """Losses [n] of predictions at n sites.

    Parameters
    ----------
    response, prediction : arrays [n]
    loss : "squared" (y - f)^2, "absolute" |y - f|, "zero-one" 1{y != f}, or a function of two arrays [n]
    bound : optional; larger losses are truncated, min(loss, bound)

    Examples
    --------
    >>> from tercet.inference import pointwise_losses
    >>> pointwise_losses([0.0, 1.0], [0.5, 3.0], bound=1.0).tolist()
    [0.25, 1.0]
    """
    y, f = as_floats("response", response, 1), as_floats("prediction", prediction, 1)
    if len(y) != len(f):
        raise ValueError(f"response has {len(y)} entries and prediction {len(f)}; both need one per site.")
    losses: dict[str, Callable[[], ArrayLike]] = {
        "squared": lambda: np.square(y - f),
        "absolute": lambda: np.abs(y - f),
        "zero-one": lambda: 1.0 * (y != f),
    }
    if not callable(loss) and loss not in losses:
        raise ValueError(f"loss must be one of {list(losses)} or a function of two arrays, got {loss!r}.")
    values = as_floats("losses", loss(y, f) if callable(loss) else losses[loss](), 1).astype(np.float64)
    return values if bound is None else np.minimum(values, bound)


def weighted_risk(method: str, losses: np.ndarray, tree: Neighbours, weights: np.ndarray, **terms: Any) -> Risk:
    """The risk w @ losses with standard error s, s^2 = sum of w_n^2 sigma_n^2; `terms` are other fields of Risk."""
    variance = local_variance(losses, tree)
    return Risk(method, float(weights @ losses), weights, float(np.sqrt(np.square(weights) @ variance)), **terms)


def warn_remote(tree: Neighbours, distance: float) -> None:
    """Warn where a test site is this far from its nearest validation site, and that is far beyond their own gaps."""
    fill = float(tree.nearest_other[0].max())
    if distance > REMOTE * fill > 0:
        unit = "km" if tree.sites.metric == "sphere" else "units"
        warnings.warn(
            f"a test site lies {distance:.3g} {unit} from the nearest validation site, {distance / fill:.1f} times the "
            f"fill distance of the validation sites themselves ({fill:.3g} {unit}, the largest distance of one to its "
            "nearest other): there are no labels near it, and only a model of the losses (surface_risk) extrapolates.",
            stacklevel=3,
        )


def checked_inputs(
    losses: ArrayLike, validation: Sites | ArrayLike, test: Sites | ArrayLike
) -> tuple[np.ndarray, Sites, Sites]:
    """Losses [n] and two sets of sites in one space, as every estimator needs them."""
    labelled = as_sites("validation", validation)
    targets = as_sites("test", test, labelled.metric)
    check_same_space(labelled, targets)
    values = as_floats("losses", losses, 1).astype(np.float64)
    if len(values) != len(labelled):
        raise ValueError(f"losses has {len(values)} entries for {len(labelled)} validation sites; give one per site.")
    if len(values) < 2:
        raise ValueError("one validation site says nothing about uncertainty; at least two are needed.")
    return values, labelled, targets


def normalised_shares(weights: ArrayLike | None, size: int) -> np.ndarray:
    """Weights of test sites, scaled to sum to one; equal ones where none are given."""
    if weights is None:
        return np.full(size, 1 / size)
    array = as_floats("test_weights", weights, 1).astype(np.float64)
    if len(array) != size or array.min() < 0 or array.sum() <= 0:
        raise ValueError(f"test_weights needs {size} numbers, none negative, not all zero; got {len(array)}.")
    return np.asarray(array / array.sum())
