"""Which of drift and diffusion the snapshots can tell apart: near-null directions of the Fisher information, named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.inference.trajectories.forecasts import model_and_data

if TYPE_CHECKING:
    import pandas as pd

WEAK = 1.0  # information of a direction below its prior's: the data say less than the prior did
LARGE = 0.4  # loading from which a parameter is named
ENTANGLED = 0.9  # squared canonical correlation of drift and volatility from which they are not told apart


@dataclass(frozen=True)
class Identifiability:
    """What the snapshots say about each direction of the parameters.

    Attributes
    ----------
    directions : DataFrame
        One row a direction, the least known first: `information` (in prior sds: 1 means the data say as much as the
        prior), `sd` (posterior sd over prior sd) and the loading of each parameter.
    entanglement : float
        Largest squared canonical correlation of drift and volatility in the likelihood, in [0, 1]; NaN where the
        volatility is known.
    drift_shift : Series
        By how many of its posterior sds each drift parameter moves if the volatility is fixed 10 % too high.
    words : str
        The same in words.
    """

    directions: pd.DataFrame
    entanglement: float
    drift_shift: pd.Series
    words: str

    def __str__(self) -> str:
        return self.words


def drift_or_diffusion(posterior: GaussianPosterior, samples: int = 8, key: Any = 0) -> Identifiability:
    """Find the combinations of parameters that these snapshots hardly determine, and say which.

    From the Fisher information of the snapshot likelihood about the unconstrained parameters at the mode (outer
    products of simulated scores), in units of the prior sds. Populations in equilibrium, for example, fix the ratio of
    volatility to drift and not their size; then a wrong fixed volatility gives wrong drifts.

    Parameters
    ----------
    posterior : of a SnapshotModel, from `fit_reference`
    samples : simulated data sets; the information has a relative error of about 1 / sqrt(samples * particles)
    key : int seed or JAX key

    Returns
    -------
    Identifiability
        Print it.

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
    >>> still = Snapshots([rng.normal(0.0, 1.0, (100, 1)) for _ in range(3)], times=[0.0, 10.0, 20.0])
    >>> fit = fit_reference(SnapshotModel(ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility())), still)
    >>> found = drift_or_diffusion(fit)
    >>> found.entanglement > 0.9
    True
    """
    import pandas as pd

    from tercet.inference.trajectories.reference_search import prior_draws

    model, _ = model_and_data(posterior)
    problem = posterior.context.problem
    information = problem.information(posterior.center, samples, key)
    names = _names(posterior)
    scale = prior_draws(problem, 400, key).std(axis=0)
    scaled = information * np.outer(scale, scale)
    values, vectors = np.linalg.eigh(scaled)
    directions = pd.DataFrame(vectors.T, columns=names)
    directions.insert(0, "information", np.maximum(values, 0.0))
    directions.insert(1, "sd", 1.0 / np.sqrt(1.0 + np.maximum(values, 0.0)))
    noisy = np.array([name.split("[")[0] in model.sde.volatility.priors for name in names])
    entangled = (
        _canonical(scaled + 1e-9 * np.trace(scaled) * np.eye(len(names)), noisy) if noisy.any() else float("nan")
    )
    shift = pd.Series(
        _shift(information, posterior, noisy), index=[n for n, v in zip(names, noisy, strict=True) if not v]
    )
    return Identifiability(directions, entangled, shift, _words(directions, entangled, shift, names))


def _names(posterior: GaussianPosterior) -> list[str]:
    """One name an entry of the unconstrained vector."""
    problem = posterior.context.problem
    with problem.precision():
        sites = problem.unravel(jnp.asarray(posterior.center))
    found = []
    for name in sorted(sites):
        shape = np.shape(sites[name])
        found += [name] if shape == () else [f"{name}{list(index)}" for index in np.ndindex(*shape)]
    return found


def _canonical(information: np.ndarray, noisy: np.ndarray) -> float:
    """Largest squared canonical correlation between two groups of parameters under N(0, information^-1)."""
    if noisy.all():
        return 0.0
    drift, cross, volatility = (
        information[np.ix_(a, b)] for a, b in ((~noisy, ~noisy), (~noisy, noisy), (noisy, noisy))
    )
    root = scipy.linalg.cholesky(volatility, lower=True)
    half = scipy.linalg.solve_triangular(root, cross.T, lower=True)
    return float(np.clip(np.linalg.eigvalsh(half @ np.linalg.solve(drift, half.T)).max(), 0.0, 1.0))


def _shift(information: np.ndarray, posterior: GaussianPosterior, noisy: np.ndarray) -> np.ndarray:
    """D theta / d log v * log 1.1 over the drift given the volatility, in posterior sds."""
    if not noisy.any() or noisy.all():
        return np.full((~noisy).sum(), np.nan)
    drift = information[np.ix_(~noisy, ~noisy)]
    moved = -np.linalg.lstsq(drift, information[np.ix_(~noisy, noisy)].sum(axis=1) * np.log(1.1), rcond=1e-10)[0]
    sd = np.sqrt(np.square(posterior.root).sum(axis=1))
    return moved / sd[~noisy]


def _words(directions: pd.DataFrame, entangled: float, shift: pd.Series, names: list[str]) -> str:
    lines = []
    for _, row in directions[directions["information"] < WEAK].iterrows():
        named = [name for name in names if abs(row[name]) > LARGE]
        what = named[0] if len(named) == 1 else "a combination of " + " and ".join(named)
        lines.append(
            f"The snapshots say less than the prior about {what} (posterior sd {row['sd']:.0%} of the prior's): "
            "its posterior is your prior."
        )
    if not lines:
        worst = directions.iloc[0]
        lines.append(f"Every direction is determined: the least known has {worst['sd']:.1%} of its prior sd left.")
    if entangled > ENTANGLED:
        lines.append(
            f"Drift and volatility are not told apart (squared correlation {entangled:.3f}): the same snapshots come "
            "from a faster drift with more noise. Fix the volatility only if you know it; snapshots closer in time, or "
            "before the populations settle, would tell them apart."
        )
    elif np.isfinite(entangled):
        lines.append(f"Drift and volatility are told apart (squared correlation {entangled:.3f}).")
    if len(shift) and np.isfinite(shift).all() and shift.abs().max() > 1.0:
        name = str(shift.abs().idxmax())
        lines.append(f"A volatility fixed 10 % too high would move {name} by {shift[name]:+.1f} of its posterior sds.")
    return "\n".join(lines)
