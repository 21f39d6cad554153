"""A fitted loss surface as a linear Gaussian model: by the factors of its basis, or by its exact covariances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.designs.criteria.roots import symmetric_root
from tercet.designs.sites.surface_pool import BLOCK, ProductRows, SurfacePool, WrittenRows
from tercet.models._inputs import as_jax
from tercet.models.space.geometry import as_sites
from tercet.models.space.loss_surfaces import JITTER, WALL, LossSurface
from tercet.models.space.sites import Sites

LOGARITHMIC = ("log-normal", "gamma")
EXACT = 2_000
"""Candidates under the exact process: their joint covariance is factored."""


def surface_pool(
    posterior: Any, sites: Sites, existing: Sites | None, target: Sites, share: Float[np.ndarray, " n"]
) -> SurfacePool:
    """Candidate sites under a fitted LossSurface, its parameters held at their posterior means.

    f = level + process is then linear in coefficients with standard normal priors (the level among them), and a label
    has information v about it: 1 / noise^2 for the normal families, and the Fisher information of its location for the
    others, (freedom + 1) / (freedom + 3) / noise^2 for student, shape for gamma. The risk is sum_j share_j f(t_j);
    where the expected loss is exp(f + ...) it is linearised at the posterior mean surface, and t_j counts share_j x its
    expected loss.

    Parameters
    ----------
    posterior : of a LossSurface
    sites : candidates [m]
    existing : sites with labels; None for those of the fit
    target : sites [n] that matter
    share : what each of them counts; sums to one
    """
    fitted = FittedSurface(posterior)
    here = fitted.sites if existing is None else existing
    if here is None:
        raise ValueError("this posterior was loaded without its data; pass existing=, the sites that have labels.")
    if fitted.model.basis:
        return _by_basis(fitted, sites, here, target, share)
    return _by_covariance(fitted, sites, here, target, share)


def labelled_sites(posterior: Any) -> Sites | None:
    """The sites a loss surface was fitted on; None without a posterior, or where it was loaded without its data."""
    if posterior is None or not posterior.context.args:
        return None
    model = posterior.context.model
    metric = model.frame.metric if isinstance(model, LossSurface) else "plane"
    return as_sites("sites of the fit", posterior.context.args[0], metric)


@dataclass(frozen=True, eq=False)
class FittedSurface:
    """A surface with its parameters held at their posterior means."""

    posterior: Any

    def __post_init__(self) -> None:
        if not isinstance(self.posterior.context.model, LossSurface):
            kind = type(self.posterior.context.model).__name__
            raise ValueError(
                f"the posterior is of a {kind}, not of a LossSurface; fit one, or use criterion='k-centre'."
            )

    @property
    def model(self) -> LossSurface:
        """What was fitted."""
        return self.posterior.context.model

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Posterior mean of every site of the model."""
        return self.posterior.mean()

    @cached_property
    def sites(self) -> Sites | None:
        """What it was fitted on."""
        return labelled_sites(self.posterior)

    @cached_property
    def label(self) -> float:
        """Fisher information of one label about the surface at its site."""
        if self.model.family == "gamma":
            return float(self.parameters["shape"])
        v = 1 / float(self.parameters["noise"]) ** 2
        if self.model.family == "student":
            freedom = float(self.parameters["freedom"])
            return v * (freedom + 1) / (freedom + 3)
        return v

    @property
    def level_sd(self) -> float:
        """Prior standard deviation of the level."""
        return 2 * self.model.spread

    @property
    def data_sites(self) -> Sites:
        """What it was fitted on, which must be at hand."""
        if self.sites is None:
            raise ValueError(
                "this posterior was loaded without its data, which the mean of the surface needs; load(path, *data)."
            )
        return self.sites

    @property
    def seen(self) -> np.ndarray:
        """What the surface was fitted to, less the prior mean of its level."""
        losses = np.asarray(self.posterior.context.args[1], dtype=np.float64)
        return (np.log(losses) if self.model.family == "log-normal" else losses) - self.model.center

    def places(self, name: str, sites: Sites) -> np.ndarray:
        """Coordinates of sites in the frame of the surface."""
        frame = self.model.frame
        if frame.metric == "plane" and sites.coordinates.shape[1] != frame.dim:
            raise ValueError(
                f"the {name} sites have {sites.coordinates.shape[1]} coordinates, the surface {frame.dim}; "
                "both need the same."
            )
        coordinates = frame.coordinates(sites)
        outside = int((np.abs(coordinates).max(axis=1) >= WALL).sum())
        if outside and self.model.basis:
            raise ValueError(
                f"{outside} {name} site(s) lie outside the box of the surface, where it is zero; fit it on a frame "
                "that holds them: LossSurface.around(losses, sites, candidates, test)."
            )
        return coordinates

    def rows(self, name: str, sites: Sites) -> ProductRows:
        """The surface at sites, less the prior mean of its level, in coefficients with standard normal priors."""
        # The basis is a product of sines along the axes: a hundred thousand sites need the sines alone.
        waves = np.arange(1, self.model.basis + 1) * (np.pi / (2 * WALL))
        factors = [np.sin((axis[:, None] + WALL) * waves) / np.sqrt(WALL) for axis in self.places(name, sites).T]
        return ProductRows(tuple(factors), np.append(self.level_sd, self.scales))

    @cached_property
    def scales(self) -> np.ndarray:
        """Prior standard deviations of the weights of the basis."""
        with jax.enable_x64(True):
            values = as_jax(tuple(np.asarray(self.parameters[name]) for name in ("amplitude", "length")))
            return np.asarray(self.model.scales(*values))

    def covariance(self, first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, "n m"]:
        """Prior covariance of the process between coordinates of the frame, the level's left out."""
        amplitude, length = (float(self.parameters[name]) for name in ("amplitude", "length"))
        return np.asarray(self.model.covariance(first, second, amplitude, length))

    def slope(self, surface: np.ndarray) -> np.ndarray:
        """Derivative of the expected loss by the surface, for the families that are linear in its logarithm."""
        return np.asarray(self.model.expected(surface, self.parameters))


