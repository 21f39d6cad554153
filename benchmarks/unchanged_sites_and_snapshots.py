"""Results of space, trajectories and data sets for `unchanged.py`."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from numpyro.infer.util import log_density
from unchanged_results import RESULTS, Tree, believed, pick, result, t, tercet_name

from tercet.datasets.motion import Motion

THETA = {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1, "volatility": 0.1}


@cache
def labelled() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels that crowd in a corner of the square, a grid of test sites, losses, and two covariates."""
    rng = np.random.default_rng(8)
    sites, line = rng.beta(1, 2, (60, 2)), np.linspace(0.05, 0.95, 6)
    losses = np.exp(np.sin(4 * sites[:, 0]) + sites[:, 1] + 0.3 * rng.normal(size=60))
    return sites, np.stack(np.meshgrid(line, line), -1).reshape(-1, 2), losses, rng.normal(size=(60, 2))


def spaces() -> Tree:
    """Labels and grid, in the plane and on the sphere."""
    places = labelled()[:2]
    return {"plane": places, "sphere": [t.Sites([[40, 170]] + each * [10, 20], "sphere") for each in places]}


@cache
def surface(family: str, **options: Any) -> Any:
    """A Laplace fit of a loss surface."""
    sites, places, losses, _ = labelled()
    return t.laplace(t.LossSurface.around(losses, sites, places, family=family, **options), sites, losses)


def of_surface(family: str, basis: int) -> Tree:
    """What a surface says of the grid."""
    places, fit = labelled()[1], surface(family, basis=basis)
    risk = t.surface_risk(fit, places, draws=20, test_weights=np.arange(36.0), key=1)
    return pick(risk, "draws surface estimate standard_error") | {
        "fit": believed(fit), "interval": risk.interval(0.8), "expected": t.expected_losses(fit, places, 20, key=2),
        "steepness": t.lipschitz_constant(fit, places, draws=20, key=3),
    }  # fmt: skip


for _family, _basis in (("normal", 6), ("gamma", 3), ("log-normal", 0)):
    RESULTS[f"space/surface {_family}, basis {_basis}"] = partial(of_surface, _family, _basis)


def risk_numbers(risk: Any) -> Tree:
    """Everything a risk says."""
    names = "estimate weights standard_error k mean_distance max_distance lipschitz noise_term"
    names += " loss_bound delta limits bound_terms"
    return pick(risk, names + " bias bound") | {"interval": risk.interval(0.8)}


@result("space/risks")
def _() -> Tree:
    (_, _, losses, _), steep, found = labelled(), {"lipschitz": 8.0, "loss_bound": 12.0}, {}
    for space, pair in spaces().items():
        given = losses, *pair
        found[space] = [risk_numbers(risk) for risk in (
            t.holdout_risk(*given), t.weighted_holdout_risk(*given), t.snn_risk(*given, **steep),
            t.weighted_holdout_risk(*given, ratio="classifier", key=1),
            t.nearest_neighbour_risk(*given, lipschitz=8.0, test_weights=np.arange(36.0)),
            t.snn_risk(*given, delta=0.1, published=True, **steep))]  # fmt: skip
        found[f"{space}, distances"] = t.fill_distance(*pair), t.distances(*pair)[:3]
    return found


@result("space/sampling_variability, compare_risks, pointwise_losses, infill_check")
def _() -> Tree:
    sites, places, losses, _ = labelled()
    snn, call = partial(t.snn_risk, lipschitz=8.0), {"multiples": (1, 2, 4, 8), "repeats": 3, "key": 1}
    return {
        "again": t.sampling_variability(snn(losses, sites, places), losses, sites, draws=50, key=1).draws,
        "models": t.compare_risks({"a": losses, "b": losses[::-1]}, sites, places, snn),
        "losses": t.pointwise_losses(losses, losses[::-1], "absolute", bound=2.0),
        "infill": t.infill_check({"holdout": t.holdout_risk, "SNN": snn}, sites[:20], places, **call),
    }  # fmt: skip


@result("space/splitters")
def _() -> Tree:
    found = {}
    for space, (here, there) in spaces().items():
        near = 0.1 if space == "plane" else 200.0
        ways = (t.SpatialBlocks(here, 3, buffer=near / 4, key=1), t.BufferedLeaveOneOut(here, near, most=5, key=1),
                t.NearestNeighbourMatching(here, there, 3, key=1))  # fmt: skip
        found[space] = [list(way.split()) for way in ways]
    return found


