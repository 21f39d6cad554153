"""Risk under a model of the losses: posterior of the mean expected loss at the test sites, and of its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.posteriors.arviz_adapter import to_container
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.space.risk import normalised_shares
from tercet.inference.space.surfaces import surface_draws
from tercet.models._inputs import as_generator
from tercet.models.space.geometry import as_sites
from tercet.models.space.loss_surfaces import POSITIVE
from tercet.models.space.sites import Sites

ROWS = 2_000
"""Test sites whose basis functions are held at once."""
GRADIENT_SITES = 500
"""Sites at which gradients are evaluated, at most: enough for a quantile."""
CHAINS = 4


@dataclass(frozen=True, eq=False, repr=False)
class SurfaceRisk:
    """Posterior of the mean expected loss at the test sites.

    Attributes
    ----------
    draws : array [draws]
    surface : posterior mean [m] of the expected loss at each test site
    """

    draws: np.ndarray
    surface: np.ndarray

    @property
    def method(self) -> str:
        """Name in tables."""
        return "loss surface"

    @property
    def estimate(self) -> float:
        """Posterior mean."""
        return float(self.draws.mean())

    @property
    def standard_error(self) -> float:
        """Posterior standard deviation."""
        return float(self.draws.std(ddof=1))

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Equal-tailed credible interval."""
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def __repr__(self) -> str:
        low, high = self.interval()
        return f"SurfaceRisk({self.estimate:.4g}, 90 % credible {low:.4g} to {high:.4g})"

    def to_arviz(self) -> Any:
        """ArviZ container with the variable `risk`, independent draws as four chains."""
        whole = len(self.draws) // CHAINS * CHAINS
        return to_container({"posterior": {"risk": self.draws[:whole].reshape(CHAINS, -1)}})


def surface_risk(
    posterior: Posterior,
    test: Sites | ArrayLike,
    *,
    draws: int = 400,
    test_weights: ArrayLike | None = None,
    key: int | jax.Array = 0,
) -> SurfaceRisk:
    """Posterior of the risk: for each draw of the loss surface, its mean expected loss at the test sites.

    Unlike averages of neighbours it extrapolates to where no validation site is near, and it is as good as the model.

    Parameters
    ----------
    posterior : of a LossSurface (laplace, nuts)
    test : Sites or array [m, d]
    draws : of the surface (rounded up to a multiple of 100 for the normal families)
    test_weights : array [m], optional, weights of the test sites in the mean
    key : int seed or JAX key

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import laplace, surface_risk
    >>> from tercet.models import LossSurface
    >>> rng = np.random.default_rng(0)
    >>> sites = rng.uniform(size=(200, 1))
    >>> losses = np.exp(sites[:, 0] + 0.3 * rng.normal(size=200))
    >>> fit = laplace(LossSurface.around(losses, sites, family="log-normal"), sites, losses)
    >>> low, high = surface_risk(fit, [[0.1], [0.2]]).interval()
    >>> bool(low < np.exp(0.15 + 0.3**2 / 2) < high)
    True
    """
    surfaces = surface_draws(posterior, draws, key)
    frame = surfaces.model.frame
    targets = as_sites("test", test, frame.metric)
    share = normalised_shares(test_weights, len(targets))
    risk, mean = np.zeros(len(surfaces)), np.empty(len(targets))
    for begin in range(0, len(targets), ROWS):
        rows = slice(begin, begin + ROWS)
        expected = surfaces.expected(frame.coordinates(targets.take(rows)))
        risk += expected @ share[rows]
        mean[rows] = expected.mean(axis=0)
    return SurfaceRisk(risk, mean)


def expected_losses(
    posterior: Posterior, sites: Sites | ArrayLike, draws: int = 400, key: int | jax.Array = 0
) -> np.ndarray:
    """Joint posterior draws [draws, m] of the expected loss at sites: `surface_risk` is their mean over test sites.

    Parameters
    ----------
    posterior : of a LossSurface (laplace, nuts)
    sites : Sites or array [m, d]
    draws : of the surface (rounded up to a multiple of 100 for the normal families)
    key : int seed or JAX key
    """
    surfaces = surface_draws(posterior, draws, key)
    frame = surfaces.model.frame
    return surfaces.expected(frame.coordinates(as_sites("sites", sites, frame.metric)))


def lipschitz_constant(
    posterior: Posterior,
    sites: Sites | ArrayLike,
    *,
    quantile: float = 0.95,
    draws: int = 200,
    key: int | jax.Array = 0,
) -> float:
    """Lipschitz constant of the expected loss: a quantile of the norm of its gradient over sites and posterior draws.

    It is an estimate: an interval built on it carries no guarantee. (Differences of losses at neighbouring sites would
    diverge as sites come closer: noise over distance.)

    Parameters
    ----------
    posterior : of a LossSurface
    sites : Sites or array [m, d], where the surface matters: validation and test sites
    quantile : 0.95 by default
    draws : of the surface
    key : int seed or JAX key

    Returns
    -------
    float, loss per unit of distance (per kilometre on the sphere)
    """
    surfaces = surface_draws(posterior, draws, key)
    frame = surfaces.model.frame
    known = as_sites("sites", sites, frame.metric)
    if len(known) > GRADIENT_SITES:
        known = known.take(as_generator(key).choice(len(known), GRADIENT_SITES, replace=False))
    coordinates = frame.coordinates(known)
    gradient = surfaces.gradients(coordinates)
    if frame.metric == "sphere" and not frame.flat:  # the component tangent to the sphere
        gradient -= (gradient * coordinates).sum(axis=-1, keepdims=True) * coordinates
    norm = np.linalg.norm(gradient, axis=-1) / frame.scale
    if surfaces.model.family in POSITIVE:  # d exp(f) = exp(f) df
        norm *= surfaces.expected(coordinates)
    return float(np.quantile(norm, quantile))
