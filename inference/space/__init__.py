"""What validation labels say about the risk at other sites: estimators, models of the losses, splitters."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
