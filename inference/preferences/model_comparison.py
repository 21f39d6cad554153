"""Comparison models ranked by their leave-one-out predictive densities, by ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tercet.inference.posteriors.arviz_adapter import compare_loo, leave_one_out
from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.reward_view import comparison_model
from tercet.models._inputs import KeyLike
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.pointwise import PointwiseClassifier

if TYPE_CHECKING:
    import pandas as pd


def compare_models(posteriors: Mapping[str, Posterior], draws: int = 2000, key: KeyLike = 0) -> pd.DataFrame:
    """Rank comparison models fitted to the same comparisons by expected log predictive density, leave-one-out.

    By Pareto-smoothed importance sampling; for Laplace's and variational draws with the correction for the
    approximation where ArviZ has it (`loo_approximate_posterior`, 1.x). A difference of less than a few of its
    standard errors (`dse`) does not decide between two models; rows whose `warning` is true have Pareto k above 0.7.

    Parameters
    ----------
    posteriors : name to posterior, of models of the same comparisons
        Ties are outcomes of Davidson, RaoKupper and Graded(levels=3). Bradley-Terry and Thurstone, which count them as
        half a win and half a loss, give them no probability: compare these with the others on decided outcomes only.
    draws : number of draws of posteriors that are not chains
    key : int seed or JAX key

    Returns
    -------
    DataFrame
        As `arviz.compare` gives it: one row a model, the best first.

    Raises
    ------
    ValueError
        Fewer than two models, different comparisons, or likelihoods that are not of the same outcomes.

    References
    ----------
    Vehtari, Gelman, Gabry (2017), Statistics and Computing 27; Magnusson et al. (2019), ICML (approximate posteriors).

    Examples
    --------
    >>> from tercet.datasets import simulated_preferences
    >>> from tercet.inference import compare_models, laplace
    >>> from tercet.models import BradleyTerry, Thurstone
    >>> truth = simulated_preferences(60, 4, 400)
    >>> fits = {m.__name__: laplace(m(), truth.items, truth.comparisons) for m in (BradleyTerry, Thurstone)}
    >>> sorted(compare_models(fits).index)
    ['BradleyTerry', 'Thurstone']
    """
    if len(posteriors) < 2:
        raise ValueError(f"a comparison needs at least two models, got {len(posteriors)}.")
    _check_same_answers(posteriors)
    results = {}
    for name, posterior in posteriors.items():
        container = posterior.to_arviz(draws=draws, key=key)
        results[name] = leave_one_out(container, approximate=isinstance(posterior, GaussianPosterior))
    return compare_loo(results)


def _check_same_answers(posteriors: Mapping[str, Posterior]) -> None:
    (first, reference), *others = ((name, _comparisons(name, posterior)) for name, posterior in posteriors.items())
    for name, comparisons in others:
        if not _same(reference, comparisons):
            raise ValueError(f"{first!r} and {name!r} were fitted to different comparisons; fit both to the same.")
    fractional = [name for name, posterior in posteriors.items() if comparison_model(posterior).link is not None]
    soft = ~np.isin(reference.outcome, (0.0, 1.0))
    if soft.any() and 0 < len(fractional) < len(posteriors):
        raise ValueError(
            f"{soft.sum()} outcome(s) are ties or soft: {fractional} count them as fractions of a win, the others as "
            "outcomes of their own; compare models of one kind, or fit all to the decided outcomes, "
            "comparisons.take((outcome == 0) | (outcome == 1))."
        )


def _comparisons(name: str, posterior: Posterior) -> Comparisons:
    """The comparisons of a fit; raises where they are not those that its likelihood is of."""
    if isinstance(comparison_model(posterior), PointwiseClassifier):
        raise ValueError(
            f"{name!r} classifies single items, not comparisons: its density cannot be compared with the others'."
        )
    if posterior.comparisons is None:
        raise ValueError(f"{name!r} was loaded without its data; load(path, items, comparisons).")
    return posterior.comparisons


def _same(one: Comparisons, other: Comparisons) -> bool:
    """Whether two sets of comparisons have the same rows."""
    names = ("first", "second", "outcome", "weight", "annotator")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return all(
        (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs
    )
