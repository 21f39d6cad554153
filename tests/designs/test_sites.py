"""Where to put the next validation sites, against brute force: all distances written out, variances from scratch.

The oracles take only the public functions from tercet.designs. As for pairs they follow the picks that were made and
ask of each: is its gain the brute-force gain, and is there no better candidate left? Exact ties then do no harm.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.handlers
import pytest

from tercet.designs import (
    SITE_CRITERIA,
    GreedyV,
    KCentre,
    PairCandidates,
    PublishedD,
    SiteCandidates,
    candidate_pairs,
    select,
    select_pairs,
    select_sites,
)
from tercet.inference import SampledPosterior, fill_distance, laplace
from tercet.inference.context import Context
from tercet.models import BradleyTerry, Comparisons, Frame, Items, LinearHead, LossSurface, Sites, distances
from tercet.models.loss_surfaces import JITTER, WALL

RTOL = 1e-8
MAY_STOP = pytest.mark.filterwarnings("ignore:no candidate left brings any target nearer")
SPACES = ("line", "plane", "five dimensions", "date line", "globe")


def draw(space: str, n: int, rng: np.random.Generator) -> Sites:
    if space == "date line":  # longitudes told either way round
        longitude = 180 + rng.uniform(-8, 8, n)
        return Sites(
            np.stack([rng.uniform(-5, 5, n), np.where(longitude > 184, longitude - 360, longitude)], 1), "sphere"
        )
    if space == "globe":
        return Sites(np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)], 1), "sphere")
    return Sites(rng.uniform(-3, 7, (n, {"line": 1, "plane": 2, "five dimensions": 5}[space])))


def joined(*sites: Sites) -> Sites:
    return Sites(np.concatenate([each.coordinates for each in sites]), sites[0].metric)


def taken(sites: Sites, index: Any) -> Sites:
    return Sites(sites.coordinates[index], sites.metric)


# ---------------------------------------------------------------------------------------------------------- k-centre


@MAY_STOP
@pytest.mark.parametrize("space", SPACES)
def test_k_centre_goes_for_the_farthest_target(space: str, rng: Any) -> None:
    candidates, existing, target = (draw(space, n, rng) for n in (40, 3, 60))
    picked = select_sites(candidates, None, 8, existing=existing, target=target)
    gaps = distances(target, candidates)
    left, fills = distances(target, existing).min(axis=1), []
    for index in picked.chosen:
        able = gaps.min(axis=1) < left * (1 - 1e-9)
        far = np.where(able, left, -1).argmax()
        assert gaps[far, index] <= gaps[far].min() * (1 + RTOL)
        left = np.minimum(left, gaps[:, index])
        fills.append(left.max())
    start = fill_distance(existing, target)
    np.testing.assert_allclose(picked.gains, -np.diff([start, *fills]), rtol=RTOL, atol=1e-9 * start)
    np.testing.assert_allclose(picked.table["fill_distance"], fills, rtol=RTOL)
    np.testing.assert_allclose(fill_distance(joined(existing, taken(candidates, picked.chosen)), target), fills[-1])


@pytest.mark.parametrize("labelled", [0, 2])
@pytest.mark.parametrize("same", [True, False], ids=["candidates are the targets", "candidates are others"])
@pytest.mark.parametrize("space", ["line", "plane", "globe"])
def test_k_centre_is_within_its_factor_of_the_best(space: str, same: bool, labelled: int, rng: Any) -> None:
    """Twice the smallest fill distance where every target is a candidate, three times otherwise: all sets tried."""
    for size in (1, 2, 3):
        target = draw(space, 9, rng)
        candidates = target if same else draw(space, 9, rng)
        existing = draw(space, labelled, rng) if labelled else None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            picked = select_sites(candidates, None, size, existing=existing, target=target)
        gaps = distances(target, candidates)
        bare = np.full(9, np.inf) if existing is None else distances(target, existing).min(axis=1)

        def fill(chosen: Any, gaps: np.ndarray = gaps, bare: np.ndarray = bare) -> float:
            return float(np.column_stack([bare, gaps[:, list(chosen)]]).min(axis=1).max())

        best = min(fill(chosen) for chosen in itertools.combinations(range(9), size))
        reached = fill(picked.chosen)
        assert best * (1 - RTOL) <= reached <= (2 if same else 3) * best * (1 + RTOL)
        assert len(picked.chosen) + len(caught) >= size
        if caught:  # fewer sites are as good as all of them
            np.testing.assert_allclose(reached, fill(range(9)))


def test_k_centre_can_miss_the_best_by_its_factor() -> None:
    """The factor 2 is reached: ends first, the middle never."""
    line = [[0.0], [1.0], [2.0]]
    assert select_sites(line, None, 1, existing=[[-2.0]], target=line).table["fill_distance"].tolist() == [2.0]


def test_one_target_gets_the_site_nearest_to_it(rng: Any) -> None:
    candidates, target = draw("globe", 50, rng), draw("globe", 1, rng)
    existing = Sites(target.coordinates * [-1, 1] + [0, 180], "sphere")  # at the other end of the world
    picked = select_sites(candidates, None, 1, existing=existing, target=target)
    gaps = distances(target, candidates)[0]
    assert picked.chosen.tolist() == [gaps.argmin()]
    np.testing.assert_allclose(picked.gains, distances(target, existing)[0] - gaps.min(), rtol=RTOL)


def test_first_site_of_all_goes_to_the_middle() -> None:
    grid = np.arange(11.0)[:, None]
    picked = select_sites(grid, None, 3)
    assert picked.chosen.tolist() == [5, 0, 10]
    assert picked.gains.tolist() == [5.0, 0.0, 3.0]  # from 10, the whole box: two ends are equally far
    assert select_sites([[4.0]], None, 1).chosen.tolist() == [0]


def test_ties_go_to_the_lowest_index() -> None:
    picked = select_sites([[1.0], [-1.0], [1.0]], None, 1, existing=[[5.0]], target=[[0.0]])
    assert picked.chosen.tolist() == [0]
    picked = select_sites([[9.0], [1.0]], None, 2, existing=[[5.0]], target=[[1.0], [9.0]])
    assert picked.chosen.tolist() == [1, 0]
    assert picked.gains.tolist() == [0.0, 4.0]


@pytest.mark.parametrize("metric", ["plane", "sphere"])
def test_k_centre_stops_where_nothing_is_left_to_gain(metric: Any, rng: Any) -> None:
    places = rng.uniform(-60, 60, (5, 2))
    twice = Sites(np.concatenate([places, places]), metric)
    with pytest.warns(UserWarning, match=r"no candidate left brings any target nearer .*\(fill distance 0\)"):
        picked = select_sites(twice, None, 8, target=Sites(places, metric))
    assert sorted(picked.chosen.tolist()) == [0, 1, 2, 3, 4]
    assert picked.table["fill_distance"].iloc[-1] == 0
    with pytest.warns(UserWarning, match="ends before the budget"):
        empty = select_sites(twice, None, 3, existing=Sites(places, metric))
    assert empty.chosen.shape == empty.gains.shape == (0,)
    assert empty.expected_random == 0.0
    assert list(empty.table.columns) == list(picked.table.columns)


def test_targets_out_of_reach_are_passed_over() -> None:
    """An island that no candidate is near to does not keep the others from being served."""
    picked = select_sites([[1.0], [2.0], [3.0]], None, 2, existing=[[0.0]], target=[[-50.0], [3.1], [1.0]])
    assert picked.chosen.tolist() == [2, 0]
    assert picked.gains.tolist() == [0.0, 0.0]


def test_costs_of_k_centre() -> None:
    """The fall of the farthest target's distance per cost decides, among what is affordable."""
    candidates = [[10.0], [7.0], [1.0]]

    def pick(budget: float, cost: list[float]) -> Any:
        return select_sites(candidates, None, budget, cost=cost, existing=[[0.0]], target=[[10.0]])

    assert pick(8.5, [8.0, 5.0, 9.0]).chosen.tolist() == [1]  # 7 / 5 beats 10 / 8
    assert pick(8.5, [8.0, 7.0, 9.0]).chosen.tolist() == [0]
    picked = pick(7.5, [8.0, 7.0, 2.0])
    assert picked.chosen.tolist() == [1]  # 10 / 8 would be best, but is too dear
    assert picked.table["cost"].tolist() == [7.0]
    with pytest.warns(UserWarning, match="fill distance 3"):
        assert pick(7.5, [8.0, 5.0, 2.0]).chosen.tolist() == [1]  # the site at 1 helps nobody then


