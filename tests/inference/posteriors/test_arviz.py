"""What ArviZ does with the container of independent draws, on whichever of its two lines is installed."""

from importlib.metadata import version

import matplotlib
import numpy as np
import pytest

from tercet.inference.posteriors import arviz_adapter

LEGACY = int(version("arviz").split(".")[0]) < 1
legacy_only = pytest.mark.skipif(not LEGACY, reason="ArviZ 0.23 only")
modern_only = pytest.mark.skipif(LEGACY, reason="ArviZ 1.x only")

CHAINS, DRAWS, COMPARISONS = 4, 250, 40
COORDS = {
    "feature": np.arange(8),
    "item": ["ant", "bee", "cat", "dog", "eel"],
    "comparison": np.arange(COMPARISONS),
}
DIMS = {"weights": ["feature"], "ability": ["item"], "outcome": ["comparison"]}

matplotlib.use("Agg")


def synthetic(seed, scale=0.1):
    """Make the groups of a logistic choice model from independent draws, cut into chains."""
    rng = np.random.default_rng(seed)
    data = np.random.default_rng(0)
    differences = data.normal(size=(COMPARISONS, 8))
    truth = data.normal(size=8)
    outcome = (data.uniform(size=COMPARISONS) < 1 / (1 + np.exp(-differences @ truth))).astype(np.int64)
    weights = truth + scale * rng.normal(size=(CHAINS, DRAWS, 8))
    probability = 1 / (1 + np.exp(-weights @ differences.T))
    log_q = rng.normal(size=(CHAINS, DRAWS))
    return {
        "posterior": {
            "weights": weights,
            "bias": rng.normal(size=(CHAINS, DRAWS)),
            "ability": rng.normal(size=(CHAINS, DRAWS, 5)),
        },
        "sample_stats": {"log_p": log_q + 0.1 * rng.normal(size=(CHAINS, DRAWS)), "log_q": log_q},
        "log_likelihood": {"outcome": np.log(np.where(outcome == 1, probability, 1 - probability))},
        "posterior_predictive": {"outcome": (rng.uniform(size=probability.shape) < probability).astype(np.int64)},
        "observed_data": {"outcome": outcome},
        "prior": None,
        "constant_data": {},
    }


@pytest.fixture(scope="module")
def container():
    return arviz_adapter.to_container(synthetic(1), COORDS, DIMS)


@pytest.fixture
def az():
    import arviz
    import matplotlib.pyplot as plt

    yield arviz
    plt.close("all")


def group_names(container):
    return set(container.groups()) if LEGACY else set(container.children)


def test_container_has_the_groups_that_hold_something(container):
    assert group_names(container) == {
        "posterior",
        "sample_stats",
        "log_likelihood",
        "posterior_predictive",
        "observed_data",
    }


def test_container_names_every_dimension(container):
    posterior = container["posterior"]
    assert posterior["weights"].dims == ("chain", "draw", "feature")
    assert posterior["ability"].dims == ("chain", "draw", "item")
    assert posterior["bias"].shape == (CHAINS, DRAWS)
    assert list(posterior["item"].values) == COORDS["item"]
    assert container["log_likelihood"]["outcome"].dims == ("chain", "draw", "comparison")
    assert container["observed_data"]["outcome"].dims == ("comparison",)
    assert float(posterior["ability"].sel(item="cat", chain=2, draw=7)) == synthetic(1)["posterior"]["ability"][2, 7, 2]


@pytest.mark.parametrize("group", ["log_prior", "unconstrained_posterior", "sample_stats_prior"])
def test_container_keeps_groups_off_the_beaten_track(group):
    draws = np.random.default_rng(0).normal(size=(CHAINS, DRAWS, 8))
    made = arviz_adapter.to_container({**synthetic(1), group: {"weights": draws}}, COORDS, DIMS)
    assert group in group_names(made)
    assert made[group]["weights"].dims == ("chain", "draw", "feature")
    np.testing.assert_array_equal(made[group]["weights"].values, draws)


def test_container_refuses_a_variable_named_like_a_dimension():
    with pytest.raises(ValueError, match=r"\['item'\] are both variables and dimensions"):
        arviz_adapter.to_container({"posterior": {"item": np.zeros((4, 10, 5))}}, COORDS, {"item": ["item"]})


def test_container_holds_numpy_arrays_of_jax_arrays():
    import jax.numpy as jnp

    made = arviz_adapter.to_container({"posterior": {"weights": jnp.ones((4, 10, 8))}}, COORDS, DIMS)
    assert type(made["posterior"]["weights"].data) is np.ndarray


def test_container_without_coords_and_dims():
    made = arviz_adapter.to_container({"posterior": {"bias": np.zeros((4, 10))}})
    assert made["posterior"]["bias"].shape == (4, 10)


