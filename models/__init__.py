"""What we believe: NumPyro models, the data they are given, and the checks of both."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
