"""Work in blocks: every candidate once, in order, and the same numbers with threads as without."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from tercet.datasets import simulated_preferences
from tercet.designs import candidate_pairs, select_pairs
from tercet.inference import laplace
from tercet.models import BradleyTerry, LinearHead
from tercet.models._blocks import BLOCK, SERIAL, in_blocks


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, SERIAL - 1, SERIAL, SERIAL + 5])
def test_every_place_once_and_in_order(size: int) -> None:
    parts = in_blocks(lambda part: np.arange(size)[part], size)
    np.testing.assert_array_equal(np.concatenate([np.empty(0, int), *parts]), np.arange(size))


def test_an_error_in_a_thread_is_raised() -> None:
    def fail(part: slice) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_blocks(fail, SERIAL)


@pytest.mark.parametrize("criterion", ["greedy D", "greedy V", "BALD"])
def test_threads_pick_what_one_thread_picks(criterion: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    data = simulated_preferences(600, 5, 60, key=seed)
    fit = laplace(BradleyTerry(LinearHead(2.0)), data.items, data.comparisons)
    pairs = candidate_pairs(data.items, "random", SERIAL + 1000, key=seed)
    threads = select_pairs(data.items, fit, 4, candidates=pairs, criterion=criterion, key=seed)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    alone = select_pairs(data.items, fit, 4, candidates=pairs, criterion=criterion, key=seed)
    np.testing.assert_array_equal(threads.chosen, alone.chosen)
    np.testing.assert_array_equal(threads.gains, alone.gains)
