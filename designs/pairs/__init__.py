"""Pairs of items as candidates: pools, targets, and the objectives that need pairs."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
