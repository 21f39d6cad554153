"""The design operator of comparisons whose features are on disk: a block of differences in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from tercet.models.items.embeddings import BLOCK_BYTES, Embeddings


@dataclass(frozen=True, eq=False)
class StreamedRows:
    """D with rows x_first - x_second (and 1 for the order effect), read from disk for every product.

    A product costs one pass over the items that were compared; comparisons sorted by their first item, as
    `merge_repeats` leaves them, make the pass nearly sequential.
    """

    features: Embeddings
    first: Int[np.ndarray, " m"]
    second: Int[np.ndarray, " m"]
    order: bool

    def predict(self, theta: np.ndarray) -> np.ndarray:
        return np.concatenate([block @ theta for _, block in self._blocks()])

    def pull(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(sum(values[part] @ block for part, block in self._blocks()))

    def sweep(
        self, theta: np.ndarray, values: Callable[[np.ndarray, slice], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Eta = D theta [m] and D' values(eta) [p], in one pass."""
        eta, pulled = np.empty(len(self.first)), np.zeros(len(theta))
        for part, block in self._blocks():
            eta[part] = block @ theta
            pulled += values(eta[part], part) @ block
        return eta, pulled

    def gram(self, weights: np.ndarray, single: bool = False) -> np.ndarray:
        kind = np.float32 if single else np.float64
        total = np.zeros((self.features.shape[1] + self.order,) * 2)
        for part, block in self._blocks():
            scaled = np.multiply(block, np.sqrt(weights[part])[:, None], dtype=kind, casting="same_kind")
            total += scaled.T @ scaled
        return total

    def thin(self, step: int) -> StreamedRows:
        return replace(self, first=self.first[::step], second=self.second[::step])

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        width = self.features.shape[1] + self.order
        step = max(1, BLOCK_BYTES // (8 * width))
        for start in range(0, len(self.first), step):
            part = slice(start, min(start + step, len(self.first)))
            pairs = np.concatenate([self.first[part], self.second[part]])
            items, place = np.unique(pairs, return_inverse=True)
            read = self.features[items]
            block = np.ones((part.stop - start, width))
            block[:, : width - self.order] = read[place[: len(block)]]
            block[:, : width - self.order] -= read[place[len(block) :]]
            yield part, block