def test_dear_candidates_do_not_stop_the_others() -> None:
    """The farthest target could be served, but not for what is left: the next one is."""
    call: dict[str, Any] = {"existing": [[0.0]], "target": [[10.0], [-5.0]]}
    picked = select_sites([[10.0], [-4.0]], None, 2.0, cost=[3.0, 2.0], **call)
    assert picked.chosen.tolist() == [1]
    assert picked.gains.tolist() == [0.0]


@MAY_STOP
def test_equal_costs_are_no_costs(rng: Any) -> None:
    candidates, existing, target = (draw("plane", n, rng) for n in (40, 3, 60))
    call: dict[str, Any] = {"existing": existing, "target": target}
    free = select_sites(candidates, None, 6, **call)
    np.testing.assert_array_equal(free.chosen, select_sites(candidates, None, 12.0, cost=np.full(40, 2), **call).chosen)


def test_expected_random_of_k_centre_is_the_average_over_all_sets(rng: Any) -> None:
    """A mean of 20 batches a call, 8 calls: within 5 of its own standard errors (false alarm below 1e-6)."""
    candidates, existing, target = (draw("plane", n, rng) for n in (6, 2, 20))
    start = fill_distance(existing, target)
    totals = [
        start - fill_distance(joined(existing, taken(candidates, list(chosen))), target)
        for chosen in itertools.combinations(range(6), 2)
    ]
    calls = [select_sites(candidates, None, 2, existing=existing, target=target, key=key) for key in range(8)]
    reported = np.mean([call.expected_random for call in calls])
    assert abs(reported - np.mean(totals)) <= 5 * np.std(totals) / np.sqrt(160) + 1e-12


