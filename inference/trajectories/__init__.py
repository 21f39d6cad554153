"""What snapshots say: fits of a reference, Schroedinger bridges and paths, forecasts, distances and baselines."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
