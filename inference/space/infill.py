"""Infill check: whether the error of a risk estimator vanishes as validation sites fill the space of a given layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm  # not tqdm.auto: it warns where ipywidgets is missing

from tercet.inference.space.fill_distances import fill_distance
from tercet.inference.space.risk import Estimator, RiskEstimate
from tercet.inference.space.simulated_layouts import densified, smooth_surface
from tercet.models._inputs import as_generator
from tercet.models.space.frames import Frame
from tercet.models.space.geometry import as_sites, check_same_space
from tercet.models.space.sites import Sites

if TYPE_CHECKING:
    import pandas as pd

SURFACES = 10
"""Surfaces per layout: the weights of an estimator serve all of them."""
PASSING_SLOPE = -0.1
"""An estimator passes where log error falls at least this steeply with log density."""


class InfillCheck(NamedTuple):
    """Result of `infill_check`.

    Attributes
    ----------
    table : DataFrame, one row per estimator and density: sites, fill (distance of the test sites, mean over layouts),
        error (root mean square; losses are in [0, 1]), bias (root mean square of the part that is not noise)
    slopes : estimator to slope of log error on log number of sites, over the denser two thirds
    standard_errors : of the slopes, by the jackknife over layouts
    passes : estimator to whether its slope is below -0.1 by two standard errors
    """

    table: pd.DataFrame
    slopes: dict[str, float]
    standard_errors: dict[str, float]
    passes: dict[str, bool]


def infill_check(
    estimators: Mapping[str, Estimator],
    validation: Sites | ArrayLike,
    test: Sites | ArrayLike,
    *,
    multiples: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
    repeats: int = 20,
    lipschitz: float | None = None,
    noise: float = 0.25,
    key: int | jax.Array = 0,
    progress: bool = False,
) -> InfillCheck:
    """Simulate loss surfaces on *your* layout with more and more validation sites, and measure the error.

    Expected losses are random smooth surfaces within [noise, 1 - noise], the losses uniform within `noise` of them.
    Validation sites are yours, then more of them scattered around yours; the test sites stay. The error of a consistent
    estimator vanishes; that of an estimator with a bias from the locations of the labels does not. The squared error of
    weights w is (sum of w_n E loss_n - risk)^2 + noise^2 / 3 |w|^2: no noise is simulated, so few layouts suffice.

    Parameters
    ----------
    estimators : dict of name to a function of (losses, validation, test) that gives a Risk (its weights must depend on
        the sites only) or a number
    validation : Sites or array [n, d]
    test : Sites or array [m, d]
    multiples : numbers of validation sites, as multiples of n
    repeats : simulated layouts, with ten surfaces each
    lipschitz : Lipschitz constant of the surfaces at most, per unit of distance: the one that your estimators are given
        (default: unlimited)
    noise : half-width of the distribution of a loss around its expectation
    key : int seed or JAX key
    progress : show a progress bar

    References
    ----------
    Burt, Shen, Broderick (2024), arXiv 2402.03527, definition 1 (consistency under infill asymptotics).

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import holdout_risk, infill_check, nearest_neighbour_risk
    >>> sites = np.random.default_rng(0).beta(2, 1, size=(40, 1))
    >>> grid = np.linspace(0.1, 1, 2000)[:, None]
    >>> check = infill_check({"holdout": holdout_risk, "1NN": nearest_neighbour_risk}, sites, grid)
    >>> check.passes
    {'holdout': False, '1NN': True}
    """
    import pandas as pd

    labelled = as_sites("validation", validation)
    targets = as_sites("test", test, labelled.metric)
    check_same_space(labelled, targets)
    if len(labelled) < 2:
        raise ValueError("one validation site has no density; at least two are needed.")
    if len(multiples) < 4 or min(multiples) < 1:
        raise ValueError(f"multiples must be at least four numbers of one or more, got {list(multiples)}.")
    if repeats < 2:
        raise ValueError(f"repeats must be two or more (a standard error needs them), got {repeats}.")
    if not 0 < noise < 0.5:
        raise ValueError(f"noise must be between 0 and 0.5 (losses are in [0, 1]), got {noise}.")
    rng, frame = as_generator(key), Frame.around(labelled, targets)
    steepest = None if lipschitz is None else lipschitz * frame.scale
    sizes = [round(multiple * len(labelled)) for multiple in multiples]
    rows: list[dict[str, float | str]] = []
    for repeat in tqdm(range(repeats), disable=not progress):
        dense = densified(labelled, max(sizes), rng)
        coordinates = np.concatenate([frame.coordinates(dense), frame.coordinates(targets)])
        surfaces = np.stack(
            [smooth_surface(coordinates, rng, lipschitz=steepest, margin=noise) for _ in range(SURFACES)]
        )
        expected, truth = surfaces[:, : len(dense)], surfaces[:, len(dense) :].mean(axis=1)
        losses = expected[0] + rng.uniform(-noise, noise, len(dense))
        for n in sizes:
            sites = dense.take(slice(n))
            layout = {"sites": n, "fill": fill_distance(sites, targets), "repeat": repeat}
            for name, estimator in estimators.items():
                risk = estimator(losses[:n], sites, targets)
                bias, variance = _squared_error(name, risk, expected[:, :n], truth, noise)
                rows.append({"estimator": name, **layout, "bias": bias, "error": bias + variance})
    return _summary(pd.DataFrame(rows), list(estimators))


def _squared_error(
    name: str, risk: RiskEstimate | float, expected: np.ndarray, truth: np.ndarray, noise: float
) -> tuple[float, float]:
    """Mean squared bias over the surfaces, and variance; of a number its squared error on the first surface."""
    weights = getattr(risk, "weights", None)
    if weights is None:
        bias, variance = float(np.square(getattr(risk, "estimate", risk) - truth[0])), 0.0
    else:
        bias = float(np.square(expected @ weights - truth).mean())
        variance = float(noise**2 / 3 * np.square(weights).sum())
    if not np.isfinite(bias + variance):
        raise ValueError(f"the estimator {name!r} gave {risk}, not a finite risk.")
    return bias, variance


def _summary(raw: pd.DataFrame, names: list[str]) -> InfillCheck:
    import pandas as pd

    grouped = raw.groupby(["estimator", "sites"], sort=False)
    means = grouped[["fill", "error", "bias"]].mean()
    table = pd.DataFrame({"fill": means.fill, "error": np.sqrt(means.error), "bias": np.sqrt(means.bias)}).reset_index()
    slopes, errors = {}, {}
    for name in names:
        wide = raw[raw.estimator == name].pivot(index="repeat", columns="sites", values="error")
        squares, logs = wide.to_numpy(), np.log(wide.columns.to_numpy(dtype=np.float64))
        left_out = np.array([_slope(logs, np.delete(squares, r, axis=0)) for r in range(len(squares))])
        count = len(left_out)
        slopes[name] = _slope(logs, squares)
        errors[name] = float(np.sqrt((count - 1) / count * np.square(left_out - np.mean(left_out)).sum()))
    passes = {name: bool(slopes[name] + 2 * errors[name] < PASSING_SLOPE) for name in names}
    return InfillCheck(table, slopes, errors, passes)


def _slope(logs: np.ndarray, squares: np.ndarray) -> float:
    """Slope of log root mean square on log sites over the denser two thirds; squares [repeats, densities].

    With few sites the error of an inconsistent estimator falls, too, with its noise; with many its bias remains.
    """
    dense = slice(len(logs) // 3, None)
    return float(np.polyfit(logs[dense], 0.5 * np.log(np.maximum(squares.mean(axis=0)[dense], 1e-24)), 1)[0])