# -------------------------------------------------------------------------------------------- variance of the risk


@dataclass(frozen=True, eq=False)
class Problem:
    """A surface with known parameters, its prior covariances written out."""

    posterior: Any
    candidates: Sites
    existing: Sites
    target: Sites
    share: np.ndarray

    @property
    def model(self) -> LossSurface:
        return self.posterior.context.model

    @cached_property
    def values(self) -> dict[str, Any]:
        return self.posterior.mean()

    def basis(self, sites: Sites) -> np.ndarray:
        """Sines along each axis, multiplied out, times the prior standard deviations of their weights."""
        places, model = self.model.frame.coordinates(sites), self.model
        orders = np.array(list(itertools.product(range(1, model.basis + 1), repeat=model.frame.dim)))
        waves = np.sin(np.pi * orders * (places[:, None] + WALL) / (2 * WALL)) / np.sqrt(WALL)
        return waves.prod(axis=-1) * self.scales

    @cached_property
    def scales(self) -> np.ndarray:
        return np.asarray(self.model.scales(*(jnp.asarray(self.values[name]) for name in ("amplitude", "length"))))

    def prior(self, first: Sites, second: Sites) -> np.ndarray:
        level = (2 * self.model.spread) ** 2
        if self.model.basis:
            return self.basis(first) @ self.basis(second).T + level
        a, b = (self.model.frame.coordinates(each) for each in (first, second))
        return self.model.covariance(a, b, self.values["amplitude"], self.values["length"]) + level

    @property
    def noise(self) -> float:
        """Variance of what one label says of the surface."""
        if self.model.family == "gamma":
            return 1 / self.values["shape"]
        wider = (self.values["freedom"] + 3) / (self.values["freedom"] + 1) if self.model.family == "student" else 1.0
        return self.values["noise"] ** 2 * wider

    def surface(self) -> np.ndarray:
        """Posterior mean at the targets."""
        known, model = self.posterior.context.args[0], self.model
        if not model.collapsed and model.basis:
            return self.values["level"] + self.basis(self.target) @ self.values["process"]
        if model.collapsed:
            start, level, noise = model.center, 0.0, self.noise
            losses = self.posterior.context.args[1]
            seen = np.log(losses) if model.family == "log-normal" else losses
        else:
            start, level, seen = self.values["level"], (2 * model.spread) ** 2, self.values["surface"]
            noise = 10 * JITTER * self.values["amplitude"] ** 2  # what the model adds
        whole = self.prior(known, known) - level + noise * np.eye(len(known))
        return start + (self.prior(self.target, known) - level) @ np.linalg.solve(whole, seen - start)

    @property
    def weight(self) -> np.ndarray:
        if self.model.family in ("normal", "student"):
            return self.share
        extra = 0.5 * self.values["noise"] ** 2 if self.model.family == "log-normal" else 0.0
        return self.share * np.exp(self.surface() + extra)

    @cached_property
    def joint(self) -> np.ndarray:
        """Prior covariance of the surface at every existing site and candidate, and of the (linearised) risk."""
        places, w = joined(self.existing, self.candidates), self.weight
        edge = (self.prior(places, self.target) @ w)[:, None]
        return np.block([[self.prior(places, places), edge], [edge.T, w @ self.prior(self.target, self.target) @ w]])

    def variance(self, chosen: Any) -> float:
        """Posterior variance of the risk with labels at these candidates too, from scratch."""
        n = len(self.existing)
        seen = [*range(n), *(n + index for index in chosen)]
        whole = self.joint[np.ix_(seen, seen)] + self.noise * np.eye(len(seen))
        edge = self.joint[seen, -1]
        return float(self.joint[-1, -1] - edge @ np.linalg.solve(whole, edge))

    def select(self, budget: float, **options: Any) -> Any:
        call = {"target": self.target, "target_weights": self.share} | options
        return select_sites(self.candidates, self.posterior, budget, **call)


