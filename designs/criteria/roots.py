"""Roots of covariances and second moments, which may be singular."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def symmetric_root(covariance: np.ndarray) -> Float[np.ndarray, "b b"]:
    """G with G G' = covariance, which may be singular."""
    spectrum, basis = np.linalg.eigh(covariance)
    return np.asarray(basis * np.sqrt(np.maximum(spectrum, 0.0)))


def gram_root(rows: np.ndarray) -> Float[np.ndarray, "b b"]:
    """G with G G' = rows rows': the same Gaussian variables in as many coordinates as there are variables."""
    return symmetric_root(rows @ rows.T)
