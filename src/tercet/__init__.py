"""Three kinds of model, one grammar: what we believe, what the data say, what to measure next."""

import lazy_loader

from tercet.compilation_cache import enable_compilation_cache as enable_compilation_cache

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["models", "inference", "designs", "datasets", "plots"]
)
__all__ += ["__version__", "enable_compilation_cache"]
