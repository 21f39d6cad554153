"""The one module that imports ArviZ: the same containers and numbers from its 0.23 and its 1.x line."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import pandas as pd

# The tail is a fifth of few draws, and the fit of ArviZ 1.x needs six points in it.
_MIN_DRAWS = 30


def _arviz() -> tuple[Any, bool]:
    """ArviZ, and whether it is older than 1.0."""
    import arviz  # here and not at the top: it takes seconds

    return arviz, int(arviz.__version__.split(".")[0]) < 1


def to_container(
    groups: Mapping[str, Mapping[str, ArrayLike] | None],
    coords: Mapping[str, Sequence[Hashable] | np.ndarray] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """
    Put arrays into the container of the installed ArviZ: InferenceData (0.23) or xarray.DataTree (1.x).

    Parameters
    ----------
    groups : mapping
        Group ("posterior", "sample_stats", "log_likelihood", "posterior_predictive", "observed_data", ...)
        to variable to array: [chain, draw, ...], and [...] in "observed_data" and "constant_data".
        A group that is None or has no variables is left out.
    coords : mapping, optional
        Dimension to its values [size of the dimension].
    dims : mapping, optional
        Variable to the names of its dimensions after chain and draw; the same in every group.
    """
    used = {dim for names in (dims or {}).values() for dim in names}
    clash = sorted(used & {name for variables in groups.values() for name in variables or ()})
    if clash:  # xarray would silently turn the variable into a coordinate
        raise ValueError(f"{clash} are both variables and dimensions; rename the dimensions.")
    az, legacy = _arviz()
    filled = {
        # xarray would keep a JAX array as it is, on its device
        group: {name: np.asarray(values) for name, values in variables.items()}
        for group, variables in groups.items()
        if variables
    }
    labels = {
        "coords": {dim: np.asarray(values) for dim, values in (coords or {}).items()},
        "dims": {name: list(names) for name, names in (dims or {}).items()},
    }
    if not legacy:
        return az.from_dict(filled, **labels)
    container = az.from_dict(**filled, **labels)
    # from_dict of 0.23 silently drops the groups it does not know ("log_prior", "unconstrained_posterior")
    dropped = {name: az.dict_to_dataset(filled[name], **labels) for name in filled if name not in container.groups()}
    if dropped:
        container.add_groups(dropped)
    return container


def psis_khat(log_ratios: ArrayLike) -> float:
    """
    Return the Pareto k-hat of log importance ratios [draw], target minus proposal.

    -inf where all ratios are equal (no tail); +inf where no tail can be fitted: fewer than 30 draws,
    a NaN or +inf among the ratios, all of them -inf, or a tail of equal ratios.
    """
    ratios = np.asarray(log_ratios, dtype=np.float64)
    if ratios.ndim != 1:
        raise ValueError(f"log_ratios must have 1 dimension, got shape {ratios.shape}.")
    if ratios.size < _MIN_DRAWS or not np.isfinite(ratios.max()):
        return float("inf")
    if ratios.min() == ratios.max():
        return float("-inf")
    az, legacy = _arviz()
    if legacy:
        return float(az.psislw(ratios)[1])
    from arviz_stats.base import array_stats

    try:
        # psislw of 1.x takes log likelihoods and negates them; its pareto_khat ignores log_weights (1.3.3)
        khat = float(array_stats.psislw(-ratios)[1])
    except ValueError:  # the tail's ratios are all equal
        return float("inf")
    return float("inf") if np.isnan(khat) else khat


def leave_one_out(container: Any, approximate: bool) -> Any:
    """Pointwise PSIS leave-one-out of a container with log likelihoods.

    Parameters
    ----------
    container : as of `Posterior.to_arviz`
    approximate : whether the draws are of an approximation with the log density log_q, not of log_p; ArviZ 0.23 has no
        correction for that and takes them as exact
    """
    az, legacy = _arviz()
    if legacy or not approximate:
        return az.loo(container, pointwise=True)
    statistics = container["sample_stats"]
    return az.loo_approximate_posterior(container, statistics["log_p"], statistics["log_q"], pointwise=True)


def compare_loo(results: Mapping[str, Any]) -> pd.DataFrame:
    """Table of models by their leave-one-out results, the best first."""
    table: pd.DataFrame = _arviz()[0].compare(dict(results))
    return table


def summary(container: Any, var_names: Sequence[str] | None = None, ci_prob: float = 0.9) -> pd.DataFrame:
    """
    Summarise a container's posterior, one row a scalar, without the diagnostics of Markov chains.

    Independent draws have R-hat near 1 and an effective sample size near their number, whatever they were drawn from:
    these columns of `arviz.summary` would not check the approximation.

    Parameters
    ----------
    container : as of `Posterior.to_arviz`
    var_names : variables to show; all by default
    ci_prob : probability of the equal-tailed intervals

    Returns
    -------
    pandas.DataFrame
        Unrounded columns "mean", "sd", "eti90_lb", "eti90_ub" (equal-tailed; 90 for `ci_prob` 0.9), rows such
        as "ability[zebra]".
    """
    az, legacy = _arviz()
    options = {"var_names": None if var_names is None else list(var_names), "kind": "stats", "round_to": "none"}
    table: pd.DataFrame
    if not legacy:
        table = az.summary(container, ci_prob=ci_prob, ci_kind="eti", **options)
        return table
    percent = int(ci_prob * 100)
    statistics = {
        "mean": np.mean,
        "sd": lambda draws: np.std(draws, ddof=1),
        f"eti{percent}_lb": lambda draws: np.quantile(draws, (1 - ci_prob) / 2),
        f"eti{percent}_ub": lambda draws: np.quantile(draws, (1 + ci_prob) / 2),
    }
    table = az.summary(container, stat_funcs=statistics, extend=False, **options)
    return table
