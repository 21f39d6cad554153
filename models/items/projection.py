"""Maps from raw embeddings to a model's features: the contract, and centring, components and one common scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from tercet.models._pytree import pytree
from tercet.models._storable import Storable


@runtime_checkable
class FeatureMap(Protocol):
    """How raw embeddings become the features of a model: a projection, or the hidden layers of a network."""

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Features [n, k] of raw embeddings [n, d]."""
        ...

    def same_as(self, other: Any) -> bool:
        """Whether the other map does the same."""
        ...


@pytree()
@dataclass(frozen=True)
class Projection(Storable):
    """z = (x - center) @ basis / scale, without a basis z = (x - center) / scale.

    Parameters
    ----------
    center : array [d]
    basis : array [d, k] with orthonormal columns, or None: all features as they are
    scale : float, one for all components
    """

    center: Float[np.ndarray, " d"]
    basis: Float[np.ndarray, "d k"] | None
    scale: float

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Project raw features [n, d] to [n, k], in 64 bit."""
        width = len(self.center) if self.basis is None else self.basis.shape[1]
        if features.shape[1] != len(self.center):
            raise ValueError(
                f"features have {features.shape[1]} columns, the projection expects {len(self.center)} "
                f"(raw embeddings; it makes {width} components of them itself)."
            )
        centred = features.astype(np.float64) - self.center
        return np.asarray((centred if self.basis is None else centred @ self.basis) / self.scale)

    def same_as(self, other: Any) -> bool:
        """Whether the other projection has the same numbers."""
        if self is other or not isinstance(other, Projection):
            return self is other
        ours, theirs = ([v for v in (p.center, p.basis, p.scale) if v is not None] for p in (self, other))
        return len(ours) == len(theirs) and all(
            np.shape(x) == np.shape(y) and np.allclose(x, y) for x, y in zip(ours, theirs, strict=True)
        )
