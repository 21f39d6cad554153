"""The posterior contract: draws, mean, densities, ArviZ; and the data of the fit."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float

from tercet.inference.posteriors import evaluation, files
from tercet.inference.posteriors.arviz_adapter import to_container
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.evaluation import Draws
from tercet.models._pytree import Container

if TYPE_CHECKING:  # names for annotations: this wing imports no domain
    from tercet.models.items.items import Items
    from tercet.models.preferences.comparisons import Comparisons
    from tercet.models.space.sites import Sites
    from tercet.models.trajectories.snapshots import Snapshots

CHAINS = 4  # independent draws are shown to ArviZ as this many chains: its functions expect some
LOG_LIKELIHOOD_BYTES = 4e9
AnyContainer = TypeVar("AnyContainer", bound=Container)


@dataclass(frozen=True, eq=False)
class Posterior(abc.ABC):
    """What the data say about a model: the same questions whatever method gave the answer.

    Attributes
    ----------
    kind : "laplace", "svi", "nuts", "ensemble"
    context : model, data, names
    diagnostics : how the fit went; numbers only, `converged` always among them
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
    def _chains(self, draws: int | None, key: Any) -> tuple[Draws, Draws]:
        """Sites [chains * n, ...], chain after chain, and statistics [chains * n] of the draws."""

    @abc.abstractmethod
    def arrays(self) -> Draws:
        """The arrays that make up this posterior, by the names they have in files."""

    @property
    def chains(self) -> int:
        """Number of chains shown to ArviZ."""
        return CHAINS

    @property
    def model(self) -> Callable[..., Any] | None:
        """The model of the fit; None where it was loaded without one."""
        return self.context.model

    @property
    def items(self) -> Items | None:
        """The items of the fit, where there are any and they are at hand."""
        return self._container("Items")

    @property
    def comparisons(self) -> Comparisons | None:
        """The answered comparisons of the fit, where there are any and they are at hand."""
        return self._container("Comparisons")

    @property
    def snapshots(self) -> Snapshots | None:
        """The snapshots of the fit, where there are any and they are at hand."""
        return self._container("Snapshots")

    @property
    def sites(self) -> Sites | np.ndarray | None:
        """The sites of the fit, where there are any and they are at hand."""
        return self.context.argument("sites")

    @property
    def losses(self) -> np.ndarray | None:
        """The losses at the sites, where there are any and they are at hand."""
        return self.context.argument("losses")

    def _container(self, name: str) -> Any:
        return next((each for each in self.context.containers() if type(each).__name__ == name), None)

    def log_density(self, draws: Draws) -> Float[np.ndarray, " n"]:
        """Log joint density of model and data at constrained draws [n, ...] (not normalised)."""
        return evaluation.log_density(self.context.problem, draws)

    def log_likelihood(self, draws: Draws) -> Draws:
        """Pointwise log likelihood [n, observations] of every observed site; weights multiply it."""
        return evaluation.log_likelihood(self.context.problem, draws)

    def to_arviz(
        self,
        draws: int | None = None,
        key: Any = 0,
        log_likelihood: bool = True,
        *,
        max_bytes: float = LOG_LIKELIHOOD_BYTES,
    ) -> Any:
        """Give the container of the installed ArviZ: InferenceData (0.23) or DataTree (1.x).

        Parameters
        ----------
        draws : number of draws in all; by default 1,000 independent ones, or every draw of the chains
        key : int seed or JAX key
        log_likelihood : also evaluate the pointwise log likelihood and draw predictions (draws x observations
            numbers each)
        max_bytes : a pointwise log likelihood larger than this is an error
        """
        sites, statistics = self._chains(draws, key)
        # Not the standardised twin of a site that is shown itself.
        shown = {n: v for n, v in sites.items() if not (n.endswith("_base") and n.removesuffix("_base") in sites)}
        groups: dict[str, Any] = {"posterior": shown, "sample_stats": statistics}
        problem = self.context.problem
        observed = evaluation.observed(problem)
        if log_likelihood:
            _check_memory(observed, len(next(iter(sites.values()))), max_bytes)
            groups["log_likelihood"] = evaluation.log_likelihood(problem, sites)
            groups["posterior_predictive"] = evaluation.predictive(problem, sites, key)
        split = {
            group: {name: _split(values, self.chains) for name, values in values_of.items()}
            for group, values_of in groups.items()
        }
        split["observed_data"] = observed
        dimensions = evaluation.dimensions(problem)
        used = {name for names in dimensions.values() for name in names}
        coords = {name: values for name, values in self.context.coords.items() if name in used}
        return to_container(split, coords=coords, dims=dimensions)

    def save(self, path: str | Path) -> Path:
        """Write to one .npz file (numbers and a JSON header, no pickle); see `tercet.inference.load`."""
        header = {
            "kind": self.kind,
            "class": type(self).__name__,
            "coords": self.context.coords,
            "diagnostics": dict(self.diagnostics),
            "layout": getattr(self, "layout", None),
        }
        return files.write(path, header, self.arrays(), self.context.model, self.context.projection)


def _check_memory(observed: Draws, draws: int, max_bytes: float) -> None:
    observations = sum(np.size(values) for values in observed.values())
    if 8.0 * observations * draws > max_bytes:
        raise ValueError(
            f"the pointwise log likelihood of {observations:,} observations x {draws:,} draws needs "
            f"{8e-9 * observations * draws:.0f} GB; pass log_likelihood=False or fewer draws."
        )


def _split(values: np.ndarray, chains: int) -> np.ndarray:
    return values.reshape(chains, len(values) // chains, *values.shape[1:])
