"""Which likelihood do the answers support? Leave-one-out predictive densities of comparison models, by ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tercet.inference.posteriors.arviz_adapter import compare_loo, leave_one_out
from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.reward_view import comparison_model
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.pointwise import PointwiseClassifier

if TYPE_CHECKING:
    import pandas as pd


def compare_models(posteriors: Mapping[str, Posterior], draws: int = 2000, key: Any = 0) -> pd.DataFrame:
    """Rank comparison models fitted to the same answers by their expected log predictive density, leave-one-out.

    Pareto-smoothed importance sampling; of Laplace's and variational draws with the correction for the approximation
    where ArviZ has it (`loo_approximate_posterior`, 1.x). A model is better by several standard errors of the
    difference (`dse`), or it is not known to be better; rows whose `warning` is true have Pareto k above 0.7.

    Parameters
    ----------
    posteriors : name to posterior, of models of the same comparisons
        Ties are data of Davidson, RaoKupper and Graded(levels=3); Bradley-Terry and Thurstone, which count them as
        half an answer, give them no probability and can be compared with those on decided answers only.
    draws : of posteriors that are not chains
    key : int seed or JAX key

    Returns
    -------
    DataFrame
        As `arviz.compare` gives it: a row a model, the best first.

    Raises
    ------
    ValueError
        Other answers, or likelihoods of other things.

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
    found = {}
    for name, posterior in posteriors.items():
        container = posterior.to_arviz(draws=draws, key=key)
        found[name] = leave_one_out(container, approximate=isinstance(posterior, GaussianPosterior))
    return compare_loo(found)


def _check_same_answers(posteriors: Mapping[str, Posterior]) -> None:
    models = {name: comparison_model(posterior) for name, posterior in posteriors.items()}
    answers = {name: posterior.comparisons for name, posterior in posteriors.items()}
    (first, reference), *others = answers.items()
    for name, found in answers.items():
        if found is None:
            raise ValueError(f"{name!r} was loaded without its data; load(path, items, comparisons).")
        if isinstance(models[name], PointwiseClassifier):
            raise ValueError(
                f"{name!r} predicts single items, not answers: its density cannot be compared with others'."
            )
    assert isinstance(reference, Comparisons)
    for name, found in others:
        if not _same(reference, found):
            raise ValueError(f"{first!r} and {name!r} were fitted to different comparisons; fit both to the same.")
    halves = [name for name, model in models.items() if model.link is not None]
    soft = ~np.isin(reference.outcome, (0.0, 1.0))
    if soft.any() and 0 < len(halves) < len(models):
        raise ValueError(
            f"{soft.sum()} answer(s) are ties or soft: {halves} count them as fractions of an answer, the other models "
            "as answers of their own; compare models of one kind, or fit all to the decided answers, "
            "comparisons.take((outcome == 0) | (outcome == 1))."
        )


def _same(one: Comparisons, other: Any) -> bool:
    """Whether two sets of comparisons have the same rows."""
    names = ("first", "second", "outcome", "weight", "annotator")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return all(
        (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs
    )
