"""What a criterion is, and the objectives and searches that any candidates can be chosen by."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
