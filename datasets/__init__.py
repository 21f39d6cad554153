"""Real data that ship with the package, and simulators with known truth."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