def _by_basis(fitted: FittedSurface, sites: Sites, here: Sites, target: Sites, share: np.ndarray) -> SurfacePool:
    candidates, goal = fitted.rows("candidate", sites), fitted.rows("target", target)
    factor = _factor(fitted.rows("labelled", here), fitted.label)
    root = scipy.linalg.solve_triangular(factor, np.eye(len(factor)), lower=True).T
    if fitted.model.family in LOGARITHMIC:
        share = share * fitted.slope(goal.along(_coefficients(fitted, factor if here is fitted.sites else None)))
    total = np.zeros(len(root))
    for where in _blocks(goal):
        total += share[where] @ goal.take(where)
    return SurfacePool(candidates, root, total, fitted.label)


def _blocks(rows: Any) -> Iterator[slice]:
    return (slice(begin, begin + BLOCK) for begin in range(0, len(rows), BLOCK))


def _factor(rows: ProductRows, label: float) -> np.ndarray:
    """Lower Cholesky factor of the precision of the coefficients, given labels at these rows."""
    precision = np.eye(len(rows.scales))
    for where in _blocks(rows):
        block = rows.take(where)
        precision += label * block.T @ block
    return scipy.linalg.cholesky(precision, lower=True)


def _coefficients(fitted: FittedSurface, factor: np.ndarray | None) -> np.ndarray:
    """Posterior mean of the coefficients, the prior mean of the level added: row . coefficients is the surface."""
    if not fitted.model.collapsed:
        return np.append(fitted.parameters["level"] / fitted.level_sd, fitted.parameters["process"])
    rows, seen = fitted.rows("labelled", fitted.data_sites), fitted.seen
    moment = sum(seen[where] @ rows.take(where) for where in _blocks(rows))
    factor = _factor(rows, fitted.label) if factor is None else factor
    center = scipy.linalg.cho_solve((factor, True), fitted.label * moment)
    center[0] += fitted.model.center / fitted.level_sd
    return center


def _by_covariance(fitted: FittedSurface, sites: Sites, here: Sites, target: Sites, share: np.ndarray) -> SurfacePool:
    """The exact process: candidates and risk as one Gaussian vector, in as many coordinates as it has entries."""
    if len(sites) > EXACT:
        raise ValueError(
            f"{len(sites):,} candidates are too many for the exact process (at most {EXACT:,}); give a sample of them, "
            "or fit the surface on a basis: LossSurface.around(..., basis=24), in three dimensions at most."
        )
    candidates, known, goal = (
        fitted.places(name, each) for name, each in (("candidate", sites), ("labelled", here), ("target", target))
    )
    if fitted.model.family in LOGARITHMIC:
        share = share * fitted.slope(_kriged(fitted, goal))
    level = fitted.level_sd**2

    def toward(places: np.ndarray) -> np.ndarray:
        return sum(fitted.covariance(places, goal[w]) @ share[w] for w in _blocks(goal)) + level * share.sum()

    within = sum(share[w] @ toward(goal[w]) for w in _blocks(goal))
    edge = toward(candidates)[:, None]
    prior = np.block([[fitted.covariance(candidates, candidates) + level, edge], [edge.T, np.atleast_2d(within)]])
    cross = np.column_stack([fitted.covariance(known, candidates) + level, toward(known)])
    noisy = fitted.covariance(known, known) + level + np.eye(len(known)) / fitted.label
    explained = scipy.linalg.solve_triangular(scipy.linalg.cholesky(noisy, lower=True), cross, lower=True)
    root = symmetric_root(prior - explained.T @ explained)
    return SurfacePool(WrittenRows(root[:-1]), np.eye(len(root)), root[-1], fitted.label)


def _kriged(fitted: FittedSurface, places: np.ndarray) -> np.ndarray:
    """Posterior mean of the exact surface at places."""
    known = fitted.places("labelled", fitted.data_sites)
    noisy = fitted.covariance(known, known)
    if fitted.model.collapsed:
        start, spread, noise = fitted.model.center, fitted.level_sd**2, 1 / fitted.label
        apart = fitted.seen
    else:
        start, spread, noise = float(fitted.parameters["level"]), 0.0, 10 * JITTER * noisy[0, 0]
        apart = fitted.parameters["surface"] - start
    pull = scipy.linalg.solve(noisy + spread + noise * np.eye(len(known)), apart, assume_a="pos")
    return np.concatenate(
        [start + (fitted.covariance(places[where], known) + spread) @ pull for where in _blocks(places)]
    )