def build(
    space: str, rng: np.random.Generator, family: str = "normal", basis: int = 6, n: int = 12, m: int = 12
) -> Problem:
    candidates, existing, target = (draw(space, size, rng) for size in (m, n, 12))
    losses = rng.gamma(3.0, 0.5, n)
    kernel = "matern 3/2" if basis else str(rng.choice(["matern 1/2", "matern 5/2", "squared exponential"]))
    surface = LossSurface.around(losses, candidates, existing, target, family=family, basis=basis, kernel=kernel)
    width = basis**surface.frame.dim if basis else n
    values = {
        "level": rng.normal(0.3, 0.1),
        "amplitude": rng.uniform(0.5, 1.0),
        "length": rng.uniform(0.3, 0.9),
        "noise": rng.uniform(0.2, 0.6),
        "shape": rng.uniform(1.0, 4.0),
        "freedom": rng.uniform(3.0, 8.0),
        "process": rng.standard_normal(width),
        "surface": rng.normal(0.0, 0.3, n),
    }
    samples = {name: np.broadcast_to(value, (2, 3, *np.shape(value))) for name, value in values.items()}
    context = Context(surface, (existing, losses), {}, x64=True)
    posterior = SampledPosterior("nuts", context, {"converged": True}, samples, {})
    share = rng.uniform(0.5, 2.0, 12)
    return Problem(posterior, candidates, existing, target, share / share.sum())


CASES = [
    *itertools.product(["plane"], ["normal", "log-normal", "gamma", "student"], [6]),
    ("line", "gamma", 6),
    ("date line", "log-normal", 6),
    ("five dimensions", "normal", 0),
    ("five dimensions", "student", 0),
    ("globe", "normal", 4),
    ("globe", "log-normal", 0),
    ("plane", "gamma", 0),
]


@pytest.mark.parametrize(("space", "family", "basis"), CASES)
def test_greedy_v_equals_the_variance_from_scratch(space: str, family: str, basis: int, rng: Any) -> None:
    problem = build(space, rng, family, basis)
    picked = problem.select(4)
    order = picked.chosen.tolist()
    scale = problem.variance([])
    for step, index in enumerate(order):
        before = problem.variance(order[:step])
        gains = np.array([before - problem.variance([*order[:step], other]) for other in range(12)])
        np.testing.assert_allclose(picked.gains[step], gains[index], rtol=1e-6, atol=RTOL * scale)
        free = np.setdiff1d(np.arange(12), order[:step])
        assert gains[index] >= gains[free].max() - RTOL * scale
        after = problem.variance(order[: step + 1])
        np.testing.assert_allclose(picked.table["risk_sd"][step] ** 2, after, rtol=RTOL, atol=RTOL * scale)


def test_level_and_basis_are_what_the_design_takes_them_for(rng: Any) -> None:
    problem = build("plane", rng)
    model = problem.model
    with numpyro.handlers.seed(rng_seed=0):
        trace = numpyro.handlers.trace(model).get_trace(*problem.posterior.context.args)
    prior = trace["level"]["fn"]
    places = jnp.asarray(model.frame.coordinates(problem.target))
    np.testing.assert_allclose(model.functions(places) * problem.scales, problem.basis(problem.target), atol=1e-12)
    np.testing.assert_allclose([prior.loc, prior.scale], [model.center, 2 * model.spread])