@result("space/geographically_weighted_regression")
def _() -> Tree:
    sites, places, losses, covariates = labelled()
    plain = t.geographically_weighted_regression(sites, None, losses, neighbours=20)
    chosen = t.geographically_weighted_regression(sites, covariates, losses)
    ahead = {"plain": plain.predict(places), "chosen": chosen.predict(places, np.ones((36, 2)))}
    return ahead | pick(chosen, "neighbours leave_one_out")


@result("space/select_sites")
def _() -> Tree:
    sites, places, _, _ = labelled()
    (here, there), price = spaces()["sphere"], np.linspace(1, 2, 36)
    found = {
        "sphere": t.select_sites(there, None, 4, existing=here),
        "k-centre": t.select_sites(places, None, 4, existing=sites, target=places[::2], exclude=[0, 5]),
        "cost": t.select_sites(places, None, 6.0, existing=sites, cost=price),
        "gamma": t.select_sites(places, surface("gamma", basis=3), 3, target=places[:9]),
    }
    for name in ("greedy V", "greedy D", "posterior variance", "random"):
        call = {"criterion": name, "target": places, "target_weights": price, "key": 1}
        found[name] = t.select_sites(places, surface("normal", basis=6), 4, **call)
    return found


@cache
def hunted() -> tuple[Any, Any]:
    """Predators and prey, and four snapshots of twelve of them."""
    cells = t.lotka_volterra_snapshots(particles=12, times=range(4), step=0.05, key=1).snapshots
    return t.ReferenceSDE(t.lotka_volterra(), t.proportional_volatility()), cells


@cache
def potential(kind: str) -> Any:
    """The gradient of a potential for the same cells."""
    _, cells = hunted()
    field = t.gradient_field(cells.center, cells.scale, kind, width=3)
    return t.SnapshotModel(t.ReferenceSDE(field, t.constant_volatility()), anchor="consecutive")


@cache
def reference() -> Any:
    """The fit of the true family."""
    return t.fit_reference(t.SnapshotModel(hunted()[0]), hunted()[1], starts=2, key=1)


RESULTS["trajectories/fit_reference"] = lambda: believed(reference())


@result("trajectories/fit_reference, reference_mode, choose_reference of a potential")
def _() -> Tree:
    (_, cells), model = hunted(), potential("quadratic")
    rest = cells.take([0, 1, 3])  # the shapes of the choice, so that all is compiled once
    mode = t.reference_mode(model, rest, starts=2, key=1)
    choice = t.choose_reference({"quadratic": model}, cells, hold_out=[2], starts=2, key=1)
    fit = t.fit_reference(model, rest, starts=2, key=1)
    return {"fit": believed(fit), "choice": choice, "mode": pick(mode, "theta log_posterior agree converged")}


@result("trajectories/log density of snapshots")
def _() -> Tree:
    sde, cells = hunted()
    ways: list[Tree] = [{}, {"start": "summary"}, {"anchor": "consecutive"}, {"paths": 4, "path_steps": 3},
                        {"anchor": "consecutive", "jackknife": True}]  # fmt: skip
    theta = {site: jax.numpy.asarray(value) for site, value in THETA.items()}
    return {
        str(way): jax.jit(lambda z, model: log_density(model, (cells,), {}, z)[0], static_argnums=1)(theta, model)
        for way, model in ((way, t.SnapshotModel(sde, **way)) for way in ways)
    }


@result("trajectories/simulate every family")
def _() -> Tree:
    drifts = {
        "vortex": t.big_vortex(), "Lamb-Oseen": t.lamb_oseen(2), "springs": t.coupled_springs(2),
        "Lotka-Volterra": t.lotka_volterra(), "repressilator": t.repressilator(True),
        "sum": t.ornstein_uhlenbeck(1) + t.brownian(1), "neural": potential("mlp").sde.drift,
    }  # fmt: skip
    found = {}
    for name, drift in drifts.items():
        sde = t.ReferenceSDE(drift, t.diagonal_volatility(drift.dim, np.full(drift.dim, 0.1)))
        theta = {site: prior.sample(jax.random.key(2), ()) for site, prior in sde.priors.items()}
        found[name] = t.simulate(sde, theta, np.ones((3, drift.dim)), [0.0, 0.2, 0.5], step=0.1, key=1)
    return found


