"""A table of abilities or rewards: estimates, intervals and the probability of being best, by item."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.reward_view import on
from tercet.models._inputs import KeyLike
from tercet.models.items.items import Items

if TYPE_CHECKING:
    import pandas as pd


def ability_table(
    posterior: Posterior,
    items: Items | ArrayLike,
    *,
    relative_to: Hashable | None = None,
    level: float = 0.9,
    draws: int = 4000,
    key: KeyLike = 0,
) -> pd.DataFrame:
    """Rewards of items with intervals and the probability of being the best of them.

    Only differences of rewards are identified: rows are r_i minus the mean reward of these items, or minus the
    reward of one of them.

    Parameters
    ----------
    posterior : of a comparison model
    items : Items (their ids name the rows) or raw features [n, d]
    relative_to : id of the reference item; None: the mean of all
    level : probability of the equal-tailed intervals
    draws : number of posterior draws that the table summarises
    key : int seed or JAX key of these draws

    Returns
    -------
    DataFrame
        Index: item ids, in the order of `items`. Columns mean, sd, lower, upper (logits or probits), p_best.

    Raises
    ------
    ValueError
        A level outside (0, 1), or a reference that is not an item.

    Examples
    --------
    >>> from tercet.datasets import american_league_1987
    >>> from tercet.inference import ability_table, laplace
    >>> from tercet.models import AbilityHead, BradleyTerry
    >>> teams, games = american_league_1987()
    >>> table = ability_table(laplace(BradleyTerry(AbilityHead(1.0)), teams, games), teams)
    >>> table.p_best.idxmax()
    'Milwaukee'
    """
    import pandas as pd

    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}.")
    view = on(posterior, items)
    known = view.items
    rewards = view.rewards(posterior.draws(draws, key))
    best = np.bincount(rewards.argmax(axis=1), minlength=len(known)) / draws
    if relative_to is None:
        rewards = rewards - rewards.mean(axis=1, keepdims=True)
    elif relative_to in known.names:
        rewards = rewards - rewards[:, [known.names.index(relative_to)]]
    else:
        raise ValueError(f"relative_to={relative_to!r} is not an item; ids look like {known.names[0]!r}.")
    lower, upper = np.quantile(rewards, [(1 - level) / 2, (1 + level) / 2], axis=0)
    columns = {"mean": rewards.mean(0), "sd": rewards.std(0, ddof=1), "lower": lower, "upper": upper}
    return pd.DataFrame(columns | {"p_best": best}, index=pd.Index(known.names, name="item"))
