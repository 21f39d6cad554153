"""Paths and bands show the numbers they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PathCollection

from tercet.models import Snapshots
from tercet.plots import plot_bands, plot_paths


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture
def cells(rng):
    clouds = [rng.normal(size=(n, 3)) for n in (4, 6, 5)]
    return Snapshots(clouds, [0.0, 1.0, 3.0], ["prey", "predator", "grass"])


def points(axes):
    return [marks for marks in axes.collections if isinstance(marks, PathCollection)]


def test_paths_show_every_particle_at_its_time(ax, cells, rng):
    paths = rng.normal(size=(7, 5, 3))
    assert plot_paths(cells, paths, (0, 2), ax, show=4) is ax
    (marks,) = points(ax)
    np.testing.assert_array_equal(marks.get_offsets(), np.concatenate(cells.particles)[:, [0, 2]])
    np.testing.assert_array_equal(marks.get_array(), np.repeat([0.0, 1.0, 3.0], [4, 6, 5]))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("prey", "grass")
    assert len(ax.lines) == 4
    np.testing.assert_array_equal(ax.lines[3].get_xydata(), paths[3][:, [0, 2]])


def test_bands_show_ends_middle_and_particles(ax, cells, rng):
    times, bands = np.linspace(0.0, 3.0, 9), np.sort(rng.normal(size=(3, 9, 3)), axis=0)
    assert (
        plot_bands(times, bands, 1, snapshots=cells.take([0, 2]), held_out=cells.take([1]), ax=ax, label="90 %") is ax
    )
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([times, bands[1, :, 1]], axis=1))
    edge = ax.collections[0].get_paths()[0].vertices
    for end in (bands[0, :, 1], bands[2, :, 1]):
        assert np.isin(end, edge[:, 1]).all()
    seen, held = points(ax)
    values = np.concatenate([cells.particles[0][:, 1], cells.particles[2][:, 1]])
    np.testing.assert_array_equal(seen.get_offsets(), np.stack([np.repeat([0.0, 3.0], [4, 5]), values], axis=1))
    np.testing.assert_array_equal(held.get_offsets()[:, 1], cells.particles[1][:, 1])
    assert len(held.get_facecolor()) == 0, "held-out particles are hollow"
    assert ax.get_ylabel() == "predator"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["90 %", "observed", "held out"]


def test_a_band_alone_needs_no_legend(ax):
    assert plot_bands([0.0, 1.0], np.zeros((3, 2, 1)), ax=ax).get_legend() is None


@pytest.mark.parametrize("shape", [(3, 4, 2), (2, 5, 2), (3, 5)])
def test_bands_say_what_shape_they_must_have(ax, shape):
    with pytest.raises(ValueError, match=r"bands must be \[3, 5, d\]"):
        plot_bands(np.arange(5.0), np.zeros(shape), ax=ax)


def test_new_figure_where_no_axes_are_given(cells):
    ax = plot_paths(cells)
    assert ax.figure.number in plt.get_fignums()
    plt.close(ax.figure)
