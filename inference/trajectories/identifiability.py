"""Whether snapshots determine drift and volatility: near-null directions of the Fisher information, in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.linalg

from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.inference.trajectories.forecasts import fitted_snapshots
from tercet.inference.trajectories.reference_search import prior_draws
from tercet.models._inputs import KeyLike

WEAK = 1.0  # information of a direction, in prior sds, below which the data say less than the prior
LARGE = 0.4  # loading from which a parameter is named
CONFOUNDED = 0.9  # squared canonical correlation of drift and volatility from which they are confounded


@dataclass(frozen=True)
class Identifiability:
    """What the snapshots say about each direction of the parameters.

    Attributes
    ----------
    directions : DataFrame
        One row a direction, the least determined first: `information` (in prior sds: 1 means the data say as much as
        the prior), `sd` (posterior sd over prior sd) and the loading of each parameter.
    canonical_correlation : float
        Largest squared canonical correlation of drift and volatility in the likelihood, in [0, 1]; NaN where the
        volatility is known.
    drift_shift : Series
        By how many of its posterior sds each drift parameter moves if the volatility is fixed 10 % too high.
    summary : str
        The same in words.
    """

    directions: pd.DataFrame
    canonical_correlation: float
    drift_shift: pd.Series
    summary: str

    def __str__(self) -> str:
        return self.summary


def drift_or_diffusion(posterior: GaussianPosterior, samples: int = 8, key: KeyLike = 0) -> Identifiability:
    """Find the combinations of parameters that these snapshots hardly determine.

    From the Fisher information of the snapshot likelihood about the unconstrained parameters at the mode (outer
    products of simulated scores), in units of the prior sds. Populations in equilibrium, for example, determine the
    ratio of volatility to drift and not their size; then a wrong fixed volatility gives wrong drifts.

    Parameters
    ----------
    posterior : of a SnapshotModel, from `fit_reference`
    samples : simulated data sets; the information has a relative error of about 1 / sqrt(samples * particles)
    key : int seed or JAX key

    Returns
    -------
    Identifiability
        `print` gives its summary.

    References
    ----------
    Lehmann and Casella (1998), Theory of Point Estimation, section 2.6; Lavenant, Zhang, Kim, Schiebinger (2024),
    Annals of Applied Probability 34 (drift and diffusion from marginals).

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import drift_or_diffusion, fit_reference
    >>> from tercet.models import ReferenceSDE, SnapshotModel, Snapshots, constant_volatility, ornstein_uhlenbeck
    >>> rng = np.random.default_rng(0)
    >>> stationary = Snapshots([rng.normal(0.0, 1.0, (100, 1)) for _ in range(3)], times=[0.0, 10.0, 20.0])
    >>> fit = fit_reference(SnapshotModel(ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility())), stationary)
    >>> drift_or_diffusion(fit).canonical_correlation > 0.9
    True
    """
    model, snapshots = fitted_snapshots(posterior)
    problem = posterior.context.problem
    information = problem.information(posterior.center, samples, key)
    names = _entry_names(posterior)
    scale = prior_draws(model, snapshots, 400, key).std(axis=0)
    scaled = information * np.outer(scale, scale)
    values, vectors = np.linalg.eigh(scaled)
    directions = pd.DataFrame(vectors.T, columns=names)
    directions.insert(0, "information", np.maximum(values, 0.0))
    directions.insert(1, "sd", 1.0 / np.sqrt(1.0 + np.maximum(values, 0.0)))
    volatile = np.array([name.split("[")[0] in model.sde.volatility.priors for name in names])
    ridge = 1e-9 * np.trace(scaled) * np.eye(len(names))
    correlation = _canonical_correlation(scaled + ridge, volatile) if volatile.any() else float("nan")
    shift = pd.Series(
        _drift_shift(information, posterior, volatile), index=[n for n, v in zip(names, volatile, strict=True) if not v]
    )
    return Identifiability(directions, correlation, shift, _summary(directions, correlation, shift, names))


def _entry_names(posterior: GaussianPosterior) -> list[str]:
    """One name for each entry of the unconstrained vector."""
    sites = posterior.unravel(posterior.center)
    return [
        f"{name}{list(index)}" if index else name for name in sorted(sites) for index in np.ndindex(*sites[name].shape)
    ]


def _canonical_correlation(information: np.ndarray, volatile: np.ndarray) -> float:
    """Largest squared canonical correlation between two groups of parameters under N(0, information^-1)."""
    if volatile.all():
        return 0.0
    drift, cross, volatility = (
        information[np.ix_(a, b)] for a, b in ((~volatile, ~volatile), (~volatile, volatile), (volatile, volatile))
    )
    factor = scipy.linalg.cholesky(volatility, lower=True)
    half = scipy.linalg.solve_triangular(factor, cross.T, lower=True)
    return float(np.clip(np.linalg.eigvalsh(half @ np.linalg.solve(drift, half.T)).max(), 0.0, 1.0))


def _drift_shift(information: np.ndarray, posterior: GaussianPosterior, volatile: np.ndarray) -> np.ndarray:
    """Shift d theta / d log v * log 1.1 of the drift given the volatility v, in posterior sds."""
    if not volatile.any() or volatile.all():
        return np.full((~volatile).sum(), np.nan)
    drift = information[np.ix_(~volatile, ~volatile)]
    cross = information[np.ix_(~volatile, volatile)].sum(axis=1)
    shift = -np.linalg.lstsq(drift, cross * np.log(1.1), rcond=1e-10)[0]
    sd = np.sqrt(np.square(posterior.root).sum(axis=1))
    in_sds: np.ndarray = shift / sd[~volatile]
    return in_sds


def _summary(directions: pd.DataFrame, correlation: float, shift: pd.Series, names: list[str]) -> str:
    lines = []
    for _, row in directions[directions["information"] < WEAK].iterrows():
        named = [name for name in names if abs(row[name]) > LARGE]
        what = named[0] if len(named) == 1 else "a combination of " + " and ".join(named)
        lines.append(
            f"The snapshots say less than the prior about {what} (posterior sd {row['sd']:.0%} of the prior's): "
            "its posterior is mostly the prior."
        )
    if not lines:
        worst = directions.iloc[0]
        lines.append(f"Every direction is determined: the posterior sd is at most {worst['sd']:.1%} of the prior sd.")
    if correlation > CONFOUNDED:
        lines.append(
            f"Drift and volatility are confounded (squared canonical correlation {correlation:.3f}): a faster drift "
            "with more noise gives the same snapshots. Fix the volatility only if it is known; snapshots closer in "
            "time, or before the populations reach equilibrium, would separate the two."
        )
    elif np.isfinite(correlation):
        lines.append(f"Drift and volatility are separable (squared canonical correlation {correlation:.3f}).")
    if len(shift) and np.isfinite(shift).all() and shift.abs().max() > 1.0:
        name = str(shift.abs().idxmax())
        lines.append(f"A volatility fixed 10 % too high would move {name} by {shift[name]:+.1f} of its posterior sds.")
    return "\n".join(lines)
