"""The last layer of a trained network as a linear head on its hidden features, with Laplace's approximation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import scipy.optimize

from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.inference.posteriors.options import LaplaceOptions
from tercet.inference.preferences.linear_laplace import comparison_laplace
from tercet.inference.preferences.rewards import win_probability
from tercet.inference.preferences.training import train
from tercet.models._inputs import KeyLike
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import BradleyTerry, ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.heads import LinearHead
from tercet.models.preferences.mlp_head import MLPHead


def last_layer_laplace(
    model: ComparisonModel, items: Items, comparisons: Comparisons, *, key: KeyLike = 0, options: LaplaceOptions
) -> GaussianPosterior:
    """Train a network, fix its hidden layers, and approximate the posterior of the last: w ~ Normal(mode, H^-1).

    The hidden features h(x) become the features of the items, and h the map that raw embeddings go through, so that
    rewards and designs are those of a linear head. A prior scale of w that is to be learned is the one under which the
    comparisons of the training set predict the held-out ones best: the evidence of labels that h has been trained on
    does not penalise overfitting (on real ratings it cost .02 to .04 nats). Uncertainty about h is ignored: see
    `ensemble`.

    References
    ----------
    Daxberger et al. (2021), Laplace redux, NeurIPS, section 2.2; Kristiadi, Hein, Hennig (2020), ICML.
    """
    assert isinstance(model.head, MLPHead)
    last = replace(model, head=LinearHead(model.prior_sd))
    curvature = () if last.has_linear_form else ("curvature",)
    scale = ("prior_sd_range",) if model.prior_sd is None else ()
    route = f"the last layer of {type(model).__name__}"
    options.check_read(route, "tolerance", "max_steps", "training", *curvature, *scale)
    training = train(model, items, comparisons, key=key, options=options.training)
    sites = {name: values[0] for name, values in training.sites.items()}
    network = model.head.feature_map(sites, items.projection)
    known = items.mapped(network.after, network)
    if last.prior_sd is None:
        last = last.with_prior_sd(_held_out_scale(last, known, comparisons, training.held_out, options))
    of_layer = LaplaceOptions(options.tolerance, options.max_steps, options.curvature)
    fit = comparison_laplace(last, known, comparisons, key=key, options=of_layer)
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
    """The prior scale that predicts held-out comparisons best; of Bradley-Terry where the model has no exact route."""
    scored = model if model.link is not None and model.has_linear_form else BradleyTerry(model.head)
    train_set, test = comparisons.take(~out), comparisons.take(out)
    exact = LaplaceOptions(options.tolerance, options.max_steps)

    def loss(log_sd: float) -> float:
        fit = comparison_laplace(scored.with_prior_sd(math.exp(log_sd)), items, train_set, key=0, options=exact)
        p = np.clip(win_probability(fit, items, test, order=True), 1e-12, 1 - 1e-12)
        return float(-test.weights @ (test.outcome * np.log(p) + (1 - test.outcome) * np.log1p(-p)))

    low, high = (math.log(bound) for bound in options.prior_sd_range)
    best = scipy.optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 0.02})
    return math.exp(best.x)
