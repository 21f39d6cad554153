"""The log posterior of a linear form: its gradient and precision."""

import numpy as np
import pytest

from tercet.models import AbilityHead, BradleyTerry, Comparisons, Items, LinearHead, Thurstone

N, M, DIM = 9, 60, 4


@pytest.fixture
def pairs(rng):
    first = rng.integers(N, size=M)
    return first, (first + rng.integers(1, N, size=M)) % N


@pytest.mark.parametrize("model", [BradleyTerry(LinearHead(2.0), order_effect=True), Thurstone(AbilityHead(np.inf))])
def test_gradient_and_precision_are_derivatives(model, pairs, rng):
    """Central differences of the log posterior and of its gradient."""
    comparisons = Comparisons(*pairs, rng.random(M), weight=rng.random(M) + 0.5)
    form = model.linear_form(Items(rng.normal(size=(N, DIM))), comparisons)
    theta = 0.5 * rng.normal(size=len(form.prior_precision))
    _, gradient, eta = form.value_and_gradient(theta)
    steps = 1e-5 * np.eye(len(theta))
    up, down = ([form.value_and_gradient(theta + sign * s) for s in steps] for sign in (1, -1))
    numeric = np.array([(a[0] - b[0]) / 2e-5 for a, b in zip(up, down, strict=True)])
    np.testing.assert_allclose(gradient, numeric, atol=1e-6)
    hessian = np.array([(b[1] - a[1]) / 2e-5 for a, b in zip(up, down, strict=True)])
    np.testing.assert_allclose(form.precision(theta, eta), hessian, atol=1e-6)
