"""Seven American League teams, 1987: the classical data set of paired comparisons."""

from __future__ import annotations

import numpy as np

from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons

TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
WINS = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
)
"""Games won by the row against the column, 13 a pairing."""


def american_league_1987() -> tuple[Items, Comparisons]:
    """Seven teams and their 273 games against each other.

    Returns
    -------
    items : Items, named, without features
    comparisons : Comparisons, one weighted row for each ordered pair of teams

    References
    ----------
    Agresti (1990), Categorical Data Analysis, table 10.10.

    Examples
    --------
    >>> from tercet.datasets import american_league_1987
    >>> teams, games = american_league_1987()
    >>> len(teams), float(games.weight.sum())
    (7, 273.0)
    """
    return Items.named(TEAMS), Comparisons.from_wins(WINS)
