"""Our side: each job takes the arrays of a problem and returns a function, which is timed and gives the estimates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np

import tercet
from tercet.designs import select_pairs
from tercet.inference import ability_table, laplace
from tercet.inference.posteriors import GaussianPosterior
from tercet.inference.posteriors.newton import mode_alone
from tercet.models import AbilityHead, BradleyTerry, Comparisons, Items, LinearHead
from tercet.models._operators import Dense

Data = dict[str, np.ndarray]
Job = Callable[[], dict[str, Any]]


def versions() -> str:
    return f"tercet {tercet.__version__}"


def _answers(data: Data) -> Comparisons:
    return Comparisons(data["first"], data["second"], data["outcome"])


def _log_determinant(factor: np.ndarray) -> float:
    return 2.0 * float(np.log(factor.diagonal()).mean())


def linear(data: Data) -> Job:
    """Posterior mode (gradient 1e-8) and Cholesky factor of the precision, from arrays; the prior scale is given."""

    def run() -> dict[str, Any]:
        fit = laplace(BradleyTerry(LinearHead(float(data["prior_sd"]))), Items(data["features"]), _answers(data))
        _check(fit)
        return {"weights": fit.center, "log_determinant": _log_determinant(fit.precision_factor)}

    return run


def linear_learned(data: Data) -> Job:
    """The same fit with the prior scale learned from the evidence."""

    def run() -> dict[str, Any]:
        fit = laplace(BradleyTerry(LinearHead()), Items(data["features"]), _answers(data))
        _check(fit)
        return {name: fit.diagnostics[name] for name in ("log_evidence", "prior_sd")}

    return run


def linear_map(data: Data) -> Job:
    """The mode alone, to the gradient of scikit-learn with tol=1e-8, from differences that are formed beforehand."""
    model, items = BradleyTerry(LinearHead(float(data["prior_sd"]))), Items(data["features"])
    form = model.linear_form(items, Comparisons([0], [1], [1.0]))  # link and prior
    features = data["features"].astype(np.float64)
    rows = Dense(features[data["first"]] - features[data["second"]])
    form = replace(form, rows=rows, outcome=data["outcome"].astype(np.float64), weight=np.ones(len(rows)))

    def run() -> dict[str, Any]:
        solution = mode_alone(form, tolerance=1e-8 * len(rows))
        if not solution.converged:
            raise RuntimeError(solution.reason)
        return {"weights": solution.point}

    return run


def abilities(data: Data) -> Job:
    """Centred maximum likelihood estimates, with the table of intervals and P(best)."""
    items = int(data["items"])

    def run() -> dict[str, Any]:
        known = Items.named(range(items))
        fit = laplace(BradleyTerry(AbilityHead(math.inf)), known, _answers(data))
        _check(fit)
        ability_table(fit, known)
        ability = fit.mean()["ability"]
        return {"ability": ability - ability.mean()}

    return run


def _selection(data: Data, criterion: str, candidates: Literal["all"] | None = None) -> Job:
    items = Items(data["features"])
    fit = laplace(BradleyTerry(LinearHead(float(data["prior_sd"]))), items, _answers(data))
    budget, listed = int(data["budget"]), data["candidates"] if candidates is None else candidates

    def run() -> dict[str, Any]:
        picked = select_pairs(items, fit, budget, candidates=listed, criterion=criterion)
        return {"picks": picked.chosen, "gains": picked.gains}

    return run


def published_d(data: Data) -> Job:
    """`select_pairs` by published D-optimality: checks, scores, the best 256 and their table."""
    return _selection(data, "D-optimal (published)")


def greedy_d(data: Data) -> Job:
    """`select_pairs` by greedy D."""
    return _selection(data, "greedy D")


def greedy_v(data: Data) -> Job:
    """`select_pairs` by greedy V."""
    return _selection(data, "greedy V")


def batch_bald(data: Data) -> Job:
    """`select_pairs` by BatchBALD; `information` is that of the batch, in nats."""
    select = _selection(data, "BatchBALD")
    return lambda: {"information": select()["gains"].sum()}


def all_pairs(data: Data) -> Job:
    """`select_pairs` from all pairs of all items, by posterior variance."""
    return _selection(data, "posterior variance", "all")


def _check(fit: GaussianPosterior) -> None:
    if not fit.diagnostics["converged"]:
        raise RuntimeError(f"not converged: {fit.diagnostics}")
