"""Populations over time: snapshots, reference SDEs, their families and moments, the likelihood of snapshots."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
