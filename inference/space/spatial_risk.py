"""Estimators of the risk: holdout, the nearest neighbour (1NN) and spatial nearest neighbours (SNN)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.inference.space.fill_distances import bisected_fill, relative_fill
from tercet.inference.space.neighbours import NeighbourAverage, Neighbours, neighbour_averages
from tercet.inference.space.risk import Risk, checked_inputs, normalised_shares, warn_remote, weighted_risk
from tercet.models.space.sites import Sites


def holdout_risk(losses: ArrayLike, validation: Sites | ArrayLike, test: Sites | ArrayLike) -> Risk:
    """Mean of the validation losses, unbiased only where validation and test sites have the same distribution.

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
    values, labelled, _ = checked_inputs(losses, validation, test)
    return weighted_risk("holdout", values, Neighbours(labelled), np.full(len(values), 1 / len(values)))


def nearest_neighbour_risk(
    losses: ArrayLike,
    validation: Sites | ArrayLike,
    test: Sites | ArrayLike,
    *,
    lipschitz: float | None = None,
    test_weights: ArrayLike | None = None,
) -> Risk:
    """1NN: the mean over test sites of the loss at the nearest validation site.

    Consistent where many test sites are spread out; for a single test site it remains one noisy loss.

    Parameters
    ----------
    losses : array [n], losses at the validation sites
    validation : Sites or array [n, d]
    test : Sites or array [m, d]
    lipschitz : optional, Lipschitz constant of the *expected* loss, per unit of distance (kilometre on the sphere)
    test_weights : array [m], optional, weights of the test sites in the mean (people, area)

    References
    ----------
    Burt, Shen, Broderick (2024), arXiv 2402.03527, section 3.

    Examples
    --------
    >>> from tercet.inference import nearest_neighbour_risk
    >>> nearest_neighbour_risk([1.0, 3.0], [[0.0], [1.0]], [[0.9], [1.2], [0.1]]).weights.round(3).tolist()
    [0.333, 0.667]
    """
    values, labelled, targets = checked_inputs(losses, validation, test)
    if lipschitz is not None:
        _check_lipschitz(lipschitz)
    tree = Neighbours(labelled)
    average = next(neighbour_averages(tree, targets, normalised_shares(test_weights, len(targets)), [1]))
    warn_remote(tree, average.max_distance)
    return _averaged_risk("1NN", values, tree, average, lipschitz)


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

        B(k) = L max over test sites of the distance to the k-th neighbour + M sqrt(log(2 / delta) / 2) |w|_2

    with w_n the weight of validation site n. No union bound over k is needed: k depends on the sites only. The distance
    grows with k, so the search ends where its term alone exceeds the best bound.

    Parameters
    ----------
    losses : array [n], losses at the validation sites, between 0 and `loss_bound`
    validation : Sites or array [n, d]
    test : Sites or array [m, d]
    lipschitz : L, of the *expected* loss, per unit of distance (kilometre on the sphere). Where it is not known,
        estimate it from a fitted loss surface by `lipschitz_constant` (never from differences of noisy losses, which
        diverge as sites come closer)
    loss_bound : M; by default the largest loss observed, which carries no guarantee
    delta : probability with which the bound may fail; by default min(1, fill distance of the validation sites over the
        bounding box of all sites, per box side)
    test_weights : array [m], optional, weights of the test sites in the mean (people, area)
    published : the choices of the published code: fill distance over [-1/2, 1/2]^d whatever the sites, delta = 0.1 on
        the sphere

    Returns
    -------
    Risk
        with k, the two terms of the bound (`lipschitz * max_distance`, `noise_term`), and a bias-aware `interval()`.

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
    values, labelled, targets = checked_inputs(losses, validation, test)
    _check_lipschitz(lipschitz)
    bound = _checked_bound(values, loss_bound)
    chance = _failure_probability(labelled, targets, delta, published)
    shares = normalised_shares(test_weights, len(targets))
    factor = bound * np.sqrt(0.5 * np.log(2 / chance))
    tree, best, least, terms = Neighbours(labelled), None, np.inf, []
    for average in neighbour_averages(tree, targets, shares, [2**j for j in range(len(labelled).bit_length() - 1)]):
        if average.k == 1:
            warn_remote(tree, average.max_distance)
        distance_term, noise_term = lipschitz * average.max_distance, factor * float(np.linalg.norm(average.weights))
        if distance_term >= least:
            break
        terms.append((average.k, distance_term, noise_term))
        if distance_term + noise_term < least:
            best, least, best_noise = average, distance_term + noise_term, noise_term
    assert best is not None
    limits = (0.0, np.inf if loss_bound is None else bound)
    more = {"noise_term": best_noise, "loss_bound": bound, "delta": chance, "limits": limits}
    return _averaged_risk("SNN", values, tree, best, lipschitz, bound_terms=tuple(terms), **more)


def _averaged_risk(
    method: str, losses: np.ndarray, tree: Neighbours, average: NeighbourAverage, lipschitz: float | None, **terms: Any
) -> Risk:
    distances = {"mean_distance": average.mean_distance, "max_distance": average.max_distance}
    return weighted_risk(method, losses, tree, average.weights, k=average.k, lipschitz=lipschitz, **distances, **terms)


def _check_lipschitz(lipschitz: float) -> None:
    if lipschitz is None or not (np.isfinite(lipschitz) and lipschitz > 0):
        raise ValueError(
            f"lipschitz must be a positive number (loss per unit of distance), got {lipschitz}; where it is not known, "
            "fit a loss surface and use lipschitz_constant(posterior, ...)."
        )


def _checked_bound(losses: np.ndarray, bound: float | None) -> float:
    """The bound of the losses: the one given, if no loss exceeds it, or the largest loss."""
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
            f"{over} loss(es) exceed the stated bound {bound:g} (largest {largest:g}); raise loss_bound, or truncate "
            f"them with pointwise_losses(..., bound={bound:g})."
        )
    return float(bound)


def _failure_probability(validation: Sites, test: Sites, delta: float | None, published: bool) -> float:
    """Delta: as given, from the relative fill distance, or as the published code sets it."""
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