def test_one_target_is_labelled_itself_with_the_gain_of_a_conjugate_normal(rng: Any) -> None:
    """Far from the one label there is: variance v = a^2 + s^2 - s^4 / (a^2 + s^2 + noise), gain v^2 / (v + noise)."""
    grid = np.linspace(0, 1, 21)[:, None]
    frame = Frame("plane", (0.0,), 1.0)
    model = LossSurface(frame, family="normal", kernel="squared exponential", basis=0, spread=0.4)
    values = {"level": 0.0, "amplitude": 0.7, "length": 0.2, "noise": 0.3}
    samples = {name: np.full((2, 3), value) for name, value in values.items()}
    context = Context(model, ([[500.0]], np.zeros(1)), {}, x64=True)
    posterior = SampledPosterior("nuts", context, {"converged": True}, samples, {})
    at = int(rng.integers(21))
    picked = select_sites(grid, posterior, 1, target=grid[at : at + 1])
    a, s, noise = 0.49, 0.64, 0.09
    v = a + s - s**2 / (a + s + noise)
    assert picked.chosen.tolist() == [at]
    np.testing.assert_allclose(picked.gains, v**2 / (v + noise), rtol=RTOL)


@pytest.mark.parametrize("basis", [6, 0])
def test_random_batch_of_everything_gains_what_the_picks_gain(basis: int, rng: Any) -> None:
    """In whatever order all are labelled, the variance falls by the same in the end."""
    problem = build("plane", rng, "log-normal", basis)
    picked = problem.select(12)
    np.testing.assert_allclose(picked.gains.sum(), picked.expected_random, rtol=1e-7)
    few = problem.select(4)
    assert few.gains.sum() >= few.expected_random > 0


def test_costs_buy_the_best_gain_per_cost(rng: Any) -> None:
    problem = build("plane", rng)
    cost = rng.uniform(0.5, 3.0, 12)
    picked = problem.select(6.0, cost=cost)
    order, left = picked.chosen.tolist(), 6.0
    for step, index in enumerate(order):
        before = problem.variance(order[:step])
        free = [k for k in range(12) if k not in order[:step] and cost[k] <= left + 1e-9]
        worth = {k: (before - problem.variance([*order[:step], k])) / cost[k] for k in free}
        assert worth[index] >= max(worth.values()) * (1 - 1e-6)
        left -= cost[index]
    assert np.delete(cost, order).min() > left >= 0
    np.testing.assert_array_equal(picked.table["cost"], cost[order])


def test_labels_on_their_way_count(rng: Any) -> None:
    """`existing` replaces the sites of the fit: after three picks the fourth is the one of a batch of four."""
    problem = build("plane", rng)
    batch = problem.select(4)
    pending = joined(problem.existing, taken(problem.candidates, batch.chosen[:3]))
    then = problem.select(1, existing=pending, exclude=batch.chosen[:3])
    assert then.chosen.tolist() == [batch.chosen[3]]
    np.testing.assert_allclose(then.gains, batch.gains[3:], rtol=1e-6)


@MAY_STOP
@pytest.mark.parametrize("criterion", SITE_CRITERIA)
def test_every_criterion_serves_sites(criterion: str, rng: Any) -> None:
    problem = build("date line", rng)
    picked = problem.select(4, criterion=criterion)
    assert len(set(picked.chosen.tolist())) == len(picked.gains)
    assert criterion == "k-centre" or len(picked.gains) == 4
    again = problem.select(4, criterion=SITE_CRITERIA[criterion])
    np.testing.assert_array_equal(picked.chosen, again.chosen)
    if criterion == "posterior variance":
        seen, points = problem.existing, problem.candidates
        whole = problem.prior(seen, seen) + problem.noise * np.eye(len(seen))
        edge = problem.prior(seen, points)
        variance = np.diag(problem.prior(points, points) - edge.T @ np.linalg.solve(whole, edge))
        np.testing.assert_allclose(picked.gains, np.sort(variance)[::-1][:4], rtol=1e-7)
        np.testing.assert_allclose(picked.table["surface_sd"] ** 2, picked.gains, rtol=1e-7)


# ----------------------------------------------------------------------------------------------------- the grammar


