"""Compiled programs outlive the process, in the folder asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tercet import enable_compilation_cache

# A link of one's own: JAX compiles its derivatives.
PROGRAM = """
import collections, json, sys
import jax, numpy as np
import tercet

counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.rpartition("/")[2]]))
jax.numpy.arange(3) + 1  # JAX has already decided that it keeps nothing
folder = tercet.enable_compilation_cache(*sys.argv[1:])
counts.clear()

from tercet.models.preferences.links import Link

class Cauchit(Link):
    def log_probability(self, r):
        return jax.numpy.log(0.5 + jax.numpy.arctan(r) / np.pi)

assert np.allclose(Cauchit().score(np.array([0.0]), np.array([1.0])), 2.0 / np.pi)
print(json.dumps({"folder": str(folder), **counts}))
"""


def run(*arguments: str, **environment: str) -> dict[str, int | str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")} | environment
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=settings, capture_output=True, text=True, check=True
    )
    found: dict[str, int | str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    """The folder of the user's caches, which does not exist yet."""
    homes = {name: str(tmp_path / "caches") for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA")}
    first, second = run(**homes), run(**homes)
    assert Path(str(first["folder"])).is_relative_to(tmp_path / "caches")
    assert first["cache_misses"] > 0
    assert second.get("cache_misses", 0) == 0
    assert second["cache_hits"] == first["cache_misses"] + first.get("cache_hits", 0)


def test_a_folder_that_cannot_be_written_to_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = dict(jax.config.values)
    with pytest.raises(
        OSError, match=r"the folder for compiled programs, .*file.jax, cannot be written to .*give enab"
    ):
        enable_compilation_cache(tmp_path / "file" / "jax")
    assert dict(jax.config.values) == before


def test_the_folder_that_jax_is_set_to_use_stays() -> None:
    """That of these tests."""
    assert enable_compilation_cache() == Path(jax.config.jax_compilation_cache_dir)
