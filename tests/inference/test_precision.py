"""64 and 32 bit: exact results do not depend on the user's setting, nor change it."""

import jax
import numpy as np
import pytest

from tercet.datasets import simulated_preferences
from tercet.inference import laplace, nuts, reward, svi, win_probability
from tercet.models import BradleyTerry, Davidson, LinearHead, Thurstone

SETTINGS = {"warmup": 200, "samples": 200, "chains": 4}


def data():
    truth = simulated_preferences(15, 3, 120, key=2)
    return truth.items, truth.comparisons


def quiet_nuts(model, *args):
    """Short chains that may fall short of the R-hat this package asks for."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the chains have not converged")
        return nuts(model, *args, **SETTINGS)


@pytest.mark.precision
@pytest.mark.parametrize("model", [BradleyTerry(), Thurstone(LinearHead(1.0)), Davidson(LinearHead(1.0))], ids=str)
def test_laplace_is_the_same_in_either_precision_and_leaves_it(model, bits):
    before = jax.numpy.ones(1).dtype
    fit = laplace(model, *data())
    assert jax.numpy.ones(1).dtype == before == np.dtype(f"float{bits}")
    with jax.enable_x64(True):
        other = laplace(model, *data())
    np.testing.assert_array_equal(fit.center, other.center)
    np.testing.assert_array_equal(fit.precision_factor, other.precision_factor)
    assert fit.center.dtype == np.float64
    for name, values in fit.draws(5).items():
        assert values.dtype == np.float64, name
    np.testing.assert_array_equal(reward(fit, data()[0]).mean, reward(other, data()[0]).mean)
    assert jax.numpy.ones(1).dtype == before


@pytest.mark.precision
def test_nuts_runs_in_the_precision_of_the_user(bits):
    """Same posterior as Laplace's within a third of a standard deviation."""
    items, answers = data()
    exact = laplace(BradleyTerry(LinearHead(1.0)), items, answers)
    fit = quiet_nuts(BradleyTerry(LinearHead(1.0)), items, answers)
    assert fit.samples["weights"].dtype == np.dtype(f"float{bits}")
    assert np.isfinite(fit.log_density(fit.draws(5))).all()
    gap = np.abs(fit.mean()["weights"] - exact.center) / np.sqrt(np.diag(exact.root @ exact.root.T))
    assert (gap < 0.33).all()
    pairs = [[0, 1], [2, 3]]
    assert np.abs(win_probability(fit, items, pairs) - win_probability(exact, items, pairs)).max() < 0.05


@pytest.mark.precision
def test_svi_runs_in_the_precision_of_the_user(bits):
    fit = svi(BradleyTerry(LinearHead(1.0)), *data(), steps=200)
    assert np.isfinite(fit.log_density(fit.draws(5))).all()


@pytest.mark.precision
def test_precisions_take_turns_on_the_same_arrays(bits):
    """Regression: JAX once kept what it compiled under 64 bit for NumPy arrays and gave it to 32-bit code."""
    items, answers = data()
    model = BradleyTerry(LinearHead(1.0))
    first = laplace(lambda *args: model(*args), items, answers)
    chains = quiet_nuts(model, items, answers)
    chains.log_likelihood(chains.draws(3))
    again = laplace(lambda *args: model(*args), items, answers)
    np.testing.assert_array_equal(first.center, again.center)
    first.log_likelihood(first.draws(3))
    assert np.isfinite(chains.log_density(chains.draws(3))).all()
