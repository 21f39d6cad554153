"""`minimise` against closed forms: quadratics in any units, bounds, limits, regions without a finite value."""

import numpy as np
import pytest
import scipy.optimize

from tercet.inference.posteriors.minimise import minimise

UNITS = [1e-3, 1.0, 1e3]
TIGHT = {"value_tolerance": 0.0, "gradient_tolerance": 1e-12}


@pytest.fixture
def quadratic(rng):
    """(z - m)' H (z - m) / 2 with a well conditioned H, as objective, and m and H."""
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    hessian = basis @ np.diag([0.5, 1.0, 2.0, 3.0, 5.0]) @ basis.T
    mode = rng.normal(size=5)

    def objective(z):
        return 0.5 * (z - mode) @ hessian @ (z - mode), hessian @ (z - mode)

    return objective, mode, hessian


def in_units(objective, unit):
    """The same function of z / unit."""

    def rescaled(z):
        value, gradient = objective(z / unit)
        return value, gradient / unit

    return rescaled


@pytest.mark.parametrize("unit", UNITS)
def test_a_quadratic_has_its_minimum_in_any_units(quadratic, unit):
    objective, mode, _ = quadratic
    solution = minimise(in_units(objective, unit), np.zeros(5), **{**TIGHT, "gradient_tolerance": 1e-10 / unit})
    assert solution.converged
    np.testing.assert_allclose(solution.point, unit * mode, atol=1e-8 * unit)
    assert solution.value == pytest.approx(0.0, abs=1e-12)
    assert solution.gradient_norm == np.abs(solution.gradient).max()
    assert solution.gradient_norm <= 1e-10 / unit
    assert solution.reason == "the gradient is within the tolerance"


@pytest.mark.parametrize("unit", UNITS)
def test_a_root_changes_the_units_and_not_the_search(quadratic, unit):
    """In the units of R both searches take the same steps; with R R' the inverse Hessian one step is nearly enough."""
    objective, mode, hessian = quadratic
    plain = minimise(objective, np.ones(5), **TIGHT)
    scaled = minimise(in_units(objective, unit), np.full(5, unit), root=unit * np.eye(5), **TIGHT)
    np.testing.assert_allclose(scaled.point, unit * plain.point, rtol=1e-8, atol=1e-9 * unit)
    assert abs(scaled.steps - plain.steps) <= 1
    root = unit * np.linalg.inv(np.linalg.cholesky(hessian)).T
    whitened = minimise(in_units(objective, unit), np.zeros(5), root=root, **TIGHT)
    np.testing.assert_allclose(whitened.point, unit * mode, atol=1e-8 * unit)
    assert whitened.steps <= 3


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("root", [False, True])
def test_the_decrement_has_no_units(quadratic, unit, root):
    """It is near sqrt(g' H^-1 g) = sqrt(2 f), and the same in any units where the searches are."""
    objective, mode, hessian = quadratic
    whitening = np.linalg.inv(np.linalg.cholesky(hessian)).T

    def search(scale):
        options = {"root": scale * whitening} if root else {}
        return minimise(in_units(objective, scale), scale * (mode + 0.1), value_tolerance=1e-4, **options)

    one, other = search(1.0), search(unit)
    exact = np.sqrt(other.gradient @ np.linalg.solve(hessian / unit**2, other.gradient))
    assert exact == pytest.approx(np.sqrt(2.0 * other.value), rel=1e-6, abs=1e-12)
    assert other.decrement == pytest.approx(exact, rel=1e-6 if root else 1.5, abs=1e-9)
    if root:  # the same search
        assert other.decrement == pytest.approx(one.decrement, rel=1e-6, abs=1e-9)


def test_bounds_hold_and_move_the_start_inside(quadratic):
    """The minimum of a separable quadratic in a box is the clipped one; there is no decrement with bounds."""
    mode, seen = np.array([2.0, -3.0, 0.5]), []

    def objective(z):
        seen.append(z.copy())
        return 0.5 * np.square(z - mode).sum(), z - mode

    bounds = np.array([[-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]])
    solution = minimise(objective, np.full(3, 50.0), bounds=bounds)
    np.testing.assert_allclose(solution.point, np.clip(mode, -1.0, 1.0), atol=1e-8)
    assert np.abs(seen).max() <= 1.0
    assert solution.converged
    assert np.isnan(solution.decrement)
    with pytest.raises(ValueError, match="without root"):
        minimise(objective, np.zeros(3), bounds=bounds, root=np.eye(3))


def test_a_search_that_is_cut_short_has_not_converged():
    """Rosenbrock's valley from its classical start needs some thirty steps."""
    objective = scipy.optimize.rosen, scipy.optimize.rosen_der
    start = np.array([-1.2, 1.0])

    def both(z):
        return objective[0](z), objective[1](z)

    short = minimise(both, start, max_steps=3)
    assert (short.steps, short.converged) == (3, False)
    assert short.reason.startswith("the limit of steps (3)")
    whole = minimise(both, start)
    assert whole.converged
    np.testing.assert_allclose(whole.point, 1.0, atol=1e-5)
    assert short.value > whole.value


def test_it_stops_where_ten_steps_gain_less_than_asked():
    start = np.array([-1.2, 1.0])

    def both(z):
        return scipy.optimize.rosen(z), scipy.optimize.rosen_der(z)

    visited = []
    solution = minimise(both, start, stop_below=3.5, callback=lambda z: visited.append(scipy.optimize.rosen(z)))
    assert solution.converged
    assert solution.reason == "the last 10 steps lowered the value by less than stop_below"
    assert len(visited) == solution.steps
    assert visited[-11] - visited[-1] < 3.5
    assert all(visited[k - 10] - visited[k] >= 3.5 for k in range(10, len(visited) - 1))
    assert solution.steps < minimise(both, start).steps


@pytest.mark.parametrize("offset", [0.0, 1e13])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_region_without_a_finite_value_turns_the_search_back(bad, offset):
    """-log z + z has its minimum at 1; from 0.01 the first step goes below zero, where there is no value.

    Also where finite values are themselves very large.
    """
    outside = []

    def objective(z):
        if z[0] <= 0.0:
            outside.append(float(z[0]))
            return bad, np.full(1, bad)
        return z[0] - np.log(z[0]) + offset, 1.0 - 1.0 / z

    solution = minimise(objective, np.array([30.0]), value_tolerance=0.0, root=np.array([[100.0]]))
    assert outside
    assert solution.point[0] > 0.0
    assert np.isfinite(solution.value)
    if not offset:
        assert solution.converged
        assert solution.point[0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        lambda z: (np.nan, np.zeros(2)),
        lambda z: (0.0, np.array([0.0, np.inf])),
    ],
    ids=["value", "gradient"],
)
def test_where_nothing_is_finite_there_is_no_minimum(objective):
    solution = minimise(objective, np.ones(2))
    assert solution.value == np.inf
    assert not solution.converged
    assert np.isnan(solution.decrement)
    assert solution.reason == "the objective is not finite"


def test_an_exception_of_the_callback_reaches_the_caller(quadratic):
    calls = []

    def interrupted(z):
        calls.append(z)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimise(quadratic[0], np.zeros(5), callback=interrupted)
    assert len(calls) == 1


def test_a_gradient_that_is_wrong_is_told():
    """Against its slope no step lowers the value."""
    solution = minimise(lambda z: (float(z.sum()), -np.ones(2)), np.zeros(2))
    assert not solution.converged
    assert solution.reason == "no step along the search direction lowers the objective by more than rounding"
