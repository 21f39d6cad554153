"""The parameters of a reference SDE from snapshots: several starts, the mode, a Gaussian with honest intervals."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from numpyro.handlers import seed, trace
from numpyro.infer.util import potential_energy
from tqdm import tqdm

from tercet.inference.context import Context
from tercet.inference.laplace_approximation import LaplaceOptions, curvature_factor, gaussian_evidence
from tercet.inference.posterior import GaussianPosterior
from tercet.inference.problem import Problem
from tercet.models._inputs import as_jax, as_key
from tercet.models.data import Snapshots
from tercet.models.linear_noise import moments
from tercet.models.snapshots import JITTER, SnapshotModel

SAME = 1e-2  # two modes are one where their log posteriors differ by less
POLISHED = 2  # distinct rough modes that are followed up
MOST_SUBSTEPS = 320
ENOUGH = 0.1  # integration error allowed, in posterior standard deviations (an upper bound)


class ReferenceMode(NamedTuple):
    """Posterior mode of a reference: parameters, log posterior there, largest gradient entry, how many starts agree."""

    theta: dict[str, np.ndarray]
    log_posterior: float
    gradient_norm: float
    agree: int


class Search(NamedTuple):
    """Where one start led: sites, constrained and not, the potential there, and a root of the inverse Hessian."""

    free: dict[str, Any]
    sites: dict[str, Any]
    potential: float
    root: np.ndarray | None = None


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
        The Hessian is not positive definite: some direction of the parameters is not determined by data or prior.

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
    model, problem, near, agree = _find(model, snapshots, starts, key, bar)
    mode, factor, norm = _settle(problem, near, options)
    evidence = float("nan") if composite or model.start == "summary" else gaussian_evidence(problem, mode, factor)
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
    return GaussianPosterior("laplace", Context(model, (snapshots,), {}, x64=True), diagnostics, mode, factor, None)


def reference_mode(
    model: SnapshotModel, snapshots: Snapshots, *, starts: int = 8, key: Any = 0, progress: bool = False
) -> ReferenceMode:
    """Posterior mode alone, by the search of `fit_reference`: for many parameters, as of a neural gradient field.

    Arguments as in `fit_reference`. No Hessian is taken, so that there need not be a Gaussian at the mode.

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
    ['push', 'strength', 'volatility']
    """
    model.check(snapshots)
    with tqdm(total=starts + 1, desc="reference_mode", disable=not progress) as bar:
        model, problem, near, agree = _find(model, snapshots, starts, key, bar)
    with problem.precision():
        value, gradient = (np.asarray(part) for part in problem.value_and_gradient(jnp.asarray(near)))
    theta = {name: value[0] for name, value in problem.constrain(near[None]).items() if name in model.sde.priors}
    return ReferenceMode(theta, -float(value), float(np.abs(gradient).max()), agree)


def _find(
    model: SnapshotModel, snapshots: Snapshots, starts: int, key: Any, bar: Any
) -> tuple[SnapshotModel, Problem, np.ndarray, int]:
    """The model with enough substeps, its problem, a point at its mode, and how many starts lead there."""
    rough = _rough_modes(model, snapshots, starts, key, bar)
    model = _fine_enough(model, snapshots, rough[0])
    problem = Problem(model, (snapshots,), {}, key, x64=True, differences=True)
    near, agree = _polish(problem, rough)
    bar.update()
    return model, problem, near, agree


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


def _rough_modes(model: SnapshotModel, snapshots: Snapshots, starts: int, key: Any, bar: Any) -> list[Search]:
    """Match moments from each start; the model's own sites where it has others than the reference's."""
    anchor = "consecutive" if all(snapshots.observed) else "first"
    rough = _variant(model, anchor=anchor, start="summary", jackknife=False, paths=0)
    problem = Problem(rough, (snapshots,), {}, key, x64=True, differences=True)
    draws = prior_draws(problem, 64 + starts, key)
    low, high = draws.min(axis=0), draws.max(axis=0)
    bounds = np.stack([low - (high - low), high + (high - low)], axis=1)
    found = []
    for start in draws[:starts]:
        z, potential = _descend(problem, start, bounds)
        sites = {name: value[0] for name, value in problem.constrain(z[None]).items()}
        with problem.precision():
            found.append(Search(problem.unravel(jnp.asarray(z)), sites, potential, _root(problem.hessian(z))))
        bar.update()
    if min(search.potential for search in found) > 1e5 * sum(snapshots.counts):
        raise ValueError(
            f"none of {starts} starts drawn from the prior gives finite moments from one snapshot to the next; give "
            "priors in the units of the data and of its times (drift.with_priors(...))."
        )
    return sorted(found, key=lambda search: search.potential)


def _root(hessian: np.ndarray) -> np.ndarray:
    """R with R R' the inverse of a Hessian whose eigenvalues are taken positive: units in which a search is easy."""
    spectrum, basis = np.linalg.eigh(np.where(np.isfinite(hessian), hessian, 0.0))
    return basis / np.sqrt(np.maximum(np.abs(spectrum), 1e-8 * max(np.abs(spectrum).max(), 1e-8)))


@lru_cache(maxsize=64)
def _variant(model: SnapshotModel, **changes: Any) -> SnapshotModel:
    """The same object whenever the same changes are asked for: what was compiled for it serves again."""
    return replace(model, **changes)


def prior_draws(problem: Problem, count: int, key: Any) -> np.ndarray:
    """Unconstrained draws [count, p] of the prior."""
    with problem.precision():
        keys = jax.random.split(as_key(key), count)
        return np.asarray(_draw_program(problem.model)(keys, (problem.args, problem.kwargs)), dtype=np.float64)


