"""A posterior as a Gaussian: of the sites themselves, or of the unconstrained vector that a model maps to sites."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.inference.posteriors import evaluation
from tercet.inference.posteriors.arviz_adapter import psis_khat
from tercet.inference.posteriors.evaluation import Draws
from tercet.inference.posteriors.posterior import CHAINS, INDEPENDENT_DRAWS, Posterior
from tercet.models._inputs import KeyLike, as_generator
from tercet.models._pytree import pytree

MEAN_DRAWS = 4000  # draws whose average is the mean of sites that are not on the real line


@dataclass(frozen=True, eq=False)
class GaussianPosterior(Posterior):
    """z ~ Normal(center, (L L')^-1), z the vector of all parameters on the unconstrained scale.

    Attributes
    ----------
    kind, context, diagnostics : as of every `Posterior`
    center : array [p]
        Mode (Laplace) or mean (SVI) of z.
    precision_factor : array [p, p]
        L, lower triangular.
    """

    center: Float[np.ndarray, " p"]
    precision_factor: Float[np.ndarray, "p p"]

    @abc.abstractmethod
    def unravel(self, z: np.ndarray) -> Draws:
        """Unconstrained vectors [..., p] as sites [..., shape] (unconstrained)."""

    @abc.abstractmethod
    def constrain(self, z: np.ndarray) -> Draws:
        """Sites [n, ...], constrained, of unconstrained vectors [n, p]."""

    @abc.abstractmethod
    def log_p(self, z: np.ndarray) -> Float[np.ndarray, " n"]:
        """Log joint density of model and data at unconstrained vectors [n, p], Jacobian included."""

    def unconstrained_draws(self, n: int = 1000, key: KeyLike = 0) -> Float[np.ndarray, "n p"]:
        """Draw n vectors z."""
        noise = as_generator(key).standard_normal((n, len(self.center)))
        deviations = scipy.linalg.solve_triangular(self.precision_factor, noise.T, lower=True, trans=1)
        return np.asarray(self.center + deviations.T)

    def draws(self, n: int = 1000, key: KeyLike = 0) -> Draws:
        """Draw n values of every site."""
        return self.constrain(self.unconstrained_draws(n, key))

    @cached_property
    def root(self) -> Float[np.ndarray, "p p"]:
        """R with R R' the covariance of z: the transposed inverse of the precision factor."""
        identity = np.eye(len(self.center))
        return np.asarray(scipy.linalg.solve_triangular(self.precision_factor, identity, lower=True).T)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The entries of z that make up each site."""
        indices = self.unravel(np.arange(float(len(self.center))))
        return {name: slice(int(np.min(i)), int(np.max(i)) + 1) for name, i in indices.items() if np.size(i)}

    def log_q(self, z: np.ndarray) -> Float[np.ndarray, " n"]:
        """Log density of this Gaussian at unconstrained vectors [n, p]."""
        whitened = (z - self.center) @ self.precision_factor
        normaliser = np.log(self.precision_factor.diagonal()).sum() - 0.5 * z.shape[-1] * np.log(2 * np.pi)
        return np.asarray(normaliser - 0.5 * np.square(whitened).sum(axis=-1))

    def arrays(self) -> Draws:
        """Center and precision factor, by the names they have in files."""
        return {"center": self.center, "precision_factor": self.precision_factor}

    def _chains(self, draws: int | None, key: KeyLike) -> tuple[Draws, Draws]:
        n = CHAINS * -(-(INDEPENDENT_DRAWS if draws is None else draws) // CHAINS)
        z = self.unconstrained_draws(n, key)
        return self.constrain(z), {"log_p": self.log_p(z), "log_q": self.log_q(z)}

    def importance_check(self, draws: int = 1000, key: KeyLike = 0) -> dict[str, float]:
        """Compare the Gaussian with the exact posterior by importance ratios p / q of its own draws.

        Parameters
        ----------
        draws : number of draws
        key : int seed or JAX key

        Returns
        -------
        dict
            `pareto_k` (below 0.7: importance sampling gives reliable means and variances of the exact posterior; with
            many parameters it grows even where each margin is well approximated) and `efficiency`, the effective
            sample size of the weighted draws as a share of their number, in (0, 1].

        References
        ----------
        Yao, Vehtari, Simpson, Gelman (2018), Yes, but did it work?, ICML.
        """
        z = self.unconstrained_draws(draws, key)
        ratios = self.log_p(z) - self.log_q(z)
        weights = np.exp(ratios - ratios.max())
        share = float(weights.sum() ** 2 / np.square(weights).sum() / len(weights))
        return {"pareto_k": psis_khat(ratios), "efficiency": share}


@runtime_checkable
class ClosedForm(Protocol):
    """A model whose densities and deterministic sites are known in closed form: nothing is traced or compiled."""

    def log_densities(self, z: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        """Log joint density [n] of model and data at unconstrained vectors [n, p] in the order of its posterior."""
        ...

    def derived(self, sites: Draws) -> Draws:
        """Deterministic sites [..., shape] from others [..., shape], of which they are linear functions."""
        ...


@pytree("kind", "context", "layout", "positive")
@dataclass(frozen=True, eq=False)
class SiteGaussian(GaussianPosterior):
    """A Gaussian of the sites themselves, real or positive: z consists of them, or of their logarithms, in order.

    Attributes
    ----------
    kind, context, diagnostics, center, precision_factor : as of every `GaussianPosterior`
    layout : tuple of (site, length), length 0 for a scalar
    positive : the positive sites
    """

    layout: tuple[tuple[str, int], ...]
    positive: tuple[str, ...] = ()

    def unravel(self, z: np.ndarray) -> Draws:
        """Unconstrained vectors [..., p] as sites [..., length] (unconstrained)."""
        start, sites = 0, {}
        for name, length in self.layout:
            sites[name] = z[..., start : start + length] if length else z[..., start]
            start += max(length, 1)
        return sites

    def constrain(self, z: np.ndarray) -> Draws:
        """Sites [n, ...] of unconstrained vectors [n, p], deterministic ones among them."""
        return self._with_derived({n: np.exp(v) if n in self.positive else v for n, v in self.unravel(z).items()})

    def mean(self) -> Draws:
        """Posterior mean of every site, exact: exp(center + variance / 2) where z holds logarithms."""
        if not self.positive:
            return self.unravel(self.center)
        center, variance = self.unravel(self.center), self.unravel(np.square(self.root).sum(axis=1))
        positive = {name: np.asarray(np.exp(center[name] + variance[name] / 2)) for name in self.positive}
        return self._with_derived(center | positive)

    def log_p(self, z: np.ndarray) -> Float[np.ndarray, " n"]:
        """Log joint density of model and data at unconstrained vectors [n, p], Jacobian included."""
        context = self.context
        if isinstance(context.model, ClosedForm):
            args, kwargs = context.data
            return context.model.log_densities(z, *args, **kwargs)
        return self.log_density(self.constrain(z))

    def _with_derived(self, sites: Draws) -> Draws:
        model = self.context.model
        return sites | model.derived(sites) if isinstance(model, ClosedForm) else sites


@pytree("kind", "context")
@dataclass(frozen=True, eq=False)
class UnconstrainedGaussian(GaussianPosterior):
    """A Gaussian on the unconstrained scale of a NumPyro model, whose transforms turn z into sites.

    Attributes
    ----------
    kind, context, diagnostics, center, precision_factor : as of every `GaussianPosterior`
    """

    def unravel(self, z: np.ndarray) -> Draws:
        """Unconstrained vectors [..., p] as sites [..., shape] (unconstrained)."""
        problem = self.context.problem
        with problem.precision():
            rows = jax.numpy.asarray(z).reshape(-1, z.shape[-1])
            sites = jax.vmap(problem.unravel)(rows)
        return {n: np.asarray(v).reshape(z.shape[:-1] + v.shape[1:]) for n, v in sites.items()}

    def constrain(self, z: np.ndarray) -> Draws:
        """Sites [n, ...], constrained, of unconstrained vectors [n, p]."""
        return self.context.problem.constrain(z)

    def mean(self) -> Draws:
        """Exact for sites that live on the real line, the average of 4,000 fixed draws for the others."""
        averages = {name: values.mean(axis=0) for name, values in self.draws(MEAN_DRAWS, key=0).items()}
        center = self.unravel(self.center)
        exact = self.context.problem.constrain(self.center[None])
        real = {n for n in center if np.array_equal(exact[n][0], center[n])}
        return {name: center[name] if name in real else np.asarray(values) for name, values in averages.items()}

    def log_p(self, z: np.ndarray) -> Float[np.ndarray, " n"]:
        """Log joint density of model and data at unconstrained vectors [n, p], Jacobian included."""
        return evaluation.log_density_unconstrained(self.context.problem, z)
