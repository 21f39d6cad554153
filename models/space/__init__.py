"""Sites, distances between them, and Gaussian-process surfaces of losses over them."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
