"""Deep ensembles: networks trained from different starting points, as draws of a posterior."""

from __future__ import annotations

import numpy as np

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.options import TrainingOptions
from tercet.inference.posteriors.sampled import SampledPosterior
from tercet.inference.preferences.training import train
from tercet.models._inputs import KeyLike
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons


def ensemble(
    model: ComparisonModel,
    items: Items,
    comparisons: Comparisons,
    *,
    key: KeyLike = 0,
    members: int = 8,
    bootstrap: bool = False,
    options: TrainingOptions | None = None,
    progress: bool = False,
) -> SampledPosterior:
    """Train networks from independent draws of the prior, and take them as draws of the posterior.

    Their spread is not an exact posterior but, like one, grows away from the data. `selection_score` summarises an
    ensemble by its mean, its minimum or a lower bound.

    Parameters
    ----------
    model : comparison model with an `MLPHead`
    items, comparisons : its data; features standardised (`project(items, None)`)
    key : int seed or JAX key
    members : number of networks
    bootstrap : weight each comparison by a Poisson(1) variable, independent for each member: more spread, worse members
    options : TrainingOptions
    progress : show a progress bar

    Returns
    -------
    SampledPosterior
        One chain with one draw a member. `diagnostics`: converged, members, rounds, held_out_log_loss (mean over
        members).

    References
    ----------
    Lakshminarayanan, Pritzel, Blundell (2017), Simple and scalable predictive uncertainty estimation using deep
    ensembles, NeurIPS.

    Examples
    --------
    >>> from tercet.datasets import simulated_preferences
    >>> from tercet.inference import TrainingOptions, ensemble
    >>> from tercet.models import BradleyTerry, MLPHead, project
    >>> truth = simulated_preferences(40, 4, 200)
    >>> items = project(truth.items, None)
    >>> fit = ensemble(BradleyTerry(MLPHead(widths=(8,))), items, truth.comparisons, members=2)
    >>> fit.draws(2)["weights"].shape
    (2, 8)
    """
    training = train(
        model, items, comparisons, members=members, key=key, options=options, bootstrap=bootstrap, progress=progress
    )
    lowest = training.held_out_log_loss[training.best, np.arange(members)]
    diagnostics = {
        "converged": training.converged,
        "members": members,
        "rounds": len(training.held_out_log_loss) - 1,
        "held_out_log_loss": float(lowest.mean()),
    }
    samples = {name: values[None] for name, values in training.sites.items()}
    context = Context(model, (items, comparisons))
    return SampledPosterior("ensemble", context, diagnostics, samples, {"held_out_log_loss": lowest[None]})
