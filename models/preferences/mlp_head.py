"""A multi-layer perceptron as a reward head: a NumPyro model, and its hidden layers as a map of features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from tercet.models._inputs import is_concrete
from tercet.models._pytree import pytree
from tercet.models._storable import Storable
from tercet.models.items.items import Items
from tercet.models.items.projection import FeatureMap
from tercet.models.preferences.heads import ScaledHead, scaled_normal

UNIT_VARIANCE = 0.5 * (1.0 - 1.0 / math.pi)
"""Variance of max(0, z), z standard normal: what one hidden unit adds to the variance between items under the prior."""


@dataclass(frozen=True)
class MLPHead(ScaledHead):
    """r(x) = w . h_L, h_l = max(0, h_(l-1) K_l + b_l), h_0 = x: `widths` hidden layers, the last without bias.

    Priors: K_1 ~ Normal(0, 1 / inputs), later K_l ~ Normal(0, 2 / inputs), b_l ~ Normal(0, 1), w ~ Normal(0, tau^2)
    with tau such that the reward difference of two random items has sd about `prior_sd`. For features of mean 0 and
    common scale 1: standardise or project the items first (`project(items, None)`, `project(items, 64)`); raw
    embeddings scored later are treated alike.

    Sites: `kernel_0`, `bias_0`, ... of the hidden layers, `weights` of the last.

    Parameters
    ----------
    prior_sd : as for every head; None: learned
    widths : numbers of hidden units

    References
    ----------
    He, Zhang, Ren, Sun (2015), Delving deep into rectifiers, ICCV (the scale of the kernels).

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.models import Items, MLPHead
    >>> head = MLPHead(widths=(2,))
    >>> sites = {"kernel_0": np.eye(2), "bias_0": np.zeros(2), "weights": np.array([1.0, -1.0])}
    >>> head.rewards(sites, Items([[3.0, -1.0], [-2.0, 5.0]])).tolist()
    [3.0, -5.0]
    """

    widths: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "widths", tuple(self.widths))
        if not self.widths or min(self.widths) < 1:
            raise ValueError(
                f"widths must be numbers of hidden units, at least 1, got {self.widths}; or use LinearHead."
            )
        if self.prior_sd is not None and math.isinf(self.prior_sd):
            raise ValueError("an MLP head needs a prior scale: prior_sd=None (learned) or a finite number.")

    def check(self, items: Items) -> None:
        check_standardised(items)

    def __call__(self, items: Items) -> Float[Array, " n"]:
        check_standardised(items)
        sites, inputs = {}, items.features.shape[1]
        for layer, width in enumerate(self.widths):
            kernel = dist.Normal(0.0, math.sqrt((2.0 if layer else 1.0) / inputs)).expand([inputs, width]).to_event(2)
            sites[f"kernel_{layer}"] = numpyro.sample(f"kernel_{layer}", kernel)
            sites[f"bias_{layer}"] = numpyro.sample(f"bias_{layer}", dist.Normal(0.0, 1.0).expand([width]).to_event(1))
            inputs = width
        unit = 1.0 / math.sqrt(2.0 * inputs * UNIT_VARIANCE)
        sites["weights"] = scaled_normal("weights", "unit", inputs, unit, self.prior_sd)
        return jnp.asarray(self.rewards(sites, items))

    def rewards(self, sites: Mapping[str, Any], items: Items) -> Any:
        layers = [(sites[f"kernel_{k}"], sites[f"bias_{k}"]) for k in range(len(self.widths))]
        inputs = layers[0][0].shape[-2]
        if items.features.shape[1] != inputs:
            raise ValueError(f"the network expects {inputs} features, the items have {items.features.shape[1]}.")
        return (hidden(items.features, layers) @ sites["weights"][..., None])[..., 0]

    def feature_map(self, sites: Mapping[str, Any], before: FeatureMap | None) -> HiddenFeatures:
        """The hidden layers under one draw of the sites, as a map from raw embeddings."""
        kernels = tuple(np.asarray(sites[f"kernel_{k}"], np.float64) for k in range(len(self.widths)))
        biases = tuple(np.asarray(sites[f"bias_{k}"], np.float64) for k in range(len(self.widths)))
        return HiddenFeatures(before, kernels, biases)


def hidden(features: Any, layers: Any) -> Any:
    """Apply the hidden layers [..., width] (NumPy or JAX; leading axes of the kernels are draws)."""
    for kernel, bias in layers:
        features = features @ kernel + bias[..., None, :]
        features = features * (features > 0)
    return features


def check_standardised(items: Items) -> None:
    """Raise where features are far from mean 0 and common scale 1 (skipped while JAX traces)."""
    if not is_concrete(items.features):
        return
    mean, variances = items.operator.moments
    variance = float(variances.mean())
    if not 0.1 < variance < 10.0 or float(np.square(mean).mean()) > variance:
        raise ValueError(
            f"the features have mean variance {variance:.3g} and means of mean square "
            f"{np.square(mean).mean():.3g}; "
            "an MLP head expects 1 and 0: standardise them first, items = project(items, None), or project(items, 64)."
        )


@pytree()
@dataclass(frozen=True)
class HiddenFeatures(Storable):
    """Hidden layers of a trained network as a map of features: its last layer is a linear head on them.

    Parameters
    ----------
    before : map from raw embeddings to the inputs of the network (None: they are the inputs)
    kernels, biases : of the hidden layers, in order
    """

    before: FeatureMap | None
    kernels: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Hidden features [n, width] of raw embeddings [n, d], in 64 bit."""
        return self._hidden(features if self.before is None else self.before.apply(features))

    @property
    def after(self) -> HiddenFeatures:
        """The same layers from the network's own inputs."""
        return replace(self, before=None)

    def _hidden(self, features: np.ndarray) -> np.ndarray:
        if features.shape[1] != len(self.kernels[0]):
            raise ValueError(f"the network expects {len(self.kernels[0])} features, got {features.shape[1]}.")
        return np.asarray(hidden(features.astype(np.float64), zip(self.kernels, self.biases, strict=True)))

    def starts_from(self, other: FeatureMap | None) -> bool:
        """Whether features mapped like this are the network's own inputs."""
        return self.before is not None and other is not None and self.before.same_as(other)

    def same_as(self, other: Any) -> bool:
        """Whether the other map has the same numbers."""
        return isinstance(other, HiddenFeatures) and (
            self is other
            or (len(self.kernels) == len(other.kernels)
                and all(map(np.array_equal, self.kernels + self.biases, other.kernels + other.biases))
                and (other.before is None if self.before is None else self.before.same_as(other.before)))
        )  # fmt: skip
