"""What to measure next: candidates, criteria, selection, studies of designs."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
