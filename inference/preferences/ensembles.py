"""Deep ensembles: networks trained side by side from different starts, as draws under the posterior contract."""

from __future__ import annotations

from typing import Any

import numpy as np

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.options import TrainingOptions
from tercet.inference.posteriors.sampled import SampledPosterior
from tercet.inference.preferences.training import train
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons


def ensemble(
    model: ComparisonModel,
    items: Items,
    comparisons: Comparisons,
    *,
    key: Any = 0,
    members: int = 8,
    bootstrap: bool = False,
    options: TrainingOptions | None = None,
    progress: bool = False,
) -> SampledPosterior:
    """Train networks that differ in where they start, and take them as draws.

    Where members agree the data have spoken; their spread is no exact posterior, but grows away from the data as one
    should. `selection_score` reads an ensemble by its mean, its minimum or a lower bound.

    Parameters
    ----------
    model : comparison model with an `MLPHead`
    items, comparisons : its data; features standardised (`project(items, None)`)
    key : int seed or JAX key
    members : networks
    bootstrap : weigh each comparison by Poisson(1), anew for each member: more spread, worse members
    options : TrainingOptions
    progress : show a progress bar

    Returns
    -------
    SampledPosterior
        One chain with a draw a member. `diagnostics`: converged, members, rounds, held_out_log_loss (mean of the
        members' own).

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
    training = train(model, items, comparisons, members, key, options, bootstrap, progress)
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
