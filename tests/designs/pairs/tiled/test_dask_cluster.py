"""A cluster of two worker processes: the picks in memory, and one of them may be killed on the way."""

import logging
import os
import signal
import time

import numpy as np
import pytest

from tercet.datasets import simulated_preferences
from tercet.designs import Tiling, select_pairs
from tercet.designs.pairs.tiled.tiles import Tasks
from tercet.inference import laplace
from tercet.models import BradleyTerry, Items

da, distributed = pytest.importorskip("dask.array"), pytest.importorskip("distributed")
# One pytest worker starts the cluster, once.
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster():
    """Two processes, one thread each, on this machine, and a client that Dask finds."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0",
            memory_limit=0, silence_logs=logging.CRITICAL,
        ) as workers,
        distributed.Client(workers, timeout="60s"),
    ):  # fmt: skip
        yield workers


TILING = Tiling(listed=10, side=16, shortlist=40, tasks=Tasks(tiles=1))


@pytest.fixture
def task(seed):
    """120 items in uneven chunks, many tiles, and a fit."""
    data = simulated_preferences(120, 6, 200, key=seed)
    fit = laplace(BradleyTerry(), data.items, data.comparisons)
    array = da.from_array(data.items.features.astype(np.float32), chunks=((50, 3, 67), 4))
    return data, fit, array


class Killer(distributed.SchedulerPlugin):
    """Kills the worker that finishes the sixth task of tiles, and counts such tasks from then on."""

    name = "killer"

    def __init__(self, pids):
        self.pids, self.seen, self.killed, self.later = pids, 0, None, 0

    def transition(self, key, start, finish, *args, worker=None, **kwargs):
        if not str(key).startswith("_scan") or (start, finish) != ("processing", "memory"):
            return
        self.seen += 1
        if self.killed is not None:
            self.later += 1
        elif self.seen == 6:
            self.killed = self.pids[worker]
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.parametrize("criterion", ["greedy D", "greedy V"])
def test_two_processes_pick_what_memory_picks(criterion, cluster, task):
    data, fit, array = task
    call = {"criterion": criterion, "candidates": "all", "exclude": data.comparisons, "tiling": TILING}
    picked = select_pairs(array, fit, 2, **call)
    expected = select_pairs(Items(data.items.features.astype(np.float32)), fit, 2, **call)
    np.testing.assert_array_equal(picked.chosen, expected.chosen)
    np.testing.assert_allclose(picked.gains, expected.gains, rtol=1e-9)


def test_bad_numbers_in_a_worker_are_told_by_their_rows(cluster, task):
    data, fit, _ = task
    broken = data.items.features.copy()
    broken[60, 2] = np.inf
    with pytest.raises(ValueError, match="Dask array, rows 53 to 119, has NaN or infinite values in 1 row"):
        select_pairs(da.from_array(broken, chunks=((50, 3, 67), 4)), fit, 3, candidates="all", tiling=TILING)


def test_a_killed_worker_costs_no_pick(cluster, task):
    """SIGKILL in the middle of the tiles: what it held is computed again."""
    data, fit, array = task
    killer = Killer(distributed.Client.current().run(os.getpid))
    cluster.scheduler.add_plugin(killer)
    call = {"criterion": "greedy D", "candidates": "all", "tiling": TILING}
    picked = select_pairs(array, fit, 4, **call)
    assert killer.killed is not None
    assert killer.later > 10  # most of the work was still to be done
    until = time.monotonic() + 30
    while _alive(killer.killed) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _alive(killer.killed)
    expected = select_pairs(Items(data.items.features.astype(np.float32)), fit, 4, **call)
    np.testing.assert_array_equal(picked.chosen, expected.chosen)
    np.testing.assert_allclose(picked.gains, expected.gains, rtol=1e-9)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
