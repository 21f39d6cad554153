"""Does the error of a risk estimator vanish as validation sites fill the space? On the user's own layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.fill_distance import fill_distance
from tercet.inference.space.neighbours import Neighbours
from tercet.models._inputs import as_generator
from tercet.models.space.frames import Frame
from tercet.models.space.geometry import EARTH_RADIUS, as_sites, check_same_space
from tercet.models.space.sites import Sites

if TYPE_CHECKING:
    import pandas as pd

FEATURES = 40
SURFACES = 10
"""Surfaces a layout: the weights of an estimator serve all of them."""
LENGTH = 0.4
"""Length scale of the simulated surfaces, in half extents of the sites."""
NEAR = 4
"""New sites are scattered around given ones as far as their fourth neighbour."""
STEEP = -0.1
"""An estimator passes where log error falls at least this fast with log density."""


class InfillCheck(NamedTuple):
    """What `infill_check` found.

    Attributes
    ----------
    table : DataFrame, one row an estimator and density: sites, fill (distance of the test sites, mean over layouts),
        error (root mean squared, losses are in [0, 1]), bias (root mean squared part of it that is not noise)
    slopes : estimator to slope of log error on log number of sites, over the denser two thirds
    standard_errors : of the slopes, by the jackknife over layouts
    passes : estimator to whether its slope is below -0.1 by two standard errors
    """

    table: pd.DataFrame
    slopes: dict[str, float]
    standard_errors: dict[str, float]
    passes: dict[str, bool]


def infill_check(
    estimators: Mapping[str, Callable[..., Any]],
    validation: Sites | ArrayLike,
    test: Sites | ArrayLike,
    *,
    multiples: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
    repeats: int = 20,
    lipschitz: float | None = None,
    noise: float = 0.25,
    key: Any = 0,
    progress: bool = False,
) -> InfillCheck:
    """Simulate loss surfaces on *your* layout with more and more validation sites, and watch the error.

    Expected losses are random smooth surfaces within [noise, 1 - noise], the losses uniform within `noise` of them.
    Validation sites are yours, then more of them scattered around yours; the test sites stay. A consistent estimator's
    error falls; one that is biased by where the labels lie comes to a halt. The squared error of weights w is
    (sum of w_n E loss_n - risk)^2 + noise^2 / 3 |w|^2: no noise has to be drawn, so few layouts tell.

    Parameters
    ----------
    estimators : dict of name to a function of (losses, validation, test) that gives a Risk (its weights must depend on
        the sites only) or a number
    validation : Sites or array [n, d]
    test : Sites or array [m, d]
    multiples : how many times as many validation sites
    repeats : simulated layouts, ten surfaces each
    lipschitz : steepest slope of the surfaces, per unit of distance; by default as steep as they come. Give the one
        your estimators are told
    noise : of the losses
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
    from tqdm import tqdm  # not tqdm.auto: it warns where ipywidgets is missing

    here = as_sites("validation", validation)
    there = as_sites("test", test, here.metric)
    check_same_space(here, there)
    if len(here) < 2:
        raise ValueError("one validation site has no density; at least two are needed.")
    if len(multiples) < 4 or min(multiples) < 1:
        raise ValueError(f"multiples must be at least four numbers of one or more, got {list(multiples)}.")
    if repeats < 2:
        raise ValueError(f"repeats must be two or more (a standard error needs them), got {repeats}.")
    if not 0 < noise < 0.5:
        raise ValueError(f"noise must be between 0 and 0.5 (losses are in [0, 1]), got {noise}.")
    rng, frame = as_generator(key), Frame.around(here, there)
    rows: list[dict[str, Any]] = []
    for repeat in tqdm(range(repeats), disable=not progress):
        dense = _denser(here, round(max(multiples) * len(here)), rng)
        everywhere = np.concatenate([frame.coordinates(dense), frame.coordinates(there)])
        surfaces = np.stack([_surface(everywhere, frame.scale, lipschitz, noise, rng) for _ in range(SURFACES)])
        expected, truth = surfaces[:, : len(dense)], surfaces[:, len(dense) :].mean(axis=1)
        losses = expected[0] + rng.uniform(-noise, noise, len(dense))
        for multiple in multiples:
            n = round(multiple * len(here))
            sites = Sites(dense.coordinates[:n], dense.metric)
            known = {"sites": n, "fill": fill_distance(sites, there), "repeat": repeat}
            for name, estimator in estimators.items():
                bias, spread = _error(name, estimator(losses[:n], sites, there), expected[:, :n], truth, noise)
                rows.append({"estimator": name, **known, "bias": bias, "error": bias + spread})
    return _summed_up(pd.DataFrame(rows), list(estimators))


