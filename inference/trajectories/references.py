"""The parameters of a reference SDE from snapshots: several starts, the mode, a Gaussian with honest intervals."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
from numpyro.infer.util import potential_energy
from tqdm import tqdm

from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import GaussianPosterior, UnconstrainedGaussian
from tercet.inference.posteriors.mode import curvature_factor, gaussian_evidence
from tercet.inference.posteriors.options import LaplaceOptions
from tercet.inference.posteriors.problem import Problem
from tercet.inference.trajectories.reference_search import MOST_STEPS, find_mode
from tercet.models.trajectories.snapshot_model import SnapshotModel
from tercet.models.trajectories.snapshots import Snapshots


class ReferenceMode(NamedTuple):
    """Posterior mode of a reference: parameters, log posterior there, how many starts agree, how near the search came.

    `converged` is False where the limit of steps came before ten steps in a row that gained less than 0.01 nats.
    """

    theta: dict[str, np.ndarray]
    log_posterior: float
    gradient_norm: float
    agree: int
    converged: bool


def fit_reference(
    model: SnapshotModel,
    snapshots: Snapshots,
    *,
    starts: int = 8,
    covariance: str | None = None,
    key: Any = 0,
    options: LaplaceOptions | None = None,
    progress: bool = False,
) -> GaussianPosterior:
    """Mode and Gaussian approximation of the posterior of a reference's parameters.

    1. From `starts` draws of the prior, match the mean and covariance of each snapshot given those of the one before
       (of the first, with unobserved coordinates). Cheap, and smooth where the likelihood itself is rugged.
    2. From the distinct best of these, the mode of the model's own posterior.
    3. Intervals from the Hessian H, or from the sandwich H^-1 (sum psi psi') H^-1 with
       psi_ki = d^2 L / (d theta d w_ki), particle i of snapshot k counting w_ki times as datum and as centre.

    Computed in 64 bit whatever JAX is set to.

    Parameters
    ----------
    model : SnapshotModel
    snapshots : Snapshots
    starts : number of draws of the prior to start from
    covariance : "hessian" or "sandwich"; by default the sandwich for consecutive snapshots (a composite likelihood,
        whose Hessian says nothing of the error), the Hessian otherwise
    key : int seed or JAX key, for the starts
    options : LaplaceOptions
    progress : show a progress bar

    Returns
    -------
    GaussianPosterior
        `diagnostics`: converged, gradient_norm, starts, agree (how many starts end at the mode that is given),
        substeps (of the integrator, raised until its error is below a tenth of a posterior sd), log_evidence (of a
        proper likelihood), condition.

    Raises
    ------
    ValueError
        Snapshots that do not fit the model; no start gives finite moments.
    numpy.linalg.LinAlgError
        The Hessian is not positive definite: some direction of the parameters is not determined by data or prior, or
        no start led to a mode.

    References
    ----------
    Berlinghieri, Shen, et al. (2025), arXiv 2505.16082; Varin, Reid, Firth (2011), Statistica Sinica 21, section 2.3.

    Examples
    --------
    >>> from tercet.datasets import lotka_volterra_snapshots
    >>> from tercet.inference import fit_reference
    >>> from tercet.models import ReferenceSDE, SnapshotModel, lotka_volterra, proportional_volatility
    >>> cells = lotka_volterra_snapshots(particles=30, times=[0, 1, 2, 3]).snapshots
    >>> fit = fit_reference(SnapshotModel(ReferenceSDE(lotka_volterra(), proportional_volatility())), cells, starts=3)
    >>> fit.diagnostics["converged"]
    True
    """
    model.check(snapshots)
    if starts < 1:
        raise ValueError(f"starts must be at least 1, got {starts}.")
    if covariance not in (None, "hessian", "sandwich"):
        raise ValueError(f'covariance must be "hessian" or "sandwich", got {covariance!r}.')
    composite = model.anchor == "consecutive"
    kind = covariance or ("sandwich" if composite else "hessian")
    if model.start == "summary" and kind == "sandwich":
        raise ValueError('start="summary" has no sandwich: its centres are not particles; pass covariance="hessian".')
    if composite and model.start == "given":
        _warn_composite(kind)
    options = LaplaceOptions() if options is None else options
    bar = tqdm(total=starts + 2, desc="fit_reference", disable=not progress)
    model, problem, near, agree, _ = find_mode(model, snapshots, starts, key, bar, 1e-6)
    mode, factor, norm = _settle(problem, near, options)
    evidence = (
        float("nan")
        if composite or model.start == "summary"
        else gaussian_evidence(problem.value_and_gradient(mode)[0], factor)
    )
    condition = float(np.linalg.cond(factor)) ** 2
    if kind == "sandwich":
        factor = _sandwich_factor(problem, model, snapshots, mode, factor)
    bar.update()
    bar.close()
    diagnostics = {
        "converged": bool(norm <= max(options.tolerance, 1e-5)),
        "gradient_norm": norm,
        "starts": starts,
        "agree": agree,
        "substeps": model.substeps,
        "log_evidence": evidence,
        "condition": condition,
    }
    _report(diagnostics)
    return UnconstrainedGaussian("laplace", Context(model, (snapshots,), {}, x64=True), diagnostics, mode, factor)


def reference_mode(
    model: SnapshotModel, snapshots: Snapshots, *, starts: int = 8, key: Any = 0, progress: bool = False
) -> ReferenceMode:
    """Posterior mode alone, by the search of `fit_reference`: for many parameters, as of a neural gradient field.

    Arguments as in `fit_reference`. No Hessian is taken, so that there need not be a Gaussian at the mode. Each search
    ends when ten steps gain less than 0.01 nats, which is nothing beside the posterior's own spread; one that does not
    end warns.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import reference_mode
    >>> from tercet.models import ReferenceSDE, SnapshotModel, Snapshots, constant_volatility, gradient_field
    >>> rng = np.random.default_rng(0)
    >>> cells = Snapshots([rng.normal(k, 1.0, (40, 1)) for k in range(3)], times=[0.0, 1.0, 2.0])
    >>> field = gradient_field(cells.center, cells.scale, "linear")
    >>> mode = reference_mode(SnapshotModel(ReferenceSDE(field, constant_volatility())), cells, starts=2)
    >>> sorted(mode.theta)
    ['push', 'volatility']
    """
    model.check(snapshots)
    with tqdm(total=starts + 1, desc="reference_mode", disable=not progress) as bar:
        model, problem, near, agree, finished = find_mode(model, snapshots, starts, key, bar, 1e-2)
    with problem.precision():
        value, gradient = (np.asarray(part) for part in problem.value_and_gradient(jnp.asarray(near)))
    theta = {name: value[0] for name, value in problem.constrain(near[None]).items() if name in model.sde.priors}
    if not finished:
        warnings.warn(
            f"the search stopped after {MOST_STEPS} steps, still rising; give tighter priors, or another key.",
            stacklevel=2,
        )
    return ReferenceMode(theta, -float(value), float(np.abs(gradient).max()), agree, finished)


def _warn_composite(kind: str) -> None:
    wrong = "" if kind == "sandwich" else " The Hessian intervals asked for are too narrow: use covariance='sandwich'."
    warnings.warn(
        "consecutive snapshots are a composite likelihood: each particle is datum and centre at once. The volatility "
        f"comes out too large (6 % at 50 particles, 15 % at 200, for narrow transitions).{wrong}",
        stacklevel=3,
    )


def _report(diagnostics: dict[str, Any]) -> None:
    if not diagnostics["converged"]:
        warnings.warn(
            f"the search for the mode stopped at a gradient of {diagnostics['gradient_norm']:.1e}; the Gaussian is not "
            "centred on a mode. Give tighter priors, or another key.",
            stacklevel=3,
        )
    if diagnostics["starts"] > 2 and diagnostics["agree"] < diagnostics["starts"] / 4:
        warnings.warn(
            f"only {diagnostics['agree']} of {diagnostics['starts']} starts reach this mode: there may be a better "
            "one. Raise starts, or give tighter priors.",
            stacklevel=3,
        )


def _settle(problem: Problem, z: np.ndarray, options: LaplaceOptions) -> tuple[np.ndarray, np.ndarray, float]:
    """Newton steps from a point near the mode: mode, lower Cholesky factor of the Hessian there, gradient."""

    def gradient_at(z: np.ndarray) -> np.ndarray:
        with problem.precision():
            return np.asarray(problem.value_and_gradient(jnp.asarray(z))[1])

    try:
        factor, norm = curvature_factor(problem, z, options), float("inf")
    except np.linalg.LinAlgError as error:
        steep = float(np.abs(gradient_at(z)).max())
        if steep < 1e-2:
            raise
        raise np.linalg.LinAlgError(
            f"no start led to a mode: the best search stopped at a gradient of {steep:.1e}, where the posterior does "
            "not curve down. Raise starts, take another key, or give priors nearer to the data."
        ) from error
    for _ in range(10):
        gradient = gradient_at(z)
        if np.abs(gradient).max() >= norm:
            break
        mode, norm = z, float(np.abs(gradient).max())
        if norm <= options.tolerance:
            break
        z = z - scipy.linalg.cho_solve((factor, True), gradient)
    return mode, factor, norm


def _sandwich_factor(
    problem: Problem, model: SnapshotModel, snapshots: Snapshots, mode: np.ndarray, factor: np.ndarray
) -> np.ndarray:
    """Cholesky factor of the inverse of H^-1 (sum psi psi') H^-1."""
    psi = influence(problem, model, snapshots, mode)
    bread = scipy.linalg.cho_solve((factor, True), psi.T)  # [p, particles]
    covariance = bread @ bread.T
    spectrum, basis = np.linalg.eigh(covariance)
    spectrum = np.maximum(spectrum, 1e-12 * spectrum[-1])
    return scipy.linalg.cholesky((basis / spectrum) @ basis.T, lower=True)


def influence(problem: Problem, model: SnapshotModel, snapshots: Snapshots, mode: np.ndarray) -> np.ndarray:
    """Psi [particles, p]: derivative of the score in the weight of each particle, centred within its snapshot."""
    step, counts = 1e-4, snapshots.counts
    with problem.precision():
        ones = tuple(jnp.ones(count) for count in counts)

        by_weight = _weight_program(model)
        rows = []
        for unit in np.eye(len(mode)):
            ahead, behind = (
                by_weight(ones, problem.unravel(jnp.asarray(mode + s * unit)), snapshots) for s in (step, -step)
            )
            rows.append([(np.asarray(a) - np.asarray(b)) / (2.0 * step) for a, b in zip(ahead, behind, strict=True)])
    centred = [[part - part.mean() for part in row] for row in rows]
    return np.stack([np.concatenate(row) for row in centred], axis=1)


@lru_cache(maxsize=64)
def _weight_program(model: SnapshotModel) -> Any:
    def log_likelihood(weights: Any, sites: Any, snapshots: Any) -> Any:
        return -potential_energy(model, (snapshots,), {"weights": weights}, sites)

    return jax.jit(jax.grad(log_likelihood))
