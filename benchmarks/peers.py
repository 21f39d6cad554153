"""The peers' side, and references in NumPy: jobs as in `jobs.py`, without tercet; each imports its own library."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

Data = dict[str, np.ndarray]
Job = Callable[[], dict[str, Any]]


def versions() -> str:
    packages = "scikit-learn choix arena-rank laplace-torch torch bmdal_reg batchbald_redux jax numpy"
    installed = []
    for package in packages.split():
        try:
            installed.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(installed)


def _differences(data: Data) -> np.ndarray:
    features = data["features"].astype(np.float64)
    return features[data["first"]] - features[data["second"]]


def _ridge(data: Data, prior_sd: float) -> float:
    """Prior precision of a weight for which the reward difference of two random items has this sd."""
    return 2.0 * float(np.var(data["features"].astype(np.float64), axis=0).sum()) / prior_sd**2


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logit))


def _precision(rows: np.ndarray, weights: np.ndarray, ridge: float) -> np.ndarray:
    p = _sigmoid(rows @ weights)
    return rows.T @ (rows * (p * (1.0 - p))[:, None]) + ridge * np.eye(rows.shape[1])


def _log_determinant(precision: np.ndarray) -> float:
    return 2.0 * float(np.log(np.linalg.cholesky(precision).diagonal()).mean())


# scikit-learn ---------------------------------------------------------------------------------------------------


def _scikit_learn(data: Data, rows: np.ndarray, **settings: Any) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    ridge = _ridge(data, float(data["prior_sd"]))
    fit = LogisticRegression(C=1.0 / ridge, fit_intercept=False, max_iter=10_000, **settings)
    return fit.fit(rows, data["outcome"]).coef_[0]


def scikit_learn_laplace(data: Data) -> Job:
    """Differences, LogisticRegression by L-BFGS, then the Hessian and its Cholesky factor in NumPy."""

    def run() -> dict[str, Any]:
        rows = _differences(data)
        weights = _scikit_learn(data, rows, solver="lbfgs", tol=1e-9)
        precision = _precision(rows, weights, _ridge(data, float(data["prior_sd"])))
        return {"weights": weights, "log_determinant": _log_determinant(precision)}

    return run


def _scikit_learn_map(data: Data, **settings: Any) -> Job:
    from time import perf_counter

    start = perf_counter()
    rows = _differences(data)
    forming = perf_counter() - start
    return lambda: {"weights": _scikit_learn(data, rows, **settings), "_s to form differences, not counted": forming}


def scikit_learn_lbfgs(data: Data) -> Job:
    """MAP only; the differences are formed beforehand."""
    return _scikit_learn_map(data, solver="lbfgs", tol=1e-8)


def scikit_learn_newton_cholesky(data: Data) -> Job:
    """MAP only, by a second-order method as ours; the differences are formed beforehand."""
    return _scikit_learn_map(data, solver="newton-cholesky", tol=1e-8)


# choix ----------------------------------------------------------------------------------------------------------


def choix_ilsr(data: Data) -> Job:
    """Iterative Luce spectral ranking without regularisation, from a list of (winner, loser); no intervals."""
    import choix

    won = data["outcome"] > 0.5
    winner = np.where(won, data["first"], data["second"]).tolist()
    loser = np.where(won, data["second"], data["first"]).tolist()
    outcomes = list(zip(winner, loser, strict=True))

    def run() -> dict[str, Any]:
        ability = choix.ilsr_pairwise(int(data["items"]), outcomes, alpha=0.0, max_iter=1_000, tol=1e-9)
        return {"ability": ability - ability.mean()}

    return run


# arena-rank -----------------------------------------------------------------------------------------------------


def arena_rank(data: Data) -> Job:
    """L-BFGS, then sandwich intervals; its data set (repeated games as weights) is made beforehand."""
    from time import perf_counter

    import pandas as pd
    from arena_rank.models.bradley_terry import BradleyTerry
    from arena_rank.utils.data_utils import PairDataset

    winner = np.where(data["outcome"] > 0.5, "model_a", "model_b")
    games = pd.DataFrame({"model_a": data["first"], "model_b": data["second"], "winner": winner})
    start = perf_counter()
    dataset = PairDataset.from_pandas(games)
    dataset.opt_weights.block_until_ready()
    preparing = perf_counter() - start

    def run() -> dict[str, Any]:
        model = BradleyTerry(dataset.n_competitors, scale=1.0, base=np.e, init_rating=0.0)
        ratings = model.compute_ratings_and_cis(dataset)
        np.asarray(ratings["rating_upper"])
        ability = np.asarray(ratings["ratings"])
        return {"ability": ability - ability.mean(), "_s to prepare its data set, not counted": preparing}

    return run


# laplace-torch --------------------------------------------------------------------------------------------------


def laplace_torch(data: Data) -> Job:
    """Differences, MAP by torch's L-BFGS, then the full Laplace approximation of a linear layer (logits 0 and x w)."""
    import torch
    from laplace import Laplace

    class Head(torch.nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(width, 1, bias=False, dtype=torch.float64)

        def forward(self, rows: Any) -> Any:
            logit = self.linear(rows)
            return torch.cat([torch.zeros_like(logit), logit], dim=1)

    def run() -> dict[str, Any]:
        rows, ridge = torch.from_numpy(_differences(data)), _ridge(data, float(data["prior_sd"]))
        classes, head = torch.from_numpy(data["outcome"]).long(), Head(rows.shape[1])
        torch.nn.init.zeros_(head.linear.weight)
        optimizer = torch.optim.LBFGS(
            head.parameters(), max_iter=1_000, tolerance_grad=1e-8, tolerance_change=0.0, line_search_fn="strong_wolfe"
        )

        def loss() -> Any:
            optimizer.zero_grad()
            fit = torch.nn.functional.cross_entropy(head(rows), classes, reduction="sum")
            total = fit + 0.5 * ridge * head.linear.weight.square().sum()
            total.backward()
            return total

        optimizer.step(loss)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, classes), batch_size=len(rows))
        approximation = Laplace(head, "classification", "all", "full", prior_precision=ridge)
        approximation.fit(loader)
        weights = head.linear.weight.detach().numpy()[0]
        precision = approximation.posterior_precision.detach().numpy()
        return {"weights": weights.copy(), "log_determinant": _log_determinant(precision)}

    return run


