"""Risks and surfaces over space wait for no compiler: programs allowed to a call, first, again, and with more sites."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from compilations import Allowed, programs_needed

from tercet.inference import (
    geographically_weighted_regression,
    laplace,
    lipschitz_constant,
    snn_risk,
    surface_risk,
    weighted_holdout_risk,
)
from tercet.inference.posteriors.problem import Problem
from tercet.inference.space import expected_losses
from tercet.models import LossSurface, Sites

SIZE = 34  # a size of no other test
TEST = np.random.default_rng(0).uniform(size=(20, 2))


def losses_at_sites(size, key):
    rng = np.random.default_rng([key, 7])
    sites = rng.uniform(size=(size, 2))
    return sites, np.exp(sites[:, 0] + 0.3 * rng.normal(size=size))


def on_the_sphere(size, key):
    sites, losses = losses_at_sites(size, key)
    return Sites(40 + 20 * sites, "sphere"), losses


def fitted(data, **options):
    sites, losses = data
    return laplace(LossSurface.around(losses, sites, family="log-normal", **options), sites, losses)


def basis(data):
    return fitted(data, basis=7)


def exact(data):
    return fitted(data, basis=0)


CALLS = {
    "laplace, basis": basis,
    "laplace, exact process": exact,
    "laplace, three dimensions": partial(fitted, basis=3),
    "mean, draws, evidence": lambda data: (basis(data).mean(), basis(data).draws(5), basis(data).importance_check(40)),
    "to_arviz": lambda data: basis(data).to_arviz(draws=40),
    "surface_risk, basis": lambda data: surface_risk(basis(data), TEST, draws=10),
    "expected_losses, exact process": lambda data: expected_losses(exact(data), TEST, draws=10),
    "lipschitz_constant": lambda data: lipschitz_constant(basis(data), TEST, draws=10),
    "weighted_holdout_risk": lambda data: weighted_holdout_risk(data[1], data[0], TEST),
    "snn_risk": lambda data: snn_risk(data[1], data[0], TEST, lipschitz=3.0, loss_bound=20.0).interval(),
    "geographically_weighted_regression": lambda data: geographically_weighted_regression(
        data[0], None, data[1], neighbours=9
    ).predict(TEST),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_compiled(name):
    data = on_the_sphere if "three" in name else losses_at_sites
    # To name the dimensions of a site ArviZ's container has NumPyro trace the model once.
    assert programs_needed(CALLS[name], data, SIZE) == Allowed(0, 0, 0), name


@pytest.mark.parametrize(
    ("family", "basis", "same", "other"),
    [
        ("log-normal", 4, 500, None),  # a summary is all that is read: any number of sites
        ("normal", 0, 60, 70),  # a class of 64
        ("gamma", 4, 60, 70),
        ("student", 0, 34, 35),  # the process has an entry for each site
    ],
)
def test_programs_serve_other_data(family, basis, same, other):
    """Chains and SVI call these programs: equal ones for other data, another frame, another spread, more sites."""

    def programs(size, key):
        sites, losses = losses_at_sites(size, key)
        return Problem(LossSurface.around(losses, sites, family=family, basis=basis), (sites, losses)).programs

    first = programs(SIZE, 0)
    assert programs(SIZE, 1) is first
    assert programs(same, 2) is first
    assert other is None or programs(other, 3) is not first
