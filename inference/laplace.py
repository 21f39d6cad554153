"""Laplace's approximation of any model: which route a model takes."""

from __future__ import annotations

from typing import Any

from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.inference.posteriors.mode import gaussian_at_mode
from tercet.inference.posteriors.options import LaplaceOptions
from tercet.inference.posteriors.sites import Model
from tercet.inference.preferences.last_layer import last_layer_laplace
from tercet.inference.preferences.linear_laplace import comparison_laplace
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.mlp_head import MLPHead


def laplace(
    model: Model,
    *args: Any,
    key: Any = 0,
    options: LaplaceOptions | None = None,
    **model_kwargs: Any,
) -> GaussianPosterior:
    """Approximate a posterior by a Gaussian at its mode, z ~ Normal(mode, H^-1), H the Hessian of -log posterior.

    Computed in 64 bit whatever JAX is set to. tercet's own comparison models with a link take an exact damped
    Newton; anything else, a handler around one of them included, goes through NumPyro's unconstrained potential.
    A head whose `prior_sd` is None gets the scale at the mode of its Laplace evidence times its half-Normal prior.
    A network (`MLPHead`) is trained by minibatches; the approximation is that of its last layer, its hidden features
    being held (`MLPHead` inside a handler: all its weights, which only tiny networks allow).

    Parameters
    ----------
    model : NumPyro model, continuous latent sites
    *args, **model_kwargs : its data
    key : int seed or JAX key, for the start of the general route
    options : LaplaceOptions

    Returns
    -------
    GaussianPosterior
        `diagnostics`: converged, gradient_norm, steps, log_evidence, condition (of H), effective_parameters
        (linear forms: how many the data determine rather than the prior), prior_sd.

    Raises
    ------
    ValueError
        Discrete sites, subsampled plates, data that do not fit the model.
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
    if isinstance(model, ComparisonModel) and isinstance(model.head, MLPHead):
        return last_layer_laplace(model, *args, key=key, options=options, **model_kwargs)
    if isinstance(model, ComparisonModel):
        return comparison_laplace(model, args, model_kwargs, key, options)
    options.check_read("the general route", "tolerance", "max_steps", "curvature")
    return gaussian_at_mode(model, args, model_kwargs, key, options, {})
