"""A criterion: an objective, and the search that looks for the batch of its largest total gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tercet.designs.criteria.objective import Objective
from tercet.designs.criteria.search import GREEDY, Search
from tercet.designs.criteria.tile import Tile, TiledPool


@dataclass(frozen=True)
class Criterion:
    """What `select` chooses by: any objective under any search.

    Parameters
    ----------
    name : what tables and label stores call it
    objective : what a pick gains given the picks before it
    search : how the batch is found (default: greedily)

    Examples
    --------
    >>> from dataclasses import replace
    >>> from tercet.designs.criteria.criterion import Criterion
    >>> from tercet.designs.criteria.exchange import Exchange
    >>> from tercet.designs.criteria.optimality import AOptimality
    >>> Criterion("Fedorov exchange A", AOptimality(), Exchange(sweeps=5)).name
    'Fedorov exchange A'
    """

    name: str
    objective: Objective[Any, Any]
    search: Search = GREEDY

    def tile(self, pool: TiledPool) -> Tile[Any, Any] | None:
        """How candidates that are too many to list are scored; None where either half needs a list."""
        return None if self.search.leaders(1, 1) is None else self.objective.tile(pool)


def as_criterion(criterion: str | Criterion, known: Mapping[str, Criterion]) -> Criterion:
    """A criterion by name, or itself."""
    if isinstance(criterion, Criterion):
        return criterion
    if not isinstance(criterion, str) or criterion not in known:
        raise ValueError(
            f"criterion must be one of {sorted(known)} or a Criterion(name, objective, search), got {criterion!r}."
        )
    return known[criterion]
