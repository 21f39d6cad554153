"""Options of `laplace`, `fit_reference`, `ensemble` and `train`; an option that a method does not use is an error."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal


@dataclass(frozen=True)
class TrainingOptions:
    """How networks are trained: Adam on minibatches, with early stopping on held-out comparisons.

    Parameters
    ----------
    learning_rate : of Adam
    batch : comparisons a step
    rounds : largest number of rounds; a round is a pass over the comparisons, or 20 steps where that is more
    patience : rounds without a lower held-out log loss after which training stops; the best round is kept
    held_out : share of the comparisons that are held out
    """

    learning_rate: float = 1e-3
    batch: int = 128
    rounds: int = 300
    patience: int = 10
    held_out: float = 0.1

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or self.batch < 1 or self.rounds < 1 or self.patience < 1:
            raise ValueError(f"learning_rate, batch, rounds and patience must be positive, got {self}.")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be a share between 0 and 1, got {self.held_out}.")


@dataclass(frozen=True)
class LaplaceOptions:
    """How `laplace` and `fit_reference` search for the mode.

    Which options are read depends on the model; one that is set and would not be read is an error.

    Parameters
    ----------
    tolerance : largest absolute entry of the gradient of the log posterior at the mode
    max_steps : Newton steps of a linear form, or L-BFGS iterations
    curvature : "exact" Hessian, or "gauss-newton" (Fisher information of the likelihood plus the prior's Hessian),
        which is positive definite in most models where the exact one is not
    prior_sd_range : range in which the prior scale of a head is learned, in logits; read where `prior_sd` is None
    training : how a network (MLPHead) is trained before the Laplace approximation of its last layer
    """

    tolerance: float = 1e-8
    max_steps: int = 200
    curvature: Literal["exact", "gauss-newton"] = "exact"
    prior_sd_range: tuple[float, float] = (0.01, 100.0)
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def __post_init__(self) -> None:
        if self.curvature not in ("exact", "gauss-newton"):
            raise ValueError(f'curvature must be "exact" or "gauss-newton", got {self.curvature!r}.')
        if not self.tolerance > 0 or self.max_steps < 1:
            raise ValueError(
                f"tolerance must be positive and max_steps at least 1, got {self.tolerance} and {self.max_steps}."
            )
        low, high = self.prior_sd_range
        if not 0 < low < high < float("inf"):
            raise ValueError(f"prior_sd_range must be two increasing positive numbers, got {self.prior_sd_range}.")

    def check_read(self, route: str, *read: str) -> None:
        """Raise where an option is set that a route does not read.

        Parameters
        ----------
        route : name of the route in the message
        read : names of the options that it reads
        """
        default = LaplaceOptions()
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in read and value != getattr(default, option.name):
                raise ValueError(
                    f"LaplaceOptions({option.name}={value!r}) is not read by {route}, which reads {', '.join(read)}; "
                    "leave it out."
                )
