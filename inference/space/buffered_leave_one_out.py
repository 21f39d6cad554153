"""Leave-one-out cross-validation with a buffer around the site that is held out."""

from __future__ import annotations

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from tercet.inference.space.splitters import Rows, Split, Splitter, checked_buffer
from tercet.models._inputs import as_generator
from tercet.models.space.geometry import as_sites, positions
from tercet.models.space.sites import Sites


class BufferedLeaveOneOut(Splitter):
    """Each site in turn, predicted from the sites farther away than a buffer.

    Parameters
    ----------
    sites : Sites or array [n, d]
    buffer : in the units of the plane or in kilometres; sites at exactly that distance (up to rounding) are left out
        too, so that a buffer of zero leaves out duplicates of the site
    most : optional, only so many sites are held out, drawn with `key`
    key : int seed or JAX key

    Attributes
    ----------
    held_out : int array, the sites that are held out, in this order

    Raises
    ------
    ValueError
        Where the buffer leaves no training site for some site.

    References
    ----------
    Le Rest et al. (2014), Global Ecology and Biogeography 23, 811-820.

    Examples
    --------
    >>> from tercet.inference import BufferedLeaveOneOut
    >>> next(BufferedLeaveOneOut([[0.0], [0.4], [1.0], [2.0]], buffer=0.5).split())
    (array([2, 3]), array([0]))
    """

    def __init__(
        self,
        sites: Sites | ArrayLike,
        buffer: float = 0.0,
        *,
        most: int | None = None,
        key: int | jax.Array = 0,
    ) -> None:
        self.sites, self.buffer = as_sites("sites", sites), checked_buffer(buffer)
        n = len(self.sites)
        if most is not None and most < 1:
            raise ValueError(f"most must be at least one site, got {most}.")
        some = most is not None and most < n
        self.held_out = np.sort(as_generator(key).choice(n, most, replace=False)) if some else np.arange(n)
        points = positions(self.sites)
        near = cKDTree(points).query_ball_point(
            points[self.held_out], self.buffer_chord, return_length=True, workers=-1
        )
        if (near == n).any():
            raise ValueError(
                f"no site is farther than {self.buffer:g} from site {self.held_out[np.argmax(near == n)]}; lower the "
                "buffer."
            )

    def get_n_splits(self, X: Rows = None, y: Rows = None, groups: Rows = None) -> int:
        return len(self.held_out)

    def split(self, X: Rows = None, y: Rows = None, groups: Rows = None) -> Split:
        self.check_rows(X)
        points = positions(self.sites)
        tree = cKDTree(points)
        for site in self.held_out:
            far = np.ones(len(points), dtype=bool)
            far[tree.query_ball_point(points[site], self.buffer_chord)] = False
            yield np.flatnonzero(far), np.array([site])
