"""The posterior contract: draws, mean, densities, ArviZ; as a Gaussian or as a set of draws."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.inference.posteriors.context import Context
from tercet.models._inputs import as_generator

CHAINS = 4  # independent draws are shown to ArviZ as this many chains: its functions expect some
LOG_LIKELIHOOD_BYTES = 4e9
Draws = dict[str, np.ndarray]
"""Site name to array [n, ...]."""


@dataclass(frozen=True, eq=False)
class Posterior(abc.ABC):
    """What the data say about a model: the same questions whatever method gave the answer.

    Attributes
    ----------
    kind : "laplace", "svi", "nuts"
    diagnostics : how the fit went; numbers only, `converged` always among them
    context : model, data, names
    """

    kind: str
    context: Context
    diagnostics: Mapping[str, Any]

    @abc.abstractmethod
    def draws(self, n: int = 1000, key: Any = 0) -> Draws:
        """Draw n values [n, ...] of every site, constrained; the same key gives the same draws."""

    @abc.abstractmethod
    def mean(self) -> Draws:
        """Posterior mean of every site."""

    @abc.abstractmethod
    def _chains(self, draws: int | None, key: Any) -> tuple[Draws, dict[str, np.ndarray]]:
        """Sites [chains * n, ...], chain after chain, and statistics [chains * n] of the draws."""

    @property
    def chains(self) -> int:
        """Number of chains shown to ArviZ."""
        return CHAINS

    def log_density(self, draws: Draws) -> Float[np.ndarray, " n"]:
        """Log joint density of model and data at constrained draws [n, ...] (not normalised)."""
        return self.context.problem.log_density(draws)

    def log_likelihood(self, draws: Draws) -> Draws:
        """Pointwise log likelihood [n, observations] of every observed site; weights multiply it."""
        return self.context.problem.log_likelihood(draws)

    def to_arviz(self, draws: int | None = None, key: Any = 0, log_likelihood: bool = True) -> Any:
        """Give the container of the installed ArviZ: InferenceData (0.23) or DataTree (1.x).

        Parameters
        ----------
        draws : number of draws in all; by default 1,000 independent ones, or every draw of the chains
        key : int seed or JAX key
        log_likelihood : also evaluate the pointwise log likelihood and draw predictions (draws x observations
            numbers each)
        """
        from tercet.inference.posteriors.arviz_adapter import to_container

        sites, statistics = self._chains(draws, key)
        # Not the standardised twin of a site that is shown itself.
        shown = {n: v for n, v in sites.items() if not (n.endswith("_base") and n.removesuffix("_base") in sites)}
        groups: dict[str, Any] = {"posterior": shown, "sample_stats": statistics}
        problem = self.context.problem
        if log_likelihood:
            self._check_memory(len(next(iter(sites.values()))))
            groups["log_likelihood"] = problem.log_likelihood(sites)
            groups["posterior_predictive"] = problem.predictive(sites, key)
        split = {
            group: {name: _split(values, self.chains) for name, values in values_of.items()}
            for group, values_of in groups.items()
        }
        split["observed_data"] = problem.observed
        return to_container(split, coords=self._used_coords(), dims=problem.dims)

    def _used_coords(self) -> dict[str, Any]:
        used = {dim for dims in self.context.problem.dims.values() for dim in dims}
        return {dim: values for dim, values in self.context.coords.items() if dim in used}

    def _check_memory(self, draws: int) -> None:
        observations = sum(np.size(values) for values in self.context.problem.observed.values())
        if 8.0 * observations * draws > LOG_LIKELIHOOD_BYTES:
            raise ValueError(
                f"the pointwise log likelihood of {observations:,} observations x {draws:,} draws needs "
                f"{8e-9 * observations * draws:.0f} GB; pass log_likelihood=False or fewer draws."
            )

    def save(self, path: str | Path) -> Path:
        """Write to one .npz file (numbers and a JSON header, no pickle); see `tercet.inference.load`."""
        from tercet.inference.posteriors.storage import save

        return save(self, path)


def _split(values: np.ndarray, chains: int) -> np.ndarray:
    return values.reshape(chains, len(values) // chains, *values.shape[1:])


@dataclass(frozen=True, eq=False)
class GaussianPosterior(Posterior):
    """z ~ Normal(center, (L L')^-1) on the unconstrained scale.

    Attributes
    ----------
    center : array [p]
        Mode (Laplace) or mean (SVI) of the unconstrained vector z.
    precision_factor : array [p, p]
        L, lower triangular.
    layout : tuple of (site, length), or None
        The real-valued sites that make up z (length 0: a scalar); None where the model's own transforms are
        needed to read z.
    """

    center: Float[np.ndarray, " p"]
    precision_factor: Float[np.ndarray, "p p"]
    layout: tuple[tuple[str, int], ...] | None

    def unravel(self, z: np.ndarray) -> Draws:
        """Unconstrained vectors [..., p] as sites [..., shape] (unconstrained)."""
        if self.layout is None:
            import jax

            with self.context.problem.precision():
                rows = jax.numpy.asarray(z).reshape(-1, z.shape[-1])
                sites = jax.vmap(self.context.problem.unravel)(rows)
            return {n: np.asarray(v).reshape(z.shape[:-1] + v.shape[1:]) for n, v in sites.items()}
        place, sites = 0, {}
        for name, length in self.layout:
            sites[name] = z[..., place : place + length] if length else z[..., place]
            place += max(length, 1)
        return sites

    def constrain(self, z: np.ndarray) -> Draws:
        """Sites [n, ...], constrained, of unconstrained vectors [n, p]."""
        return self.context.problem.constrain(z) if self.layout is None else self.unravel(z)

    def unconstrained_draws(self, n: int = 1000, key: Any = 0) -> Float[np.ndarray, "n p"]:
        """Draw z."""
        noise = as_generator(key).standard_normal((n, len(self.center)))
        return self.center + scipy.linalg.solve_triangular(self.precision_factor, noise.T, lower=True, trans=1).T

    def draws(self, n: int = 1000, key: Any = 0) -> Draws:
        """Draw n values of every site."""
        return self.constrain(self.unconstrained_draws(n, key))

    def mean(self) -> Draws:
        """Exact for sites that live on the real line, the average of 4,000 fixed draws for the others."""
        if self.layout is not None:
            return self.unravel(self.center)
        averages = {name: values.mean(axis=0) for name, values in self.draws(4000, key=0).items()}
        center = self.unravel(self.center)
        exact = self.context.problem.constrain(self.center[None])
        real = {n for n in center if np.array_equal(exact[n][0], center[n])}
        return {name: center[name] if name in real else np.asarray(values) for name, values in averages.items()}

    @cached_property
    def root(self) -> Float[np.ndarray, "p p"]:
        """R with R R' the covariance of z: the transposed inverse of the precision factor."""
        identity = np.eye(len(self.center))
        return scipy.linalg.solve_triangular(self.precision_factor, identity, lower=True).T

    def log_q(self, z: np.ndarray) -> Float[np.ndarray, " n"]:
        """Log density of this Gaussian at unconstrained vectors [n, p]."""
        whitened = (z - self.center) @ self.precision_factor
        normaliser = np.log(self.precision_factor.diagonal()).sum() - 0.5 * z.shape[-1] * np.log(2 * np.pi)
        return normaliser - 0.5 * np.square(whitened).sum(axis=-1)

    def log_p(self, z: np.ndarray) -> Float[np.ndarray, " n"]:
        """Log joint density of model and data at unconstrained vectors [n, p], Jacobian included."""
        if self.layout is None:
            return self.context.problem.log_density_unconstrained(z)
        return self.log_density(self.unravel(z))

    def _chains(self, draws: int | None, key: Any) -> tuple[Draws, dict[str, np.ndarray]]:
        n = CHAINS * -(-(1000 if draws is None else draws) // CHAINS)
        z = self.unconstrained_draws(n, key)
        return self.constrain(z), {"log_p": self.log_p(z), "log_q": self.log_q(z)}

    def importance_check(self, draws: int = 1000, key: Any = 0) -> dict[str, float]:
        """Compare the Gaussian with the exact posterior by importance ratios p / q of its own draws.

        Returns
        -------
        dict
            `pareto_k` (below 0.7: means and variances under the exact posterior can be had by reweighting; with
            many parameters it grows even where each margin is well approximated) and `efficiency`, the effective
            share of the draws under reweighting, in (0, 1].

        References
        ----------
        Yao, Vehtari, Simpson, Gelman (2018), Yes, but did it work?, ICML.
        """
        from tercet.inference.posteriors.arviz_adapter import psis_khat

        z = self.unconstrained_draws(draws, key)
        ratios = self.log_p(z) - self.log_q(z)
        weights = np.exp(ratios - ratios.max())
        share = float(weights.sum() ** 2 / np.square(weights).sum() / len(weights))
        return {"pareto_k": psis_khat(ratios), "efficiency": share}


@dataclass(frozen=True, eq=False)
class SampledPosterior(Posterior):
    """Draws of Markov chains.

    Attributes
    ----------
    samples : dict of arrays [chains, draws, ...]
    statistics : dict of arrays [chains, draws], such as `diverging`
    """

    samples: Draws
    statistics: Draws

    @property
    def chains(self) -> int:
        """Number of chains."""
        return int(next(iter(self.samples.values())).shape[0])

    @cached_property
    def _flat(self) -> Draws:
        return {name: values.reshape(-1, *values.shape[2:]) for name, values in self.samples.items()}

    def draws(self, n: int = 1000, key: Any = 0) -> Draws:
        """Pick n draws at random, without repetition where there are enough."""
        total = len(next(iter(self._flat.values())))
        index = as_generator(key).choice(total, size=n, replace=n > total)
        return {name: values[index] for name, values in self._flat.items()}

    def mean(self) -> Draws:
        """Average over all draws."""
        return {name: np.asarray(values.mean(axis=0)) for name, values in self._flat.items()}

    def _chains(self, draws: int | None, key: Any) -> tuple[Draws, dict[str, np.ndarray]]:
        length = next(iter(self.samples.values())).shape[1]
        wanted = length if draws is None else max(1, min(length, draws // self.chains))
        kept = np.linspace(0, length - 1, wanted).round().astype(int)  # even thinning keeps chains chains

        def flat(values: np.ndarray) -> np.ndarray:
            return values[:, kept].reshape(-1, *values.shape[2:])

        return {n: flat(v) for n, v in self.samples.items()}, {n: flat(v) for n, v in self.statistics.items()}
