"""Centre, principal components and one common scale: the map from raw embeddings to a model's features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.linalg
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
        return (centred if self.basis is None else centred @ self.basis) / self.scale

    def same_as(self, other: Any) -> bool:
        """Whether the other projection has the same numbers."""
        if self is other or not isinstance(other, Projection):
            return self is other
        ours, theirs = ([v for v in (p.center, p.basis, p.scale) if v is not None] for p in (self, other))
        return len(ours) == len(theirs) and all(
            np.shape(x) == np.shape(y) and np.allclose(x, y) for x, y in zip(ours, theirs, strict=True)
        )


def fit_projection(features: Any, components: int | None) -> Projection:
    """Fit centre, leading components and common scale; signs are fixed so that the fit is reproducible.

    `features` [n, d] are an array, or embeddings that are read in blocks.
    """
    n, d = features.shape
    if components is None:
        center, variances = moments_of(features)
        return Projection(center, None, _spread(center, variances))
    if not 1 <= components <= min(n, d):
        raise ValueError(
            f"components must be between 1 and min(n, d) = {min(n, d)} for features of shape "
            f"{features.shape}, got {components}."
        )
    center, scatter = scatter_of(features)
    variances, vectors = scipy.linalg.eigh(scatter / n, subset_by_index=[d - components, d - 1])
    basis = vectors[:, ::-1]
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(components)])
    return Projection(center, basis, _spread(center, variances))


def blocks_of(features: Any) -> Iterator[tuple[slice, np.ndarray]]:
    """All rows of an array at once, or of embeddings on disk a block at a time, in order."""
    yield from features.blocks() if hasattr(features, "blocks") else [(slice(0, len(features)), features)]


def over_blocks(features: Any, function: Callable[..., Any], *of_rows: np.ndarray) -> list[Any]:
    """Results of function(rows, what each of `of_rows` holds for them): of an array at once, else block by block."""
    if hasattr(features, "over_blocks"):
        return features.over_blocks(function, *of_rows)
    return [function(features, *of_rows)]


def moments_of(features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance [d] of an array, or of embeddings on disk."""
    if hasattr(features, "moments"):
        return features.moments
    return features.mean(axis=0, dtype=np.float64), features.var(axis=0, dtype=np.float64)


def scatter_of(features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and the sum of (x - mean) (x - mean)' [d, d] of an array, or of embeddings on disk in one pass."""
    shift = near_mean(features)
    parts = over_blocks(features, partial(_products, shift))
    total = np.sum([total for total, _ in parts], axis=0)
    gap = total / len(features)
    return shift + gap, np.sum([gram for _, gram in parts], axis=0) - np.outer(total, gap)


def near_mean(features: Any) -> np.ndarray:
    """A point [d] near the mean (of embeddings on disk: of their first rows): sums about it lose no digits."""
    return features.near_mean if hasattr(features, "near_mean") else features.mean(axis=0, dtype=np.float64)


def _products(shift: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centred = rows.astype(np.float64) - shift
    return centred.sum(axis=0), centred.T @ centred


def _spread(center: np.ndarray, variances: np.ndarray) -> float:
    """Root mean variance, where it is more than rounding."""
    spread = float(np.sqrt(np.mean(variances)))
    if spread <= 1e-12 * max(1.0, float(np.abs(center).max())):
        raise ValueError("all items have the same features: there is nothing to project or to compare.")
    return spread
