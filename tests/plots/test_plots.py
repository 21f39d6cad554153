"""Pictures show the numbers they were given, on the axes they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from tercet.datasets import american_league_1987
from tercet.inference import ability_table, best_of_n, calibration_curve, laplace
from tercet.models import AbilityHead, BradleyTerry
from tercet.plots import plot_abilities, plot_best_of_n, plot_calibration, plot_learning_curve


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture(scope="module")
def curves():
    rng = np.random.default_rng(0)
    rows = [
        {"criterion": c, "seed": s, "labels": n, "spearman": rng.random()}
        for c in ("greedy V", "random")
        for s in range(3)
        for n in (50, 100, 150)
    ]
    return pd.DataFrame(rows)


def test_learning_curve_shows_means_over_seeds(ax, curves):
    assert plot_learning_curve(curves, "spearman", ax=ax) is ax
    for line, criterion in zip(ax.lines, ("greedy V", "random"), strict=True):
        expected = curves[curves.criterion == criterion].groupby("labels").spearman.mean()
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["greedy V", "random"]
    assert len(ax.collections) == 2, "one band a criterion"


def test_learning_curve_takes_colors_by_name(ax, curves):
    plot_learning_curve(curves, "spearman", ax=ax, colors={"random": "0.25"})
    default, ours = (line.get_color() for line in ax.lines)
    assert ours == "0.25"
    assert default != "0.25"


def test_learning_curve_of_one_seed_has_no_band(ax, curves):
    plot_learning_curve(curves[curves.seed == 0], "spearman", ax=ax)
    assert len(ax.collections) == 0


def test_learning_curve_names_what_it_lacks(curves):
    with pytest.raises(ValueError, match="no column 'speerman'"):
        plot_learning_curve(curves, "speerman")


def test_calibration_shows_the_curve(ax, rng):
    p = rng.random(500)
    y = (rng.random(500) < p).astype(float)
    assert plot_calibration(p, y, bins=5, label="a", ax=ax) is ax
    np.testing.assert_allclose(ax.containers[0].lines[0].get_ydata(), calibration_curve(p, y, 5).observed)
    plot_calibration(p, y, bins=5, label="b", ax=ax)
    colors = {container.lines[0].get_color() for container in ax.containers}
    assert len(colors) == 2, "a second curve has a colour of its own"


@pytest.mark.parametrize("most", [40, 4])
def test_abilities_are_ordered_best_first(ax, most):
    teams, games = american_league_1987()
    table = ability_table(laplace(BradleyTerry(AbilityHead(1.0)), teams, games), teams)
    assert plot_abilities(table, most=most, ax=ax) is ax
    means = ax.lines[0].get_xdata()
    assert len(means) == min(most, 7)
    assert (np.diff(means) <= 0).all()
    assert ax.get_yticklabels()[0].get_text() == "Milwaukee"
    assert ax.get_yticklabels()[-1].get_text() == "Baltimore"


def test_new_figure_where_no_axes_are_given(curves):
    ax = plot_learning_curve(curves, "spearman")
    assert ax.figure.number in plt.get_fignums()
    plt.close(ax.figure)


def test_best_of_n_has_a_line_a_rule(ax, rng):
    gold, prompt = rng.normal(size=60), np.repeat([0, 1], 30)
    results = {
        name: best_of_n(gold + noise * rng.normal(size=60), gold, prompt) for name, noise in (("a", 0.0), ("b", 2.0))
    }
    assert plot_best_of_n(results, ax=ax) is ax
    for line, result in zip(ax.lines, results.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), result.reward)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    with pytest.raises(ValueError, match="nothing to show"):
        plot_best_of_n({})
