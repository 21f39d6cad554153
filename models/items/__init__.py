"""What is compared: items, their features in memory, on disk or in a Dask array, and projections of them."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
