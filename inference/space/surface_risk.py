"""Risk under a model of the loss surface: posterior of the mean expected loss at the test sites, and its slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.space.risk import normalised_shares
from tercet.inference.space.surfaces import surface_draws
from tercet.models._inputs import as_generator
from tercet.models.space.geometry import as_sites
from tercet.models.space.sites import Sites

BLOCK = 2_000
"""Test sites whose basis functions are held at once."""
LOOKED_AT = 500
"""Sites at which gradients are taken, at most: a quantile needs no more."""
CHAINS = 4


@dataclass(frozen=True, eq=False, repr=False)
class SurfaceRisk:
    """Posterior of the mean expected loss at the test sites.

    Attributes
    ----------
    draws : array [draws]
    surface : mean expected loss [m] of each test site
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
        """ArviZ container with the variable `risk`, independent draws shown as four chains."""
        from tercet.inference.posteriors.arviz_adapter import to_container

        whole = len(self.draws) // CHAINS * CHAINS
        return to_container({"posterior": {"risk": self.draws[:whole].reshape(CHAINS, -1)}})


def surface_risk(
    posterior: Posterior,
    test: Sites | ArrayLike,
    *,
    draws: int = 400,
    test_weights: ArrayLike | None = None,
    key: Any = 0,
) -> SurfaceRisk:
    """Posterior of the risk: for each draw of the loss surface, its mean expected loss at the test sites.

    Unlike neighbours it borrows strength where no validation site is near, and it is as good as the surface's model.

    Parameters
    ----------
    posterior : of a LossSurface (laplace, nuts)
    test : Sites or array [m, d]
    draws : of the surface (rounded up to a multiple of 100 for the normal families)
    test_weights : array [m], optional, what each test site counts
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
    found = surface_draws(posterior, draws, key)
    there = as_sites("test", test, found.model.frame.metric)
    share = normalised_shares(test_weights, len(there))
    total, mean = np.zeros(len(found.parameters["level"])), np.empty(len(there))
    for begin in range(0, len(there), BLOCK):
        rows = slice(begin, begin + BLOCK)
        expected = found.expected(found.model.frame.coordinates(Sites(there.coordinates[rows], there.metric)))
        total += expected @ share[rows]
        mean[rows] = expected.mean(axis=0)
    return SurfaceRisk(total, mean)


def expected_losses(posterior: Posterior, sites: Sites | ArrayLike, draws: int = 400, key: Any = 0) -> np.ndarray:
    """Draws [draws, m] of the expected loss at sites, jointly: `surface_risk` is their mean over test sites."""
    found = surface_draws(posterior, draws, key)
    return found.expected(found.model.frame.coordinates(as_sites("sites", sites, found.model.frame.metric)))


def lipschitz_constant(
    posterior: Posterior, sites: Sites | ArrayLike, *, quantile: float = 0.95, draws: int = 200, key: Any = 0
) -> float:
    """Lipschitz constant of the expected loss: a quantile of its gradient's norm over sites and posterior draws.

    An estimate: an interval built on it carries no guarantee. (Differences of losses at neighbouring sites would
    diverge as sites come closer: noise over distance.)

    Parameters
    ----------
    posterior : of a LossSurface
    sites : where the surface matters: validation and test sites
    quantile : 0.95 by default
    draws : of the surface
    key : int seed or JAX key

    Returns
    -------
    float, loss per unit of distance (per kilometre on the sphere)
    """
    found = surface_draws(posterior, draws, key)
    frame, known = found.model.frame, as_sites("sites", sites, found.model.frame.metric)
    if len(known) > LOOKED_AT:
        known = Sites(known.coordinates[as_generator(key).choice(len(known), LOOKED_AT, replace=False)], known.metric)
    places = frame.coordinates(known)
    gradient = found.gradients(places)
    if frame.metric == "sphere" and not frame.flat:  # along the sphere only
        gradient -= (gradient * places).sum(axis=-1, keepdims=True) * places
    norm = np.linalg.norm(gradient, axis=-1) / frame.scale
    if found.model.family in ("log-normal", "gamma"):
        norm *= found.expected(places)
    return float(np.quantile(norm, quantile))
