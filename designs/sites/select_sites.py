"""Where to put the next validation sites: `select` with candidate sites."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tercet.designs.criteria.criterion import Criterion
from tercet.designs.select import RANDOM_BATCHES, Selection, select
from tercet.designs.sites.candidates import SiteCandidates
from tercet.inference.posteriors.posterior import Posterior
from tercet.models._inputs import KeyLike, as_floats
from tercet.models.space.geometry import as_sites
from tercet.models.space.loss_surfaces import LossSurface
from tercet.models.space.sites import Metric, Sites


def select_sites(
    candidates: SiteCandidates | Sites | ArrayLike,
    posterior: Posterior | None,
    budget: int | float,
    *,
    criterion: str | Criterion | None = None,
    existing: Sites | ArrayLike | None = None,
    target: Sites | ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    cost: ArrayLike | None = None,
    exclude: Sites | ArrayLike | None = None,
    key: KeyLike = 0,
    random_batches: int = RANDOM_BATCHES,
) -> Selection:
    """Choose at which sites labels should be collected next.

    "k-centre" makes the fill distance of the target sites small and needs no model. "greedy V" makes the variance of
    the risk under a fitted loss surface small: with a row d of the surface's basis at each site, t the share-weighted
    sum of the rows at the targets, A the posterior covariance and v the information of one label, each pick takes

        (d' A t)^2 v / (1 + v d' A d)

    off the variance t' A t, and the largest is picked. The surface's amplitude, length and noise are held at their
    posterior means: what a label would tell of them does not count. Exact given these for family "normal"; for
    "log-normal" and "gamma" the expected loss is linearised at its mean, for "gamma" and "student" a label counts by
    its Fisher information.

    Parameters
    ----------
    candidates : Sites or array [m, d] where a label could be collected, or SiteCandidates
    posterior : of a LossSurface (`laplace`, `nuts`); None will do for "k-centre"
    budget : number of sites (or total cost, with `cost`)
    criterion : "k-centre" (default without a posterior), "greedy V" (default with one), "greedy D" and "posterior
        variance" (of the surface, target or not), "random", or a Criterion
    existing : Sites or array [k, d] that have labels, or will have; None for those the posterior was fitted on
    target : Sites or array [n, d] that matter, the test sites; None for all candidates
    target_weights : array [n], optional, what each target counts (people, area); not read by "k-centre"
    cost : positive array [m], optional; the gain per cost then decides
    exclude : positions in `candidates`, booleans [m], or Sites that are not to be chosen
    key : int seed or JAX key, for random picks
    random_batches : random batches behind `expected_random`

    Returns
    -------
    Selection
        chosen [b]: positions in `candidates`. gains: reductions of the fill distance (units of the plane, kilometres),
        or of the variance of the risk (squared loss). table: site, coordinates, gain, cost where given, and the fill
        distance or the sd of the risk after each pick. May hold fewer than `budget` sites, with a warning, where
        "k-centre" finds nothing more to gain.

    Raises
    ------
    ValueError
        For sites of different spaces or outside the surface's box, costs that are not positive, a missing posterior.

    References
    ----------
    Gonzalez (1985), Theoretical Computer Science 38; Chaloner and Verdinelli (1995), Statistical Science 10, section
    2.3; Cressie (1993), Statistics for Spatial Data, section 4.6.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.designs import select_sites
    >>> grid = np.linspace(0, 1, 101)[:, None]
    >>> picked = select_sites(grid, None, 2, existing=[[0.0]], target=[[0.0], [0.4], [1.0]])
    >>> picked.chosen.tolist(), picked.gains.round(2).tolist()
    ([100, 40], [0.6, 0.4])
    >>> from tercet.inference import laplace
    >>> from tercet.models import LossSurface
    >>> rng = np.random.default_rng(0)
    >>> seen = rng.uniform(0, 0.5, size=(50, 1))
    >>> losses = np.exp(np.sin(6 * seen[:, 0]) + 0.3 * rng.normal(size=50))
    >>> fit = laplace(LossSurface.around(losses, seen, grid, basis=20), seen, losses)
    >>> bool((select_sites(grid, fit, 3, target=[[0.9]]).chosen > 70).all())
    True
    """
    if isinstance(candidates, SiteCandidates):
        if existing is not None or target_weights is not None or exclude is not None:
            raise ValueError("existing, target_weights and exclude belong to SiteCandidates; give them there.")
        chosen_from, size = candidates, len(candidates)
    else:
        known = as_sites("candidates", candidates, _metric(posterior, existing, target))
        chosen_from, size = SiteCandidates(known, existing, target, target_weights, exclude), len(known)
        target = None
    price = None
    if cost is not None:
        price = as_floats("cost", cost, 1)
        if len(price) != size:
            raise ValueError(f"cost must hold {size} positive numbers, one a candidate; got {len(price)}.")
        price = price if isinstance(candidates, SiteCandidates) else price[chosen_from.positions]
    if criterion is None:
        criterion = "k-centre" if posterior is None else "greedy V"
    picked = select(
        chosen_from, posterior, budget,
        criterion=criterion, target=target, cost=price, key=key, random_batches=random_batches,
    )  # fmt: skip
    if price is None:
        return picked
    spent = price[np.searchsorted(chosen_from.positions, picked.chosen)]
    return picked._replace(table=picked.table.assign(cost=spent))


def _metric(posterior: Posterior | None, *others: Sites | ArrayLike | None) -> Metric:
    """The metric of arrays of coordinates: that of the other sites, or of the fitted surface."""
    known: list[Metric] = [each.metric for each in others if isinstance(each, Sites)]
    if posterior is not None and isinstance(model := posterior.model, LossSurface):
        known.append(model.frame.metric)
    return known[0] if known else "plane"