@result("trajectories/bridges")
def _() -> Tree:
    sde, cells = hunted()
    whole, ends, span = t.multimarginal_bridge(sde, THETA, cells), cells.particles[:2], {"start": 0.0, "stop": 1.0}
    one, times = t.sinkhorn_bridge(sde, THETA, *ends, **span, tolerance=1e-6), [0.5, 1.5, 3.0]
    return {
        "one": pick(one, "coupling f g objective"), "whole": [whole.chains(9, key=1), whole.objective],
        "paths": whole.paths(times, n=9, key=2), "bands": whole.bands(times, n=9, key=3),
        "marginal": whole.marginal(1.2, n=9, key=4), "objective": t.bridge_objective(sde, THETA, cells),
        "moments": t.conditioned_moments(sde, THETA, *ends, **span, times=[0.3, 0.6]),
        "walks": t.conditioned_paths(sde, THETA, *ends, **span, times=[0.3, 1.0], relinearise=1, key=5),
        "guided": t.guided_paths(sde, THETA, ends[0][0], ends[1][0], **span, n=20, steps=6, key=1),
        "epsilon": t.brownian_epsilon(0.5, 2.0),
    }  # fmt: skip


@result("trajectories/refine_reference")
def _() -> Tree:
    rng, found = np.random.default_rng(9), {}
    sde = t.ReferenceSDE(t.ornstein_uhlenbeck(1), t.constant_volatility(0.5))
    cells = t.Snapshots([rng.normal(2 - 2 * math.exp(-0.5 * k), 0.4, (15, 1)) for k in range(3)], [0.0, 0.5, 1.0])
    for method in ("alternate", "bridge"):
        call = {"method": method, "iterations": 2, "held_out": cells.take([1]), "key": 1}
        done = t.refine_reference(sde, cells, {"rate": [0.5], "level": [1.0]}, **call)
        found[method] = pick(done, "theta history converged")
    return found


@result("trajectories/forecast, linear_noise_check, drift_or_diffusion")
def _() -> Tree:
    ahead = t.forecast(reference(), [3.5, 4.0], particles=8, draws=4, from_snapshot=-1, step=0.1, key=1)
    apart = t.drift_or_diffusion(reference(), samples=2, key=1)
    return pick(apart, "directions drift_shift") | {
        "canonical_correlation": apart.canonical_correlation,
        "particles": ahead.particles, "bands": ahead.bands(), "mean": ahead.mean_bands(),
        "check": t.linear_noise_check(reference(), particles=20, key=1),
    }  # fmt: skip


@result("trajectories/distances, baselines, trajectory_table")
def _() -> Tree:
    cells = hunted()[1]
    clouds = {float(time): cloud + 0.1 for time, cloud in zip(cells.times, cells.particles, strict=True)}
    distances = (t.transport_plan, t.wasserstein, t.mmd_squared, t.sliced_wasserstein)
    return {
        "distances": [distance(cells.particles[0], cells.particles[1][:9]) for distance in distances],
        "table": t.trajectory_table(cells.take([1, 2]), {"mine": clouds}, train=cells.take([0, 3]), floor=cells),
        "floor": t.noise_floor(lambda key: {0.0: np.random.default_rng(key).normal(size=(5, 2))}, repeats=3, key=1),
        "between": [t.transport_midpoint(cells, 1.5), t.persistence(cells, 1.5)],
    }  # fmt: skip


@result("datasets/bundled")
def _() -> Tree:
    words, (teams, games) = t.word_valence(components=8), t.american_league_1987()
    names = list(words.items.names[:50]) + list(teams.names)
    games = [games.pairs, games.outcome, t.laplace(t.BradleyTerry(t.AbilityHead()), teams, games).center]
    return {"words": [words.items.features, words.mean_rating], "games": games, "names": names}


@result("datasets/simulated")
def _() -> Tree:
    kinds, call = ("double_well", "repressilator", "spring", "vortex"), {"times": [0.0, 0.5], "step": 0.25, "key": 1}
    motion = Motion(np.arange(20.0).reshape(10, 2), ("a", "b"), 0.1 * np.arange(10))
    items = t.simulated_prompts(4, 3, 5, truth="MLP", key=1).items
    return {
        "clouds": [tercet_name(f"{kind}_snapshots")(particles=4, **call).snapshots.particles for kind in kinds],
        "fields": [(part.sites.coordinates, part.covariates, part.response) for part in t.line_task(20, key=1)],
        "motion": t.motion_snapshots([motion] * 3, [0.0, 0.45], ["b"]).particles, "error": t.annotation_error(2.0),
        "rewards": [t.simulated_rewards(items, key=2), t.simulated_preferences(9, 3, 12, key=1).rewards],
    }  # fmt: skip
