"""Principal components with one common scale: the map from raw embeddings to a model's features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tercet.models._pytree import pytree


@pytree()
@dataclass(frozen=True)
class Projection:
    """z = (x - center) @ basis / scale.

    Parameters
    ----------
    center : array [d]
    basis : array [d, k] with orthonormal columns
    scale : float, one for all components
    """

    center: Float[np.ndarray, " d"]
    basis: Float[np.ndarray, "d k"]
    scale: float

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Project raw features [n, d] to [n, k], in 64 bit."""
        if features.shape[1] != len(self.center):
            raise ValueError(
                f"features have {features.shape[1]} columns, the projection expects {len(self.center)} "
                f"(raw embeddings; it makes {self.basis.shape[1]} components of them itself)."
            )
        return (features.astype(np.float64) - self.center) @ self.basis / self.scale

    def same_as(self, other: Projection | None) -> bool:
        """Whether the other projection has the same numbers."""
        return other is not None and (
            self is other
            or (self.basis.shape == other.basis.shape and np.allclose(self.basis, other.basis)
                and np.allclose(self.center, other.center) and bool(np.isclose(self.scale, other.scale)))
        )  # fmt: skip


def fit_projection(features: np.ndarray, components: int) -> Projection:
    """Fit centre, leading components and common scale; signs are fixed so that the fit is reproducible."""
    n, d = features.shape
    if not 1 <= components <= min(n, d):
        raise ValueError(
            f"components must be between 1 and min(n, d) = {min(n, d)} for features of shape "
            f"{features.shape}, got {components}."
        )
    center = features.mean(axis=0, dtype=np.float64)
    centred = features.astype(np.float64) - center
    variances, vectors = scipy.linalg.eigh(centred.T @ centred / n, subset_by_index=[d - components, d - 1])
    basis = vectors[:, ::-1]
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(components)])
    spread = float(np.sqrt(np.mean(variances)))
    if spread <= 1e-12 * max(1.0, float(np.abs(center).max())):
        raise ValueError("all items have the same features: there is nothing to project or to compare.")
    return Projection(center, basis, spread)
