"""Equality by content: two objects are equal, and hash alike, where their fields are.

JAX keeps a compiled program for each value of a static argument: references that were built alike share theirs.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property

from tercet.models._partition import ModelPytree, identity, is_real, partition


class Structural(ModelPytree):
    """Base of frozen dataclasses (declared with `eq=False`): pytrees that compare and hash by the content of fields."""

    @cached_property
    def _content(self) -> Hashable:
        numbers, structure = self.parts
        return type(self), structure, tuple(identity(number) for number in numbers)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Structural) and self._content == other._content)

    def __hash__(self) -> int:
        return hash(self._content)


def content(value: object) -> Hashable:
    """Hashable key of a value: pytrees such as distributions by class and leaves, arrays by dtype, shape and bytes."""
    numbers, structure = partition(value, is_real, strict=False)
    return structure, tuple(identity(number) for number in numbers)
