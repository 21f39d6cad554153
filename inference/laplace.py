"""Laplace's approximation of any model: which route a model takes."""

from __future__ import annotations

from typing import Any

from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.inference.posteriors.mode import gaussian_at_mode
from tercet.inference.posteriors.options import LaplaceOptions
from tercet.inference.posteriors.sites import Model
from tercet.inference.preferences.last_layer import last_layer_laplace
from tercet.inference.preferences.linear_laplace import comparison_laplace
from tercet.models._inputs import KeyLike
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.mlp_head import MLPHead


def laplace(
    model: Model,
    *args: Any,
    key: KeyLike = 0,
    options: LaplaceOptions | None = None,
    **model_kwargs: Any,
) -> GaussianPosterior:
    """Approximate a posterior by a Gaussian at its mode, z ~ Normal(mode, H^-1), H the Hessian of -log posterior.

    Computed in 64 bit whatever JAX is set to. Comparison models with a link and a linear head take an exact damped
    Newton; any other model, also one of these inside a NumPyro handler, goes through NumPyro's unconstrained potential.
    A head whose `prior_sd` is None gets the scale at the mode of its Laplace evidence times its half-Normal prior.
    A network (`MLPHead`) is trained by minibatches; the approximation is that of its last layer, its hidden layers
    being fixed (`MLPHead` inside a handler: of all its weights, feasible for tiny networks only).

    Parameters
    ----------
    model : NumPyro model, continuous latent sites
    *args, **model_kwargs : its data
    key : int seed or JAX key, for the start of the general route
    options : LaplaceOptions; one that is set and that the route of this model does not read is an error

    Returns
    -------
    GaussianPosterior
        `diagnostics`: converged, gradient_norm, steps, log_evidence, condition (number of H), effective_parameters
        (exact route: p - trace(P H^-1), P the prior precision), prior_sd.

    Raises
    ------
    ValueError
        Discrete sites, subsampled plates, data that do not match the model, options that are not read.
    numpy.linalg.LinAlgError
        The Hessian at the mode is not positive definite; the message says what to do.

    References
    ----------
    MacKay (2003), Information Theory, Inference, and Learning Algorithms, chapters 27 and 28.

    Examples
    --------
    >>> from tercet.datasets import american_league_1987
    >>> from tercet.inference import laplace
    >>> from tercet.models import AbilityHead, BradleyTerry
    >>> teams, games = american_league_1987()
    >>> fit = laplace(BradleyTerry(AbilityHead()), teams, games)
    >>> fit.diagnostics["converged"]
    True
    """
    options = LaplaceOptions() if options is None else options
    if isinstance(model, ComparisonModel):
        items, comparisons = _comparison_data(*args, **model_kwargs)
        fit = last_layer_laplace if isinstance(model.head, MLPHead) else comparison_laplace
        return fit(model, items, comparisons, key=key, options=options)
    options.check_read("the general route", "tolerance", "max_steps", "curvature")
    return gaussian_at_mode(model, args, model_kwargs, key=key, options=options)


def _comparison_data(items: Items, comparisons: Comparisons) -> tuple[Items, Comparisons]:
    """The data of a comparison model, by position or by name."""
    return items, comparisons
