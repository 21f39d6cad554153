"""Risks of several models with losses at the same validation sites, and the certainty of their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from tercet.inference.space.neighbours import Neighbours
from tercet.inference.space.risk import Risk, checked_inputs
from tercet.inference.space.risk_intervals import local_variance
from tercet.models.space.sites import Sites

if TYPE_CHECKING:
    import pandas as pd


def compare_risks(
    losses: Mapping[str, ArrayLike],
    validation: Sites | ArrayLike,
    test: Sites | ArrayLike,
    estimator: Callable[[np.ndarray, Sites, Sites], Risk],
    level: float = 0.9,
) -> pd.DataFrame:
    """Rank models by their risk at the test sites, in the manner of `arviz.compare`.

    The losses of two models at a site are paired: their difference d_n = loss_n - best loss_n has the estimate w @ d
    and the standard error of its own local variance.

    Parameters
    ----------
    losses : dict of model to array [n]
    validation : Sites or array [n, d]
    test : Sites or array [m, d]
    estimator : a function such as `partial(snn_risk, lipschitz=2.0, loss_bound=1.0)` whose weights depend on the sites
        only
    level : of the intervals

    Returns
    -------
    DataFrame, one row per model, best first
        rank, risk, se, low, high (interval of the estimator), difference (to the best), dse (its standard error),
        order_right: Phi(difference / dse), the probability that the best model is better, ignoring bias; where the
        estimator has a Lipschitz constant also `order_surely_right`, Phi((difference - bias) / dse), at the largest
        bias of the difference, twice L x mean neighbour distance.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import compare_risks, nearest_neighbour_risk
    >>> rng = np.random.default_rng(0)
    >>> sites = rng.uniform(size=(300, 1))
    >>> noise = rng.uniform(size=300)
    >>> losses = {"flat": noise + 0.5, "steep": noise + 2 * sites[:, 0]}
    >>> table = compare_risks(losses, sites, np.linspace(0.6, 1, 50)[:, None], nearest_neighbour_risk)
    >>> table.index.tolist(), bool(table.order_right["steep"] > 0.99)
    (['flat', 'steep'], True)
    """
    import pandas as pd

    if len(losses) < 2:
        raise ValueError(f"comparing needs at least two models, got {list(losses)}.")
    values: dict[str, np.ndarray] = {}
    risks: dict[str, Risk] = {}
    for name, given in losses.items():
        values[name], labelled, targets = checked_inputs(given, validation, test)
        risks[name] = estimator(values[name], labelled, targets)
    order = sorted(risks, key=lambda name: risks[name].estimate)
    best, weights, tree = order[0], risks[order[0]].weights, Neighbours(labelled)
    rows: list[dict[str, float]] = []
    for rank, name in enumerate(order):
        risk = risks[name]
        if not np.array_equal(risk.weights, weights):
            raise ValueError(
                "the weights of the estimator depend on the losses; give its options (loss_bound, lipschitz)."
            )
        low, high = risk.interval(level)
        paired = values[name] - values[best]
        difference = float(weights @ paired)
        dse = float(np.sqrt(np.square(weights) @ local_variance(paired, tree)))
        row = {"rank": rank, "risk": risk.estimate, "se": risk.standard_error, "low": low, "high": high}
        row |= {"difference": difference, "dse": dse}
        row["order_right"] = _probability_above(0.0, difference, dse) if rank else np.nan
        if risk.bias is not None:
            row["order_surely_right"] = _probability_above(2 * risk.bias, difference, dse) if rank else np.nan
        rows.append(row)
    return pd.DataFrame(rows, index=pd.Index(order, name="model"))


def _probability_above(threshold: float, mean: float, sd: float) -> float:
    """Probability that a normal variable exceeds the threshold; one half where it is certain to equal it."""
    if sd == 0:
        return float(mean > threshold) if mean != threshold else 0.5
    return float(ndtr((mean - threshold) / sd))