@lru_cache(maxsize=64)
def _draw_program(model: SnapshotModel) -> Any:
    def draw(key: Any, data: Any) -> Any:
        sites = trace(seed(model, key)).get_trace(*data[0], **data[1])
        latent = {n: s for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}
        return ravel_pytree({n: biject_to(s["fn"].support).inv(s["value"]) for n, s in latent.items()})[0]

    return jax.jit(jax.vmap(draw, (0, None)))


def _descend(problem: Problem, start: np.ndarray, bounds: np.ndarray | None, root: Any = None) -> tuple[Any, float]:
    """L-BFGS from a start, in the units of `root`; potentials that are not finite are a wall."""
    unit = np.eye(len(start)) if root is None else root

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        with problem.precision():
            value, gradient = (np.asarray(part) for part in problem.value_and_gradient(jnp.asarray(base + unit @ u)))
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e12, np.zeros_like(u)
        return float(value), unit.T @ gradient

    base = start if root is not None else np.zeros_like(start)
    begin = np.zeros_like(start) if root is not None else np.clip(start, *np.asarray(bounds).T)
    found = scipy.optimize.minimize(
        objective, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500, "ftol": 1e-13}
    )
    return base + unit @ found.x, float(found.fun)


def _fine_enough(model: SnapshotModel, snapshots: Snapshots, rough: Search) -> SnapshotModel:
    """The model with substeps doubled until the integrator's error is small beside the posterior's own spread.

    An error of delta transition sds in every mean moves the estimates by at most delta sqrt(particles) of their sds.
    """
    limit = ENOUGH / np.sqrt(sum(snapshots.counts[1:]))
    particles = [cloud.copy() for cloud in snapshots.subsample(16).particles[:-1]]
    if not all(snapshots.observed):
        particles = particles[:1]
        particles[0][:, ~np.asarray(snapshots.observed)] = rough.sites["start_mean"]
    with jax.enable_x64(True):
        theta = {site: jnp.asarray(rough.sites[site]) for site in model.sde.priors}
        clouds, times, size = as_jax(particles), as_jax(snapshots.times), snapshots.magnitude
        owner = np.repeat(np.arange(len(clouds)), [len(cloud) for cloud in clouds])
        starts, begin, end = jnp.concatenate(clouds), times[owner], times[owner + 1]

        def run(x: Any, spread: Any, begin: Any, end: Any) -> Any:
            return _moment_program(model)(theta, x, spread, jnp.stack([begin, end]), size)

        none, middle = jnp.zeros((*starts.shape, starts.shape[1])), (begin + end) / 2.0
        while model.substeps < MOST_SUBSTEPS:
            whole = run(starts, none, begin, end)
            half = run(starts, none, begin, middle)
            fine = run(half.mean, half.covariance, middle, end)
            variance = jnp.maximum(jnp.diagonal(fine.covariance, axis1=-2, axis2=-1), JITTER * size**2)
            off = jnp.abs(fine.mean - whole.mean) / jnp.sqrt(variance)
            wide = jnp.abs(jnp.diagonal(fine.covariance - whole.covariance, axis1=-2, axis2=-1)) / variance
            if not float(jnp.maximum(off, wide).mean()) > limit:
                return model
            model = _variant(model, substeps=2 * model.substeps)
    warnings.warn(
        f"the drift is stiff: {MOST_SUBSTEPS} integration steps between snapshots leave an error that matters; check "
        "the units of times and rates.",
        stacklevel=3,
    )
    return model


@lru_cache(maxsize=64)
def _moment_program(model: SnapshotModel) -> Any:
    def run(theta: Any, x: Any, spread: Any, clock: Any, size: Any) -> Any:
        return jax.tree.map(lambda a: a[0], moments(model.sde, theta, x, clock, model.substeps, spread, size))

    return jax.jit(run)


def _polish(problem: Problem, rough: list[Search]) -> tuple[np.ndarray, int]:
    """The best mode of the model itself from the distinct best rough ones, and how many starts lead there."""
    groups: list[list[Search]] = []
    for search in rough:
        if groups and search.potential - groups[-1][0].potential < SAME * max(1.0, 1e-3 * abs(search.potential)):
            groups[-1].append(search)
        else:
            groups.append([search])
    default = problem.unravel(jnp.asarray(problem.start))
    ends: list[tuple[float, int, np.ndarray]] = []
    for group in groups[:POLISHED]:
        start, root = _lift(default, group[0])
        z, potential = _descend(problem, start, None, root)
        if potential < 1e12:
            ends.append((potential, len(group), z))
    if not ends:
        raise ValueError(
            "no start gives finite moments over the whole horizon; tighter priors may help, or closer snapshots."
        )
    best = min(ends, key=lambda end: end[0])
    return best[2], sum(count for value, count, _ in ends if value - best[0] < SAME)


def _lift(default: dict[str, Any], rough: Search) -> tuple[np.ndarray, np.ndarray]:
    """Start [p] and root [p, p] of a problem that may have more sites than the rough one had."""
    with jax.enable_x64(True):
        start = np.asarray(ravel_pytree({name: rough.free.get(name, value) for name, value in default.items()})[0])
    known = np.concatenate([np.full(np.size(value), name in rough.free) for name, value in sorted(default.items())])
    root = np.diag(np.where(known, 0.0, 0.1))
    root[np.ix_(known, known)] = rough.root
    return start, root


def _settle(problem: Problem, z: np.ndarray, options: LaplaceOptions) -> tuple[np.ndarray, np.ndarray, float]:
    """Newton steps from a point near the mode: mode, lower Cholesky factor of the Hessian there, gradient."""
    factor, norm = curvature_factor(problem, z, options), float("inf")
    for _ in range(10):
        with problem.precision():
            gradient = np.asarray(problem.value_and_gradient(jnp.asarray(z))[1])
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
