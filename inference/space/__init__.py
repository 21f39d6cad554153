"""What validation labels say about the risk at other sites: estimators, models of the losses, splitters."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
