"""Packages that load what they export when it is first asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import lazy_loader


class _Package(ModuleType):
    """A package in which a submodule does not hide the export of the same name, once it has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in vars(self).get("__all__", ()):
            value = getattr(value, name)
        super().__setattr__(name, value)


def attach(name: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose exports are listed in the stub beside `file`.

    Parameters
    ----------
    name, file : `__name__` and `__file__` of the package's `__init__.py`
    """
    sys.modules[name].__class__ = _Package
    loader: tuple[Callable[[str], Any], Callable[[], list[str]], list[str]] = lazy_loader.attach_stub(name, file)
    return loader