@MAY_STOP
@pytest.mark.parametrize("criterion", ["k-centre", "greedy V"])
def test_excluded_sites_are_not_chosen(criterion: str, rng: Any) -> None:
    problem = build("date line", rng)
    every = problem.select(3, criterion=criterion)
    out = every.chosen[:2]
    mask = np.isin(np.arange(12), out)
    turned = problem.candidates.coordinates[out]
    turned = Sites(np.stack([turned[:, 0], turned[:, 1] % 360], axis=1), "sphere")
    picks = [problem.select(3, criterion=criterion, exclude=given) for given in (out, mask, turned)]
    kept = taken(problem.candidates, ~mask)
    alone = select_sites(
        kept, problem.posterior, 3, criterion=criterion, target=problem.target, target_weights=problem.share
    )
    for picked in picks:
        np.testing.assert_array_equal(picked.chosen, np.flatnonzero(~mask)[alone.chosen])
        np.testing.assert_allclose(picked.gains, alone.gains)
    cost = rng.uniform(1.0, 2.0, 12)
    priced = problem.select(5.0, criterion=criterion, exclude=out, cost=cost)
    np.testing.assert_array_equal(priced.table["cost"], cost[priced.chosen])
    assert not np.isin(priced.chosen, out).any()


def test_table_names_and_places_the_picks(rng: Any) -> None:
    problem = build("date line", rng)
    named = Sites(problem.candidates.coordinates, "sphere", ids=[f"site {k}" for k in range(12)])
    picked = select_sites(named, problem.posterior, 3, target=problem.target, cost=np.ones(12))
    assert list(picked.table.columns) == ["site", "latitude", "longitude", "gain", "surface_sd", "risk_sd", "cost"]
    assert picked.table["site"].tolist() == [f"site {k}" for k in picked.chosen]
    np.testing.assert_array_equal(picked.table[["latitude", "longitude"]], named.coordinates[picked.chosen])
    np.testing.assert_array_equal(picked.table["gain"], picked.gains)
    plain = select_sites(np.eye(3), None, 2)
    assert list(plain.table.columns) == ["site", "x0", "x1", "x2", "gain", "fill_distance"]
    assert plain.table["site"].tolist() == plain.chosen.tolist()


@pytest.mark.parametrize("criterion", ["k-centre", "greedy V"])
@pytest.mark.parametrize("cost", [False, True])
def test_budget_zero_is_an_empty_selection(criterion: str, cost: bool, rng: Any) -> None:
    problem = build("plane", rng)
    price = np.ones(12) if cost else None
    empty, one = (problem.select(budget, criterion=criterion, cost=price) for budget in (0, 1))
    assert empty.chosen.shape == empty.gains.shape == (0,)
    assert empty.expected_random == 0.0
    assert list(empty.table.columns) == list(one.table.columns)


@MAY_STOP
@pytest.mark.parametrize("criterion", ["k-centre", "greedy V"])
def test_select_is_the_same_grammar(criterion: str, rng: Any) -> None:
    problem = build("plane", rng)
    one = problem.select(4, criterion=criterion)
    places = SiteCandidates(problem.candidates, None, problem.target, problem.share)
    for other in (
        select(places, problem.posterior, 4, criterion=criterion),
        select_sites(places, problem.posterior, 4, criterion=criterion),
    ):
        np.testing.assert_array_equal(one.chosen, other.chosen)
        np.testing.assert_array_equal(one.gains, other.gains)
        assert one.expected_random == other.expected_random
    bare = SiteCandidates(problem.candidates)
    given = select_sites(bare, problem.posterior, 1, criterion=criterion, target=problem.target)
    assert len(given.chosen) == 1


@MAY_STOP
def test_order_of_the_candidates_does_not_matter(rng: Any) -> None:
    problem = build("globe", rng, basis=4)
    turn = rng.permutation(12)
    for criterion in ("k-centre", "greedy V"):
        one = problem.select(4, criterion=criterion)
        other = select_sites(
            taken(problem.candidates, turn),
            problem.posterior,
            4,
            criterion=criterion,
            target=problem.target,
            target_weights=problem.share,
        )
        np.testing.assert_array_equal(one.chosen, turn[other.chosen])
        np.testing.assert_allclose(one.gains, other.gains, rtol=1e-7, atol=1e-12)


@MAY_STOP
def test_arrays_live_where_the_other_sites_do(rng: Any) -> None:
    problem = build("date line", rng)
    given = [each.coordinates for each in (problem.candidates, problem.target)]
    picked = select_sites(given[0], problem.posterior, 3, target=given[1], target_weights=problem.share)
    np.testing.assert_array_equal(picked.chosen, problem.select(3).chosen)
    bare = select_sites(given[0], None, 3, existing=problem.existing, target=given[1])
    np.testing.assert_array_equal(bare.chosen, problem.select(3, criterion="k-centre").chosen)