def test_netcdf_round_trip(container, az, tmp_path):
    container.to_netcdf(str(tmp_path / "fit.nc"))
    again = az.from_netcdf(str(tmp_path / "fit.nc"))
    assert group_names(again) == group_names(container)
    for group in group_names(container):
        for name, values in container[group].data_vars.items():
            np.testing.assert_array_equal(again[group][name].values, values.values)
    assert list(again["posterior"]["item"].values) == COORDS["item"]


def test_summary_is_the_same_table_on_both_lines(container):
    table = arviz_adapter.summary(container)
    assert list(table.columns) == ["mean", "sd", "eti90_lb", "eti90_ub"]
    assert list(table.index[:1]) == ["weights[0]"]
    assert {"bias", "ability[cat]"} <= set(table.index)
    assert len(table) == 14
    bias = synthetic(1)["posterior"]["bias"]
    expected = [bias.mean(), bias.std(ddof=1), np.quantile(bias, 0.05), np.quantile(bias, 0.95)]
    np.testing.assert_allclose(table.loc["bias"].to_numpy(float), expected, rtol=1e-10)
    assert set(arviz_adapter.summary(container, ["bias"], 0.5).columns) == {
        "mean",
        "sd",
        "eti50_lb",
        "eti50_ub",
    }


def test_az_summary(container, az):
    table = az.summary(container)
    assert len(table) == 14
    assert np.all(np.asarray(table["r_hat"], dtype=float) < 1.02)


def test_loo(container, az):
    result = az.loo(container, pointwise=True)
    assert result.pareto_k.shape == (COMPARISONS,)
    assert result.n_data_points == COMPARISONS


def test_compare(container, az):
    worse = arviz_adapter.to_container(synthetic(2, scale=0.2), COORDS, DIMS)
    table = az.compare({"narrow": container, "wide": worse})
    assert list(table.index) == ["narrow", "wide"]


@pytest.mark.parametrize(
    "name",
    [
        "plot_trace",
        "plot_forest",
        "plot_rank",
        "plot_ess",
        "plot_autocorr",
        pytest.param("plot_posterior", marks=legacy_only),
        pytest.param("plot_dist", marks=modern_only),
    ],
)
def test_plot(container, az, name):
    assert getattr(az, name)(container, var_names=["bias", "ability"]) is not None


def test_plot_pair(container, az):
    assert az.plot_pair(container, var_names=["ability"], coords={"item": ["ant", "bee", "cat"]}) is not None


def test_plot_khat(container, az):
    assert az.plot_khat(az.loo(container, pointwise=True)) is not None


@modern_only
def test_plot_ppc_pava(container, az):
    assert az.plot_ppc_pava(container) is not None


@modern_only
def test_loo_approximate_posterior(container, az):
    stats = container["sample_stats"]
    result = az.loo_approximate_posterior(container, stats["log_p"], stats["log_q"], pointwise=True)
    assert result.approx_posterior
    assert result.pareto_k.shape == (COMPARISONS,)
    assert abs(float(result.elpd) - float(az.loo(container).elpd)) < 1


def test_khat_is_the_shape_of_the_tail():
    """Weights u^-k of uniform u have a Pareto tail of shape k."""
    u = (np.arange(4000) + 0.5) / 4000
    estimates = [arviz_adapter.psis_khat(-k * np.log(u)) for k in (0.2, 0.5, 0.9)]
    np.testing.assert_allclose(estimates, [0.2, 0.5, 0.9], atol=0.08)


def test_khat_does_not_change_with_a_constant_or_the_order_and_leaves_its_input():
    ratios = np.random.default_rng(0).standard_t(5, size=1000)
    before = ratios.copy()
    khat = arviz_adapter.psis_khat(ratios)
    assert type(khat) is float
    assert arviz_adapter.psis_khat(ratios[::-1] - 700) == pytest.approx(khat, abs=1e-8)
    np.testing.assert_array_equal(ratios, before)
    assert arviz_adapter.psis_khat(ratios.astype(np.float32)) == pytest.approx(khat, abs=1e-3)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        (np.zeros(1000), -np.inf),
        (np.arange(29.0), np.inf),
        (np.r_[np.arange(999.0), np.nan], np.inf),
        (np.r_[np.arange(999.0), np.inf], np.inf),
        (np.full(1000, -np.inf), np.inf),
        (np.r_[np.arange(300.0), np.full(700, 1e3)], np.inf),
    ],
    ids=["equal", "few", "nan", "infinite", "impossible", "equal tail"],
)
def test_khat_where_there_is_nothing_to_fit(ratios, expected):
    assert arviz_adapter.psis_khat(ratios) == expected


def test_khat_takes_draws_where_the_target_is_zero():
    ratios = np.random.default_rng(0).normal(size=1000)
    ratios[:10] = -np.inf
    assert np.isfinite(arviz_adapter.psis_khat(ratios))


def test_khat_refuses_a_table():
    with pytest.raises(ValueError, match="1 dimension"):
        arviz_adapter.psis_khat(np.zeros((4, 250)))
