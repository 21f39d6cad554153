"""Elevations of 28,000 airfields: real sites that crowd where people fly, from the airportsdata package."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tercet.models.space.sites import Sites

FOOT = 0.3048


class Airfields(NamedTuple):
    """Airfields of the world.

    Attributes
    ----------
    sites : Sites on the sphere [n], their codes as ids
    elevation : array [n], metres above the sea
    country : array [n] of ISO codes ("US", "BR", ...)
    region : array [n], first part of the time zone ("America", "Europe", ...)
    """

    sites: Sites
    elevation: np.ndarray
    country: np.ndarray
    region: np.ndarray


def airfields() -> Airfields:
    """Load the airfields that airportsdata lists with a position, sorted by code.

    Raises
    ------
    ImportError
        Where airportsdata is not installed: `pip install "tercet[airfields]"`.

    Examples
    --------
    >>> from tercet.datasets import airfields
    >>> fields = airfields()  # doctest: +SKIP
    >>> len(fields.sites)  # doctest: +SKIP
    28298
    """
    try:
        import airportsdata
    except ImportError as error:
        raise ImportError('the airfields come with airportsdata: pip install "tercet[airfields]".') from error
    rows = [row for _, row in sorted(airportsdata.load("ICAO").items())]
    places = np.array([(row["lat"], row["lon"]) for row in rows])
    known = np.isfinite(places).all(axis=1) & (places != 0).any(axis=1)
    rows = [row for row, keep in zip(rows, known, strict=True) if keep]
    return Airfields(
        Sites(places[known], "sphere", ids=[row["icao"] for row in rows]),
        np.array([row["elevation"] for row in rows]) * FOOT,
        np.array([row["country"] for row in rows]),
        np.array([str(row["tz"]).split("/")[0] for row in rows]),
    )
