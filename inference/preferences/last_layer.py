"""A trained network's last layer as a linear head: its hidden features are items, its posterior is Laplace's."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize

from tercet.inference.posteriors.posterior import GaussianPosterior
from tercet.inference.preferences.rewards import win_probability
from tercet.inference.preferences.training import train
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import BradleyTerry, ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.heads import LinearHead
from tercet.models.preferences.mlp_head import MLPHead

if TYPE_CHECKING:
    from tercet.inference.posteriors.mode import LaplaceOptions


def last_layer_laplace(
    model: ComparisonModel, items: Items, comparisons: Comparisons, *, key: Any = 0, options: LaplaceOptions
) -> GaussianPosterior:
    """Train a network, hold its hidden layers, and take the Laplace posterior of the last: w ~ Normal(mode, H^-1).

    The hidden features h(x) become the features of the items and h the projection that raw embeddings go through,
    so that every question about rewards, and every design, is that of a linear head. A prior scale of w that is to be
    learned is the one whose fit to the comparisons of the training predicts best those held out from it: the evidence
    of labels that have shaped h says nothing against overfitting (on real ratings it cost .02 to .04 nats). The
    uncertainty about h itself is left out: see `ensemble`.

    References
    ----------
    Daxberger et al. (2021), Laplace redux, NeurIPS, section 2.2; Kristiadi, Hein, Hennig (2020), ICML.
    """
    from tercet.inference.posteriors.mode import laplace

    assert isinstance(model.head, MLPHead)
    training = train(model, items, comparisons, 1, key, options.training)
    sites = {name: values[0] for name, values in training.sites.items()}
    network = model.head.feature_map(sites, items.projection)
    known = items.mapped(network.after, network)
    last = replace(model, head=LinearHead(model.prior_sd))
    if last.prior_sd is None:
        last = last.with_prior_sd(_held_out_scale(last, known, comparisons, training.held_out, options))
    fit = laplace(last, known, comparisons, key=key, options=options)
    diagnostics = {
        **fit.diagnostics,
        "converged": fit.diagnostics["converged"] and training.converged,
        "rounds": len(training.held_out_log_loss) - 1,
        "held_out_log_loss": float(training.held_out_log_loss[training.best[0], 0]),
    }
    return replace(fit, diagnostics=diagnostics)


def _held_out_scale(
    model: ComparisonModel, items: Items, comparisons: Comparisons, out: np.ndarray, options: LaplaceOptions
) -> float:
    """The scale of reward differences; where the likelihood has no exact route, Bradley-Terry's serves."""
    from tercet.inference.posteriors.mode import laplace

    judge = model if model.link is not None and model.has_linear_form else BradleyTerry(model.head)
    learnt, test = comparisons.take(~out), comparisons.take(out)

    def loss(log_sd: float) -> float:
        fit = laplace(judge.with_prior_sd(math.exp(log_sd)), items, learnt, options=options)
        p = np.clip(win_probability(fit, items, test, order=True), 1e-12, 1 - 1e-12)
        return float(-test.weights @ (test.outcome * np.log(p) + (1 - test.outcome) * np.log1p(-p)))

    low, high = (math.log(bound) for bound in options.prior_sd_range)
    found = scipy.optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 0.02})
    return math.exp(found.x)
