"""What a posterior keeps of its fit: the model, its data, the names of its dimensions."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tercet.inference.posteriors.problem import Problem
from tercet.inference.posteriors.sites import Model
from tercet.models._pytree import Container
from tercet.models.items.projection import FeatureMap


@dataclass(frozen=True, eq=False)
class Context:
    """Model and data of a fit.

    Parameters
    ----------
    model : NumPyro model; None where a posterior was loaded without it
    args, kwargs : its data; `args` is None where a posterior was loaded without them
    x64 : whether the fit was computed in 64 bit whatever JAX is set to
    saved_coords : names along the plates, of a posterior that was loaded
    saved_projection : of the items of the fit, of a posterior that was loaded
    """

    model: Model | None
    args: tuple[object, ...] | None
    kwargs: Mapping[str, object] = field(default_factory=dict)
    x64: bool | None = None
    saved_coords: Mapping[str, list[Hashable]] = field(default_factory=dict)
    saved_projection: FeatureMap | None = None

    @cached_property
    def problem(self) -> Problem:
        """The model with its data as functions (built on first use: tracing takes a second)."""
        args, kwargs = self.data
        assert self.model is not None
        return Problem(self.model, args, kwargs, x64=self.x64)

    @property
    def data(self) -> tuple[tuple[object, ...], Mapping[str, object]]:
        """The data of the model, positional and by keyword; raises where the model or they are not at hand."""
        if self.model is None or self.args is None:
            missing = "model" if self.model is None else "data"
            raise ValueError(
                f"this posterior was loaded without its {missing}, which this question needs; "
                "load it with load(path, *data, model=model)."
            )
        return self.args, self.kwargs

    def argument(self, name: str) -> Any:
        """The argument of this name that the model was called with; None where it has none or was loaded without."""
        if self.model is None or self.args is None:
            return None
        try:
            bound = inspect.signature(self.model).bind_partial(*self.args, **self.kwargs)
        except TypeError:
            return None
        return bound.arguments.get(name)

    def containers(self) -> Iterator[Container]:
        """The containers of data among the arguments."""
        for value in (*(self.args or ()), *self.kwargs.values()):
            if isinstance(value, Container):
                yield value

    @property
    def coords(self) -> dict[str, list[Hashable]]:
        """Names along plates: item ids, annotator ids."""
        names: dict[str, list[Hashable]] = dict(self.saved_coords)
        for container in self.containers():
            names.update(container.coords)
        return names

    @property
    def projection(self) -> FeatureMap | None:
        """The map from raw embeddings to the features of the items of the fit, where there is one."""
        fitted = (getattr(container, "projection", None) for container in self.containers())
        return next((projection for projection in fitted if projection), self.saved_projection)