# References: the definitions in NumPy ----------------------------------------------------------------------------


def _newton(rows: np.ndarray, outcome: np.ndarray, ridge: float) -> np.ndarray:
    weights = np.zeros(rows.shape[1])
    for _ in range(100):
        gradient = rows.T @ (outcome - _sigmoid(rows @ weights)) - ridge * weights
        if np.abs(gradient).max() < 1e-10:
            break
        weights = weights + np.linalg.solve(_precision(rows, weights, ridge), gradient)
    return weights


def dense_newton(data: Data) -> Job:
    """Undamped Newton on the matrix of differences."""

    def run() -> dict[str, Any]:
        rows, ridge = _differences(data), _ridge(data, float(data["prior_sd"]))
        weights = _newton(rows, data["outcome"], ridge)
        return {"weights": weights, "log_determinant": _log_determinant(_precision(rows, weights, ridge))}

    return run


def evidence_grid(data: Data) -> Job:
    """Mode of the log prior scale on a fine grid: Laplace evidence times its half-Normal(2) prior."""

    def evidence(prior_sd: float) -> float:
        rows, ridge = _differences(data), _ridge(data, prior_sd)
        weights = _newton(rows, data["outcome"], ridge)
        logit = rows @ weights
        fit = np.sum(data["outcome"] * logit - np.logaddexp(0.0, logit)) - 0.5 * ridge * np.sum(weights**2)
        spread = np.linalg.slogdet(_precision(rows, weights, ridge))[1]
        return float(fit + 0.5 * len(weights) * np.log(ridge) - 0.5 * spread)

    def run() -> dict[str, Any]:
        grid = np.exp(np.linspace(-2.0, 2.0, 401))
        log_evidence = [evidence(sd) for sd in grid]
        best = int(np.argmax(log_evidence - 0.5 * (grid / 2.0) ** 2 + np.log(grid)))
        return {"log_evidence": log_evidence[best], "prior_sd": grid[best]}

    return run


