"""What we believe: NumPyro models, the data they are given, and the checks of both."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
