"""Log likelihoods and simulated answers of a comparison model at many draws of its parameters, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float
from numpyro.handlers import substitute

from tercet.models._inputs import as_jax
from tercet.models._size_classes import padded, size_class

if TYPE_CHECKING:
    from tercet.models.preferences.comparison_models import ComparisonModel

SIMULATED = 200_000
"""Answers that are simulated at once."""


def at_draws(
    model: ComparisonModel,
    logits: Float[np.ndarray, "n m"],
    draws: Mapping[str, np.ndarray],
    outcome: Float[np.ndarray, " m"],
    weight: Float[np.ndarray, " m"],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood [n, m] of the outcomes, times their weights, and simulated answers [n, m].

    Parameters
    ----------
    model : comparison model
    logits : of each comparison under each draw
    draws : site to its draws [n, ...]
    outcome, weight : of the comparisons
    rng : of the simulated answers
    """
    density = np.empty(logits.shape)
    simulated = np.empty(logits.shape, np.asarray(model.encode(outcome)).dtype)
    # Closed forms take many draws at once; a distribution of a user's own is asked for one after the other.
    block = 1 if model.answers is None else max(1, SIMULATED // logits.shape[1])
    for start in range(0, len(logits), block):
        part = slice(start, start + block)
        sites = {name: values[part, None] if block > 1 else values[start] for name, values in draws.items()}
        probabilities = model.probabilities(logits[part] if block > 1 else logits[start], sites)
        above = np.cumsum(probabilities, axis=-1)[..., :-1]
        simulated[part] = (rng.random((*above.shape[:-1], 1)) > above).sum(axis=-1)
    for k, logit in enumerate(logits):
        density[k] = weight * log_likelihood(model, logit, {n: values[k] for n, values in draws.items()}, outcome)
    return density, simulated


def log_likelihood(
    model: ComparisonModel, logit: Float[np.ndarray, " m"], sites: Mapping[str, Any], outcome: np.ndarray
) -> Float[np.ndarray, " m"]:
    """Log likelihood [m] of outcomes given logits and one value of each site."""
    answers = model.answers
    if answers is not None:
        logarithms = [np.log(np.ravel(sites[auxiliary.site])) for auxiliary in answers.auxiliaries]
        return answers.log_probability(logit, np.concatenate([np.empty(0), *logarithms]), outcome)
    size, count = size_class(len(logit)), len(logit)
    encoded = padded(np.asarray(model.encode(outcome)), size)
    with jax.enable_x64(True):
        return np.asarray(_log_prob(model, *as_jax((padded(logit, size), dict(sites), encoded))))[:count]


@jax.jit
def _log_prob(model: ComparisonModel, logit: jax.Array, sites: dict[str, jax.Array], encoded: jax.Array) -> Any:
    return substitute(model.answer, data=sites)(logit).log_prob(encoded)