def minorise_maximise(data: Data) -> Job:
    """Hunter (2004): iterate pi_i = wins_i / sum_j games_ij / (pi_i + pi_j); ability_i = log pi_i."""

    def run() -> dict[str, Any]:
        items = int(data["items"])
        first, second, won = data["first"], data["second"], data["outcome"]
        wins = np.bincount(first, won, items) + np.bincount(second, 1.0 - won, items)
        games = np.zeros((items, items))
        np.add.at(games, (first, second), 1.0)
        games += games.T
        strength = np.ones(items)
        for _ in range(5_000):
            strength = wins / (games / (strength[:, None] + strength)).sum(axis=1)
            strength /= np.exp(np.log(strength).mean())
        return {"ability": np.log(strength)}

    return run


def autograd_of_logdet(data: Data) -> Job:
    """Score by the formula as published, by autodiff: d log det(sum_m s_m v_m d_m d_m' + 1e-6 I) / d s_m at s = 1."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    ridge = _ridge(data, float(data["prior_sd"]))
    weights = _newton(_differences(data), data["outcome"], ridge)
    pairs, budget = data["candidates"], int(data["budget"])

    @jax.jit
    def gradient(rows: Any) -> Any:
        p = jax.nn.sigmoid(rows @ weights)
        information = (p * (1.0 - p))[:, None, None] * rows[:, :, None] * rows[:, None, :]  # [m, d, d]

        def log_det(share: Any) -> Any:
            total = jnp.tensordot(share, information, axes=1) + 1e-6 * jnp.eye(rows.shape[1])
            return jnp.linalg.slogdet(total)[1]

        return jax.grad(log_det)(jnp.ones(len(rows)))

    def run() -> dict[str, Any]:
        features = data["features"].astype(np.float64)
        scores = np.asarray(gradient(features[pairs[:, 0]] - features[pairs[:, 1]]))
        best = np.argsort(-scores, kind="stable")[:budget]
        return {"picks": pairs[best], "gains": scores[best]}

    return run


def _greedy(data: Data, gain: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> Job:
    """Each pick by the determinant or the trace itself; the information is averaged over the posterior on a grid."""
    rows, ridge = _differences(data), _ridge(data, float(data["prior_sd"]))
    weights = _newton(rows, data["outcome"], ridge)
    features = data["features"].astype(np.float64)
    pairs = data["candidates"]
    d = features[pairs[:, 0]] - features[pairs[:, 1]]

    def run() -> dict[str, Any]:
        precision = _precision(rows, weights, ridge)
        sd = np.sqrt(np.einsum("md,de,me->m", d, np.linalg.inv(precision), d))
        z = np.linspace(-9.0, 9.0, 2001)
        p = _sigmoid((d @ weights)[:, None] + sd[:, None] * z)
        density = np.exp(-0.5 * z**2)
        v = (p * (1.0 - p)) @ (density / density.sum())
        target = 2.0 * np.cov(features, rowvar=False)
        picks, gains = [], []
        for _ in range(int(data["budget"])):
            scores = [
                -np.inf if m in picks else gain(precision, precision + v[m] * np.outer(d[m], d[m]), target)
                for m in range(len(d))
            ]
            picks.append(int(np.argmax(scores)))
            gains.append(max(scores))
            precision = precision + v[picks[-1]] * np.outer(d[picks[-1]], d[picks[-1]])
        return {"picks": pairs[picks], "gains": np.array(gains)}

    return run


def bmdal_max_det(data: Data) -> Job:
    """MaxDet of bmdal_reg in kernel space on whitened, weighted rows of the candidates: the picks of greedy D."""
    setattr(np, "Inf", np.inf)  # noqa: B010, bmdal_reg was written for NumPy 1
    import torch
    from bmdal_reg.bmdal.feature_data import TensorFeatureData
    from bmdal_reg.bmdal.feature_maps import IdentityFeatureMap
    from bmdal_reg.bmdal.features import Features
    from bmdal_reg.bmdal.selection import MaxDetSelectionMethod

    pairs, whitened = data["candidates"], _whitened_candidates(data)
    few = IdentityFeatureMap(n_features=whitened.shape[1])

    def run() -> dict[str, Any]:
        pool = Features(few, TensorFeatureData(torch.from_numpy(whitened)))
        none = Features(few, TensorFeatureData(torch.from_numpy(whitened[:0])))
        method = MaxDetSelectionMethod(pool, none, noise_sigma=1.0, verbosity=0)
        return {
            "picks": pairs[np.asarray(method.select(int(data["budget"])))],
        }

    return run


def batchbald_redux(data: Data) -> Job:
    """BatchBALD by joint entropies over 100 posterior draws; `information` is the Gaussian information of its batch."""
    import torch
    from batchbald_redux.batchbald import get_batchbald_batch

    rows, ridge = _differences(data), _ridge(data, float(data["prior_sd"]))
    weights = _newton(rows, data["outcome"], ridge)
    covariance = np.linalg.inv(_precision(rows, weights, ridge))
    features, pairs = data["features"].astype(np.float64), data["candidates"]
    d = features[pairs[:, 0]] - features[pairs[:, 1]]
    draws = np.random.default_rng(0).multivariate_normal(weights, covariance, 100)
    logit = d @ draws.T
    log_p = torch.from_numpy(-np.logaddexp(0.0, np.stack([logit, -logit], axis=2)))
    whitened = _whitened_candidates(data)

    def run() -> dict[str, Any]:
        torch.manual_seed(0)
        picked = get_batchbald_batch(log_p, int(data["budget"]), 10_000, dtype=torch.double)
        batch = whitened[np.asarray(picked.indices)]
        return {"information": 0.5 * np.linalg.slogdet(np.eye(len(batch)) + batch @ batch.T)[1]}

    return run


def _whitened_candidates(data: Data) -> np.ndarray:
    """Rows sqrt(v) R'd: R R' is the posterior covariance, v the information averaged over the posterior on a grid."""
    rows, ridge = _differences(data), _ridge(data, float(data["prior_sd"]))
    weights = _newton(rows, data["outcome"], ridge)
    root = np.linalg.inv(np.linalg.cholesky(_precision(rows, weights, ridge))).T
    features, pairs = data["features"].astype(np.float64), data["candidates"]
    weighted, grid = np.empty((len(pairs), len(root))), np.linspace(-9.0, 9.0, 201)
    density = np.exp(-0.5 * grid**2)
    for start in range(0, len(pairs), 20_000):
        part = slice(start, start + 20_000)
        d = features[pairs[part, 0]] - features[pairs[part, 1]]
        z = d @ root
        p = _sigmoid((d @ weights)[:, None] + np.linalg.norm(z, axis=1)[:, None] * grid)
        weighted[part] = np.sqrt((p * (1.0 - p)) @ (density / density.sum()))[:, None] * z
    return weighted


def greedy_information(data: Data) -> Job:
    """The log determinant of each candidate, one pick after another."""
    select = brute_force_d(data)
    return lambda: {"information": 0.5 * select()["gains"].sum()}


def blocks_of_all_pairs(data: Data) -> Job:
    """All pairs in NumPy, 512 items against all others at a time: d'A d by one matrix product, keeping the best."""
    rows, ridge = _differences(data), _ridge(data, float(data["prior_sd"]))
    weights = _newton(rows, data["outcome"], ridge)
    root = np.linalg.inv(np.linalg.cholesky(_precision(rows, weights, ridge))).T
    budget = int(data["budget"])

    def run() -> dict[str, Any]:
        z = data["features"].astype(np.float64) @ root
        z -= z.mean(axis=0)
        square = np.square(z).sum(axis=1)
        pairs, scores = np.empty((0, 2), int), np.empty(0)
        for start in range(0, len(z), 512):
            block = slice(start, start + 512)
            q = square[block, None] + square - 2.0 * z[block] @ z.T
            q[np.arange(start, start + len(q))[:, None] >= np.arange(len(z))] = -np.inf
            flat = q.reshape(-1)
            best = np.argpartition(flat, -budget)[-budget:]
            pairs = np.concatenate([pairs, np.stack([start + best // len(z), best % len(z)], axis=1)])
            scores = np.append(scores, flat[best])
            kept = np.argsort(-scores, kind="stable")[:budget]
            pairs, scores = pairs[kept], scores[kept]
        return {"picks": pairs, "gains": scores}

    return run


def brute_force_d(data: Data) -> Job:
    """Greedy maximisation of the log determinant of the precision."""
    return _greedy(data, lambda before, after, target: np.linalg.slogdet(after)[1] - np.linalg.slogdet(before)[1])


def brute_force_v(data: Data) -> Job:
    """Greedy minimisation of the trace of the target covariance."""
    return _greedy(
        data, lambda before, after, target: np.trace(target @ (np.linalg.inv(before) - np.linalg.inv(after)))
    )
