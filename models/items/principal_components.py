"""Projection of items on principal components with one common scale, fitted to their features."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.models.items.features import Features
from tercet.models.items.items import Items
from tercet.models.items.projection import Projection


def project(items: Items, components: int | Projection | None) -> Items:
    """Project features on principal components with one common scale, or only centre and scale them (None).

    z = (x - center) V / s, with V the leading right singular vectors of the centred features and s the root
    mean variance of the components, so that the spread of one component against another is kept. The
    projection travels with the items and with every posterior fitted on them: raw embeddings given to
    `tercet.inference.reward` are projected in the same way.

    Parameters
    ----------
    items : Items
        Raw features [n, d].
    components : int, Projection or None
        Number of components k <= min(n, d), or a projection fitted elsewhere; None keeps all d features, z = (x -
        center) / s.

    Returns
    -------
    Items
        Features [n, k].

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.models import Items, project
    >>> items = project(Items(np.random.default_rng(0).normal(size=(50, 8))), 3)
    >>> items.features.shape, round(float(items.features.var(0).mean()), 6)
    ((50, 3), 1.0)
    """
    if items.projection is not None:
        raise ValueError("these items are projected already; project the raw items instead.")
    fitted = components if isinstance(components, Projection) else fit_projection(items.operator, components)
    return items.mapped(fitted, fitted)


def fit_projection(features: Features, components: int | None) -> Projection:
    """Fit centre, leading components and common scale; signs are fixed so that the fit is reproducible."""
    n, d = features.shape
    if components is None:
        center, variances = features.moments
        return Projection(center, None, _spread(center, variances))
    if not 1 <= components <= min(n, d):
        raise ValueError(
            f"components must be between 1 and min(n, d) = {min(n, d)} for features of shape "
            f"{features.shape}, got {components}."
        )
    center, scatter = features.scatter()
    variances, vectors = scipy.linalg.eigh(scatter / n, subset_by_index=[d - components, d - 1])
    basis = vectors[:, ::-1]
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(components)])
    return Projection(center, basis, _spread(center, variances))


def _spread(center: Float[np.ndarray, " d"], variances: Float[np.ndarray, " k"]) -> float:
    """Root mean variance, where it is more than rounding."""
    spread = float(np.sqrt(np.mean(variances)))
    if spread <= 1e-12 * max(1.0, float(np.abs(center).max())):
        raise ValueError("all items have the same features: there is nothing to project or to compare.")
    return spread
