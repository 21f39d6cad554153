"""Frozen dataclasses as JAX pytrees whose checks run when a user builds one, not when JAX rebuilds one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax

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
