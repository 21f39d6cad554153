"""Comparisons and their models: reward heads, links, ties and graded answers."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
