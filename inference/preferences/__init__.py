"""What comparisons say: rewards, who would win, networks, calibration, scores."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
