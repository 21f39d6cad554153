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

from tercet.designs.criteria.pools import LinearPool, RootMoment
from tercet.designs.criteria.roots import symmetric_root
from tercet.designs.sites.surface_pool import ProductBasis
from tercet.inference.posteriors.posterior import Posterior
from tercet.models._inputs import as_jax
from tercet.models._operators import Dense
from tercet.models.space.geometry import as_sites
from tercet.models.space.loss_surfaces import LossSurface
from tercet.models.space.marginal_likelihoods import JITTER
from tercet.models.space.sites import Sites
from tercet.models.space.spectral_basis import WALL

LOGARITHMIC = ("log-normal", "gamma")
"""Families whose expected loss is the exponential of the surface."""
EXACT = 2_000
"""Candidates at most under the exact process: their joint covariance is factored."""
BLOCK = 4_000
"""Sites whose covariances with all others are written out at once."""


def surface_pool(
    posterior: Posterior, sites: Sites, existing: Sites | None, target: Sites, share: Float[np.ndarray, " n"]
) -> LinearPool:
    """Candidate sites under a fitted LossSurface, its parameters held at their posterior means.

    f = level + process is then linear in coefficients with standard normal priors (the level among them), and a label
    has information v about it: 1 / noise^2 for the normal families, and the Fisher information of its location for the
    others, (freedom + 1) / (freedom + 3) / noise^2 for student, shape for gamma. The risk is sum_j share_j f(t_j);
    where the expected loss is exp(f + ...) it is linearised at the posterior mean surface, and t_j counts share_j x its
    expected loss. The target moment of the pool is t t', t the row of the risk.

    Parameters
    ----------
    posterior : of a LossSurface
    sites : candidates [m]
    existing : sites with labels; None for those of the fit
    target : sites [n] that matter
    share : what each of them counts; sums to one
    """
    fitted = FittedSurface(posterior)
    labelled = fitted.sites if existing is None else existing
    if labelled is None:
        raise ValueError("this posterior was loaded without its data; pass existing=, the sites that have labels.")
    pool = _by_basis if fitted.model.basis else _by_covariance
    return pool(fitted, sites, labelled, target, share)


def labelled_sites(posterior: Posterior | None) -> Sites | None:
    """The sites a loss surface was fitted on; None without a posterior, or where it was loaded without its data."""
    if posterior is None or posterior.sites is None:
        return None
    metric = posterior.model.frame.metric if isinstance(posterior.model, LossSurface) else "plane"
    return as_sites("sites of the fit", posterior.sites, metric)


