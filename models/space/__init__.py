"""Sites, distances between them, and Gaussian-process surfaces of losses over them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
