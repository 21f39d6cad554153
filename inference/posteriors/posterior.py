"""The posterior contract: draws, mean, densities, ArviZ; and the data of the fit."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from tercet.inference.posteriors import evaluation, files
from tercet.inference.posteriors.arviz_adapter import to_container
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.evaluation import Draws
from tercet.inference.posteriors.sites import Model
from tercet.models._inputs import KeyLike

if TYPE_CHECKING:  # names for annotations: this wing imports no domain
    from tercet.models.items.items import Items
    from tercet.models.preferences.comparisons import Comparisons
    from tercet.models.space.sites import Sites
    from tercet.models.trajectories.snapshots import Snapshots

Diagnostics = Mapping[str, float | int]
"""Numbers that say how a fit went, by name; `converged` (True or False) is always among them."""
CHAINS = 4  # independent draws are given to ArviZ as so many chains: its functions expect several
INDEPENDENT_DRAWS = 1000  # draws given to ArviZ where no number is asked for


@dataclass(frozen=True, eq=False)
class Posterior(abc.ABC):
    """A posterior distribution of the sites of a model: the same methods whatever the method of inference.

    Attributes
    ----------
    kind : method of inference: "laplace", "svi", "nuts" or "ensemble"
    context : model, data, names
    diagnostics : how the fit went; numbers only, `converged` always among them
    """

    kind: str
    context: Context
    diagnostics: Diagnostics

    @abc.abstractmethod
    def draws(self, n: int = 1000, key: KeyLike = 0) -> Draws:
        """Draw n values [n, ...] of every site, constrained; the same key gives the same draws."""

    @abc.abstractmethod
    def mean(self) -> Draws:
        """Posterior mean of every site."""

    @abc.abstractmethod
    def _chains(self, draws: int | None, key: KeyLike) -> tuple[Draws, Draws]:
        """Sites [chains * n, ...], chain after chain, and statistics [chains * n] of the draws."""

    @abc.abstractmethod
    def arrays(self) -> Draws:
        """The arrays that make up this posterior, by the names they have in files."""

    @property
    def chains(self) -> int:
        """Number of chains in the ArviZ container."""
        return CHAINS

    @property
    def model(self) -> Model | None:
        """The model of the fit; None where it was loaded without one."""
        return self.context.model

    @property
    def items(self) -> Items | None:
        """The items of the fit; None where the model has none or the posterior was loaded without its data."""
        items: Items | None = self._container("Items")
        return items

    @property
    def comparisons(self) -> Comparisons | None:
        """The comparisons of the fit; None where there are none or it was loaded without its data."""
        comparisons: Comparisons | None = self._container("Comparisons")
        return comparisons

    @property
    def snapshots(self) -> Snapshots | None:
        """The snapshots of the fit; None where there are none or it was loaded without its data."""
        snapshots: Snapshots | None = self._container("Snapshots")
        return snapshots

    @property
    def sites(self) -> Sites | np.ndarray | None:
        """The spatial sites of the fit; None where there are none or it was loaded without its data."""
        sites: Sites | np.ndarray | None = self.context.argument("sites")
        return sites

    @property
    def losses(self) -> np.ndarray | None:
        """The losses at the sites of the fit; None where there are none or it was loaded without its data."""
        losses: np.ndarray | None = self.context.argument("losses")
        return losses

    def _container(self, name: str) -> Any:
        """The container of this class among the data (by name: this wing imports no domain)."""
        for container in self.context.containers():
            if name in (cls.__name__ for cls in type(container).__mro__):
                return container
        return None

    def log_density(self, draws: Draws) -> Float[np.ndarray, " n"]:
        """Log joint density of model and data at constrained draws [n, ...] (not normalised)."""
        return evaluation.log_density(self.context.problem, draws)

    def log_likelihood(self, draws: Draws) -> Draws:
        """Pointwise log likelihood [n, observations] of every observed site, times the weights of the observations."""
        return evaluation.pointwise(self.context.problem, draws)[0]

    def to_arviz(
        self,
        draws: int | None = None,
        key: KeyLike = 0,
        log_likelihood: bool = True,
        *,
        max_bytes: float = 4e9,
    ) -> Any:
        """Draws in the container of the installed ArviZ: InferenceData (0.23) or DataTree (1.x).

        Parameters
        ----------
        draws : number of draws in all; by default 1,000 independent ones, or every draw of the chains
        key : int seed or JAX key
        log_likelihood : also evaluate the pointwise log likelihood and the posterior predictive (draws x observations
            numbers each)
        max_bytes : a pointwise log likelihood larger than this is an error
        """
        sites, statistics = self._chains(draws, key)
        # Without the standardised copies that NumPyro's reparametrisation keeps of a site.
        named = {n: v for n, v in sites.items() if not (n.endswith("_base") and n.removesuffix("_base") in sites)}
        groups = {"posterior": named, "sample_stats": statistics}
        problem = self.context.problem
        observed = evaluation.observed(problem)
        if log_likelihood:
            _check_memory(observed, len(next(iter(sites.values()))), max_bytes)
            groups["log_likelihood"], groups["posterior_predictive"] = evaluation.pointwise(problem, sites, key)
        split = {
            group: {name: _split(values, self.chains) for name, values in variables.items()}
            for group, variables in groups.items()
        }
        split["observed_data"] = observed
        dimensions = evaluation.dimensions(problem)
        used = {name for names in dimensions.values() for name in names}
        coords = {name: values for name, values in self.context.coords.items() if name in used}
        return to_container(split, coords=coords, dims=dimensions)

    def save(self, path: str | Path) -> Path:
        """Write to one .npz file (numbers and a JSON header, no pickle); see `tercet.inference.load`."""
        context = self.context
        layout: tuple[tuple[str, int], ...] | None = getattr(self, "layout", None)  # of a SiteGaussian
        positive: tuple[str, ...] = getattr(self, "positive", ())
        header = files.Header(
            self.kind, type(self).__name__, self.diagnostics, context.coords, layout, positive, context.model,
            context.projection,
        )  # fmt: skip
        return files.write(path, header, self.arrays())


def _check_memory(observed: Draws, draws: int, max_bytes: float) -> None:
    observations = sum(np.size(values) for values in observed.values())
    if 8.0 * observations * draws > max_bytes:
        raise ValueError(
            f"the pointwise log likelihood of {observations:,} observations x {draws:,} draws needs "
            f"{8e-9 * observations * draws:.0f} GB; pass log_likelihood=False or fewer draws."
        )


def _split(values: np.ndarray, chains: int) -> np.ndarray:
    return values.reshape(chains, len(values) // chains, *values.shape[1:])