@dataclass(frozen=True, eq=False)
class FittedSurface:
    """A surface with its parameters held at their posterior means.

    Parameters
    ----------
    posterior : of a LossSurface
    """

    posterior: Posterior

    def __post_init__(self) -> None:
        if not isinstance(self.posterior.model, LossSurface):
            kind = type(self.posterior.model).__name__
            raise ValueError(
                f"the posterior is of a {kind}, not of a LossSurface; fit one, or use criterion='k-centre'."
            )

    @property
    def model(self) -> LossSurface:
        """The model that was fitted."""
        assert isinstance(self.posterior.model, LossSurface)
        return self.posterior.model

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Posterior mean of every parameter of the model."""
        return dict(self.posterior.mean())

    @cached_property
    def sites(self) -> Sites | None:
        """The sites it was fitted on."""
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
        """The sites it was fitted on, which must be known."""
        if self.sites is None:
            raise ValueError(
                "this posterior was loaded without its data, which the mean of the surface needs; load(path, *data)."
            )
        return self.sites

    @property
    def data(self) -> Float[np.ndarray, " k"]:
        """The losses of the fit (their logarithms for log-normal ones), less the prior mean of the level."""
        losses = np.asarray(self.posterior.losses, dtype=np.float64)
        return np.asarray((np.log(losses) if self.model.family == "log-normal" else losses) - self.model.center)

    def coordinates(self, name: str, sites: Sites) -> Float[np.ndarray, "n q"]:
        """Coordinates of sites in the frame of the surface; `name` says in messages which sites they are."""
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

    def rows(self, name: str, sites: Sites) -> ProductBasis:
        """The surface at sites, less the prior mean of its level, in coefficients with standard normal priors."""
        # The basis is a product of sines along the axes: a hundred thousand sites need the sines alone.
        waves = np.arange(1, self.model.basis + 1) * (np.pi / (2 * WALL))
        axes = self.coordinates(name, sites).T
        bases = tuple(np.sin((axis[:, None] + WALL) * waves) / np.sqrt(WALL) for axis in axes)
        return ProductBasis(bases, np.append(self.level_sd, self.scales))

    @cached_property
    def scales(self) -> Float[np.ndarray, " p"]:
        """Prior standard deviations of the weights of the basis."""
        with jax.enable_x64(True):
            values = as_jax(tuple(np.asarray(self.parameters[name]) for name in ("amplitude", "length")))
            return np.asarray(self.model.scales(*values))

    def covariance(self, first: Float[np.ndarray, "n q"], second: Float[np.ndarray, "m q"]) -> Float[np.ndarray, "n m"]:
        """Prior covariance of the process between coordinates of the frame, the level's left out."""
        amplitude, length = (float(self.parameters[name]) for name in ("amplitude", "length"))
        return np.asarray(self.model.covariance(first, second, amplitude, length))

    def slope(self, surface: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Derivative of the expected loss by the surface, for the families that are linear in its logarithm."""
        return np.asarray(self.model.expected(surface, self.parameters))


def _by_basis(
    fitted: FittedSurface, sites: Sites, labelled: Sites, target: Sites, share: Float[np.ndarray, " n"]
) -> LinearPool:
    """The process on its basis: the coefficients are those of the basis functions."""
    candidates, goal = fitted.rows("candidate", sites), fitted.rows("target", target)
    factor = _factor(fitted.rows("labelled", labelled), fitted.label)
    root = scipy.linalg.solve_triangular(factor, np.eye(len(factor)), lower=True).T
    if fitted.model.family in LOGARITHMIC:
        coefficients = _coefficients(fitted, factor if labelled is fitted.sites else None)
        share = share * fitted.slope(goal.matvec(coefficients))
    return LinearPool(
        rows=candidates,
        root=root,
        information=np.full(len(candidates), fitted.label),
        target=RootMoment(goal.rmatvec(share)[:, None]),
    )


def _factor(rows: ProductBasis, label: float) -> Float[np.ndarray, "p p"]:
    """Lower Cholesky factor of the precision of the coefficients, given labels at these rows."""
    precision = label * rows.gram(np.ones(len(rows)))
    precision[np.diag_indices_from(precision)] += 1.0
    return np.asarray(scipy.linalg.cholesky(precision, lower=True))


def _coefficients(fitted: FittedSurface, factor: Float[np.ndarray, "p p"] | None) -> Float[np.ndarray, " p"]:
    """Posterior mean of the coefficients, the prior mean of the level added: row . coefficients is the surface."""
    if not fitted.model.collapsed:
        return np.append(fitted.parameters["level"] / fitted.level_sd, fitted.parameters["process"])
    rows = fitted.rows("labelled", fitted.data_sites)
    factor = _factor(rows, fitted.label) if factor is None else factor
    center = np.asarray(scipy.linalg.cho_solve((factor, True), fitted.label * rows.rmatvec(fitted.data)))
    center[0] += fitted.model.center / fitted.level_sd
    return center


def _by_covariance(
    fitted: FittedSurface, sites: Sites, labelled: Sites, target: Sites, share: Float[np.ndarray, " n"]
) -> LinearPool:
    """The exact process: candidates and risk as one Gaussian vector, in as many coordinates as it has entries."""
    if len(sites) > EXACT:
        raise ValueError(
            f"{len(sites):,} candidates are too many for the exact process (at most {EXACT:,}); give a sample of them, "
            "or fit the surface on a basis: LossSurface.around(..., basis=24), in three dimensions at most."
        )
    candidates, known, goal = (
        fitted.coordinates(name, some)
        for name, some in (("candidate", sites), ("labelled", labelled), ("target", target))
    )
    if fitted.model.family in LOGARITHMIC:
        share = share * fitted.slope(_kriged(fitted, goal))
    level = fitted.level_sd**2

    def with_risk(points: Float[np.ndarray, "n q"]) -> Float[np.ndarray, " n"]:
        """Prior covariance of the surface at these points with the risk."""
        parts = (fitted.covariance(points, goal[part]) @ share[part] for part in _blocks(len(goal)))
        return np.asarray(sum(parts) + level * share.sum())

    of_risk = sum(share[part] @ with_risk(goal[part]) for part in _blocks(len(goal)))
    edge = with_risk(candidates)[:, None]
    prior = np.block([[fitted.covariance(candidates, candidates) + level, edge], [edge.T, np.atleast_2d(of_risk)]])
    cross = np.column_stack([fitted.covariance(known, candidates) + level, with_risk(known)])
    noisy = fitted.covariance(known, known) + level + np.eye(len(known)) / fitted.label
    explained = scipy.linalg.solve_triangular(scipy.linalg.cholesky(noisy, lower=True), cross, lower=True)
    root = symmetric_root(prior - explained.T @ explained)
    return LinearPool(
        rows=Dense(root[:-1]),
        root=np.eye(len(root)),
        information=np.full(len(sites), fitted.label),
        target=RootMoment(root[-1][:, None]),
    )


def _kriged(fitted: FittedSurface, points: Float[np.ndarray, "n q"]) -> Float[np.ndarray, " n"]:
    """Posterior mean of the exact surface at points of the frame."""
    known = fitted.coordinates("labelled", fitted.data_sites)
    noisy = fitted.covariance(known, known)
    if fitted.model.collapsed:
        start, spread, noise, residual = fitted.model.center, fitted.level_sd**2, 1 / fitted.label, fitted.data
    else:
        start, spread, noise = float(fitted.parameters["level"]), 0.0, 10 * JITTER * noisy[0, 0]
        residual = fitted.parameters["surface"] - start
    weights = scipy.linalg.solve(noisy + spread + noise * np.eye(len(known)), residual, assume_a="pos")
    return np.concatenate(
        [start + (fitted.covariance(points[part], known) + spread) @ weights for part in _blocks(len(points))]
    )


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, size, BLOCK))
