"""The posterior contract and the methods that know no domain: mode, evidence, chains, storage, ArviZ."""

from tercet.models._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
