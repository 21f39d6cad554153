"""Matplotlib pictures: each takes an `ax` and returns it."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
