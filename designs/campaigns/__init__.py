"""Annotation campaigns: the label store, the loop, the widget, the command line, studies of designs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
