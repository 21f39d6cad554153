"""Structure and numbers: what a program is compiled for, and what it takes as an argument.

A drift, a volatility, a reference or a model is a JAX pytree. Its leaves are the finite numbers that it was built with,
those inside its priors and inside a `functools.partial` included; everything else is its structure. A compiled program
therefore serves every reference of one structure: another known volatility or prior scale is another argument.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from numbers import Number
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from tercet.models._partition import UnknownIdentityError, identity


class Structural:
    """Base of frozen dataclasses (declared with `eq=False`): pytrees that compare and hash by their fields' contents.

    The checks of a class run when it is built by a user, not when JAX rebuilds it.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        jax.tree_util.register_pytree_node(cls, _flatten, partial(_rebuild, cls))

    @cached_property
    def _parts(self) -> Parts:
        """Numbers, and the template that they fill."""
        return separate(tuple(getattr(self, field.name) for field in fields(self)))

    @cached_property
    def _structure(self) -> Hashable:
        return type(self), *(structure(getattr(self, field.name)) for field in fields(self))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Structural) and self._structure == other._structure)

    def __hash__(self) -> int:
        return hash(self._structure)


def _flatten(value: Any) -> tuple[tuple[Any, ...], Template]:
    parts: Parts = value._parts
    return parts.numbers, parts.template


def _rebuild(cls: type[Structural], template: Template, numbers: Any) -> Any:
    built = object.__new__(cls)
    for field, value in zip(fields(cls), template.filled(numbers), strict=True):
        object.__setattr__(built, field.name, value)
    # Kept: whatever JAX puts in the place of a number (a shape, a marker) is one still.
    built.__dict__["_parts"] = Parts(tuple(numbers), template)
    return built


class Parts(NamedTuple):
    """A value taken apart: its numbers (floats and arrays of them), and the template that they fill."""

    numbers: tuple[Any, ...]
    template: Template


class _Slot:
    """Where a number goes in a template."""


SLOT = _Slot()


@dataclass(frozen=True, eq=False)
class Template:
    """A value without its numbers; templates are equal, and hash alike, where they give the same function of them.

    Attributes
    ----------
    tree : structure of the pytree
    leaves : of each leaf `SLOT`, the template of a mapping or a partial, or what the leaf is
    wrap : "" for a pytree as it is, "mapping" or "partial" for the items or parts of one
    """

    tree: Any
    leaves: tuple[Any, ...]
    wrap: str = ""

    @cached_property
    def _key(self) -> Hashable:
        kept = (leaf if isinstance(leaf, Template) or leaf is SLOT else _identity(leaf) for leaf in self.leaves)
        return self.wrap, self.tree, *kept

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Template) and self._key == other._key)

    def __hash__(self) -> int:
        return hash(self._key)

    def filled(self, numbers: Any) -> Any:
        """The value with these numbers."""
        return self._take(iter(numbers))

    def _take(self, numbers: Any) -> Any:
        leaves = [
            next(numbers) if leaf is SLOT else leaf._take(numbers) if isinstance(leaf, Template) else leaf
            for leaf in self.leaves
        ]
        value = jax.tree.unflatten(self.tree, leaves)
        if self.wrap == "mapping":
            return dict(value)
        if self.wrap == "partial":
            function, args, keywords = value
            return partial(function, *args, **dict(keywords))
        return value


def separate(value: object, numbers_apart: bool = True) -> Parts:
    """Take a value apart; with `numbers_apart` false its numbers stay in the template.

    Numbers are finite floats and floating-point arrays. Integers, booleans and arrays of them are structure: they are
    used as sizes and indices.
    """
    numbers: list[Any] = []

    def template(value: object, wrap: str = "") -> Template:
        leaves, tree = jax.tree.flatten(value, is_leaf=_is_mapping)
        return Template(tree, tuple(map(part, leaves)), wrap)

    def part(leaf: object) -> Any:
        if isinstance(leaf, Mapping):  # as a tuple of items it keeps their order, in which priors are drawn from
            return template(tuple(leaf.items()), "mapping")
        if isinstance(leaf, partial):
            return template((leaf.func, leaf.args, tuple(leaf.keywords.items())), "partial")
        if numbers_apart and _is_number(leaf):
            numbers.append(leaf)
            return SLOT
        return leaf

    whole = template(value)
    return Parts(tuple(numbers), whole)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_number(leaf: object) -> bool:
    if isinstance(leaf, (np.ndarray, jax.Array)):
        return bool(jax.numpy.issubdtype(leaf.dtype, np.floating))
    return isinstance(leaf, (float, np.floating)) and math.isfinite(leaf)


def _identity(leaf: object) -> Hashable:
    """Functions by their code and by what they refer to: a global constant that changes makes another program."""
    try:
        return identity(leaf)
    except UnknownIdentityError:
        return _leaf(leaf)


def structure(value: object) -> Hashable:
    """Hashable key of a value: distributions and other pytrees by class and leaves, arrays by dtype, shape and content.

    A `functools.partial` goes by its parts, any other function by itself, what cannot be hashed by its identity.
    """
    # As a tuple, a mapping keeps the order of its keys: it is the order in which priors are drawn from.
    if isinstance(value, Structural):
        return value._structure
    leaves, tree = jax.tree.flatten(
        tuple(value.items()) if isinstance(value, Mapping) else value, is_leaf=lambda node: isinstance(node, Structural)
    )
    return tree, *map(_leaf, leaves)


def _leaf(leaf: object) -> Hashable:
    if isinstance(leaf, Structural):
        return leaf._structure
    if isinstance(leaf, partial):
        return structure((leaf.func, leaf.args, tuple(leaf.keywords.items())))
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, (np.ndarray, jax.Array, Number)):
        array = np.asarray(leaf)
        return array.dtype.str, array.shape, array.tobytes()
    return leaf if isinstance(leaf, Hashable) else id(leaf)