def _error(name: str, found: Any, expected: np.ndarray, truth: np.ndarray, noise: float) -> tuple[float, float]:
    """Mean squared bias over the surfaces, and variance; of a number its squared error on the first surface."""
    weights = getattr(found, "weights", None)
    if weights is None:
        bias, spread = float(np.square(getattr(found, "estimate", found) - truth[0])), 0.0
    else:
        bias = float(np.square(expected @ weights - truth).mean())
        spread = float(noise**2 / 3 * np.square(weights).sum())
    if not np.isfinite(bias + spread):
        raise ValueError(f"the estimator {name!r} gave {found}, not a finite risk.")
    return bias, spread


def _summed_up(raw: pd.DataFrame, names: list[str]) -> InfillCheck:
    import pandas as pd

    grouped = raw.groupby(["estimator", "sites"], sort=False)
    means = grouped[["fill", "error", "bias"]].mean()
    table = pd.DataFrame({"fill": means.fill, "error": np.sqrt(means.error), "bias": np.sqrt(means.bias)}).reset_index()
    slopes, errors = {}, {}
    for name in names:
        mine = raw[raw.estimator == name].pivot(index="repeat", columns="sites", values="error")
        squares, logs = mine.to_numpy(), np.log(mine.columns.to_numpy(dtype=np.float64))
        left_out = np.array([_slope(logs, np.delete(squares, r, axis=0)) for r in range(len(squares))])
        count = len(left_out)
        slopes[name] = _slope(logs, squares)
        errors[name] = float(np.sqrt((count - 1) / count * np.square(left_out - np.mean(left_out)).sum()))
    passes = {name: bool(slopes[name] + 2 * errors[name] < STEEP) for name in names}
    return InfillCheck(table, slopes, errors, passes)


def _slope(logs: np.ndarray, squares: np.ndarray) -> float:
    """Slope of log root mean square on log sites over the denser two thirds; [repeats, densities] squares.

    With few sites the noise of an inconsistent estimator falls, too: what counts is where its bias is left.
    """
    dense = slice(len(logs) // 3, None)
    return float(np.polyfit(logs[dense], 0.5 * np.log(np.maximum(squares.mean(axis=0)[dense], 1e-24)), 1)[0])


def _denser(sites: Sites, size: int, rng: np.random.Generator) -> Sites:
    """The given sites, then others around them: a smoothed bootstrap of the layout."""
    extra = size - len(sites)
    if extra <= 0:
        return sites
    near = min(NEAR, len(sites) - 1)
    origin = rng.integers(0, len(sites), extra)
    reach = Neighbours(sites).within(near)[0][:, -1][origin]
    array = np.asarray(sites.coordinates, dtype=np.float64)
    steps = rng.standard_normal((extra, array.shape[1])) * (reach / np.sqrt(array.shape[1]))[:, None]
    if sites.metric == "sphere":  # kilometres north and east
        latitude = np.radians(array[origin, 0])
        steps = np.degrees(steps / EARTH_RADIUS)
        steps[:, 1] /= np.maximum(np.cos(latitude), 0.05)
    moved = array[origin] + steps
    if sites.metric == "sphere":
        moved = np.stack([np.clip(moved[:, 0], -90, 90), (moved[:, 1] + 180) % 360 - 180], axis=1)
    return Sites(np.concatenate([array, moved]), sites.metric)


def _surface(
    coordinates: np.ndarray, scale: float, lipschitz: float | None, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """A random smooth surface [n] within [noise, 1 - noise], no steeper than asked."""
    frequency = rng.standard_normal((FEATURES, coordinates.shape[1])) / LENGTH
    phase, weight = rng.uniform(0, 2 * np.pi, FEATURES), rng.standard_normal(FEATURES)
    angle = coordinates @ frequency.T + phase
    values = np.cos(angle) @ weight
    steepest = np.linalg.norm((np.sin(angle) * weight) @ frequency, axis=1).max() / scale
    half = (0.5 - noise) / max(np.abs(values - values.mean()).max(), 1e-12)
    if lipschitz is not None:
        half = min(half, lipschitz / max(steepest, 1e-12))
    return 0.5 + half * (values - values.mean())
