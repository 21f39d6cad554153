"""Frozen dataclasses as JAX pytrees whose checks run when a user builds one, not when JAX rebuilds one.

Data (`pytree`) say which of their fields are metadata; of models (`ModelPytree`) numbers are leaves, and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax

from tercet.models._partition import Structure, UnknownIdentityError, opaque, partition

Class = TypeVar("Class", bound=type)


class Container:
    """Data that a model is called with: Items, Comparisons, Snapshots or Sites."""

    @property
    def coords(self) -> dict[str, list[Hashable]]:
        """Names along the plates that these data define, by plate."""
        return {}

    def nameless(self) -> Any:
        """The same data without names and other marks that no density depends on."""
        return self


def pytree(*static: str) -> Callable[[Class], Class]:
    """Register a frozen dataclass: fields named in `static` are metadata, the others children."""

    def register(cls: Class) -> Class:
        names = [field.name for field in dataclasses.fields(cls)]
        children = [name for name in names if name not in static]

        def flatten(obj: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
            keyed = [(jax.tree_util.GetAttrKey(name), getattr(obj, name)) for name in children]
            return keyed, tuple(getattr(obj, name) for name in static)

        def unflatten(aux: tuple[Any, ...], values: Any) -> Any:
            obj: Any = object.__new__(cls)
            for name, value in [*zip(static, aux, strict=True), *zip(children, values, strict=True)]:
                object.__setattr__(obj, name, value)
            return obj

        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
        return cls

    return register


class ModelPytree:
    """Base of models, heads and the like, frozen dataclasses: finite floats and arrays in their fields are leaves.

    JAX then traces a prior scale or a known volatility like data, and one program serves all their values. A field on
    whose value Python has to decide is an integer, a string or a bool: these are structure, and so is an infinity.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        def flatten(model: Any) -> tuple[list[tuple[Any, Any]], tuple[tuple[str, Structure], ...]]:
            parts = {field.name: _partition(getattr(model, field.name)) for field in dataclasses.fields(model)}
            keyed = [(jax.tree_util.GetAttrKey(name), numbers) for name, (numbers, _) in parts.items()]
            return keyed, tuple((name, structure) for name, (_, structure) in parts.items())

        def unflatten(aux: tuple[tuple[str, Structure], ...], values: Any) -> Any:
            model: Any = object.__new__(cls)
            for (name, structure), numbers in zip(aux, values, strict=True):
                object.__setattr__(model, name, structure.bind(numbers))
            return model

        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)


def _partition(value: object) -> tuple[tuple[Any, ...], Structure]:
    try:
        return partition(value)
    except UnknownIdentityError:  # the same only if it is the same object
        return (), opaque(value)
