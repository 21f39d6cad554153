"""Annotation campaigns: the label store, the loop, the widget, the command line, studies of designs."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
