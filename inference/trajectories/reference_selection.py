"""Which reference to use: each candidate judged by snapshots it has not seen, beside the trivial baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tercet.inference.trajectories.baselines import persistence, transport_midpoint
from tercet.inference.trajectories.bridges import multimarginal_bridge
from tercet.inference.trajectories.distances import wasserstein
from tercet.inference.trajectories.references import reference_mode
from tercet.models.trajectories.snapshot_model import SnapshotModel
from tercet.models.trajectories.snapshots import Snapshots

if TYPE_CHECKING:
    import pandas as pd


class ReferenceChoice(NamedTuple):
    """The best candidate by mean distance, the mean of each method, and every held-out snapshot's distance."""

    best: str
    means: pd.Series
    table: pd.DataFrame


def bridged(model: SnapshotModel, theta: Mapping[str, Any], snapshots: Snapshots, time: float, n: int, key: Any) -> Any:
    """Particles [n, d] at a time between two snapshots, by the bridge of this reference through both."""
    after = int(np.searchsorted(snapshots.times, time))
    pair = snapshots.take([after - 1, after])
    return multimarginal_bridge(model.sde, theta, pair).marginal(time, n, key)


def choose_reference(
    candidates: Mapping[str, SnapshotModel],
    snapshots: Snapshots,
    *,
    hold_out: Sequence[int] | None = None,
    starts: int = 4,
    key: Any = 0,
) -> ReferenceChoice:
    """Hold out each inner snapshot in turn, fit each candidate to the others, bridge, and measure the distance.

    A flexible drift fits the snapshots it sees better and can predict others worse than no drift at all: this is the
    score to choose by. The distance is the exact 2-Wasserstein one, from as many bridge particles as were held out.

    Parameters
    ----------
    candidates : dict of name to SnapshotModel
    snapshots : at least three
    hold_out : positions of inner snapshots to hold out in turn; default all of them
    starts : of each fit
    key : int seed or JAX key

    Returns
    -------
    ReferenceChoice
        `table` has one row a method (candidates, persistence, transport midpoint) and held-out time.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import choose_reference
    >>> from tercet.models import ReferenceSDE, SnapshotModel, Snapshots, brownian, constant_volatility
    >>> rng = np.random.default_rng(0)
    >>> cells = Snapshots([rng.normal(k, 1.0, (40, 1)) for k in range(3)], times=[0.0, 1.0, 2.0])
    >>> still = SnapshotModel(ReferenceSDE(brownian(1), constant_volatility()), anchor="consecutive")
    >>> choose_reference({"Brownian": still}, cells).best
    'Brownian'
    """
    import pandas as pd

    inner = range(1, len(snapshots) - 1) if hold_out is None else sorted(hold_out)
    if not candidates or not inner or min(inner) < 1 or max(inner) > len(snapshots) - 2:
        raise ValueError(
            f"need candidates, and inner snapshots (1 to {len(snapshots) - 2} of {len(snapshots)}) to hold out; got "
            f"{list(candidates)} and {list(inner)}."
        )
    if not all(snapshots.observed):
        raise ValueError("references are chosen by bridges, which need every coordinate observed.")
    rows = []
    for k in inner:
        kept, held, time = (
            snapshots.take([i for i in range(len(snapshots)) if i != k]),
            snapshots.particles[k],
            snapshots.times[k],
        )
        clouds = {"persistence": persistence(kept, time), "transport midpoint": transport_midpoint(kept, time)}
        for name, model in candidates.items():
            mode = reference_mode(model, kept, starts=starts, key=key)
            clouds[name] = bridged(model, mode.theta, kept, time, len(held), key)
        rows += [
            {"method": name, "time": time, "wasserstein": wasserstein(cloud, held)} for name, cloud in clouds.items()
        ]
    table = pd.DataFrame(rows)
    means = table.groupby("method")["wasserstein"].mean().sort_values()
    return ReferenceChoice(str(means[list(candidates)].idxmin()), means, table)