GRID = np.stack(np.meshgrid(np.arange(3.0), np.arange(3.0)), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 10}, "between 0 and the 9 candidates"),
        ({"budget": 2.5}, "whole number"),
        ({"budget": float("nan")}, "whole number"),
        ({"criterion": "best"}, r"criterion must be one of .*k-centre"),
        ({"criterion": "D-optimal (published)"}, "criterion must be one of"),
        ({"criterion": PublishedD()}, "for pairs only"),
        ({"criterion": "greedy V"}, "posterior is None"),
        ({"criterion": GreedyV()}, "posterior is None"),
        ({"candidates": np.empty((0, 2))}, "candidates is empty"),
        ({"candidates": np.arange(3.0)}, r"candidates must have shape \[n, d\]"),
        ({"candidates": GRID * np.nan}, "NaN"),
        ({"existing": [[0.0, 0.0, 0.0]]}, "2 and 3 coordinates"),
        ({"target": [[0.0]]}, "2 and 1 coordinates"),
        ({"target": Sites([[0.0, 0.0]], "sphere"), "existing": Sites([[0.0, 0.0]])}, "different metrics"),
        ({"target_weights": np.ones(3)}, "needs 9 numbers"),
        ({"target": [[0.0, 0.0]], "target_weights": [-1.0]}, "none negative"),
        ({"cost": np.ones(3), "budget": 1.0}, "9 positive numbers"),
        ({"cost": np.zeros(9), "budget": 1.0}, "9 positive numbers"),
        ({"cost": np.ones(9), "budget": -1.0}, "negative"),
        ({"exclude": [9]}, r"exclude must be positions in \[0, 9\)"),
        ({"exclude": [-1]}, "exclude must be positions"),
        ({"exclude": [0.5]}, "exclude must be positions"),
        ({"exclude": [True, False]}, "exclude must be positions"),
        ({"exclude": np.arange(9)}, "exclude leaves none"),
        ({"candidates": SiteCandidates(GRID), "existing": GRID}, "belong to SiteCandidates"),
        ({"candidates": SiteCandidates(GRID, target=GRID), "target": GRID}, "given twice"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {"candidates": GRID, "posterior": None, "budget": 2} | arguments
    with pytest.raises(ValueError, match=message):
        select_sites(call.pop("candidates"), call.pop("posterior"), call.pop("budget"), **call)


def test_posteriors_that_do_not_fit(rng: Any) -> None:
    problem = build("plane", rng, "log-normal")
    with pytest.raises(ValueError, match=r"2 candidate site\(s\) lie outside the box"):
        select_sites([[0.0, 0.0], [90.0, 0.0], [0.0, -90.0]], problem.posterior, 1, target=problem.target)
    with pytest.raises(ValueError, match="1 coordinates, the surface 2"):
        select_sites([[0.0]], problem.posterior, 1)
    foreign = SampledPosterior("nuts", Context(print, ()), {}, {}, {})
    with pytest.raises(ValueError, match="not of a LossSurface"):
        select_sites(GRID, foreign, 1)
    context = Context(problem.model, None, {}, x64=True)
    loaded = SampledPosterior("nuts", context, {}, problem.posterior.samples, {})
    with pytest.raises(ValueError, match="pass existing="):
        select_sites(problem.candidates, loaded, 1)
    with pytest.raises(ValueError, match="mean of the surface needs"):
        select_sites(problem.candidates, loaded, 1, existing=problem.existing)
    exact = build("plane", rng, basis=0)
    with pytest.raises(ValueError, match="2,001 candidates are too many for the exact process"):
        select_sites(draw("plane", 2_001, rng), exact.posterior, 1)


def test_criteria_for_sites_refuse_pairs(rng: Any) -> None:
    items = Items(rng.standard_normal((5, 2)))
    with pytest.raises(ValueError, match="for sites only"):
        select(PairCandidates(items, candidate_pairs(items, "all")), None, 1, criterion=KCentre())
    fit = laplace(BradleyTerry(LinearHead(1.0)), items, Comparisons([0], [1], [1]))
    with pytest.raises(ValueError, match=r"criterion must be one of \['BALD"):
        select_pairs(items, fit, 1, criterion="k-centre")
