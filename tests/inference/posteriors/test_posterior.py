"""Posteriors as pytrees, and the data of a fit by name."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from tercet.inference import laplace
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import SiteGaussian, UnconstrainedGaussian
from tercet.inference.posteriors.sampled import SampledPosterior
from tercet.models import AbilityHead, BradleyTerry, Comparisons, Items, Sites, Snapshots

ITEMS = Items.named("abc")
GAMES = Comparisons([0, 0, 1], [1, 2, 2], [1.0, 1.0, 0.0])


def positive(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.sample("y", dist.Poisson(rate), obs=y)


def site_gaussian():
    return laplace(BradleyTerry(AbilityHead(1.0)), ITEMS, GAMES)


def unconstrained_gaussian():
    return laplace(positive, 3)


def sampled_posterior():
    rng = np.random.default_rng(0)
    context = Context(BradleyTerry(AbilityHead(1.0)), (ITEMS, GAMES))
    samples, statistics = {"ability": rng.normal(size=(2, 5, 3))}, {"diverging": np.zeros((2, 5), bool)}
    return SampledPosterior("nuts", context, {"converged": True, "r_hat": 1.25}, samples, statistics)


@pytest.mark.parametrize("through", [lambda fit: jax.tree.map(lambda leaf: leaf, fit), jax.jit(lambda fit: fit)])
@pytest.mark.parametrize("make", [site_gaussian, unconstrained_gaussian, sampled_posterior])
def test_posteriors_are_pytrees(make, through):
    """`jax.tree.map` and `jax.jit` give back the class, the numbers and what is no number."""
    fit = make()
    again = through(fit)
    assert type(again) is type(fit)
    assert again.kind == fit.kind
    assert again.context is fit.context
    assert jax.tree.structure(again) == jax.tree.structure(fit)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(fit), strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(again.diagnostics) == set(fit.diagnostics)
    again = jax.tree.map(np.asarray, again)
    for site, values in fit.draws(4, key=1).items():
        np.testing.assert_allclose(again.draws(4, key=1)[site], values)
    for site, value in fit.mean().items():
        np.testing.assert_allclose(again.mean()[site], value)


def test_a_posterior_is_an_argument_of_a_compiled_function():
    """A shifted Gaussian by tree_map; a number of its center by jit."""
    fit = site_gaussian()
    assert isinstance(fit, SiteGaussian)
    assert float(jax.jit(lambda p: p.center[0] - p.center[1])(fit)) == pytest.approx(fit.center[0] - fit.center[1])
    doubled = jax.tree.map(lambda leaf: 2 * leaf, fit)
    np.testing.assert_array_equal(doubled.unravel(doubled.center)["ability"], 2 * fit.center)
    assert isinstance(unconstrained_gaussian(), UnconstrainedGaussian)


class OwnItems(Items):
    """A class of the user's own."""


def with_data(model, *args, **kwargs):
    return SiteGaussian("laplace", Context(model, args, kwargs), {}, np.zeros(1), np.eye(1), (("z", 0),))


def test_the_data_of_a_fit_by_name():
    """By position or by keyword, subclasses included; None where the model has no such data."""
    own = OwnItems(np.eye(3))
    for fit in (
        with_data(BradleyTerry(), own, GAMES),
        with_data(BradleyTerry(), items=own, comparisons=GAMES),
        with_data(lambda comparisons, items: None, GAMES, own),
    ):
        assert (fit.items is own, fit.comparisons is GAMES) == (True, True)
        assert fit.snapshots is fit.sites is fit.losses is None
    snapshots = Snapshots(np.zeros((2, 3, 1)), [0.0, 1.0])
    fit = with_data(lambda snapshots: None, snapshots)
    assert fit.snapshots is snapshots
    assert fit.items is fit.comparisons is fit.sites is fit.losses is None

    def surface(sites, losses=None):
        return None

    sites, losses = Sites(np.zeros((4, 2))), np.arange(4.0)
    for fit in (with_data(surface, sites, losses), with_data(surface, sites, losses=losses)):
        assert (fit.model is surface, fit.sites is sites, fit.losses is losses) == (True, True, True)
        assert fit.items is fit.comparisons is fit.snapshots is None
    bare = with_data(surface, np.zeros((4, 2)))
    assert isinstance(bare.sites, np.ndarray)
    assert bare.losses is None


def test_without_its_data_a_posterior_has_none():
    context = Context(BradleyTerry(), None)
    fit = SiteGaussian("laplace", context, {}, np.zeros(1), np.eye(1), (("z", 0),))
    assert fit.model == BradleyTerry()
    assert fit.items is fit.comparisons is fit.snapshots is fit.sites is fit.losses is None
    assert SiteGaussian("laplace", Context(None, None), {}, np.zeros(1), np.eye(1), (("z", 0),)).model is None
