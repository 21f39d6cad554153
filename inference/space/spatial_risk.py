"""How wrong predictions are where it matters: holdout, nearest neighbours and spatial nearest neighbours (SNN)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.fill_distance import bisected_fill, relative_fill
from tercet.inference.space.neighbours import Neighbours
from tercet.inference.space.risk import Risk, checked, normalised_shares, warn_far, weighted_risk
from tercet.models.space.sites import Sites


def holdout_risk(losses: ArrayLike, validation: Sites | ArrayLike, test: Sites | ArrayLike) -> Risk:
    """Mean of the validation losses, wherever the test sites are: right only where both come from one law.

    Parameters
    ----------
    losses : array [n], losses at the validation sites
    validation : Sites or array [n, d]
    test : Sites or array [m, d], not used

    Examples
    --------
    >>> from tercet.inference import holdout_risk
    >>> holdout_risk([1.0, 3.0], [[0.0], [1.0]], [[0.0]]).estimate
    2.0
    """
    values, here, _ = checked(losses, validation, test)
    return weighted_risk("holdout", values, Neighbours(here), np.full(len(values), 1 / len(values)))


def nearest_neighbour_risk(
    losses: ArrayLike,
    validation: Sites | ArrayLike,
    test: Sites | ArrayLike,
    *,
    lipschitz: float | None = None,
    test_weights: ArrayLike | None = None,
) -> Risk:
    """1NN: each test site takes the loss of its nearest validation site.

    Consistent where many test sites are spread out; at a single site it stays one noisy loss.

    Parameters
    ----------
    losses : array [n], losses at the validation sites
    validation : Sites or array [n, d]
    test : Sites or array [m, d]
    lipschitz : optional, of the *expected* loss, per unit of distance (kilometre on the sphere)
    test_weights : array [m], optional, what each test site counts (people, area)

    References
    ----------
    Burt, Shen, Broderick (2024), arXiv 2402.03527, section 3.

    Examples
    --------
    >>> from tercet.inference import nearest_neighbour_risk
    >>> nearest_neighbour_risk([1.0, 3.0], [[0.0], [1.0]], [[0.9], [1.2], [0.1]]).weights.round(3).tolist()
    [0.333, 0.667]
    """
    values, here, there = checked(losses, validation, test)
    _check_lipschitz(lipschitz)
    share = normalised_shares(test_weights, len(there))
    tree = Neighbours(here)
    rung = next(_ladder(tree, there, share, [1]))
    warn_far(tree, rung.farthest)
    return _neighbour_risk("1NN", values, tree, rung, lipschitz)


def snn_risk(
    losses: ArrayLike,
    validation: Sites | ArrayLike,
    test: Sites | ArrayLike,
    *,
    lipschitz: float,
    loss_bound: float | None = None,
    delta: float | None = None,
    test_weights: ArrayLike | None = None,
    published: bool = False,
) -> Risk:
    """Spatial nearest neighbours: the mean over test sites of the mean loss of the k nearest validation sites.

    k is the power of two, at most n / 2, that minimises the bound

        B(k) = max over test sites of the distance to the k-th neighbour + (M / L) sqrt(log(2 / delta) / 2) |w|_2

    with w_n the share of validation site n. No union bound over k is paid: k depends on the sites only. The distance
    grows with k, so the search ends where it alone exceeds the best bound.

    Parameters
    ----------
    losses : array [n], losses at the validation sites, at most `loss_bound`
    validation : Sites or array [n, d]
    test : Sites or array [m, d]
    lipschitz : L, of the *expected* loss, per unit of distance (kilometre on the sphere). Where it is not known, fit
        a loss surface and ask `lipschitz_constant` (never the differences of noisy losses: they diverge)
    loss_bound : M; the largest loss seen where it is not given, which carries no guarantee
    delta : probability left to chance; by default min(1, fill distance of the validation sites over the box of all
        sites, per box side)
    test_weights : array [m], optional, what each test site counts (people, area)
    published : the published code's choices: fill distance over [-1/2, 1/2]^d whatever the sites, delta = 0.1 on the
        sphere

    Returns
    -------
    Risk
        with k, the two terms of the bound (`lipschitz * farthest`, `spread`), and a bias-aware `interval()`.

    References
    ----------
    Burt, Shen, Broderick (2024), arXiv 2402.03527, section 4 and algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from tercet.inference import snn_risk
    >>> sites = np.linspace(0, 1, 101)[:, None]
    >>> risk = snn_risk(sites[:, 0] > 0.5, sites, [[0.9], [0.95]], lipschitz=1.0, loss_bound=1.0)
    >>> risk.estimate, risk.k
    (1.0, 16)
    """
    values, here, there = checked(losses, validation, test)
    _check_lipschitz(lipschitz, needed=True)
    bound = _loss_bound(values, loss_bound)
    chance = _delta(here, there, delta, published)
    share = normalised_shares(test_weights, len(there))
    factor = bound * np.sqrt(0.5 * np.log(2 / chance))
    tree, best, least, ladder = Neighbours(here), None, np.inf, []
    for rung in _ladder(tree, there, share, [2**j for j in range(len(here).bit_length() - 1)]):
        if rung.k == 1:
            warn_far(tree, rung.farthest)
        far, noise = lipschitz * rung.farthest, factor * float(np.linalg.norm(rung.weights))
        if far >= least:
            break
        ladder.append((rung.k, far, noise))
        if far + noise < least:
            best, least, spread = rung, far + noise, noise
    assert best is not None
    terms = {"spread": spread, "loss_bound": bound, "delta": chance, "ladder": tuple(ladder)}
    terms["limits"] = (0.0, np.inf if loss_bound is None else bound)
    return _neighbour_risk("SNN", values, tree, best, lipschitz, **terms)


class _Rung(NamedTuple):
    k: int
    weights: np.ndarray
    mean_distance: float
    farthest: float


def _ladder(tree: Neighbours, test: Sites, share: np.ndarray, ks: list[int]) -> Iterator[_Rung]:
    """The k nearest neighbours summed up for growing powers of two: a query for some serves the smaller ones too."""
    n, done = len(tree.sites), 0
    counts, distance = np.zeros(n), 0.0
    while done < len(ks):
        now = ks[done : done + (3 if done == 0 else 1)]
        below = ks[done - 1] if done else 0
        edges = [below, *now]
        added = [np.zeros(n) for _ in now]
        length, far = np.zeros(len(now)), np.zeros(len(now))
        for rows, gap, index in tree.blocks(test, now[-1]):
            for j, (low, high) in enumerate(pairwise(edges)):
                weight = np.repeat(share[rows], high - low)
                added[j] += np.bincount(index[:, low:high].ravel(), weight, n)
                length[j] += float(weight @ gap[:, low:high].ravel())
                far[j] = max(far[j], float(gap[:, high - 1].max()))
        for j, k in enumerate(now):
            counts, distance = counts + added[j], distance + length[j]
            yield _Rung(k, counts / k, distance / k, float(far[j]))
        done += len(now)


def _neighbour_risk(
    method: str, losses: np.ndarray, tree: Neighbours, rung: _Rung, lipschitz: float | None, **terms: Any
) -> Risk:
    return weighted_risk(
        method,
        losses,
        tree,
        rung.weights,
        k=rung.k,
        mean_distance=rung.mean_distance,
        farthest=rung.farthest,
        lipschitz=lipschitz,
        **terms,
    )


def _check_lipschitz(lipschitz: float | None, needed: bool = False) -> None:
    if lipschitz is None and not needed:
        return
    if lipschitz is None or not (np.isfinite(lipschitz) and lipschitz > 0):
        raise ValueError(
            f"lipschitz must be a positive number (loss per unit of distance), got {lipschitz}; where it is not known, "
            "fit a loss surface and use lipschitz_constant(posterior, ...)."
        )


def _loss_bound(losses: np.ndarray, bound: float | None) -> float:
    largest = float(losses.max())
    if losses.min() < 0:
        raise ValueError(
            f"{int((losses < 0).sum())} loss(es) are negative; the bound of SNN is for losses from 0 to loss_bound; "
            "add a constant to all of them."
        )
    if bound is None:
        return max(largest, np.finfo(float).tiny)
    if not (np.isfinite(bound) and bound > 0):
        raise ValueError(f"loss_bound must be a positive number, got {bound}.")
    if largest > bound:
        over = int((losses > bound).sum())
        raise ValueError(
            f"{over} loss(es) exceed the stated bound {bound:g} (largest {largest:g}); raise loss_bound, or cut them "
            f"off with pointwise_losses(..., bound={bound:g})."
        )
    return float(bound)


def _delta(validation: Sites, test: Sites, delta: float | None, published: bool) -> float:
    if delta is not None:
        if not 0 < delta <= 1:
            raise ValueError(f"delta is a probability in (0, 1], got {delta}.")
        return float(delta)
    if not published:
        return relative_fill(validation, test)
    if validation.metric == "sphere":
        return 0.1
    d = validation.coordinates.shape[1]
    return min(1.0, bisected_fill(validation.coordinates, np.full(d, -0.5), np.full(d, 0.5)))
