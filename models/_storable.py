"""Classes whose objects can be written to a file: found again by name among the classes that have been defined."""

from __future__ import annotations

import importlib
from collections.abc import Iterator


class Storable:
    """A frozen dataclass of numbers, strings, arrays, tuples and other storable objects.

    Only classes that inherit from this are built from what a file says, and a file imports nothing but tercet: a class
    of your own has to be defined before a file that names it is loaded.
    """


def storable_name(cls: type) -> str:
    """The name of a class in files."""
    return f"{cls.__module__}:{cls.__qualname__}"


def storable_class(name: str) -> type | None:
    """The class of this name, or None where no such class has been defined (tercet's own always are)."""
    module = name.partition(":")[0]
    if module.split(".")[0] == "tercet":
        importlib.import_module(module)
    return next((cls for cls in _descendants(Storable) if storable_name(cls) == name), None)


def _descendants(cls: type) -> Iterator[type]:
    children: list[type] = cls.__subclasses__()
    for child in children:
        yield child
        yield from _descendants(child)
