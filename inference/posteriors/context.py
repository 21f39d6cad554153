"""What a posterior remembers of its fit: the model, its data, the names of its dimensions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tercet.models.items.items import Items
from tercet.models.items.projection import FeatureMap
from tercet.models.preferences.comparisons import Comparisons

if TYPE_CHECKING:
    from tercet.inference.posteriors.problem import Problem


@dataclass(frozen=True, eq=False)
class Context:
    """Model and data of a fit; `args` is None for a posterior that was loaded without its data."""

    model: Callable[..., Any] | None
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] = field(default_factory=dict)
    x64: bool | None = None
    saved_coords: dict[str, list[Hashable]] = field(default_factory=dict)
    saved_projection: FeatureMap | None = None

    @cached_property
    def problem(self) -> Problem:
        """The model with its data as functions (built on first use: tracing takes a second)."""
        from tercet.inference.posteriors.problem import Problem

        if self.model is None or self.args is None:
            missing = "model" if self.model is None else "data"
            raise ValueError(
                f"this posterior was loaded without its {missing}, which this question needs; "
                "load it with load(path, *data, model=model)."
            )
        return Problem(self.model, self.args, self.kwargs, x64=self.x64)

    def _containers(self) -> Iterator[Any]:
        yield from self.args or ()
        yield from self.kwargs.values()

    @property
    def comparisons(self) -> Comparisons | None:
        """The answers of the fit, where there are any and they are at hand."""
        return next((value for value in self._containers() if isinstance(value, Comparisons)), None)

    @property
    def coords(self) -> dict[str, list[Hashable]]:
        """Names along plates: item ids, annotator ids."""
        found: dict[str, list[Hashable]] = dict(self.saved_coords)
        for value in self._containers():
            if isinstance(value, Items):
                found["item"] = list(value.names)
            if isinstance(value, Comparisons) and value.annotator_ids is not None:
                found["annotator"] = list(value.annotator_ids)
        return found

    @property
    def projection(self) -> FeatureMap | None:
        """How raw embeddings became the features of the items, if they did."""
        fitted = [v.projection for v in self._containers() if isinstance(v, Items) and v.projection]
        return fitted[0] if fitted else self.saved_projection
