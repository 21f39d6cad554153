"""Selection of a reference by held-out snapshots, beside the trivial baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from tercet.inference.trajectories.baselines import MIDPOINT, PERSISTENCE, persistence, transport_midpoint
from tercet.inference.trajectories.bridges import multimarginal_bridge
from tercet.inference.trajectories.distances import wasserstein
from tercet.inference.trajectories.references import reference_mode
from tercet.models._inputs import KeyLike
from tercet.models.trajectories.reference_sdes import Values
from tercet.models.trajectories.snapshot_model import SnapshotModel
from tercet.models.trajectories.snapshots import Snapshots


class ReferenceChoice(NamedTuple):
    """Candidates by their mean distance to held-out snapshots.

    Attributes
    ----------
    best : name of the candidate with the least mean distance
    means : Series, mean distance of each method, least first
    table : DataFrame, one row a method and held-out time: `method`, `time`, `wasserstein`
    """

    best: str
    means: pd.Series
    table: pd.DataFrame


def bridge_marginal(
    model: SnapshotModel, theta: Values, snapshots: Snapshots, time: float, *, n: int, key: KeyLike
) -> Float[np.ndarray, "n d"]:
    """Particles at a time between two snapshots, by the bridge of this reference through both."""
    after = int(np.searchsorted(snapshots.times, time))
    pair = snapshots.take([after - 1, after])
    return multimarginal_bridge(model.sde, theta, pair).marginal(time, n, key)


def choose_reference(
    candidates: Mapping[str, SnapshotModel],
    snapshots: Snapshots,
    *,
    hold_out: Sequence[int] | None = None,
    starts: int = 4,
    key: KeyLike = 0,
) -> ReferenceChoice:
    """Hold out each inner snapshot in turn, fit each candidate to the others, and compare their bridges with it.

    A flexible drift fits the training snapshots better and can predict others worse than no drift at all. The distance
    is the exact 2-Wasserstein one, of as many bridge particles as were held out.

    Parameters
    ----------
    candidates : dict of name to SnapshotModel
    snapshots : at least three
    hold_out : indices of inner snapshots to hold out in turn; default all of them
    starts : of each fit
    key : int seed or JAX key
    key : int seed or JAX key

    Returns
    -------
    ReferenceChoice
        Methods are the candidates, persistence and the transport midpoint.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import choose_reference
    >>> from tercet.models import ReferenceSDE, SnapshotModel, Snapshots, brownian, constant_volatility
    >>> rng = np.random.default_rng(0)
    >>> cells = Snapshots([rng.normal(k, 1.0, (40, 1)) for k in range(3)], times=[0.0, 1.0, 2.0])
    >>> model = SnapshotModel(ReferenceSDE(brownian(1), constant_volatility()), anchor="consecutive")
    >>> choose_reference({"Brownian": model}, cells).best
    'Brownian'
    """
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
        kept = snapshots.take([i for i in range(len(snapshots)) if i != k])
        held, time = snapshots.particles[k], float(snapshots.times[k])
        clouds = {PERSISTENCE: persistence(kept, time), MIDPOINT: transport_midpoint(kept, time)}
        for name, model in candidates.items():
            mode = reference_mode(model, kept, starts=starts, key=key)
            clouds[name] = bridge_marginal(model, mode.theta, kept, time, n=len(held), key=key)
        rows += [
            {"method": name, "time": time, "wasserstein": wasserstein(cloud, held)} for name, cloud in clouds.items()
        ]
    table = pd.DataFrame(rows)
    means = table.groupby("method")["wasserstein"].mean().sort_values()
    return ReferenceChoice(str(means[list(candidates)].idxmin()), means, table)
